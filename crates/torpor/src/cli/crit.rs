//! The binary called `crit`: CRIU's image tool, with its command line, its output and its exit codes.
//!
//! `crit decode|encode|info|show|x`, as CRIU 4.2's `crit/crit/__main__.py` has it, and what go-criu's adds: `x DIR sk`, and the names
//! `fd` and `mem`. `docs/images.md` tells what is different.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use super::image::{self, DecodeArgs, EncodeArgs, Explored, ImageDirectory, InfoArgs, ShowArgs, View};
use super::{Exit, failure, output};

/// CRIU image tool
#[derive(Debug, Parser)]
#[command(name = "crit", version, infer_long_args = true)]
pub(super) struct Crit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Convert an image to JSON
    Decode(DecodeArgs),
    /// Convert JSON to an image
    Encode(EncodeArgs),
    /// Show what an image is
    Info(InfoArgs),
    /// Explore a directory of images
    X {
        /// The directory.
        dir: PathBuf,
        /// What to show.
        what: View,
    },
    /// Show an image as JSON for people
    Show(ShowArgs),
}

/// Whether this process was started as `crit`.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    arguments.first().and_then(|first| Path::new(first).file_name()).is_some_and(|name| name == "crit")
}

/// Without a command, crit says so and fails otherwise than for a wrong one.
pub(super) fn refuse_nothing(arguments: &[OsString]) -> Option<Exit> {
    if arguments.len() > 1 {
        return None;
    }
    eprintln!(
        "usage: crit [-h] [--version] {{decode,encode,info,x,show}} ...\ncrit: error: too few arguments"
    );
    Some(Exit::Failure)
}

impl Crit {
    /// Runs the command. Whatever fails, crit ends with 1.
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let done = match &self.command {
            Command::Decode(args) => image::decode(args),
            Command::Encode(args) => image::encode(args),
            Command::Info(args) => image::info(args),
            Command::Show(args) => image::show(args),
            Command::X { dir, what } => {
                ImageDirectory::open(dir).and_then(|images| image::explored(&images, *what, print))
            }
        };
        Ok(done.unwrap_or_else(|error| {
            failure::report(&error);
            Exit::Failure
        }))
    }
}

/// The lines of CRIU's crit. Sockets it does not show; go-criu's crit does, as JSON.
fn print(view: Explored) -> anyhow::Result<()> {
    let text = match &view {
        Explored::Sockets(all) => serde_json::to_string_pretty(all)? + "\n",
        other => other.text(),
    };
    output::put(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crits_command_line() {
        for words in [
            &["decode"][..],
            &["decode", "-i", "a.img", "-o", "a.json", "--pretty"],
            &["decode", "--in", "a.img", "--out", "a.json", "--pre"],
            &["encode", "-i", "a.json", "-o", "a.img"],
            &["info", "a.img"],
            &["show", "a.img", "--nopl"],
            &["x", "dir", "ps"],
            &["x", "dir", "fds"],
            &["x", "dir", "fd"],
            &["x", "dir", "mem"],
            &["x", "dir", "rss"],
            &["x", "dir", "sk"],
        ] {
            let typed = Crit::try_parse_from([&["crit"], words].concat());
            assert!(typed.is_ok(), "{words:?}: {typed:?}");
        }
        for words in [&["x", "ps", "dir"][..], &["show"], &["recode"]] {
            assert!(Crit::try_parse_from([&["crit"], words].concat()).is_err(), "{words:?}");
        }
    }
}
