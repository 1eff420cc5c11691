//! Checkpoints of every form, and hostile ones.

mod archives;
mod hostile;
mod tape;
