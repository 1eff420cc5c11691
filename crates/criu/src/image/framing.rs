//! Entries: how messages and raw bytes lie in an image.

use std::io::{self, Read, Write};

use super::{Extra, Framing, ImageError, Kind, Record};
use crate::wire::{Message, WireError};

/// The first number of most images (CRIU `criu/include/magic.h`).
pub(super) const COMMON_MAGIC: u32 = 0x5456_4319;
/// The first number of images about a run of CRIU.
pub(super) const SERVICE_MAGIC: u32 = 0x5510_5940;

/// How much an image may ask for. Memory is taken only as bytes really arrive, so that a size that lies costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, in bytes.
    pub message: u32,
    /// Largest payload after one message, in bytes.
    pub payload: u64,
    /// Most entries in one image.
    pub entries: u64,
}

impl Default for Limits {
    /// Far beyond what real programs need: messages of 64 MiB (a process with half a million mappings is one message), payloads of
    /// 256 MiB, 64 Mi entries.
    fn default() -> Self {
        Self { message: 64 << 20, payload: 256 << 20, entries: 64 << 20 }
    }
}

/// One message of an image and the raw bytes that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the entry starts, in bytes from the start of the image.
    pub offset: u64,
    /// The encoded message.
    pub message: &'a [u8],
    /// What follows it; empty for most kinds.
    pub extra: &'a [u8],
}

/// Takes an image apart into its entries.
#[derive(Debug)]
pub struct ImageReader<R> {
    kind: Kind,
    input: R,
    limits: Limits,
    /// Bytes read so far.
    offset: u64,
    entries: u64,
    head: Vec<u8>,
    message: Vec<u8>,
    extra: Vec<u8>,
    /// Inside a removed file that is stored in chunks.
    in_chunks: bool,
}

impl<R: Read> ImageReader<R> {
    /// Starts reading an image, whose magic has to be the one of `kind`.
    ///
    /// # Errors
    ///
    /// When the kind is raw, or the magic is another.
    pub fn new(kind: Kind, input: R, limits: Limits) -> Result<Self, ImageError> {
        let mut reader = Self {
            kind,
            input,
            limits,
            offset: 0,
            entries: 0,
            head: Vec::new(),
            message: Vec::new(),
            extra: Vec::new(),
            in_chunks: false,
        };
        let row = kind.description();
        let outer = match row.framing {
            Framing::Raw => return Err(ImageError::Raw { kind }),
            Framing::Magic => None,
            Framing::Common => Some(COMMON_MAGIC),
            Framing::Service => Some(SERVICE_MAGIC),
        };
        let mut found = reader.read_u32("its magic")?;
        if outer == Some(found) {
            reader.head.extend(found.to_le_bytes());
            found = reader.read_u32("its magic")?;
        }
        if found != row.magic {
            let expected = if reader.head.is_empty() { outer.unwrap_or(row.magic) } else { row.magic };
            return Err(ImageError::Magic { kind, found, expected });
        }
        reader.head.extend(found.to_le_bytes());
        Ok(reader)
    }

    /// Goes on in the middle of an image, where an entry starts: `offset` bytes from the start of the image, where `input` is, too.
    pub fn resume(kind: Kind, input: R, limits: Limits, offset: u64) -> Self {
        Self {
            kind,
            input,
            limits,
            offset,
            entries: 0,
            head: Vec::new(),
            message: Vec::new(),
            extra: Vec::new(),
            in_chunks: false,
        }
    }

