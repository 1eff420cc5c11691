use super::*;
use crate::image::ImageWriter;
use crate::image::json::Json;
use crate::image::presentation::tree_of;

/// Images made from JSON.
#[derive(Default)]
struct Made(HashMap<String, Vec<u8>>);

impl Images for Made {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(name).cloned())
    }
}

impl Made {
    fn with(mut self, prefix: &str, kind: Kind, id: u64, entries: &str) -> Self {
        let Json::List(entries) = serde_json::from_str(entries).unwrap() else { panic!("a list") };
        let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
        for (index, entry) in (0..).zip(&entries) {
            let schema = Format::of(kind).unwrap().schema(index);
            writer.entry(&tree_of(schema, entry).unwrap().encode(), b"").unwrap();
        }
        self.0.insert(format!("{prefix}{}", kind.file_name(id)), writer.into_inner());
        self
    }
}

const OWNER: &str = r#""fown": {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}"#;

fn core(comm: &str, state: u32) -> String {
    format!(
        r#"[{{"mtype": "X86_64", "tc": {{"task_state": {state}, "exit_code": 0, "personality": 0, "flags": 0, "blk_sigset": 0, "comm": "{comm}"}}}}]"#
    )
}

/// Process 1 with the children 2 and a zombie 3.
fn family() -> Made {
    let process = |pid, parent| {
        format!(r#"{{"pid": {pid}, "ppid": {parent}, "pgid": 1, "sid": 1, "threads": [{pid}]}}"#)
    };
    let mapping = |start: u64, end: u64, pgoff: u64, shmid: u64, status: &str| {
        format!(
            r#"{{"start": {start}, "end": {end}, "pgoff": {pgoff}, "shmid": {shmid}, "prot": 3, "flags": 2, "status": "{status}", "fd": -1}}"#
        )
    };
    let memory = |maps: &[String]| {
        let head: String = [
            "start_code",
            "end_code",
            "start_data",
            "end_data",
            "start_stack",
            "start_brk",
            "brk",
            "arg_start",
            "arg_end",
            "env_start",
            "env_end",
        ]
        .map(|name| format!(r#""mm_{name}": 0, "#))
        .concat();
        format!(r#"[{{{head}"exe_file_id": 7, "mm_saved_auxv": [6, 4096], "vmas": [{}]}}]"#, maps.join(", "))
    };
    let maps = [
        mapping(0x1000, 0x3000, 0, 7, "VMA_AREA_REGULAR | VMA_FILE_PRIVATE"),
        mapping(0x3000, 0x5000, 0x1000, 7, "VMA_AREA_REGULAR | VMA_FILE_SHARED"),
        mapping(0x8000, 0x9000, 0, 900, "VMA_AREA_REGULAR | VMA_ANON_SHARED"),
        mapping(0xa000, 0xb000, 0, 0, "VMA_AREA_REGULAR | VMA_AREA_STACK"),
        mapping(0xc000, 0xd000, 0, 0, "VMA_AREA_VVAR"),
    ];
    let files = format!(
        r#"[{{"type": "REG", "id": 7, "reg": {{"id": 7, "flags": 0, "pos": 0, {OWNER}, "name": "/bin/x"}}}},
            {{"type": "PIPE", "id": 8, "pipe": {{"id": 8, "pipe_id": 55, "flags": 0, {OWNER}}}}},
            {{"type": "UNIXSK", "id": 9, "usk": {{"id": 9, "ino": 3, "type": 1, "state": 10, "flags": 0, "uflags": 0, "backlog": 0, "peer": 4, {OWNER},
              "opts": {{"so_sndbuf": 212992, "so_rcvbuf": 10, "so_snd_tmo_sec": 0, "so_snd_tmo_usec": 0, "so_rcv_tmo_sec": 0, "so_rcv_tmo_usec": 0}}, "name": "/run/s=00"}}}}]"#
    );
    let mut made = Made::default()
        .with("", Kind::ProcessTree, 0, &format!("[{}, {}, {}]", process(1, 0), process(2, 1), process(3, 1)))
        .with("", Kind::Core, 1, &core("parent", 1))
        .with("", Kind::Core, 2, &core("child", 1))
        .with("", Kind::Core, 3, &core("gone", 6))
        .with("", Kind::Files, 0, &files);
    for pid in 1..=2 {
        made = made
            .with("", Kind::Ids, pid, r#"[{"vm_id": 1, "files_id": 4, "fs_id": 1, "sighand_id": 1}]"#)
            .with("", Kind::FileSystem, pid, r#"[{"cwd_id": 7, "root_id": 99}]"#)
            .with("", Kind::Memory, pid, &memory(&maps))
            .with(
                "",
                Kind::Pagemap,
                pid,
                r#"[{"pages_id": 1}, {"vaddr": 8192, "compat_nr_pages": 0, "flags": "PE_PRESENT", "nr_pages": 2},
                    {"vaddr": 16384, "compat_nr_pages": 0, "flags": "PE_PARENT", "nr_pages": 1}]"#,
            );
    }
    made.with(
        "",
        Kind::Descriptors,
        4,
        r#"[{"id": 8, "flags": 0, "type": "PIPE", "fd": 0}, {"id": 9, "flags": 0, "type": "UNIXSK", "fd": 3}, {"id": 12, "flags": 0, "type": "TTY", "fd": 4}]"#,
    )
}

fn json(view: &impl serde::Serialize) -> String {
    serde_json::to_string(view).unwrap()
}

#[test]
fn children_stand_below_their_parents() {
    assert_eq!(
        json(&processes(&family()).unwrap()),
        r#"[{"pid":1,"pgid":1,"sid":1,"comm":"parent","children":[{"pid":2,"pgid":1,"sid":1,"comm":"child"},{"pid":3,"pgid":1,"sid":1,"comm":"gone"}]}]"#
    );
}

#[test]
fn a_process_that_is_its_own_ancestor_is_refused() {
    let entry = |pid, parent| format!(r#"{{"pid": {pid}, "ppid": {parent}, "pgid": 1, "sid": 1}}"#);
    let loops = Made::default()
        .with("", Kind::ProcessTree, 0, &format!("[{}, {}, {}]", entry(1, 0), entry(2, 3), entry(3, 2)))
        .with("", Kind::Core, 1, &core("a", 1));
    assert_eq!(processes(&loops).unwrap_err().to_string(), "pstree.img: process 2 has no place in a tree");
}

#[test]
fn files_have_names_and_the_dead_have_no_files() {
    let all = open_files(&family()).unwrap();
    assert_eq!(
        json(&all[0]),
        r#"{"pid":1,"files":[{"fd":"0","type":"PIPE","path":"pipe[55]"},{"fd":"3","type":"UNIXSK","path":"unix[3 (4) /run/s=00]"},{"fd":"4","type":"TTY","path":"TTY.12"},{"fd":"cwd","path":"/bin/x"},{"fd":"root","path":"unknown path"}]}"#
    );
    assert_eq!(json(&all[2]), r#"{"pid":3}"#);
}

#[test]
fn files_of_old_checkpoints_are_found() {
    let mut old = family();
    old.0.remove("files.img");
    let old = old.with(
        "",
        Kind::RegularFiles,
        0,
        &format!(r#"[{{"id": 7, "flags": 0, "pos": 0, {OWNER}, "name": "/old"}}]"#),
    );
    assert_eq!(open_files(&old).unwrap()[0].files[3].path, "/old");
}

#[test]
fn mappings_say_what_is_mapped() {
    let all = mappings(&family()).unwrap();
    let shown: Vec<&str> = all[0].mems.iter().map(|mapped| mapped.resource.as_str()).collect();
    assert_eq!(shown, ["/bin/x", "/bin/x + 0x1000 (s)", "shmem[1]", "[stack]", "*"]);
    assert_eq!(all[0].exe.as_deref(), Some("/bin/x"));
    assert_eq!(json(&all[2]), r#"{"pid":3}"#);
}

#[test]
fn pages_lie_in_mappings_and_in_earlier_checkpoints() {
    let images = family().with(
        "parent/",
        Kind::Pagemap,
        1,
        r#"[{"pages_id": 1}, {"vaddr": 16384, "compat_nr_pages": 3, "flags": "PE_PRESENT"}]"#,
    );
    let all = resident(&images).unwrap();
    assert_eq!(
        json(&all[0].rss),
        r#"[{"phy_addr":"2000","phy_pages":2,"vmas":[{"addr":"1000","pages":2,"resource":"/bin/x"},{"addr":"3000","pages":2,"resource":"/bin/x"}],"resource":"/bin/x"},{"phy_addr":"4000","phy_pages":1,"parents":[1],"vmas":[{"addr":"~"}]}]"#
    );
    assert_eq!(all[1].rss[1].parents, [0u64; 0]);
}

#[test]
fn sockets_have_types_states_and_names() {
    assert_eq!(
        json(&open_sockets(&family()).unwrap()[0]),
        r#"{"pid":1,"sockets":[{"fd":3,"fd_type":"UNIXSK","family":"UNIX","type":"STREAM","state":"LISTEN","src_addr":"/run/s=00","send_buf":"208.0 KB","recv_buf":"10 B"}]}"#
    );
}

#[test]
fn what_is_missing_is_named() {
    let mut images = family();
    images.0.remove("mm-2.img");
    assert_eq!(mappings(&images).unwrap_err().to_string(), "mm-2.img is missing");
    assert_eq!(processes(&Made::default()).unwrap_err().to_string(), "pstree.img is missing");
}
