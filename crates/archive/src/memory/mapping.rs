//! Mappings: what the parts of an address space are.

use std::fmt;

use serde::{Deserialize, Serialize};
use torpor_criu::image::memory::{self, MappingStatus};

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingKind {
    /// The program's heap, as brk(2) moves its end.
    Heap,
    /// The first thread's stack.
    Stack,
    /// The process's own memory: large allocations, stacks of other threads.
    Anonymous,
    /// A file, whose changed pages belong to the process.
    File,
    /// A file, changed for all.
    SharedFile,
    /// Memory that processes share.
    Shared,
    /// Of the kernel: vdso, vvar, vsyscall.
    Kernel,
    /// Anything else: rings, devices, what a plugin of CRIU's takes care of.
    Other,
}

impl MappingKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Heap,
        Self::Stack,
        Self::Anonymous,
        Self::File,
        Self::SharedFile,
        Self::Shared,
        Self::Kernel,
        Self::Other,
    ];

    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::File => "file",
            Self::SharedFile => "shared-file",
            Self::Shared => "shared",
            Self::Kernel => "kernel",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for MappingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the process may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protection {
    /// Read it.
    pub read: bool,
    /// Write to it.
    pub write: bool,
    /// Run it.
    pub execute: bool,
}

impl Protection {
    /// From the bits of mmap(2).
    #[must_use]
    pub fn of_bits(bits: u32) -> Self {
        Self { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 }
    }

    /// Whether it allows all that `other` does.
    #[must_use]
    pub fn allows(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.execute || !other.execute)
    }
}

impl fmt::Display for Protection {
    /// As in `/proc/PID/maps`: `rw-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |may, letter| if may { letter } else { '-' };
        let letters: String =
            [letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x')].iter().collect();
        f.pad(&letters)
    }
}

impl Serialize for Protection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A part of an address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it is for.
    pub kind: MappingKind,
    /// What may be done with it.
    pub protection: Protection,
    /// Whether writes are seen by others that map the same.
    pub shared: bool,
    /// Where it starts in its file or shared memory, in bytes.
    pub offset: u64,
    /// The file behind it, by its id in `files.img`.
    pub file: Option<u32>,
    /// The shared memory behind it, as in [`Owner::Shared`](super::Owner::Shared).
    pub object: Option<u64>,
}

impl Mapping {
    /// Bytes in it.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// From CRIU's record. `stack` is an address in the first thread's stack; `object_of` tells the shared memory behind a file in memory.
    pub(super) fn new(record: &memory::Mapping, stack: u64, object_of: impl Fn(u32) -> Option<u64>) -> Self {
        /// Flags of mmap(2).
        const SHARED: u32 = 1;
        const GROWS_DOWN: u32 = 0x100;

        let is = |status| record.is(status);
        let file = record.file_id().and_then(|id| u32::try_from(id).ok());
        let object = if is(MappingStatus::AnonymousShared) || is(MappingStatus::SysvIpc) {
            Some(record.shmid)
        } else {
            file.and_then(object_of)
        };
        let kind = if is(MappingStatus::Vdso) || is(MappingStatus::Vvar) || is(MappingStatus::Vsyscall) {
            MappingKind::Kernel
        } else if is(MappingStatus::Heap) {
            MappingKind::Heap
        } else if is(MappingStatus::Stack)
            || record.flags & GROWS_DOWN != 0
            || (is(MappingStatus::AnonymousPrivate) && (record.start..record.end).contains(&stack))
        {
            MappingKind::Stack
        } else if object.is_some() {
            MappingKind::Shared
        } else if is(MappingStatus::FilePrivate) {
            MappingKind::File
        } else if is(MappingStatus::FileShared) {
            MappingKind::SharedFile
        } else if is(MappingStatus::AnonymousPrivate) && !is(MappingStatus::AioRing) {
            MappingKind::Anonymous
        } else {
            MappingKind::Other
        };
        Self {
            start: record.start,
            end: record.end,
            kind,
            protection: Protection::of_bits(record.prot),
            shared: record.flags & SHARED != 0,
            offset: record.pgoff,
            file,
            object,
        }
    }
}
