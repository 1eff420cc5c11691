//! Plugins: programs called `checkpointctl-NAME` in the `PATH`.
//!
//! A plugin runs only when it is called by name. To ask each of them for its description at every start, as checkpointctl
//! does, is to run whatever somebody left in the `PATH`, often as root, for a `--help`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::print;
use crate::cli::Exit;
use crate::cli::failure::Failure;

const PREFIX: &str = "checkpointctl-";

/// Lists them by name, with their paths.
pub(super) fn list() -> anyhow::Result<()> {
    let plugins = found(std::env::var_os("PATH").as_deref());
    if plugins.is_empty() {
        return print("No plugins found in PATH\n");
    }
    let lines = plugins
        .iter()
        .map(|(name, path)| format!("  {name:<20} (no description)\n  {:<20} {}\n", "", path.display()));
    print(&("Available plugins:\n".to_owned() + &lines.collect::<String>()))
}

/// Becomes the plugin that the first word names; the others are its arguments.
pub(super) fn call(words: &[OsString]) -> anyhow::Result<()> {
    let Some((name, arguments)) = words.split_first() else { return Ok(()) };
    let name = name.to_string_lossy();
    let Some(path) = found(std::env::var_os("PATH").as_deref()).remove(&*name) else {
        let message = format!("unknown command \"{name}\" for \"checkpointctl\"");
        return Err(Failure::new(Exit::Failure, message, "`checkpointctl --help` shows all commands").into());
    };
    let failed = Command::new(&path).args(arguments).exec();
    Err(anyhow::Error::new(failed).context(format!("cannot run {}", path.display())))
}

/// All plugins in a `PATH`: of those with the same name the first.
fn found(path: Option<&OsStr>) -> BTreeMap<String, PathBuf> {
    let mut plugins = BTreeMap::new();
    for directory in path.iter().flat_map(std::env::split_paths) {
        if directory.as_os_str().is_empty() {
            continue;
        }
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let runs = std::fs::metadata(entry.path())
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
            if !name.is_empty() && runs {
                let path = std::path::absolute(entry.path()).unwrap_or_else(|_| entry.path());
                plugins.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    plugins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_in_the_path_wins() {
        let place = tempfile::tempdir().unwrap();
        for (directory, name, mode) in [
            ("a", "checkpointctl-x", 0o755),
            ("b", "checkpointctl-x", 0o755),
            ("b", "checkpointctl-y", 0o755),
            ("b", "checkpointctl-no", 0o644),
            ("b", "checkpointctl-", 0o755),
        ] {
            let path = place.path().join(directory);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(name), "").unwrap();
            std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([place.path().join("a"), place.path().join("b")]).unwrap();
        let plugins = found(Some(&path));
        assert_eq!(plugins.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert!(plugins["x"].ends_with("a/checkpointctl-x"));
    }
}
