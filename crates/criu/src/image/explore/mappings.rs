//! What each process has mapped.

use std::collections::HashMap;

use serde::Serialize;

use super::super::memory::{Mapping, MappingStatus, Memory};
use super::super::read_one;
use super::{ExploreError, FileNames, Images, Kind, bytes, listed};

/// The mappings of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mappings {
    /// Its PID.
    pub pid: u32,
    /// What it runs; absent for one that had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its mappings, in the order of their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<Mapped>,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// First address, in hexadecimal.
    pub start: String,
    /// First address behind it, in hexadecimal.
    pub end: String,
    /// `r`, `w` and `x`, or `-` where not.
    pub protection: String,
    /// What is mapped: a file with the offset in it, shared memory, or something of the kernel's. `(s)` marks a file that is shared,
    /// `*` what CRIU does not treat as ordinary memory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

/// The mappings of all processes.
///
/// # Errors
///
/// When an image is missing or damaged.
pub fn mappings(images: &dyn Images) -> Result<Vec<Mappings>, ExploreError> {
    let names = FileNames::read(images)?;
    let mut shared = SharedIds::default();
    let mut all = Vec::new();
    for process in listed(images)? {
        let Some(memory) = memory(images, &process)? else {
            all.push(Mappings { pid: process.pid, exe: None, mems: Vec::new() });
            continue;
        };
        let mems = memory
            .vmas
            .iter()
            .map(|mapping| Mapped {
                start: format!("{:x}", mapping.start),
                end: format!("{:x}", mapping.end),
                protection: protection(mapping.prot),
                resource: resource(mapping, &names, &mut shared),
            })
            .collect();
        all.push(Mappings { pid: process.pid, exe: Some(names.regular(memory.exe_file_id)), mems });
    }
    Ok(all)
}

/// The address space of a process, unless it had ended.
pub(super) fn memory(images: &dyn Images, process: &super::Listed) -> Result<Option<Memory>, ExploreError> {
    if process.has_ended(images)? {
        return Ok(None);
    }
    let name = Kind::Memory.file_name(process.pid.into());
    match bytes(images, &name)? {
        None => Err(ExploreError::Missing { name }),
        Some(image) => read_one(&image).map(Some).map_err(|source| ExploreError::Image { name, source }),
    }
}

/// Numbers for shared memory, from 1 in the order of their first use.
#[derive(Default)]
struct SharedIds(HashMap<u64, usize>);

impl SharedIds {
    fn of(&mut self, id: u64) -> usize {
        let next = self.0.len() + 1;
        *self.0.entry(id).or_insert(next)
    }
}

fn protection(bits: u32) -> String {
    ["r", "w", "x"]
        .iter()
        .enumerate()
        .map(|(bit, name)| if bits & 1 << bit != 0 { *name } else { "-" })
        .collect()
}

fn resource(mapping: &Mapping, names: &FileNames, shared: &mut SharedIds) -> String {
    const GROWS_DOWN: u32 = 0x100;
    let mut text = if mapping.is(MappingStatus::SysvIpc) {
        format!("ips[{:x}]", shared.of(mapping.shmid))
    } else if mapping.is(MappingStatus::AnonymousShared) {
        format!("shmem[{:x}]", shared.of(mapping.shmid))
    } else if mapping.is(MappingStatus::Socket) {
        format!("packet[{:x}]", shared.of(mapping.shmid))
    } else if let Some(file) = mapping.file_id() {
        let mut text = names.regular(file as u32);
        if mapping.pgoff != 0 {
            text.push_str(&format!(" + {:#x}", mapping.pgoff));
        }
        if mapping.is(MappingStatus::FileShared) {
            text.push_str(" (s)");
        }
        text
    } else if mapping.is(MappingStatus::Stack) {
        "[stack]".into()
    } else if mapping.is(MappingStatus::Vsyscall) {
        "[vsyscall]".into()
    } else if mapping.is(MappingStatus::Vdso) {
        "[vdso]".into()
    } else if mapping.flags & GROWS_DOWN != 0 {
        "[stack?]".into()
    } else {
        String::new()
    };
    if !mapping.is(MappingStatus::Regular) {
        text.push_str(if text.is_empty() { "*" } else { " *" });
    }
    text
}
