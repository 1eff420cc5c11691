//! What is wrong with a checkpoint is told by entry.

use std::io::Cursor;

use prost::Message;
use torpor_archive::Checkpoint;
use torpor_archive::check::{Answer, Finding, Site, here, whole};
use torpor_archive::engine::{ChangeKind, Engine, changes, container};
use torpor_archive::source::{Compression, Limits, open_stream};
use torpor_criu::image::cpu::{CpuInfo, X86};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_criu::image::process::{Core, Inventory, Task, TreeEntry};
use torpor_criu::image::{ImageWriter, Kind};

use crate::tape::{Tape, pack};

/// What CRIU writes of a process that has ended (`criu/include/pid.h`).
const ZOMBIE: u32 = 6;

fn image(kind: Kind, messages: &[impl Message]) -> Vec<u8> {
    let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
    for message in messages {
        writer.message(message).unwrap();
    }
    writer.into_inner()
}

fn pagemap(ranges: &[(u64, u64, PageFlags)]) -> Vec<u8> {
    let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
    for (vaddr, pages, flags) in ranges {
        writer.range(*vaddr, *pages, *flags).unwrap();
    }
    writer.into_inner()
}

fn inventory() -> Vec<u8> {
    image(Kind::Inventory, &[Inventory { img_version: 2, ..Inventory::default() }])
}

fn checkpoint(tape: Tape) -> Checkpoint {
    let from = Box::new(Cursor::new(tape.end()));
    Checkpoint::new(open_stream("-".to_owned(), from, &Limits::default(), None).unwrap()).unwrap()
}

fn finding(checkpoint: &Checkpoint, topic: &str) -> Finding {
    whole(checkpoint).into_iter().find(|finding| finding.topic == topic).unwrap()
}

#[test]
fn missing_images_are_named_with_who_needs_them() {
    let tree = image(Kind::ProcessTree, &[TreeEntry { pid: 7, threads: vec![7, 8], ..TreeEntry::default() }]);
    let checkpoint = checkpoint(
        Tape::new().file("checkpoint/inventory.img", &inventory()).file("checkpoint/pstree.img", &tree),
    );
    let finding = finding(&checkpoint, "complete");
    assert_eq!(finding.answer, Answer::No);
    let missing: Vec<_> = finding.faults.iter().map(|fault| fault.entry.as_str()).collect();
    assert_eq!(
        missing,
        [
            "checkpoint/core-7.img",
            "checkpoint/core-8.img",
            "checkpoint/mm-7.img",
            "checkpoint/pagemap-7.img",
            "checkpoint/fs-7.img",
            "checkpoint/ids-7.img",
        ]
    );
    assert_eq!(finding.faults[0].problem, "it is missing, and process 7 needs it");
}

#[test]
fn of_a_process_that_has_ended_little_is_needed() {
    let tree = image(Kind::ProcessTree, &[TreeEntry { pid: 7, threads: vec![0], ..TreeEntry::default() }]);
    let ended = Task { task_state: ZOMBIE, ..Task::default() };
    let core = image(Kind::Core, &[Core { tc: Some(ended), ..Core::default() }]);
    let checkpoint = checkpoint(
        Tape::new()
            .file("checkpoint/inventory.img", &inventory())
            .file("checkpoint/pstree.img", &tree)
            .file("checkpoint/core-7.img", &core),
    );
    assert_eq!(finding(&checkpoint, "complete").answer, Answer::Yes);
}

#[test]
fn a_damaged_image_is_named_with_the_byte() {
    let mut tree = image(Kind::ProcessTree, &[TreeEntry { pid: 7, ..TreeEntry::default() }]);
    tree.truncate(tree.len() - 1);
    let checkpoint = checkpoint(
        Tape::new().file("checkpoint/inventory.img", &inventory()).file("checkpoint/pstree.img", &tree),
    );
    let finding = finding(&checkpoint, "images");
    assert_eq!(finding.answer, Answer::No);
    assert_eq!(finding.faults[0].entry, "checkpoint/pstree.img");
    assert!(finding.faults[0].offset.is_some());
}

#[test]
fn pages_are_held_against_their_maps() {
    let map = pagemap(&[(0x1000, 2, PageFlags::PRESENT), (0x9000, 1, PageFlags::LAZY)]);
    for (pages, answer) in [(2, Answer::Yes), (1, Answer::No), (3, Answer::No)] {
        let checkpoint = checkpoint(
            Tape::new()
                .file("checkpoint/inventory.img", &inventory())
                .file("checkpoint/pagemap-7.img", &map)
                .file("checkpoint/pages-1.img", &vec![1; pages * 4096]),
        );
        assert_eq!(finding(&checkpoint, "pages").answer, answer, "{pages} pages");
    }
}

