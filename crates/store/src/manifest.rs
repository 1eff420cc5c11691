//! One generation of a name: what it is, and where its memory, files and images lie.
//!
//! A manifest is a small head, read whole, and *segments* (runs of memory extents or of file entries), read on
//! demand. Segments are pieces in blocks like any data, so generations share the segments they have in common.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BlockId, ManifestId};

pub(crate) mod extent;
pub(crate) mod file;
pub(crate) mod head;

pub use extent::{Extent, Source};
pub use file::{Body, DataRange, FileEntry, FileKind, FileTime, Xattr};

/// Bytes of a page. A store holds pages of this size only.
pub const PAGE_SIZE: usize = 4096;

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationKind {
    /// The checkpoint ended the program: it is resumed once.
    Suspend,
    /// The program ran on.
    Running,
    /// Meant to be restored many times.
    Template,
}

impl fmt::Display for GenerationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspend => "suspend",
            Self::Running => "running",
            Self::Template => "template",
        })
    }
}

/// Which sort of memory object: CRIU keeps them in images of different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryKind {
    /// A process's private pages (`pagemap-ID.img`, by pid).
    Process,
    /// A shared memory object (`pagemap-shmem-ID.img`, by shmid).
    Shared,
}

/// Names a memory object within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemoryId {
    /// Which sort.
    pub kind: MemoryKind,
    /// CRIU's number for it.
    pub id: u64,
}

impl MemoryId {
    /// A process's private memory.
    #[must_use]
    pub const fn process(pid: u64) -> Self {
        Self { kind: MemoryKind::Process, id: pid }
    }

    /// A shared memory object.
    #[must_use]
    pub const fn shared(shmid: u64) -> Self {
        Self { kind: MemoryKind::Shared, id: shmid }
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            MemoryKind::Process => write!(f, "memory of process {}", self.id),
            MemoryKind::Shared => write!(f, "shared memory {}", self.id),
        }
    }
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// The phase's name, as logs and metrics have it.
    pub name: String,
    /// Its duration in microseconds.
    pub micros: u64,
}

/// What the maker of a generation says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The name (workload and container) it is a generation of.
    pub name: String,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// Its number within the name.
    pub generation: u64,
    /// What it is for.
    pub kind: GenerationKind,
    /// The generation that was restored or made before it.
    pub parent: Option<u64>,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// The phases so far with their durations.
    pub phases: Vec<Phase>,
    /// What is known about the program and its machine: a JSON document that the store does not interpret.
    pub facts: Vec<u8>,
}

/// Byte counts of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of memory with data (zero pages included), file bodies and images.
    pub logical: u64,
    /// Of these, bytes that no earlier generation had: what had to be written, before compression.
    pub new: u64,
    /// Bytes of packs that were written for it.
    pub stored: u64,
    /// Bytes of memory with data, zero pages included.
    pub memory: u64,
    /// Of these, bytes in pages of zeros.
    pub zero: u64,
    /// Bytes of file bodies, holes not counted.
    pub files: u64,
    /// Bytes of images.
    pub images: u64,
}

/// An image file of CRIU's (all but the pages).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// File name, like `inventory.img`.
    pub name: String,
    /// Where its bytes lie.
    pub body: Body,
}

/// Where a segment lies and what it spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    /// The block that holds it.
    pub(crate) block: BlockId,
    /// Which piece of the block.
    pub(crate) piece: u32,
    /// Bytes of the segment.
    pub(crate) size: u32,
    /// First address in it (memory), or 0.
    pub(crate) start: u64,
    /// One past its last address (memory), or 0.
    pub(crate) end: u64,
    /// Extents or entries in it.
    pub(crate) count: u64,
}

/// A memory object of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryObject {
    /// Which.
    pub id: MemoryId,
    /// Pages with data, zero pages included: what `pages-N.img` has.
    pub pages: u64,
    /// Pages of zeros among them.
    pub zero_pages: u64,
    /// Extents by address.
    pub(crate) segments: Vec<SegmentRef>,
}

/// The head of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its id.
    pub(crate) id: ManifestId,
    /// What its maker said.
    pub(crate) description: Description,
    /// Byte counts.
    pub(crate) sizes: Sizes,
    /// Images, by name.
    pub(crate) images: Vec<Image>,
    /// Memory objects, by id.
    pub(crate) memory: Vec<MemoryObject>,
    /// Segments of file entries.
    pub(crate) files: Vec<SegmentRef>,
}

impl Manifest {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// What its maker said about it.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Byte counts.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// CRIU's small image files, by name.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Memory objects, by id.
    #[must_use]
    pub fn memory(&self) -> &[MemoryObject] {
        &self.memory
    }

    /// How many file entries there are.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        self.files.iter().map(|segment| segment.count).sum()
    }
}
