//! A runtime's `restore` that goes on without the Torpor that started it.
//!
//! It comes to its end by itself, and then the runtime knows what it made. Until then nothing of the container may be taken away: the runtime has its
//! files mounted below its state, which its `delete` would remove.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::staging;
use crate::sys::process;

/// How long such a restore may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(20);

/// Waits for the end of restores of a container, and ends those that take too long.
pub(super) fn outlast(bundle: &Path, id: &str) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if restores(bundle, id, false).is_empty() {
            return;
        }
        std::thread::sleep(PACE);
    }
    for pid in restores(bundle, id, false) {
        tracing::warn!(pid, id, "a restore that nobody waits for takes too long, and is ended");
        let _ = process::kill(pid, libc::SIGKILL);
    }
}

/// Ends CRIU where it still works in a directory whose runtime is gone: it may wait for ever for processes that were killed.
pub(super) fn end_criu(work: &Path) {
    let is_criu = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == "criu")
    };
    for pid in staging::users(work).filter(is_criu) {
        let _ = process::kill(pid, libc::SIGKILL);
    }
}

/// Whether a runtime restores a container, and waits for its end.
pub(super) fn is_attended(bundle: &Path, id: &str) -> bool {
    !restores(bundle, id, true).is_empty()
}

/// The processes that restore a container from a bundle, or of them those that wait for its end.
fn restores(bundle: &Path, id: &str, that_wait: bool) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        restore_of(&line, bundle, id).is_some_and(|waits| waits || !that_wait)
    })
    .collect()
}

/// Whether a command line is a restore that we started, of this container, and if so whether it waits for its end.
fn restore_of(line: &[u8], bundle: &Path, id: &str) -> Option<bool> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let has = |word: &str| words.contains(&word.as_bytes());
    let in_bundle = words
        .windows(2)
        .any(|pair| pair[0] == b"--bundle" && OsStr::from_bytes(pair[1]) == bundle.as_os_str());
    let is_it = has("restore") && has("--work-path") && in_bundle && words.last() == Some(&id.as_bytes());
    is_it.then(|| !has("--detach"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_known_by_its_command_line() {
        let line = |words: &str| words.replace(' ', "\0").into_bytes();
        for (words, expected) in [
            ("runc --root /r restore --bundle /b --work-path /w --detach one", Some(false)),
            ("/usr/bin/crun restore --bundle /b --work-path /w one", Some(true)),
            ("runc restore --bundle /c --work-path /w one", None),
            ("runc restore --bundle /b --work-path /w two", None),
            ("runc delete --force one", None),
            ("torpor restore /images --bundle /b --id one", None),
            ("", None),
        ] {
            assert_eq!(restore_of(&line(words), Path::new("/b"), "one"), expected, "{words}");
        }
        outlast(Path::new("/no/such"), "one");
    }
}
