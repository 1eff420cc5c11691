//! Plain processes to be looked at: what they do reaches nothing outside, stays nowhere, and they stand still.
//!
//! The sandbox is a first process (`init`) in namespaces of its own. Its files are the machine's, under overlays whose changes are in
//! memory (`plan`, `root`); its network has nothing in it; its PIDs are free. All of it goes with that process.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::{self, Operation};
use torpor_criu::log::Log;
use torpor_criu::program::Program;

use crate::accelerator;
use crate::budget::Memory;
use crate::container::ContainerError;
use crate::container::sandbox::Volumes;
use crate::mounts::{Mount, Mounts};
use crate::process_tree;
use crate::staging::{self, Staging};
use crate::sys::process::{self, Child};

mod error;
mod images;
pub mod init;
mod message;
mod plan;
mod root;
mod stored;

pub use error::SandboxError;
use message::{Order, Reply, Restore, hear, say};
use plan::{Cover, Point, SandboxMounts};
pub use stored::from_manifest;

use super::restore::{are_of_processes, has_parents, seen};
use super::streams;

/// What directories are called in which a sandbox is made.
const LOOK: &str = "look-";

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Look<'a> {
    /// The CRIU to use.
    pub criu: &'a Program,
    /// The images.
    pub images: &'a Path,
    /// The images of the dump before, where no link beside the images leads there.
    pub previous: Option<&'a Path>,
    /// CRIU's keys for files that were standard streams, and that the restore is given.
    pub streams: Vec<String>,
    /// What becomes of mounts besides the root's.
    pub volumes: Volumes,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// Their terminal or session may be somebody else's.
    pub shell_job: bool,
    /// Where it is made.
    pub staging: &'a Path,
}

/// Puts files of the checkpoint into a sandbox: gets its root, and all places in it that can be written to.
pub type Put<'a> = &'a (dyn Fn(&Path, &[PathBuf]) -> Result<(), ContainerError> + Sync);

/// Processes in a sandbox. They end when this is dropped, unless they are let [stay](Sandbox::stay).
#[derive(Debug)]
pub struct Sandbox {
    init: i32,
    orders: File,
    replies: BufReader<File>,
    root: i32,
    output: i32,
    read_only: Vec<PathBuf>,
    left_out: Vec<PathBuf>,
    grown: Vec<PathBuf>,
    stays: bool,
}

impl Sandbox {
    /// Restores processes into a new one, stopped.
    ///
    /// # Errors
    /// The images are not whole or a container's, the sandbox cannot be made, or CRIU fails. Nothing is left then.
    pub fn new(look: &Look<'_>, put: Option<Put<'_>>) -> Result<Sandbox, ContainerError> {
        // The first process is elsewhere.
        let absolute = |path: &Path| std::path::absolute(path).map_err(ContainerError::place(path));
        let (images, staging) = (absolute(look.images)?, absolute(look.staging)?);
        are_of_processes(&images)?;
        accelerator::images_fit(&images, None)?;
        staging::clean_up(&staging, LOOK);
        let name = format!("{LOOK}{}", std::process::id());
        let work = Staging::create(&staging, &name).map_err(ContainerError::place(&staging))?;
        let images = seen(&images, look.previous, work.path())?;
        has_parents(&images)?;
        let mut told = images::confine(&images)?;
        // A stream that is replaced is not opened.
        told.grown.retain(|grown| !look.streams.iter().any(|key| grown.path == Path::new("/").join(key)));
        let available = Memory::read().free() / 2;
        if told.copied > available {
            return Err(SandboxError::Memory { needed: told.copied, available }.into());
        }
        let (inputs, mut outputs): (Vec<_>, Vec<_>) =
            streams::outside(&images)?.into_iter().partition(|(descriptor, _)| *descriptor == 0);
        outputs.extend(look.streams.iter().map(|key| (1, key.clone())));
        let keys = |streams: Vec<(u32, String)>| streams.into_iter().map(|(_, key)| key).collect();
        let place = work.path().join("place");
        fs::create_dir(&place).map_err(ContainerError::place(&place))?;

        let mut sandbox = Sandbox::start()?;
        let mounts = planned(look.volumes)?;
        sandbox.left_out = mounts.left_out.clone();
        let written: Vec<PathBuf> = mounts
            .covered
            .iter()
            .filter(|covered| covered.cover == Cover::Scratch)
            .map(|covered| covered.at.clone())
            .collect();
        sandbox.read_only = match sandbox.ask(&Order::Build { place: place.clone(), mounts })? {
            Reply::Built { read_only } => read_only,
            other => return Err(failure(other)),
        };
        if let Some(put) = put {
            let written: Vec<_> = written.into_iter().filter(|at| !sandbox.read_only.contains(at)).collect();
            sandbox.within(|| put(&place.join(root::ROOT), &written))?;
        }
        match sandbox.ask(&Order::Enter)? {
            Reply::Entered => {}
            other => return Err(failure(other)),
        }
        sandbox.grown = told.grown.iter().map(|grown| grown.path.clone()).collect();
        let restore = Restore {
            criu: look.criu.clone(),
            images,
            work: work.path().to_owned(),
            highest_pid: told.highest_pid,
            connections: told.connections,
            inputs: keys(inputs),
            outputs: keys(outputs),
            grown: told.grown,
            external_unix: look.external_unix,
            shell_job: look.shell_job,
        };
        let inside = match sandbox.ask(&Order::Restore(Box::new(restore)))? {
            Reply::Restored { root, output } => {
                sandbox.output = output;
                root
            }
            other => return Err(failure(other)),
        };
        let all = process_tree::of(sandbox.init);
        let root = all.into_iter().find(|pid| process_tree::innermost_pid(*pid) == Some(inside));
        sandbox.root = root.ok_or(process_tree::Gone(inside))?;
        Ok(sandbox)
    }

