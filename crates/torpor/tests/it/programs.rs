//! Real programs, each through three rounds of suspend and restore in a new container, looked at from outside.

use std::collections::BTreeSet;

use crate::container::{Container, Pod, Printing};

#[test]
fn a_pipeline_loses_no_line_and_doubles_none() {
    let Some(pod) = Pod::new(&["sed"]) else { return };
    let script = "for ((i = 0; ; i++)); do echo line $i; sleep 0.002; done | sed -u s/line/row/ | cat";
    let lines = pod.three_rounds(&[], &["bash", "-c", script], |container, _| container.wait_more_lines(40));
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("row {number}"));
    }
}

/// Eight threads that count, and one that answers with all counts.
const THREADS: &str = r"
import os, socket, threading, time
counts = [0] * 8
def count(n):
    while True:
        counts[n] += 1
        time.sleep(0.001)
for n in range(8):
    threading.Thread(target=count, args=(n,), daemon=True).start()
server = socket.create_server(('127.0.0.1', 8000))
asked = 0
while True:
    peer, _ = server.accept()
    asked += 1
    peer.sendall(('%d %d %s' % (asked, os.getpid(), ' '.join(map(str, counts)))).encode())
    peer.close()
";

#[test]
fn python_keeps_its_threads_and_its_listening_socket() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let mut before: Vec<u64> = Vec::new();
    pod.three_rounds(&[], &["python3", "-c", THREADS], |container, round| {
        let answer = container.ask(8000, "");
        let now: Vec<u64> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!((now[0], now.len()), (round + 1, 10), "{answer}");
        if round > 0 {
            assert_eq!(now[1], before[1], "its process is the same");
            let went_on = now[2..].iter().zip(&before[2..]).all(|(now, before)| now > before);
            assert!(went_on, "every thread has gone on: {before:?}, {now:?}");
        }
        before = now;
    });
}

/// Counts on, one by one, whatever it takes; prints each count that the server has acknowledged.
const CLIENT: &str = r"
import socket, time
while True:
    try:
        with socket.create_connection(('10.77.0.2', 6379), timeout=0.3) as peer:
            while True:
                peer.sendall(b'INCR counter\r\n')
                answer = peer.recv(100)
                if not answer.startswith(b':'): break
                print(int(answer[1:]), flush=True)
                time.sleep(0.005)
    except OSError:
        time.sleep(0.05)
";

#[test]
fn redis_keeps_its_data_and_its_client_comes_back() {
    let programs = ["redis-server", "redis-cli", "python3"];
    let Some(pod) = Pod::with_network(&programs) else { return };
    let redis =
        ["redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/tmp"];
    let client = Printing::start(pod.network().command(&["python3", "-uc", CLIENT]));
    let start = || pod.run(&[], &redis).address("10.77.0.2").start();
    let cli = |container: &Container, words: &[&str]| {
        container.exec_until(&[&["redis-cli"], words].concat(), |answer| !answer.contains("LOADING"))
    };
    let run_id = |container: &Container| {
        let info = cli(container, &["info", "server"]);
        info.lines().find(|line| line.starts_with("run_id:")).unwrap().to_owned()
    };

    let mut container = start();
    let fill = "for i = 1, 20000 do redis.call('set', 'key:' .. i, string.rep(i, 20)) end";
    cli(&container, &["eval", fill, "0"]);
    let digest = |container: &Container| {
        let words = [
            "eval",
            "return redis.sha1hex(table.concat(redis.call('mget', 'key:1', 'key:9999', 'key:20000')))",
            "0",
        ];
        (cli(container, &words), cli(container, &["exists", "counter"]), run_id(container))
    };
    container.wait_for("count of the client", || (client.lines().len() > 20).then_some(()));
    let (kept, size) = (digest(&container), cli(&container, &["dbsize"]));
    for round in 1..=3 {
        container.suspend();
        let counted = client.lines().len();
        container = start();
        container.wait_restored(round);
        container.wait_for("count of the client", || (client.lines().len() > counted + 20).then_some(()));
        assert_eq!((digest(&container), cli(&container, &["dbsize"])), (kept.clone(), size.clone()));
    }
    let counts: Vec<u64> = client.stop().iter().map(|line| line.parse().unwrap()).collect();
    // One count may be made whose answer is lost with the connection; none may be made twice or taken back.
    assert!(counts.windows(2).all(|pair| pair[1] == pair[0] + 1 || pair[1] == pair[0] + 2), "{counts:?}");
    let lost = counts.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    assert!(lost <= 3, "more answers were lost than connections: {counts:?}");
}

