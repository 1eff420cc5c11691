//! `criu_opts`: what a request may set. One table declares the fields and how they are recorded.

use super::{CgroupMode, CompressMode, NetworkLock, PageServerInfo, PreDumpMode};

/// A pair of virtual Ethernet devices (`criu_veth_pair`; CRIU calls it deprecated in favour of `external`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct VethPair {
    /// The device inside.
    #[prost(string, required, tag = "1")]
    pub if_in: String,
    /// The device outside.
    #[prost(string, required, tag = "2")]
    pub if_out: String,
}

/// An external mount (`ext_mount_map`; deprecated in favour of `external`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ExtMountMap {
    /// The mount point when dumping, the key when restoring.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// The key when dumping, the mount's source when restoring.
    #[prost(string, required, tag = "2")]
    pub val: String,
}

/// A namespace that exists and is joined at a restore (`join_namespace`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct JoinNamespace {
    /// `net`, `ipc`, `uts`, `time`, `user`, `mnt`.
    #[prost(string, required, tag = "1")]
    pub ns: String,
    /// The namespace's file, or a PID.
    #[prost(string, required, tag = "2")]
    pub ns_file: String,
    /// With `user`: `UID,GID` to take on.
    #[prost(string, optional, tag = "3")]
    pub extra_opt: Option<String>,
}

/// A descriptor of CRIU's that takes the place of one in the images (`inherit_fd`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct InheritFd {
    /// The resource, such as `pipe:[1234]`, `tty[8f:1]` or a path without its leading slash.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// The descriptor's number within CRIU.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// Where a control group's tree starts (`cgroup_root`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CgroupRoot {
    /// The controller; all when unset.
    #[prost(string, optional, tag = "1")]
    pub ctrl: Option<String>,
    /// The new root.
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// A Unix socket whose peer is outside of the dump (`unix_sk`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct UnixSk {
    /// The socket's inode.
    #[prost(uint32, required, tag = "1")]
    pub inode: u32,
}

/// How a field's value is written into a record of what CRIU was given.
trait Recorded {
    fn record(&self) -> Vec<String>;
}

macro_rules! recorded_as_shown {
    ($($ty:ty),*) => {
        $(impl Recorded for $ty {
            fn record(&self) -> Vec<String> {
                vec![self.to_string()]
            }
        })*
    };
}
recorded_as_shown!(bool, i32, u32, String);

macro_rules! recorded_as {
    ($($ty:ty: |$value:ident| $record:expr),* $(,)?) => {
        $(impl Recorded for $ty {
            fn record(&self) -> Vec<String> {
                let $value = self;
                vec![$record]
            }
        })*
    };
}
recorded_as! {
    VethPair: |v| format!("{}={}", v.if_in, v.if_out),
    ExtMountMap: |m| format!("{}:{}", m.key, m.val),
    JoinNamespace: |j| match &j.extra_opt {
        Some(extra) => format!("{}:{},{extra}", j.ns, j.ns_file),
        None => format!("{}:{}", j.ns, j.ns_file),
    },
    InheritFd: |i| format!("fd[{}]:{}", i.fd, i.key),
    CgroupRoot: |c| match &c.ctrl {
        Some(ctrl) => format!("{ctrl}:{}", c.path),
        None => c.path.clone(),
    },
    UnixSk: |u| u.inode.to_string(),
    PageServerInfo: |p| match (p.fd, &p.address, p.port) {
        (Some(fd), ..) => format!("fd[{fd}]"),
        (None, Some(address), Some(port)) => format!("{address}:{port}"),
        (None, address, port) => format!("{}:{}", address.as_deref().unwrap_or(""), port.unwrap_or(0)),
    },
}

impl<T: Recorded> Recorded for Option<T> {
    fn record(&self) -> Vec<String> {
        self.as_ref().map(Recorded::record).unwrap_or_default()
    }
}

impl<T: Recorded> Recorded for Vec<T> {
    fn record(&self) -> Vec<String> {
        self.iter().flat_map(Recorded::record).collect()
    }
}

