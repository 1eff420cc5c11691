//! The processes that help with a checkpoint.

use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit};
use torpor_criu::page_server::{self, SocketPair};
use torpor_criu::session::{Session, Spawn};

use super::in_place::{self, Ground, Memory};
use super::{CheckpointError, Subject, criu_number, raised_for_criu, unprivileged};
use crate::budget;
use crate::guard::Guard;

/// The number under which CRIU finds its end of the socket for pages.
pub(crate) const PAGES: i32 = 10;

/// The processes that help with a checkpoint, and the socket for pages between CRIU and us.
pub(crate) struct Engine {
    pub(crate) guard: Guard,
    pub(crate) session: Session,
    pub(crate) version: u32,
    pub(crate) pages: OwnedFd,
    /// CRIU leaves memory in place, and sends none.
    pub(crate) in_place: bool,
}

impl Engine {
    pub(crate) fn start(subject: &Subject<'_>) -> Result<Engine, CheckpointError> {
        let SocketPair { ours, criu, granted } =
            page_server::socket_pair(budget::SOCKET as usize).map_err(CheckpointError::PageSocket)?;
        tracing::debug!(?granted, "the page server's socket buffers");
        let guard = Guard::start().map_err(CheckpointError::Guard)?;
        let mut session = Session::start(
            subject.criu,
            Spawn {
                default_config: subject.default_config.clone(),
                capabilities: raised_for_criu(),
                ..Spawn::default()
            }
            .pass(criu, PAGES),
        )?;
        let version = criu_number(&session.version()?);
        Ok(Engine { guard, session, version, pages: ours, in_place: false })
    }

    /// Has CRIU leave memory in place, if that is sure to work for the tree below `root`.
    pub(crate) fn leave_memory(&mut self, root: i32, budget: u64) {
        let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
        let ground = Ground {
            criu: self.version,
            unprivileged: unprivileged(),
            descriptors: limit.unwrap_or(u64::MAX),
            budget,
            memory: Memory::of(root),
        };
        let obstacle = ground.obstacle();
        tracing::debug!(?ground, obstacle, "whether memory is left in place");
        let all = Rlimit { current: limit, maximum: limit };
        self.in_place = obstacle.is_none()
            && rustix::process::prlimit(Some(self.session.pid()), Resource::Nofile, all).is_ok();
    }

    /// What the way of so much `memory` to us takes itself, in bytes.
    pub(crate) fn memory(&self, memory: u64) -> u64 {
        if self.in_place {
            in_place::of_pipes(memory)
        } else {
            // Both ends may hold a buffer full.
            2 * budget::SOCKET
        }
    }
}
