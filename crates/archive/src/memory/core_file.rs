//! A process as an ELF core file, which debuggers open.
//!
//! Each mapping becomes one segment or several: what is in the checkpoint is in the file, zeros are holes in it, and what is not in
//! the checkpoint has no bytes, so that a debugger takes it from the program's own files, which a note names.
//!
//! Format: the System V ABI's ELF, and the notes that Linux writes (`fs/binfmt_elf.c`, `include/linux/elfcore.h`).

use std::io::{self, Seek, SeekFrom, Write};

use torpor_criu::image::process::Machine;
use torpor_criu::image::register::Registers;
use torpor_criu::image::{Kind, Record as _};

use super::process::one;
use super::{AddressSpace, AddressSpaces, Content, Extent, Gap, Mapping, MemoryError};

mod note;

use note::Notes;

/// Bytes of the file's header, of a segment's, and of a section's.
const HEADER: u64 = 64;
const SEGMENT: u64 = 56;
const SECTION: u64 = 64;
/// Where there are more segments, their number stands elsewhere.
const MANY: usize = 0xffff;
/// A longer row of zeros gets no room in the file, not even as a hole: file systems have limits, programs reserve terabytes.
const LONGEST_HOLE: u64 = 1 << 30;
/// Memory is copied in pieces of this size.
const PIECE: usize = 1 << 20;

/// Why there is no core file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// Memory or registers cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The output fails.
    #[error("cannot write the core file")]
    Output {
        /// What the system said.
        #[from]
        source: io::Error,
    },
    /// The processor's registers are not known here.
    #[error("process {pid} is of a kind that no core file can be written for here: {machine}")]
    Machine {
        /// The process.
        pid: u32,
        /// The processor.
        machine: &'static str,
    },
    /// A thread's image has no registers.
    #[error("{entry} has no registers")]
    NoRegisters {
        /// The image.
        entry: String,
    },
}

impl CoreError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Memory(error) => error.remedy(),
            Self::Output { .. } => "see that there is room, and that the file may be written",
            Self::Machine { .. } => {
                "64-bit programs of x86-64 and Arm can be written; read memory with --pid"
            }
            Self::NoRegisters { .. } => "the checkpoint is damaged: use another copy",
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreFile {
    /// Its size in bytes, holes included.
    pub size: u64,
    /// Bytes of memory in it.
    pub memory: u64,
    /// Its threads.
    pub threads: usize,
}

/// A segment of the file.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
    protection: u32,
    /// Whether its bytes are in the file.
    filled: bool,
}

impl AddressSpaces<'_> {
    /// Writes a process as a core file, to an output that is empty.
    ///
    /// # Errors
    /// Where the process is not there or cannot be read, its processor is not known, or the output fails.
    pub fn write_core(&self, pid: u32, output: &mut (impl Write + Seek)) -> Result<CoreFile, CoreError> {
        let space = self.open(pid)?;
        let process = self.process(pid)?;
        let mut threads = Vec::new();
        for thread in std::iter::once(pid).chain(process.threads.iter().copied().filter(|tid| *tid != pid)) {
            let layer = &self.checkpoint().layers()[0];
            let missing = || MemoryError::Missing { entry: Kind::Core.file_name(thread.into()) };
            let entry = self.checkpoint().image(layer, Registers::KIND, thread.into()).ok_or_else(missing)?;
            let registers: Registers = one(self.checkpoint(), entry)?;
            threads.push((thread, registers));
        }
        let machine = elf_machine(pid, &threads[0].1)?;
        let segments = segments(&space)?;
        let notes = Notes { spaces: self, space: &space, process, threads: &threads }.encode()?;

        let numbered = segments.len() + 1;
        let extra = if numbered >= MANY { SECTION } else { 0 };
        let notes_at = HEADER + numbered as u64 * SEGMENT + extra;
        let page = space.page_size();
        let data_at = (notes_at + notes.len() as u64).next_multiple_of(page);
        output.write_all(&header(machine, numbered))?;
        output.write_all(&segment_header(4, 0, notes_at, 0, notes.len() as u64, 0, 4))?;
        let mut at = data_at;
        for segment in &segments {
            let memory = segment.end - segment.start;
            let bytes = if segment.filled { memory } else { 0 };
            let flags = segment.protection;
            output.write_all(&segment_header(1, flags, at, segment.start, bytes, memory, page))?;
            at += bytes;
        }
        if extra > 0 {
            let mut section = [0; SECTION as usize];
            section[44..48].copy_from_slice(&(numbered as u32).to_le_bytes());
            output.write_all(&section)?;
        }
        output.write_all(&notes)?;
        let memory = copy(&space, &segments, data_at, at, output)?;
        Ok(CoreFile { size: at, memory, threads: threads.len() })
    }
}

