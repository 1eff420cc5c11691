//! Talk to CRIU and read what it writes.

pub mod image;
pub mod stats;
pub mod wire;
