//! Mappings before and after.

use serde::Serialize;

use super::pages::PageCounts;
use crate::memory::{AddressSpace, AddressSpaces, Mapping, MappingKind, Protection};

/// What became of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingState {
    /// It is as it was.
    Same,
    /// It starts or ends elsewhere, or something else may be done with it.
    Changed,
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
}

/// A mapping, and what became of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingDiff {
    /// What became of it.
    pub state: MappingState,
    /// First address; of one that is gone, where it was.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it is for.
    pub kind: MappingKind,
    /// What may be done with it.
    pub protection: Protection,
    /// The file behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its size before, in bytes, where that was another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// What could be done with it before, where that was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection_before: Option<Protection>,
    /// Its pages.
    pub pages: PageCounts,
}

impl MappingDiff {
    fn new(state: MappingState, mapping: &Mapping, spaces: &AddressSpaces<'_>) -> Self {
        Self {
            state,
            start: mapping.start,
            end: mapping.end,
            kind: mapping.kind,
            protection: mapping.protection,
            file: mapping.file.and_then(|file| spaces.path(file)).map(str::to_owned),
            size_before: None,
            protection_before: None,
            pages: PageCounts::default(),
        }
    }
}

/// The mappings of both, as rows, and which row each of them has.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) rows: Vec<MappingDiff>,
    pub(super) of_before: Vec<usize>,
    pub(super) of_after: Vec<usize>,
}

impl Rows {
    /// Mappings belong together that start or end at the same address and are of one kind and file; or, where neither is so, that
    /// lie over each other.
    pub(super) fn new(
        before: Option<&AddressSpace<'_>>,
        after: Option<&AddressSpace<'_>>,
        spaces: (&AddressSpaces<'_>, &AddressSpaces<'_>),
    ) -> Self {
        let old = before.map(AddressSpace::mappings).unwrap_or_default();
        let new = after.map(AddressSpace::mappings).unwrap_or_default();
        let path = |spaces: &AddressSpaces<'_>, mapping: &Mapping| {
            mapping.file.and_then(|file| spaces.path(file)).map(str::to_owned)
        };
        let alike = |one: &Mapping, other: &Mapping| {
            one.kind == other.kind && path(spaces.0, one) == path(spaces.1, other)
        };
        let mut of_before = vec![usize::MAX; old.len()];
        let mut rows: Vec<MappingDiff> = Vec::new();
        let mut of_after = Vec::new();
        for mapping in new {
            let first = old.partition_point(|other| other.end <= mapping.start);
            let over = old[first..].iter().take_while(|other| other.start < mapping.end);
            let candidates = over.enumerate().map(|(place, other)| (first + place, other));
            let candidate = candidates
                .filter(|(place, other)| of_before[*place] == usize::MAX && alike(other, mapping))
                .min_by_key(|(_, other)| {
                    (other.start != mapping.start, other.end != mapping.end, other.start)
                });
            let mut row = MappingDiff::new(MappingState::New, mapping, spaces.1);
            if let Some((place, other)) = candidate {
                of_before[place] = rows.len();
                row.state = MappingState::Same;
                if (other.start, other.end) != (mapping.start, mapping.end) {
                    row.state = MappingState::Changed;
                    row.size_before = Some(other.length());
                }
                if other.protection != mapping.protection {
                    row.state = MappingState::Changed;
                    row.protection_before = Some(other.protection);
                }
            }
            of_after.push(rows.len());
            rows.push(row);
        }
        for (mapping, row) in old.iter().zip(&mut of_before) {
            if *row == usize::MAX {
                *row = rows.len();
                rows.push(MappingDiff::new(MappingState::Gone, mapping, spaces.0));
            }
        }
        Self { rows, of_before, of_after }
    }
}
