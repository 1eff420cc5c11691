//! Writing a checkpoint as an OCI image: one layer with the archive's entries, and annotations that tell runtimes what it is
//! (OCI image specification 1.1, `image-layout.md`, `manifest.md`, `config.md`, `layer.md`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use torpor_archive::Checkpoint;
use torpor_archive::source::EntryKind;
use torpor_archive::tape::Tape;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation that holds an image's tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// Most bytes of an index that is added to.
const MAX_INDEX: u64 = 16 << 20;

/// What is said about an image.
#[derive(Debug, Clone)]
pub(super) struct Description<'a> {
    /// Written to the manifest, to its descriptor, and to the index.
    pub(super) annotations: &'a BTreeMap<String, String>,
    /// When the checkpoint was made, in RFC 3339.
    pub(super) created: Option<String>,
    /// The tag.
    pub(super) tag: &'a str,
}

/// Adds an image to a layout, which is made where there is none. The same checkpoint gives the same image, bit for bit.
pub(super) fn write_layout(
    checkpoint: &Checkpoint,
    description: &Description<'_>,
    directory: &Path,
) -> anyhow::Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let layer = write_layer(checkpoint, &blobs)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    if let Some(created) = &description.created {
        config["created"] = json!(created);
    }
    let config = write_json(&blobs, CONFIG, &config)?;
    let annotations = description.annotations;
    let mut manifest = write_json(
        &blobs,
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": annotations,
        }),
    )?;
    manifest["annotations"] = json!(annotations);
    manifest["annotations"][TAG] = json!(description.tag);
    let mut index = index(directory)?;
    let named = |descriptor: &Value| descriptor["annotations"][TAG] == description.tag;
    let manifests = index["manifests"].as_array_mut().context("index.json has no list of manifests")?;
    manifests.retain(|descriptor| !named(descriptor));
    manifests.push(manifest);
    if manifests.len() == 1 {
        index["annotations"] = json!(annotations);
    }
    replace(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    replace(&directory.join("index.json"), &serde_json::to_vec(&index)?)
}

/// Writes a layout with this image alone as a tar archive, which replaces the file.
pub(super) fn write_archive(
    checkpoint: &Checkpoint,
    description: &Description<'_>,
    file: &Path,
) -> anyhow::Result<()> {
    let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot write {}", file.display());
    let layout = tempfile::tempdir_in(beside).with_context(failed)?;
    write_layout(checkpoint, description, layout.path())?;
    let partial = tempfile::NamedTempFile::new_in(beside).with_context(failed)?;
    let mut tape = Tape::new(BufWriter::new(partial.as_file()));
    let mut blobs: Vec<_> = fs::read_dir(layout.path().join("blobs/sha256"))
        .and_then(Iterator::collect::<io::Result<_>>)
        .with_context(failed)?;
    blobs.sort_by_key(fs::DirEntry::file_name);
    let names = blobs.iter().map(|blob| format!("blobs/sha256/{}", blob.file_name().to_string_lossy()));
    for name in ["oci-layout".to_owned(), "index.json".to_owned()].into_iter().chain(names) {
        let mut from = File::open(layout.path().join(&name)).with_context(failed)?;
        let size = from.metadata().with_context(failed)?.len();
        tape.file(&name, 0o644, 0, size, &mut from).with_context(failed)?;
    }
    tape.end().and_then(|mut output| output.flush()).with_context(failed)?;
    partial.persist(file).with_context(failed)?;
    Ok(())
}

/// The index that is there, or a new one.
fn index(directory: &Path) -> anyhow::Result<Value> {
    let path = directory.join("index.json");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
        }
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let read = serde_json::from_reader(BufReader::new(file.take(MAX_INDEX)));
    read.with_context(|| format!("{} is no index of images", path.display()))
}

/// Writes a file in one step.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut partial = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    partial.write_all(bytes).with_context(failed)?;
    partial.persist(path).with_context(failed)?;
    Ok(())
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Writes a blob of JSON, and returns its descriptor.
fn write_json(blobs: &Path, media_type: &str, value: &Value) -> anyhow::Result<Value> {
    let bytes = serde_json::to_vec(value)?;
    let digest = hex(&Sha256::digest(&bytes));
    replace(&blobs.join(&digest), &bytes)?;
    Ok(descriptor(media_type, &format!("sha256:{digest}"), bytes.len() as u64))
}

/// Writes the layer, and returns its descriptor.
fn write_layer(checkpoint: &Checkpoint, blobs: &Path) -> anyhow::Result<Value> {
    let failed = || format!("cannot write the layer in {}", blobs.display());
    let partial = tempfile::NamedTempFile::new_in(blobs).with_context(failed)?;
    let hashed = Hashed { to: BufWriter::with_capacity(1 << 20, partial), hash: Sha256::new(), size: 0 };
    let mut tape = Tape::new(hashed);
    write_entries(checkpoint, &mut tape).with_context(failed)?;
    let Hashed { to, hash, size } = tape.end().with_context(failed)?;
    let partial = to.into_inner().map_err(io::IntoInnerError::into_error).with_context(failed)?;
    let digest = hex(&hash.finalize());
    partial.persist(blobs.join(&digest)).with_context(failed)?;
    Ok(descriptor(LAYER, &format!("sha256:{digest}"), size))
}

/// Writes all files, directories and links. What is neither is left out: an engine has no use for it.
fn write_entries(checkpoint: &Checkpoint, tape: &mut Tape<impl Write>) -> io::Result<()> {
    for entry in checkpoint.entries() {
        let modified = u64::try_from(entry.modified).unwrap_or(0);
        match &entry.kind {
            EntryKind::File => {
                tape.file(&entry.name, entry.mode, modified, entry.size, &mut checkpoint.body(entry))?;
            }
            EntryKind::Directory => tape.directory(&entry.name, entry.mode, modified)?,
            EntryKind::SymbolicLink(to) => tape.symbolic_link(&entry.name, entry.mode, modified, to)?,
            EntryKind::HardLink(to) => tape.hard_link(&entry.name, entry.mode, modified, to)?,
            EntryKind::Special => {}
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts and hashes what passes.
struct Hashed<W> {
    to: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