    /// Bytes read so far, from the start of the image.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The kind of the image.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What stands before the first entry: four bytes in checkpoints of version 1, eight in others.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The next entry, or `None` after the last.
    ///
    /// # Errors
    ///
    /// When the image is cut short, damaged, larger than the limits allow, or cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ImageError> {
        let offset = self.offset;
        if !self.read_message()? {
            return Ok(None);
        }
        self.read_extra(offset)?;
        Ok(Some(Entry { offset, message: &self.message, extra: &self.extra }))
    }

    /// The next entry as a message of type `M`, its payload read and dropped.
    ///
    /// # Errors
    ///
    /// Those of [`Self::next_entry`], and when the message is of another type.
    pub fn next_message<M: prost::Message + Default>(&mut self) -> Result<Option<M>, ImageError> {
        let kind = self.kind;
        let Some(entry) = self.next_entry()? else { return Ok(None) };
        let decoded = M::decode(entry.message);
        decoded.map(Some).map_err(|source| ImageError::Message { kind, offset: entry.offset, source })
    }

    /// The next entry's message, without its payload, which is left in the input: nothing more can be read after it from kinds that
    /// have payloads.
    ///
    /// # Errors
    ///
    /// As [`Self::next_message`].
    pub fn next_head<M: Record>(&mut self) -> Result<Option<M>, ImageError> {
        let (kind, offset) = (self.kind, self.offset);
        if !self.read_message()? {
            return Ok(None);
        }
        let decoded = M::decode(self.message.as_slice());
        decoded.map(Some).map_err(|source| ImageError::Message { kind, offset, source })
    }

    /// Reads size and message; false at the end of the image.
    fn read_message(&mut self) -> Result<bool, ImageError> {
        let Self { kind, offset, .. } = *self;
        let mut size = [0; 4];
        match self.fill(&mut size)? {
            0 => return Ok(false),
            4 => {}
            _ => return Err(ImageError::Truncated { kind, offset, part: "the size of an entry" }),
        }
        if self.entries == self.limits.entries {
            return Err(ImageError::TooMany { kind, limit: self.limits.entries });
        }
        self.entries += 1;
        let size = u32::from_le_bytes(size);
        self.message.clear();
        let mut message = std::mem::take(&mut self.message);
        let result =
            self.append(&mut message, u64::from(size), u64::from(self.limits.message), offset, "a message");
        self.message = message;
        result.map(|()| true)
    }

    fn read_extra(&mut self, offset: u64) -> Result<(), ImageError> {
        let kind = self.kind;
        let mut extra = std::mem::take(&mut self.extra);
        extra.clear();
        let result = match kind.description().extra {
            Extra::None => Ok(()),
            Extra::MessageQueue => self.append_queue(&mut extra, offset),
            Extra::RemovedFile => self.append_removed_file(&mut extra, offset),
            rule => payload_size(rule, &self.message)
                .map_err(|source| ImageError::Wire { kind, offset, source })
                .and_then(|size| self.append(&mut extra, size, self.limits.payload, offset, "a payload")),
        };
        self.extra = extra;
        result
    }

    /// The messages of one System V queue: size, message and body each.
    fn append_queue(&mut self, extra: &mut Vec<u8>, offset: u64) -> Result<(), ImageError> {
        let kind = self.kind;
        let wire = |source| ImageError::Wire { kind, offset, source };
        let queued = Message::parse(&self.message).and_then(|queue| queue.u32(3)).map_err(wire)?.unwrap_or(0);
        for _ in 0..queued {
            let limit = self.limits.payload.saturating_sub(extra.len() as u64);
            self.append(extra, 4, limit, offset, "a queued message")?;
            let size = extra.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let start = extra.len();
            self.append(extra, u64::from(size), limit, offset, "a queued message")?;
            let body = Message::parse(&extra[start..]).and_then(|message| message.u32(2)).map_err(wire)?;
            let body = u64::from(body.unwrap_or(0)).next_multiple_of(8);
            self.append(extra, body, limit, offset, "a queued message")?;
        }
        Ok(())
    }

    fn append_removed_file(&mut self, extra: &mut Vec<u8>, offset: u64) -> Result<(), ImageError> {
        let kind = self.kind;
        let message = Message::parse(&self.message);
        let field = |number| {
            message
                .as_ref()
                .map_err(WireError::clone)
                .and_then(|message| message.varint(number))
                .map_err(|source| ImageError::Wire { kind, offset, source })
        };
        if self.in_chunks {
            let length = field(1)?.unwrap_or(0);
            return self.append(extra, length, self.limits.payload, offset, "a chunk");
        }
        if field(9)?.is_some_and(|chunks| chunks != 0) {
            self.in_chunks = true;
            return Ok(());
        }
        let limit = self.limits.payload;
        let read = (&mut self.input).take(limit.saturating_add(1)).read_to_end(extra);
        let size = read.map_err(|source| ImageError::Io { kind, offset: self.offset, source })? as u64;
        self.offset += size;
        if size > limit {
            return Err(ImageError::TooLarge { kind, offset, part: "a payload", size, limit });
        }
        Ok(())
    }

    /// Appends exactly `size` bytes of the input. Memory grows with what arrives, not with what `size` claims.
    fn append(
        &mut self,
        to: &mut Vec<u8>,
        size: u64,
        limit: u64,
        start: u64,
        part: &'static str,
    ) -> Result<(), ImageError> {
        let kind = self.kind;
        if size > limit {
            return Err(ImageError::TooLarge { kind, offset: start, part, size, limit });
        }
        let read = (&mut self.input).take(size).read_to_end(to);
        let read = read.map_err(|source| ImageError::Io { kind, offset: self.offset, source })? as u64;
        self.offset += read;
        if read < size {
            return Err(ImageError::Truncated { kind, offset: start, part });
        }
        Ok(())
    }

    fn read_u32(&mut self, part: &'static str) -> Result<u32, ImageError> {
        let Self { kind, offset, .. } = *self;
        let mut bytes = [0; 4];
        match self.fill(&mut bytes)? {
            4 => Ok(u32::from_le_bytes(bytes)),
            _ => Err(ImageError::Truncated { kind, offset, part }),
        }
    }

    /// Reads until the buffer is full or the input ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ImageError::Io { kind: self.kind, offset: self.offset, source }),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// How many raw bytes follow a message, for rules that decide by the message alone.
