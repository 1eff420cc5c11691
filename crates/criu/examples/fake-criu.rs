//! A CRIU for tests: it speaks `swrk` and does what `FAKE_CRIU` says, without privileges and without touching anybody.
//!
//! Built by `cargo test -p torpor-criu`, or by `cargo build -p torpor-criu --example fake-criu`; then at
//! `target/debug/examples/fake-criu`. Start it as any CRIU, with the script in `Spawn::environment` under `FAKE_CRIU`:
//! instructions separated by semicolons.
//!
//! | instruction | meaning |
//! |---|---|
//! | `version=4.1.1` | the version it says it is; 4.2.1 when unset. Before 4.2, page headers are short |
//! | `lacks=mem_track,lazy_pages` | features it lacks; all others are there |
//! | `notify=a,b,c` | the notifications of a dump or a restore, in place of those of CRIU; `orphan-pts-master` has a descriptor with it |
//! | `pages=N` | pages of one process sent to the page server by a dump, each filled with its number |
//! | `holes` | every second of them is a hole, in the parent |
//! | `fail=EVENT` | fails after that notification; `fail=request` before any |
//! | `errno=N`, `message=TEXT` | what a failure says |
//! | `die=EVENT`, `hang=EVENT` | kills itself, or hangs until it is killed; also with `request` |
//! | `exit` | ends without an answer, with code 3 |
//! | `garbage` | answers with something that is no message |
//! | `kill` | a dump that does not leave the tree running kills the root, as CRIU does |
//! | `child=COMMAND` | a restore starts this shell command as the session's child, and says its PID |
//! | `echo-config` | puts the generated configuration file into the log |
//!
//! A dump writes `inventory.img` and the log; a failure puts its message into the log as CRIU does.

#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use prost::Message;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use torpor_criu::rpc::{
    DumpResponse, Features, Notify, Opts, PageServerInfo, Request, RequestKind, Response, RestoreResponse,
    Version,
};

const DUMP_EVENTS: &[&str] = &["pre-dump", "network-lock", "query-ext-files", "post-dump", "network-unlock"];
const RESTORE_EVENTS: &[&str] = &[
    "pre-restore",
    "setup-namespaces",
    "post-setup-namespaces",
    "post-restore",
    "network-unlock",
    "pre-resume",
    "post-resume",
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = arguments.last().and_then(|number| number.parse().ok()).expect("usage: fake-criu swrk FD");
    // SAFETY: whoever starts a worker hands this descriptor over to it alone.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let script = Script::parse(&std::env::var("FAKE_CRIU").unwrap_or_default());
    let mut worker = Worker { socket, script, opts: Opts::default() };
    while let Some(request) = worker.receive() {
        let more = request.keep_open() || request.kind == RequestKind::PreDump as i32;
        if !worker.answer(request) || !more {
            break;
        }
    }
}

struct Script(Vec<(String, String)>);

