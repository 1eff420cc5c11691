//! The only place of this crate where `unsafe` is allowed.
#![allow(unsafe_code)]

pub(crate) mod arena;