const NGINX: &str = "user root; daemon off; worker_processes 3; pid /run/nginx.pid; error_log /dev/stderr;
events {}
http {
  access_log /var/log/nginx/access.log;
  client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
  server { listen 8080; location / { return 200 'pid $pid number $connection\\n'; } }
}";

#[test]
fn nginx_keeps_its_master_and_workers() {
    let Some(pod) = Pod::new(&["nginx"]) else { return };
    std::fs::write(pod.volume().join("nginx.conf"), NGINX).unwrap();
    let script = "mkdir -p /var/log/nginx; exec nginx -c /volume/nginx.conf";
    let mut pids = Vec::new();
    let mut connections = 0;
    pod.three_rounds(&[], &["bash", "-c", script], |container, round| {
        let answer = container.ask(8080, "GET / HTTP/1.0\\r\\n\\r\\n");
        let number = answer.trim_end().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && number > connections, "{connections}: {answer}");
        connections = number;
        let now = container.program_pids();
        assert_eq!(now.len(), 4, "a master and three workers: {now:?}");
        if round > 0 {
            assert_eq!(now, pids);
            let log = container.read("/var/log/nginx/access.log").unwrap();
            assert_eq!(log.lines().count() as u64, round + 1, "the log of all rounds\n{log}");
        }
        pids = now;
    });
}

#[test]
fn an_nginx_that_was_restored_reloads_and_stops_as_told() {
    let Some(pod) = Pod::new(&["nginx"]) else { return };
    std::fs::write(pod.volume().join("nginx.conf"), NGINX).unwrap();
    let script = "mkdir -p /var/log/nginx; exec nginx -c /volume/nginx.conf";
    let start = || pod.start(&["--trigger-signal", "SIGUSR1"], &["bash", "-c", script]);
    let container = start();
    container.ask(8080, "GET / HTTP/1.0\\r\\n\\r\\n");
    let before = container.program_pids();
    container.signal(rustix::process::Signal::USR1);
    assert_eq!(container.wait(), 143);
    let container = start();
    container.wait_restored(1);
    container.signal(rustix::process::Signal::HUP);
    let workers = container.wait_for("new workers", || {
        let now = container.program_pids();
        (now.len() == 4 && now[1..].iter().all(|pid| !before.contains(pid))).then_some(now)
    });
    assert_eq!(workers[0], before[0], "the master is the same");
    container.ask(8080, "GET / HTTP/1.0\\r\\n\\r\\n");
    container.signal(rustix::process::Signal::TERM);
    assert_eq!(container.wait(), 0, "it ended by itself\n{}", container.story());
}

const NODE: &str = r"
const fs = require('fs');
let asked = 0, ticks = 0;
setInterval(() => { ticks++; fs.promises.readFile('/etc/hostname'); }, 5);
require('http').createServer((_, answer) => answer.end(`${++asked} ${ticks} ${process.pid}`)).listen(8000, '127.0.0.1');
";

#[test]
fn node_js_goes_on_without_io_uring() {
    let Some(pod) = Pod::new(&["node"]) else { return };
    let mut before: Vec<u64> = vec![0, 0, 0];
    let program = ["env", "UV_USE_IO_URING=0", "node", "-e", NODE];
    pod.three_rounds(&[], &program, |container, round| {
        let answer = container.ask(8000, "GET / HTTP/1.0\\r\\n\\r\\n");
        let body = answer.lines().last().unwrap();
        let now: Vec<u64> = body.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(now[0], round + 1, "{answer}");
        assert!(now[1] >= before[1] && (round == 0 || now[2] == before[2]), "{before:?}, {now:?}");
        before = now;
    });
}