/// ELF's number for the processor.
fn elf_machine(pid: u32, registers: &Registers) -> Result<u16, CoreError> {
    let unknown = |machine| CoreError::Machine { pid, machine };
    match registers.mtype() {
        Machine::X86_64 => {
            let compatible = registers.x86.as_ref().is_some_and(|x86| x86.general.mode == Some(2));
            if compatible { Err(unknown("a 32-bit program on x86-64")) } else { Ok(62) }
        }
        Machine::Aarch64 => Ok(183),
        Machine::Arm => Err(unknown("32-bit Arm")),
        Machine::Ppc64 => Err(unknown("POWER")),
        Machine::S390 => Err(unknown("IBM Z")),
        Machine::Mips => Err(unknown("MIPS")),
        Machine::Loongarch64 => Err(unknown("LoongArch")),
        Machine::Riscv64 => Err(unknown("RISC-V")),
        Machine::Unknown => Err(unknown("an unknown processor")),
    }
}

/// The segments in the order of their addresses.
fn segments(space: &AddressSpace<'_>) -> Result<Vec<Segment>, MemoryError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut last = None;
    for extent in space.extents(0, u64::MAX) {
        let extent = extent?;
        let Some(place) = extent.mapping else { continue };
        let mapping = &space.mappings()[place];
        let filled = is_filled(&extent);
        match segments.last_mut() {
            Some(segment) if last == Some(place) && segment.filled == filled => segment.end = extent.end,
            _ => segments.push(Segment {
                start: extent.start,
                end: extent.end,
                protection: elf_protection(mapping),
                filled,
            }),
        }
        last = Some(place);
    }
    Ok(segments)
}

fn is_filled(extent: &Extent) -> bool {
    match extent.content {
        Content::Stored { .. } => true,
        Content::Absent(Gap::Zero) => extent.end - extent.start <= LONGEST_HOLE,
        Content::Absent(_) => false,
    }
}

fn elf_protection(mapping: &Mapping) -> u32 {
    let protection = mapping.protection;
    u32::from(protection.execute) | u32::from(protection.write) << 1 | u32::from(protection.read) << 2
}

/// Copies memory behind the headers. What is not written stays a hole.
fn copy(
    space: &AddressSpace<'_>,
    segments: &[Segment],
    data_at: u64,
    end: u64,
    output: &mut (impl Write + Seek),
) -> Result<u64, CoreError> {
    let (mut at, mut memory, mut written) = (data_at, 0, data_at);
    let mut piece = vec![0; PIECE];
    for segment in segments.iter().filter(|segment| segment.filled) {
        for extent in space.extents(segment.start, segment.end) {
            let extent = extent?;
            let Content::Stored { owner, layer, offset } = extent.content else { continue };
            output.seek(SeekFrom::Start(at + (extent.start - segment.start)))?;
            let mut done = 0;
            while done < extent.end - extent.start {
                let some = (extent.end - extent.start - done).min(PIECE as u64) as usize;
                space.read_stored(owner, layer, offset + done, &mut piece[..some])?;
                output.write_all(&piece[..some])?;
                done += some as u64;
            }
            memory += done;
            written = at + (extent.end - segment.start);
        }
        at += segment.end - segment.start;
    }
    if written < end {
        output.seek(SeekFrom::Start(end - 1))?;
        output.write_all(&[0])?;
    }
    output.flush()?;
    Ok(memory)
}

/// The file's header.
fn header(machine: u16, segments: usize) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let many = segments >= MANY;
    header.extend(4_u16.to_le_bytes());
    header.extend(machine.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend(HEADER.to_le_bytes());
    let sections_at = if many { HEADER + segments as u64 * SEGMENT } else { 0 };
    header.extend(sections_at.to_le_bytes());
    header.extend(0_u32.to_le_bytes());
    header.extend((HEADER as u16).to_le_bytes());
    header.extend((SEGMENT as u16).to_le_bytes());
    header.extend((segments.min(MANY) as u16).to_le_bytes());
    header.extend((if many { SECTION as u16 } else { 0 }).to_le_bytes());
    header.extend(u16::from(many).to_le_bytes());
    header.extend(0_u16.to_le_bytes());
    header
}

/// One segment's header.
fn segment_header(
    kind: u32,
    flags: u32,
    at: u64,
    address: u64,
    bytes: u64,
    memory: u64,
    align: u64,
) -> Vec<u8> {
    let mut header = Vec::with_capacity(SEGMENT as usize);
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for value in [at, address, 0, bytes, memory, align] {
        header.extend(value.to_le_bytes());
    }
    header
}