macro_rules! opts {
    ($($(#[doc = $doc:literal])* $name:ident: $ty:ty = $attr:tt;)*) => {
        /// Options of a request (`criu_opts`), all fields of CRIU 4.2 and those of 4.3 (72 to 76).
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Opts {
            $($(#[doc = $doc])* #[prost $attr] pub $name: $ty,)*
        }

        impl Opts {
            /// What is set, as pairs of the field's name and its value; a repeated field gives several.
            #[must_use]
            pub fn record(&self) -> Vec<(String, String)> {
                let mut pairs = Vec::new();
                $(pairs.extend(self.$name.record().into_iter().map(|v| (stringify!($name).to_owned(), v)));)*
                pairs
            }
        }
    };
}

opts! {
    /// The directory of the images, by its descriptor in the asking process; -1 when `images_dir` names it.
    images_dir_fd: i32 = (int32, required, tag = "1", default = "-1");
    /// The root of the tree to dump. CRIU dumps the asking process when unset.
    pid: Option<i32> = (int32, optional, tag = "2");
    /// The tree runs on after the dump.
    leave_running: Option<bool> = (bool, optional, tag = "3");
    /// Unix sockets may have peers outside.
    ext_unix_sk: Option<bool> = (bool, optional, tag = "4");
    /// Established TCP connections are dumped and restored.
    tcp_established: Option<bool> = (bool, optional, tag = "5");
    /// Device files are looked up by another name if theirs is gone.
    evasive_devices: Option<bool> = (bool, optional, tag = "6");
    /// The tree shares its session and terminal with somebody outside.
    shell_job: Option<bool> = (bool, optional, tag = "7");
    /// File locks are dumped.
    file_locks: Option<bool> = (bool, optional, tag = "8");
    /// 0 silent, 1 errors, 2 warnings, 3 information, 4 debugging.
    log_level: Option<i32> = (int32, optional, tag = "9", default = "2");
    /// The log's name within the work directory.
    log_file: Option<String> = (string, optional, tag = "10");
    /// The page server to which memory is sent.
    ps: Option<PageServerInfo> = (message, optional, tag = "11");
    /// Send notifications.
    notify_scripts: Option<bool> = (bool, optional, tag = "12");
    /// The root directory of the restored tree.
    root: Option<String> = (string, optional, tag = "13");
    /// The previous images, relative to the images directory.
    parent_img: Option<String> = (string, optional, tag = "14");
    /// Track changes of memory for a later dump.
    track_mem: Option<bool> = (bool, optional, tag = "15");
    /// Punch pages that a child image has out of its parent.
    auto_dedup: Option<bool> = (bool, optional, tag = "16");
    /// The directory for logs and statistics, by its descriptor in the asking process.
    work_dir_fd: Option<i32> = (int32, optional, tag = "17");
    /// Deleted files may be linked back under a temporary name.
    link_remap: Option<bool> = (bool, optional, tag = "18");
    /// Pairs of virtual Ethernet devices (deprecated).
    veths: Vec<VethPair> = (message, repeated, tag = "19");
    /// What of the CPU must match: a set of bits, 1 FPU, 2 all of it, 4 instructions, 8 by image.
    cpu_cap: Option<u32> = (uint32, optional, tag = "20", default = "4294967295");
    /// Always resolve inotify handles by scanning.
    force_irmap: Option<bool> = (bool, optional, tag = "21");
    /// What CRIU becomes after a restore.
    exec_cmd: Vec<String> = (string, repeated, tag = "22");
    /// External mounts (deprecated).
    ext_mnt: Vec<ExtMountMap> = (message, repeated, tag = "23");
    /// Control groups in soft mode, or ignored (superseded by `manage_cgroups_mode`).
    manage_cgroups: Option<bool> = (bool, optional, tag = "24");
    /// New roots for control groups.
    cg_root: Vec<CgroupRoot> = (message, repeated, tag = "25");
    /// The restored root becomes the asking process' child (`swrk` only).
    rst_sibling: Option<bool> = (bool, optional, tag = "26");
    /// Descriptors that replace some in the images (`swrk` only).
    inherit_fd: Vec<InheritFd> = (message, repeated, tag = "27");
    /// Bind mounts from outside are found by themselves.
    auto_ext_mnt: Option<bool> = (bool, optional, tag = "28");
    /// External mounts may be shared.
    ext_sharing: Option<bool> = (bool, optional, tag = "29");
    /// External mounts may be slaves.
    ext_masters: Option<bool> = (bool, optional, tag = "30");
    /// Mount points to leave out.
    skip_mnt: Vec<String> = (string, repeated, tag = "31");
    /// File systems without special treatment that may be dumped nevertheless.
    enable_fs: Vec<String> = (string, repeated, tag = "32");
    /// Unix sockets with peers outside (deprecated).
    unix_sk_ino: Vec<UnixSk> = (message, repeated, tag = "33");
    /// How control groups are treated.
    manage_cgroups_mode: Option<i32> = (enumeration = "CgroupMode", optional, tag = "34");
    /// The largest deleted file that is put into the images, in bytes.
    ghost_limit: Option<u32> = (uint32, optional, tag = "35", default = "1048576");
    /// Where to look for the paths of inotify handles.
    irmap_scan_paths: Vec<String> = (string, repeated, tag = "36");
    /// External resources, such as `mnt[/data]:data` or `net[4026531840]:outer`.
    external: Vec<String> = (string, repeated, tag = "37");
    /// Namespaces that are restored empty: `CLONE_NEWNET` or nothing.
    empty_ns: Option<u32> = (uint32, optional, tag = "38");
    /// Namespaces to join at a restore.
    join_ns: Vec<JoinNamespace> = (message, repeated, tag = "39");
    /// Descriptions of control group properties.
    cgroup_props: Option<String> = (string, optional, tag = "41");
    /// A file of such descriptions.
    cgroup_props_file: Option<String> = (string, optional, tag = "42");
    /// Controllers whose properties are dumped.
    cgroup_dump_controller: Vec<String> = (string, repeated, tag = "43");
    /// The freezer control group that holds the tree.
    freeze_cgroup: Option<String> = (string, optional, tag = "44");
    /// Seconds within which the tasks must have been stopped; 10 when unset.
    timeout: Option<u32> = (uint32, optional, tag = "45");
    /// Connections that are being set up are left out.
    tcp_skip_in_flight: Option<bool> = (bool, optional, tag = "46");
    /// Sysctls that the kernel lacks are passed over.
    weak_sysctls: Option<bool> = (bool, optional, tag = "47");
    /// Memory is delivered on demand.
    lazy_pages: Option<bool> = (bool, optional, tag = "48");
    /// A descriptor that is written to when the server is ready (obsolete).
    status_fd: Option<i32> = (int32, optional, tag = "49");
    /// Send the masters of orphaned terminals by notification.
    orphan_pts_master: Option<bool> = (bool, optional, tag = "50");
    /// A configuration file that overrules these options.
    config_file: Option<String> = (string, optional, tag = "51");
    /// Connections are closed.
    tcp_close: Option<bool> = (bool, optional, tag = "52");
    /// The security profile to restore with, such as `apparmor:name`.
    lsm_profile: Option<String> = (string, optional, tag = "53");
    /// TLS: the authority.
    tls_cacert: Option<String> = (string, optional, tag = "54");
    /// TLS: the revocation list.
    tls_cacrl: Option<String> = (string, optional, tag = "55");
    /// TLS: the certificate.
    tls_cert: Option<String> = (string, optional, tag = "56");
    /// TLS: the key.
    tls_key: Option<String> = (string, optional, tag = "57");
    /// TLS to the page server.
    tls: Option<bool> = (bool, optional, tag = "58");
    /// TLS: do not hold the name against the certificate.
    tls_no_cn_verify: Option<bool> = (bool, optional, tag = "59");
    /// Where control groups are mounted.
    cgroup_yard: Option<String> = (string, optional, tag = "60");
    /// How a pre-dump reads memory.
    pre_dump_mode: Option<i32> = (enumeration = "PreDumpMode", optional, tag = "61", default = "Splice");
    /// A socket that keeps pidfds between pre-dumps, by its descriptor in the asking process.
    pidfd_store_sk: Option<i32> = (int32, optional, tag = "62");
    /// The SELinux context of restored mounts.
    lsm_mount_context: Option<String> = (string, optional, tag = "63");
    /// How the network is locked during a dump.
    network_lock: Option<i32> = (enumeration = "NetworkLock", optional, tag = "64", default = "Iptables");
    /// The older mount engine.
    mntns_compat_mode: Option<bool> = (bool, optional, tag = "65");
    /// Modes of files may differ from what they were.
    skip_file_rwx_check: Option<bool> = (bool, optional, tag = "66");
    /// CRIU runs with few capabilities.
    unprivileged: Option<bool> = (bool, optional, tag = "67");
    /// The directory of the images by its path, when `images_dir_fd` is -1.
    images_dir: Option<String> = (string, optional, tag = "68");
    /// The tree stays stopped.
    leave_stopped: Option<bool> = (bool, optional, tag = "69");
    /// Print statistics.
    display_stats: Option<bool> = (bool, optional, tag = "70");
    /// The log goes to standard error.
    log_to_stderr: Option<bool> = (bool, optional, tag = "71");
    /// 4.3: how images are written, by CRIU's own number.
    image_io_mode: Option<i32> = (int32, optional, tag = "72");
    /// 4.3: how pages are compressed.
    compress: Option<i32> = (enumeration = "CompressMode", optional, tag = "73");
    /// 4.3: speed against size.
    compress_acceleration: Option<u32> = (uint32, optional, tag = "74");
    /// 4.3: bytes of a region.
    compress_region_size: Option<u32> = (uint32, optional, tag = "75");
    /// 4.3: threads that decompress.
    decompress_threads: Option<u32> = (uint32, optional, tag = "76");
}
