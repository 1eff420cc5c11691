//! Talk to CRIU and read what it writes.

pub mod diagnosis;
pub mod image;
pub mod log;
pub mod options;
pub mod page_server;
pub mod program;
pub mod rpc;
pub mod session;
pub mod stats;
mod sys;
pub mod wire;
