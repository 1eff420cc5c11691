//! What Torpor and the first process of a sandbox say to each other: a line of JSON each.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use torpor_criu::program::Program;

use super::plan::SandboxMounts;
use crate::mounts::{escaped_path, escaped_paths};

/// What Torpor says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Make the root.
    Build {
        /// An empty directory, over which what is needed is mounted.
        #[serde(with = "escaped_path")]
        place: PathBuf,
        /// What is mounted.
        mounts: SandboxMounts,
    },
    /// Make that the root: all files are as they are to be.
    Enter,
    /// Restore the processes.
    Restore(Box<Restore>),
    /// Nothing stands in the way of the sandbox's being there without Torpor.
    Stay,
}

/// What is restored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Restore {
    /// The CRIU to use.
    pub(super) criu: Program,
    /// The images.
    #[serde(with = "escaped_path")]
    pub(super) images: PathBuf,
    /// A directory for the log.
    #[serde(with = "escaped_path")]
    pub(super) work: PathBuf,
    /// The highest PID of all that are restored.
    pub(super) highest_pid: i32,
    /// Whether connections among the processes are kept.
    pub(super) connections: bool,
    /// CRIU's keys for pipes and files that led outside: what reads them finds nothing there.
    pub(super) inputs: Vec<String>,
    /// The same for what is written to.
    pub(super) outputs: Vec<String>,
    /// Files that have grown since the checkpoint, with the length that they had.
    pub(super) grown: Vec<Grown>,
    /// Unix sockets may have peers outside.
    pub(super) external_unix: bool,
    /// Their terminal or session may be somebody else's.
    pub(super) shell_job: bool,
}

/// A file that has grown since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grown {
    /// The file.
    #[serde(with = "escaped_path")]
    pub(super) path: PathBuf,
    /// How long it was, in bytes.
    pub(super) length: u64,
}

/// What the first process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// What is to be the root is made, in the directory `root` of the place.
    Built {
        /// Mounts that are read-only, because the kernel can make nothing else of them.
        #[serde(with = "escaped_paths")]
        read_only: Vec<PathBuf>,
    },
    /// It is the root.
    Entered,
    /// The processes are there, and stand still.
    Restored {
        /// The PID of the first one, in the sandbox.
        root: i32,
        /// The descriptor of the first process from which what they print can be read.
        output: i32,
    },
    /// The sandbox ends with its processes from now on, and not with Torpor.
    Stays,
    /// Something cannot be done.
    Failed {
        /// What.
        doing: String,
        /// Why.
        said: String,
    },
    /// CRIU failed.
    Refused {
        /// What it said.
        said: String,
        /// Its log; empty where there is none.
        log: String,
    },
}

/// Says something.
pub(super) fn say(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// The longest line, in bytes: a log of CRIU's is the longest thing that is said.
const LONGEST: u64 = 64 << 20;

/// Hears what is said next; none where the other has ended.
pub(super) fn hear<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    io::Read::take(from, LONGEST).read_until(b'\n', &mut line)?;
    if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&line)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_half_a_word_is_an_error() {
        let mut line = Vec::new();
        say(&mut line, &Reply::Restored { root: 7, output: 3 }).unwrap();
        say(&mut line, &Reply::Stays).unwrap();
        let mut from = &line[..];
        assert!(matches!(hear(&mut from).unwrap(), Some(Reply::Restored { root: 7, output: 3 })));
        assert!(matches!(hear(&mut from).unwrap(), Some(Reply::Stays)));
        assert!(hear::<Reply>(&mut from).unwrap().is_none());
        assert!(hear::<Reply>(&mut &line[..5]).is_err());
    }
}