impl Script {
    fn parse(text: &str) -> Self {
        let instructions = text.split(';').map(str::trim).filter(|instruction| !instruction.is_empty());
        Self(
            instructions
                .map(|instruction| instruction.split_once('=').unwrap_or((instruction, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }
}

struct Worker {
    socket: OwnedFd,
    script: Script,
    opts: Opts,
}

enum Failure {
    /// As the script says.
    Scripted,
    Refused,
    Pages(std::io::Error),
}

impl Worker {
    fn receive(&self) -> Option<Request> {
        let mut datagram = vec![0; 1 << 20];
        let (_, length) = rustix::net::recv(&self.socket, &mut datagram[..], RecvFlags::empty()).ok()?;
        (length > 0).then(|| Request::decode(&datagram[..length]).expect("a request"))
    }

    fn send(&self, response: &Response) {
        let _ = rustix::net::send(&self.socket, &response.encode_to_vec(), SendFlags::NOSIGNAL);
    }

    /// In the place of a terminal's master goes `/dev/null`.
    fn send_with_null(&self, response: &Response) {
        let null = fs::File::open("/dev/null").expect("/dev/null");
        let descriptors = [null.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let datagram = response.encode_to_vec();
        let slices = [std::io::IoSlice::new(&datagram)];
        let _ = rustix::net::sendmsg(&self.socket, &slices, &mut ancillary, SendFlags::NOSIGNAL);
    }

    /// Answers one request; false if the conversation is over.
    fn answer(&mut self, request: Request) -> bool {
        if self.script.get("exit").is_some() {
            std::process::exit(3);
        }
        if self.script.get("garbage").is_some() {
            let _ = rustix::net::send(&self.socket, &[0xff; 9], SendFlags::NOSIGNAL);
            return false;
        }
        self.opts = request.opts.map(|opts| *opts).unwrap_or_default();
        let kind = RequestKind::try_from(request.kind).expect("a kind of request");
        let mut response = Response { kind: request.kind, success: true, ..Response::default() };
        let done = self.reach("request").and_then(|()| match kind {
            RequestKind::Version => {
                response.version = Some(self.version());
                Ok(())
            }
            RequestKind::FeatureCheck => {
                response.features = Some(self.features(request.features.unwrap_or_default()));
                Ok(())
            }
            RequestKind::Dump | RequestKind::PreDump | RequestKind::SinglePreDump => {
                response.dump = (kind == RequestKind::Dump).then_some(DumpResponse { restored: Some(false) });
                self.dump(kind == RequestKind::Dump)
            }
            RequestKind::Restore => {
                self.restore().map(|pid| response.restore = Some(RestoreResponse { pid }))
            }
            RequestKind::PageServer | RequestKind::PageServerChld => {
                response.kind = RequestKind::PageServer as i32;
                response.ps =
                    Some(PageServerInfo { pid: Some(1), port: Some(27), ..PageServerInfo::default() });
                Ok(())
            }
            RequestKind::WaitPid => {
                response.status = Some(0);
                Ok(())
            }
            _ => Ok(()),
        });
        if let Err(failure) = done {
            self.fail(&mut response, &failure);
        }
        let success = response.success;
        self.send(&response);
        success
    }

    fn fail(&self, response: &mut Response, failure: &Failure) {
        response.success = false;
        let message = match failure {
            Failure::Scripted => self.script.get("message").map(str::to_owned),
            Failure::Refused => Some("RPC client reported script error".to_owned()),
            Failure::Pages(error) => Some(format!("Can't write pages to socket: {error}")),
        };
        if let (Failure::Scripted, Some(errno)) = (failure, self.script.get("errno")) {
            response.cr_errno = errno.parse().ok();
        }
        if let Some(message) = &message {
            self.log(&format!("(00.000042) Error (criu/fake.c:1): {message}\n"));
        }
        response.cr_errmsg = message;
    }

    /// Says what is next, and does what the script wants to happen there.
    fn reach(&self, event: &str) -> Result<(), Failure> {
        if self.script.is("die", event) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        if self.script.is("hang", event) {
            loop {
                std::thread::park();
            }
        }
        if self.script.is("fail", event) { Err(Failure::Scripted) } else { Ok(()) }
    }

    fn notify(&self, event: &str, pid: Option<i32>) -> Result<(), Failure> {
        if self.opts.notify_scripts() {
            let notification = Response {
                kind: RequestKind::Notify as i32,
                success: true,
                notify: Some(Notify { script: Some(event.to_owned()), pid }),
                ..Response::default()
            };
            if event == "orphan-pts-master" {
                self.send_with_null(&notification);
            } else {
                self.send(&notification);
            }
            let answer = self.receive().ok_or(Failure::Refused)?;
            if answer.kind != RequestKind::Notify as i32 || !answer.notify_success() {
                return Err(Failure::Refused);
            }
            if event == "query-ext-files" {
                for external in answer.opts.iter().flat_map(|opts| &opts.external) {
                    self.log(&format!("(00.000002) Adding external object: {external}\n"));
                }
            }
        }
        self.reach(event)
    }

    fn events(&self, usual: &[&str]) -> Vec<String> {
        match self.script.get("notify") {
            Some(events) => events.split(',').filter(|event| !event.is_empty()).map(str::to_owned).collect(),
            None => usual.iter().map(|event| (*event).to_owned()).collect(),
        }
    }

    fn dump(&self, whole: bool) -> Result<(), Failure> {
        self.log("(00.000001) Dumping processes\n");
        if let (Some(_), Some(path)) = (self.script.get("echo-config"), &self.opts.config_file) {
            self.log(&fs::read_to_string(path).expect("the generated configuration file"));
        }
        let events = if whole { self.events(DUMP_EVENTS) } else { vec!["pre-dump".to_owned()] };
        let (before, after) = match events.iter().position(|event| event == "post-dump") {
            Some(at) => events.split_at(at),
            None => events.split_at(events.len()),
        };
        for event in before {
            self.notify(event, None)?;
        }
        if let Some(number) = self.opts.ps.as_ref().and_then(|ps| ps.fd) {
            // SAFETY: the page server's socket was handed over under this number and stays open to the end.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            self.send_pages(socket).map_err(Failure::Pages)?;
        }
        fs::write(self.images().join("inventory.img"), []).expect("the images directory");
        for event in after {
            self.notify(event, None)?;
        }
        if whole
            && self.script.get("kill").is_some()
            && !self.opts.leave_running()
            && let Some(root) = rustix::process::Pid::from_raw(self.opts.pid())
        {
            let _ = rustix::process::kill_process(root, rustix::process::Signal::KILL);
        }
        Ok(())
    }

    fn send_pages(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        let version = self.version();
        let short = version.numbers() < (4, 2, 0);
        let page = rustix::param::page_size();
        let count: u64 =
            self.script.get("pages").map_or(0, |pages| pages.parse().expect("a number of pages"));
        let holes = self.script.get("holes").is_some();
        let mut stream = fs::File::from(socket.try_clone_to_owned()?);
        let destination = u64::from(self.opts.pid().unsigned_abs()) << 8 | 1;
        let mut answer = [0; 4];
        if count > 0 {
            stream.write_all(&header(short, 4, 0, 0, destination))?;
            stream.read_exact(&mut answer[..1])?;
        }
        for number in 0..count {
            let vaddr = 0x10000 + number * page as u64;
            if holes && number % 2 == 1 {
                stream.write_all(&header(short, 1 << 16 | 6, 1, vaddr, destination))?;
            } else {
                stream.write_all(&header(short, 4 << 16 | 6, 1, vaddr, destination))?;
                stream.write_all(&vec![number as u8; page])?;
            }
        }
        stream.write_all(&header(short, 0x1024, 0, 0, 0))?;
        stream.read_exact(&mut answer)?;
        if answer == [0; 4] { Ok(()) } else { Err(std::io::Error::other("the page server failed")) }
    }

    fn restore(&self) -> Result<i32, Failure> {
        let mut root = None;
        for event in self.events(RESTORE_EVENTS) {
            if event == "post-restore" {
                root = self.script.get("child").map(start_sibling);
            }
            let told = matches!(event.as_str(), "setup-namespaces" | "post-restore");
            let done = self.notify(&event, root.filter(|_| told));
            if let (Err(_), Some(root)) = (&done, root.and_then(rustix::process::Pid::from_raw)) {
                let _ = rustix::process::kill_process(root, rustix::process::Signal::KILL);
            }
            done?;
        }
        Ok(root.unwrap_or_else(|| rustix::process::getpid().as_raw_nonzero().get()))
    }

    fn version(&self) -> Version {
        let mut numbers =
            self.script.get("version").unwrap_or("4.2.1").split('.').map(|n| n.parse().unwrap_or(0));
        Version {
            major: numbers.next().unwrap_or(0),
            minor: numbers.next().unwrap_or(0),
            sublevel: numbers.next(),
            ..Version::default()
        }
    }

    fn features(&self, asked: Features) -> Features {
        let lacks =
            |name: &str| self.script.get("lacks").is_some_and(|lacks| lacks.split(',').any(|l| l == name));
        Features {
            mem_track: Some(asked.mem_track() && !lacks("mem_track")),
            lazy_pages: Some(asked.lazy_pages() && !lacks("lazy_pages")),
            pidfd_store: Some(asked.pidfd_store() && !lacks("pidfd_store")),
            mem_compression: None,
        }
    }

    fn directory(&self, number: i32) -> PathBuf {
        let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero();
        format!("/proc/{parent}/fd/{number}").into()
    }

    fn images(&self) -> PathBuf {
        self.directory(self.opts.images_dir_fd)
    }

    fn log(&self, text: &str) {
        let Some(name) = &self.opts.log_file else { return };
        let directory = self.opts.work_dir_fd.map_or_else(|| self.images(), |number| self.directory(number));
        let mut log =
            fs::File::options().append(true).create(true).open(directory.join(name)).expect("the log");
        log.write_all(text.as_bytes()).expect("the log");
    }
}

fn header(short: bool, command: u32, pages: u64, vaddr: u64, destination: u64) -> Vec<u8> {
    let mut bytes = command.to_ne_bytes().to_vec();
    if short {
        bytes.extend(u32::try_from(pages).expect("few pages").to_ne_bytes());
    } else {
        bytes.extend([0; 4]);
        bytes.extend(pages.to_ne_bytes());
    }
    bytes.extend(vaddr.to_ne_bytes());
    bytes.extend(destination.to_ne_bytes());
    bytes
}

/// Starts a shell command as a child of this process' parent, as CRIU does with the root of a tree.
fn start_sibling(command: &str) -> i32 {
    use std::os::unix::process::CommandExt;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", command]);
    // SAFETY: this process has one thread, so its copy may do anything; no stack is given, so it goes on here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let error = shell.exec();
        eprintln!("fake-criu: {command}: {error}");
        std::process::exit(127);
    }
    i32::try_from(pid).expect("a pid")
}
