//! A machine that is set up: its files, and its programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::InstallError;

/// Where a machine's files are, and ours among them.
#[derive(Debug, Clone)]
pub struct Site {
    /// What stands before every path; `/`, or where the machine's root is mounted.
    pub machine: PathBuf,
    /// Where everything goes, on the machine.
    pub prefix: PathBuf,
}

impl Site {
    /// A path of the machine's, seen from here.
    #[must_use]
    pub fn on_machine(&self, path: &Path) -> PathBuf {
        self.machine.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file of the machine's; none where there is none.
    pub(crate) fn read(&self, path: &str) -> Result<Option<String>, InstallError> {
        let path = self.on_machine(Path::new(path));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(InstallError::place(&path)(error)),
        }
    }

    /// Whether the machine has one of these.
    pub(crate) fn has(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.on_machine(Path::new(path)).exists())
    }

    /// Where everything goes, seen from here.
    #[must_use]
    pub fn here(&self) -> PathBuf {
        self.on_machine(&self.prefix)
    }

    /// Asks a program of the machine's. None where there is none that can be started here; else what it printed, or what it said in vain.
    pub(crate) fn ask(&self, program: &str, words: &[&str]) -> Option<Result<String, String>> {
        // What chroot and env end with where they cannot do what they are for.
        const NOT_STARTED: [i32; 3] = [125, 126, 127];
        let mut command = if self.machine == Path::new("/") {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(&self.machine).arg(program);
            command
        };
        let output = command.args(words).stdin(Stdio::null()).output().ok()?;
        match output.status.code() {
            Some(0) => Some(Ok(String::from_utf8_lossy(&output.stdout).into_owned())),
            Some(code) if NOT_STARTED.contains(&code) => None,
            _ => Some(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}
