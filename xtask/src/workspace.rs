//! Where things are: the source tree and the build directory.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the source tree this chore was started in.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable at run time too; a build directory shared by two trees must not mix them up.
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's build directory: `CARGO_TARGET_DIR`, else `target` in the tree.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
