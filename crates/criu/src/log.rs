//! CRIU's log: `dump.log` and `restore.log`, taken apart into time, process, level, place and message.
//!
//! A line is `(00.012345) PID: Error (criu/file.c:123): prefix: message`, where the process is there during a restore, and code that
//! runs inside the program being dumped writes `pie: PID: ` without a time. Other lines go on with the message before them. Format:
//! CRIU `criu/log.c`, `criu/include/log.h`.

use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

/// How bad a line says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything that is neither of the others.
    Info,
    /// CRIU goes on, but something may be lost.
    Warning,
    /// Something failed; often, but not always, the whole operation with it.
    Error,
}

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The whole line as it was written.
    pub text: &'a str,
    /// Time since CRIU started.
    pub time: Option<Duration>,
    /// The process that the line is about, as its PID in the innermost namespace.
    pub pid: Option<u32>,
    /// How bad it is.
    pub level: Level,
    /// File and line in CRIU's source, for warnings and errors.
    pub place: Option<&'a str>,
    /// What is left.
    pub message: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a line apart; every part that is not there stays in the message.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let text = text.trim_end();
        let (time, rest) = parse_time(text).map_or((None, text), |(time, rest)| (Some(time), rest));
        let rest = rest.trim_start_matches(' ');
        let rest = rest.strip_prefix("pie: ").unwrap_or(rest);
        let (pid, rest) = parse_pid(rest).map_or((None, rest), |(pid, rest)| (Some(pid), rest));
        let (level, place, message) = parse_level(rest).unwrap_or((Level::Info, None, rest));
        Self { text, time, pid, level, place, message }
    }
}

/// `(SS.UUUUUU)`; CRIU overwrites the last digit once there are a hundred seconds.
fn parse_time(line: &str) -> Option<(Duration, &str)> {
    let (stamp, rest) = line.strip_prefix('(')?.split_once(')')?;
    let (seconds, fraction) = stamp.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 6 || ![seconds, fraction].iter().all(|part| is_number(part)) {
        return None;
    }
    let micros: u64 = fraction.parse().ok()?;
    let micros = micros * 10u64.pow(6 - fraction.len() as u32);
    let seconds: u64 = seconds.parse().ok()?;
    Some((Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?, rest))
}

fn parse_pid(rest: &str) -> Option<(u32, &str)> {
    let (pid, rest) = rest.split_once(": ")?;
    let pid = pid.trim_start_matches(' ');
    is_number(pid).then(|| Some((pid.parse().ok()?, rest)))?
}

/// `Error (PLACE): ` or `Warn  (PLACE): `.
fn parse_level(rest: &str) -> Option<(Level, Option<&str>, &str)> {
    let (level, rest) = match rest.strip_prefix("Error (") {
        Some(rest) => (Level::Error, rest),
        None => (Level::Warning, rest.strip_prefix("Warn  (")?),
    };
    let (place, message) = rest.split_once("): ")?;
    Some((level, Some(place), message.trim_start()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A log, or its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    text: String,
}

impl Log {
    /// A log from its bytes. What is not UTF-8, such as odd file names, is replaced.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { text: String::from_utf8_lossy(bytes).into_owned() }
    }

    /// The whole lines in the last `limit` bytes of a log file. What made CRIU fail is near the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read_tail(mut file: impl Read + Seek, limit: u64) -> io::Result<Self> {
        let start = file.seek(SeekFrom::End(0))?.saturating_sub(limit);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        let whole = match start {
            0 => 0,
            _ => bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1),
        };
        Ok(Self::from_bytes(&bytes[whole..]))
    }

    /// All lines.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = Line<'_>> {
        self.text.lines().map(Line::parse)
    }

    /// The last lines, at most `count`, as they were written.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<&str> {
        let mut lines: Vec<&str> = self.text.lines().rev().take(count).collect();
        lines.reverse();
        lines
    }

    /// The errors, except those that are logged when nothing is wrong.
    pub fn errors(&self) -> impl DoubleEndedIterator<Item = Line<'_>> {
        self.lines().filter(|line| line.level == Level::Error && !is_harmless(line))
    }
}

/// Errors that CRIU logs and goes on from, in containers every time: it raises its own limit of descriptors, which takes
/// `CAP_SYS_RESOURCE`, and asks for features that are not there.
fn is_harmless(line: &Line<'_>) -> bool {
    const HARMLESS: [&str; 3] = [
        "rlimit: Can't setup RLIMIT_NOFILE for self",
        "Can't check shutdown state of inet socket",
        "No socket shutdown info",
    ];
    HARMLESS.iter().any(|text| line.message.contains(text))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_line_is_taken_apart() {
        let cases = [
            (
                "(00.045248) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.",
                (Some(45_248), None, Level::Error, Some("criu/sk-inet.c:200")),
                "inet: Connected TCP socket, consider using --tcp-established option.",
            ),
            (
                "(00.038655)  26885: Error (criu/files.c:1221): Unable to open fd=3 id=0x1a",
                (Some(38_655), Some(26885), Level::Error, Some("criu/files.c:1221")),
                "Unable to open fd=3 id=0x1a",
            ),
            (
                "pie: 26361: Error (criu/pie/parasite.c:588): send_fds failed (-22)",
                (None, Some(26361), Level::Error, Some("criu/pie/parasite.c:588")),
                "send_fds failed (-22)",
            ),
            (
                "(00.048315) Warn  (criu/fsnotify.c:281): fsnotify: \tHandle 0x1a:0x1 cannot be opened",
                (Some(48_315), None, Level::Warning, Some("criu/fsnotify.c:281")),
                "fsnotify: \tHandle 0x1a:0x1 cannot be opened",
            ),
            (
                "(123.04524) Running pre-dump scripts",
                (Some(123_045_240), None, Level::Info, None),
                "Running pre-dump scripts",
            ),
            ("(none) at all", (None, None, Level::Info, None), "(none) at all"),
            ("", (None, None, Level::Info, None), ""),
        ];
        for (text, (micros, pid, level, place), message) in cases {
            let time = micros.map(Duration::from_micros);
            assert_eq!(Line::parse(text), Line { text, time, pid, level, place, message });
        }
    }

    #[test]
    fn the_tail_starts_with_a_whole_line() {
        let log = Log::read_tail(Cursor::new(b"first\nsecond\nthird\n"), 10).unwrap();
        assert_eq!(log.tail(9), ["third"]);
        let all = Log::read_tail(Cursor::new(b"first\nsecond\n"), 100).unwrap();
        assert_eq!(all.tail(1), ["second"]);
        assert_eq!(all.tail(9), ["first", "second"]);
    }

    #[test]
    fn errors_that_mean_nothing_are_left_out() {
        let log = Log::from_bytes(
            b"(00.037937) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
              (00.045654) Error (criu/cr-dump.c:1975): Dumping FAILED.\n",
        );
        let errors: Vec<&str> = log.errors().map(|line| line.message).collect();
        assert_eq!(errors, ["Dumping FAILED."]);
    }

    proptest! {
        #[test]
        fn any_line_is_taken_apart_without_panic(line in "\\PC*", stamp in "\\([0-9.]{0,30}\\)") {
            let _ = Line::parse(&line);
            let stamped = format!("{stamp} {line}");
            prop_assert_eq!(Line::parse(&stamped).text, stamped.trim_end());
        }

        #[test]
        fn any_bytes_are_a_log(bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in 0u64..400) {
            let log = Log::read_tail(Cursor::new(&bytes), limit).unwrap();
            prop_assert!(log.errors().count() <= log.lines().count());
        }
    }
}
