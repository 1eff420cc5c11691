//! The exit codes, documented for people in `docs/exit-codes.md`.

use std::process::ExitCode;

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Exit {
    /// 0: done, and nothing was found wrong.
    Success,
    /// 1: failed, in a way no other code names.
    Failure,
    /// 2: what was typed cannot be understood.
    Usage,
    /// 3: the store, name or generation does not exist.
    NotFound,
    /// 4: something in the store is damaged, or written by a newer release.
    Damaged,
    /// 5: the key or passphrase is wrong or missing.
    Credentials,
    /// 6: somebody else holds the name, or a newer start has taken it over.
    Held,
    /// 7: the place cannot be written or reached: full, read-only, no permission, not a directory.
    Place,
    /// Any code: a program's own, passed on.
    Program(u8),
}

impl Exit {
    /// The number the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Damaged => 4,
            Exit::Credentials => 5,
            Exit::Held => 6,
            Exit::Place => 7,
            Exit::Program(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
