//! Freeze and restore programs on this machine.

pub mod addresses;
pub mod budget;
pub mod capabilities;
pub mod checkpoint;
pub mod children;
pub mod config;
pub mod container;
pub mod control;
pub mod cpu_baseline;
pub mod criu_bundle;
pub mod deadline;
pub mod doctor;
#[cfg(any(test, fuzzing))]
pub mod documents;
pub mod facts;
pub mod files;
pub mod guard;
pub mod hooks;
pub mod http;
pub mod install;
pub mod launch;
#[cfg(test)]
mod loopback;
pub mod machine;
pub mod mounts;
pub mod network_lock;
pub mod node_state;
pub mod oci_runtime;
pub mod open_files;
pub mod outlook;
pub mod phase;
pub mod privileges;
pub mod process_tree;
pub mod processes;
pub mod readiness;
pub mod restore;
pub mod seccomp;
pub mod staging;
pub mod status;
mod stored_files;
pub mod streams;
mod sys;
pub mod tcp;
pub mod triggers;
pub mod unix_sockets;
pub mod volumes;
pub mod wrapper;
