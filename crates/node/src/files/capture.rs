//! Changes copied in two passes: the first while the program runs, the second while it is frozen.
//!
//! What the second pass need not copy again is a file that is the same as when it was read: same inode, length,
//! times, owner and mode; not open for writing then or now, and not mapped shared; and its last change, when it
//! was read, lay further back than any write that could still have been going on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::baseline::Baseline;
use super::beneath::Beneath;
use super::changes::{Change, ChangeKind, ChangeSet};
use super::inotify::working_names;
use super::reading::OpenedFile;
use super::{FileKind, FileRecord, FileSink, FilesError, Inode, Section, Selection, Timestamp, walk};
use crate::open_files::OpenFiles;

/// A write sets a file's time when it begins; one that began so long ago is taken for done.
const LONGEST_WRITE_SECONDS: i64 = 2;

/// Files at least this long leave the page cache again after the first pass read them.
const DROP_CACHE_FROM: u64 = 1 << 20;

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassSummary {
    /// Paths in the checkpoint after this pass.
    pub paths: u64,
    /// Records put into the sink.
    pub put: u64,
    /// Bytes of bodies copied.
    pub bytes: u64,
    /// Records taken back, of paths that are no longer changed or there.
    pub withdrawn: u64,
    /// Paths that vanished while they were looked at.
    pub vanished: u64,
}

impl fmt::Display for PassSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { paths, put, bytes, withdrawn, vanished } = self;
        write!(f, "{put} of {paths} paths copied ({bytes} bytes), {withdrawn} withdrawn, {vanished} vanished")
    }
}

/// A path that is in the sink.
#[derive(Debug)]
struct Copied {
    change: Change,
    /// For a hard link, the path of the record with the body.
    leader: Option<PathBuf>,
    /// It may not be what the file held at any one moment.
    doubtful: bool,
}

/// The copying of one checkpoint's files.
#[derive(Debug)]
pub struct Capture<'a> {
    baseline: &'a Baseline,
    selection: &'a Selection,
    threads: usize,
    held: Vec<PathBuf>,
    copied: BTreeMap<PathBuf, Copied>,
    unreadable: Vec<PathBuf>,
}

impl<'a> Capture<'a> {
    /// Begins a capture.
    #[must_use]
    pub fn new(baseline: &'a Baseline, selection: &'a Selection) -> Self {
        Self {
            baseline,
            selection,
            threads: walk::default_threads(),
            held: Vec::new(),
            copied: BTreeMap::new(),
            unreadable: Vec::new(),
        }
    }

    /// Copies what changed since the baseline. The program may run; `open` is what it had open just before.
    pub fn first_pass(
        &mut self,
        open: &OpenFiles,
        sink: &mut dyn FileSink,
    ) -> Result<PassSummary, FilesError> {
        self.pass(open, sink, true)
    }

    /// Makes the copies those of this moment. The program is frozen. Without a first pass, copies everything.
    pub fn second_pass(
        &mut self,
        open: &OpenFiles,
        sink: &mut dyn FileSink,
    ) -> Result<PassSummary, FilesError> {
        self.pass(open, sink, false)
    }

    /// Keeps a path, and all beneath it, as the first pass found it: it is about to be set aside. The names it
    /// has while it is away are left out.
    pub fn hold(&mut self, path: PathBuf) {
        self.held.extend(working_names(&path));
        self.held.push(path);
    }

