//! Log lines on standard error, for people or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Flags every command understands.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// What to log: error, warn, info, debug, trace, or a filter such as `torpor_store=debug,info`.
    #[arg(
        long,
        global = true,
        help_heading = "Logging",
        value_name = "FILTER",
        env = "TORPOR_LOG",
        default_value = "info"
    )]
    log: String,
    /// How log lines look.
    #[arg(
        long,
        global = true,
        help_heading = "Logging",
        value_name = "FORMAT",
        env = "TORPOR_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

impl Args {
    /// What crik's command line says about logging. The variables hold for it too.
    pub(super) fn of_crik(debug: bool) -> Args {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let json = set("TORPOR_LOG_FORMAT").is_some_and(|format| format == "json");
        Args {
            log: set("TORPOR_LOG").unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned()),
            log_format: if json { LogFormat::Json } else { LogFormat::Text },
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Starts logging to standard error. A filter that cannot be understood logs a warning and becomes `info`.
pub(crate) fn start(args: &Args) {
    let (filter, refused) = match EnvFilter::try_new(&args.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (a test, a command inside a command) keeps the first one's settings.
    let _ = match args.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            lines.compact().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
    };
    if let Some(error) = refused {
        tracing::warn!(filter = args.log, %error, "cannot understand the log filter; logging at info");
    }
}
