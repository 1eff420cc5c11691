//! The first process of a sandbox: this program, executed anew in namespaces of its own.
//!
//! It makes the root, has CRIU restore the processes, and stays as the parent of all of them. With it the kernel ends everything in the
//! sandbox and takes its mounts away. It ends when the first of the processes does, when a signal says so, and, as long as Torpor has
//! not let it stay, when Torpor ends.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use torpor_criu::options::{AfterRestore, Common, RestoreOptions, Tcp};
use torpor_criu::rpc::CgroupMode;
use torpor_criu::session::{Event, Session, SessionError, Spawn, StartError, Verdict};

use super::message::{Grown, Order, Reply, Restore, hear, say};
use super::plan::SandboxMounts;
use super::root::{self, Failed};
use crate::launch;
use crate::network_lock::NoResets;
use crate::sys::network;
use crate::sys::process::{self, Wait};

/// The subcommand under which the binary becomes one.
pub const SUBCOMMAND: &str = "sandbox-init";

/// CRIU's name for its log of a restore.
const LOG: &str = "restore.log";
/// The first number that a descriptor has within CRIU.
const FIRST: i32 = 20;
/// What of CRIU's log is told, in bytes from its end.
const TOLD: u64 = 8 << 20;

/// What was restored.
struct Alive {
    /// The first of the processes.
    root: i32,
    /// What they print.
    output: File,
    /// The other end of their terminal.
    terminal: Option<OwnedFd>,
}

/// Does what it is told to on standard input, and stays. Returns the exit code.
///
/// # Errors
/// Torpor cannot be heard or answered: it has ended.
pub fn stand() -> io::Result<u8> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Nobody in the sandbox may look into this process, which has the machine's program open.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    if let Err(error) = process::own_keyring() {
        // A kernel without keys, or a container that may not use them.
        tracing::debug!(%error, "no keyring of its own");
    }
    let mut orders = BufReader::new(io::stdin());
    let mut replies = io::stdout();
    let mut built_at = None;
    let mut output = None;
    let mut alive = None;
    while let Some(order) = hear(&mut orders)? {
        let reply = match order {
            Order::Build { place, mounts } => match build(&place, &mounts) {
                Ok((made, read_only)) => {
                    output = Some(made);
                    built_at = Some(place);
                    Reply::Built { read_only }
                }
                Err(failed) => told(failed),
            },
            Order::Enter => {
                let Some(place) = &built_at else { return Ok(1) };
                let entered = root::enter(place).map_err(Failed::at("enter the root"));
                entered.map_or_else(told, |()| Reply::Entered)
            }
            Order::Restore(wanted) => {
                let Some(output) = output.take() else { return Ok(1) };
                match restore(&wanted, output) {
                    Ok(restored) => {
                        let reply =
                            Reply::Restored { root: restored.root, output: restored.output.as_raw_fd() };
                        alive = Some(restored);
                        reply
                    }
                    Err(reply) => *reply,
                }
            }
            Order::Stay => {
                let Some(alive) = alive else { return Ok(1) };
                rustix::process::set_parent_process_death_signal(None)?;
                let signals = process::signal_descriptor()?;
                say(&mut replies, &Reply::Stays)?;
                forget_torpor()?;
                return stay(alive, &signals);
            }
        };
        say(&mut replies, &reply)?;
    }
    // Torpor has ended before all was done.
    Ok(1)
}

fn told(failed: Failed) -> Reply {
    Reply::Failed { doing: failed.doing, said: failed.source.to_string() }
}

