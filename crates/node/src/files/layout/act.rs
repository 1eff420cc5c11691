//! Doing what a layout plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, StatVfsMountFlags, Timestamps};
use rustix::io::Errno;

use super::{LayoutError, LayoutPlan, LayoutReport, Step};
use crate::files::beneath::Beneath;
use crate::files::walk::{open_directory, remove, remove_contents};
use crate::files::writing::{create, set_metadata, set_times};
use crate::files::{FileKind, FileRecord, FileSource, Stat};

/// The name a file has while it is written; one at a time in a directory, and replaced if it was left behind.
const UNFINISHED: &std::ffi::CStr = c".torpor-layout";

impl LayoutPlan {
    /// Puts everything back. Each file is complete under its name or not there; after an error the layout can be
    /// done again.
    pub fn apply(&self, source: &mut dyn FileSource) -> Result<LayoutReport, LayoutError> {
        let mut act = Act {
            plan: self,
            roots: self.open_roots()?,
            report: LayoutReport::default(),
            times: BTreeMap::new(),
        };
        let steps = self.steps.iter().filter_map(|(step, path)| Some((*step, self.records.get(path)?)));
        let done = steps.into_iter().try_for_each(|(step, record)| act.step(step, record, source));
        // Also after an error: who undoes the layout, or does it again, finds the times of before.
        let times = act.put_times_back();
        done.map_err(|(path, source)| LayoutError::Write { path, source })?;
        times?;
        Ok(act.report)
    }

    /// Opens every root and makes sure that it can be written before anything is touched.
    fn open_roots(&self) -> Result<Vec<Beneath>, LayoutError> {
        let points: BTreeSet<&PathBuf> = self.roots.values().collect();
        let mut roots = Vec::new();
        for point in &points {
            let failed = |source| LayoutError::Write { path: point.to_path_buf(), source };
            // Only paths the user named here can be missing; their directories are made.
            let there = point.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
            let status = rustix::fs::statvfs(there).map_err(|error| failed(error.into()))?;
            if status.f_flag.contains(StatVfsMountFlags::RDONLY) {
                let files = self.roots.values().filter(|root| root == point).count();
                return Err(LayoutError::ReadOnly { point: point.to_path_buf(), files });
            }
        }
        for point in points {
            let failed = |source| LayoutError::Write { path: point.clone(), source };
            if !point.exists() {
                fs::create_dir_all(point).map_err(failed)?;
            }
            roots.push(Beneath::new(point).map_err(|error| failed(error.into()))?);
        }
        Ok(roots)
    }
}

type Failed = (PathBuf, io::Error);

struct Act<'a> {
    plan: &'a LayoutPlan,
    roots: Vec<Beneath>,
    report: LayoutReport,
    /// Directories the checkpoint does not hold because they did not change: their times before, and a path in
    /// each.
    times: BTreeMap<PathBuf, (PathBuf, Timestamps)>,
}

