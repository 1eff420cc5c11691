//! Options of a dump and of a pre-dump.

use std::time::Duration;

use super::{Common, set};
use crate::rpc::{Opts, PageServerInfo, PreDumpMode};

/// What becomes of the tree once it is dumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterDump {
    /// It is killed: a suspend.
    #[default]
    End,
    /// It runs on.
    Running,
    /// It stays stopped.
    Stopped,
}

/// Where memory goes instead of into the images directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageTarget {
    /// A connected socket, by the number under which it was passed to CRIU
    /// ([`Spawn::descriptors`](crate::session::Spawn::descriptors)).
    Socket(i32),
    /// A page server's address and port. Together with lazy pages: where CRIU listens.
    Address(String, u16),
}

/// Options of a dump and of a pre-dump.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// What dumps and restores share.
    pub common: Common,
    /// The root of the tree, in the PID namespace of this process.
    pub pid: i32,
    /// What becomes of the tree.
    pub after: AfterDump,
    /// Where memory goes.
    pub pages: Option<PageTarget>,
    /// The images of the previous dump, relative to the images directory; pages unchanged since are left out.
    pub parent_images: Option<String>,
    /// Changes of memory are tracked for the next dump. Needs a kernel with soft-dirty bits.
    pub track_memory: bool,
    /// Pages that these images have are punched out of the parent's.
    pub auto_dedup: bool,
    /// The freezer control group that holds the tree.
    pub freeze_cgroup: Option<String>,
    /// How long stopping the tasks may take; CRIU's default is 10 s. Whole seconds, rounded up.
    pub seize_timeout: Option<Duration>,
    /// The largest deleted file that goes into the images, in bytes; CRIU's default is 1 MiB.
    pub ghost_limit: Option<u32>,
    /// How a pre-dump reads memory.
    pub pre_dump_mode: Option<PreDumpMode>,
    /// The tree may have a terminal whose master is outside.
    pub orphan_pts_master: bool,
    /// A socket in this process that keeps pidfds from one pre-dump to the next.
    pub pidfd_store: Option<i32>,
}

impl DumpOptions {
    /// A suspend of the tree under `pid` into the images directory of `common`.
    #[must_use]
    pub fn new(pid: i32, common: Common) -> Self {
        Self {
            common,
            pid,
            after: AfterDump::End,
            pages: None,
            parent_images: None,
            track_memory: false,
            auto_dedup: false,
            freeze_cgroup: None,
            seize_timeout: None,
            ghost_limit: None,
            pre_dump_mode: None,
            orphan_pts_master: false,
            pidfd_store: None,
        }
    }

    /// The fields of the RPC interface, without directories and configuration file.
    #[must_use]
    pub fn opts(&self) -> Opts {
        let seconds = |time: Duration| u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        Opts {
            pid: Some(self.pid),
            leave_running: set(self.after == AfterDump::Running),
            leave_stopped: set(self.after == AfterDump::Stopped),
            ps: self.pages.as_ref().map(PageTarget::info),
            parent_img: self.parent_images.clone(),
            track_mem: set(self.track_memory),
            auto_dedup: set(self.auto_dedup),
            freeze_cgroup: self.freeze_cgroup.clone(),
            timeout: self.seize_timeout.map(seconds),
            ghost_limit: self.ghost_limit,
            pre_dump_mode: self.pre_dump_mode.map(|mode| mode as i32),
            orphan_pts_master: set(self.orphan_pts_master),
            pidfd_store_sk: self.pidfd_store,
            ..self.common.opts()
        }
    }

    /// What CRIU is given, for the manifest: pairs of name and value.
    #[must_use]
    pub fn record(&self) -> Vec<(String, String)> {
        self.common.record(&self.opts())
    }
}

impl PageTarget {
    fn info(&self) -> PageServerInfo {
        match self {
            Self::Socket(number) => PageServerInfo { fd: Some(*number), ..PageServerInfo::default() },
            Self::Address(address, port) => PageServerInfo {
                address: Some(address.clone()),
                port: Some(i32::from(*port)),
                ..PageServerInfo::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspend_neither_leaves_running_nor_stopped() {
        let opts = DumpOptions::new(7, Common::new("/i")).opts();
        assert_eq!((opts.pid, opts.leave_running, opts.leave_stopped), (Some(7), None, None));
    }

    #[test]
    fn a_timeout_is_never_rounded_down_to_none() {
        let mut options = DumpOptions::new(7, Common::new("/i"));
        for (time, seconds) in [(1, 1), (1000, 1), (1001, 2), (10_000, 10)] {
            options.seize_timeout = Some(Duration::from_millis(time));
            assert_eq!(options.opts().timeout, Some(seconds));
        }
    }

    #[test]
    fn pages_go_to_a_socket_by_its_number_in_criu() {
        let options =
            DumpOptions { pages: Some(PageTarget::Socket(9)), ..DumpOptions::new(7, Common::new("/i")) };
        assert_eq!(options.opts().ps.unwrap().fd, Some(9));
        assert!(options.record().contains(&("ps".to_owned(), "fd[9]".to_owned())));
    }
}