fn payload_size(rule: Extra, message: &[u8]) -> Result<u64, WireError> {
    let message = Message::parse(message)?;
    let field = |number| Ok(message.varint(number)?.unwrap_or(0));
    match rule {
        Extra::Sum(fields) => fields
            .iter()
            .try_fold(0u64, |sum, number| Ok(sum.saturating_add(u64::from(field(*number)? as u32)))),
        Extra::Semaphores => Ok((u64::from(field(2)? as u32) * 2).next_multiple_of(8)),
        Extra::SharedSegment if field(3)? == 0 => {
            Ok(field(2)?.checked_next_multiple_of(4).unwrap_or(u64::MAX))
        }
        Extra::None | Extra::SharedSegment | Extra::MessageQueue | Extra::RemovedFile => Ok(0),
    }
}

/// Writes an image entry by entry.
#[derive(Debug)]
pub struct ImageWriter<W> {
    output: W,
}

impl<W: Write> ImageWriter<W> {
    /// Starts an image of a kind that is not raw.
    ///
    /// # Errors
    ///
    /// When the output fails. A raw kind has no frame, and asking for one is refused as invalid input.
    pub fn new(kind: Kind, mut output: W) -> io::Result<Self> {
        let row = kind.description();
        match row.framing {
            Framing::Raw => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, ImageError::Raw { kind }));
            }
            Framing::Magic => {}
            Framing::Common => output.write_all(&COMMON_MAGIC.to_le_bytes())?,
            Framing::Service => output.write_all(&SERVICE_MAGIC.to_le_bytes())?,
        }
        output.write_all(&row.magic.to_le_bytes())?;
        Ok(Self { output })
    }

    /// Goes on with an image whose head has been read, so that one of version 1 stays one.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn with_head(head: &[u8], mut output: W) -> io::Result<Self> {
        output.write_all(head)?;
        Ok(Self { output })
    }

    /// Writes one entry: the encoded message and the raw bytes that follow it.
    ///
    /// # Errors
    ///
    /// When the output fails, or the message is larger than the frame can say.
    pub fn entry(&mut self, message: &[u8], extra: &[u8]) -> io::Result<()> {
        let size = u32::try_from(message.len())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.output.write_all(&size.to_le_bytes())?;
        self.output.write_all(message)?;
        self.output.write_all(extra)
    }

    /// Writes one entry from its message.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn message(&mut self, message: &impl prost::Message) -> io::Result<()> {
        self.entry(&message.encode_to_vec(), &[])
    }

    /// Gives the output back.
    pub fn into_inner(self) -> W {
        self.output
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::kind::KINDS;

    /// An image of the given entries.
    pub(crate) fn image(kind: Kind, entries: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
        for (message, extra) in entries {
            writer.entry(message, extra).unwrap();
        }
        writer.into_inner()
    }

    /// Everything an image consists of, written again.
    fn rewrite(kind: Kind, bytes: &[u8], limits: Limits) -> Result<Vec<u8>, ImageError> {
        let mut reader = ImageReader::new(kind, bytes, limits)?;
        let mut writer = ImageWriter::with_head(reader.head(), Vec::new()).unwrap();
        while let Some(entry) = reader.next_entry()? {
            writer.entry(entry.message, entry.extra).unwrap();
        }
        Ok(writer.into_inner())
    }

    #[test]
    fn payloads_are_as_long_as_their_messages_say() {
        type Entries = &'static [(&'static [u8], &'static [u8])];
        let cases: [(Kind, Entries); 8] = [
            (Kind::PipeData, &[(&[0x08, 1, 0x10, 3], b"abc"), (&[0x08, 2, 0x10, 0], b"")]),
            (Kind::TcpStream, &[(&[0x08, 2, 0x18, 1], b"abc")]),
            (Kind::BpfMapData, &[(&[0x10, 1, 0x18, 1], b"kv")]),
            (Kind::IpcSemaphores, &[(&[0x10, 3], &[1, 0, 2, 0, 3, 0, 0, 0])]),
            (Kind::IpcShared, &[(&[0x10, 5], &[1, 2, 3, 4, 5, 0, 0, 0]), (&[0x10, 5, 0x18, 1], b"")]),
            (
                Kind::IpcMessages,
                &[(&[0x18, 1], &[4, 0, 0, 0, 0x08, 1, 0x10, 2, b'h', b'i', 0, 0, 0, 0, 0, 0])],
            ),
            (Kind::RemovedFile, &[(&[0x08, 1], b"all the rest")]),
            (
                Kind::RemovedFile,
                &[(&[0x48, 1], b""), (&[0x08, 3, 0x10, 0], b"abc"), (&[0x08, 1, 0x10, 9], b"z")],
            ),
        ];
        for (kind, entries) in cases {
            let bytes = image(kind, entries);
            let mut reader = ImageReader::new(kind, bytes.as_slice(), Limits::default()).unwrap();
            for (message, extra) in entries {
                let entry = reader.next_entry().unwrap().unwrap();
                assert_eq!((entry.message, entry.extra), (*message, *extra), "{kind}");
            }
            assert_eq!(reader.next_entry().unwrap(), None);
        }
    }

    #[test]
    fn images_of_version_one_have_a_single_magic() {
        let bytes = [&0x5027_3030u32.to_le_bytes()[..], &[2, 0, 0, 0, 0x08, 1]].concat();
        assert_eq!(rewrite(Kind::ProcessTree, &bytes, Limits::default()).unwrap(), bytes);
    }

    #[test]
    fn damage_is_named_with_kind_and_place() {
        let good = image(Kind::ProcessTree, &[(&[0x08, 1], b"")]);
        let limits = Limits::default();
        let error = |bytes: &[u8], limits| rewrite(Kind::ProcessTree, bytes, limits).unwrap_err().to_string();

        assert_eq!(error(b"", limits), "pstree image is cut short at byte 0, inside its magic");
        assert_eq!(
            error(b"MZ\x90\0\0\0\0\0", limits),
            "pstree image starts with 0x00905a4d where 0x54564319 belongs"
        );
        assert_eq!(
            error(&good[..10], limits),
            "pstree image is cut short at byte 8, inside the size of an entry"
        );
        assert_eq!(error(&good[..13], limits), "pstree image is cut short at byte 8, inside a message");
        assert_eq!(
            error(&good, Limits { message: 1, ..limits }),
            "pstree image claims a message of 2 bytes at byte 8, more than the limit of 1"
        );
        assert_eq!(error(&good, Limits { entries: 0, ..limits }), "pstree image has more than 0 entries");
        assert!(matches!(rewrite(Kind::Pages, &good, limits), Err(ImageError::Raw { kind: Kind::Pages })));
    }

    #[test]
    fn a_size_that_lies_takes_no_memory() {
        let mut bytes = image(Kind::ProcessTree, &[]);
        bytes.extend((60u32 << 20).to_le_bytes());
        let mut reader = ImageReader::new(Kind::ProcessTree, bytes.as_slice(), Limits::default()).unwrap();
        assert!(matches!(reader.next_entry(), Err(ImageError::Truncated { .. })));
        assert!(reader.message.capacity() < 1 << 20);
    }

    proptest! {
        #[test]
        fn hostile_bytes_of_any_kind_end_in_an_error_or_round_trip(
            kind in 0..KINDS.len(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let kind = KINDS[kind].kind;
            if let Ok(writer) = ImageWriter::new(kind, Vec::new()) {
                let bytes = [writer.into_inner(), body].concat();
                if let Ok(again) = rewrite(kind, &bytes, Limits::default()) {
                    prop_assert_eq!(again, bytes);
                }
            }
        }

        #[test]
        fn entries_survive_a_round_trip(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let entries: Vec<(&[u8], &[u8])> = messages.iter().map(|message| (message.as_slice(), &[][..])).collect();
            let bytes = image(Kind::Files, &entries);
            prop_assert_eq!(rewrite(Kind::Files, &bytes, Limits::default()).unwrap(), bytes);
        }
    }
}
