//! Compressed streams, found by what they begin with.
//!
//! Formats: gzip (RFC 1952), bzip2, xz (tukaani.org, "The .xz File Format"), Zstandard (RFC 8878), the LZ4 frame format
//! (lz4's `doc/lz4_Frame_format.md`).

use std::fmt;
use std::io::{self, Read};

mod input;

use input::Input;

use super::Limits;

/// Least bytes between two places at which reading can start again.
const RESTART_GAP: u64 = 1 << 20;
/// Most of these places.
const MAX_RESTARTS: usize = 1 << 16;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// gzip: each member has a checksum (CRC-32) and its length.
    Gzip,
    /// bzip2: each block has a checksum (CRC-32).
    Bzip2,
    /// xz: each block has a checksum, as a rule.
    Xz,
    /// Zstandard: a frame may have a checksum.
    Zstd,
    /// LZ4 frames: blocks and frames may have checksums.
    Lz4,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        })
    }
}

impl Compression {
    /// Most bytes that [`Compression::of`] looks at.
    pub(crate) const MAGIC: usize = 6;

    /// How a stream that begins like this is compressed, if it is.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// A stream unpacks to more than it may.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than {limit} bytes")]
pub(crate) struct TooMuch {
    pub(crate) packed: u64,
    pub(crate) limit: u64,
}

/// A stream cannot be unpacked with as little memory as it may take.
#[derive(Debug, thiserror::Error)]
#[error("it takes a window of more than {limit} bytes to unpack")]
pub(crate) struct TooWide {
    pub(crate) limit: u64,
}

/// What is underneath cannot be read: the stream is not to blame.
#[derive(Debug, thiserror::Error)]
#[error("cannot read on")]
pub(crate) struct Below(#[source] pub(crate) io::Error);

/// A place at which reading can start without what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(crate) packed: u64,
    pub(crate) unpacked: u64,
}

enum Decoder<'a> {
    /// Nothing is compressed.
    Plain(Input<'a>),
    /// Before a member, frame or stream.
    Between(Input<'a>),
    Gzip(Box<flate2::bufread::GzDecoder<Input<'a>>>),
    Bzip2(bzip2::bufread::BzDecoder<Input<'a>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<'a>>),
    Xz(Box<lzma_rust2::XzReader<Input<'a>>>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Input<'a>>>),
    /// It failed, or ended: decoders are not asked again.
    Over,
}

/// A stream that is being unpacked.
pub(crate) struct Unpacker<'a> {
    compression: Option<Compression>,
    decoder: Decoder<'a>,
    limits: Limits,
    /// Compressed bytes there are, where that is known.
    packed_size: Option<u64>,
    /// Bytes that came out, counted from the start of the whole stream.
    unpacked: u64,
    restarts: Vec<Restart>,
    /// Where compressed data ended and something else began.
    trailing: Option<u64>,
    /// Every member so far has a checksum of its content.
    checked: bool,
}

impl fmt::Debug for Unpacker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl<'a> Unpacker<'a> {
    /// Unpacks a stream from its start on, of `packed_size` bytes if that is known.
    pub(crate) fn new(
        from: Box<dyn Read + Send + 'a>,
        packed_size: Option<u64>,
        limits: &Limits,
    ) -> io::Result<Self> {
        let mut input = Input::new(from, 0);
        let compression = Compression::of(input.peek(Compression::MAGIC)?);
        Ok(Self::begin(input, compression, packed_size, limits, 0))
    }

    /// Goes on at a place that an earlier pass found; `from` begins there.
    pub(crate) fn restart(
        from: Box<dyn Read + Send + 'a>,
        at: Restart,
        compression: Compression,
        packed_size: Option<u64>,
        limits: &Limits,
    ) -> Self {
        Self::begin(Input::new(from, at.packed), Some(compression), packed_size, limits, at.unpacked)
    }

    fn begin(
        input: Input<'a>,
        compression: Option<Compression>,
        packed_size: Option<u64>,
        limits: &Limits,
        unpacked: u64,
    ) -> Self {
        let decoder = if compression.is_some() { Decoder::Between(input) } else { Decoder::Plain(input) };
        let limits = limits.clone();
        Self {
            compression,
            decoder,
            limits,
            packed_size,
            unpacked,
            restarts: Vec::new(),
            trailing: None,
            checked: true,
        }
    }

    /// How it is compressed.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// Bytes that came out so far, counted from the start of the whole stream.
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Places found so far at which reading can start again.
    pub(crate) fn take_restarts(&mut self) -> Vec<Restart> {
        std::mem::take(&mut self.restarts)
    }

    /// Where something follows the compressed data that is none, once that was found.
    pub(crate) fn trailing(&self) -> Option<u64> {
        self.trailing
    }

    /// Whether all content so far has checksums.
    pub(crate) fn has_checksums(&self) -> bool {
        self.checked
    }

    /// Starts the next member; false where there is none.
    fn start(&mut self, mut input: Input<'a>) -> io::Result<bool> {
        let first = input.consumed() == 0;
        loop {
            let magic = input.peek(Compression::MAGIC)?;
            if magic.is_empty() {
                return Ok(false);
            }
            if Compression::of(magic) != self.compression {
                // Zeros fill the last block of a tape.
                if input.peek(512)?.iter().any(|byte| *byte != 0) {
                    self.trailing = Some(input.consumed());
                }
                return Ok(false);
            }
            let skippable = self.compression == Some(Compression::Zstd) && magic[0] != 0x28;
            if !skippable {
                break;
            }
            let header: [u8; 8] = match input.peek(8)?.try_into() {
                Ok(header) => header,
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            input.pass(8 + u64::from(length))?;
        }
        self.checked &= has_checksum(self.compression, input.peek(8)?);
        let packed = input.consumed();
        let gap = self.restarts.last().is_none_or(|last| self.unpacked - last.unpacked >= RESTART_GAP);
        if !first && gap && self.restarts.len() < MAX_RESTARTS {
            self.restarts.push(Restart { packed, unpacked: self.unpacked });
        }
        self.decoder = match self.compression {
            Some(Compression::Gzip) => Decoder::Gzip(Box::new(flate2::bufread::GzDecoder::new(input))),
            Some(Compression::Bzip2) => Decoder::Bzip2(bzip2::bufread::BzDecoder::new(input)),
            Some(Compression::Xz) => {
                let kibibytes = u32::try_from(self.limits.window >> 10).unwrap_or(u32::MAX - 1);
                let reader = lzma_rust2::XzReader::new_mem_limit(input, true, kibibytes.saturating_add(1024));
                Decoder::Xz(Box::new(reader))
            }
            Some(Compression::Zstd) => {
                let window = zstd_window(input.peek(14)?);
                if window.is_some_and(|window| window > self.limits.window) {
                    return Err(io::Error::other(TooWide { limit: self.limits.window }));
                }
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(31.min(self.limits.window.next_power_of_two().ilog2().max(10)))?;
                Decoder::Zstd(decoder.single_frame())
            }
            Some(Compression::Lz4) => Decoder::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(input))),
            None => Decoder::Plain(input),
        };
        Ok(true)
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.decoder {
                Decoder::Over => return Ok(0),
                Decoder::Between(_) => 0,
                Decoder::Plain(input) => return input.read(into),
                Decoder::Gzip(decoder) => decoder.read(into)?,
                Decoder::Bzip2(decoder) => decoder.read(into)?,
                Decoder::Zstd(decoder) => decoder.read(into)?,
                Decoder::Xz(decoder) => decoder.read(into).map_err(|error| self.narrow(error))?,
                Decoder::Lz4(decoder) => decoder.read(into)?,
            };
            if read > 0 {
                return Ok(read);
            }
            let input = match std::mem::replace(&mut self.decoder, Decoder::Over) {
                Decoder::Between(input) => input,
                Decoder::Gzip(decoder) => decoder.into_inner(),
                Decoder::Bzip2(decoder) => decoder.into_inner(),
                Decoder::Zstd(decoder) => decoder.finish(),
                // These two read stream after stream by themselves.
                Decoder::Xz(_) | Decoder::Lz4(_) | Decoder::Plain(_) | Decoder::Over => return Ok(0),
            };
            if !self.start(input)? {
                return Ok(0);
            }
        }
    }

