//! A container that moves to another machine, which has it run before it ends here.
//!
//! The target waits ([`target`]) and gives out a [`ticket`], by which both sides know each other: the connection is TLS 1.3 with
//! a key of each side's own, made for this one migration ([`channel`]). The source ([`source`]) first tells what would come. A target
//! that cannot take it says so; one that can tells what is there, and the source decides ([`fit`]). Nothing was frozen until then. Then the container is checkpointed into a store that the target keeps for it
//! ([`depot`]); what was copied while it still ran is not sent again. The target restores it, stopped, and says so; only then does it
//! end here, and goes on there (where an engine makes it, its runtime waits at the [`gate`] meanwhile). Whatever fails before that lets it run on here, and leaves nothing there.

pub mod carrier;
pub mod channel;
pub mod depot;
mod error;
pub mod fit;
pub mod gate;
pub mod message;
pub mod source;
pub mod target;
pub mod ticket;

pub use error::MigrationError;
pub use ticket::Ticket;
