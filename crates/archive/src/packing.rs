//! Compression of what is written.

use std::io::{self, Write};

use flate2::GzBuilder;
use flate2::write::GzEncoder;

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

impl Packing {
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
