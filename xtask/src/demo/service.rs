//! The two programs of the demonstration: how each is started, asked, and ended.

pub(super) mod redis;
pub(super) mod web;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Stage;

const PATIENCE: Duration = Duration::from_secs(30);

/// How a program is started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Definition {
    name: &'static str,
    port: u16,
    command: &'static [&'static str],
}

/// A program under `torpor run`; ended when dropped.
#[derive(Debug)]
pub(super) struct Service {
    definition: Definition,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts it, and waits until it takes connections.
    pub(super) fn start(stage: &Stage, definition: Definition) -> Result<Service> {
        let Definition { name, port, command } = definition;
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            bail!("port {port} is taken: end what listens there");
        }
        let log = stage.directory.join(format!("{}.log", name.replace('/', "-")));
        let said = File::options().create(true).append(true).open(&log)?;
        let mut torpor = stage.torpor();
        torpor.current_dir(&stage.directory).args(["run", "--name", name, "--"]).args(command);
        // Pipes, as a container runtime gives them.
        torpor.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let words: Vec<_> = command.iter().map(|word| if word.is_empty() { "''" } else { word }).collect();
        println!("    $ torpor run --name {name} -- {}", words.join(" "));
        let mut child = torpor.spawn().context("cannot start torpor")?;
        keep(child.stdout.take(), said.try_clone()?);
        keep(child.stderr.take(), said);
        let mut service = Service { definition, child, log };
        service.wait_until_reachable()?;
        Ok(service)
    }

    pub(super) fn name(&self) -> &'static str {
        self.definition.name
    }

    /// Sends SIGTERM and waits for the end; its exit code, and how long that took.
    pub(super) fn suspend(mut self) -> Result<(i32, Duration)> {
        let began = Instant::now();
        let pid = self.child.id().to_string();
        if !Command::new("kill").args(["-TERM", &pid]).status()?.success() {
            bail!("cannot signal {}", self.definition.name);
        }
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status.code().unwrap_or(-1), began.elapsed()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!(
            "{} did not end within {} s of SIGTERM\n{}",
            self.definition.name,
            PATIENCE.as_secs(),
            self.said()
        )
    }

    fn wait_until_reachable(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if TcpStream::connect(("127.0.0.1", self.definition.port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended instead of starting: {status}\n{}", self.definition.name, self.said());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} takes no connections\n{}", self.definition.name, self.said())
    }

    /// The last lines of what it and Torpor said.
    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].iter().map(|line| format!("  | {line}\n")).collect()
    }
}

/// Appends what comes out of `pipe` to `log` until its last writer is gone.
fn keep(pipe: Option<impl Read + Send + 'static>, mut log: File) {
    if let Some(mut pipe) = pipe {
        // A log that cannot be written any more is no reason to stop the program.
        thread::spawn(move || io::copy(&mut pipe, &mut log));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Torpor suspends it and ends: nothing is left behind.
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let began = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