    fn narrow(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::OutOfMemory {
            return io::Error::other(TooWide { limit: self.limits.window });
        }
        error
    }

    /// Compressed bytes there are, as far as is known.
    fn packed(&self) -> u64 {
        let consumed = match &self.decoder {
            Decoder::Plain(input) | Decoder::Between(input) => input.consumed(),
            Decoder::Gzip(decoder) => decoder.get_ref().consumed(),
            Decoder::Bzip2(decoder) => decoder.get_ref().consumed(),
            Decoder::Zstd(decoder) => decoder.get_ref().consumed(),
            Decoder::Xz(decoder) => decoder.inner().consumed(),
            Decoder::Lz4(decoder) => decoder.get_ref().consumed(),
            Decoder::Over => 0,
        };
        self.packed_size.unwrap_or(consumed)
    }
}

impl Read for Unpacker<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        match self.read_some(into) {
            Ok(read) => {
                self.unpacked = self.unpacked.saturating_add(read as u64);
                let limit = self.limits.unpacked_from(self.packed());
                if self.compression.is_some() && self.unpacked > limit {
                    let packed = self.packed();
                    self.decoder = Decoder::Over;
                    return Err(io::Error::other(TooMuch { packed, limit }));
                }
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.decoder = Decoder::Over;
                Err(error)
            }
        }
    }
}

/// Whether a member that begins like this has a checksum of its content. Of xz and LZ4 streams only the first is asked.
fn has_checksum(compression: Option<Compression>, header: &[u8]) -> bool {
    let byte = |at: usize| header.get(at).copied().unwrap_or(0);
    match compression {
        Some(Compression::Gzip | Compression::Bzip2) => true,
        Some(Compression::Xz) => byte(7) & 0xf != 0,
        Some(Compression::Zstd) => byte(4) & 4 != 0,
        Some(Compression::Lz4) => byte(4) & 0x14 != 0,
        None => false,
    }
}

/// How far back a Zstandard frame that begins like this reaches, in bytes.
fn zstd_window(header: &[u8]) -> Option<u64> {
    let (descriptor, rest) = header.get(4..)?.split_first()?;
    let window = *rest.first()?;
    if descriptor & 0x20 == 0 {
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // One segment: the window is the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = rest.get(dictionary..)?;
    let number = |bytes: usize| {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(content.get(..bytes)?);
        Some(u64::from_le_bytes(number))
    };
    match descriptor >> 6 {
        0 => number(1),
        1 => number(2).map(|size| size + 256),
        2 => number(4),
        _ => number(8),
    }
}
/// What a stream unpacks to, and how it is compressed, if it is.
///
/// # Errors
/// Where its beginning cannot be read.
pub fn unpack(
    from: Box<dyn Read + Send>,
    packed_size: u64,
    limits: &Limits,
) -> io::Result<(impl Read + use<>, Option<Compression>)> {
    let unpacker = Unpacker::new(from, Some(packed_size), limits)?;
    let compression = unpacker.compression();
    Ok((unpacker, compression))
}
