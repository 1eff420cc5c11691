//! CRIU's program: where it is and how it is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How CRIU is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    command: Vec<OsString>,
    subject: PathBuf,
    plugins: Option<PathBuf>,
}

impl Program {
    /// CRIU as one executable, by path or by a name that is looked up in [`crate::session::SEARCH_PATH`].
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { command: vec![path.clone().into()], subject: path, plugins: None }
    }

    /// A CRIU of its own under `prefix`, with the libraries and the loader it was built for: the layout of the
    /// distribution's packages unpacked there. The machine's own C library is not touched.
    #[must_use]
    pub fn private(prefix: &Path) -> Self {
        let triplet = concat_triplet();
        let libraries = prefix.join("usr/lib").join(&triplet);
        let loader = loader(prefix, &libraries);
        let criu = prefix.join("usr/sbin/criu");
        let command =
            vec![loader.into(), "--library-path".into(), libraries.into(), criu.clone().into_os_string()];
        Self { command, subject: criu, plugins: None }
    }

    /// With plugins from a directory, where a session names no other. Plugins run with CRIU's privileges.
    #[must_use]
    pub fn with_plugins(self, directory: impl Into<PathBuf>) -> Self {
        Self { plugins: Some(directory.into()), ..self }
    }

    /// Where it may load plugins from; none when unset.
    #[must_use]
    pub fn plugins(&self) -> Option<&Path> {
        self.plugins.as_deref()
    }

    /// The file that is CRIU itself, for messages and checks.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.subject
    }

    /// The command line up to CRIU's own first argument.
    #[must_use]
    pub fn command_line(&self) -> &[OsString] {
        &self.command
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.subject.display().fmt(f)
    }
}

fn concat_triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// The loader's place differs between architectures and between merged and unmerged /usr.
fn loader(prefix: &Path, libraries: &Path) -> PathBuf {
    let (directory, name) = match std::env::consts::ARCH {
        "x86_64" => ("lib64", "ld-linux-x86-64.so.2"),
        "aarch64" => ("lib", "ld-linux-aarch64.so.1"),
        "riscv64" => ("lib", "ld-linux-riscv64-lp64d.so.1"),
        "powerpc64" => ("lib64", "ld64.so.2"),
        _ => ("lib", "ld64.so.1"),
    };
    let candidates = [
        prefix.join("usr").join(directory).join(name),
        prefix.join(directory).join(name),
        libraries.join(name),
    ];
    candidates.iter().find(|path| path.exists()).unwrap_or(&candidates[0]).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_program_is_its_own_command_line() {
        let program = Program::new("/usr/sbin/criu");
        assert_eq!(program.command_line(), ["/usr/sbin/criu"]);
        assert_eq!(program.to_string(), "/usr/sbin/criu");
    }

    #[test]
    fn a_private_program_is_run_by_its_own_loader() {
        let program = Program::private(Path::new("/opt/criu"));
        let line = program.command_line();
        assert!(line[0].to_str().unwrap().starts_with("/opt/criu/usr/lib"));
        assert_eq!(line[1], "--library-path");
        assert_eq!(line[3], "/opt/criu/usr/sbin/criu");
        assert_eq!(program.path(), Path::new("/opt/criu/usr/sbin/criu"));
    }
}
