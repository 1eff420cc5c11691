//! Whether a suspend fits into the time that is left, and when to give it up. Arithmetic only.
//!
//! ```text
//! trigger                          give up   signal                  killed
//!    |------------ capture ------------|--------|------ stop reserve ----|
//!    |<------------------------------- grace --------------------------->|
//! ```

use std::fmt;
use std::time::Duration;

use crate::config::show_duration;

/// Time to roll a capture back, so that the program has its whole reserve after that.
const UNWIND: Duration = Duration::from_millis(500);

/// When what must have happened after a trigger. Points in time are measured from any fixed point before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    give_up: Duration,
    signal: Duration,
    killed: Duration,
}

impl Deadline {
    /// The deadline of a trigger that came at `triggered`. A reserve longer than `grace` is all of it.
    #[must_use]
    pub fn new(triggered: Duration, grace: Duration, stop_reserve: Duration) -> Deadline {
        let capture = grace.saturating_sub(stop_reserve);
        let unwind = UNWIND.min(capture / 4);
        Deadline {
            give_up: triggered + (capture - unwind),
            signal: triggered + capture,
            killed: triggered + grace,
        }
    }

    /// From when on a capture that is not committed is rolled back.
    #[must_use]
    pub fn give_up(&self) -> Duration {
        self.give_up
    }

    /// When the program has its signal at the latest, if there is no suspend.
    #[must_use]
    pub fn signal(&self) -> Duration {
        self.signal
    }

    /// When everything is killed from outside.
    #[must_use]
    pub fn killed(&self) -> Duration {
        self.killed
    }

    /// What is left for a capture at `now`.
    #[must_use]
    pub fn left(&self, now: Duration) -> Duration {
        self.give_up.saturating_sub(now)
    }

    /// Whether a capture of `bytes` is worth starting at `now`, by the `last` one if there was any. Without one it is
    /// started: rolling back is safe, guessing is not.
    #[must_use]
    pub fn fit(&self, now: Duration, bytes: u64, last: Option<Throughput>) -> Fit {
        let left = self.left(now);
        if left.is_zero() {
            return Fit::NoTime;
        }
        match last.map(|last| last.expect(bytes)) {
            Some(expected) if expected > left => Fit::TooLong { expected, left },
            expected => Fit::Start { expected, left },
        }
    }
}

/// How fast the last capture was, from the trigger to its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throughput {
    /// Bytes of memory and files it covered.
    pub bytes: u64,
    /// What it took.
    pub elapsed: Duration,
}

/// What a capture takes whatever its size, at the least: CRIU's start, the freeze, the commit.
const BASE: Duration = Duration::from_millis(100);

impl Throughput {
    /// What a capture of `bytes` takes at this speed. A capture that grows takes proportionally longer; one that
    /// shrinks is not expected to be faster than its fixed part.
    #[must_use]
    pub fn expect(&self, bytes: u64) -> Duration {
        let fixed = BASE.min(self.elapsed);
        let variable = (self.elapsed - fixed).as_secs_f64();
        // Below a megabyte the time says nothing about the size.
        let ratio = bytes as f64 / self.bytes.max(1 << 20) as f64;
        Duration::try_from_secs_f64(variable * ratio).map_or(Duration::MAX, |part| part.saturating_add(fixed))
    }
}

/// Whether a suspend is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is.
    Start {
        /// What it takes, where a former one tells.
        expected: Option<Duration>,
        /// What it may take.
        left: Duration,
    },
    /// It would take too long; the program gets its signal at once.
    TooLong {
        /// What it would take.
        expected: Duration,
        /// What it may take.
        left: Duration,
    },
    /// The time is over already.
    NoTime,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fit::Start { expected: Some(expected), left } => {
                write!(f, "about {} of {} are needed", show_duration(*expected), show_duration(*left))
            }
            Fit::Start { expected: None, left } => write!(f, "{} are left", show_duration(*left)),
            Fit::TooLong { expected, left } => write!(
                f,
                "a suspend takes about {}, but only {} of the grace period are left for it",
                show_duration(*expected),
                show_duration(*left)
            ),
            Fit::NoTime => f.write_str("no time is left for a suspend"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn points_in_time() {
        for (grace, reserve, give_up, signal, killed) in [
            (25_000, 8_000, 16_500, 17_000, 25_000),
            (60_000, 20_000, 39_500, 40_000, 60_000),
            (6_000, 5_000, 750, 1_000, 6_000),
            (5_000, 5_000, 0, 0, 5_000),
            (5_000, 9_000, 0, 0, 5_000),
            (0, 0, 0, 0, 0),
        ] {
            let ms = Duration::from_millis;
            let deadline = Deadline::new(s(100), ms(grace), ms(reserve));
            let points = [deadline.give_up(), deadline.signal(), deadline.killed()];
            assert_eq!(points, [give_up, signal, killed].map(|t| s(100) + ms(t)), "{grace} {reserve}");
        }
    }

    #[test]
    fn a_capture_that_cannot_fit_is_not_started() {
        let deadline = Deadline::new(s(0), s(25), s(8));
        let gib = 1 << 30;
        let slow = Throughput { bytes: gib, elapsed: s(10) };
        let left = Duration::from_millis(16_500);
        assert_eq!(deadline.fit(s(0), gib, None), Fit::Start { expected: None, left });
        assert_eq!(deadline.fit(s(0), gib, Some(slow)), Fit::Start { expected: Some(s(10)), left });
        assert!(matches!(deadline.fit(s(0), 2 * gib, Some(slow)), Fit::TooLong { left: l, .. } if l == left));
        assert!(matches!(deadline.fit(s(10), gib, Some(slow)), Fit::TooLong { .. }));
        assert_eq!(deadline.fit(s(17), 0, Some(slow)), Fit::NoTime);
        assert_eq!(deadline.fit(s(17), 0, None), Fit::NoTime);
    }

    #[test]
    fn a_small_capture_says_little_about_a_large_one() {
        let tiny = Throughput { bytes: 10, elapsed: Duration::from_millis(90) };
        assert_eq!(tiny.expect(1 << 40), Duration::from_millis(90));
        let nothing = Throughput { bytes: 0, elapsed: Duration::ZERO };
        assert_eq!(nothing.expect(u64::MAX), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn the_order_of_things_never_changes(triggered in 0..1u64 << 40, grace in 0..1u64 << 40, reserve in 0..1u64 << 41) {
            let ms = Duration::from_millis;
            let deadline = Deadline::new(ms(triggered), ms(grace), ms(reserve));
            prop_assert!(ms(triggered) <= deadline.give_up());
            prop_assert!(deadline.give_up() <= deadline.signal());
            prop_assert!(deadline.signal() <= deadline.killed());
            prop_assert!(deadline.killed() - deadline.signal() == ms(reserve.min(grace)));
        }

        #[test]
        fn more_never_takes_less(bytes: u64, elapsed: u32, one: u64, other: u64) {
            let last = Throughput { bytes, elapsed: Duration::from_millis(elapsed.into()) };
            prop_assert!(last.expect(one.min(other)) <= last.expect(one.max(other)));
        }
    }
}
