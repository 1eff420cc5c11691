use super::super::document::{Files, Sizes, SocketData, Sockets};
use super::*;

fn process(pid: u32, command: &str, cmdline: &str, children: Vec<Process>) -> Process {
    Process {
        pid,
        command: command.to_owned(),
        cmdline: cmdline.to_owned(),
        task_state: "Alive",
        children,
        ..Process::default()
    }
}

fn listener(address: &str) -> Socket {
    Socket {
        protocol: "TCP".to_owned(),
        data: SocketData {
            r#type: "TCP".to_owned(),
            state: "LISTEN".to_owned(),
            src: address.to_owned(),
            src_port: 80,
            ..SocketData::default()
        },
    }
}

fn document(pages: u64, processes: Process, fd: &str, sockets: Vec<Socket>) -> (Document, String) {
    let file = OpenFile { r#type: "REG".to_owned(), fd: fd.to_owned(), path: "/a".to_owned() };
    let document = Document {
        id: "1234".to_owned(),
        container_name: "web".to_owned(),
        image: "web:1".to_owned(),
        checkpoint_size: Sizes { total: pages + 10, memory_pages: pages, ..Sizes::default() },
        process_tree: Some(processes),
        file_descriptors: vec![Files { pid: 1, open_files: vec![file] }],
        sockets: vec![Sockets { pid: 1, open_sockets: sockets }],
        ..Document::default()
    };
    (document, "2026-11-21T13:28:06Z".to_owned())
}

fn sample() -> (Difference, Process) {
    let before = document(
        0,
        process(1, "a", "a 1 ", vec![process(5, "gone", "", vec![])]),
        "REG 3",
        vec![listener("::")],
    );
    let tree = process(1, "a", "a 2 ", vec![process(7, "new", "new x ", vec![])]);
    let after = document(3 << 20, tree.clone(), "REG 4", vec![listener("::"), listener("127.0.0.1")]);
    (Difference::between(&before, &after, true, true), tree)
}

#[test]
fn what_changed_is_told_in_boxes() {
    let (difference, tree) = sample();
    let text = report::report(&difference, Some(&tree), true, false);
    let body = text.split_once("bytes\n\nCheckpoint B:").unwrap().1;
    assert_eq!(
        body,
        "
  Created: 2026-11-21T13:28:06Z
  Size:    3145738 bytes

┌─ Memory Changes ─────────────────────────────────────────────┐
│ ↑ Increased by 3.00 MB
└──────────────────────────────────────────────────────────────┘
┌─ Process Tree ───────────────────────────────────────────────┐
│ Added:
│   + PID 7     new
│             new x 
│ Removed:
│   - PID 5     gone
│ Modified:
│   ~ PID 1     a
└──────────────────────────────────────────────────────────────┘
┌─ File Descriptor Changes ────────────────────────────────────┐
│ Added:
│   + PID 1     REG      /a
│ Removed:
│   - PID 1     REG      /a
└──────────────────────────────────────────────────────────────┘
┌─ Socket Changes ──────────────────────────────────────────────────────┐
│     PID   PROTO STATE        LOCAL                 PEER
│  +  1     TCP   LISTEN       127.0.0.1:80          -
└───────────────────────────────────────────────────────────────────────┘
Summary:
Checkpoint comparison for container web
Processes: +1 -1 ~1
Files: +1 -1
Sockets: +1 -0
"
    );
}

#[test]
fn the_header_has_straight_edges() {
    let (difference, _) = sample();
    let text = report::report(&difference, None, false, false);
    let widths: Vec<_> = text.lines().take(7).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
}

#[test]
fn unchanged_processes_are_shown_in_a_tree() {
    let (difference, tree) = sample();
    let text = report::report(&difference, Some(&tree), true, true);
    assert!(text.contains("│ └── [~ PID 1]  a 2 \n│     └── [+ PID 7]  new x \n│ Removed:\n"), "{text}");
}

#[test]
fn json_has_checkpointctls_names() {
    let (difference, _) = sample();
    let json = serde_json::to_value(difference).unwrap();
    assert_eq!(json["memory_changes"]["size_change_bytes"], 3 << 20);
    assert_eq!(json["process_changes"]["removed"][0]["pid"], 5);
    assert_eq!(json["file_changes"]["added"][0]["fd"], "REG 4");
    assert_eq!(json["socket_changes"]["unchanged"][0]["source"], "::");
    assert_eq!(json["checkpoint_b"]["created"], "2026-11-21T13:28:06Z");
}
