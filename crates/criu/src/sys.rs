//! The system calls that need `unsafe`.
#![allow(unsafe_code)]

pub(crate) mod spawn;