    /// Paths that could not be read for lack of permission; they are not in the checkpoint. Worth a warning.
    #[must_use]
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// The paths the sink holds now, for [`Baseline::assume_changed`].
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.copied.keys().map(PathBuf::as_path)
    }

    fn pass(
        &mut self,
        open: &OpenFiles,
        sink: &mut dyn FileSink,
        running: bool,
    ) -> Result<PassSummary, FilesError> {
        let mut changes = ChangeSet::find_with(self.baseline, self.selection, self.threads)?;
        self.held.iter().for_each(|held| changes.leave_out(held));
        self.unreadable = changes.unreadable().to_vec();
        let mut summary = PassSummary::default();
        self.withdraw_gone(&changes, sink, &mut summary)?;
        let leaders = self.leaders(&changes);
        let mut roots = Roots::default();
        for (path, change) in changes.iter() {
            let leader = leaders.get(path).filter(|leader| *leader != path);
            if self.is_current(path, change, leader, open) {
                continue;
            }
            // Kept in another place there, so it would not be replaced.
            if self.copied.get(path).is_some_and(|copied| copied.change.section != change.section) {
                self.copied.remove(path);
                withdraw(path, sink, &mut summary)?;
            }
            let writable = open.is_writable(change.stat.as_ref());
            let beneath = roots.holding(self, path, change.section);
            let taken = take(beneath, path, change, leader, running, sink, &mut summary)?;
            match taken {
                Taken::Copied { doubtful } => {
                    let doubtful = doubtful || (running && writable);
                    let copied = Copied { change: *change, leader: leader.cloned(), doubtful };
                    self.copied.insert(path.to_owned(), copied);
                }
                Taken::Vanished | Taken::Unreadable => {
                    match taken {
                        Taken::Unreadable => self.unreadable.push(path.to_owned()),
                        _ => summary.vanished += 1,
                    }
                    if self.copied.remove(path).is_some() {
                        withdraw(path, sink, &mut summary)?;
                    }
                }
            }
        }
        self.repair_links(sink, &mut roots, &mut summary)?;
        summary.paths = self.copied.len() as u64;
        Ok(summary)
    }

    fn is_held(&self, path: &Path) -> bool {
        self.held.iter().any(|held| path.starts_with(held))
    }

    /// Takes back what is not a change any more.
    fn withdraw_gone(
        &mut self,
        changes: &ChangeSet,
        sink: &mut dyn FileSink,
        summary: &mut PassSummary,
    ) -> Result<(), FilesError> {
        let gone: Vec<PathBuf> = self
            .copied
            .keys()
            .filter(|path| changes.get(path).is_none() && !self.is_held(path))
            .cloned()
            .collect();
        for path in gone {
            self.copied.remove(&path);
            withdraw(&path, sink, summary)?;
        }
        Ok(())
    }

    /// For every path of a file with several changed names, the path that gets the body: the one that has it
    /// already, or the first.
    fn leaders(&self, changes: &ChangeSet) -> HashMap<PathBuf, PathBuf> {
        let mut groups: HashMap<(Inode, Section), Vec<&Path>> = HashMap::new();
        for (path, change) in changes.iter() {
            if let Some(stat) = change.stat
                && stat.links > 1
                && stat.is_file()
            {
                groups.entry((stat.inode(), change.section)).or_default().push(path);
            }
        }
        let mut leaders = HashMap::new();
        for paths in groups.into_values().filter(|paths| paths.len() > 1) {
            let has_body = |path: &&&Path| {
                let copied = self.copied.get(**path);
                copied.is_some_and(|copied| copied.leader.is_none() && copied.change.stat.is_some())
            };
            let leader = paths.iter().find(has_body).or(paths.first()).map(|path| path.to_path_buf());
            let Some(leader) = leader else { continue };
            leaders.extend(paths.into_iter().map(|path| (path.to_owned(), leader.clone())));
        }
        leaders
    }

    fn is_current(&self, path: &Path, change: &Change, leader: Option<&PathBuf>, open: &OpenFiles) -> bool {
        let Some(copied) = self.copied.get(path) else { return false };
        if copied.doubtful || copied.leader.as_ref() != leader || copied.change.section != change.section {
            return false;
        }
        match (&copied.change.stat, &change.stat) {
            (None, None) => true,
            (Some(then), Some(now)) => {
                let same_kind =
                    (copied.change.kind == ChangeKind::Added) == (change.kind == ChangeKind::Added);
                // A link's body is its leader's affair.
                then.same_state(now) && same_kind && (leader.is_some() || !open.is_writable(Some(now)))
            }
            _ => false,
        }
    }

    /// Gives the body to another name where the name that had it went away during the pass.
    fn repair_links(
        &mut self,
        sink: &mut dyn FileSink,
        roots: &mut Roots,
        summary: &mut PassSummary,
    ) -> Result<(), FilesError> {
        let orphans: Vec<PathBuf> = self
            .copied
            .iter()
            .filter(|(_, copied)| {
                copied.leader.as_ref().is_some_and(|leader| {
                    self.copied.get(leader).is_none_or(|lead| {
                        let ino = |copied: &Copied| copied.change.stat.map(|stat| stat.inode());
                        lead.leader.is_some() || ino(lead) != ino(copied)
                    })
                })
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in orphans {
            let Some(copied) = self.copied.get_mut(&path) else { continue };
            (copied.leader, copied.doubtful) = (None, true);
            let change = copied.change;
            let beneath = roots.holding(self, &path, change.section);
            let taken = take(beneath, &path, &change, None, true, sink, summary)?;
            if !matches!(taken, Taken::Copied { .. }) {
                self.copied.remove(&path);
                withdraw(&path, sink, summary)?;
            }
        }
        Ok(())
    }
}

enum Taken {
    Copied {
        doubtful: bool,
    },
    Vanished,
    /// Torpor has fewer rights than the file asks for; what it may not read it could not put back either.
    Unreadable,
}

fn withdraw(path: &Path, sink: &mut dyn FileSink, summary: &mut PassSummary) -> Result<(), FilesError> {
    summary.withdrawn += 1;
    sink.withdraw(path).map_err(|source| FilesError::Store { path: path.to_owned(), source })
}

fn take(
    beneath: io::Result<&mut Beneath>,
    path: &Path,
    change: &Change,
    leader: Option<&PathBuf>,
    running: bool,
    sink: &mut dyn FileSink,
    summary: &mut PassSummary,
) -> Result<Taken, FilesError> {
    let read = |source: io::Error| FilesError::Read { path: path.to_owned(), source };
    let store = |source: io::Error| FilesError::Store { path: path.to_owned(), source };
    summary.put += 1;
    if change.stat.is_none() {
        sink.put(&removed(path, change.section), &mut io::empty()).map_err(store)?;
        return Ok(Taken::Copied { doubtful: false });
    }
    let before = Timestamp::coarse_now();
    let opened = beneath.and_then(|beneath| {
        let (directory, name) = beneath.parent(path)?;
        OpenedFile::open(&directory, &name, path, change.section, change.kind == ChangeKind::Added)
    });
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) if is_vanished(&error) => {
            summary.put -= 1;
            return Ok(Taken::Vanished);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            summary.put -= 1;
            return Ok(Taken::Unreadable);
        }
        Err(error) => return Err(read(error)),
    };
    if let Some(leader) = leader {
        opened.record.kind = FileKind::HardLink { target: leader.clone() };
    }
    let mut body = opened.body();
    sink.put(&opened.record, &mut body).map_err(store)?;
    let shrank = body.shrank;
    summary.bytes += opened.record.body_length();
    if running && opened.stat.size >= DROP_CACHE_FROM {
        opened.drop_cache();
    }
    // Frozen, nothing moves. Running, what the listing said may be old by now: the copy counts as what was opened,
    // and what was written a moment ago may still be being written.
    let recent = opened.stat.ctime >= before.minus_seconds(LONGEST_WRITE_SECONDS);
    let listed_differs = change.stat.is_none_or(|stat| !stat.same_state(&opened.stat));
    let doubtful = running
        && opened.stat.is_file()
        && (recent || shrank || listed_differs || opened.changed().map_err(read)?);
    Ok(Taken::Copied { doubtful: doubtful || (running && listed_differs) })
}

