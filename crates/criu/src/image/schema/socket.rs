//! Sockets and what is in their queues (CRIU 4.2: `images/sk-opts.proto`, `images/sk-inet.proto`,
//! `images/sk-unix.proto`, `images/sk-netlink.proto`, `images/packet-sock.proto`, `images/sk-packet.proto`,
//! `images/tcp-stream.proto`).

use super::file::fown_entry;
use super::words::{FAMILY, PROTOCOL, STATE, TYPE};
use super::{enumerations, messages};

enumerations! {
    sk_shutdown {
        0 NONE; 1 READ; 2 WRITE; 3 BOTH;
    }
}

messages! {
    sk_opts_entry {
        1 so_sndbuf! u32;
        2 so_rcvbuf! u32;
        3 so_snd_tmo_sec! u64;
        4 so_snd_tmo_usec! u64;
        5 so_rcv_tmo_sec! u64;
        6 so_rcv_tmo_usec! u64;
        7 reuseaddr? flag;
        8 so_priority? u32;
        9 so_rcvlowat? u32;
        10 so_mark? u32;
        11 so_passcred? flag;
        12 so_passsec? flag;
        13 so_dontroute? flag;
        14 so_no_check? flag;
        15 so_bound_dev? text;
        16 so_filter* x64;
        17 so_reuseport? flag;
        18 so_broadcast? flag;
        19 so_keepalive? flag;
        20 tcp_keepcnt? u32;
        21 tcp_keepidle? u32;
        22 tcp_keepintvl? u32;
        23 so_oobinline? u32;
        24 so_linger? u32;
        25 so_buf_lock? u32;
    }
    ip_opts_raw_entry {
        1 hdrincl? flag;
        2 nodefrag? flag;
        3 checksum? flag;
        4 icmpv_filter* u32;
    }
    ip_opts_entry {
        1 freebind? flag;
        4 raw? message(ip_opts_raw_entry);
        5 pktinfo? flag;
        6 tos? u32;
        7 ttl? u32;
    }
    inet_sk_entry {
        1 id! u32;
        2 ino! u32;
        3 family! u32 as words(FAMILY);
        4 type! u32 as words(TYPE);
        5 proto! u32 as words(PROTOCOL);
        6 state! u32 as words(STATE);
        7 src_port! u32;
        8 dst_port! u32;
        9 flags! u32 as hex;
        10 backlog! u32;
        11 src_addr* u32 as address;
        12 dst_addr* u32 as address;
        13 fown! message(fown_entry);
        14 opts! message(sk_opts_entry);
        15 v6only? flag;
        16 ip_opts? message(ip_opts_entry);
        17 ifname? text;
        18 ns_id? u32;
        19 shutdown? one_of(sk_shutdown);
        20 tcp_opts? message(tcp_opts_entry);
    }
    file_perms_entry {
        1 mode! u32;
        2 uid! u32;
        3 gid! u32;
    }
    unix_sk_entry {
        1 id! u32;
        2 ino! u32;
        3 type! u32 as words(TYPE);
        4 state! u32 as words(STATE);
        5 flags! u32 as hex;
        6 uflags! u32 as hex;
        7 backlog! u32;
        8 peer! u32;
        9 fown! message(fown_entry);
        10 opts! message(sk_opts_entry);
        11 name! bytes as quoted;
        12 shutdown? one_of(sk_shutdown);
        13 file_perms? message(file_perms_entry);
        14 name_dir? text;
        15 deleted? flag;
        16 ns_id? u32;
        17 mnt_id? s32;
    }
    netlink_sk_entry {
        1 id! u32;
        2 ino! u32;
        3 protocol! u32;
        4 state! u32;
        6 flags! u32 as hex;
        7 portid! u32;
        8 groups* u32;
        9 dst_portid! u32;
        10 dst_group! u32;
        11 fown! message(fown_entry);
        12 opts! message(sk_opts_entry);
        13 ns_id? u32;
    }
    packet_mclist {
        1 index! u32;
        2 type! u32;
        3 addr! bytes;
    }
    packet_ring {
        1 block_size! u32;
        2 block_nr! u32;
        3 frame_size! u32;
        4 frame_nr! u32;
        5 retire_tmo! u32;
        6 sizeof_priv! u32;
        7 features! u32;
    }
    packet_sock_entry {
        1 id! u32;
        2 type! u32;
        3 protocol! u32;
        4 flags! u32 as hex;
        5 ifindex! u32;
        6 fown! message(fown_entry);
        7 opts! message(sk_opts_entry);
        8 version! u32;
        9 reserve! u32;
        10 aux_data! flag;
        11 orig_dev! flag;
        12 vnet_hdr! flag;
        13 loss! flag;
        14 timestamp! u32;
        15 copy_thresh! u32;
        16 mclist* message(packet_mclist);
        17 fanout? u32;
        18 rx_ring? message(packet_ring);
        19 tx_ring? message(packet_ring);
        20 ns_id? u32;
    }
    scm_entry {
        1 type! u32;
        2 rights* u32;
    }
    sk_packet_entry {
        1 id_for! u32;
        2 length! u32;
        4 scm* message(scm_entry);
    }
    tcp_opts_entry {
        1 cork? flag;
        2 nodelay? flag;
        3 keepcnt? u32;
        4 keepidle? u32;
        5 keepintvl? u32;
    }
    tcp_stream_entry {
        1 inq_len! u32;
        2 inq_seq! u32;
        3 outq_len! u32;
        4 outq_seq! u32;
        5 opt_mask! u32 as hex;
        6 snd_wscale! u32;
        7 mss_clamp! u32;
        8 rcv_wscale? u32;
        9 timestamp? u32;
        10 cork? flag;
        11 nodelay? flag;
        12 unsq_len? u32;
        13 snd_wl1? u32;
        14 snd_wnd? u32;
        15 max_window? u32;
        16 rcv_wnd? u32;
        17 rcv_wup? u32;
    }
}
