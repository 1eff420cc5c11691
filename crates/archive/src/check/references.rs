//! Images, and the images they name.

use std::collections::{BTreeSet, HashMap, HashSet};

use torpor_criu::image::file::{Descriptor, File, MemoryFile, RemappedPath};
use torpor_criu::image::memory::{MappingStatus, Memory};
use torpor_criu::image::process::{Core, Ids, Inventory, TaskState, TreeEntry};
use torpor_criu::image::socket::{TCP, TcpState};
use torpor_criu::image::{Framing, ImageError, ImageReader, Kind, Limits, Record};

use super::contents::sentence;
use super::{Fault, Finding};
use crate::{Checkpoint, Layer};

/// Whether every image is what its name says, from its first byte to its last.
pub(super) fn well_formed(checkpoint: &Checkpoint) -> Finding {
    let (mut faults, mut images) = (Vec::new(), 0);
    for layer in checkpoint.layers() {
        for (name, entry) in checkpoint.images(layer) {
            images += 1;
            if name.kind.description().framing == Framing::Raw {
                continue;
            }
            if let Err(error) = read_through(checkpoint, entry, name.kind) {
                let offset = offset_of(&error);
                faults.push(Fault { entry: entry.name.clone(), offset, problem: sentence(&error) });
            }
        }
    }
    let good = format!("{images} images of CRIU's");
    Finding::of_faults("images", "is every image well-formed?", good, faults)
}

fn read_through(checkpoint: &Checkpoint, entry: &crate::source::Entry, kind: Kind) -> Result<(), ImageError> {
    let mut reader = ImageReader::new(kind, checkpoint.body(entry), Limits::default())?;
    while reader.next_entry()?.is_some() {}
    Ok(())
}

fn offset_of(error: &ImageError) -> Option<u64> {
    match error {
        ImageError::Truncated { offset, .. }
        | ImageError::TooLarge { offset, .. }
        | ImageError::Wire { offset, .. }
        | ImageError::Message { offset, .. }
        | ImageError::Invalid { offset, .. }
        | ImageError::Io { offset, .. } => Some(*offset),
        ImageError::Magic { .. } => Some(0),
        _ => None,
    }
}

/// Whether every image that others name is there.
pub(super) fn complete(checkpoint: &Checkpoint) -> Finding {
    let (topic, question) = ("complete", "is every image there that others name?");
    let Some(layer) = checkpoint.layers().first() else {
        return Finding::unknown(topic, question, "there are no images");
    };
    let mut survey = Survey { checkpoint, layer, faults: Vec::new(), seen: HashSet::new(), closed: false };
    survey.walk();
    let Survey { faults, seen, .. } = survey;
    Finding::of_faults(topic, question, format!("{} images are named, and there", seen.len()), faults)
}

/// A walk along what names what.
struct Survey<'a> {
    checkpoint: &'a Checkpoint,
    layer: &'a Layer,
    faults: Vec<Fault>,
    seen: HashSet<String>,
    /// Connections were closed at the dump.
    closed: bool,
}

