//! Archives made for tests.

use std::io::Write;

use torpor_archive::source::Compression;

/// All compressions.
pub(crate) const COMPRESSIONS: [Compression; 5] =
    [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd, Compression::Lz4];

/// A tar archive that is being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tape(Vec<u8>);

impl Tape {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header as it stands, with its checksum.
    pub(crate) fn header(mut self, name: &[u8], kind: u8, size: &[u8], link: &[u8]) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000600\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..124 + size.len()].copy_from_slice(size);
        block[136..148].copy_from_slice(b"15040000000\0");
        block[148..156].fill(b' ');
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    /// Bytes as they stand.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A body, with the zeros that fill its last block.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        let filled = body.len().next_multiple_of(512);
        self.raw(body).raw(&vec![0; filled - body.len()])
    }

    pub(crate) fn entry(self, name: &str, kind: u8, body: &[u8]) -> Self {
        let size = format!("{:011o}\0", body.len());
        self.header(name.as_bytes(), kind, size.as_bytes(), b"").body(body)
    }

    pub(crate) fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(name, b'0', body)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(name, b'5', b"")
    }

    pub(crate) fn link(self, name: &str, to: &str) -> Self {
        self.header(name.as_bytes(), b'2', b"00000000000\0", to.as_bytes())
    }

    /// The archive without its end.
    pub(crate) fn bare(self) -> Vec<u8> {
        self.0
    }

    /// The archive.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// Compresses.
pub(crate) fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let frame = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}
