//! The only place of this crate where `unsafe` is allowed: thin wrappers over system calls that rustix does not have.
#![allow(unsafe_code)]

pub(crate) mod process;
