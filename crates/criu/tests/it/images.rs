//! Every image of a real dump, as JSON and back. It needs root, Python, `unshare`, and `TORPOR_CRIU`; without them it says so and
//! passes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use torpor_criu::image::document::{Decoder, Payloads, encode, write_json};
use torpor_criu::image::explore::{Images, mappings, open_files, open_sockets, processes, resident};
use torpor_criu::image::json::{Json, Layout};
use torpor_criu::image::presentation::Style;
use torpor_criu::image::{Format, Limits, Name};

/// A program with something of everything, in IPC and UTS namespaces of its own. It says when all is there.
const PROGRAM: &str = r#"
import ctypes, fcntl, mmap, os, resource, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
here = sys.argv[1]
keep = []
# Threads, signals, timers, limits.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
for _ in range(2):
    threading.Thread(target=signal.pause, daemon=True).start()
    threading.Thread(target=time.sleep, args=(100000,), daemon=True).start()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 100000, 5)
event = (ctypes.c_byte * 64)()
struct.pack_into('QII', event, 0, 7, signal.SIGUSR2, 0)
timer = ctypes.c_int()
libc.timer_create(1, event, ctypes.byref(timer))
os.kill(os.getpid(), signal.SIGRTMIN)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
# Memory.
shared = mmap.mmap(-1, 65536); shared[:6] = b'shared'
memory = os.memfd_create('in memory'); os.write(memory, b'x' * 5000); keep.append(mmap.mmap(memory, 5000))
# Files: removed ones with and without holes, a locked one, a named pipe with something in it.
gone = open(here + '/gone', 'w+'); gone.write('still here'); gone.flush(); os.unlink(here + '/gone')
holes = open(here + '/holes', 'w+'); holes.truncate(1 << 20); holes.seek(500000); holes.write('in between'); holes.flush(); os.unlink(here + '/holes')
locked = open(here + '/locked', 'w'); fcntl.flock(locked, fcntl.LOCK_EX)
os.mkfifo(here + '/fifo'); fifo = os.open(here + '/fifo', os.O_RDWR); os.write(fifo, b'in the fifo')
reading, writing = os.pipe(); os.write(writing, b'in the pipe')
# Sockets.
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()
client.send(b'in flight'); server.send(b'and back')
six = socket.socket(socket.AF_INET6); six.bind(('::1', 0)); six.listen()
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 0))
one, other = socket.socketpair(); one.send(b'in the queue'); socket.send_fds(one, [b'with'], [reading])
dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); dgram.bind('\0name with\0nothing ' + str(os.getpid()))
named = socket.socket(socket.AF_UNIX); named.bind(here + '/socket'); named.listen()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
# Events.
counter = libc.eventfd(5, 0)
poll = select.epoll(); poll.register(reading, select.EPOLLIN)
mask = (ctypes.c_ulong * 16)(0x4000); signals = libc.signalfd(-1, mask, 8)
ticks = libc.timerfd_create(1, 0); libc.timerfd_settime(ticks, 0, (ctypes.c_long * 4)(1, 0, 100000, 0), None)
watch = libc.inotify_init(); libc.inotify_add_watch(watch, here.encode(), 2)
# System V.
segment = libc.shmget(0x1234, 10000, 0o1600); libc.shmat.restype = ctypes.c_void_p; libc.shmat(segment, None, 0)
semaphores = libc.semget(0x77, 3, 0o1600); libc.semctl(semaphores, 1, 16, 42)
queue = libc.msgget(0x88, 0o1600)
for size in (3, 8, 13):
    libc.msgsnd(queue, struct.pack('l', 5) + b'm' * size, size, 0)
# A terminal with something in it, and children: one that waits, one that is dead.
master, slave = os.openpty(); os.write(slave, b'on the terminal')
waiting = os.fork()
if waiting == 0:
    signal.pause()
if os.fork() == 0:
    os._exit(3)
pidfd = os.pidfd_open(waiting)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
print('ready', flush=True)
os.close(1)
os.open('/dev/null', os.O_WRONLY)
signal.pause()
"#;

/// The program, ended with its children when the test ends.
struct Started {
    child: Child,
    directory: tempfile::TempDir,
}

