//! What Torpor does, seen from outside.

mod carried_files;
mod container;
mod container_engines;
mod control;
mod doctor;
mod dump;
mod engines;
mod identity;
mod image;
mod inspect;
mod kills;
mod lab_host;
mod memory;
mod node;
mod privileges;
mod process;
mod programs;
mod replicas;
mod runtime;
mod settings;
mod sockets;
mod sources;
mod starts;
mod store;
mod streams;
mod troubles;
