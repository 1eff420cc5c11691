//! The protocol's headers (CRIU, `criu/page-xfer.c`): native byte order, two sizes.

use crate::image::pagemap::PageFlags;

/// Which header CRIU sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSize {
    /// 24 bytes, up to CRIU 4.1: command `u32`, pages `u32`, address `u64`, destination `u64`.
    Short,
    /// 32 bytes, since CRIU 4.2: command `u32`, four bytes of padding, pages `u64`, address `u64`, destination `u64`.
    Long,
}

impl HeaderSize {
    pub(super) const LARGEST: usize = 32;

    /// Its length.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Short => 24,
            Self::Long => 32,
        }
    }

    /// Tells the size by the first 24 bytes of a stream; `None` if they are a close, which looks the same in both.
    ///
    /// Commands that may come first carry a destination, which is never 0, and an address that is. Where the short
    /// header has its destination, the long one has its address.
    pub(super) fn detect(first: &[u8]) -> Result<Option<Self>, HeaderError> {
        let command = u32_at(first, 0);
        match command & COMMAND_MASK {
            CLOSE | FORCE_CLOSE => Ok(None),
            OPEN | OPEN2 | PARENT if u64_at(first, 16) == 0 => Ok(Some(Self::Long)),
            OPEN | OPEN2 | PARENT => Ok(Some(Self::Short)),
            _ => Err(HeaderError::First { command }),
        }
    }
}

/// What an entry of a pagemap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PagemapKind {
    /// Private memory of a process; the id is its PID in the program's PID namespace.
    Process,
    /// A shared anonymous segment; the id is CRIU's own.
    Shared,
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PagemapId {
    /// What it is.
    pub kind: PagemapKind,
    /// Its number, as in the image's name: `pagemap-ID.img`, `pagemap-shmem-ID.img`.
    pub id: u64,
}

impl std::fmt::Display for PagemapId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            PagemapKind::Process => write!(f, "process {}", self.id),
            PagemapKind::Shared => write!(f, "shared memory {}", self.id),
        }
    }
}

impl PagemapId {
    /// The destination field: the number above eight bits of kind. Kinds of CRIU before 3.3 are not taken.
    fn parse(destination: u64) -> Result<Self, HeaderError> {
        let kind = match destination & 0xff {
            1 => PagemapKind::Process,
            2 => PagemapKind::Shared,
            _ => return Err(HeaderError::Destination { destination }),
        };
        Ok(Self { kind, id: destination >> 8 })
    }

    /// The destination field.
    #[must_use]
    pub fn destination(self) -> u64 {
        let kind = match self.kind {
            PagemapKind::Process => 1,
            PagemapKind::Shared => 2,
        };
        self.id << 8 | kind
    }
}

/// A header makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The stream starts with something that cannot come first.
    #[error("command: {command:#x} cannot be the first")]
    First {
        /// The field.
        command: u32,
    },
    /// No such command.
    #[error("command: {command:#x} is not known")]
    Command {
        /// The field.
        command: u32,
    },
    /// CRIU asks for pages, which only a server that delivers them answers.
    #[error("command: get is not for a server that receives")]
    Get,
    /// No such kind of pagemap.
    #[error("destination: {destination:#x} is neither a process nor shared memory")]
    Destination {
        /// The field.
        destination: u64,
    },
    /// Flags that are not known, or that contradict each other.
    #[error("flags: {flags:#x} are not known or contradict each other")]
    Flags {
        /// The field.
        flags: u32,
    },
    /// An address within a page.
    #[error("address: {vaddr:#x} is not at the start of a page")]
    Alignment {
        /// The field.
        vaddr: u64,
    },
    /// More pages than there are addresses.
    #[error("pages: {pages} pages at {vaddr:#x} go beyond the address space")]
    Range {
        /// The field.
        pages: u64,
        /// Where they start.
        vaddr: u64,
    },
    /// A run of no pages.
    #[error("pages: a run of none")]
    Empty,
    /// Pages for a pagemap that is not the one opened last.
    #[error("destination: {id} is not open")]
    NotOpen {
        /// The pagemap.
        id: PagemapId,
    },
}

const ADD: u32 = 1;
const HOLE: u32 = 2;
const OPEN: u32 = 3;
const OPEN2: u32 = 4;
const PARENT: u32 = 5;
const ADD_F: u32 = 6;
const GET: u32 = 7;
const CLOSE: u32 = 0x1023;
const FORCE_CLOSE: u32 = 0x1024;
const COMMAND_MASK: u32 = 0xffff;

/// A header as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    command: u32,
    pages: u64,
    vaddr: u64,
    destination: u64,
}

/// What a header asks for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Open { id: PagemapId, answer: bool },
    Parent { id: PagemapId },
    Run { id: PagemapId, vaddr: u64, pages: u64, flags: PageFlags },
    Close,
}

impl Header {
    pub(super) fn parse(size: HeaderSize, bytes: &[u8; HeaderSize::LARGEST]) -> Self {
        let command = u32_at(bytes, 0);
        match size {
            HeaderSize::Short => Self {
                command,
                pages: u32_at(bytes, 4).into(),
                vaddr: u64_at(bytes, 8),
                destination: u64_at(bytes, 16),
            },
            HeaderSize::Long => Self {
                command,
                pages: u64_at(bytes, 8),
                vaddr: u64_at(bytes, 16),
                destination: u64_at(bytes, 24),
            },
        }
    }

