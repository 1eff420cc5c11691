//! `checkpointctl list`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::identity::Identity;
use super::{open, print, table};
use crate::cli::failure;

/// Where the kubelet keeps archives.
const KUBELET: &str = "/var/lib/kubelet/checkpoints/";

/// Lists the archives in directories. One that cannot be read costs a line on standard error.
pub(super) fn run(mut directories: Vec<PathBuf>) -> anyhow::Result<()> {
    if directories.is_empty() {
        directories.push(KUBELET.into());
    }
    let (mut text, mut rows) = (String::new(), Vec::new());
    for directory in &directories {
        let archives = archives(directory);
        if archives.is_empty() {
            continue;
        }
        text += &format!("Listing checkpoints in path: {}\n", directory.display());
        for path in archives {
            match row(&path) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    let why = failure::sentence(&error);
                    eprintln!("Error extracting information from {}: {why}", path.display());
                }
            }
        }
    }
    if text.is_empty() {
        let names: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        return print(&format!("No checkpoints found in [{}]\n", names.join(" ")));
    }
    let headings = ["Namespace", "Pod", "Container", "Engine", "Time Checkpointed", "Checkpoint Name"];
    print(&(text + &table::table(&headings, &rows)))
}

/// What is called `checkpoint-…` in a directory, by name; nothing where it cannot be read.
fn archives(directory: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let named = found.filter(|found| found.file_name().as_encoded_bytes().starts_with(b"checkpoint-"));
    let mut archives: Vec<_> = named.map(|found| found.path()).collect();
    archives.sort();
    archives
}

fn row(path: &Path) -> anyhow::Result<Vec<String>> {
    let checkpoint = open(path)?;
    let identity = Identity::read(&checkpoint)?;
    let made = identity.made.map(moment).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vec![identity.namespace, identity.pod, identity.name, identity.engine, made, name])
}

/// A time as RFC 822 has it.
fn moment(moment: Timestamp) -> String {
    moment.strftime("%d %b %y %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_in_rfc_822() {
        assert_eq!(moment("2026-11-21T13:28:06.123Z".parse().unwrap()), "21 Nov 26 13:28 UTC");
    }

    #[test]
    fn archives_stand_in_the_order_of_their_names() {
        let place = tempfile::tempdir().unwrap();
        for name in ["checkpoint-b.tar", "other.tar", "checkpoint-a.tar"] {
            std::fs::write(place.path().join(name), "").unwrap();
        }
        let names: Vec<_> =
            archives(place.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["checkpoint-a.tar", "checkpoint-b.tar"]);
        assert!(archives(Path::new("/does/not/exist")).is_empty());
    }
}
