//! Signals and timers.

use serde::Serialize;
use torpor_criu::image::process::{IntervalTimer, SignalQueue, Task, Thread};

/// Signals by their numbers, from 1 on, on all architectures but MIPS.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The name of a signal, as `SIGTERM`.
#[must_use]
pub fn signal_name(number: u32) -> String {
    match number {
        1..=31 => format!("SIG{}", SIGNALS[number as usize - 1]),
        34..=64 => format!("SIGRTMIN+{}", number - 34),
        _ => format!("signal {number}"),
    }
}

/// What a process does with signals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signals {
    /// Blocked by the first thread.
    pub blocked: Vec<String>,
    /// Ignored.
    pub ignored: Vec<String>,
    /// Handled by the program.
    pub caught: Vec<String>,
    /// Sent and not yet delivered, to the process and then to each of its threads.
    pub pending: Vec<String>,
    /// Timers that send signals.
    pub timers: Vec<Timer>,
}

/// A timer that sends a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timer {
    /// `real`, `virtual`, `profile` (setitimer(2)), or `posix` and its number (timer_create(2)).
    pub timer: String,
    /// What it sends.
    pub signal: String,
    /// Time left, in nanoseconds; zero where it does not run.
    pub left_ns: u64,
    /// Its interval, in nanoseconds; zero where it fires once.
    pub interval_ns: u64,
}

impl Signals {
    pub(super) fn of<'a>(
        task: &Task,
        first: Option<&Thread>,
        threads: impl Iterator<Item = &'a Thread>,
    ) -> Self {
        let mut signals = Self {
            blocked: set(first.and_then(|thread| thread.blk_sigset).unwrap_or(task.blk_sigset)),
            pending: names(task.signals_s.as_ref()),
            timers: timers(task),
            ..Self::default()
        };
        for thread in threads {
            signals.pending.extend(names(thread.signals_p.as_ref()));
        }
        // CRIU leaves out those that cannot be handled.
        for (number, action) in (1..).filter(|number| !matches!(number, 9 | 19)).zip(&task.sigactions) {
            match action.sigaction {
                0 => {}
                1 => signals.ignored.push(signal_name(number)),
                _ => signals.caught.push(signal_name(number)),
            }
        }
        signals
    }
}

fn set(mask: u64) -> Vec<String> {
    (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| signal_name(bit + 1)).collect()
}

fn names(queue: Option<&SignalQueue>) -> Vec<String> {
    let queued = queue.map(|queue| queue.signals.as_slice()).unwrap_or_default();
    queued.iter().filter_map(|signal| signal.number().map(signal_name)).collect()
}

fn timers(task: &Task) -> Vec<Timer> {
    let nanoseconds = |seconds: u64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let Some(timers) = &task.timers else { return Vec::new() };
    let interval = |name: &str, number, timer: &IntervalTimer| Timer {
        timer: name.to_owned(),
        signal: signal_name(number),
        left_ns: nanoseconds(timer.vsec, timer.vusec.saturating_mul(1000)),
        interval_ns: nanoseconds(timer.isec, timer.iusec.saturating_mul(1000)),
    };
    [("real", 14, &timers.real), ("virtual", 26, &timers.virt), ("profile", 27, &timers.prof)]
        .into_iter()
        .map(|(name, signal, timer)| interval(name, signal, timer))
        .filter(|timer| timer.left_ns != 0)
        .chain(timers.posix.iter().map(|timer| Timer {
            timer: format!("posix {}", timer.it_id),
            signal: signal_name(timer.si_signo),
            left_ns: nanoseconds(timer.vsec, timer.vnsec),
            interval_ns: nanoseconds(timer.isec, timer.insec),
        }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use torpor_criu::image::process::SignalAction;

    #[test]
    fn actions_are_counted_without_kill_and_stop() {
        let mut task = Task { sigactions: vec![SignalAction::default(); 62], ..Task::default() };
        task.sigactions[0].sigaction = 1;
        // The ninth is signal 10, the eighteenth signal 20.
        task.sigactions[8].sigaction = 0x4000;
        task.sigactions[17].sigaction = 1;
        let signals = Signals::of(&task, None, std::iter::empty());
        assert_eq!(signals.ignored, ["SIGHUP", "SIGTSTP"]);
        assert_eq!(signals.caught, ["SIGUSR1"]);
    }

    #[test]
    fn signals_have_names() {
        for (number, name) in
            [(1, "SIGHUP"), (15, "SIGTERM"), (31, "SIGSYS"), (34, "SIGRTMIN+0"), (0, "signal 0")]
        {
            assert_eq!(signal_name(number), name);
        }
    }
}
