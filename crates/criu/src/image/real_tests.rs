//! Images made by a real CRIU, and restored by it after they were changed. They need root, Python, and `TORPOR_CRIU`, the path of a
//! CRIU 4.2 or newer; without it they say so and pass.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

use super::credential::capability_set;
use super::edit::{
    PortRemap, SocketKind, close_connections, internal_pairs, rebind, remap_listening_ports, sockets,
};
use super::file::{Descriptor, File, FileType, PipeData, RemappedPath, RemovedFile};
use super::framing::{ImageReader, ImageWriter, Limits};
use super::kind::{Framing, Kind, Name};
use super::memory::Memory;
use super::pagemap::{Generation, PagemapReader, PagemapWriter};
use super::process::{Core, Ids, Inventory, TaskState, TreeEntry};
use super::socket::TcpState;
use super::{read_all, read_one};
use crate::diagnosis::{Operation, diagnose};
use crate::log::Log;
use crate::stats::Statistics;

/// Two processes with a connection between them, with data in it, in a pipe, in a socket pair and in a deleted file. After SIGUSR1
/// the parent writes down what it can still read.
const PROGRAM: &str = r#"
import mmap, os, select, signal, socket, sys
os.setsid()
port, directory = int(sys.argv[1]), sys.argv[2]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen(5)
six = socket.socket(socket.AF_INET6)
six.bind(("::ffff:127.0.0.1", port + 1))
six.listen(5)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", port))
reading, writing = os.pipe()
os.write(writing, b"in the pipe")
one, other = socket.socketpair()
one.send(b"in the socket")
shared = mmap.mmap(-1, 8192)
shared[0:6] = b"shared"
poll = select.epoll()
poll.register(listener.fileno())
gone = open(directory + "/gone", "w+")
gone.write("still here")
gone.flush()
os.unlink(directory + "/gone")
if os.fork() == 0:
    client = socket.create_connection(("127.0.0.1", port))
    client.send(b"in flight")
    open(directory + "/ready", "w").close()
    signal.sigwait([signal.SIGTERM])
    os._exit(0)
server, _ = listener.accept()
signal.sigwait([signal.SIGUSR1])
with open(directory + "/answer.part", "w") as answer:
    print(server.recv(100), os.read(reading, 100), other.recv(100), shared[0:6], listener.getsockname(), six.getsockname()[:2],
          datagrams.getsockname(), sep="\n", file=answer)
os.rename(directory + "/answer.part", directory + "/answer")
signal.pause()
"#;

