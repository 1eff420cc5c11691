//! The binary called `torpor-runtime`: an OCI runtime, with the command line of runc and crun.
//!
//! Words are not for clap here: what is not understood is for the real runtime to judge.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use torpor_node::oci_runtime;
use torpor_node::oci_runtime::command_line::{CommandLine, Global};
use torpor_node::oci_runtime::log::{self, Level};
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

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
    let words = arguments.get(1..).unwrap_or_default();
    let lines = Lines(CommandLine::parse(words).global);
    // Only a second start fails, and keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(LevelFilter::WARN)).try_init();
    oci_runtime::run(words).into()
}

/// Puts what is noted on the way into the runtime's log. As warnings: what fails a call is its last error, which we write ourselves.
struct Lines(Global);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        log::write(&self.0, Level::Warning, &(line.message + &line.fields));
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Nothing fails to be written to a string.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_on_the_way_is_in_the_runtimes_log() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let global = Global { log: Some(log.clone()), ..Global::default() };
        let lines = tracing_subscriber::registry().with(Lines(global).with_filter(LevelFilter::WARN));
        tracing::subscriber::with_default(lines, || {
            tracing::warn!(path = %"/a", "a file stays");
            tracing::info!("unheard");
        });
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.ends_with("level=warning msg=\"a file stays, path=/a\"\n"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }

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
