//! The moment from which all tasks stand still.

use std::io;
use std::sync::OnceLock;
use std::time::Instant;

/// Since when all tasks of a tree stand still, and what is waited for then before anything of its memory is taken.
pub(crate) struct Standstill<'a> {
    /// Waits for other trees that are captured at the same moment.
    others: &'a (dyn Fn() -> io::Result<()> + Sync),
    /// None where those did not come to stand still.
    since: OnceLock<Option<Instant>>,
}

impl<'a> Standstill<'a> {
    /// Of a tree that is captured together with others, for which `others` waits.
    pub(crate) fn among(others: &'a (dyn Fn() -> io::Result<()> + Sync)) -> Standstill<'a> {
        Standstill { others, since: OnceLock::new() }
    }

    /// Of a tree that is captured alone.
    pub(crate) fn alone() -> Standstill<'static> {
        Standstill::among(&|| Ok(()))
    }

    /// All tasks stand still. May be said more than once.
    ///
    /// # Errors
    /// The others do not.
    pub(crate) fn reached(&self) -> io::Result<()> {
        let mut refused = None;
        let since = self.since.get_or_init(|| {
            let now = Instant::now();
            (self.others)().map_err(|error| refused = Some(error)).ok().map(|()| now)
        });
        match since {
            Some(_) => Ok(()),
            None => Err(refused.unwrap_or_else(|| io::ErrorKind::Interrupted.into())),
        }
    }

    /// Since when, once it was said.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since.get().copied().flatten()
    }

    /// Whether the others do not stand still.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self.since.get(), Some(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_others_are_waited_for_once() {
        let asked = AtomicUsize::new(0);
        let others = || {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let standstill = Standstill::among(&others);
        assert_eq!(standstill.since(), None);
        standstill.reached().unwrap();
        let since = standstill.since();
        standstill.reached().unwrap();
        assert!(since.is_some() && standstill.since() == since && asked.into_inner() == 1);
    }

    #[test]
    fn others_that_fail_are_not_asked_again() {
        let standstill = Standstill::among(&|| Err(io::Error::other("no")));
        assert_eq!(standstill.reached().unwrap_err().to_string(), "no");
        assert!(standstill.reached().is_err() && standstill.was_refused() && standstill.since().is_none());
    }
}