impl Act<'_> {
    fn parent(&mut self, path: &Path) -> rustix::io::Result<(Rc<OwnedFd>, std::ffi::CString)> {
        let root = self.plan.roots.get(path).ok_or(Errno::XDEV)?;
        let beneath = self.roots.iter_mut().find(|beneath| beneath.point() == root).ok_or(Errno::XDEV)?;
        beneath.parent(path)
    }

    fn step(&mut self, step: Step, record: &FileRecord, source: &mut dyn FileSource) -> Result<(), Failed> {
        let path = &record.path;
        let failed = |source: io::Error| (path.clone(), source);
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            // What is gone with its directory need not be removed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if step == Step::Remove => return Ok(()),
            Err(error) => return Err(failed(explain(error))),
        };
        let there = match Stat::at(&*parent, &*name) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(failed(error.into())),
        };
        if step != Step::Finish {
            self.remember_times(&parent, path).map_err(failed)?;
        }
        match step {
            Step::Remove => {
                if let Some(there) = there {
                    self.remove(&parent, &name, path, &there)?;
                }
            }
            Step::Directory => {
                if there.is_some_and(|there| there.is_directory()) {
                    return Ok(());
                }
                if let Some(there) = there {
                    self.remove(&parent, &name, path, &there)?;
                }
                rustix::fs::mkdirat(&*parent, &*name, Mode::from_raw_mode(0o700))
                    .map_err(|error| failed(error.into()))?;
            }
            Step::Purge => self.purge(&parent, &name, path)?,
            Step::Write => {
                let made = create(&parent, UNFINISHED, record, source);
                let lost = match made {
                    Ok(lost) => lost,
                    Err(error) => {
                        // The half-made file is of no use to anyone; the first error is the one to tell.
                        let _ = rustix::fs::unlinkat(&*parent, UNFINISHED, AtFlags::empty());
                        return Err(failed(error));
                    }
                };
                self.report.lost.extend(lost.map(|lost| (path.clone(), lost)));
                if lost != Some(crate::files::Lost::Device) {
                    self.replace(&parent, &name, path, there)?;
                    self.report.written += 1;
                    self.report.bytes += record.body_length();
                }
            }
            Step::Link => {
                let FileKind::HardLink { target } = &record.kind else { return Ok(()) };
                let (from, from_name) = self.parent(target).map_err(|error| failed(explain(error)))?;
                let leader = Stat::at(&*from, &*from_name).map_err(|error| failed(error.into()))?;
                // Renaming one name of a file over another does nothing at all.
                if there.is_some_and(|there| there.inode() == leader.inode()) {
                    return Ok(());
                }
                match rustix::fs::unlinkat(&*parent, UNFINISHED, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(failed(error.into())),
                }
                rustix::fs::linkat(&*from, &*from_name, &*parent, UNFINISHED, AtFlags::empty())
                    .map_err(|error| failed(error.into()))?;
                self.replace(&parent, &name, path, there)?;
                self.report.written += 1;
            }
            Step::Finish => {
                let lost = set_metadata(&parent, &name, record).map_err(failed)?;
                self.report.lost.extend(lost.map(|lost| (path.clone(), lost)));
                set_times(&parent, &name, record).map_err(failed)?;
                self.report.written += 1;
            }
        }
        Ok(())
    }

    fn remember_times(&mut self, parent: &OwnedFd, path: &Path) -> io::Result<()> {
        let above = path.parent().unwrap_or(path);
        // What holds a mount is not touched by what happens within it.
        if self.plan.roots.get(path).is_some_and(|root| root == path) {
            return Ok(());
        }
        if self.plan.records.contains_key(above) || self.times.contains_key(above) {
            return Ok(());
        }
        let stat = Stat::at(parent, c"")?;
        let (last_access, last_modification) = (stat.atime.to_timespec(), stat.mtime.to_timespec());
        let times = Timestamps { last_access, last_modification };
        self.times.insert(above.to_owned(), (path.to_owned(), times));
        Ok(())
    }

    fn put_times_back(&mut self) -> Result<(), LayoutError> {
        for (above, (path, times)) in std::mem::take(&mut self.times) {
            let done = self
                .parent(&path)
                .and_then(|(parent, _)| rustix::fs::utimensat(&*parent, c".", &times, AtFlags::empty()));
            match done {
                // Not ours to set; only a time is lost.
                Ok(()) | Err(Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(LayoutError::Write { path: above, source: error.into() }),
            }
        }
        Ok(())
    }

    /// Gives the finished file its name.
    fn replace(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        there: Option<Stat>,
    ) -> Result<(), Failed> {
        if let Some(there) = there.filter(Stat::is_directory) {
            self.remove(parent, name, path, &there)?;
        }
        rustix::fs::renameat(parent, UNFINISHED, parent, name).map_err(|error| {
            let _ = rustix::fs::unlinkat(parent, UNFINISHED, AtFlags::empty());
            (path.to_owned(), error.into())
        })
    }

    fn remove(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        there: &Stat,
    ) -> Result<(), Failed> {
        if there.mount_root {
            return Err((path.to_owned(), io::Error::from(Errno::BUSY)));
        }
        if !self.plan.may_remove(path) {
            return Ok(());
        }
        self.roots.iter_mut().for_each(Beneath::forget);
        remove(parent, name, path, there).map_err(|(path, error)| (path, error.into()))?;
        self.report.removed += 1;
        Ok(())
    }

    /// Empties a directory of all the checkpoint does not know of.
    fn purge(&mut self, parent: &OwnedFd, name: &std::ffi::CStr, path: &Path) -> Result<(), Failed> {
        let directory = open_directory(parent, name).map_err(|error| (path.to_owned(), error.into()))?;
        let keep = |path: &Path| self.plan.records.contains_key(path) || !self.plan.may_remove(path);
        remove_contents(&directory, path, &keep).map_err(|(path, error)| (path, error.into()))
    }
}

/// The refusals of a lookup beneath a root, in words.
fn explain(error: Errno) -> io::Error {
    let words = match error {
        Errno::LOOP | Errno::NOTDIR => "a directory on the way is a symbolic link or a file here",
        Errno::XDEV => "the way leads through another mount",
        Errno::NOENT => "a directory on the way is missing here: the image is another one",
        error => return error.into(),
    };
    io::Error::new(io::Error::from(error).kind(), words)
}
