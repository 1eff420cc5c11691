//! Reading images, files and segments.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::ReadError;
use crate::id::BlockId;
use crate::manifest::file::decode_entries;
use crate::manifest::{Body, FileEntry, FileKind, Manifest, SegmentRef};
use crate::repository::Repository;

fn output(entry: &FileEntry) -> impl Fn(io::Error) -> ReadError + '_ {
    |source| ReadError::Output { what: String::from_utf8_lossy(&entry.path).into_owned(), source }
}

fn size_of(entry: &FileEntry) -> u64 {
    match entry.kind {
        FileKind::File { size } => size,
        _ => 0,
    }
}

impl Repository {
    /// The body of an image.
    ///
    /// # Errors
    /// [`ReadError::NoSuchImage`], or where it is damaged.
    pub fn read_image(&self, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ReadError> {
        let image = manifest.images().iter().find(|image| image.name == name).ok_or_else(|| {
            ReadError::NoSuchImage {
                name: manifest.description().name.clone(),
                generation: manifest.description().generation,
                image: name.to_owned(),
            }
        })?;
        let mut bytes = Vec::new();
        self.each_run(&image.body, |_, run| {
            bytes.extend_from_slice(run);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The file entries, by section and path, one segment at a time.
    pub fn files<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> impl Iterator<Item = Result<FileEntry, ReadError>> + use<'a> {
        manifest.files.iter().flat_map(move |segment| {
            let entries = self.read_segment(manifest, segment).and_then(|bytes| {
                decode_entries(&bytes).map_err(|reason| self.damaged_segment(manifest, reason))
            });
            let (entries, error) = match entries {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            entries.into_iter().map(Ok).chain(error.map(Err))
        })
    }

    /// Writes a file's content, holes as zeros.
    ///
    /// # Errors
    /// Where the data is damaged or `to` fails.
    pub fn read_file(&self, entry: &FileEntry, to: &mut dyn Write) -> Result<(), ReadError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let fill = |to: &mut dyn Write, mut zeros: u64| {
            while zeros > 0 {
                let some = zeros.min(ZEROS.len() as u64) as usize;
                to.write_all(&ZEROS[..some]).map_err(output(entry))?;
                zeros -= some as u64;
            }
            Ok(())
        };
        let mut end = 0;
        self.each_run(&entry.body, |offset, run| {
            fill(to, offset - end)?;
            end = offset + run.len() as u64;
            to.write_all(run).map_err(output(entry))
        })?;
        fill(to, size_of(entry).saturating_sub(end))
    }

    /// Fills `into` from byte `offset` of a body on; holes, and what lies beyond the last run, are zeros.
    ///
    /// # Errors
    /// Where the data is damaged.
    pub fn read_body_at(&self, body: &Body, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        into.fill(0);
        let end = offset.saturating_add(into.len() as u64);
        let from = body.runs.partition_point(|run| run.offset.saturating_add(run.len) <= offset);
        let runs = body.runs[from..].iter().take_while(|run| run.offset < end);
        let wanted = Body { runs: runs.copied().collect() };
        self.each_run(&wanted, |start, run| {
            let skipped = offset.saturating_sub(start).min(run.len() as u64) as usize;
            let at = (start + skipped as u64 - offset) as usize;
            let length = (run.len() - skipped).min(into.len() - at);
            into[at..at + length].copy_from_slice(&run[skipped..skipped + length]);
            Ok(())
        })
    }

    /// Writes the data of a body, range after range, without its holes.
    ///
    /// # Errors
    /// Where the data is damaged or `to` fails.
    pub fn read_data(&self, body: &Body, to: &mut dyn Write) -> Result<(), ReadError> {
        self.each_run(body, |_, run| {
            to.write_all(run).map_err(|source| ReadError::Output { what: "a file".to_owned(), source })
        })
    }

    /// Puts a file's content back, holes as holes, and sets its size. `to` should be empty.
    ///
    /// # Errors
    /// Where the data is damaged or `to` fails.
    pub fn restore_file(&self, entry: &FileEntry, to: &File) -> Result<(), ReadError> {
        self.each_run(&entry.body, |offset, run| to.write_all_at(run, offset).map_err(output(entry)))?;
        to.set_len(size_of(entry)).map_err(output(entry))
    }

    /// Calls back with every run of a body and its offset, in order.
    fn each_run(
        &self,
        body: &Body,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        for run in &body.runs {
            let block = self.read_block(run.pieces.block)?;
            let bytes = block.pieces(run.pieces.block, run.pieces.first, run.pieces.count)?;
            if bytes.len() as u64 != run.len {
                return Err(ReadError::Damaged {
                    object: "a manifest".to_owned(),
                    reason: format!("its pieces of block {} are not as long as it says", run.pieces.block),
                });
            }
            each(run.offset, bytes)?;
        }
        Ok(())
    }

    /// The bytes of a segment.
    pub(crate) fn read_segment(
        &self,
        manifest: &Manifest,
        segment: &SegmentRef,
    ) -> Result<Vec<u8>, ReadError> {
        let block = self.read_block(segment.block)?;
        let bytes = block.pieces(segment.block, segment.piece, 1)?;
        if bytes.len() != segment.size as usize {
            return Err(self.damaged_segment(manifest, "a segment is not as long as it says".to_owned()));
        }
        Ok(bytes.to_vec())
    }

    pub(crate) fn damaged_segment(&self, manifest: &Manifest, reason: String) -> ReadError {
        ReadError::Damaged { object: format!("manifest {}", manifest.id()), reason }
    }

    /// Every block a generation needs, its segments' own included, sorted, each once: what collection keeps.
    ///
    /// # Errors
    /// Where a segment is missing or damaged.
    pub fn blocks(&self, manifest: &Manifest) -> Result<Vec<BlockId>, ReadError> {
        let mut blocks: Vec<BlockId> = Vec::new();
        for image in manifest.images() {
            blocks.extend(image.body.runs.iter().map(|run| run.pieces.block));
        }
        blocks.extend(manifest.files.iter().map(|segment| segment.block));
        for entry in self.files(manifest) {
            blocks.extend(entry?.body.runs.iter().map(|run| run.pieces.block));
        }
        for object in manifest.memory() {
            blocks.extend(object.segments.iter().map(|segment| segment.block));
            for extent in self.memory(manifest, object.id)?.extents()? {
                if let crate::manifest::Source::Block { block, .. } = extent.source {
                    blocks.push(block);
                }
            }
            blocks.sort_unstable();
            blocks.dedup();
        }
        blocks.sort_unstable();
        blocks.dedup();
        Ok(blocks)
    }
}
