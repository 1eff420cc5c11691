//! What CRIU is asked to do, as typed options that become fields of the RPC interface.
//!
//! Options are values: they are decided first, can be [recorded](DumpOptions::record) and only then given to a
//! [`Session`](crate::session::Session). What the RPC interface has no field for goes into a configuration file that
//! the session generates ([`Config`]).

mod config;
mod dump;
mod restore;

pub use config::{Config, ExpertError, ExpertOption, FileValidation};
pub use dump::{AfterDump, DumpOptions, PageTarget};
pub use restore::{AfterRestore, RestoreOptions};

use std::path::PathBuf;

use crate::rpc::{CgroupMode, CgroupRoot, ExtMountMap, NetworkLock, Opts};

/// How much CRIU logs. Each level contains those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing but messages.
    Silent = 0,
    /// Errors.
    Error = 1,
    /// Warnings.
    Warn = 2,
    /// What CRIU does; what the diagnosis reads.
    #[default]
    Info = 3,
    /// Everything; costs time while the program is frozen.
    Debug = 4,
}

/// What of the CPU CRIU holds against the images: bits of `cpu_cap` (CRIU, `criu/include/cr_options.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCheck(u32);

impl CpuCheck {
    /// Nothing is checked.
    pub const NONE: Self = Self(0);
    /// The state of the floating point unit fits.
    pub const FPU: Self = Self(1);
    /// All features are the same.
    pub const ALL: Self = Self(1 | 2 | 4);
    /// All instructions that there were are there; CRIU's default together with [`Self::FPU`].
    pub const INSTRUCTIONS: Self = Self(4);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// What happens to TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tcp {
    /// An established connection makes the dump fail.
    #[default]
    Fail,
    /// Connections are kept.
    Established,
    /// Connections are closed: the program finds them reset.
    Close,
}

/// Options that dumps and restores share.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// The directory of the images; it must exist.
    pub images_dir: PathBuf,
    /// The directory of the log and the statistics; the images' when unset.
    pub work_dir: Option<PathBuf>,
    /// The log's name within the work directory; CRIU's own choice is `criu.log`.
    pub log_file: Option<String>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// The root directory of the tree's mount namespace.
    pub root: Option<PathBuf>,
    /// External resources: `mnt[/path]:key` at a dump, `mnt[key]:/source` at a restore, `net[inode]:key`, `dev[…]`,
    /// `file[…]`, `tty[…]`, `unix[…]`, `pid[inode]:key`, `veth[in]:out@bridge`.
    pub external: Vec<String>,
    /// Connections.
    pub tcp: Tcp,
    /// Connections that are being set up are left out instead of making the dump fail.
    pub tcp_skip_in_flight: bool,
    /// Unix sockets may have peers outside of the tree.
    pub ext_unix_sockets: bool,
    /// The tree's session or terminal belongs to somebody outside.
    pub shell_job: bool,
    /// Locks on files are kept.
    pub file_locks: bool,
    /// Files deleted but open may be linked back under a temporary name while images exist.
    pub link_remap: bool,
    /// Devices may be found under another path.
    pub evasive_devices: bool,
    /// Sysctls that this kernel lacks are passed over.
    pub weak_sysctls: bool,
    /// Handles of inotify are always resolved by scanning.
    pub force_irmap: bool,
    /// Where to scan for the paths of inotify handles.
    pub irmap_scan_paths: Vec<String>,
    /// Modes of files may differ from what they were.
    pub skip_file_rwx_check: bool,
    /// Control groups; CRIU's default is not to touch them.
    pub cgroups: Option<CgroupMode>,
    /// New roots of control groups.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// Descriptions of properties of control groups.
    pub cgroup_props: Option<String>,
    /// A file of such descriptions.
    pub cgroup_props_file: Option<String>,
    /// Controllers whose properties are kept.
    pub cgroup_dump_controllers: Vec<String>,
    /// Where control groups are mounted already.
    pub cgroup_yard: Option<PathBuf>,
    /// What of the CPU must match; CRIU's default is [`CpuCheck::FPU`] and [`CpuCheck::INSTRUCTIONS`].
    pub cpu: Option<CpuCheck>,
    /// File systems without special treatment that may be there nevertheless; `all` for every one.
    pub enable_fs: Vec<String>,
    /// Mount points to leave out.
    pub skip_mounts: Vec<String>,
    /// Bind mounts from outside are found by themselves.
    pub auto_ext_mounts: bool,
    /// Mounts found that way may be shared.
    pub ext_sharing: bool,
    /// Mounts found that way may be slaves.
    pub ext_masters: bool,
    /// External mounts in the older form; `external` supersedes it.
    pub ext_mounts: Vec<ExtMountMap>,
    /// The network namespace is restored empty, for somebody else to fill.
    pub empty_net: bool,
    /// Memory is delivered on demand.
    pub lazy_pages: bool,
    /// A security profile to restore with, such as `apparmor:name` or `selinux:context`.
    pub lsm_profile: Option<String>,
    /// The SELinux context of mounts.
    pub lsm_mount_context: Option<String>,
    /// How the network is locked at a dump; a restore takes the method from the images.
    pub network_lock: Option<NetworkLock>,
    /// CRIU works with `CAP_CHECKPOINT_RESTORE` and few others.
    pub unprivileged: bool,
    /// Statistics are printed.
    pub display_stats: bool,
    /// The log goes to CRIU's standard error.
    pub log_to_stderr: bool,
    /// Options without a field, from experts, or from a configuration file.
    pub config: Config,
}

