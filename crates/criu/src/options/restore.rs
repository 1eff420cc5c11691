//! Options of a restore.

use super::{Common, set};
use crate::rpc::{InheritFd, JoinNamespace, Opts};

/// How the tree is left once it is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterRestore {
    /// It runs.
    #[default]
    Running,
    /// It is stopped and goes on with `SIGCONT`.
    Stopped,
}

/// Options of a restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// What dumps and restores share.
    pub common: Common,
    /// The restored root becomes a child of this process rather than of CRIU.
    pub sibling: bool,
    /// Descriptors, by their number within CRIU, that take the place of ones in the images.
    pub inherit: Vec<InheritFd>,
    /// Namespaces to join.
    pub join_namespaces: Vec<JoinNamespace>,
    /// How the tree is left.
    pub after: AfterRestore,
    /// The older mount engine.
    pub mntns_compat: bool,
    /// Masters of orphaned terminals are sent with a notification.
    pub orphan_pts_master: bool,
    /// Pages are punched out of images once they are restored.
    pub auto_dedup: bool,
    /// 4.3: threads that decompress pages.
    pub decompress_threads: Option<u32>,
}

impl RestoreOptions {
    /// A restore from the images directory of `common`; the tree runs as a child of this process.
    #[must_use]
    pub fn new(common: Common) -> Self {
        Self {
            common,
            sibling: true,
            inherit: Vec::new(),
            join_namespaces: Vec::new(),
            after: AfterRestore::Running,
            mntns_compat: false,
            orphan_pts_master: false,
            auto_dedup: false,
            decompress_threads: None,
        }
    }

    /// Adds a descriptor: `key` as in [`InheritFd::key`], `number` within CRIU.
    #[must_use]
    pub fn inherit(mut self, key: impl Into<String>, number: i32) -> Self {
        self.inherit.push(InheritFd { key: key.into(), fd: number });
        self
    }

    /// The fields of the RPC interface, without directories and configuration file.
    #[must_use]
    pub fn opts(&self) -> Opts {
        Opts {
            rst_sibling: set(self.sibling),
            inherit_fd: self.inherit.clone(),
            join_ns: self.join_namespaces.clone(),
            leave_stopped: set(self.after == AfterRestore::Stopped),
            mntns_compat_mode: set(self.mntns_compat),
            orphan_pts_master: set(self.orphan_pts_master),
            auto_dedup: set(self.auto_dedup),
            decompress_threads: self.decompress_threads,
            ..self.common.opts()
        }
    }

    /// What CRIU is given, for the record: pairs of name and value.
    #[must_use]
    pub fn record(&self) -> Vec<(String, String)> {
        self.common.record(&self.opts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_tree_is_our_child_unless_told_otherwise() {
        let options = RestoreOptions::new(Common::new("/i")).inherit("pipe:[5]", 11);
        let opts = options.opts();
        assert_eq!(opts.rst_sibling, Some(true));
        assert_eq!(opts.leave_stopped, None);
        assert!(options.record().contains(&("inherit_fd".to_owned(), "fd[11]:pipe:[5]".to_owned())));
    }
}
