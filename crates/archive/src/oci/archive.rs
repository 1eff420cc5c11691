//! Archives of layouts.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::digest::Hashed;
use super::layout::{BUFFER, OCI_LAYOUT, check, choose};
use super::{Depot, Descriptor, Digest, Index, MAX_DOCUMENT, OciError, Origin, Writer, document, parse};
use crate::source::{Body, Entry, Source};
use crate::tape::{BLOCK, Tape, file_header};

/// An image in an archive.
#[derive(Debug)]
pub struct ArchiveOrigin {
    archive: Arc<dyn Source>,
    tag: Option<String>,
}

impl ArchiveOrigin {
    /// The image of this tag, or the only one.
    #[must_use]
    pub fn new(archive: Arc<dyn Source>, tag: Option<&str>) -> Self {
        Self { archive, tag: tag.map(str::to_owned) }
    }

    fn entry(&self, name: &str) -> Result<&Entry, OciError> {
        let missing = || OciError::NoLayout { place: self.name(), missing: name.to_owned() };
        self.archive.entries().iter().find(|entry| entry.name == name).ok_or_else(missing)
    }
}

impl Origin for ArchiveOrigin {
    fn name(&self) -> String {
        self.archive.name().to_owned()
    }

    fn top(&self) -> Result<(Descriptor, Vec<u8>), OciError> {
        let index = self.entry("index.json")?;
        if index.size > MAX_DOCUMENT {
            return Err(OciError::TooLarge {
                place: self.name(),
                entry: index.name.clone(),
                size: index.size,
            });
        }
        let mut bytes = vec![0; index.size as usize];
        self.archive.read_at(index, 0, &mut bytes)?;
        let index = parse(&self.name(), "index.json", &bytes)?;
        let descriptor = choose(&self.name(), index, self.tag.as_deref())?;
        let bytes = document(self, &descriptor)?;
        Ok((descriptor, bytes))
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + '_>, OciError> {
        let entry = self.entry(&format!("blobs/sha256/{}", blob.digest.hex()))?;
        Ok(Box::new(Body::new(&*self.archive, entry).starting_at(offset)))
    }
}

/// An archive with a layout of one image, which is there once it is whole.
///
/// A header of a tar archive says the size and the name of what follows, and both are known only afterwards: it is written last, into
/// the room that was left for it. So no blob is kept anywhere else.
#[derive(Debug)]
pub struct ArchiveDepot {
    path: PathBuf,
    tag: String,
    output: BufWriter<NamedTempFile>,
    at: u64,
    there: HashSet<Digest>,
}

impl ArchiveDepot {
    /// Begins an archive.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn create(path: &Path, tag: Option<&str>) -> Result<Self, OciError> {
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = NamedTempFile::new_in(beside)
            .map_err(|source| OciError::Output { entry: path.display().to_string(), source })?;
        let output = BufWriter::with_capacity(BUFFER, partial);
        let tag = tag.unwrap_or("latest").to_owned();
        Ok(Self { path: path.to_owned(), tag, output, at: 0, there: HashSet::new() })
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> OciError + use<> {
        let entry = self.path.display().to_string();
        move |source| OciError::Output { entry: entry.clone(), source }
    }

    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), OciError> {
        let failed = self.failed();
        let mut tape = Tape::new(&mut self.output);
        tape.file(name, 0o644, 0, bytes.len() as u64, &mut &bytes[..]).map_err(failed)?;
        self.at += (BLOCK + bytes.len().next_multiple_of(BLOCK)) as u64;
        Ok(())
    }
}

impl Depot for ArchiveDepot {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn has(&mut self, blob: &Descriptor, _: Option<&dyn Origin>) -> Result<bool, OciError> {
        Ok(self.there.contains(&blob.digest))
    }

    fn put(
        &mut self,
        expected: Option<&Descriptor>,
        write: &mut Writer<'_>,
    ) -> Result<(Digest, u64), OciError> {
        let failed = self.failed();
        let start = self.at;
        self.output.write_all(&[0; BLOCK]).map_err(&failed)?;
        let mut hashed = Hashed::new(&mut self.output);
        write(&mut hashed)?;
        let (_, digest, size) = hashed.finish();
        check(&self.name(), expected, &digest)?;
        if !self.there.insert(digest.clone()) {
            // It was written before: this one is taken back.
            self.output.seek(SeekFrom::Start(start)).map_err(&failed)?;
            return Ok((digest, size));
        }
        let filled = size.next_multiple_of(BLOCK as u64);
        self.output.write_all(&[0; BLOCK][..(filled - size) as usize]).map_err(&failed)?;
        let header = file_header(&format!("blobs/sha256/{}", digest.hex()), size);
        self.output.seek(SeekFrom::Start(start)).map_err(&failed)?;
        self.output.write_all(&header).map_err(&failed)?;
        self.at = start + BLOCK as u64 + filled;
        self.output.seek(SeekFrom::Start(self.at)).map_err(&failed)?;
        Ok((digest, size))
    }

    fn publish(
        &mut self,
        manifest: &Descriptor,
        bytes: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), OciError> {
        self.document(manifest, bytes)?;
        let index = Index::empty().with(manifest.clone(), &self.tag, annotations, &self.name())?;
        self.small("oci-layout", OCI_LAYOUT)?;
        self.small("index.json", &index)
    }

    fn finish(self: Box<Self>) -> Result<(), OciError> {
        let failed = self.failed();
        let mut output = Tape::new(self.output).end().map_err(&failed)?;
        output.flush().map_err(&failed)?;
        let end = self.at + 2 * BLOCK as u64;
        let partial = output.into_inner().map_err(|error| failed(error.into_error()))?;
        // What was taken back may reach beyond the end.
        partial.as_file().set_len(end).map_err(&failed)?;
        partial.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
