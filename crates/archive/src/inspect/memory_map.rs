//! Mappings of processes: what is where, and how much of it is in the checkpoint.

use std::collections::{BTreeMap, HashMap};

use serde::{Serialize, Serializer};
use torpor_criu::image::memory::{Mapping as Image, MappingStatus, Memory};

use super::images::Images;
use crate::memory::{AddressSpace, AddressSpaces, Content, Gap, MappingKind, MemoryError, Owner};

/// The address space of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryMap {
    /// Bytes of a page.
    pub page_size: u64,
    /// All mappings together.
    pub total: Pages,
    /// The mappings by kind.
    pub kinds: Vec<KindTotal>,
    /// The mappings in the order of their addresses.
    pub mappings: Vec<Mapping>,
}

/// How many pages there are, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pages {
    /// Mapped: the sum of all that follow.
    pub mapped: u64,
    /// In this checkpoint.
    pub present: u64,
    /// In its parents.
    pub in_parents: u64,
    /// Left where the program ran, for later.
    pub lazy: u64,
    /// Never written to, or zero.
    pub zero: u64,
    /// The same as in the mapped file.
    pub in_file: u64,
    /// The kernel's, or a device's.
    pub outside: u64,
    /// A parent should have them, and does not.
    pub lost: u64,
}

impl Pages {
    /// In the checkpoint and its parents.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.present + self.in_parents
    }

    fn add(&mut self, other: Self) {
        self.mapped += other.mapped;
        self.present += other.present;
        self.in_parents += other.in_parents;
        self.lazy += other.lazy;
        self.zero += other.zero;
        self.in_file += other.in_file;
        self.outside += other.outside;
        self.lost += other.lost;
    }

    fn count(&mut self, content: Content, pages: u64) {
        self.mapped += pages;
        *match content {
            Content::Stored { layer: 0, .. } => &mut self.present,
            Content::Stored { .. } => &mut self.in_parents,
            Content::Absent(Gap::Lazy) => &mut self.lazy,
            Content::Absent(Gap::Zero | Gap::Unmapped) => &mut self.zero,
            Content::Absent(Gap::File { .. }) => &mut self.in_file,
            Content::Absent(Gap::Outside) => &mut self.outside,
            Content::Absent(Gap::Lost) => &mut self.lost,
        } += pages;
    }
}

/// All mappings of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KindTotal {
    /// The kind.
    pub kind: MappingKind,
    /// How many mappings.
    pub mappings: usize,
    /// Their pages.
    #[serde(flatten)]
    pub pages: Pages,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// The first address.
    #[serde(serialize_with = "address")]
    pub start: u64,
    /// The first address behind it.
    #[serde(serialize_with = "address")]
    pub end: u64,
    /// As `rw-p` in `/proc/PID/maps`.
    pub protection: String,
    /// What it is for.
    pub kind: MappingKind,
    /// The file, or what stands for it, as `[vdso]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where in the file or shared memory it starts, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Its pages.
    #[serde(flatten)]
    pub pages: Pages,
}

fn address<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    // As text: not every reader of JSON has integers of 64 bits.
    serializer.collect_str(&format_args!("{address:#x}"))
}

/// The memory of a process.
pub(super) fn memory_map(
    images: &Images<'_>,
    spaces: &AddressSpaces<'_>,
    space: &AddressSpace<'_>,
    memory: &Memory,
) -> MemoryMap {
    let page_size = space.page_size();
    let by_start: HashMap<u64, &Image> = memory.vmas.iter().map(|vma| (vma.start, vma)).collect();
    let mut mappings: Vec<_> = space
        .mappings()
        .iter()
        .map(|mapping| {
            let shared = if mapping.shared { 's' } else { 'p' };
            let file = mapping.file.and_then(|file| spaces.path(file).map(str::to_owned));
            let special = || by_start.get(&mapping.start).and_then(|vma| special_name(vma));
            Mapping {
                start: mapping.start,
                end: mapping.end,
                protection: format!("{}{shared}", mapping.protection),
                kind: mapping.kind,
                name: file
                    .map(|path| if mapping.object.is_some() { format!("memfd:{path}") } else { path })
                    .or_else(|| mapping.object.map(|object| format!("shared:[{object}]")))
                    .or_else(special),
                offset: (mapping.file.is_some() || mapping.object.is_some()).then_some(mapping.offset),
                pages: Pages::default(),
            }
        })
        .collect();
    if let Err(error) = count(space, page_size, &mut mappings) {
        images.note(&name_of(space), &error);
    }
    let mut map = MemoryMap { page_size, ..MemoryMap::default() };
    let mut kinds: BTreeMap<MappingKind, KindTotal> = BTreeMap::new();
    for Mapping { kind, pages, .. } in &mappings {
        map.total.add(*pages);
        let empty = KindTotal { kind: *kind, mappings: 0, pages: Pages::default() };
        let total = kinds.entry(*kind).or_insert(empty);
        total.mappings += 1;
        total.pages.add(*pages);
    }
    map.kinds = kinds.into_values().collect();
    map.mappings = mappings;
    map
}

fn count(space: &AddressSpace<'_>, page_size: u64, mappings: &mut [Mapping]) -> Result<(), MemoryError> {
    for extent in space.extents(0, u64::MAX) {
        let extent = extent?;
        if let Some(mapping) = extent.mapping.and_then(|place| mappings.get_mut(place)) {
            mapping.pages.count(extent.content, (extent.end - extent.start) / page_size);
        }
    }
    Ok(())
}

fn name_of(space: &AddressSpace<'_>) -> String {
    let own = space.pages(Owner::Process(space.pid()));
    own.map_or_else(
        || format!("memory of process {}", space.pid()),
        |_| format!("pagemap-{}.img", space.pid()),
    )
}

/// What stands for the name of a mapping that is neither a file nor shared memory.
fn special_name(vma: &Image) -> Option<String> {
    let names = [
        (MappingStatus::Plugin, "[plugin]"),
        (MappingStatus::ShadowStack, "[shadow stack]"),
        (MappingStatus::Uprobes, "[uprobes]"),
        (MappingStatus::Vsyscall, "[vsyscall]"),
        (MappingStatus::Vdso, "[vdso]"),
        (MappingStatus::Vvar, "[vvar]"),
        (MappingStatus::AioRing, "[aio]"),
        (MappingStatus::Socket, "[socket]"),
        (MappingStatus::Heap, "[heap]"),
        (MappingStatus::Stack, "[stack]"),
    ];
    names.iter().find(|(status, _)| vma.is(*status)).map(|(_, name)| (*name).to_owned())
}
