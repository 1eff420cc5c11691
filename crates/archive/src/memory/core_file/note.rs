//! Notes of a core file: the process, its threads and their registers, its files.

use torpor_criu::image::register::{Aarch64, Registers, X86, X86Float};

use super::super::{AddressSpace, AddressSpaces, MappingKind, MemoryError, Process};
use super::CoreError;

/// Types of notes (Linux `include/uapi/linux/elf.h`).
const STATUS: u32 = 1;
const FLOAT: u32 = 2;
const PROCESS: u32 = 3;
const AUXILIARY: u32 = 6;
const X86_EXTENDED: u32 = 0x202;
const FILES: u32 = 0x4649_4c45;

/// What the notes are made from.
pub(super) struct Notes<'s, 'a> {
    pub(super) spaces: &'s AddressSpaces<'a>,
    pub(super) space: &'s AddressSpace<'a>,
    pub(super) process: &'s Process,
    /// Threads with their registers, the process's first.
    pub(super) threads: &'s [(u32, Registers)],
}

impl Notes<'_, '_> {
    /// All notes, in the order in which Linux writes them.
    pub(super) fn encode(&self) -> Result<Vec<u8>, CoreError> {
        let mut notes = Vec::new();
        for (place, (thread, registers)) in self.threads.iter().enumerate() {
            put(&mut notes, "CORE", STATUS, &self.status(*thread, registers)?);
            if place == 0 {
                put(&mut notes, "CORE", PROCESS, &self.process_information()?);
                let auxiliary: Vec<u8> =
                    self.space.record().mm_saved_auxv.iter().flat_map(|word| word.to_le_bytes()).collect();
                put(&mut notes, "CORE", AUXILIARY, &auxiliary);
                put(&mut notes, "CORE", FILES, &self.files());
            }
            if let Some(x86) = &registers.x86 {
                let legacy = fxsave(&x86.float);
                put(&mut notes, "CORE", FLOAT, &legacy);
                if let Some(extended) = xsave(legacy, &x86.float) {
                    put(&mut notes, "LINUX", X86_EXTENDED, &extended);
                }
            } else if let Some(arm) = &registers.aarch64 {
                put(&mut notes, "CORE", FLOAT, &vectors(arm));
            }
        }
        Ok(notes)
    }

    /// A thread's `elf_prstatus`.
    fn status(&self, thread: u32, registers: &Registers) -> Result<Vec<u8>, CoreError> {
        let general = match registers {
            Registers { x86: Some(X86 { general, .. }), .. } => general.values().to_vec(),
            Registers { aarch64: Some(Aarch64 { general, .. }), .. } => {
                let mut values = general.regs.clone();
                values.resize(31, 0);
                values.extend([general.sp, general.pc, general.pstate]);
                values
            }
            _ => return Err(CoreError::NoRegisters { entry: format!("core-{thread}.img") }),
        };
        let blocked = registers.thread_core.as_ref().and_then(|thread| thread.blk_sigset).unwrap_or(0);
        let mut status = vec![0; 24];
        status.extend(blocked.to_le_bytes());
        for id in [thread, self.process.parent, self.process.group, self.process.session] {
            status.extend(id.to_le_bytes());
        }
        // Times, which CRIU does not keep.
        status.resize(112, 0);
        status.extend(general.iter().flat_map(|value| value.to_le_bytes()));
        status.extend(1_u64.to_le_bytes());
        Ok(status)
    }

    /// The `elf_prpsinfo`.
    fn process_information(&self) -> Result<Vec<u8>, MemoryError> {
        let mut information = vec![0; 16];
        information[1] = b'R';
        let credentials = self.threads[0].1.thread_core.as_ref().and_then(|thread| thread.creds.as_ref());
        let (user, group) = credentials.map_or((0, 0), |credentials| (credentials.uid, credentials.gid));
        let Process { pid, parent, group: process_group, session, .. } = *self.process;
        for id in [user, group, pid, parent, process_group, session] {
            information.extend(id.to_le_bytes());
        }
        let mut name: Vec<u8> = self.process.name.bytes().take(15).collect();
        name.resize(16, 0);
        information.extend(name);
        let record = self.space.record();
        let mut arguments = vec![0; record.mm_arg_end.saturating_sub(record.mm_arg_start).min(79) as usize];
        let read = self.space.read(record.mm_arg_start, &mut arguments)?;
        arguments.truncate(read.length);
        if arguments.last() == Some(&0) {
            arguments.pop();
        }
        arguments.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
        arguments.resize(80, 0);
        information.extend(arguments);
        Ok(information)
    }