impl Started {
    fn new() -> Option<Self> {
        std::env::var_os("TORPOR_CRIU").or_else(|| {
            eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
            None
        })?;
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("setsid")
            .args(["unshare", "--ipc", "--uts", "python3", "-c", PROGRAM])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(directory.path().join("errors")).unwrap())
            .current_dir("/")
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let errors = fs::read_to_string(directory.path().join("errors")).unwrap();
        assert_eq!(line, "ready\n", "{errors}");
        Some(Self { child, directory })
    }

    /// Dumps the program, which runs on, and returns the directory of images.
    fn dump(&self) -> std::path::PathBuf {
        let images = self.directory.path().join("images");
        fs::create_dir(&images).unwrap();
        let done = Command::new(std::env::var_os("TORPOR_CRIU").unwrap())
            .args([
                "dump",
                "--leave-running",
                "--tcp-established",
                "--file-locks",
                "--network-lock",
                "skip",
                "-v4",
            ])
            .args([
                "--ext-unix-sk",
                "--shell-job",
                "--log-file",
                "dump.log",
                "--tree",
                &self.child.id().to_string(),
            ])
            .arg("--images-dir")
            .arg(&images)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = fs::read_to_string(images.join("dump.log")).unwrap_or_default();
        let said: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
        assert!(done.status.success(), "{said:#?}");
        images
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            if let Some(child) = rustix::process::Pid::from_raw(child) {
                let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Directory<'a>(&'a Path);

impl Images for Directory<'_> {
    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        if path.exists() { fs::read(path).map(Some) } else { Ok(None) }
    }
}

#[test]
fn every_image_of_a_real_dump_comes_back_from_json() {
    let Some(program) = Started::new() else { return };
    let images = program.dump();
    let mut seen = BTreeSet::new();
    for file in fs::read_dir(&images).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(format) = Name::parse(&name).and_then(|name| Format::of(name.kind)) else { continue };
        let image = fs::read(&path).unwrap();
        for (style, layout) in [(Style::Plain, Layout::Line), (Style::Pretty, Layout::Lines)] {
            let mut text = Vec::new();
            let mut decoder =
                Decoder::new(image.as_slice(), style, Payloads::Whole, Limits::default()).unwrap();
            write_json(&mut decoder, layout, &mut text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let text = String::from_utf8(text).unwrap();
            assert!(!text.contains("\"_"), "{name} needs nothing that crit does not have: {text}");
            let json: Json = serde_json::from_str(&text).unwrap();
            assert!(encode(&json, Vec::new()).unwrap() == image, "{name} does not come back: {text}");
        }
        seen.insert(format.magic);
    }
    for magic in [
        "INVENTORY",
        "PSTREE",
        "CORE",
        "IDS",
        "MM",
        "PAGEMAP",
        "FDINFO",
        "FILES",
        "FS",
        "REMAP_FPATH",
        "GHOST_FILE",
        "MEMFD_INODE",
        "PIPES_DATA",
        "FIFO_DATA",
        "SK_QUEUES",
        "TCP_STREAM",
        "TTY_INFO",
        "TTY_DATA",
        "FILE_LOCKS",
        "UTSNS",
        "IPC_VAR",
        "IPCNS_SHM",
        "IPCNS_MSG",
        "IPCNS_SEM",
        "STATS",
    ] {
        assert!(seen.contains(magic), "{magic} is not among {seen:?}");
    }

    let directory = Directory(&images);
    let pid = program.child.id();
    let tree = processes(&directory).unwrap();
    assert_eq!((tree.len(), tree[0].pid, tree[0].children.len()), (1, pid, 2));
    let files = open_files(&directory).unwrap();
    assert!(files[0].files.iter().any(|file| file.path.contains("/locked")), "{files:?}");
    let mapped = mappings(&directory).unwrap();
    assert!(mapped[0].mems.iter().any(|mapped| mapped.resource.starts_with("ips[")), "{mapped:?}");
    assert!(resident(&directory).unwrap()[0].rss.iter().all(|range| !range.vmas.is_empty()));
    let sockets = open_sockets(&directory).unwrap();
    let of_program = &sockets.iter().find(|process| process.pid == pid).unwrap().sockets;
    let established =
        of_program.iter().filter(|socket| socket.state == "ESTABLISHED" && socket.protocol == "TCP");
    assert_eq!(established.count(), 2, "{of_program:?}");
}
