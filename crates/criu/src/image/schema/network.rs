//! Network devices and settings (CRIU 4.2: `images/netdev.proto`, `images/tun.proto`, `images/sit.proto`,
//! `images/macvlan.proto`, `images/sysctl.proto`).

use super::{enumerations, messages};

enumerations! {
    nd_type {
        1 LOOPBACK; 2 VETH; 3 TUN; 4 EXTLINK; 5 VENET; 6 BRIDGE; 7 MACVLAN; 8 SIT;
    }
    SysctlType {
        5 CTL_STR; 6 CTL_32;
    }
}

messages! {
    net_device_entry {
        1 type! one_of(nd_type);
        2 ifindex! u32;
        3 mtu! u32;
        4 flags! u32 as hex;
        5 name! text;
        6 tun? message(tun_link_entry);
        7 address? bytes;
        8 conf* i32;
        9 conf4* message(sysctl_entry);
        10 conf6* message(sysctl_entry);
        11 macvlan? message(macvlan_link_entry);
        12 peer_ifindex? u32;
        13 peer_nsid? u32;
        14 master? u32;
        15 sit? message(sit_entry);
    }
    netns_id {
        1 target_ns_id! u32;
        2 netnsid_value! i32;
    }
    netns_entry {
        1 def_conf* i32;
        2 all_conf* i32;
        3 def_conf4* message(sysctl_entry);
        4 all_conf4* message(sysctl_entry);
        5 def_conf6* message(sysctl_entry);
        6 all_conf6* message(sysctl_entry);
        7 nsids* message(netns_id);
        8 ext_key? text;
        9 unix_conf* message(sysctl_entry);
        10 ipv4_sysctl* message(sysctl_entry);
    }
    tunfile_entry {
        1 id! u32;
        2 netdev? text;
        3 detached? flag;
        4 ns_id? u32;
    }
    tun_link_entry {
        1 flags! u32 as hex;
        2 owner! i32;
        3 group! i32;
        4 vnethdr! u32;
        5 sndbuf! u32;
    }
    sit_entry {
        1 link? u32;
        2 local* u32 as address;
        3 remote* u32 as address;
        4 ttl? u32;
        5 tos? u32;
        6 pmtudisc? flag;
        7 proto? u32;
        8 flags? u32;
        9 encap_type? u32;
        10 encap_flags? u32;
        11 encap_sport? u32;
        12 encap_dport? u32;
        13 rd_prefixlen? u32;
        14 rd_prefix* u32 as address;
        15 relay_prefixlen? u32;
        16 relay_prefix* u32 as address;
    }
    macvlan_link_entry {
        1 mode! u32;
        2 flags? u32;
    }
    sysctl_entry {
        1 type! one_of(SysctlType);
        2 iarg? i32;
        3 sarg? text;
    }
}
