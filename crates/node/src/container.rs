//! Containers of others: found by their runtime's state, checkpointed and restored without their doing.
//!
//! runc and crun keep the state of a container in a file below a directory of their own ([`state`]); engines above them
//! (containerd, CRI-O, Podman, Docker) choose that directory ([`find`]). From the state and from what `/proc` tells of
//! the container follows what CRIU has to be told ([`dump`]), so that the runtime's own `restore` takes the result.

pub mod adoption;
pub mod archive;
mod bound;
mod by_runtime;
pub mod carry;
mod cgroup_yard;
pub mod checkpoint;
pub mod cri;
pub(crate) mod deserted;
pub(crate) mod difference;
pub(crate) mod directory;
pub mod dump;
pub(crate) mod enclosure;
mod error;
pub mod find;
pub mod freezer;
pub mod generation;
pub mod kubelet;
mod lease;
pub mod obstacle;
mod orphan;
pub mod own;
mod pages;
pub(crate) mod publication;
pub mod refusal;
mod release;
pub mod restore;
pub mod route;
pub mod sandbox;
mod snapshot;
pub mod state;
pub mod stored;
mod together;
pub mod unpacked;

pub use error::ContainerError;
pub use find::{FindError, Query, Roots};
pub use generation::moment;
pub(crate) use lease::Lease;
pub use lease::{Taker, holds_briefly};
pub use release::release;
pub use snapshot::{Ground, ViewError};
pub use state::{Container, Engine, Flavor, Status};
pub use together::Together;
