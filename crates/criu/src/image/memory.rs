//! Address spaces (CRIU `images/mm.proto`, `images/vma.proto`; status bits from `criu/include/image.h`).

use prost::Message;

use super::records;

/// `mm-PID.img`: the address space of a process.
#[derive(Clone, PartialEq, Message)]
pub struct Memory {
    /// Start of the program's code.
    #[prost(uint64, required, tag = "1")]
    pub mm_start_code: u64,
    /// End of the program's code.
    #[prost(uint64, required, tag = "2")]
    pub mm_end_code: u64,
    /// Start of the program's data.
    #[prost(uint64, required, tag = "3")]
    pub mm_start_data: u64,
    /// End of the program's data.
    #[prost(uint64, required, tag = "4")]
    pub mm_end_data: u64,
    /// Start of the stack.
    #[prost(uint64, required, tag = "5")]
    pub mm_start_stack: u64,
    /// Start of the heap.
    #[prost(uint64, required, tag = "6")]
    pub mm_start_brk: u64,
    /// End of the heap.
    #[prost(uint64, required, tag = "7")]
    pub mm_brk: u64,
    /// Start of the arguments, each ended by a zero byte.
    #[prost(uint64, required, tag = "8")]
    pub mm_arg_start: u64,
    /// End of the arguments.
    #[prost(uint64, required, tag = "9")]
    pub mm_arg_end: u64,
    /// Start of the environment, each variable ended by a zero byte.
    #[prost(uint64, required, tag = "10")]
    pub mm_env_start: u64,
    /// End of the environment.
    #[prost(uint64, required, tag = "11")]
    pub mm_env_end: u64,
    /// The executable, by its id in `files.img`.
    #[prost(uint32, required, tag = "12")]
    pub exe_file_id: u32,
    /// The auxiliary vector, as pairs of type and value.
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    pub mm_saved_auxv: Vec<u64>,
    /// Mappings in the order of their addresses; guard areas stand at the end.
    #[prost(message, repeated, tag = "14")]
    pub vmas: Vec<Mapping>,
    /// Whether the process may be traced, as in prctl(2).
    #[prost(int32, optional, tag = "15")]
    pub dumpable: Option<i32>,
    /// Huge pages are off for the process.
    #[prost(bool, optional, tag = "17")]
    pub thp_disabled: Option<bool>,
}

/// One mapping.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Mapping {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// First address behind it.
    #[prost(uint64, required, tag = "2")]
    pub end: u64,
    /// Offset in the file, in bytes.
    #[prost(uint64, required, tag = "3")]
    pub pgoff: u64,
    /// A file's id in `files.img`, or the id of shared memory, whose pages are in `pagemap-shmem-ID.img`.
    #[prost(uint64, required, tag = "4")]
    pub shmid: u64,
    /// Protection, as in mmap(2).
    #[prost(uint32, required, tag = "5")]
    pub prot: u32,
    /// Flags, as in mmap(2).
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    /// What kind of mapping it is: bits of [`MappingStatus`].
    #[prost(uint32, required, tag = "7")]
    pub status: u32,
    /// Not used.
    #[prost(sint64, required, tag = "8")]
    pub fd: i64,
    /// What madvise(2) was told, bit *n* for advice *n*.
    #[prost(uint64, optional, tag = "9")]
    pub madv: Option<u64>,
    /// Flags the file was opened with.
    #[prost(uint32, optional, tag = "10")]
    pub fdflags: Option<u32>,
}

/// Bits of [`Mapping::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MappingStatus {
    /// Dumped and restored as usual.
    Regular = 1 << 0,
    /// A stack.
    Stack = 1 << 1,
    /// The kernel's system call page.
    Vsyscall = 1 << 2,
    /// The kernel's shared object.
    Vdso = 1 << 3,
    /// The heap.
    Heap = 1 << 5,
    /// A file, copied on write.
    FilePrivate = 1 << 6,
    /// A file, shared.
    FileShared = 1 << 7,
    /// Memory shared with other processes.
    AnonymousShared = 1 << 8,
    /// The process's own memory.
    AnonymousPrivate = 1 << 9,
    /// System V shared memory.
    SysvIpc = 1 << 10,
    /// A packet socket's ring.
    Socket = 1 << 11,
    /// The kernel's variables for its shared object.
    Vvar = 1 << 12,
    /// A ring of asynchronous I/O.
    AioRing = 1 << 13,
    /// A file in memory.
    Memfd = 1 << 14,
    /// A shadow stack.
    ShadowStack = 1 << 15,
    /// A guard area, which the kernel does not count as a mapping.
    Guard = 1 << 16,
    /// The kernel's page for probes.
    Uprobes = 1 << 17,
    /// A plugin takes care of it.
    Plugin = 1 << 27,
}

impl Mapping {
    /// Whether it is of this kind.
    #[must_use]
    pub fn is(&self, status: MappingStatus) -> bool {
        self.status & status as u32 != 0
    }

    /// The id of the file behind it, for mappings of files.
    #[must_use]
    pub fn file_id(&self) -> Option<u64> {
        (self.is(MappingStatus::FilePrivate) || self.is(MappingStatus::FileShared)).then_some(self.shmid)
    }
}

impl Memory {
    /// The size of a page, from the auxiliary vector; `None` if that is missing or says nonsense.
    #[must_use]
    pub fn page_size(&self) -> Option<u64> {
        const AT_PAGESZ: u64 = 6;
        let (pairs, _) = self.mm_saved_auxv.as_chunks::<2>();
        let size = pairs.iter().find(|[key, _]| *key == AT_PAGESZ)?[1];
        (size.is_power_of_two() && (4096..=65536).contains(&size)).then_some(size)
    }
}

records! { Memory => Memory }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_size_comes_from_the_auxiliary_vector() {
        let with = |auxv: &[u64]| Memory { mm_saved_auxv: auxv.to_vec(), ..Memory::default() }.page_size();
        assert_eq!(with(&[33, 1, 6, 65536, 0, 0]), Some(65536));
        assert_eq!(with(&[6, 5000]), None);
        assert_eq!(with(&[33, 6]), None);
    }
}
