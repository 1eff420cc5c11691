//! What Torpor does, seen from outside.

mod control;
mod doctor;
mod settings;
mod store;
