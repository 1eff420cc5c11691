//! Durations, sizes, ports and signals as people write them.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Why a text is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantityError {
    /// Not a duration.
    #[error("{text:?} is no duration: {problem}; write 25s, 5m, 1h30m or 500ms")]
    Duration {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a size.
    #[error("{text:?} is no size: {problem}; write 64MiB, 1GiB or a number of bytes")]
    Size {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a pair of ports.
    #[error("{text:?} is no pair of ports: {problem}; write OLD:NEW, each from 1 to 65535")]
    PortMap {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a signal.
    #[error("{text:?} is no signal; write a name such as SIGTERM or USR1, or a number from 1 to 64")]
    Signal {
        /// The text as given.
        text: String,
    },
}

const UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// The longest duration, in milliseconds: a hundred years. Deadlines are sums of a few, and must not overflow.
const LONGEST: u64 = 36_525 * 86_400_000;

/// Reads a duration: numbers with the units ms, s, m, h, d and w, one after the other (`1h30m`). A number alone is
/// seconds, as in Kubernetes' own fields.
///
/// # Errors
/// Where it is anything else, or more than a hundred years.
pub fn duration(text: &str) -> Result<Duration, QuantityError> {
    let wrong = |problem| QuantityError::Duration { text: text.to_owned(), problem };
    let whole = text.trim();
    if whole.is_empty() {
        return Err(wrong("it is empty"));
    }
    if whole.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = whole.parse().map_err(|_| wrong("the number is too large"))?;
        return Some(Duration::from_secs(seconds))
            .filter(|long| long.as_millis() <= u128::from(LONGEST))
            .ok_or_else(|| wrong("it is longer than 100 years"));
    }
    let mut rest = whole;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return Err(wrong("a number is missing"));
        }
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let Some((_, milliseconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong(if unit.is_empty() { "a unit is missing" } else { "the unit is not known" }));
        };
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*milliseconds))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| wrong("the number is too large"))?;
        rest = tail;
    }
    if total > LONGEST {
        return Err(wrong("it is longer than 100 years"));
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that [`duration`] reads it back, to the millisecond.
#[must_use]
pub fn show_duration(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, milliseconds) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= milliseconds {
            text.push_str(&format!("{}{unit}", rest / milliseconds));
            rest %= milliseconds;
        }
    }
    text
}

/// Reads a size in bytes: a number with a binary (`KiB`, `Ki`), decimal (`MB`, `M`) or no unit.
///
/// # Errors
/// Where it is anything else, or more than a `u64`.
pub fn size(text: &str) -> Result<u64, QuantityError> {
    let wrong = |problem| QuantityError::Size { text: text.to_owned(), problem };
    let whole = text.trim();
    let digits = whole.len() - whole.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 {
        return Err(wrong("it does not begin with a whole number"));
    }
    let (number, unit) = whole.split_at(digits);
    let unit = unit.trim_start();
    let letter = unit.strip_suffix('B').unwrap_or(unit);
    let (letter, base) = match letter.strip_suffix('i') {
        Some(letter) if !letter.is_empty() => (letter, 1024_u64),
        _ => (letter, 1000),
    };
    let power = match letter {
        "" => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return Err(wrong("the unit is not known")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(base.pow(power)))
        .ok_or_else(|| wrong("the number is too large"))
}

/// Writes a size so that [`size`] reads it back exactly.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = 1_u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{}{unit}", bytes / one);
        }
    }
    bytes.to_string()
}

/// A listening port that is another one after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMap {
    /// The port the program bound.
    pub old: u16,
    /// The port it has after the restore.
    pub new: u16,
}

impl PortMap {
    /// Reads `OLD:NEW`.
    ///
    /// # Errors
    /// Where either is missing or no port.
    pub fn parse(text: &str) -> Result<PortMap, QuantityError> {
        let wrong = |problem| QuantityError::PortMap { text: text.to_owned(), problem };
        let (old, new) = text.trim().split_once(':').ok_or_else(|| wrong("the colon is missing"))?;
        let port = |text: &str, problem| match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(wrong(problem)),
        };
        Ok(PortMap { old: port(old, "the old port is no port")?, new: port(new, "the new port is no port")? })
    }
}

impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.old, self.new)
    }
}

impl Serialize for PortMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
];

/// A signal, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// SIGTERM.
    pub const TERM: Signal = Signal(libc::SIGTERM);

    /// Reads a name, with or without `SIG`, in any case, or a number from 1 to 64.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn parse(text: &str) -> Result<Signal, QuantityError> {
        let upper = text.trim().to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(name, _)| *name == bare) {
            return Ok(Signal(*number));
        }
        match bare.parse::<i32>() {
            Ok(number @ 1..=64) if !upper.starts_with("SIG") => Ok(Signal(number)),
            _ => Err(QuantityError::Signal { text: text.to_owned() }),
        }
    }

    /// The number, as `kill` takes it.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Whether a process can have a handler for it.
    #[must_use]
    pub fn can_be_caught(self) -> bool {
        self.0 != libc::SIGKILL && self.0 != libc::SIGSTOP
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("25s", 25_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("30", 30_000),
            (" 2d ", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, problem) in [
            ("", "it is empty"),
            ("s", "a number is missing"),
            ("5m3", "a unit is missing"),
            ("5 m", "a unit is missing"),
            ("5y", "the unit is not known"),
            ("-5s", "a number is missing"),
            ("99999999999999999999s", "the number is too large"),
            ("99999999999999999w", "the number is too large"),
            ("36526d", "it is longer than 100 years"),
            ("99999999999", "it is longer than 100 years"),
        ] {
            assert_eq!(duration(text), Err(QuantityError::Duration { text: text.into(), problem }), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64Mi", 64 << 20),
            ("1 GiB", 1 << 30),
            ("2GB", 2_000_000_000),
            ("3k", 3000),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "-1", "64mib", "5i", "99999999999PiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(PortMap::parse("80:8080"), Ok(PortMap { old: 80, new: 8080 }));
        for text in ["80", "80:", ":80", "0:1", "1:0", "80:65536", "a:b", "1:2:3"] {
            assert!(PortMap::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals() {
        for text in ["SIGTERM", "term", "Term", "15", "sigterm"] {
            assert_eq!(Signal::parse(text), Ok(Signal::TERM), "{text}");
        }
        assert_eq!(Signal::parse("34").unwrap().to_string(), "34");
        for text in ["", "SIG", "SIG15", "0", "65", "NOPE", "-1"] {
            assert!(Signal::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(milliseconds in 0..=LONGEST, bytes: u64, old in 1_u16.., new in 1_u16.., number in 1..=64) {
            let value = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&show_duration(value)), Ok(value));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
            let map = PortMap { old, new };
            prop_assert_eq!(PortMap::parse(&map.to_string()), Ok(map));
            let signal = Signal(number);
            prop_assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            let _ = (duration(&text), size(&text), PortMap::parse(&text), Signal::parse(&text));
        }
    }
}
