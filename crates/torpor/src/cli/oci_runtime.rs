//! The binary called `torpor-runtime`: an OCI runtime, with the command line of runc and crun.
//!
//! Words are not for clap here: what is not understood is for the real runtime to judge.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use torpor_node::oci_runtime;

/// Whether this process was started as `torpor-runtime`.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    let name = arguments.first().and_then(|first| Path::new(first).file_name());
    name.is_some_and(|name| name == oci_runtime::NAME)
}

/// Becomes CRIU, where this process was started by a runtime that looked for one. Returns only where it was, and that fails.
pub(super) fn as_criu(arguments: &[OsString]) -> Option<ExitCode> {
    let error = oci_runtime::criu::exec(arguments)?;
    eprintln!("error: cannot run CRIU: {error}");
    Some(ExitCode::FAILURE)
}

/// Does what was asked for, or becomes the real runtime.
pub(super) fn main(arguments: &[OsString]) -> ExitCode {
    oci_runtime::run(arguments.get(1..).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_binary_decides() {
        for (name, is_runtime) in [
            ("torpor-runtime", true),
            ("/opt/torpor/bin/torpor-runtime", true),
            ("torpor", false),
            ("runc", false),
        ] {
            assert_eq!(is_called(&[name.into()]), is_runtime, "{name}");
        }
        assert!(!is_called(&[]));
    }
}
