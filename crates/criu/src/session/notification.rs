//! What CRIU announces while it works, and the answers.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::rpc::{Notify, Opts, Request, RequestKind};

/// An event (CRIU, `criu/action-scripts.c`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An image streamer may start.
    PreStream,
    /// The dump begins; nothing is stopped yet.
    PreDump,
    /// All is dumped, and the tree is stopped; refusing lets it run on.
    PostDump,
    /// The restore begins; nothing exists yet.
    PreRestore,
    /// The tree exists and is stopped; the network is still locked.
    PostRestore,
    /// The network is to be locked.
    NetworkLock,
    /// The network is to be unlocked.
    NetworkUnlock,
    /// Namespaces exist and are empty; with the root's PID.
    SetupNamespaces,
    /// Namespaces are set up.
    PostSetupNamespaces,
    /// The tree will run now. Refusing has no effect.
    PreResume,
    /// The tree runs. Refusing has no effect.
    PostResume,
    /// A terminal's master comes with this notification.
    OrphanPtsMaster,
    /// CRIU listens for those who fetch pages.
    StatusReady,
    /// Which resources are external? [`Verdict::External`] adds some.
    QueryExtFiles,
    /// One that is not known here.
    Other(String),
}

const NAMES: [(&str, Event); 14] = [
    ("pre-stream", Event::PreStream),
    ("pre-dump", Event::PreDump),
    ("post-dump", Event::PostDump),
    ("pre-restore", Event::PreRestore),
    ("post-restore", Event::PostRestore),
    ("network-lock", Event::NetworkLock),
    ("network-unlock", Event::NetworkUnlock),
    ("setup-namespaces", Event::SetupNamespaces),
    ("post-setup-namespaces", Event::PostSetupNamespaces),
    ("pre-resume", Event::PreResume),
    ("post-resume", Event::PostResume),
    ("orphan-pts-master", Event::OrphanPtsMaster),
    ("status-ready", Event::StatusReady),
    ("query-ext-files", Event::QueryExtFiles),
];

impl Event {
    /// The event that CRIU calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(|| Self::Other(name.to_owned()), |(_, event)| event.clone())
    }

    /// CRIU's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => NAMES.iter().find(|(_, event)| event == known).map_or("", |(name, _)| name),
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An event with what came along. CRIU waits for the answer.
#[derive(Debug)]
pub struct Notification {
    /// What happened.
    pub event: Event,
    /// The root of the tree, with [`Event::SetupNamespaces`] and [`Event::PostRestore`].
    pub pid: Option<Pid>,
    descriptor: RefCell<Option<OwnedFd>>,
}

impl Notification {
    pub(super) fn new(notify: Notify, descriptor: Option<OwnedFd>) -> Self {
        Self {
            event: Event::named(notify.script()),
            pid: notify.pid.filter(|pid| *pid > 0).and_then(Pid::from_raw),
            descriptor: RefCell::new(descriptor),
        }
    }

    /// The descriptor that came with it, once; with [`Event::OrphanPtsMaster`] the terminal's master.
    pub fn take_descriptor(&self) -> Option<OwnedFd> {
        self.descriptor.take()
    }
}

/// The answer to a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// CRIU goes on.
    Proceed,
    /// CRIU rolls back, where the event still allows that.
    Refuse,
    /// CRIU goes on with further external resources; the answer to [`Event::QueryExtFiles`].
    External(Vec<String>),
}

impl Verdict {
    pub(super) fn request(&self) -> Request {
        let opts = match self {
            Self::External(external) => {
                Some(Box::new(Opts { external: external.clone(), ..Opts::default() }))
            }
            Self::Proceed | Self::Refuse => None,
        };
        Request {
            kind: RequestKind::Notify as i32,
            notify_success: Some(*self != Self::Refuse),
            opts,
            ..Request::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_event_and_back() {
        for (name, event) in NAMES {
            assert_eq!(Event::named(name), event);
            assert_eq!(event.name(), name);
        }
        assert_eq!(Event::named("new-in-5.0").name(), "new-in-5.0");
    }

    #[test]
    fn only_a_refusal_is_a_refusal() {
        for (verdict, success) in
            [(Verdict::Proceed, true), (Verdict::Refuse, false), (Verdict::External(vec![]), true)]
        {
            assert_eq!(verdict.request().notify_success, Some(success));
        }
    }
}
