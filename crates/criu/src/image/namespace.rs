//! Namespaces (CRIU `images/timens.proto`, `pidns.proto`, `utsns.proto`, `userns.proto`, `mnt.proto`, `netdev.proto`).

use prost::Message;

use super::records;

/// `timens-ID.img`: the clocks of a time namespace, as its processes saw them when they were frozen.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TimeNamespace {
    /// `CLOCK_MONOTONIC`.
    #[prost(message, required, tag = "1")]
    pub monotonic: Timespec,
    /// `CLOCK_BOOTTIME`.
    #[prost(message, required, tag = "2")]
    pub boottime: Timespec,
}

/// A time.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Timespec {
    /// Seconds.
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    /// Nanoseconds.
    #[prost(uint64, required, tag = "2")]
    pub tv_nsec: u64,
}

/// `pidns-ID.img`: a PID namespace that someone else provides.
#[derive(Clone, PartialEq, Message)]
pub struct PidNamespace {
    /// The name under which a restore finds it among its inherited descriptors.
    #[prost(string, optional, tag = "1")]
    pub ext_key: Option<String>,
}

/// `netns-ID.img`: a network namespace, as far as it matters here whose it is.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkNamespace {
    /// The name under which a restore finds it among its inherited descriptors, where someone else provides it.
    #[prost(string, optional, tag = "8")]
    pub ext_key: Option<String>,
}

/// `utsns-ID.img`.
#[derive(Clone, PartialEq, Message)]
pub struct UtsNamespace {
    /// Host name.
    #[prost(string, required, tag = "1")]
    pub nodename: String,
    /// NIS domain.
    #[prost(string, required, tag = "2")]
    pub domainname: String,
}

/// `userns-ID.img`.
#[derive(Clone, PartialEq, Message)]
pub struct UserNamespace {
    /// Users inside to users outside.
    #[prost(message, repeated, tag = "1")]
    pub uid_map: Vec<IdRange>,
    /// Groups inside to groups outside.
    #[prost(message, repeated, tag = "2")]
    pub gid_map: Vec<IdRange>,
}

/// A range of users or groups.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct IdRange {
    /// First id inside.
    #[prost(uint32, required, tag = "1")]
    pub first: u32,
    /// First id outside.
    #[prost(uint32, required, tag = "2")]
    pub lower_first: u32,
    /// How many.
    #[prost(uint32, required, tag = "3")]
    pub count: u32,
}

/// `mountpoints-ID.img`: one mount of a mount namespace.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// File system, by CRIU's number; [`file_system`](Self::file_system) has its name.
    #[prost(uint32, required, tag = "1")]
    pub fstype: u32,
    /// Its id when dumped.
    #[prost(uint32, required, tag = "2")]
    pub mnt_id: u32,
    /// Device of its root.
    #[prost(uint32, required, tag = "3")]
    pub root_dev: u32,
    /// The mount it is on.
    #[prost(uint32, required, tag = "4")]
    pub parent_mnt_id: u32,
    /// Flags, as in mount(2).
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// What of its file system is mounted.
    #[prost(string, required, tag = "6")]
    pub root: String,
    /// Where it is mounted.
    #[prost(string, required, tag = "7")]
    pub mountpoint: String,
    /// What was given as its source.
    #[prost(string, required, tag = "8")]
    pub source: String,
    /// Options of its file system.
    #[prost(string, required, tag = "9")]
    pub options: String,
    /// The group it shares events with.
    #[prost(uint32, optional, tag = "10")]
    pub shared_id: Option<u32>,
    /// The group it receives events from.
    #[prost(uint32, optional, tag = "11")]
    pub master_id: Option<u32>,
    /// A plugin takes care of it.
    #[prost(bool, optional, tag = "12")]
    pub with_plugin: Option<bool>,
    /// It comes from outside.
    #[prost(bool, optional, tag = "13")]
    pub ext_mount: Option<bool>,
    /// Its file system's name.
    #[prost(string, optional, tag = "14")]
    pub fsname: Option<String>,
    /// Its group has members in the namespace only.
    #[prost(bool, optional, tag = "15")]
    pub internal_sharing: Option<bool>,
    /// What is mounted was removed.
    #[prost(bool, optional, tag = "16")]
    pub deleted: Option<bool>,
    /// Flags of its superblock.
    #[prost(uint32, optional, tag = "17")]
    pub sb_flags: Option<u32>,
    /// The name under which a restore says where it comes from.
    #[prost(string, optional, tag = "18")]
    pub ext_key: Option<String>,
}

/// `netdev-ID.img`: one network device.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkDevice {
    /// Its type, by CRIU's number (1 loopback, 2 veth, 3 tunnel, 4 from outside, 6 bridge, 7 macvlan, 8 sit).
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// Its number.
    #[prost(uint32, required, tag = "2")]
    pub ifindex: u32,
    /// Largest packet, in bytes.
    #[prost(uint32, required, tag = "3")]
    pub mtu: u32,
    /// Flags, as in netdevice(7).
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// Its name.
    #[prost(string, required, tag = "5")]
    pub name: String,
    /// Its hardware address.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub address: Option<Vec<u8>>,
}

/// File systems by CRIU's numbers (CRIU `images/mnt.proto`).
const FILE_SYSTEMS: [&str; 24] = [
    UNKNOWN,
    "proc",
    "sysfs",
    "devtmpfs",
    "binfmt_misc",
    "tmpfs",
    "devpts",
    "simfs",
    "pstore",
    "securityfs",
    "fusectl",
    "debugfs",
    "cgroup",
    "aufs",
    "mqueue",
    "fuse",
    "auto",
    "overlay",
    "autofs",
    "tracefs",
    "rpc_pipefs",
    "nfs",
    "nfs4",
    "cgroup2",
];
const UNKNOWN: &str = "unknown";

impl Mount {
    /// The file system's name by its number: `unknown` where CRIU had none for it, `auto` where the image has its name.
    #[must_use]
    pub fn file_system(&self) -> &'static str {
        FILE_SYSTEMS.get(self.fstype as usize).copied().unwrap_or(UNKNOWN)
    }
}

records! {
    NetworkDevice => NetworkDevices,
    TimeNamespace => TimeNamespace,
    PidNamespace => PidNamespace,
    NetworkNamespace => NetworkNamespace,
    UtsNamespace => UtsNamespace,
    UserNamespace => UserNamespace,
    Mount => Mounts,
}
