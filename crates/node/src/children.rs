//! Children: the program, helpers that somebody waits for, and orphans that nobody does.
//!
//! As PID 1 (or a subreaper) Torpor inherits every orphan of the container and must take its status, or it stays as a
//! zombie. But a status may be taken once only, and those of CRIU, of hooks and of the guard belong to whoever started
//! them: while such a helper may be alive, orphans wait.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, TryLockError};

use crate::sys::process::{self, Wait};

pub use crate::sys::process::Ended;

/// Who may take the status of which child.
#[derive(Debug, Clone, Default)]
pub struct Children {
    helpers: Arc<RwLock<()>>,
}

/// While it lives, orphans are left alone.
#[derive(Debug)]
pub struct HelpersRun<'a> {
    _held: RwLockReadGuard<'a, ()>,
}

impl Children {
    /// Says that helpers may be started from now on that their starter waits for.
    #[must_use]
    pub fn helpers_run(&self) -> HelpersRun<'_> {
        HelpersRun { _held: self.helpers.read().unwrap_or_else(|poisoned| poisoned.into_inner()) }
    }

    /// Takes the status of `program` if it has ended, and those of all orphans that have, unless helpers run.
    ///
    /// # Errors
    /// Where the system refuses to tell; having no child at all is no error.
    pub fn reap(&self, program: Option<i32>) -> io::Result<Option<Ended>> {
        let ended = match program {
            Some(pid) => no_children_is_none(process::ended_child(Wait::Reap(pid)))?.map(|(_, ended)| ended),
            None => None,
        };
        let _alone = match self.helpers.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(ended),
        };
        while let Some((pid, _)) = no_children_is_none(process::ended_child(Wait::PeekAny))? {
            if Some(pid) == program {
                break;
            }
            process::ended_child(Wait::Reap(pid))?;
            tracing::trace!(pid, "took the status of an orphan");
        }
        Ok(ended)
    }
}

fn no_children_is_none<T>(result: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}
