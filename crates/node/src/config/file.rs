//! Which configuration file is read.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::given::{Dialect, Given, Warning};

/// Torpor's configuration file.
pub const TORPOR_PATH: &str = "/etc/torpor/config.yaml";
/// crik's configuration file, read as it is.
pub const CRIK_PATH: &str = "/etc/crik/config.yaml";

/// More than this is no configuration file.
const LARGEST: u64 = 1 << 20;

/// Reads the file asked for, or the first default one that exists. A file that was asked for by crik's command line
/// may be missing, as crik allows it.
pub(super) fn read(
    asked_for: Option<PathBuf>,
    crik: bool,
) -> Result<(Given, Vec<Warning>, Dialect), ConfigError> {
    for candidate in candidates(asked_for, crik) {
        match text(&candidate.path) {
            Ok(text) => {
                let (given, warnings) = Given::from_file(&candidate.path, &text, candidate.dialect)?;
                return Ok((given, warnings, candidate.dialect));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && candidate.may_be_missing => {}
            Err(source) => return Err(ConfigError::Read { path: candidate.path, source }),
        }
    }
    Ok((Given::default(), Vec::new(), if crik { Dialect::Crik } else { Dialect::Torpor }))
}

#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    dialect: Dialect,
    may_be_missing: bool,
}

/// The files to try, in order.
fn candidates(asked_for: Option<PathBuf>, crik: bool) -> Vec<Candidate> {
    let crik_file = |path: PathBuf| Candidate { path, dialect: Dialect::Crik, may_be_missing: true };
    match (asked_for, crik) {
        (Some(path), true) => vec![crik_file(path)],
        (Some(path), false) => {
            let dialect = if path == Path::new(CRIK_PATH) { Dialect::Crik } else { Dialect::Torpor };
            vec![Candidate { path, dialect, may_be_missing: false }]
        }
        (None, true) => vec![crik_file(CRIK_PATH.into())],
        (None, false) => vec![
            Candidate { path: TORPOR_PATH.into(), dialect: Dialect::Torpor, may_be_missing: true },
            crik_file(CRIK_PATH.into()),
        ],
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if read as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_depends_on_what_was_typed() {
        let tried = |asked_for: Option<&str>, crik| -> Vec<(String, Dialect, bool)> {
            candidates(asked_for.map(PathBuf::from), crik)
                .into_iter()
                .map(|c| (c.path.display().to_string(), c.dialect, c.may_be_missing))
                .collect()
        };
        let ours = Dialect::Torpor;
        let theirs = Dialect::Crik;
        assert_eq!(tried(None, false), [(TORPOR_PATH.into(), ours, true), (CRIK_PATH.into(), theirs, true)]);
        assert_eq!(tried(None, true), [(CRIK_PATH.into(), theirs, true)]);
        assert_eq!(tried(Some("/a"), true), [("/a".into(), theirs, true)]);
        assert_eq!(tried(Some("/a"), false), [("/a".into(), ours, false)]);
        assert_eq!(tried(Some(CRIK_PATH), false), [(CRIK_PATH.into(), theirs, false)]);
    }

    #[test]
    fn a_file_is_read_as_its_owner_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "imageDir: /etc/checkpoint\nimageDri: /x\n").unwrap();
        let (given, warnings, dialect) = read(Some(path.clone()), true).unwrap();
        assert_eq!(dialect, Dialect::Crik);
        assert_eq!(given.value("imageDir").unwrap(), "/etc/checkpoint");
        assert!(warnings[0].to_string().ends_with("did you mean imageDir?"), "{}", warnings[0]);

        let error = read(Some(path), false).unwrap_err();
        assert_eq!(error.remedy().as_deref(), Some("did you mean imageDir?"));

        let missing = dir.path().join("missing.yaml");
        assert!(read(Some(missing.clone()), true).unwrap().0 == Given::default());
        assert!(matches!(read(Some(missing), false), Err(ConfigError::Read { .. })));
    }
}
