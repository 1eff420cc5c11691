//! Restore a directory of CRIU's images as plain processes.

use std::path::Path;

use torpor_criu::diagnosis::Operation;
use torpor_criu::options::{Common, RestoreOptions, Tcp};
use torpor_criu::program::Program;
use torpor_criu::rpc::CgroupMode;
use torpor_criu::session::{Session, Spawn, Verdict};

use crate::container::ContainerError;
use crate::container::restore::{LOG, has_connections, wait, whole};
use crate::staging::{self, Staging};

/// What was asked for about processes that are to be.
#[derive(Debug, Clone)]
pub struct Processes<'a> {
    /// The CRIU to use.
    pub criu: &'a Program,
    /// The images.
    pub images: &'a Path,
    /// Where its PID is written.
    pub pid_file: Option<&'a Path>,
    /// They run on by themselves; else this waits for the end of their root.
    pub detach: bool,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// Their terminal or session may be somebody else's.
    pub shell_job: bool,
    /// Where the log is kept while they are made.
    pub staging: &'a Path,
}

/// Makes processes run again that were in no container. Returns the exit code of their root, where it was waited for.
///
/// # Errors
/// The images are not whole, or CRIU fails. Nothing is left of them then.
pub fn restore(wanted: &Processes<'_>) -> Result<Option<i32>, ContainerError> {
    whole(wanted.images)?;
    staging::clean_up(wanted.staging, "restore-");
    let name = format!("restore-{}", std::process::id());
    let work = Staging::create(wanted.staging, &name).map_err(ContainerError::place(wanted.staging))?;
    let session = Session::start(wanted.criu, Spawn::default())?;
    let mut common = Common::new(wanted.images);
    common.work_dir = Some(work.path().to_owned());
    common.log_file = Some(LOG.to_owned());
    common.unprivileged = crate::checkpoint::unprivileged();
    common.tcp = if has_connections(wanted.images)? { Tcp::Established } else { Tcp::Fail };
    common.ext_unix_sockets = wanted.external_unix;
    common.shell_job = wanted.shell_job;
    common.file_locks = true;
    common.evasive_devices = true;
    common.cgroups = Some(CgroupMode::Ignore);
    let options = RestoreOptions { sibling: !wanted.detach, ..RestoreOptions::new(common) };
    let restored = session
        .restore(&options, &mut |_| Verdict::Proceed)
        .map_err(|error| ContainerError::from(error).with_log(&work.path().join(LOG), Operation::Restore))?;
    let root = restored.pid.as_raw_nonzero().get();
    if let Some(path) = wanted.pid_file {
        std::fs::write(path, root.to_string()).map_err(ContainerError::place(path))?;
    }
    if wanted.detach { Ok(None) } else { wait(root).map(Some) }
}
