//! The program that is frozen: started, waited for, asked for its gaps, ended.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Tools;
use crate::runtime_directory;

const SEED: u64 = 20_260;

/// How the heartbeat is started.
#[derive(Debug, Clone, Copy)]
pub(super) enum Under<'a> {
    /// By itself.
    Nothing,
    /// Under `torpor run` with these options, a store, and a name.
    Torpor {
        store: &'a Path,
        name: &'a str,
        options: &'a [String],
        /// Without the privilege to exceed the limit on socket buffers.
        small_buffers: bool,
    },
}

/// A running heartbeat; ended when dropped.
#[derive(Debug)]
pub(super) struct Subject {
    child: Child,
    log: PathBuf,
}

impl Subject {
    /// Starts a heartbeat with `mib` MiB of memory and waits until it is filled.
    pub(super) fn start(tools: &Tools, mib: u32, under: Under<'_>) -> Result<Subject> {
        let log = tools.directory.join("heartbeat.log");
        for stale in [&log, &turn_file(&log)] {
            if stale.exists() {
                fs::remove_file(stale)?;
            }
        }
        let mut command = match under {
            Under::Nothing => Command::new(&tools.heartbeat),
            Under::Torpor { store, name, options, small_buffers } => {
                let mut torpor =
                    Command::new(if small_buffers { Path::new("setpriv") } else { &tools.torpor });
                if small_buffers {
                    torpor
                        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"])
                        .arg(&tools.torpor);
                }
                torpor.env("TORPOR_CRIU", &tools.criu);
                torpor.env(runtime_directory::VARIABLE, tools.runtime.path());
                torpor.arg("run").arg("--store").arg(store).args(["--name", name]).args(options);
                torpor.arg("--").arg(&tools.heartbeat);
                torpor
            }
        };
        let said = fs::File::create(tools.directory.join("subject.log"))?;
        command.args([&mib.to_string(), &SEED.to_string()]).arg(&log);
        // A group of its own, so that all of it can be ended; a session of its own would hide a crash from the shell.
        command.process_group(0).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut subject = Subject { child, log };
        subject.wait_for("ready", Duration::from_secs(120))?;
        Ok(subject)
    }

    /// The process that was started: the heartbeat, or Torpor.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs `act` and returns what it returned with how long it took and the longest gap meanwhile, in milliseconds.
    pub(super) fn watch<T>(&mut self, act: impl FnOnce() -> Result<T>) -> Result<Watched<T>> {
        let before = self.log()?.len();
        let began = Instant::now();
        let result = act()?;
        let total = began.elapsed();
        // The gap is written down by the first beat after it.
        thread::sleep(Duration::from_millis(50));
        let log = self.log()?;
        Ok(Watched { result, total_ms: total.as_secs_f64() * 1e3, frozen_ms: longest_gap(&log[before..]) })
    }

    /// Has the heartbeat change one page in a hundred.
    pub(super) fn turn(&mut self, number: u32) -> Result<()> {
        fs::write(turn_file(&self.log), "")?;
        self.wait_for(&format!("turned {number}"), Duration::from_secs(30))
    }

    fn log(&self) -> Result<String> {
        Ok(if self.log.exists() { fs::read_to_string(&self.log)? } else { String::new() })
    }

    fn wait_for(&mut self, line: &str, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while !self.log()?.lines().any(|found| found == line) {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(self.log.with_file_name("subject.log")).unwrap_or_default();
                bail!("the program to freeze ended: {status}\n  {}", said.trim().replace('\n', "\n  "));
            }
            if began.elapsed() > limit {
                bail!("the program to freeze did not say `{line}` within {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Under Torpor the heartbeat is in a session of its own; it is found as what has the log open.
        let log = self.log.display().to_string();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            let ours = words.next().is_some_and(|program| program.ends_with(b"/heartbeat"))
                && words.any(|word| word == log.as_bytes());
            if ours && let Some(pid) = entry.file_name().to_str() {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
        }
    }
}

/// What was seen while something was done.
#[derive(Debug)]
pub(super) struct Watched<T> {
    pub(super) result: T,
    pub(super) total_ms: f64,
    pub(super) frozen_ms: f64,
}

fn turn_file(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".turn");
    name.into()
}

fn longest_gap(log: &str) -> f64 {
    log.lines().filter_map(|line| line.strip_prefix("gap ")?.parse::<f64>().ok()).fold(0.0, f64::max) / 1e3
}

/// The bytes that everything below `directory` takes.
pub(super) fn bytes_below(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Dumps `pid` with CRIU alone into `images`, leaving it running.
pub(super) fn criu_dump(tools: &Tools, pid: u32, images: &Path) -> Result<()> {
    if images.exists() {
        fs::remove_dir_all(images)?;
    }
    fs::create_dir_all(images)?;
    let mut dump = Command::new(&tools.criu);
    dump.args(["dump", "--no-default-config", "--leave-running", "--shell-job", "-o", "dump.log"]);
    dump.args(["-t", &pid.to_string(), "-D"]).arg(images);
    crate::chore::capture(&mut dump)?;
    Ok(())
}

/// Asks the Torpor that runs `name` for a checkpoint that leaves it running.
pub(super) fn torpor_checkpoint(tools: &Tools, name: &str) -> Result<()> {
    let mut checkpoint = Command::new(&tools.torpor);
    checkpoint.args(["checkpoint", "--name", name, "--leave-running"]);
    checkpoint.env(runtime_directory::VARIABLE, tools.runtime.path());
    crate::chore::capture(&mut checkpoint)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_in_milliseconds() {
        assert_eq!(longest_gap("gap 6000\nturned 1\ngap 180500\ngap 7000\n"), 180.5);
        assert_eq!(longest_gap(""), 0.0);
    }
}
