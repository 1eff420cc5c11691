//! The processes that help with a dump, and the way on which memory comes.

use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit};
use torpor_criu::image::pagemap::Generation;
use torpor_criu::options::{DumpOptions, PageTarget};
use torpor_criu::page_server::{self, SocketPair};
use torpor_criu::program::Program;
use torpor_criu::rpc::Version;
use torpor_criu::session::{DefaultConfig, Session, Spawn};

use super::FreezeError;
use super::in_place::{self, Ground, Memory};
use crate::guard::Guard;
use crate::order::Order;
use crate::{budget, capabilities};

/// The number under which CRIU finds its end of the socket for pages.
const PAGES: i32 = 10;

/// The processes that help with a dump, and the socket for pages between CRIU and us. They are started before memory is
/// taken for the pages: a fork afterwards would leave all of it write-protected, and every page would fault once more
/// under the freeze.
pub(crate) struct Engine {
    pub(super) guard: Guard,
    pub(super) session: Session,
    pub(super) pages: OwnedFd,
    version: Version,
    /// CRIU leaves memory in place, and sends none.
    in_place: bool,
}

impl Engine {
    pub(crate) fn start(criu: &Program, default_config: DefaultConfig) -> Result<Engine, FreezeError> {
        let SocketPair { ours, criu: theirs, granted } = page_server::socket_pair(budget::SOCKET as usize)
            .map_err(FreezeError::helper("make the socket for pages"))?;
        tracing::debug!(?granted, "the page server's socket buffers");
        let guard = Guard::start().map_err(FreezeError::helper("start the guard"))?;
        let spawn =
            Spawn { default_config, capabilities: capabilities::raised_for_criu(), ..Spawn::default() };
        let mut session = Session::start(criu, spawn.pass(theirs, PAGES))?;
        let version = session.version()?;
        Ok(Engine { guard, session, pages: ours, version, in_place: false })
    }

    /// CRIU's version as one number.
    pub(crate) fn version(&self) -> u32 {
        self.version.number()
    }

    /// The form of its pagemaps.
    pub(crate) fn generation(&self) -> Generation {
        let (major, minor, _) = self.version.numbers();
        Generation::of_version(major.unsigned_abs(), minor.unsigned_abs())
    }

    /// Has CRIU leave memory in place, if the tree below `root` runs on and that is sure to work for it.
    pub(crate) fn leave_memory(&mut self, root: i32, order: &Order, budget: u64) {
        if !order.runs_on() {
            return;
        }
        let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
        let ground = Ground {
            criu: self.version(),
            unprivileged: capabilities::unprivileged(),
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

    /// Whether CRIU leaves memory in place.
    pub(super) fn in_place(&self) -> bool {
        self.in_place
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

    /// Tells CRIU the way on which memory comes.
    pub(crate) fn lead_memory(&self, options: &mut DumpOptions) {
        options.common.lazy_pages = self.in_place;
        options.common.config.page_socket = self.in_place.then_some(PAGES);
        options.pages = (!self.in_place).then_some(PageTarget::Socket(PAGES));
    }
}
