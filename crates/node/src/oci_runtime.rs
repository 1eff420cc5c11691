//! `torpor-runtime`: an OCI runtime that hands everything but restored containers to runc or crun.
//!
//! It is called as they are called ([`command_line`]), and becomes the real runtime ([`real`]) by `exec`, with the same words,
//! descriptors and environment, for everything that is not about a container that was or is to be restored. What the node's
//! operator says is in [`settings`]; what is said to the engine goes to the runtime's log ([`log`]).

pub mod command_line;
pub mod decision;
pub mod log;
pub mod real;
pub mod settings;

use std::ffi::OsString;

use command_line::CommandLine;
use log::Level;
use real::{Real, RealError};
use settings::{Settings, SettingsError};

/// The name under which the binary is this runtime.
pub const NAME: &str = "torpor-runtime";
/// What the process ends with where it fails by itself, as runc.
const FAILED: u8 = 1;

/// Why it fails by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The operator's file cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no real runtime.
    #[error(transparent)]
    Real(#[from] RealError),
}

impl RuntimeError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            RuntimeError::Settings(error) => error.remedy().to_owned(),
            RuntimeError::Real(error) => error.remedy().to_owned(),
        }
    }
}

/// Does what the words after the program's name say. Returns what the process ends with, where it did not become the real
/// runtime.
#[must_use]
pub fn run(words: &[OsString]) -> u8 {
    let line = CommandLine::parse(words);
    match act(words) {
        Ok(code) => code,
        Err(error) => {
            let mut message = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            log::write(&line.global, Level::Error, &format!("{message} ({})", error.remedy()));
            FAILED
        }
    }
}

fn act(words: &[OsString]) -> Result<u8, RuntimeError> {
    let settings = Settings::load()?;
    let real = Real::find(settings.runtime.as_deref())?;
    Err(real.exec(words).into())
}
