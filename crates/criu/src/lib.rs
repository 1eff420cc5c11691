//! Talk to CRIU and read what it writes.

pub mod diagnosis;
pub mod image;
pub mod log;
pub mod stats;
pub mod wire;
