//! Freeze and restore programs on this machine.
