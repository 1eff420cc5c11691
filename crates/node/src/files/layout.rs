//! Putting files back: first a plan, decided from the records alone, then the act.
//!
//! A checkpoint may come from anywhere, so a record is believed only as far as this container's own plan goes: its
//! path has to lie on a carried mount, or beneath a path the user named here. The act resolves every path beneath
//! that root through no link and no other mount. Doing it twice gives the same as doing it once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::beneath::is_plain;
use super::{FileKind, FileRecord, Lost, Section, Selection};
use crate::mounts::{MountPlan, MountPolicy};

mod act;
#[cfg(test)]
mod tests;
mod undo;

pub use undo::Before;

/// Why files cannot be put back. The first five come before anything is touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A path that does not name one place.
    #[error("the checkpoint holds the path {path:?}, which is not absolute and plain")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// A path outside of what is carried here.
    #[error("the checkpoint holds {}, which is not on a carried mount here{}", .path.display(), on(.mount))]
    Outside {
        /// The path.
        path: PathBuf,
        /// The mount it is on.
        mount: Option<PathBuf>,
    },
    /// Two records that cannot both be.
    #[error("the checkpoint holds {} twice, or as a file with files beneath it", .path.display())]
    Conflict {
        /// The path.
        path: PathBuf,
    },
    /// A hard link to something that is not a file of the same mount in the same checkpoint.
    #[error("the checkpoint links {} to {}, which is not a file it holds on the same mount", .path.display(), .target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// What it should be another name of.
        target: PathBuf,
    },
    /// A target that cannot be written.
    #[error("{} is read-only here, and the checkpoint has {files} changes for it", .point.display())]
    ReadOnly {
        /// The mount point, or the directory.
        point: PathBuf,
        /// How many.
        files: usize,
    },
    /// A file could not be put back.
    #[error("cannot put back {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel or the store said.
        #[source]
        source: io::Error,
    },
}

fn on(mount: &Option<PathBuf>) -> String {
    mount.as_ref().map(|mount| format!(" but on {}", mount.display())).unwrap_or_default()
}

impl LayoutError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Path { .. } | Self::Conflict { .. } | Self::Link { .. } => {
                "the checkpoint is damaged or was made to do harm: verify the store, and do not restore it"
            }
            Self::Outside { .. } => {
                "give this container the mounts the checkpoint was made with, carry that mount here, or name the \
                 path under additionalPaths"
            }
            Self::ReadOnly { .. } => "mount it writable, or start the program fresh",
            Self::Write { .. } => {
                "check the space and permissions there; the layout can be done again as it is"
            }
        }
    }
}

/// One act of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What is there goes, with all beneath it.
    Remove,
    /// A directory is made, if it is not there.
    Directory,
    /// What the checkpoint does not know of in the directory goes.
    Purge,
    /// A file, link, pipe, socket name or device is made, and replaces what is there at once.
    Write,
    /// Another name is given to a file written before.
    Link,
    /// A directory gets its owner, mode, attributes and times.
    Finish,
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Directory => "directory",
            Self::Purge => "purge",
            Self::Write => "write",
            Self::Link => "link",
            Self::Finish => "finish",
        }
    }
}

/// What a layout did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayoutReport {
    /// Files, directories and links put back.
    pub written: u64,
    /// Bytes of bodies written.
    pub bytes: u64,
    /// Paths removed.
    pub removed: u64,
    /// What could not be put back exactly for lack of privilege.
    pub lost: Vec<(PathBuf, Lost)>,
}

/// A layout that was found to stay where it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutPlan {
    records: BTreeMap<PathBuf, FileRecord>,
    /// The root each path is resolved beneath.
    roots: HashMap<PathBuf, PathBuf>,
    /// Paths nothing may remove.
    untouched: Vec<PathBuf>,
    steps: Vec<(Step, PathBuf)>,
}

impl LayoutPlan {
    /// Decides how to put records back on the mounts that are carried here. Records of paths that are excluded
    /// here are left out.
    pub fn new(
        records: impl IntoIterator<Item = FileRecord>,
        mounts: &MountPlan,
        selection: &Selection,
    ) -> Result<Self, LayoutError> {
        let mut plan = Self {
            records: BTreeMap::new(),
            roots: HashMap::new(),
            untouched: selection.exclude.clone(),
            steps: Vec::new(),
        };
        for record in records {
            let root = allowed_root(&record, mounts, selection)?;
            if selection.excludes(&record.path) {
                continue;
            }
            let path = record.path.clone();
            if plan.records.insert(path.clone(), record).is_some() {
                return Err(LayoutError::Conflict { path });
            }
            plan.roots.insert(path, root);
        }
        plan.check_structure()?;
        plan.check_writable(mounts)?;
        plan.steps = plan.order();
        Ok(plan)
    }

