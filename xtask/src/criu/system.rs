//! Does a CRIU work here: its version, and its own check.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chore;

/// Older ones cannot dump TCP sockets on kernels from 6.16, or do not start on kernels from 6.13.
const OLDEST: (u32, u32) = (4, 2);

/// What there is of a CRIU on this system.
#[derive(Debug)]
pub(crate) enum Found {
    Works { path: PathBuf, version: String },
    Unfit { path: PathBuf, why: String },
    None,
}

/// Looks for the system's CRIU and tries it.
pub(crate) fn find() -> Found {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidate = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join("criu"))
        .find(|file| file.is_file());
    match candidate {
        None => Found::None,
        Some(path) => match check(&path) {
            Ok(version) => Found::Works { path, version },
            Err(why) => Found::Unfit { path, why },
        },
    }
}

/// Whether the CRIU at `path` is new enough and passes its check; its version, or why not.
pub(crate) fn check(path: &Path) -> Result<String, String> {
    let said = chore::capture(Command::new(path).arg("--version")).map_err(|error| format!("{error:#}"))?;
    let version = version(&said).ok_or_else(|| format!("it does not tell its version: {}", said.trim()))?;
    if number(&version) < Some(OLDEST) {
        return Err(format!("version {version} is older than {}.{}", OLDEST.0, OLDEST.1));
    }
    if !chore::is_root() {
        // Its check asks for privileges that building and unpacking do not need.
        eprintln!("    not root: CRIU {version} starts, but its check was not run");
        return Ok(version);
    }
    chore::capture(Command::new(path).arg("check")).map_err(|error| format!("{error:#}"))?;
    Ok(version)
}

/// The version in what `criu --version` prints.
fn version(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.strip_prefix("Version:")).map(|version| version.trim().to_owned())
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        assert_eq!(version("Version: 4.2.1\nGitID: v4.2.1\n").as_deref(), Some("4.2.1"));
        for (text, fits) in
            [("3.17.1", false), ("4.1.1", false), ("4.2", true), ("4.10-rc1", true), ("5", true)]
        {
            assert_eq!(number(text) >= Some(OLDEST), fits, "{text}");
        }
        assert_eq!(number("unknown"), None);
    }
}
