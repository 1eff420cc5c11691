//! Freeze and restore programs on this machine.

pub mod config;