    /// Starts its first process, in the namespaces.
    fn start() -> Result<Sandbox, ContainerError> {
        let failed = |source: rustix::io::Errno| SandboxError::Namespaces(source.into());
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed);
        let ((heard, orders), (replies, said)) = (pipe()?, pipe()?);
        let word = |word: &str| CString::new(word).map_err(|error| SandboxError::Namespaces(error.into()));
        let child = Child {
            program: c"/proc/self/exe".to_owned(),
            arguments: vec![word("torpor")?, word(init::SUBCOMMAND)?],
            environment: Vec::new(),
            directory: None,
            streams: [heard.as_raw_fd(), said.as_raw_fd(), rustix::stdio::stderr().as_raw_fd()],
            terminal: None,
            drop_capabilities: 0,
            filter: None,
            clone_flags: process::SANDBOX,
            pid: None,
        };
        let held = process::clone_held(&child).map_err(SandboxError::Namespaces)?;
        let init = held.pid;
        let sandbox = Sandbox {
            init,
            orders: orders.into(),
            replies: BufReader::new(replies.into()),
            root: 0,
            output: 0,
            read_only: Vec::new(),
            left_out: Vec::new(),
            grown: Vec::new(),
            stays: false,
        };
        held.release().map_err(|(_, source)| SandboxError::Namespaces(source))?;
        Ok(sandbox)
    }

    fn ask(&mut self, order: &Order) -> Result<Reply, SandboxError> {
        say(&mut self.orders, order).map_err(SandboxError::Talk)?;
        hear(&mut self.replies).map_err(SandboxError::Talk)?.ok_or(SandboxError::Ended)
    }

    /// Does something in the sandbox's mounts, while the machine's are still there beside them.
    fn within(&self, act: impl FnOnce() -> Result<(), ContainerError> + Send) -> Result<(), ContainerError> {
        let path = format!("/proc/{}/ns/mnt", self.init);
        let mounts = File::open(&path).map_err(SandboxError::Files)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                process::enter_mounts(mounts.as_fd()).map_err(SandboxError::Files)?;
                act()
            });
            thread.join().unwrap_or(Err(SandboxError::Ended.into()))
        })
    }

    /// The PID of its first process, by which all of it can be ended.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.init
    }

    /// The PID of the first of the processes.
    #[must_use]
    pub fn root(&self) -> i32 {
        self.root
    }

    /// Where what they print on streams that led outside can be read.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", self.init, self.output).into()
    }

    /// Mounts that are read-only, because nothing else can be made of them. Sockets on them can still be connected to.
    #[must_use]
    pub fn read_only(&self) -> &[PathBuf] {
        &self.read_only
    }

    /// Mounts of the machine that it has not.
    #[must_use]
    pub fn left_out(&self) -> &[PathBuf] {
        &self.left_out
    }

    /// Files that have grown since the checkpoint, and end where they did.
    #[must_use]
    pub fn grown(&self) -> &[PathBuf] {
        &self.grown
    }

    /// Lets it be there without this process.
    ///
    /// # Errors
    /// It has ended.
    pub fn stay(mut self) -> Result<(), ContainerError> {
        match self.ask(&Order::Stay)? {
            Reply::Stays => {
                self.stays = true;
                Ok(())
            }
            other => Err(failure(other)),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let _ = process::kill(self.init, libc::SIGKILL);
        if let Some(pid) = rustix::process::Pid::from_raw(self.init) {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// What the sandbox is made of, by the mounts of this machine.
fn planned(volumes: Volumes) -> Result<SandboxMounts, ContainerError> {
    let mounts = Mounts::of_process(None)?;
    let reachable = mounts.reachable();
    let points = reachable.iter().map(|mount| (*mount, point(mount)));
    Ok(SandboxMounts::of(points, volumes))
}

fn point(mount: &Mount) -> Point {
    match fs::symlink_metadata(&mount.point) {
        Ok(metadata) if metadata.is_dir() => Point::Directory,
        Ok(metadata) if metadata.is_file() => Point::File(metadata.len()),
        _ => Point::Other,
    }
}

/// What a reply means that is not the one that was asked for.
fn failure(reply: Reply) -> ContainerError {
    match reply {
        Reply::Failed { doing, said } => SandboxError::Step { doing, said }.into(),
        Reply::Refused { said, log } if log.is_empty() => SandboxError::Criu { said }.into(),
        Reply::Refused { log, .. } => ContainerError::Criu {
            restoring: true,
            diagnosis: Box::new(diagnosis::diagnose(Operation::Restore, &Log::from_bytes(log.as_bytes()))),
        },
        _ => SandboxError::Ended.into(),
    }
}
