//! Archives, and directories of images, in directories.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_archive::engine::{self, Container, Engine};
use torpor_archive::source::{self, Place};

use super::super::{Exit, failure, output};

/// Where the kubelet puts archives.
pub(super) const KUBELET: &str = "/var/lib/kubelet/checkpoints";

/// Checkpoints in directories.
#[derive(Serialize)]
pub(super) struct Archives {
    archives: Vec<ArchiveRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArchiveRow {
    path: PathBuf,
    /// Bytes of the file; of a directory, of what is in it.
    size: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    container: Option<Row>,
    /// Why it cannot be read, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    engine: Engine,
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    id: Option<String>,
    image: Option<String>,
    created: Option<Timestamp>,
    checkpointed: Option<Timestamp>,
}

impl From<Container> for Row {
    fn from(container: Container) -> Row {
        let pod = container.pod;
        Row {
            engine: container.engine,
            namespace: pod.as_ref().and_then(|pod| pod.namespace.clone()),
            pod: pod.and_then(|pod| pod.name),
            container: container.name,
            id: container.id,
            image: container.image.and_then(|image| image.name.or(image.id)),
            created: container.created,
            checkpointed: container.checkpointed,
        }
    }
}

/// Lists what is in these directories. Each that cannot be read is shown as such.
pub(super) fn list(directories: &[PathBuf], output: output::Args) -> anyhow::Result<Exit> {
    let mut paths = Vec::new();
    for directory in directories {
        paths.extend(candidates(directory)?);
    }
    let archives = Archives { archives: paths.into_iter().map(row).collect() };
    let damaged = archives.archives.iter().any(|archive| archive.error.is_some());
    output.print(&archives, |archives| table(archives, directories))?;
    Ok(if damaged { Exit::Damaged } else { Exit::Success })
}

/// What may be a checkpoint: the path itself, or what is in it, by name.
fn candidates(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failed = |source| source::SourceError::Place { place: path.display().to_string(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() || is_images(path) {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let is_archive = kind.is_file() && looks_like_archive(&entry.file_name().to_string_lossy());
        if is_archive || (kind.is_dir() && is_images(&entry.path())) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn is_images(directory: &Path) -> bool {
    ["inventory.img", "checkpoint/inventory.img"].iter().any(|image| directory.join(image).is_file())
}

/// By its name. The kubelet's files begin with a word of their own, whatever they end with.
fn looks_like_archive(name: &str) -> bool {
    let packed = [".gz", ".bz2", ".xz", ".zst", ".lz4"];
    let bare = packed.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    name.starts_with("checkpoint-") || bare.ends_with(".tar") || name.ends_with(".tgz")
}

fn row(path: PathBuf) -> ArchiveRow {
    let mut size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let opened = source::open(&Place::Path(path.clone())).and_then(Checkpoint::new);
    let container = opened.map_err(anyhow::Error::from).and_then(|checkpoint| {
        if path.is_dir() {
            size = checkpoint.entries().iter().map(|entry| entry.size).sum();
        }
        Ok(engine::container(&checkpoint)?)
    });
    match container {
        Ok(container) => ArchiveRow { path, size, container: Some(container.into()), error: None },
        Err(error) => ArchiveRow { path, size, container: None, error: Some(failure::sentence(&error)) },
    }
}

fn table(archives: &Archives, directories: &[PathBuf]) -> String {
    if archives.archives.is_empty() {
        let places: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        return format!("there are no checkpoints in {}\n", places.join(", "));
    }
    let columns = ["NAMESPACE", "POD", "CONTAINER", "ENGINE", "CHECKPOINTED", ">SIZE", "CHECKPOINT"];
    let mut table = output::table(&columns);
    for archive in &archives.archives {
        let name = archive.path.display().to_string();
        let size = output::bytes(archive.size);
        let Some(row) = &archive.container else {
            let dash = || "-".to_owned();
            table.add_row([dash(), dash(), dash(), "unreadable".to_owned(), dash(), size, name]);
            continue;
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            text(&row.namespace),
            text(&row.pod),
            text(&row.container),
            row.engine.to_string(),
            row.checkpointed.map_or_else(|| "-".to_owned(), output::moment),
            size,
            name,
        ]);
    }
    let mut text = output::lines(&table);
    for archive in &archives.archives {
        if let Some(error) = &archive.error {
            text.push_str(&format!("unreadable: {error}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        for (name, is) in [
            ("checkpoint-pod_ns-container-2026-01-02T03:04:05Z.tar", true),
            ("checkpoint-odd", true),
            ("worker.tar.zst", true),
            ("worker.tgz", true),
            ("notes.txt", false),
            ("notes.gz", false),
        ] {
            assert_eq!(looks_like_archive(name), is, "{name}");
        }
    }
}
