//! The runtime's log, as runc and crun write it, so that engines find the reason of a failure there.
//!
//! containerd's shim reads the last line of level `error` (containerd/go-runc and `pkg/process/utils.go`), conmon hands the file to
//! Podman. CRI-O names no file: its conmon passes on what is said on standard error, which is the container's own once that runs. What
//! they find becomes the message of the failed call, and what `kubectl describe` shows.

use std::fs::OpenOptions;
use std::io::Write;

use jiff::Timestamp;

use super::command_line::{Global, LogFormat};

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is as it should be.
    Info,
    /// It goes on, otherwise than was asked for.
    Warning,
    /// It does not go on.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Whether a line is told on standard error: an error as by runc, and a warning that would be told nowhere else. What is as it should
/// be is not: it would stand in the container's log.
fn is_told(level: Level, is_kept: bool) -> bool {
    match level {
        Level::Info => false,
        Level::Warning => !is_kept,
        Level::Error => true,
    }
}

/// Writes a line to where the command line says, and where it has to be told, to standard error.
pub fn write(global: &Global, level: Level, message: &str) {
    let mut is_kept = false;
    if let Some(path) = &global.log {
        let line = line(global.log_format, level, message, Timestamp::now());
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut log| log.write_all(line.as_bytes()));
        is_kept = written.is_ok();
    }
    if is_told(level, is_kept) {
        // Where nobody reads, nobody misses it.
        let _ = writeln!(std::io::stderr(), "torpor-runtime: {message}");
    }
}

fn line(format: LogFormat, level: Level, message: &str, now: Timestamp) -> String {
    let (level, time) = (level.word(), now.strftime("%Y-%m-%dT%H:%M:%SZ"));
    match format {
        LogFormat::Json => {
            serde_json::json!({"level": level, "msg": message, "time": time.to_string()}).to_string() + "\n"
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_runc_writes_it() {
        let now = Timestamp::UNIX_EPOCH;
        let say = |format| line(format, Level::Error, "no \"web\"", now);
        assert_eq!(
            say(LogFormat::Text),
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"no \\\"web\\\"\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&say(LogFormat::Json)).unwrap();
        assert_eq!(json["level"], "error");
        assert_eq!(json["msg"], "no \"web\"");
        assert_eq!(json["time"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_containers_log_says_nothing_of_what_is_as_it_should_be() {
        for (level, kept, nowhere) in
            [(Level::Info, false, false), (Level::Warning, false, true), (Level::Error, true, true)]
        {
            assert_eq!((is_told(level, true), is_told(level, false)), (kept, nowhere), "{level:?}");
        }
    }

    #[test]
    fn lines_are_added() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log.json");
        let global = Global { log: Some(path.clone()), log_format: LogFormat::Json, ..Global::default() };
        write(&global, Level::Info, "one");
        write(&global, Level::Warning, "two");
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
    }
}