impl Common {
    /// Options for images in `images_dir`, all else as CRIU does it.
    #[must_use]
    pub fn new(images_dir: impl Into<PathBuf>) -> Self {
        Self { images_dir: images_dir.into(), ..Self::default() }
    }

    /// The fields of the RPC interface, without directories and configuration file.
    pub(crate) fn opts(&self) -> Opts {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        Opts {
            log_level: Some(self.log_level as i32),
            log_file: self.log_file.clone(),
            root: path(&self.root),
            external: self.external.clone(),
            tcp_established: set(self.tcp == Tcp::Established),
            tcp_close: set(self.tcp == Tcp::Close),
            tcp_skip_in_flight: set(self.tcp_skip_in_flight),
            ext_unix_sk: set(self.ext_unix_sockets),
            shell_job: set(self.shell_job),
            file_locks: set(self.file_locks),
            link_remap: set(self.link_remap),
            evasive_devices: set(self.evasive_devices),
            weak_sysctls: set(self.weak_sysctls),
            force_irmap: set(self.force_irmap),
            irmap_scan_paths: self.irmap_scan_paths.clone(),
            skip_file_rwx_check: set(self.skip_file_rwx_check),
            manage_cgroups_mode: self.cgroups.map(|mode| mode as i32),
            cg_root: self.cgroup_roots.clone(),
            cgroup_props: self.cgroup_props.clone(),
            cgroup_props_file: self.cgroup_props_file.clone(),
            cgroup_dump_controller: self.cgroup_dump_controllers.clone(),
            cgroup_yard: path(&self.cgroup_yard),
            cpu_cap: self.cpu.map(CpuCheck::bits),
            enable_fs: self.enable_fs.clone(),
            skip_mnt: self.skip_mounts.clone(),
            auto_ext_mnt: set(self.auto_ext_mounts),
            ext_sharing: set(self.ext_sharing),
            ext_masters: set(self.ext_masters),
            ext_mnt: self.ext_mounts.clone(),
            empty_ns: self.empty_net.then_some(CLONE_NEWNET),
            lazy_pages: set(self.lazy_pages),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            network_lock: self.config.network_lock().or(self.network_lock).map(|method| method as i32),
            unprivileged: set(self.unprivileged),
            display_stats: set(self.display_stats),
            log_to_stderr: set(self.log_to_stderr),
            notify_scripts: Some(true),
            ..Opts::default()
        }
    }

    fn record(&self, opts: &Opts) -> Vec<(String, String)> {
        let mut pairs = vec![("images_dir".to_owned(), self.images_dir.display().to_string())];
        pairs.extend(self.work_dir.iter().map(|dir| ("work_dir".to_owned(), dir.display().to_string())));
        // -1 stands for the directory that the session opens, and says nothing.
        pairs.extend(opts.record().into_iter().filter(|(name, _)| name != "images_dir_fd"));
        pairs.extend(self.config.record());
        pairs
    }
}

const CLONE_NEWNET: u32 = libc::CLONE_NEWNET as u32;

fn set(flag: bool) -> Option<bool> {
    flag.then_some(true)
}

/// Options of a check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Where a log is written; CRIU before 4.2 needs it.
    pub images_dir: Option<PathBuf>,
    /// The log's name; standard error when unset.
    pub log_file: Option<String>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// CRIU works with few capabilities.
    pub unprivileged: bool,
}

impl CheckOptions {
    /// The fields of the RPC interface, without directories.
    #[must_use]
    pub fn opts(&self) -> Opts {
        Opts {
            log_level: Some(self.log_level as i32),
            log_file: self.log_file.clone(),
            log_to_stderr: set(self.log_file.is_none()),
            unprivileged: set(self.unprivileged),
            ..Opts::default()
        }
    }
}

/// Where a page server of CRIU's own listens, and where it writes.
#[derive(Clone, Debug, Default)]
pub struct PageServerOptions {
    /// Directories and log.
    pub common: Common,
    /// The address to listen on; all when unset.
    pub address: Option<String>,
    /// The port; one that is free when unset.
    pub port: Option<u16>,
    /// A connected socket instead, by its number within CRIU.
    pub socket: Option<i32>,
}

impl PageServerOptions {
    /// The fields of the RPC interface, without directories.
    #[must_use]
    pub fn opts(&self) -> Opts {
        Opts {
            ps: Some(crate::rpc::PageServerInfo {
                address: self.address.clone(),
                port: Some(i32::from(self.port.unwrap_or(0))),
                pid: None,
                fd: self.socket,
            }),
            notify_scripts: None,
            ..self.common.opts()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let opts = Common::new("/images").opts();
        assert_eq!(
            opts,
            Opts { log_level: Some(3), notify_scripts: Some(true), ..Opts::default() },
            "only the log level and notifications are always set"
        );
    }

    #[test]
    fn closing_connections_excludes_keeping_them() {
        let opts = Common { tcp: Tcp::Close, ..Common::new("/images") }.opts();
        assert_eq!((opts.tcp_established, opts.tcp_close), (None, Some(true)));
    }

    #[test]
    fn the_record_names_directories_by_path() {
        let common =
            Common { external: vec!["mnt[/a]:a".into(), "mnt[/b]:b".into()], ..Common::new("/images") };
        let record = common.record(&common.opts());
        assert_eq!(record[0], ("images_dir".to_owned(), "/images".to_owned()));
        assert!(record.contains(&("external".to_owned(), "mnt[/b]:b".to_owned())));
        assert!(record.iter().all(|(name, _)| name != "images_dir_fd"));
    }
}