    fn check_structure(&self) -> Result<(), LayoutError> {
        for (path, record) in &self.records {
            let above = path.ancestors().skip(1).filter_map(|above| self.records.get(above));
            for above in above {
                let is_directory = matches!(above.kind, FileKind::Directory { .. });
                let both_removed = above.kind == FileKind::Removed && record.kind == FileKind::Removed;
                if !is_directory && !both_removed {
                    return Err(LayoutError::Conflict { path: above.path.clone() });
                }
            }
            if let FileKind::HardLink { target } = &record.kind {
                let leader = self.records.get(target);
                let is_file = leader.is_some_and(|leader| matches!(leader.kind, FileKind::File { .. }));
                if !is_file || self.roots.get(target) != self.roots.get(path) {
                    return Err(LayoutError::Link { path: path.clone(), target: target.clone() });
                }
            }
            if let FileKind::File { size, extents } = &record.kind {
                let mut end = 0;
                for extent in extents {
                    let next = extent.offset.checked_add(extent.length).filter(|next| next <= size);
                    match next {
                        Some(next) if extent.offset >= end => end = next,
                        _ => return Err(LayoutError::Path { path: path.clone() }),
                    }
                }
            }
        }
        Ok(())
    }

    fn check_writable(&self, mounts: &MountPlan) -> Result<(), LayoutError> {
        for path in self.records.keys() {
            if let Some(planned) = mounts.holding(path).filter(|planned| planned.mount.read_only) {
                let point = planned.mount.point.clone();
                let files = self.records.keys().filter(|path| path.starts_with(&point)).count();
                return Err(LayoutError::ReadOnly { point, files });
            }
        }
        Ok(())
    }

    fn order(&self) -> Vec<(Step, PathBuf)> {
        let select = |step: Step, wanted: &dyn Fn(&FileKind) -> bool| {
            let of_kind = self.records.values().filter(move |record| wanted(&record.kind));
            of_kind.map(move |record| (step, record.path.clone())).collect::<Vec<_>>()
        };
        let is_directory = |kind: &FileKind| matches!(kind, FileKind::Directory { .. });
        let is_link = |kind: &FileKind| matches!(kind, FileKind::HardLink { .. });
        let mut steps = select(Step::Remove, &|kind| *kind == FileKind::Removed);
        steps.extend(select(Step::Directory, &is_directory));
        steps.extend(select(Step::Purge, &|kind| *kind == FileKind::Directory { opaque: true }));
        steps.extend(select(Step::Write, &|kind| {
            !is_directory(kind) && !is_link(kind) && *kind != FileKind::Removed
        }));
        steps.extend(select(Step::Link, &is_link));
        // From the leaves up: making a name in a directory changes its time.
        steps.extend(select(Step::Finish, &is_directory).into_iter().rev());
        steps
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[(Step, PathBuf)] {
        &self.steps
    }

    /// How many bytes of bodies there are to write.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.records.values().map(FileRecord::body_length).sum()
    }

    /// Nothing that must stay lies at or beneath this path.
    fn may_remove(&self, path: &Path) -> bool {
        !self.untouched.iter().any(|kept| kept.starts_with(path) || path.starts_with(kept))
    }
}

impl fmt::Display for LayoutPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        for (step, path) in &self.steps {
            writeln!(f, "{:<9} {}", step.word(), crate::mounts::escape(path.as_os_str().as_bytes()))?;
        }
        Ok(())
    }
}

/// Where a record may be put, by what is carried here.
fn allowed_root(
    record: &FileRecord,
    mounts: &MountPlan,
    selection: &Selection,
) -> Result<PathBuf, LayoutError> {
    let path = &record.path;
    let holding = mounts.holding(path);
    let is_mount_itself = holding.is_some_and(|planned| planned.mount.point == *path)
        && matches!(record.kind, FileKind::Directory { opaque: false });
    if !is_plain(path) && !is_mount_itself {
        return Err(LayoutError::Path { path: path.clone() });
    }
    if let Some(planned) = holding.filter(|planned| planned.policy == MountPolicy::Carry)
        && (planned.mount.point != *path || is_mount_itself)
    {
        return Ok(planned.mount.point.clone());
    }
    if record.section == Section::Additional
        && let Some(whole) = selection.additional.iter().find(|whole| path.starts_with(whole))
    {
        let above = path.parent().filter(|_| whole == path);
        return Ok(above.unwrap_or(whole).to_owned());
    }
    Err(LayoutError::Outside {
        path: path.clone(),
        mount: holding.map(|planned| planned.mount.point.clone()),
    })
}