    /// Which files are mapped where.
    fn files(&self) -> Vec<u8> {
        let mapped = self.space.mappings().iter().filter_map(|mapping| {
            let of_file = matches!(mapping.kind, MappingKind::File | MappingKind::SharedFile);
            Some((mapping, self.spaces.path(mapping.file.filter(|_| of_file)?)?))
        });
        let page = self.space.page_size();
        let (mut count, mut rows, mut names) = (0_u64, Vec::new(), Vec::new());
        for (mapping, path) in mapped {
            count += 1;
            for value in [mapping.start, mapping.end, mapping.offset / page] {
                rows.extend(value.to_le_bytes());
            }
            names.extend(path.bytes().filter(|byte| *byte != 0));
            names.push(0);
        }
        let mut files = Vec::new();
        files.extend(count.to_le_bytes());
        files.extend(page.to_le_bytes());
        files.extend(rows);
        files.extend(names);
        files
    }
}

/// Appends a note.
fn put(notes: &mut Vec<u8>, owner: &str, kind: u32, content: &[u8]) {
    notes.extend((owner.len() as u32 + 1).to_le_bytes());
    notes.extend((content.len() as u32).to_le_bytes());
    notes.extend(kind.to_le_bytes());
    notes.extend(owner.bytes());
    notes.push(0);
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes.extend(content);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// What FXSAVE stores: 512 bytes.
fn fxsave(float: &X86Float) -> Vec<u8> {
    let mut area = Vec::with_capacity(512);
    for word in [float.cwd, float.swd, float.twd, float.fop] {
        area.extend((word as u16).to_le_bytes());
    }
    area.extend(float.rip.to_le_bytes());
    area.extend(float.rdp.to_le_bytes());
    area.extend(float.mxcsr.to_le_bytes());
    area.extend(float.mxcsr_mask.to_le_bytes());
    words(&mut area, &float.st_space, 32);
    words(&mut area, &float.xmm_space, 64);
    area.resize(512, 0);
    area
}

/// What XSAVE stores, as far as the upper halves of ymm0 to ymm15, where they are known.
fn xsave(mut area: Vec<u8>, float: &X86Float) -> Option<Vec<u8>> {
    /// Legacy registers, SSE, AVX.
    const PARTS: u64 = 7;
    /// Where Linux says which parts the system has enabled.
    const ENABLED: std::ops::Range<usize> = 464..472;

    let extended = float.xsave.as_ref().filter(|extended| !extended.ymmh_space.is_empty())?;
    area[ENABLED].copy_from_slice(&PARTS.to_le_bytes());
    area.extend((extended.xstate_bv & PARTS).to_le_bytes());
    area.resize(576, 0);
    words(&mut area, &extended.ymmh_space, 64);
    Some(area)
}

/// Vector registers of Arm: 528 bytes.
fn vectors(arm: &Aarch64) -> Vec<u8> {
    let mut area: Vec<u8> = arm.vectors.vregs.iter().take(64).flat_map(|word| word.to_le_bytes()).collect();
    area.resize(512, 0);
    area.extend(arm.vectors.fpsr.to_le_bytes());
    area.extend(arm.vectors.fpcr.to_le_bytes());
    area.resize(528, 0);
    area
}

/// Appends exactly `count` words, with zeros for those that are not there.
fn words(area: &mut Vec<u8>, words: &[u32], count: usize) {
    let end = area.len() + count * 4;
    area.extend(words.iter().take(count).flat_map(|word| word.to_le_bytes()));
    area.resize(end, 0);
}
