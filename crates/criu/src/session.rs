//! A conversation with one CRIU: `criu swrk FD`.
//!
//! A [`Session`] starts CRIU with nothing but the descriptors it is given, a clean environment, no configuration files
//! of its own and no plugins, and speaks one protobuf message per datagram with it. Small questions leave it open;
//! checks, dumps and restores use it up, because CRIU ends after them.
//!
//! Dropping a session never leaves a CRIU behind: it hangs up, which makes CRIU roll back what it was doing (a dump
//! lets the program run on, a restore kills what it made), and kills CRIU only if it takes longer than [`PATIENCE`].

mod channel;
mod error;
mod notification;
mod process;
mod spawn;

pub use error::{SessionError, StartError};
pub use notification::{Event, Notification, Verdict};
pub use process::{Ended, Process};
pub use rustix::process::Pid;
pub use rustix::thread::CapabilitySet;
pub use spawn::{DefaultConfig, NO_PLUGINS, SEARCH_PATH, Spawn, Stderr};

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::options::{CheckOptions, Common, Config, DumpOptions, PageServerOptions, RestoreOptions};
use crate::program::Program;
use crate::rpc::{Features, Opts, PageServerInfo, Request, RequestKind, Response, Version};
use channel::Channel;

/// How long a CRIU that was hung up on may take to roll back, and one that has answered to end.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What answers CRIU's notifications.
pub type Callback<'a> = &'a mut dyn FnMut(&Notification) -> Verdict;

/// A running CRIU that waits for requests.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    process: Arc<Process>,
    last: Option<Event>,
}

/// A tree was dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// The last notification that CRIU sent.
    pub last: Option<Event>,
}

/// A tree was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The root of the tree. With [`RestoreOptions::sibling`] it is a child of this process, which must wait for it.
    pub pid: Pid,
}

impl Session {
    /// Starts CRIU.
    ///
    /// # Errors
    /// The program is not there, or a setting of `spawn` cannot be had.
    pub fn start(program: &Program, spawn: Spawn) -> Result<Self, StartError> {
        let (process, socket) = spawn::start(program, spawn)?;
        Ok(Self { channel: Channel::new(socket), process: Arc::new(process), last: None })
    }

    /// CRIU's PID.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// CRIU's process, to kill it or wait for it from another thread.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    /// CRIU's version.
    ///
    /// # Errors
    /// CRIU died or did not answer.
    pub fn version(&mut self) -> Result<Version, SessionError> {
        let response = self.ask(RequestKind::Version, Question::default())?;
        response.version.ok_or(SessionError::Incomplete { request: RequestKind::Version, lacks: "version" })
    }

    /// Which of the features that are set in `asked` there are.
    ///
    /// # Errors
    /// CRIU died or cannot find out.
    pub fn feature_check(&mut self, asked: Features) -> Result<Features, SessionError> {
        let question = Question { features: Some(asked), ..Question::default() };
        let response = self.ask(RequestKind::FeatureCheck, question)?;
        response
            .features
            .ok_or(SessionError::Incomplete { request: RequestKind::FeatureCheck, lacks: "features" })
    }

    /// Whether the kernel offers what CRIU cannot do without.
    ///
    /// # Errors
    /// It does not, or CRIU died.
    pub fn check(mut self, options: &CheckOptions) -> Result<(), SessionError> {
        let kind = RequestKind::Check;
        let common = options.images_dir.as_ref().map(|dir| Common::new(dir.clone()));
        let prepared = Prepared::new(kind, options.opts(), common.as_ref())?;
        let result = self.converse(kind, prepared.question(), &mut refuse_none);
        self.end(result).map(drop)
    }

    /// Dumps a tree. Its memory goes to [`DumpOptions::pages`]; whoever serves those must do so on another thread.
    ///
    /// A suspend kills the tree only after `callback` has answered [`Event::PostDump`] with [`Verdict::Proceed`];
    /// refusing lets it run on and makes the dump fail. The last page was acknowledged before that event.
    ///
    /// # Errors
    /// CRIU failed or died, or the callback refused. After a failure the tree runs on, except when CRIU was killed.
    pub fn dump(mut self, options: &DumpOptions, callback: Callback<'_>) -> Result<Dumped, SessionError> {
        let kind = RequestKind::Dump;
        let prepared = Prepared::new(kind, options.opts(), Some(&options.common))?;
        let result = self.converse(kind, prepared.question(), callback);
        self.end(result)?;
        Ok(Dumped { last: self.last.take() })
    }

    /// Dumps memory only, and keeps the session for further pre-dumps and for the [`dump`](Self::dump) that must be
    /// its last request. The images directory must be another each time. Needs a kernel that tracks memory.
    ///
    /// # Errors
    /// As [`dump`](Self::dump); CRIU has ended then.
    pub fn pre_dump(&mut self, options: &DumpOptions, callback: Callback<'_>) -> Result<(), SessionError> {
        let kind = RequestKind::PreDump;
        let prepared = Prepared::new(kind, options.opts(), Some(&options.common))?;
        self.converse(kind, prepared.question(), callback).map(drop)
    }

