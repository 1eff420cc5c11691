//! The binary called `crik`: crik's command line and configuration, run as `torpor run` does.
//!
//! `crik [--debug] run [--config-path=/etc/crik/config.yaml] [--] COMMAND [ARGUMENT…]`, as qawolf/crik's
//! `cmd/crik/main.go` has it. `docs/from-crik.md` tells what is different.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use torpor_node::config::{self, CRIK_PATH, Given, Surroundings};

use super::{Exit, run};

/// Run a program that outlives its node.
#[derive(Debug, Parser)]
#[command(name = "crik", version)]
pub(super) struct Crik {
    /// Log what is of interest to developers.
    #[arg(long, global = true)]
    pub(super) debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command, or restore it from its image directory.
    Run {
        /// crik's configuration file; it may be missing.
        #[arg(long, value_name = "FILE", default_value = CRIK_PATH)]
        config_path: PathBuf,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

/// Whether this process was started as `crik`.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    arguments.first().and_then(|first| Path::new(first).file_name()).is_some_and(|name| name == "crik")
}

impl Crik {
    /// Runs the command.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Command::Run { config_path, command } = self.command;
        let surroundings = Surroundings::read()?;
        run::start(config::load(Given::default(), Some(config_path), true, command, &surroundings)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criks_command_line() {
        let plain = |words: &[&str]| {
            let Crik { debug, command: Command::Run { config_path, command } } =
                Crik::try_parse_from([&["crik"], words].concat()).unwrap();
            (debug, config_path.display().to_string(), command)
        };
        let command = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (typed, expected) in [
            (
                &["run", "--", "bash", "-c", "x"][..],
                (false, CRIK_PATH.to_owned(), command(&["bash", "-c", "x"])),
            ),
            (
                &["--debug", "run", "bash", "-c", "x"],
                (true, CRIK_PATH.to_owned(), command(&["bash", "-c", "x"])),
            ),
            (
                &["run", "--config-path=/a", "--", "x", "--debug"],
                (false, "/a".to_owned(), command(&["x", "--debug"])),
            ),
            (&["run", "--config-path", "/a"], (false, "/a".to_owned(), command(&[]))),
        ] {
            assert_eq!(plain(typed), expected, "{typed:?}");
        }
    }

    #[test]
    fn the_name_of_the_binary_decides() {
        for (name, is_crik) in
            [("crik", true), ("/usr/local/bin/crik", true), ("torpor", false), ("crik/torpor", false)]
        {
            assert_eq!(is_called(&[name.into()]), is_crik, "{name}");
        }
        assert!(!is_called(&[]));
    }
}
