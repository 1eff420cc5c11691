//! Freeze and restore programs on this machine.

pub mod budget;
pub mod capabilities;
pub mod config;
pub mod control;
pub mod deadline;
pub mod guard;
pub mod hooks;
pub mod launch;
pub mod machine;
pub mod privileges;
#[cfg(test)]
mod loopback;
pub mod node_state;
pub mod process_tree;
pub mod status;
pub mod streams;
mod sys;
pub mod tcp;
pub mod triggers;
pub mod files;
pub mod mounts;
pub mod open_files;
pub mod volumes;
