//! The phases of a checkpoint and of a restore: one name each, used in logs, errors, status and manifests.

use std::fmt;
use std::time::{Duration, Instant};

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Checkpoint: can it be done? Restore: is it whole, is it allowed, can it run here?
    Check,
    /// The program comes to a stop.
    Freeze,
    /// Memory, files and images are copied.
    Capture,
    /// The checkpoint is made to exist.
    Commit,
    /// The program runs on.
    Thaw,
    /// The program is ended.
    End,
    /// A generation is chosen.
    Find,
    /// Images, memory and files are laid out.
    Prepare,
    /// CRIU makes the processes.
    Restore,
    /// The program runs again.
    GoOn,
}

impl Phase {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Check => "check",
            Phase::Freeze => "freeze",
            Phase::Capture => "capture",
            Phase::Commit => "commit",
            Phase::Thaw => "thaw",
            Phase::End => "end",
            Phase::Find => "find",
            Phase::Prepare => "prepare",
            Phase::Restore => "restore",
            Phase::GoOn => "go-on",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long each phase took, in order, and which one it is now.
pub struct Phases {
    done: Vec<(Phase, Duration)>,
    current: Phase,
    since: Instant,
    announce: Option<Box<dyn Fn(Phase) + Send>>,
}

impl fmt::Debug for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phases({self})")
    }
}

impl Phases {
    /// Begins with `first`.
    #[must_use]
    pub fn begin(first: Phase) -> Phases {
        tracing::debug!(phase = first.name(), "begins");
        Phases { done: Vec::new(), current: first, since: Instant::now(), announce: None }
    }

    /// Begins with `first`, and tells `announce` of it and of every phase that follows, as it begins.
    #[must_use]
    pub fn announced(first: Phase, announce: impl Fn(Phase) + Send + 'static) -> Phases {
        announce(first);
        Phases { announce: Some(Box::new(announce)), ..Phases::begin(first) }
    }

    /// Ends the current phase and begins `next`.
    pub fn enter(&mut self, next: Phase) {
        self.entered(next, Instant::now());
    }

    /// Ends the current phase and begins `next` as of `when`: for a change that another thread saw.
    pub fn entered(&mut self, next: Phase, when: Instant) {
        let elapsed = when.saturating_duration_since(self.since);
        self.done.push((self.current, elapsed));
        tracing::debug!(phase = next.name(), after = ?elapsed, "begins");
        self.current = next;
        self.since = when;
        if let Some(announce) = &self.announce {
            announce(next);
        }
    }

    /// The phase it is now.
    #[must_use]
    pub fn current(&self) -> Phase {
        self.current
    }

    /// The durations so far, the current phase's up to now.
    #[must_use]
    pub fn durations(&self) -> Vec<(Phase, Duration)> {
        let mut all = self.done.clone();
        all.push((self.current, self.since.elapsed()));
        all
    }

    /// The same, as a manifest keeps it.
    #[must_use]
    pub fn recorded(&self) -> Vec<torpor_store::manifest::Phase> {
        self.durations()
            .into_iter()
            .map(|(phase, duration)| torpor_store::manifest::Phase {
                name: phase.name().to_owned(),
                micros: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            })
            .collect()
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (phase, duration)) in self.durations().into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{phase} {:.1} ms", duration.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_announced_as_it_begins() {
        let (told, heard) = std::sync::mpsc::channel();
        let mut phases = Phases::announced(Phase::Find, move |phase| told.send(phase).unwrap());
        phases.enter(Phase::Check);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [Phase::Find, Phase::Check]);
    }

    #[test]
    fn phases_follow_each_other() {
        let mut phases = Phases::begin(Phase::Check);
        phases.enter(Phase::Freeze);
        phases.enter(Phase::Capture);
        let names: Vec<String> = phases.recorded().into_iter().map(|phase| phase.name).collect();
        assert_eq!(names, ["check", "freeze", "capture"]);
        assert!(phases.to_string().starts_with("check "), "{phases}");
    }
}
