//! How much memory there is, by where its content is.

use serde::Serialize;

use super::{AddressSpace, Content, Extent, Gap, Mapping, MappingKind, MemoryError, Owner, Protection};

/// Bytes of address space, by where their content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// In mappings.
    pub mapped: u64,
    /// The process's own, in this dump.
    pub stored: u64,
    /// The process's own, in parents of this dump.
    pub in_parents: u64,
    /// Of shared memory, in this dump or its parents.
    pub shared: u64,
    /// Never written to: zeros that take no room.
    pub zero: u64,
    /// Unchanged from files, which are not part of the checkpoint.
    pub in_files: u64,
    /// The kernel's, or a device's.
    pub outside: u64,
    /// Left where the program ran before.
    pub lazy: u64,
    /// Missing in the parent that should have them.
    pub lost: u64,
}

impl Usage {
    /// Adds what an extent has.
    fn add(&mut self, extent: &Extent) {
        let bytes = extent.end - extent.start;
        if extent.mapping.is_some() {
            self.mapped += bytes;
        }
        let of = match extent.content {
            Content::Stored { owner: Owner::Shared(_), .. } => &mut self.shared,
            Content::Stored { layer: 0, .. } => &mut self.stored,
            Content::Stored { .. } => &mut self.in_parents,
            Content::Absent(Gap::Zero) => &mut self.zero,
            Content::Absent(Gap::File { .. }) => &mut self.in_files,
            Content::Absent(Gap::Outside | Gap::Unmapped) => &mut self.outside,
            Content::Absent(Gap::Lazy) => &mut self.lazy,
            Content::Absent(Gap::Lost) => &mut self.lost,
        };
        *of += bytes;
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            mapped: self.mapped + other.mapped,
            stored: self.stored + other.stored,
            in_parents: self.in_parents + other.in_parents,
            shared: self.shared + other.shared,
            zero: self.zero + other.zero,
            in_files: self.in_files + other.in_files,
            outside: self.outside + other.outside,
            lazy: self.lazy + other.lazy,
            lost: self.lost + other.lost,
        }
    }
}

/// A mapping, and how much of it is where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingUsage {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it is for.
    pub kind: MappingKind,
    /// What may be done with it.
    pub protection: Protection,
    /// Whether writes are seen by others that map the same.
    #[serde(rename = "isShared")]
    pub is_shared: bool,
    /// The file behind it.
    pub file: Option<String>,
    /// Where it starts in its file or shared memory, in bytes.
    pub offset: u64,
    /// How much of it is where.
    #[serde(flatten)]
    pub usage: Usage,
}

/// Which mappings count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Those of these kinds; all where none is named.
    pub kinds: Vec<MappingKind>,
    /// Those that allow all of this.
    pub protection: Protection,
}

impl Filter {
    /// Whether a mapping counts.
    #[must_use]
    pub fn takes(&self, mapping: &Mapping) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&mapping.kind))
            && mapping.protection.allows(self.protection)
    }

    /// Whether an extent counts. What is in no mapping counts only where every mapping does.
    #[must_use]
    pub fn takes_extent(&self, space: &AddressSpace<'_>, extent: &Extent) -> bool {
        extent.mapping.map_or(*self == Self::default(), |mapping| self.takes(&space.mappings()[mapping]))
    }
}

impl AddressSpace<'_> {
    /// How much memory is where, in all mappings that count, and in each of them. `path` tells the path of a file.
    ///
    /// # Errors
    /// Where pagemaps are damaged or cannot be read.
    pub fn usage<'p>(
        &self,
        filter: &Filter,
        path: impl Fn(u32) -> Option<&'p str>,
    ) -> Result<(Usage, Vec<MappingUsage>), MemoryError> {
        let mut total = Usage::default();
        let mut each: Vec<MappingUsage> = Vec::new();
        let mut last = None;
        for extent in self.extents(0, u64::MAX) {
            let extent = extent?;
            if !filter.takes_extent(self, &extent) {
                continue;
            }
            total.add(&extent);
            let Some(place) = extent.mapping else { continue };
            if last != Some(place) {
                last = Some(place);
                let mapping = &self.mappings()[place];
                each.push(MappingUsage {
                    start: mapping.start,
                    end: mapping.end,
                    kind: mapping.kind,
                    protection: mapping.protection,
                    is_shared: mapping.shared,
                    file: mapping.file.and_then(&path).map(str::to_owned),
                    offset: mapping.offset,
                    usage: Usage::default(),
                });
            }
            if let Some(mapping) = each.last_mut() {
                mapping.usage.add(&extent);
            }
        }
        Ok((total, each))
    }
}