/// Makes the root, and the file for what is printed, which is among the changes: both together have their limit.
fn build(place: &Path, mounts: &SandboxMounts) -> Result<(File, Vec<PathBuf>), Failed> {
    network::make_usable().map_err(Failed::at("set up its network"))?;
    let read_only = root::build(place, mounts)?;
    let output = OpenOptions::new().read(true).append(true).create(true).open(place.join("output"));
    Ok((output.map_err(Failed::at("keep what is printed"))?, read_only))
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Box<Reply> {
    move |source| Box::new(told(Failed { doing: doing.to_owned(), source }))
}

fn restore(wanted: &Restore, output: File) -> Result<Alive, Box<Reply>> {
    wanted.grown.iter().try_for_each(cut).map_err(|failed| Box::new(told(failed)))?;
    let input = File::open("/dev/null").map_err(failed("open /dev/null"))?;
    // CRIU's own PIDs, and those of what it starts, are in the way of no restored one.
    launch::continue_pids_after(wanted.highest_pid).map_err(failed("choose PIDs"))?;
    let mut spawn = Spawn { capabilities: crate::capabilities::raised_for_criu(), ..Spawn::default() };
    let mut inherited = Vec::new();
    let streams =
        wanted.inputs.iter().map(|key| (key, &input)).chain(wanted.outputs.iter().map(|key| (key, &output)));
    for (number, (key, stream)) in (FIRST..).zip(streams) {
        spawn = spawn.pass(stream.try_clone().map_err(failed("pass on its streams"))?, number);
        inherited.push((key.clone(), number));
    }
    let mut terminal = None;
    if wanted.shell_job {
        let (master, slave) = own_terminal().map_err(failed("have a terminal of its own"))?;
        terminal = Some(master);
        spawn.terminal = Some(slave);
        spawn.same_process_group = true;
    }
    let session = Session::start(&wanted.criu, spawn).map_err(|error| Box::new(not_started(&error)))?;
    let options =
        inherited.into_iter().fold(options(wanted), |options, (key, number)| options.inherit(key, number));
    let resets = wanted.connections.then(NoResets::begin);
    let restored = session.restore(&options, &mut |notification| {
        if notification.event == Event::OrphanPtsMaster {
            terminal = notification.take_descriptor();
        }
        Verdict::Proceed
    });
    drop(resets);
    let restored = restored.map_err(|error| Box::new(refused(&error, &wanted.work.join(LOG))))?;
    root::close_proc().map_err(failed("close /proc"))?;
    Ok(Alive { root: restored.pid.as_raw_nonzero().get(), output, terminal })
}

fn options(wanted: &Restore) -> RestoreOptions {
    let mut common = Common::new(&wanted.images);
    common.work_dir = Some(wanted.work.clone());
    common.log_file = Some(LOG.to_owned());
    common.unprivileged = crate::capabilities::unprivileged();
    common.tcp = if wanted.connections { Tcp::Established } else { Tcp::Close };
    common.tcp_skip_in_flight = true;
    common.ext_unix_sockets = wanted.external_unix;
    common.shell_job = wanted.shell_job;
    common.file_locks = true;
    common.evasive_devices = true;
    common.cgroups = Some(CgroupMode::Ignore);
    let mut options = RestoreOptions::new(common);
    options.after = AfterRestore::Stopped;
    // One that was somebody else's is inherited instead (CRIU, criu/tty.c).
    options.orphan_pts_master = !wanted.shell_job;
    options
}

/// What has grown since the checkpoint is as long as it was: a log, as a rule, whose beginning is the same.
fn cut(grown: &Grown) -> Result<(), Failed> {
    let cut = OpenOptions::new().write(true).open(&grown.path).and_then(|file| file.set_len(grown.length));
    cut.map_err(Failed::at(format!("cut {} to its length at the checkpoint", grown.path.display())))
}

/// A terminal for those whose own was somebody else's, and its other end: it becomes that of this process' session, in which CRIU is.
fn own_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    Ok((master, slave))
}

fn not_started(error: &StartError) -> Reply {
    Reply::Failed { doing: "start CRIU".to_owned(), said: chain(error) }
}

fn refused(error: &SessionError, log: &Path) -> Reply {
    let tail = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(TOLD)))?;
        let mut bytes = Vec::new();
        file.take(TOLD).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Reply::Refused { said: chain(error), log: tail().unwrap_or_default() }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Lets go of what Torpor's own streams are.
fn forget_torpor() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Reaps what ends, until the first of the processes does.
fn stay(mut alive: Alive, signals: &OwnedFd) -> io::Result<u8> {
    if let Some(terminal) = &alive.terminal {
        rustix::io::ioctl_fionbio(terminal, true)?;
    }
    loop {
        while let Some((pid, ended)) = process::ended_child(Wait::PeekAny)? {
            process::ended_child(Wait::Reap(pid))?;
            if pid == alive.root {
                return Ok(u8::try_from(ended.exit_code()).unwrap_or(u8::MAX));
            }
        }
        let patience = Timespec::try_from(Duration::from_secs(1)).ok();
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        polled.extend(
            alive.terminal.as_ref().map(|terminal| PollFd::from_borrowed_fd(terminal.as_fd(), PollFlags::IN)),
        );
        let _ = rustix::event::poll(&mut polled, patience.as_ref());
        let hung_up = polled.get(1).is_some_and(|polled| polled.revents().contains(PollFlags::HUP));
        let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
        if let Some((signal, _)) =
            process::read_signals(signals)?.into_iter().find(|(signal, _)| ends.contains(signal))
        {
            return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
        }
        if let Some(terminal) = alive.terminal.take() {
            print(&terminal, &mut alive.output)?;
            // One that everybody has closed would be reported for ever.
            alive.terminal = (!hung_up).then_some(terminal);
        }
    }
}

/// Adds what was printed on a terminal to what is kept of that.
fn print(terminal: &OwnedFd, output: &mut File) -> io::Result<()> {
    let mut printed = [0; 1 << 16];
    while let Ok(length @ 1..) = rustix::io::read(terminal, &mut printed) {
        output.write_all(&printed[..length])?;
    }
    Ok(())
}
