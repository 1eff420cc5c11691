//! Letting a container go on after a CRIU that was killed in the midst of a dump.

use super::freezer::Freezer;
use crate::{guard, network_lock, process_tree};

/// Undoes what CRIU has left: the freezer, a lock of the network, sockets under repair, stopped processes. Returns how
/// many processes were woken.
pub fn release(root: i32, freezer: Option<&Freezer>) -> usize {
    if let Some(freezer) = freezer {
        match freezer.thaw() {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(group = %freezer.directory().display(), "CRIU left it frozen; it goes on")
            }
            Err(error) => {
                tracing::error!(group = %freezer.directory().display(), %error, "a frozen control group cannot be thawed");
            }
        }
    }
    if process_tree::state(root).is_none() {
        return 0;
    }
    for (what, result) in [
        ("the lock of the network", network_lock::remove_in_namespace_of(root)),
        ("sockets under repair", network_lock::end_repair(&process_tree::of(root))),
    ] {
        match result {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "CRIU left {what}, which is taken away"),
            Err(error) => tracing::error!(%error, "{what}, if CRIU left any, cannot be taken away"),
        }
    }
    guard::wake(root)
}