impl Survey<'_> {
    fn walk(&mut self) {
        // A dump that was made ahead of another has memory only.
        let memory_only = self.layer.prefix == "pre-checkpoint/";
        self.need(Kind::Inventory, 0, "the inventory");
        if memory_only {
            return;
        }
        let inventory = self.all::<Inventory>(Kind::Inventory, 0).into_iter().next();
        self.closed = inventory.as_ref().and_then(|inventory| inventory.tcp_close).unwrap_or(false);
        let outside = inventory.and_then(|inventory| inventory.root_ids);
        self.need(Kind::ProcessTree, 0, "every checkpoint");
        let mut files = BTreeSet::new();
        for process in self.all::<TreeEntry>(Kind::ProcessTree, 0) {
            self.process(&process, outside.as_ref(), &mut files);
        }
        self.files(&files);
    }

    fn process(&mut self, process: &TreeEntry, outside: Option<&Ids>, files: &mut BTreeSet<(u32, u32)>) {
        let by = format!("process {}", process.pid);
        self.need(Kind::Core, process.pid.into(), &by);
        let core = self.all::<Core>(Kind::Core, process.pid.into()).into_iter().next();
        let state = core.as_ref().and_then(|core| core.tc.as_ref()).map(|task| task.state());
        if matches!(state, Some(TaskState::Dead | TaskState::Zombie)) {
            // Of one that has ended nothing else is kept; its threads have the number 0.
            return;
        }
        for thread in &process.threads {
            self.need(Kind::Core, (*thread).into(), &by);
        }
        for kind in [Kind::Memory, Kind::Pagemap, Kind::FileSystem] {
            self.need(kind, process.pid.into(), &by);
        }
        let ids = match core.and_then(|core| core.ids) {
            Some(ids) => Some(ids),
            None => {
                self.need(Kind::Ids, process.pid.into(), &by);
                self.all::<Ids>(Kind::Ids, process.pid.into()).into_iter().next()
            }
        };
        if let Some(ids) = ids {
            self.need(Kind::Descriptors, ids.files_id.into(), &by);
            let descriptors = self.all::<Descriptor>(Kind::Descriptors, ids.files_id.into());
            files.extend(descriptors.iter().map(|descriptor| (descriptor.id, process.pid)));
            if let Some(outside) = outside {
                self.namespaces(&ids, outside, &by);
            }
        }
        for memory in self.all::<Memory>(Kind::Memory, process.pid.into()) {
            let shared = memory.vmas.iter().filter(|mapping| mapping.is(MappingStatus::AnonymousShared));
            for mapping in shared.filter(|mapping| mapping.shmid != 0) {
                self.need(Kind::SharedPagemap, mapping.shmid, &by);
            }
        }
    }

    /// Namespaces that are not those CRIU ran in have images. That of the network has none where the engine keeps it.
    fn namespaces(&mut self, own: &Ids, outside: &Ids, by: &str) {
        for (kind, own, outside) in [
            (Kind::UtsNamespace, own.uts_ns_id, outside.uts_ns_id),
            (Kind::IpcSettings, own.ipc_ns_id, outside.ipc_ns_id),
            (Kind::Mounts, own.mnt_ns_id, outside.mnt_ns_id),
        ] {
            if let (Some(own), Some(outside)) = (own, outside)
                && own != outside
                && own != 0
            {
                self.need(kind, own.into(), by);
            }
        }
    }

    /// Files that descriptors name, and what else belongs to files.
    fn files(&mut self, named: &BTreeSet<(u32, u32)>) {
        if !named.is_empty() {
            self.need(Kind::Files, 0, "open descriptors");
        }
        let mut ids = HashSet::new();
        let mut in_memory = HashMap::new();
        for file in self.all::<File>(Kind::Files, 0) {
            ids.insert(file.id);
            if let Some(socket) = &file.isk
                && socket.proto == TCP
                && socket.state == TcpState::Established as u32
                && !self.closed
            {
                self.need(Kind::TcpStream, socket.ino.into(), &format!("the TCP socket {}", file.id));
            }
            if let Some(memory) = &file.memfd {
                in_memory.insert(u64::from(memory.inode_id), file.id);
            }
        }
        if !ids.is_empty() {
            for (id, pid) in named {
                if !ids.contains(id) {
                    let problem = format!("it has no file {id}, which process {pid} has open");
                    self.fault(Kind::Files, 0, problem);
                }
            }
        }
        if !in_memory.is_empty() {
            self.need(Kind::MemoryFiles, 0, "files in memory");
            for file in self.all::<MemoryFile>(Kind::MemoryFiles, 0) {
                if in_memory.contains_key(&file.inode_id) {
                    self.need(
                        Kind::SharedPagemap,
                        file.shmid.into(),
                        &format!("the file in memory {:?}", file.name),
                    );
                }
            }
        }
        for remap in self.all::<RemappedPath>(Kind::RemappedPaths, 0) {
            if let Some(id) = remap.removed_file() {
                self.need(Kind::RemovedFile, id.into(), &format!("the removed file {}", remap.orig_id));
            }
        }
    }

    /// All messages of an image, as far as it can be read.
    fn all<M: Record>(&self, kind: Kind, id: u64) -> Vec<M> {
        let Some(entry) = self.checkpoint.image(self.layer, kind, id) else { return Vec::new() };
        let Ok(mut reader) = ImageReader::new(kind, self.checkpoint.body(entry), Limits::default()) else {
            return Vec::new();
        };
        std::iter::from_fn(|| reader.next_message().ok().flatten()).collect()
    }

    fn need(&mut self, kind: Kind, id: u64, by: &str) {
        let name = format!("{}{}", self.layer.prefix, kind.file_name(id));
        if !self.seen.insert(name) || self.checkpoint.image(self.layer, kind, id).is_some() {
            return;
        }
        self.fault(kind, id, format!("it is missing, and {by} needs it"));
    }

    fn fault(&mut self, kind: Kind, id: u64, problem: String) {
        let entry = format!("{}{}", self.layer.prefix, kind.file_name(id));
        self.faults.push(Fault { entry, offset: None, problem });
    }
}
