//! Compression of what is written.

use std::io::{self, Write};

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use torpor_criu::image::{Kind, Name};

use crate::Checkpoint;
use crate::source::{Entry, SourceError};

/// How a stream that is written is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// Not at all.
    #[default]
    None,
    /// gzip, with neither a name nor a time in its header.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Much of a checkpoint is memory that hardly shrinks: higher levels take long and save little.
const ZSTD_LEVEL: i32 = 1;

/// How much memory is worth asking whether it gets smaller, in bytes.
const WORTH_ASKING: u64 = 64 << 20;
/// How many samples are taken, of how many bytes.
const SAMPLES: u64 = 64;
const SAMPLE: usize = 64 << 10;
/// The part of samples, one in so many, that compression must save.
const SAVED: usize = 16;

impl Packing {
    /// What is best for a checkpoint: Zstandard, or nothing where most of it is memory that does not get smaller, as samples tell. Where
    /// samples cannot be taken, because it is compressed itself or a pipe, Zstandard.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn best_for(checkpoint: &Checkpoint) -> Result<Self, SourceError> {
        let source = checkpoint.source();
        let is_memory = |entry: &&Entry| {
            Name::parse(entry.name.rsplit('/').next().unwrap_or_default())
                .is_some_and(|name| name.kind == Kind::Pages)
        };
        let memory: Vec<&Entry> = checkpoint.entries().iter().filter(is_memory).collect();
        let size: u64 = memory.iter().map(|entry| entry.size).sum();
        let all: u64 = checkpoint.entries().iter().map(|entry| entry.size).sum();
        if size < WORTH_ASKING || size < all / 2 || !source.random_access() {
            return Ok(Self::Zstd);
        }
        let (mut read, mut packed) = (0, 0);
        let mut sample = vec![0; SAMPLE];
        for number in 0..SAMPLES {
            let mut at = size / SAMPLES * number;
            let Some(entry) = memory.iter().find(|entry| {
                let inside = at < entry.size;
                at = if inside { at } else { at - entry.size };
                inside
            }) else {
                continue;
            };
            let length = SAMPLE.min(usize::try_from(entry.size - at).unwrap_or(SAMPLE));
            let sample = &mut sample[..length];
            source.read_at(entry, at, sample)?;
            read += length;
            packed +=
                zstd::bulk::compress(sample, ZSTD_LEVEL).map_or(length, |small| small.len().min(length));
        }
        Ok(if read - packed < read / SAVED { Self::None } else { Self::Zstd })
    }

    /// Begins a stream. The same bytes come out as the same bytes.
    ///
    /// # Errors
    /// Where there is no memory for an encoder.
    pub fn begin<W: Write>(self, output: W) -> io::Result<Packed<W>> {
        Ok(Packed(match self {
            Self::None => Inner::Plain(output),
            Self::Gzip => {
                Inner::Gzip(Box::new(GzBuilder::new().mtime(0).write(output, flate2::Compression::fast())))
            }
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(output, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Inner::Zstd(Box::new(encoder))
            }
        }))
    }
}

/// A stream that is compressed as it is written.
pub struct Packed<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(Box<GzEncoder<W>>),
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> std::fmt::Debug for Packed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::Plain(_) => "Packed(plain)",
            Inner::Gzip(_) => "Packed(gzip)",
            Inner::Zstd(_) => "Packed(zstd)",
        })
    }
}

impl<W: Write> Packed<W> {
    /// Ends the stream, and gives the output back.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(output) => Ok(output),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Packed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(output) => output.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(output) => output.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Compression;

    fn checkpoint(memory: &[u8]) -> Checkpoint {
        let mut tape = crate::tape::Tape::new(Vec::new());
        for (name, body) in [("inventory.img", &b"inventory"[..]), ("pages-1.img", memory)] {
            tape.file(&format!("checkpoint/{name}"), 0o600, 0, body.len() as u64, &mut &body[..]).unwrap();
        }
        let archive = std::sync::Arc::new(tape.end().unwrap());
        let limits = crate::source::Limits::default();
        let source = crate::source::open_bytes("it.tar".to_owned(), archive, &limits, None).unwrap();
        Checkpoint::new(source).unwrap()
    }

    #[test]
    fn memory_that_does_not_get_smaller_is_left_as_it_is() {
        let size = usize::try_from(WORTH_ASKING).unwrap() + SAMPLE;
        let mut state = 1_u64;
        let chance: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(size)
        .collect();
        assert_eq!(Packing::best_for(&checkpoint(&chance)).unwrap(), Packing::None);
        let mut half = chance.clone();
        half[..size / 2].fill(7);
        assert_eq!(Packing::best_for(&checkpoint(&half)).unwrap(), Packing::Zstd);
        assert_eq!(Packing::best_for(&checkpoint(&chance[..1 << 20])).unwrap(), Packing::Zstd, "too little");
    }

    #[test]
    fn the_same_goes_in_and_comes_out() {
        for (packing, compression) in [
            (Packing::None, None),
            (Packing::Gzip, Some(Compression::Gzip)),
            (Packing::Zstd, Some(Compression::Zstd)),
        ] {
            let pack = || {
                let mut stream = packing.begin(Vec::new()).unwrap();
                stream.write_all(&b"memory ".repeat(100)).unwrap();
                stream.finish().unwrap()
            };
            assert_eq!(Compression::of(&pack()), compression);
            assert_eq!(pack(), pack());
        }
    }
}
