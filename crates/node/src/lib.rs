//! Freeze and restore programs on this machine.

pub mod budget;
pub mod capabilities;
pub mod config;
pub mod control;
pub mod criu_bundle;
pub mod deadline;
pub mod doctor;
pub mod files;
pub mod guard;
pub mod hooks;
pub mod http;
pub mod launch;
#[cfg(test)]
mod loopback;
pub mod machine;
pub mod mounts;
pub mod node_state;
pub mod open_files;
pub mod privileges;
pub mod process_tree;
pub mod status;
pub mod streams;
mod sys;
pub mod tcp;
pub mod triggers;
pub mod volumes;