#[test]
fn node_js_with_io_uring_is_told_what_to_do_and_ends_by_itself() {
    let Some(pod) = Pod::new(&["node"]) else { return };
    let container = pod.start(&[], &["env", "UV_USE_IO_URING=1", "node", "-e", NODE]);
    container.ask(8000, "GET / HTTP/1.0\\r\\n\\r\\n");
    if !container.open_files().iter().any(|path| path == "anon_inode:[io_uring]") {
        eprintln!("SKIPPED: this Node.js or this kernel does without io_uring in any case");
        return;
    }
    container.signal(rustix::process::Signal::TERM);
    assert_eq!(container.wait(), 143);
    let log = container.log();
    for text in ["uses io_uring", "UV_USE_IO_URING=0", "the program ended"] {
        assert!(log.contains(text), "{text} is missing in\n{log}");
    }
}

/// Appends to files that nobody else can find any more, and tells whether all is still there.
const DELETED: &str = r"
import os, time
files = []
for path in ('/var/tmp/gone', '/tmp/gone', '/dev/shm/gone'):
    file = open(path, 'w+b', buffering=0); os.unlink(path); files.append(file)
written = 0
while True:
    for file in files: file.write(b'%08d' % written)
    written += 1
    for file in files:
        body = os.pread(file.fileno(), 1 << 20, 0)
        assert body == b''.join(b'%08d' % n for n in range(written)), len(body)
        assert os.fstat(file.fileno()).st_nlink == 0
    print(written, flush=True)
    time.sleep(0.02)
";

#[test]
fn deleted_files_that_are_open_survive() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let lines =
        pod.three_rounds(&[], &["python3", "-c", DELETED], |container, _| container.wait_more_lines(5));
    let expected: Vec<String> = (1..=lines.len()).map(|number| number.to_string()).collect();
    assert_eq!(lines, expected);
}

/// A child counts in three kinds of memory that it shares with its parent, who tells the counts.
const SHARED: &str = r"
import ctypes, mmap, os, struct, time
anonymous = mmap.mmap(-1, 1 << 16)
with open('/dev/shm/shared', 'w+b') as file:
    file.truncate(1 << 16); named = mmap.mmap(file.fileno(), 1 << 16)
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0x70727074, 1 << 16, 0o1600)
if segment < 0: raise OSError(ctypes.get_errno(), 'shmget')
system_v = ctypes.cast(ctypes.c_void_p(libc.shmat(segment, None, 0)), ctypes.POINTER(ctypes.c_uint64))
if os.fork() == 0:
    while True:
        for memory in (anonymous, named):
            memory[4096:4104] = struct.pack('Q', struct.unpack('Q', memory[4096:4104])[0] + 1)
        system_v[512] += 1
        time.sleep(0.001)
while True:
    counts = [struct.unpack('Q', memory[4096:4104])[0] for memory in (anonymous, named)] + [system_v[512]]
    print(*counts, flush=True)
    time.sleep(0.02)
";

#[test]
fn shared_memory_stays_shared() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let lines =
        pod.three_rounds(&[], &["python3", "-c", SHARED], |container, _| container.wait_more_lines(8));
    let counts: Vec<Vec<u64>> =
        lines.iter().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
    for pair in counts.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(before, now)| now >= before), "{pair:?}");
    }
    for memory in 0..3 {
        // Counts that stood still would be few.
        let different: BTreeSet<u64> = counts.iter().map(|counts| counts[memory]).collect();
        assert!(different.len() > counts.len() / 2, "memory {memory}: {counts:?}");
    }
    let spread = counts.iter().map(|counts| counts.iter().max().unwrap() - counts.iter().min().unwrap());
    assert!(spread.max() < Some(20), "they count together: {counts:?}");
}

#[test]
fn no_child_that_is_started_after_a_restore_has_a_pid_from_torpors_range() {
    let Some(pod) = Pod::new(&[]) else { return };
    let script = "while :; do (echo $BASHPID); sleep 0.002 & (echo $BASHPID); wait; done";
    let pids = pod.three_rounds(&[], &["bash", "-c", script], |container, _| container.wait_more_lines(20));
    assert!(pids.iter().all(|pid| pid.parse::<i32>().unwrap() > 10_000), "{pids:?}");
}

