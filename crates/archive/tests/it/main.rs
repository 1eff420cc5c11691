//! Checkpoints of every form, and hostile ones.

mod archives;
mod checks;
mod cri_o;
mod hostile;
mod images;
mod kept;
mod kept_archives;
mod kept_directories;
mod layouts;
mod registries;
mod stored;
mod tape;
