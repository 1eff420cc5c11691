//! Layout directories.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::digest::Hashed;
use super::{
    Depot, Descriptor, Digest, Index, MAX_DOCUMENT, OciError, Origin, REF_NAME, Writer, document, parse,
};

/// Bytes that are gathered before they are written.
pub(super) const BUFFER: usize = 1 << 20;

/// A layout directory, and an image in it.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    tag: Option<String>,
}

impl Layout {
    /// The image of this tag in a directory. Without one: the only image there is, and `latest` for one that is written.
    #[must_use]
    pub fn new(path: &Path, tag: Option<&str>) -> Self {
        Self { path: path.to_owned(), tag: tag.map(str::to_owned) }
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Result<Option<Index>, OciError> {
        let place = self.path.display().to_string();
        let failed = |source| OciError::Read { place: place.clone(), entry: "index.json".to_owned(), source };
        let mut bytes = Vec::new();
        match File::open(self.path.join("index.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(failed)?,
        };
        parse(&place, "index.json", &bytes).map(Some)
    }
}

/// The image of a tag, or the only one.
pub(super) fn choose(place: &str, index: Index, tag: Option<&str>) -> Result<Descriptor, OciError> {
    let name = |descriptor: &Descriptor| descriptor.annotations.get(REF_NAME).cloned();
    let names = index.manifests.iter().map(|one| name(one).unwrap_or_else(|| one.digest.to_string()));
    let names: Vec<_> = names.collect();
    let missing =
        |tag: &str, names| OciError::NoImage { place: place.to_owned(), reference: tag.to_owned(), names };
    let Some(tag) = tag else {
        let mut all = index.manifests.into_iter();
        return match (all.next(), names.len()) {
            (Some(one), 1) => Ok(one),
            (None, _) => Err(missing("latest", names)),
            _ => Err(OciError::Several { place: place.to_owned(), names }),
        };
    };
    let named = |one: &Descriptor| name(one).as_deref() == Some(tag) || one.digest.to_string() == tag;
    index.manifests.into_iter().find(named).ok_or_else(|| missing(tag, names))
}

impl Origin for Layout {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn top(&self) -> Result<(Descriptor, Vec<u8>), OciError> {
        let place = Origin::name(self);
        let missing = || OciError::NoLayout { place: place.clone(), missing: "index.json".to_owned() };
        let descriptor = choose(&place, self.index()?.ok_or_else(missing)?, self.tag.as_deref())?;
        let bytes = document(self, &descriptor)?;
        Ok((descriptor, bytes))
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + '_>, OciError> {
        let entry = blob.digest.to_string();
        let failed = |source| OciError::Read { place: Origin::name(self), entry: entry.clone(), source };
        let mut file = File::open(self.blob(&blob.digest)).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        Ok(Box::new(file))
    }
}

impl Depot for Layout {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn has(&mut self, blob: &Descriptor, _: Option<&dyn Origin>) -> Result<bool, OciError> {
        Ok(fs::metadata(self.blob(&blob.digest))
            .is_ok_and(|found| found.is_file() && found.len() == blob.size))
    }

    fn put(
        &mut self,
        expected: Option<&Descriptor>,
        write: &mut Writer<'_>,
    ) -> Result<(Digest, u64), OciError> {
        let blobs = self.path.join("blobs/sha256");
        let failed = |source| OciError::Output { entry: blobs.display().to_string(), source };
        fs::create_dir_all(&blobs).map_err(failed)?;
        let partial = tempfile::NamedTempFile::new_in(&blobs).map_err(failed)?;
        let mut hashed = Hashed::new(BufWriter::with_capacity(BUFFER, partial));
        write(&mut hashed)?;
        let (output, digest, size) = hashed.finish();
        let partial = output.into_inner().map_err(|error| failed(error.into_error()))?;
        check(&Depot::name(self), expected, &digest)?;
        persist(partial, &self.blob(&digest)).map_err(failed)?;
        Ok((digest, size))
    }

    fn publish(
        &mut self,
        manifest: &Descriptor,
        bytes: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), OciError> {
        self.document(manifest, bytes)?;
        let index = self.index()?.unwrap_or_else(Index::empty);
        let tag = self.tag.as_deref().unwrap_or("latest");
        let index = index.with(manifest.clone(), tag, annotations, &Depot::name(self))?;
        for (name, bytes) in [("oci-layout", OCI_LAYOUT), ("index.json", &index[..])] {
            let failed =
                |source| OciError::Output { entry: self.path.join(name).display().to_string(), source };
            let mut partial = tempfile::NamedTempFile::new_in(&self.path).map_err(failed)?;
            partial.write_all(bytes).map_err(failed)?;
            persist(partial, &self.path.join(name)).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), OciError> {
        Ok(())
    }
}

/// What marks a directory as a layout.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Gives a file its name, and the permissions that files have.
fn persist(partial: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    partial.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    partial.persist(path).map(drop).map_err(|error| error.error)
}

/// Refuses a blob that is another than the expected one.
pub(super) fn check(place: &str, expected: Option<&Descriptor>, found: &Digest) -> Result<(), OciError> {
    match expected {
        Some(expected) if expected.digest != *found => Err(OciError::Digest {
            place: place.to_owned(),
            expected: expected.digest.clone(),
            found: found.clone(),
        }),
        _ => Ok(()),
    }
}
