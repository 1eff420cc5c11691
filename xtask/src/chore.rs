//! Running other programs, and saying so.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Prints the heading of a step.
pub(crate) fn step(title: &str) {
    eprintln!("\n==> {title}");
}

/// Runs `command` with its output shown; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("    $ {line}");
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    eprintln!("    done in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command` for what it prints, without a word about it.
pub(crate) fn run_plain(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` quietly and returns what it printed; a failure carries the last lines it said.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = output(command)?;
    if !output.status.success() {
        // Some programs complain on standard output.
        let said = [&output.stderr, &output.stdout].into_iter().find(|said| !said.is_empty());
        let said = String::from_utf8_lossy(said.unwrap_or(&output.stderr));
        let lines: Vec<_> = said.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(6)..].join("\n  ");
        bail!("`{line}` failed: {}\n  {tail}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` quietly and returns status and output, whatever the status is.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let line = shown(command);
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))
}

/// Cargo, in the source tree.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::workspace::root());
    cargo
}

/// Whether a program of this name is in `PATH`, or in the directories of root that `PATH` of a user often lacks.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    // The kernel shows the effective user as the owner of a process's own directory in /proc.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn shown(command: &Command) -> String {
    // Where a program is says little to a reader.
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    // Options that only point a package manager to directories of our own say nothing to a reader.
    let mut line = Vec::new();
    let mut words = words.map(OsStr::to_string_lossy);
    while let Some(word) = words.next() {
        if word == "-o" {
            words.next();
        } else if word.is_empty() {
            line.push("''".into());
        } else {
            line.push(word);
        }
    }
    line.join(" ")
}
