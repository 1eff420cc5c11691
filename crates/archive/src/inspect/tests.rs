//! Reports on checkpoints put together here, whole and damaged.

use proptest::prelude::*;
use torpor_criu::image::credential::Creds;
use torpor_criu::image::file::{Descriptor, File, FileType, RegularFile};
use torpor_criu::image::memory::{Mapping, Memory};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_criu::image::process::{Core, FileSystem, Ids, Inventory, Task, Thread, TreeEntry};
use torpor_criu::image::{ImageWriter, Kind, Record};

use super::*;
use crate::source::{Directory, Entry, EntryKind, Source, SourceError};

/// Images in memory.
#[derive(Debug)]
struct Held {
    entries: Vec<Entry>,
    bodies: Vec<Vec<u8>>,
}

impl Held {
    fn new(images: Vec<(String, Vec<u8>)>) -> Self {
        let entry = |(name, body): &(String, Vec<u8>)| Entry {
            name: name.clone(),
            kind: EntryKind::File,
            size: body.len() as u64,
            offset: None,
            mode: 0o600,
            modified: 0,
        };
        let entries = images.iter().map(entry).collect();
        Self { entries, bodies: images.into_iter().map(|(_, body)| body).collect() }
    }
}

impl Source for Held {
    fn name(&self) -> &str {
        "held"
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let place = self.entries.iter().position(|of| of.name == entry.name).unwrap();
        let body = self.bodies[place].get(offset as usize..).and_then(|rest| rest.get(..into.len()));
        let short = || SourceError::Short {
            place: "held".to_owned(),
            entry: entry.name.clone(),
            size: entry.size,
            wanted: offset + into.len() as u64,
        };
        into.copy_from_slice(body.ok_or_else(short)?);
        Ok(())
    }

    fn random_access(&self) -> bool {
        true
    }
}

fn image<M: Record>(id: u64, messages: &[M]) -> (String, Vec<u8>) {
    let mut writer = ImageWriter::new(M::KIND, Vec::new()).unwrap();
    for message in messages {
        writer.message(message).unwrap();
    }
    (M::KIND.file_name(id), writer.into_inner())
}

