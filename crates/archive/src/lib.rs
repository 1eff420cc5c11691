//! See inside a checkpoint, whoever wrote it and wherever it is kept.
//!
//! [`source`] knows places: archives of the three engines, directories of images, stores. [`Checkpoint`] is what all of
//! them come to: a list of entries whose bodies can be read, and the layers of CRIU's images among them. What is built on
//! it never asks where the bytes are.
//!
//! [`layout`] writes one again, as another engine wants it, and [`oci`] makes images of it, which [`registry`] moves. Nothing else is written, and nothing that is read is trusted.

pub mod blueprint;
pub mod check;
mod checkpoint;
pub mod diff;
pub mod engine;
pub mod inspect;
pub mod layout;
pub mod memory;
pub mod oci;
pub mod packing;
pub mod registry;
pub mod source;
pub mod tape;

pub use checkpoint::{Checkpoint, Layer};
