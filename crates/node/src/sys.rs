//! The only place of this crate where `unsafe` is allowed: thin wrappers over system calls that rustix does not have.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod cpuid;
pub(crate) mod loop_device;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod peer;
pub(crate) mod pidfd;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod tcp_repair;
