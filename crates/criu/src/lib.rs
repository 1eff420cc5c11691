//! Talk to CRIU and read what it writes.

pub mod diagnosis;
pub mod image;
pub mod log;
pub mod stats;
pub mod wire;
pub mod options;
pub mod page_server;
pub mod program;
pub mod rpc;
pub mod session;
mod sys;
