//! What Torpor does, seen from outside.

mod control;
mod settings;
mod store;