fn is_vanished(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}

pub(super) fn removed(path: &Path, section: Section) -> FileRecord {
    FileRecord {
        path: path.to_owned(),
        section,
        kind: FileKind::Removed,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        atime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

/// The roots files are looked up beneath: the carried mounts, and the additional paths or what holds them.
#[derive(Default)]
struct Roots {
    open: Vec<Beneath>,
}

impl Roots {
    fn holding(&mut self, capture: &Capture<'_>, path: &Path, section: Section) -> io::Result<&mut Beneath> {
        let longest = |points: &mut dyn Iterator<Item = &'_ PathBuf>| {
            points
                .filter(|point| path.starts_with(point))
                .max_by_key(|point| point.components().count())
                .cloned()
        };
        let point = match section {
            Section::Carried => longest(&mut capture.baseline.roots.iter().map(|root| &root.point)),
            Section::Additional if capture.selection.additional.iter().any(|whole| whole == path) => {
                path.parent().map(Path::to_path_buf)
            }
            Section::Additional => longest(&mut capture.selection.additional.iter()),
        };
        let point = point.unwrap_or_else(|| PathBuf::from("/"));
        let place = match self.open.iter().position(|beneath| beneath.point() == point) {
            Some(place) => place,
            None => {
                self.open.push(Beneath::new(&point)?);
                self.open.len() - 1
            }
        };
        Ok(&mut self.open[place])
    }
}
