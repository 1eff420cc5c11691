//! A checkpoint as processes.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read};

use torpor_criu::image::file::{File, MemoryFile};
use torpor_criu::image::memory::Memory;
use torpor_criu::image::process::{Core, TaskState, TreeEntry};
use torpor_criu::image::{ImageError, ImageReader, Kind, Limits, Record};

use super::{AddressSpace, MemoryError};
use crate::checkpoint::Checkpoint;
use crate::source::Entry;

/// A process of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id, in the innermost PID namespace.
    pub pid: u32,
    /// Its parent, zero for the root of the tree.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its threads, of which the first has the process's id.
    pub threads: Vec<u32>,
    /// The name in `/proc/PID/comm`; empty where its core image is not there.
    pub name: String,
    /// Whether it had ended, and was not yet waited for.
    pub ended: bool,
}

/// The address spaces of a checkpoint.
#[derive(Debug)]
pub struct AddressSpaces<'a> {
    checkpoint: &'a Checkpoint,
    processes: Vec<Process>,
    /// Their places, by their ids.
    by_pid: HashMap<u32, usize>,
    /// Paths of the files that are mapped somewhere.
    paths: HashMap<u32, String>,
    /// The shared memory behind files in memory, by the id of the file.
    objects: HashMap<u32, u64>,
    page_size: Option<u64>,
}

impl<'a> AddressSpaces<'a> {
    /// Reads which processes there are, and which files they map.
    ///
    /// # Errors
    /// Where an image is missing or damaged.
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Self, MemoryError> {
        let mut processes = Vec::new();
        let tree = image(checkpoint, Kind::ProcessTree, 0)?;
        each(checkpoint, tree, |process: TreeEntry| {
            processes.push(process);
        })?;
        let mut spaces = Self {
            checkpoint,
            processes: Vec::new(),
            by_pid: HashMap::new(),
            paths: HashMap::new(),
            objects: HashMap::new(),
            page_size: None,
        };
        let mut mapped = HashSet::new();
        for found in processes {
            let mut process = Process {
                pid: found.pid,
                parent: found.ppid,
                group: found.pgid,
                session: found.sid,
                threads: found.threads,
                name: String::new(),
                ended: false,
            };
            if let Some(core) = find(checkpoint, Kind::Core, process.pid.into()) {
                let core: Core = one(checkpoint, core)?;
                if let Some(task) = core.tc {
                    process.ended = matches!(task.state(), TaskState::Dead | TaskState::Zombie);
                    process.name = task.comm;
                }
            }
            if let Some(memory) = find(checkpoint, Kind::Memory, process.pid.into()) {
                let memory: Memory = one(checkpoint, memory)?;
                mapped.extend(memory.vmas.iter().filter_map(|mapping| mapping.file_id()));
                mapped.insert(memory.exe_file_id.into());
                spaces.page_size = spaces.page_size.or(memory.page_size());
            }
            spaces.by_pid.entry(process.pid).or_insert(spaces.processes.len());
            spaces.processes.push(process);
        }
        spaces.name_files(&mapped)?;
        Ok(spaces)
    }

    fn name_files(&mut self, mapped: &HashSet<u64>) -> Result<(), MemoryError> {
        let mut inodes = HashMap::new();
        if let Some(files) = find(self.checkpoint, Kind::Files, 0) {
            each(self.checkpoint, files, |file: File| {
                if !mapped.contains(&file.id.into()) {
                    return;
                }
                if let Some(regular) = file.reg {
                    self.paths.insert(file.id, regular.name);
                } else if let Some(in_memory) = file.memfd {
                    inodes.insert(u64::from(in_memory.inode_id), file.id);
                }
            })?;
        }
        if inodes.is_empty() {
            return Ok(());
        }
        let of_inode = inodes;
        if let Some(files) = find(self.checkpoint, Kind::MemoryFiles, 0) {
            each(self.checkpoint, files, |file: MemoryFile| {
                if let Some(id) = of_inode.get(&file.inode_id) {
                    self.objects.insert(*id, file.shmid.into());
                    self.paths.insert(*id, file.name);
                }
            })?;
        }
        Ok(())
    }

    /// All processes, parents before their children.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The process with this id.
    ///
    /// # Errors
    /// Where there is none.
    pub fn process(&self, pid: u32) -> Result<&Process, MemoryError> {
        let place = self.by_pid.get(&pid).ok_or(MemoryError::NoProcess { pid })?;
        Ok(&self.processes[*place])
    }

    /// The address space of a process.
    ///
    /// # Errors
    /// Where the process is not there or had ended, or its images are damaged.
    pub fn open(&self, pid: u32) -> Result<AddressSpace<'a>, MemoryError> {
        let process = self.process(pid)?;
        let Some(entry) = find(self.checkpoint, Kind::Memory, pid.into()) else {
            return Err(match process.ended {
                true => MemoryError::Ended { pid },
                false => MemoryError::Missing { entry: Kind::Memory.file_name(pid.into()) },
            });
        };
        let memory = one(self.checkpoint, entry)?;
        AddressSpace::new(self.checkpoint, pid, memory, |file| self.objects.get(&file).copied())
    }

    /// The path of a mapped file, or the name of a file in memory, by its id in `files.img`.
    #[must_use]
    pub fn path(&self, file: u32) -> Option<&str> {
        self.paths.get(&file).map(String::as_str)
    }

    /// The size of a page in bytes, where a process tells.
    #[must_use]
    pub fn page_size(&self) -> Option<u64> {
        self.page_size
    }

    /// The checkpoint they are in.
    #[must_use]
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }
}

/// The newest layer's image, where it is there.
fn find(checkpoint: &Checkpoint, kind: Kind, id: u64) -> Option<&Entry> {
    checkpoint.image(checkpoint.layers().first()?, kind, id)
}

/// The newest layer's image.
fn image(checkpoint: &Checkpoint, kind: Kind, id: u64) -> Result<&Entry, MemoryError> {
    find(checkpoint, kind, id).ok_or_else(|| MemoryError::Missing { entry: kind.file_name(id) })
}

fn reader<'a, M: Record>(
    checkpoint: &'a Checkpoint,
    entry: &'a Entry,
) -> Result<ImageReader<impl Read + use<'a, M>>, ImageError> {
    ImageReader::new(M::KIND, BufReader::new(checkpoint.body(entry)), Limits::default())
}

/// Hands over every message of an image.
fn each<M: Record>(
    checkpoint: &Checkpoint,
    entry: &Entry,
    mut take: impl FnMut(M),
) -> Result<(), MemoryError> {
    let mut read = || {
        let mut reader = reader::<M>(checkpoint, entry)?;
        while let Some(message) = reader.next_message()? {
            take(message);
        }
        Ok(())
    };
    read().map_err(|source| MemoryError::Image { entry: entry.name.clone(), source })
}

/// The only message of an image.
pub(super) fn one<M: Record>(checkpoint: &Checkpoint, entry: &Entry) -> Result<M, MemoryError> {
    reader::<M>(checkpoint, entry)
        .and_then(|mut reader| reader.next_head()?.ok_or(ImageError::Empty { kind: M::KIND }))
        .map_err(|source| MemoryError::Image { entry: entry.name.clone(), source })
}
