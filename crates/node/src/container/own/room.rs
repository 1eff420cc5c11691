//! The place of a container of our own, which goes with all that is in it: the container, the mount of its root, its files.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::mount::UnmountFlags;

use super::ROOT;
use crate::container::route::Runtime;
use crate::staging::{self, Staging};
use crate::sys::process;

/// What the names of these places begin with.
const PREFIX: &str = "warm-";
/// The file that names the runtime.
const RUNTIME: &str = "runtime";
/// The directory of the runtime's states.
const STATES: &str = "state";

/// The place.
#[derive(Debug)]
pub struct Room {
    staging: Staging,
    runtime: Runtime,
}

impl Room {
    /// A new one below `parent`. What killed processes have left in others is taken away.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(parent: &Path, runtime: Runtime) -> io::Result<Room> {
        staging::clean_up_after(parent, PREFIX, &|place| {
            clear(place);
            true
        });
        let staging = Staging::create(parent, &format!("{PREFIX}{}", std::process::id()))?;
        std::fs::write(staging.path().join(RUNTIME), runtime.program().as_os_str().as_encoded_bytes())?;
        Ok(Room { staging, runtime })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// The runtime of its container.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The container's ID.
    pub(super) fn id(&self) -> String {
        id(self.path())
    }

    /// Where the runtime keeps states.
    pub(super) fn states(&self) -> PathBuf {
        self.path().join(STATES)
    }

    /// Has all of it go where a signal asks this process to end, which `then` does, given the signal. All signals are blocked from
    /// then on in this thread, and in those that it starts.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub fn go_with_a_signal(&self, then: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
        let signals = process::signal_descriptor()?;
        let path = self.path().to_owned();
        let watch = move || {
            loop {
                let mut polled = [PollFd::new(&signals, PollFlags::IN)];
                let waited = rustix::event::poll(&mut polled, None);
                let Ok(came) = process::read_signals(&signals) else { return };
                let ends = |signal: &i32| {
                    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(signal)
                };
                if let Some(signal) = came.into_iter().map(|(signal, _)| signal).find(ends) {
                    clear(&path);
                    if let Err(error) = std::fs::remove_dir_all(&path) {
                        tracing::warn!(path = %path.display(), %error, "what was made cannot be removed");
                    }
                    return then(signal);
                }
                if waited.is_err_and(|errno| errno != rustix::io::Errno::INTR) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch)?;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        clear(self.path());
    }
}

fn id(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("torpor-{name}")
}

/// Ends the container and takes the mount away, where they are there.
fn clear(path: &Path) {
    let (id, states) = (id(path), path.join(STATES));
    if states.join(&id).exists()
        && let Ok(program) = std::fs::read_to_string(path.join(RUNTIME))
    {
        let mut command = Command::new(program);
        command.arg("--root").arg(&states).args(["delete", "--force", &id]);
        let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tracing::warn!(id, ?ended, "the runtime still knows the container");
        }
    }
    while rustix::mount::unmount(path.join(ROOT), UnmountFlags::DETACH).is_ok() {}
}
