//! Why plain processes cannot be looked at.

use std::io;

/// Why plain processes cannot be restored into a sandbox. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There are no namespaces for it.
    #[error("the sandbox cannot have namespaces of its own")]
    Namespaces(#[source] io::Error),
    /// Its mounts cannot be entered.
    #[error("the sandbox's files cannot be reached")]
    Files(#[source] io::Error),
    /// The files that are open for writing do not fit into memory.
    #[error(
        "files that they have open for writing take {needed} bytes of memory, and {available} are free for them"
    )]
    Memory {
        /// What is needed, in bytes.
        needed: u64,
        /// What there is for it, in bytes.
        available: u64,
    },
    /// Its first process cannot do something.
    #[error("the sandbox cannot {doing}: {said}")]
    Step {
        /// What.
        doing: String,
        /// Why.
        said: String,
    },
    /// CRIU failed in it, and wrote no log.
    #[error("CRIU failed in the sandbox: {said}")]
    Criu {
        /// What it said.
        said: String,
    },
    /// Its first process is not understood.
    #[error("the first process of the sandbox cannot be spoken with")]
    Talk(#[source] io::Error),
    /// Its first process has ended.
    #[error("the first process of the sandbox has ended")]
    Ended,
}

impl SandboxError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Namespaces(_) | Self::Files(_) => {
                "run torpor as root with all capabilities; in a container, it has to be a privileged one"
            }
            Self::Memory { .. } => "free memory, or look at it on a machine with more, and the same files",
            Self::Step { .. } => {
                "see whether root may mount overlays and file systems here; another machine that has the same files does as well"
            }
            Self::Criu { .. } => "run `torpor doctor` to see whether this CRIU works here",
            Self::Talk(_) | Self::Ended => "try again; if memory was short, see the kernel's log",
        }
    }
}
