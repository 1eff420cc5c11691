//! Which wrapper a command asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use torpor_node::config::Surroundings;
pub(super) use torpor_node::config::duration;
use torpor_store::name::Name;

use super::Exit;
use super::failure::{self, Failure};

/// How often it is looked whether a program runs.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Flags of every command that asks a running wrapper.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The program's name. Not needed where one program alone runs.
    #[arg(long, value_name = "NAME", env = "TORPOR_NAME")]
    pub(super) name: Option<Name>,
    /// The program's control socket, where it is not the usual one.
    #[arg(long, value_name = "FILE", env = "TORPOR_CONTROL_SOCKET")]
    control_socket: Option<PathBuf>,
    /// How long to wait. What was asked for goes on after that; but the checkpoint of a container is given up.
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

impl Args {
    /// The socket to ask at.
    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        let surroundings = Surroundings::read()?;
        match (&self.control_socket, &self.name) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(name)) => Ok(surroundings.control_socket(&name.to_string())),
            (None, None) => Ok(the_only(&surroundings.runtime_dir.join("torpor"))?),
        }
    }

    /// The same, once a program runs to ask.
    pub(crate) fn socket_until(&self, deadline: Option<Instant>) -> anyhow::Result<PathBuf> {
        loop {
            match self.socket() {
                Err(error)
                    if failure::exit(&error) == Exit::NotFound
                        && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
                {
                    thread::sleep(LOOK_AGAIN);
                }
                result => return result,
            }
        }
    }

    /// When waiting ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A time that no clock reaches is none.
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

/// The one socket in `directory`.
fn the_only(directory: &Path) -> Result<PathBuf, Failure> {
    let mut sockets: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    sockets.sort();
    match sockets.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("no program runs under torpor here: {} has no control socket", directory.display()),
            "start one with `torpor run`, or give --control-socket where its runtime directory is another",
        )),
        several => Err(Failure::new(
            Exit::Usage,
            format!("{} programs run under torpor here", several.len()),
            "say which with --name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_alone_needs_no_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(the_only(&dir.path().join("none")).unwrap_err().exit, Exit::NotFound);
        fs::write(dir.path().join("a.json"), "").unwrap();
        assert_eq!(the_only(dir.path()).unwrap_err().exit, Exit::NotFound);
        fs::write(dir.path().join("a.sock"), "").unwrap();
        assert_eq!(the_only(dir.path()).unwrap(), dir.path().join("a.sock"));
        fs::write(dir.path().join("b.sock"), "").unwrap();
        assert_eq!(the_only(dir.path()).unwrap_err().exit, Exit::Usage);
    }
}