    pub(super) fn command(self, page_size: u64) -> Result<Command, HeaderError> {
        let given = self.command >> 16;
        let flags = match self.command & COMMAND_MASK {
            OPEN => return Ok(Command::Open { id: self.id()?, answer: false }),
            OPEN2 => return Ok(Command::Open { id: self.id()?, answer: true }),
            PARENT => return Ok(Command::Parent { id: self.id()? }),
            CLOSE | FORCE_CLOSE => return Ok(Command::Close),
            GET => return Err(HeaderError::Get),
            ADD => PageFlags::PRESENT,
            HOLE => PageFlags::PARENT,
            ADD_F => PageFlags(given),
            _ => return Err(HeaderError::Command { command: self.command }),
        };
        let both = PageFlags::PARENT | PageFlags::PRESENT;
        let known = both | PageFlags::LAZY;
        if flags.0 & !known.0 != 0 || flags.contains(both) {
            return Err(HeaderError::Flags { flags: flags.0 });
        }
        let Self { pages, vaddr, .. } = self;
        if !vaddr.is_multiple_of(page_size) {
            return Err(HeaderError::Alignment { vaddr });
        }
        if pages == 0 {
            return Err(HeaderError::Empty);
        }
        if pages.checked_mul(page_size).and_then(|bytes| vaddr.checked_add(bytes)).is_none() {
            return Err(HeaderError::Range { pages, vaddr });
        }
        Ok(Command::Run { id: self.id()?, vaddr, pages, flags })
    }

    fn id(self) -> Result<PagemapId, HeaderError> {
        PagemapId::parse(self.destination)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: u64 = 42 << 8 | 1;

    fn encode(size: HeaderSize, header: Header) -> [u8; HeaderSize::LARGEST] {
        let mut bytes = [0; HeaderSize::LARGEST];
        bytes[..4].copy_from_slice(&header.command.to_ne_bytes());
        let (pages, vaddr) = match size {
            HeaderSize::Short => {
                bytes[4..8].copy_from_slice(&(header.pages as u32).to_ne_bytes());
                (None, 8)
            }
            HeaderSize::Long => (Some(8), 16),
        };
        if let Some(at) = pages {
            bytes[at..at + 8].copy_from_slice(&header.pages.to_ne_bytes());
        }
        bytes[vaddr..vaddr + 8].copy_from_slice(&header.vaddr.to_ne_bytes());
        bytes[vaddr + 8..vaddr + 16].copy_from_slice(&header.destination.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_first_header_tells_its_size() {
        for command in [OPEN, OPEN2, PARENT] {
            for size in [HeaderSize::Short, HeaderSize::Long] {
                let first = encode(size, Header { command, pages: 0, vaddr: 0, destination: ID });
                assert_eq!(HeaderSize::detect(&first[..24]), Ok(Some(size)));
            }
        }
    }

    #[test]
    fn garbage_in_the_padding_of_a_long_header_is_passed_over() {
        let mut first =
            encode(HeaderSize::Long, Header { command: OPEN2, pages: 0, vaddr: 0, destination: ID });
        first[4..8].fill(0xaa);
        assert_eq!(HeaderSize::detect(&first[..24]), Ok(Some(HeaderSize::Long)));
        let id = PagemapId { kind: PagemapKind::Process, id: 42 };
        assert_eq!(
            Header::parse(HeaderSize::Long, &first).command(4096),
            Ok(Command::Open { id, answer: true })
        );
    }

    #[test]
    fn a_hole_and_an_add_of_old_have_their_flags_by_command() {
        for (command, flags) in [(ADD, PageFlags::PRESENT), (HOLE, PageFlags::PARENT)] {
            let header = Header { command, pages: 2, vaddr: 0x2000, destination: 9 << 8 | 2 };
            let id = PagemapId { kind: PagemapKind::Shared, id: 9 };
            assert_eq!(header.command(4096), Ok(Command::Run { id, vaddr: 0x2000, pages: 2, flags }));
        }
    }

    proptest! {
        #[test]
        fn any_header_is_taken_within_the_address_space_or_refused(
            command: u32, pages: u64, vaddr: u64, destination: u64
        ) {
            let header = Header { command, pages, vaddr, destination };
            if let Ok(Command::Run { vaddr, pages, .. }) = header.command(4096) {
                prop_assert!(vaddr.checked_add(pages * 4096).is_some());
            }
        }

        #[test]
        fn headers_survive_the_wire(command: u32, pages: u32, vaddr: u64, destination: u64) {
            let header = Header { command, pages: pages.into(), vaddr, destination };
            for size in [HeaderSize::Short, HeaderSize::Long] {
                prop_assert_eq!(Header::parse(size, &encode(size, header)), header);
            }
        }

        #[test]
        fn destinations_survive_the_wire(id in 0_u64..1 << 56, shared: bool) {
            let kind = if shared { PagemapKind::Shared } else { PagemapKind::Process };
            let id = PagemapId { kind, id };
            prop_assert_eq!(PagemapId::parse(id.destination()), Ok(id));
        }
    }
}