/// Four times the pages that a capture has room for, a tenth of them always changing; each tells what it must be.
const CHANGING: &str = r"
import random
PAGES = 24 * 1024
versions = [0] * PAGES
def page(n): return (b'%08d%08d' % (n, versions[n])) * 256
memory = bytearray(b''.join(page(n) for n in range(PAGES)))
while True:
    for n in random.sample(range(0, PAGES, 10), 200):
        versions[n] += 1
        memory[n * 4096:(n + 1) * 4096] = page(n)
    part = random.randrange(8)
    wrong = [n for n in range(part, PAGES, 8) if memory[n * 4096:(n + 1) * 4096] != page(n)]
    print('wrong %s' % wrong if wrong else 'right', flush=True)
";

#[test]
fn memory_that_changes_while_it_is_copied_is_that_of_the_freeze() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let (options, program) = (["--memory-budget", "64MiB"], ["python3", "-c", CHANGING]);
    let container = pod.start(&options, &program);
    container.wait_more_lines(3);
    container.torpor(&["checkpoint", "--leave-running"]);
    container.wait_more_lines(3);
    let before = container.crash();
    let restored = pod.start(&options, &program);
    restored.wait_restored(1);
    restored.wait_more_lines(40);
    let after = restored.suspend();
    assert!(before.iter().chain(&after).all(|line| line == "right"), "{before:?} {after:?}");
}

/// Memory of every kind that is read in a way of its own: what the program itself may not read, code that it wrote,
/// locked pages, own pages of a file, shared ones, and stacks of threads.
const KINDS: &str = r"
import ctypes, mmap, os, tempfile, threading, time
libc = ctypes.CDLL(None)
PAGES, READ, WRITE, EXECUTE = 64, 1, 2, 4
def anonymous():
    memory = mmap.mmap(-1, PAGES * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=READ | WRITE | EXECUTE)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
def fill(memory, kind):
    for n in range(PAGES): memory[n * 4096:(n + 1) * 4096] = (b'%s%07d' % (kind, n)) * 512
def right(memory, kind):
    return all(memory[n * 4096:(n + 1) * 4096] == (b'%s%07d' % (kind, n)) * 512 for n in range(PAGES))
unreadable, at = anonymous()
fill(unreadable, b'u')
libc.mprotect(ctypes.c_void_p(at), PAGES * 4096, 0)
code, entry = anonymous()
fill(code, b'c')
code[:6] = b'\xb8\x2a\0\0\0\xc3'
answer = ctypes.CFUNCTYPE(ctypes.c_int)(entry)
locked, where = anonymous()
fill(locked, b'l')
libc.mlock(ctypes.c_void_p(where), 16 * 4096)
file = tempfile.TemporaryFile()
file.write(bytes(PAGES * 4096))
file.flush()
own = mmap.mmap(file.fileno(), PAGES * 4096, flags=mmap.MAP_PRIVATE)
fill(own, b'o')
shared = mmap.mmap(-1, PAGES * 4096)
fill(shared, b's')
steps = [0] * 4
def count(n):
    while True: steps[n] += 1; time.sleep(0.001)
for n in range(4): threading.Thread(target=count, args=(n,), daemon=True).start()
while True:
    wrong = ['code'] if any(answer() != 42 for _ in range(20000)) else []
    libc.mprotect(ctypes.c_void_p(at), PAGES * 4096, READ)
    kinds = {'unreadable': (unreadable, b'u'), 'locked': (locked, b'l'), 'own': (own, b'o'), 'shared': (shared, b's')}
    wrong += [kind for kind, what in kinds.items() if not right(*what)]
    libc.mprotect(ctypes.c_void_p(at), PAGES * 4096, 0)
    if not steps[0]: wrong.append('threads')
    print('wrong %s' % wrong if wrong else 'right', flush=True)
";

#[test]
fn memory_of_every_kind_is_what_it_was() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let program = ["python3", "-c", KINDS];
    let container = pod.start(&[], &program);
    container.wait_more_lines(3);
    container.torpor(&["checkpoint", "--leave-running"]);
    container.wait_more_lines(3);
    let before = container.crash();
    let restored = pod.start(&[], &program);
    restored.wait_restored(1);
    restored.wait_more_lines(10);
    let after = restored.suspend();
    assert!(before.iter().chain(&after).all(|line| line == "right"), "{before:?} {after:?}");
}
