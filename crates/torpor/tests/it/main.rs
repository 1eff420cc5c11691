//! What Torpor does, seen from outside.

mod container;
mod control;
mod doctor;
mod programs;
mod settings;
mod sockets;
mod store;
mod streams;