    /// Dumps memory only, once.
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn single_pre_dump(
        mut self,
        options: &DumpOptions,
        callback: Callback<'_>,
    ) -> Result<(), SessionError> {
        let kind = RequestKind::SinglePreDump;
        let prepared = Prepared::new(kind, options.opts(), Some(&options.common))?;
        let result = self.converse(kind, prepared.question(), callback);
        self.end(result).map(drop)
    }

    /// Restores a tree and returns when it runs. Refusing is possible up to and with [`Event::PostRestore`].
    ///
    /// # Errors
    /// CRIU failed or died, or the callback refused. CRIU kills what it has made; if it was killed itself, the half
    /// made tree may be left, stopped, below this process.
    pub fn restore(
        mut self,
        options: &RestoreOptions,
        callback: Callback<'_>,
    ) -> Result<Restored, SessionError> {
        let kind = RequestKind::Restore;
        let prepared = Prepared::new(kind, options.opts(), Some(&options.common))?;
        let result = self.converse(kind, prepared.question(), callback);
        let response = match self.end(result) {
            Ok(response) => response,
            Err(error) => {
                if let (true, SessionError::Failed { root: Some(root), .. }) = (options.sibling, &error) {
                    process::reap_killed(*root);
                }
                return Err(error);
            }
        };
        let pid = response.restore.and_then(|restore| Pid::from_raw(restore.pid));
        pid.map(|pid| Restored { pid }).ok_or(SessionError::Incomplete { request: kind, lacks: "pid" })
    }

    /// Starts a page server of CRIU's that outlives the session, and says where it listens.
    ///
    /// # Errors
    /// CRIU failed or died.
    pub fn page_server(&mut self, options: &PageServerOptions) -> Result<PageServerInfo, SessionError> {
        self.start_page_server(RequestKind::PageServer, options)
    }

    /// Starts a page server as a child of this session's CRIU; [`wait_pid`](Self::wait_pid) waits for it.
    ///
    /// # Errors
    /// CRIU failed or died.
    pub fn page_server_child(&mut self, options: &PageServerOptions) -> Result<PageServerInfo, SessionError> {
        self.start_page_server(RequestKind::PageServerChld, options)
    }

    fn start_page_server(
        &mut self,
        kind: RequestKind,
        options: &PageServerOptions,
    ) -> Result<PageServerInfo, SessionError> {
        let prepared = Prepared::new(kind, options.opts(), Some(&options.common))?;
        let response = self.ask(kind, prepared.question())?;
        response.ps.ok_or(SessionError::Incomplete { request: kind, lacks: "ps" })
    }

    /// Waits for a child of CRIU's and returns its raw wait status.
    ///
    /// # Errors
    /// There is no such child, or CRIU died.
    pub fn wait_pid(mut self, pid: Pid) -> Result<i32, SessionError> {
        let question =
            Question { pid: Some(pid.as_raw_nonzero().get().unsigned_abs()), ..Question::default() };
        let result = self.converse(RequestKind::WaitPid, question, &mut refuse_none);
        let response = self.end(result)?;
        response.status.ok_or(SessionError::Incomplete { request: RequestKind::WaitPid, lacks: "status" })
    }

    /// Writes this machine's CPU features to `cpuinfo.img` in the images directory.
    ///
    /// # Errors
    /// CRIU failed or died.
    pub fn cpuinfo_dump(&mut self, options: &Common) -> Result<(), SessionError> {
        self.cpuinfo(RequestKind::CpuinfoDump, options)
    }

    /// Holds `cpuinfo.img` in the images directory against this machine.
    ///
    /// # Errors
    /// The machine lacks something ([`SessionError::Failed`] with `ENOTSUP`), or CRIU failed or died.
    pub fn cpuinfo_check(&mut self, options: &Common) -> Result<(), SessionError> {
        self.cpuinfo(RequestKind::CpuinfoCheck, options)
    }

    fn cpuinfo(&mut self, kind: RequestKind, options: &Common) -> Result<(), SessionError> {
        let opts = Opts { notify_scripts: None, ..options.opts() };
        let prepared = Prepared::new(kind, opts, Some(options))?;
        self.ask(kind, prepared.question()).map(drop)
    }

    /// Hangs up and waits for CRIU to end.
    pub fn close(self) -> Ended {
        self.channel.hang_up();
        self.process.wait_or_kill(PATIENCE)
    }

    fn ask(&mut self, kind: RequestKind, question: Question) -> Result<Response, SessionError> {
        self.converse(kind, Question { keep_open: true, ..question }, &mut refuse_none)
    }

