//! The project's own chores: set-up, tests, demo, benchmarks.
//!
//! `cargo xtask test` is what CI runs; `cargo xtask criu` brings a CRIU that works on this machine.

mod apt;
mod bench;
mod chore;
mod criu;
mod demo;
mod fuzz;
mod lab;
#[cfg(test)]
mod links;
mod needs;
mod pages;
mod runtime_directory;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 110)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find a CRIU that works on this machine, or bring a private one; prints its path.
    Criu(criu::Args),
    /// Measure what SPECIFICATION.md promises.
    Bench(bench::Args),
    /// Show the main job: real programs outlive their node.
    Demo(demo::Args),
    /// Feed the parsers what no program writes.
    Fuzz(fuzz::Args),
    /// Make a root for lab hosts, on which real container engines run; prints its path.
    Lab(lab::Args),
    /// Install what the tests need, then run all checks and all tests.
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Xtask::parse().command {
        Command::Criu(args) => criu::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Test(args) => test::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