#[test]
fn parents_must_have_what_is_left_to_them() {
    let new = pagemap(&[(0x1000, 3, PageFlags::PARENT)]);
    for (old, answer) in [
        (vec![(0x1000, 1, PageFlags::PRESENT), (0x2000, 4, PageFlags::PRESENT)], Answer::Yes),
        (vec![(0x1000, 2, PageFlags::PRESENT)], Answer::No),
    ] {
        let pages: u64 = old.iter().map(|(_, pages, _)| pages).sum();
        let checkpoint = checkpoint(
            Tape::new()
                .file("checkpoint/inventory.img", &inventory())
                .file("checkpoint/pagemap-7.img", &new)
                .link("checkpoint/parent", "../pre-checkpoint")
                .file("pre-checkpoint/inventory.img", &inventory())
                .file("pre-checkpoint/pagemap-7.img", &pagemap(&old))
                .file("pre-checkpoint/pages-1.img", &vec![1; pages as usize * 4096]),
        );
        assert_eq!(finding(&checkpoint, "parents").answer, answer, "{old:?}");
        assert_eq!(finding(&checkpoint, "pages").answer, Answer::Yes);
    }
}

#[test]
fn what_cannot_be_known_is_called_so() {
    let plain = checkpoint(Tape::new().file("checkpoint/inventory.img", &inventory()));
    let contents = finding(&plain, "contents");
    assert_eq!(contents.answer, Answer::Unknown);
    assert_eq!(contents.reason, "contents cannot be verified without a digest");
    let packed = pack(Compression::Zstd, &Tape::new().file("checkpoint/inventory.img", &inventory()).end());
    let source =
        open_stream("-".to_owned(), Box::new(Cursor::new(packed)), &Limits::default(), None).unwrap();
    assert_eq!(finding(&Checkpoint::new(source).unwrap(), "contents").answer, Answer::Yes);
}

#[test]
fn what_podman_wrote_beside_the_images_is_understood() {
    let diff = Tape::new().directory("etc/").file("etc/motd", b"changed").end();
    let checkpoint = checkpoint(
        Tape::new()
            .file(
                "config.dump",
                br#"{"id":"abc","name":"worker","rootfsImageName":"localhost/worker:1","runtime":"crun"}"#,
            )
            .file(
                "spec.dump",
                br#"{"annotations":{"io.container.manager":"libpod"},"process":{"args":["/bin/worker"]}}"#,
            )
            .file("rootfs-diff.tar", &pack(Compression::Gzip, &diff))
            .file("deleted.files", br#"["/etc/removed"]"#)
            .file("checkpoint/inventory.img", &inventory()),
    );
    let container = container(&checkpoint).unwrap();
    assert_eq!(container.engine, Engine::Podman);
    assert_eq!((container.name.as_deref(), container.runtime.as_deref()), (Some("worker"), Some("crun")));
    // By the time of the images, which the test's archives have in common.
    assert!(container.checkpointed.is_some());
    let changes = changes(&checkpoint).unwrap().unwrap();
    let shown: Vec<_> = changes.paths.iter().map(|(path, change)| (path.as_str(), change.kind)).collect();
    assert_eq!(
        shown,
        [
            ("/etc", ChangeKind::Written),
            ("/etc/motd", ChangeKind::Written),
            ("/etc/removed", ChangeKind::Removed),
        ]
    );
}

#[test]
fn the_processor_that_criu_recorded_is_compared() {
    let capabilities = (0..12).map(|word| if word == 9 { 1 << 5 | 1 << 16 } else { 0 }).collect();
    let recorded = CpuInfo { x86: vec![X86 { capabilities, ..X86::default() }] };
    let checkpoint = checkpoint(
        Tape::new()
            .file("checkpoint/inventory.img", &inventory())
            .file("checkpoint/cpuinfo.img", &image(Kind::CpuInfo, &[recorded])),
    );
    for (features, answer, reason) in [
        (&["avx2", "avx512f"][..], Answer::Yes, "all 2 features are here"),
        (&["avx2"], Answer::No, "it lacks avx512f"),
    ] {
        let site = Site {
            cpu_features: features.iter().map(|name| (*name).to_owned()).collect(),
            ..Site::default()
        };
        let findings = here(&checkpoint, &site, |_| true);
        let finding = findings.iter().find(|finding| finding.topic == "processor").unwrap();
        assert_eq!((finding.answer, finding.reason.as_str()), (answer, reason));
    }
}
