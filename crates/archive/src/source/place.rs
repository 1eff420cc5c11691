//! Places, and what is there.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use super::archive::Archive;
use super::bytes::{Bytes, FileBytes, read_exact_at};
use super::compression::Compression;
use super::oci::{Image, is_layout};
use super::stream::{Stream, Tap};
use super::{Directory, Limits, Source, SourceError};

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// An archive, or a directory of images.
    Path(PathBuf),
    /// Standard input.
    Input,
    /// An image in a layout: a directory, or an archive of one.
    Image {
        /// The layout.
        path: PathBuf,
        /// The image's name or digest, where there are several.
        reference: Option<String>,
    },
}

/// Opens what is at a place, with the usual limits.
///
/// # Errors
/// Where it cannot be read, or is nothing that a checkpoint can be in.
pub fn open(place: &Place) -> Result<Box<dyn Source>, SourceError> {
    open_with(place, &Limits::default(), None)
}

/// Opens what is at a place. Where it must be read through to know what is in it, a tap sees the bodies of all files
/// pass; where not, it sees none, and all can be read afterwards.
///
/// # Errors
/// Where it cannot be read, or is nothing that a checkpoint can be in.
pub fn open_with(
    place: &Place,
    limits: &Limits,
    tap: Option<&mut dyn Tap>,
) -> Result<Box<dyn Source>, SourceError> {
    let source = at(place, limits, tap)?;
    if is_layout(source.entries()) {
        return Ok(Box::new(Image::inside(source.into(), None, limits)?));
    }
    Ok(source)
}

/// Opens an archive, with an image's layout in it or a checkpoint, and lists what is in it.
///
/// # Errors
/// As [`open`].
pub fn open_archive(path: &Path, limits: &Limits) -> Result<Box<dyn Source>, SourceError> {
    at(&Place::Path(path.to_owned()), limits, None)
}

fn at(place: &Place, limits: &Limits, tap: Option<&mut dyn Tap>) -> Result<Box<dyn Source>, SourceError> {
    let (name, file, start) = match place {
        Place::Path(path) => {
            let name = path.display().to_string();
            let failed = |source| SourceError::Place { place: name.clone(), source };
            if std::fs::metadata(path).map_err(failed)?.is_dir() {
                if path.join("oci-layout").is_file() && path.join("index.json").is_file() {
                    return Ok(Box::new(Image::open(path, None, limits)?));
                }
                return Ok(Box::new(Directory::open(path)?));
            }
            let file = File::open(path).map_err(failed)?;
            (name, file, 0)
        }
        Place::Image { path, reference } => {
            let reference = reference.as_deref();
            if path.is_dir() {
                return Ok(Box::new(Image::open(path, reference, limits)?));
            }
            let archive = open_archive(path, limits)?;
            return Ok(Box::new(Image::inside(archive.into(), reference, limits)?));
        }
        Place::Input => {
            let name = "-".to_owned();
            let failed = |source| SourceError::Place { place: name.clone(), source };
            let mut file = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
            // A pipe has no position.
            let start = file.stream_position().unwrap_or(0);
            (name, file, start)
        }
    };
    let failed = |source| SourceError::Place { place: name.clone(), source };
    let found = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {
            let bytes = FileBytes::new(file, start).map_err(failed)?;
            open_bytes(name, Arc::new(bytes), limits, tap)
        }
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice => {
            Ok(Box::new(Stream::pipe(name, Box::new(file), limits, tap)?))
        }
        _ => Err(SourceError::NoArchive { place: name }),
    }
}

/// Opens an archive that can be read at any place.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(
    name: String,
    bytes: Arc<dyn Bytes>,
    limits: &Limits,
    tap: Option<&mut dyn Tap>,
) -> Result<Box<dyn Source>, SourceError> {
    let mut start = vec![0; bytes.size().min(Compression::MAGIC as u64) as usize];
    read_exact_at(&*bytes, 0, &mut start)
        .map_err(|source| SourceError::Place { place: name.clone(), source })?;
    if Compression::of(&start).is_some() {
        return Ok(Box::new(Stream::open(name, bytes, limits, tap)?));
    }
    Ok(Box::new(Archive::open(name, bytes, limits)?))
}

/// Reads an archive from anything that gives its bytes in order.
///
/// # Errors
/// As [`open`].
pub fn open_stream(
    name: String,
    from: Box<dyn Read + Send>,
    limits: &Limits,
    tap: Option<&mut dyn Tap>,
) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Stream::pipe(name, from, limits, tap)?))
}