    /// Sends a request and answers notifications until its response.
    fn converse(
        &mut self,
        kind: RequestKind,
        question: Question,
        callback: Callback<'_>,
    ) -> Result<Response, SessionError> {
        self.last = None;
        let mut refused = None;
        if let Err(source) = self.channel.send(&question.request(kind)) {
            return Err(self.lost(kind, source));
        }
        loop {
            let (response, descriptor) = match self.channel.receive(&self.process) {
                Ok(Some(received)) => received,
                Ok(None) => return Err(self.died(kind)),
                Err(channel::ReceiveError::Io(source)) => return Err(self.lost(kind, source)),
                Err(channel::ReceiveError::Message(source)) => {
                    return Err(SessionError::Message { request: kind, source });
                }
            };
            if response.kind == RequestKind::Notify as i32 {
                let notification = Notification::new(response.notify.unwrap_or_default(), descriptor);
                self.last = Some(notification.event.clone());
                let verdict = callback(&notification);
                if verdict == Verdict::Refuse {
                    refused = Some(notification.event.clone());
                }
                if let Err(source) = self.channel.send(&verdict.request()) {
                    return Err(self.lost(kind, source));
                }
            } else if response.success && answers(response.kind, kind) {
                return Ok(response);
            } else if response.success {
                return Err(SessionError::Unexpected { request: kind, answer: response.kind });
            } else {
                return Err(SessionError::Failed {
                    request: kind,
                    errno: response.cr_errno.filter(|errno| *errno != 0),
                    message: response.cr_errmsg.map(|line| line.trim_end().to_owned()),
                    last: self.last.clone(),
                    refused,
                    root: response.restore.and_then(|restore| Pid::from_raw(restore.pid.max(0))),
                });
            }
        }
    }

    /// Waits for CRIU after its last answer. What a CRIU that has answered still does must not be cut off, but it may
    /// not keep us for ever either.
    fn end(&mut self, result: Result<Response, SessionError>) -> Result<Response, SessionError> {
        self.channel.hang_up();
        self.process.wait_or_kill(PATIENCE);
        result
    }

    fn died(&self, request: RequestKind) -> SessionError {
        SessionError::Died { request, ended: self.process.wait_or_kill(PATIENCE), last: self.last.clone() }
    }

    fn lost(&self, request: RequestKind, source: std::io::Error) -> SessionError {
        // A write fails with these when the other end has gone: then the end itself is what to report.
        if matches!(source.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset) {
            return self.died(request);
        }
        SessionError::Channel { request, source }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.channel.hang_up();
        self.process.wait_or_kill(PATIENCE);
    }
}

fn refuse_none(_: &Notification) -> Verdict {
    Verdict::Proceed
}

/// CRIU answers both kinds of page server requests with the first (CRIU 4.2, `criu/cr-service.c`).
fn answers(answer: i32, request: RequestKind) -> bool {
    answer == request as i32
        || (request == RequestKind::PageServerChld && answer == RequestKind::PageServer as i32)
}

#[derive(Default)]
struct Question {
    opts: Option<Box<Opts>>,
    features: Option<Features>,
    pid: Option<u32>,
    keep_open: bool,
}

impl Question {
    fn request(self, kind: RequestKind) -> Request {
        Request {
            kind: kind as i32,
            opts: self.opts,
            notify_success: None,
            keep_open: self.keep_open.then_some(true),
            features: self.features,
            pid: self.pid,
        }
    }
}

/// Options together with what must stay open while CRIU uses them: it opens directories and the generated
/// configuration file through this process' descriptors.
struct Prepared {
    opts: Box<Opts>,
    held: Vec<OwnedFd>,
}

impl Prepared {
    fn new(kind: RequestKind, opts: Opts, common: Option<&Common>) -> Result<Self, SessionError> {
        let mut prepared = Self { opts: Box::new(opts), held: Vec::new() };
        if let Some(common) = common {
            prepared.opts.images_dir_fd = prepared.directory(kind, &common.images_dir)?;
            if let Some(work) = &common.work_dir {
                prepared.opts.work_dir_fd = Some(prepared.directory(kind, work)?);
            }
            prepared.config(kind, &common.config)?;
        }
        Ok(prepared)
    }

    fn question(&self) -> Question {
        Question { opts: Some(self.opts.clone()), ..Question::default() }
    }

    fn directory(&mut self, request: RequestKind, path: &Path) -> Result<i32, SessionError> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            SessionError::Directory { request, path: path.to_owned(), source: errno.into() }
        })?;
        let number = directory.as_raw_fd();
        self.held.push(directory);
        Ok(number)
    }

    fn config(&mut self, request: RequestKind, config: &Config) -> Result<(), SessionError> {
        let lines = config.lines();
        if lines.is_empty() && config.file.is_none() {
            return Ok(());
        }
        let mut text = Vec::new();
        if let Some(path) = &config.file {
            text = std::fs::read(path).map_err(|source| SessionError::ConfigFile {
                request,
                path: path.clone(),
                source,
            })?;
            text.push(b'\n');
        }
        for line in lines {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        let channel = |source| SessionError::Channel { request, source };
        let file = rustix::fs::memfd_create("criu.conf", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|errno| channel(errno.into()))?;
        let mut written = &text[..];
        while !written.is_empty() {
            let length = rustix::io::write(file.as_fd(), written).map_err(|errno| channel(errno.into()))?;
            written = &written[length..];
        }
        self.opts.config_file = Some(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        self.held.push(file);
        Ok(())
    }
}