/// A process with one page of stack, in which its arguments and environment are, and a child that has ended.
fn images() -> Vec<(String, Vec<u8>)> {
    let strings = b"sh\0-c\0a b\0TOKEN=x=y\0broken\0TOKEN=again\0";
    let mut page = strings.to_vec();
    page.resize(4096, 0);
    let arguments = 0x7000_0000;
    let memory = Memory {
        mm_arg_start: arguments,
        mm_arg_end: arguments + 10,
        mm_env_start: arguments + 10,
        mm_env_end: arguments + strings.len() as u64,
        mm_start_stack: arguments,
        exe_file_id: 1,
        vmas: vec![
            Mapping {
                start: 0x40_0000,
                end: 0x40_2000,
                shmid: 1,
                prot: 5,
                flags: 2,
                status: 1 | 1 << 6,
                ..Mapping::default()
            },
            Mapping {
                start: arguments,
                end: arguments + 0x3000,
                prot: 3,
                flags: 0x102,
                status: 1 | 1 << 9,
                ..Mapping::default()
            },
        ],
        ..Memory::default()
    };
    let mut pagemap = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
    pagemap.range(arguments, 1, PageFlags::PRESENT).unwrap();
    let creds = Creds { uid: 7, cap_eff: vec![1 << 13, 0], ..Creds::default() };
    let thread = Thread { creds: Some(creds), comm: Some("first".to_owned()), ..Thread::default() };
    let ids = Ids { files_id: 5, uts_ns_id: Some(3), ..Ids::default() };
    let alive = Core {
        mtype: 1,
        tc: Some(Task { task_state: 1, comm: "sh".to_owned(), ..Task::default() }),
        ids: Some(ids),
        thread_core: Some(thread),
    };
    let dead = Task { task_state: 2, exit_code: 9, comm: "gone".to_owned(), ..Task::default() };
    let regular = |id, name: &str| File {
        r#type: FileType::Regular as i32,
        id,
        reg: Some(RegularFile { id, name: name.to_owned(), pos: 12, flags: 1, ..RegularFile::default() }),
        ..File::default()
    };
    vec![
        image(0, &[Inventory { img_version: 2, root_ids: Some(ids), ..Inventory::default() }]),
        image(
            0,
            &[
                TreeEntry { pid: 10, threads: vec![10], ..TreeEntry::default() },
                TreeEntry { pid: 11, ppid: 10, threads: vec![11], ..TreeEntry::default() },
            ],
        ),
        image(10, &[alive]),
        image(11, &[Core { mtype: 1, tc: Some(dead), ..Core::default() }]),
        image(10, &[memory]),
        image(10, &[FileSystem { cwd_id: 2, root_id: 2, umask: Some(0o22) }]),
        image(0, &[regular(1, "/bin/sh"), regular(2, "/")]),
        image(5, &[Descriptor { id: 1, fd: 3, flags: 1, r#type: 1, ..Descriptor::default() }]),
        (Kind::Pagemap.file_name(10), pagemap.into_inner()),
        ("pages-1.img".to_owned(), page),
    ]
}

fn report(images: Vec<(String, Vec<u8>)>, parts: Parts) -> Report {
    Report::read(&Checkpoint::new(Box::new(Held::new(images))).unwrap(), parts, None)
}

#[test]
fn a_whole_checkpoint_is_told_without_problems() {
    let report = report(images(), Parts { secrets: true, ..Parts::ALL });
    assert_eq!(report.problems, []);
    let [alive, dead] = report.processes.as_deref().unwrap() else { panic!("two processes") };
    assert_eq!(command_line(alive.arguments.as_deref().unwrap()), "sh -c 'a b'");
    let environment: Vec<_> = alive
        .environment
        .as_ref()
        .unwrap()
        .iter()
        .map(|variable| (variable.name.as_deref(), variable.value.as_deref().unwrap()))
        .collect();
    assert_eq!(environment, [(Some("TOKEN"), "x=y"), (None, "broken"), (Some("TOKEN"), "again")]);
    assert_eq!(alive.credentials.as_ref().unwrap().effective, ["cap_net_raw"]);
    assert_eq!(alive.files.as_ref().unwrap()[0].flags, ["O_WRONLY", "FD_CLOEXEC"]);
    assert_eq!((alive.working_directory.as_deref(), alive.umask.as_deref()), (Some("/"), Some("0022")));
    let total = alive.memory.as_ref().unwrap().total;
    assert_eq!((total.mapped, total.present, total.zero, total.in_file), (5, 1, 2, 2));
    assert_eq!(
        (dead.state.as_str(), dead.end.as_deref(), dead.parent),
        ("dead", Some("killed by SIGKILL"), Some(10))
    );
    assert_eq!((&dead.threads, &dead.files, &dead.memory), (&Vec::new(), &None, &None));
    let summary = report.summary.unwrap();
    assert_eq!((summary.processes, summary.threads, summary.ended, summary.sizes.pages), (2, 1, 1, 4096));
    assert!(report.namespaces.unwrap()[0].of_criu);
    assert!(report.secrets);
}

#[test]
fn only_what_is_asked_for_is_read() {
    let mut images = images();
    images.retain(|(name, _)| {
        matches!(name.as_str(), "inventory.img" | "pstree.img" | "core-10.img" | "core-11.img")
    });
    let parts = Parts { summary: true, cgroups: true, namespaces: true, ..Parts::default() };
    let report = report(images, parts);
    assert_eq!((report.problems, report.processes), (vec![], None));
}

#[test]
fn what_is_missing_is_named_and_the_rest_is_told() {
    let mut images = images();
    images.retain(|(name, _)| name != "mm-10.img" && name != "files.img");
    let report = report(images, Parts::ALL);
    assert!(report.problems.iter().any(|problem| problem.entry == "mm-10.img"), "{:?}", report.problems);
    let alive = &report.processes.unwrap()[0];
    assert_eq!((alive.name.as_str(), &alive.arguments), ("sh", &None));
    assert_eq!(alive.files.as_ref().unwrap()[0].target, "[1]");
}

#[test]
fn values_of_variables_are_secrets() {
    let report = report(images(), Parts::ALL);
    let alive = &report.processes.unwrap()[0];
    assert!(alive.environment.as_ref().unwrap().iter().all(|variable| variable.value.is_none()));
    assert!(!report.secrets);
}

#[test]
fn a_directory_without_images_is_no_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    assert!(matches!(Checkpoint::new(Box::new(directory)), Err(SourceError::NoImages { .. })));
}

proptest! {
    #[test]
    fn a_damaged_checkpoint_is_told_as_far_as_it_goes(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let mut images = images();
        for (image, byte, value) in changes {
            let (_, body) = image.get_mut(&mut images);
            *byte.get_mut(body) = value;
        }
        if let Some((image, length)) = cut {
            let (_, body) = image.get_mut(&mut images);
            let length = length.index(body.len());
            body.truncate(length);
        }
        let _ = report(images, Parts { secrets: true, ..Parts::ALL });
    }
}