struct Tree {
    criu: PathBuf,
    directory: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Tree {
    /// Starts the program, once there is a CRIU to freeze it with.
    fn start() -> Option<Self> {
        let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
            eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
            return None;
        };
        // A process that nobody has waited for keeps its PID, and that of its session, from the restore.
        set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("images")).unwrap();
        let port = free_ports();
        let child = Command::new("python3")
            .args(["-c", PROGRAM, &port.to_string()])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("errors")).unwrap())
            .current_dir("/")
            .spawn()
            .unwrap();
        let tree = Self { criu: criu.into(), directory, child, port };
        tree.wait_for("ready");
        Some(tree)
    }

    fn images(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    fn image(&self, name: &str) -> Vec<u8> {
        fs::read(self.images().join(name)).unwrap()
    }

    fn image_of(&self, kind: Kind) -> Vec<u8> {
        self.image(&kind.file_name(self.child.id().into()))
    }

    fn wait_for(&self, name: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(text) = fs::read_to_string(self.directory.path().join(name)) {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "no {name}: {:?}",
                fs::read_to_string(self.directory.path().join("errors"))
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn criu(&self, action: &str, arguments: &[&str]) -> bool {
        Command::new(&self.criu)
            .arg(action)
            .arg("--images-dir")
            .arg(self.images())
            .args(["-v4", "--network-lock", "skip", "--log-file", &format!("{action}.log")])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// Freezes the program, which ends.
    fn suspend(&mut self) {
        let pid = self.child.id().to_string();
        let frozen = self.criu("dump", &["--tree", &pid, "--tcp-established"]);
        assert!(frozen, "{:#?}", diagnose(Operation::Checkpoint, &self.log("dump.log")));
        self.child.wait().unwrap();
        for process in self.processes() {
            let _ = waitpid(Pid::from_raw(process.pid as i32), WaitOptions::empty());
        }
    }

    fn restore(&self) {
        let restored = self.criu("restore", &["--restore-detached", "--tcp-established"]);
        assert!(restored, "{:#?}", diagnose(Operation::Restore, &self.log("restore.log")));
    }

    fn log(&self, name: &str) -> Log {
        Log::read_tail(fs::File::open(self.images().join(name)).unwrap(), 1 << 20).unwrap()
    }

    /// What the program can still read, line by line.
    fn answer(&self) -> Vec<String> {
        kill_process(self.pid(), Signal::USR1).unwrap();
        self.wait_for("answer").lines().map(str::to_owned).collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn processes(&self) -> Vec<TreeEntry> {
        fs::read(self.images().join("pstree.img")).map(|image| read_all(&image).unwrap()).unwrap_or_default()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let inside: Vec<Pid> = match self.processes().as_slice() {
            [] => children(self.pid()).into_iter().chain([self.pid()]).collect(),
            tree => tree.iter().filter_map(|process| Pid::from_raw(process.pid as i32)).collect(),
        };
        for pid in inside {
            // Only what runs from this test's directory is its own: a PID may have found another owner.
            let command =
                fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
            if command.contains(&*self.directory.path().to_string_lossy()) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
        let _ = self.child.wait();
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_pid();
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

/// A port that is free, with the ten behind it.
fn free_ports() -> u16 {
    (0..100)
        .find_map(|_| {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
            (1..10)
                .all(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, first.saturating_add(next))).is_ok())
                .then_some(first)
        })
        .unwrap()
}

fn rewritten(kind: Kind, image: &[u8]) -> Vec<u8> {
    let mut reader = ImageReader::new(kind, image, Limits::default()).unwrap();
    let mut writer = ImageWriter::with_head(reader.head(), Vec::new()).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        let message = crate::wire::Message::parse(entry.message).unwrap();
        writer.entry(&message.encode(), entry.extra).unwrap();
    }
    writer.into_inner()
}

/// Bytes of the program's memory, by way of its pagemap.
fn memory(tree: &Tree, address: u64, length: usize) -> Vec<u8> {
    let image = tree.image_of(Kind::Pagemap);
    let reader = PagemapReader::new(image.as_slice(), Limits::default()).unwrap();
    let pages = tree.image(&Kind::Pages.file_name(reader.pages_id().into()));
    let ranges: Vec<_> = reader.map(Result::unwrap).collect();
    let range = ranges
        .iter()
        .find(|range| (range.vaddr..range.vaddr + range.pages * 4096).contains(&address))
        .unwrap();
    assert!(range.is_present());
    let at = (range.first * 4096 + address - range.vaddr) as usize;
    pages[at..at + length].to_vec()
}

#[test]
fn every_image_of_a_real_dump_is_understood() {
    let Some(mut tree) = Tree::start() else { return };
    tree.suspend();
    let pid = tree.child.id();

    let mut kinds = Vec::new();
    for entry in fs::read_dir(tree.images()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(Name { kind, .. }) = Name::parse(&file) else {
            assert_eq!(file, "dump.log");
            continue;
        };
        kinds.push(kind);
        if kind.description().framing != Framing::Raw {
            let image = tree.image(&file);
            assert_eq!(rewritten(kind, &image), image, "{file}");
        }
    }
    assert!(kinds.contains(&Kind::TcpStream) && kinds.contains(&Kind::SharedPagemap), "{kinds:?}");

    let inventory: Inventory = read_one(&tree.image("inventory.img")).unwrap();
    assert_eq!(
        (inventory.img_version, inventory.network_lock_method, inventory.fdinfo_per_id),
        (2, Some(2), Some(true))
    );
    assert!(inventory.root_ids.is_some());

    let processes = tree.processes();
    assert_eq!(
        processes.iter().map(|process| (process.ppid, process.sid)).collect::<Vec<_>>(),
        [(0, pid), (pid, pid)]
    );

    let core: Core = read_one(&tree.image_of(Kind::Core)).unwrap();
    let task = core.tc.unwrap();
    assert_eq!(task.state(), TaskState::Alive);
    assert!(task.comm.starts_with("python"), "{}", task.comm);
    assert_eq!(task.rlimits.unwrap().rlimits.len(), 16);
    let creds = core.thread_core.unwrap().creds.unwrap();
    assert_eq!((creds.uid, creds.fsgid), (0, 0));
    let effective = capability_set(&creds.cap_eff);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    assert_eq!(effective, u64::from_str_radix(own, 16).unwrap());

    let space: Memory = read_one(&tree.image_of(Kind::Memory)).unwrap();
    assert_eq!(space.page_size(), Some(4096));
    let arguments =
        memory(&tree, space.mm_arg_start, (space.mm_arg_end - space.mm_arg_start).min(400) as usize);
    assert!(String::from_utf8_lossy(&arguments).contains("python3"), "{arguments:?}");

    let files: Vec<File> = read_all(&tree.image("files.img")).unwrap();
    let with = |kind: FileType| files.iter().filter(|file| file.r#type() == kind).count();
    assert_eq!((with(FileType::InetSocket), with(FileType::EventPoll)), (5, 1));
    assert!(with(FileType::Pipe) >= 2);
    assert!(files.iter().any(|file| file.reg.as_ref().is_some_and(|reg| reg.name.contains("libc.so"))));
    let ids: Ids = read_one(&tree.image_of(Kind::Ids)).unwrap();
    let descriptors: Vec<Descriptor> =
        read_all(&tree.image(&Kind::Descriptors.file_name(ids.files_id.into()))).unwrap();
    assert!(descriptors.iter().all(|descriptor| files.iter().any(|file| file.id == descriptor.id)));

    let pipes = tree.image("pipes-data.img");
    let mut reader = ImageReader::new(Kind::PipeData, pipes.as_slice(), Limits::default()).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().extra, b"in the pipe");
    assert_eq!(read_all::<PipeData>(&pipes).unwrap()[0].bytes, 11);

    let remap: RemappedPath = read_one(&tree.image("remap-fpath.img")).unwrap();
    let removed = Kind::RemovedFile.file_name(remap.removed_file().unwrap().into());
    let removed: RemovedFile = read_one(&tree.image(&removed)).unwrap();
    assert_eq!(removed.uid, 0);

    let all = sockets(&tree.image("files.img")).unwrap();
    let listening: Vec<u16> =
        all.iter().filter(|socket| socket.is_listening()).map(|socket| socket.source_port).collect();
    assert_eq!(listening, [tree.port, tree.port + 1]);
    let pairs = internal_pairs(&all);
    assert_eq!(pairs.len(), 1);
    assert_eq!(all[pairs[0].0].kind, SocketKind::Tcp(Some(TcpState::Established)));

    let statistics = Statistics::read(&tree.image("stats-dump")).unwrap().dump.unwrap();
    assert!(statistics.pages_written > 0 && statistics.frozen_time > 0);
}

#[test]
fn a_restore_takes_older_pagemaps_and_sockets_on_other_ports_and_addresses() {
    let Some(mut tree) = Tree::start() else { return };
    tree.suspend();

    for entry in fs::read_dir(tree.images()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if matches!(Name::parse(&name).map(|name| name.kind), Some(Kind::Pagemap | Kind::SharedPagemap)) {
            narrow(&entry.path());
        }
    }
    let files = tree.images().join("files.img");
    let image = fs::read(&files).unwrap();
    let other = IpAddr::from([127, 0, 0, 77]);
    let image = rebind(&image, Ipv4Addr::LOCALHOST.into(), other).unwrap();
    let image = remap_listening_ports(&image, &[PortRemap { old: tree.port, new: tree.port + 5 }]).unwrap();
    fs::write(&files, image).unwrap();

    tree.restore();
    drop(TcpStream::connect((other, tree.port + 5)).unwrap());
    drop(TcpStream::connect((other, tree.port + 1)).unwrap());
    let (old, new) = (tree.port, tree.port + 5);
    assert_eq!(
        tree.answer(),
        [
            "b'in flight'".into(),
            "b'in the pipe'".into(),
            "b'in the socket'".into(),
            "b'shared'".into(),
            format!("('127.0.0.77', {new})"),
            format!("('::ffff:127.0.0.77', {})", old + 1),
            format!("('127.0.0.77', {old})"),
        ]
    );
}

/// Writes a pagemap as CRIU 4.1 would have.
fn narrow(path: &Path) {
    let image = fs::read(path).unwrap();
    let reader = PagemapReader::new(image.as_slice(), Limits::default()).unwrap();
    let mut writer = PagemapWriter::new(Vec::new(), reader.pages_id(), Generation::Narrow, 4096).unwrap();
    for range in reader {
        let range = range.unwrap();
        writer.range(range.vaddr, range.pages, range.flags).unwrap();
    }
    fs::File::create(path).unwrap().write_all(&writer.into_inner()).unwrap();
}

#[test]
fn closed_connections_read_as_ended_after_the_restore() {
    let Some(mut tree) = Tree::start() else { return };
    tree.suspend();

    let files = tree.images().join("files.img");
    let closed = close_connections(&fs::read(&files).unwrap(), |_| true).unwrap();
    assert_eq!(closed.inodes.len(), 2);
    fs::write(&files, &closed.image).unwrap();
    for inode in closed.inodes {
        fs::remove_file(tree.images().join(Kind::TcpStream.file_name(inode.into()))).unwrap();
    }

    tree.restore();
    let answer = tree.answer();
    assert_eq!(answer[..2], ["b''", "b'in the pipe'"]);
}
