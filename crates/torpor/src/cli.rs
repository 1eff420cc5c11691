//! What can be typed: one file a command, one line in [`Command`] each.

mod build;
mod carriage;
mod change;
mod check;
mod checkpoint;
mod checkpointctl;
mod completions;
mod control;
mod convert;
mod crik;
mod crit;
mod depot;
mod diff;
mod doctor;
mod dump;
mod exit;
mod export;
mod failure;
mod gc;
mod guard;
mod image;
mod import;
mod inspect;
mod install_node;
mod key;
mod logging;
mod ls;
mod man;
mod memory;
mod migrate;
mod oci_runtime;
mod output;
mod pin;
mod place;
mod prune;
mod pull;
mod push;
mod receive;
mod report;
mod restore;
mod rm;
mod run;
mod sandbox_init;
mod show;
mod sign;
mod store;
mod target;
mod tree;
mod verify;
mod wait;
mod warm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use exit::Exit;

/// Freeze running programs, keep everything they were, and let them go on later.
#[derive(Debug, Parser)]
#[command(name = "torpor", version, propagate_version = true, max_term_width = 110)]
struct Torpor {
    #[command(flatten)]
    logging: logging::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program that outlives its node
    Run(run::Args),
    Check(check::Args),
    Checkpoint(checkpoint::Args),
    Restore(restore::Args),
    Migrate(migrate::Args),
    Receive(receive::Args),
    Wait(wait::Args),
    Ls(ls::Args),
    Show(show::Args),
    Pin(pin::Args),
    Sign(sign::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Gc(gc::Args),
    Verify(verify::Args),
    Key(key::Args),
    Image(image::Args),
    Inspect(inspect::Args),
    Memory(memory::Args),
    Diff(diff::Args),
    Build(build::Args),
    Warm(warm::Args),
    Push(push::Args),
    Pull(pull::Args),
    Import(import::Args),
    Export(export::Args),
    Convert(convert::Args),
    InstallNode(install_node::Args),
    UninstallNode(install_node::back::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Guard(guard::Args),
    #[command(hide = true)]
    SandboxInit(sandbox_init::Args),
}

impl Command {
    fn run(self) -> anyhow::Result<Exit> {
        match self {
            Command::Run(args) => run::run(args),
            Command::Check(args) => check::run(&args),
            Command::Checkpoint(args) => checkpoint::run(&args),
            Command::Restore(args) => restore::run(&args),
            Command::Migrate(args) => migrate::run(&args),
            Command::Receive(args) => receive::run(&args),
            Command::Wait(args) => wait::run(&args),
            Command::Ls(args) => ls::run(&args),
            Command::Show(args) => show::run(&args),
            Command::Pin(args) => pin::run(&args),
            Command::Sign(args) => sign::run(&args),
            Command::Rm(args) => rm::run(&args),
            Command::Prune(args) => prune::run(&args),
            Command::Gc(args) => gc::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Key(args) => key::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Memory(args) => memory::run(&args),
            Command::Diff(args) => diff::run(&args),
            Command::Build(args) => build::run(&args),
            Command::Warm(args) => warm::run(&args),
            Command::Push(args) => push::run(&args),
            Command::Pull(args) => pull::run(&args),
            Command::Import(args) => import::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Convert(args) => convert::run(&args),
            Command::Image(args) => image::run(&args),
            Command::InstallNode(args) => install_node::run(&args),
            Command::UninstallNode(args) => install_node::back::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
            Command::Guard(guard::Args {}) => guard::run(),
            Command::SandboxInit(sandbox_init::Args {}) => sandbox_init::run(),
        }
    }
}

/// Runs the command in `arguments` (with the program's name first) and returns what the process ends with.
///
/// A failure is printed as `error: …` followed, where a remedy is known, by `help: …`.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    if oci_runtime::is_called(&arguments) {
        return oci_runtime::main(&arguments);
    }
    if let Some(exit) = oci_runtime::as_criu(&arguments) {
        return exit;
    }
    if checkpointctl::is_called(&arguments) {
        return checkpointctl::main(arguments);
    }
    if crik::is_called(&arguments) {
        return typed::<crik::Crik>(arguments, |typed| {
            logging::start(&logging::Args::of_crik(typed.debug));
            typed.run()
        });
    }
    if crit::is_called(&arguments) {
        if let Some(exit) = crit::refuse_nothing(&arguments) {
            return exit.into();
        }
        return typed::<crit::Crit>(arguments, |typed| typed.run());
    }
    typed::<Torpor>(arguments, |typed| {
        logging::start(&typed.logging);
        typed.command.run()
    })
}

/// Understands what was typed and does it.
fn typed<T: Parser>(arguments: Vec<OsString>, act: impl FnOnce(T) -> anyhow::Result<Exit>) -> ExitCode {
    let typed = match T::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(refusal) => {
            // Printing fails only where nobody reads any more; the exit code still tells.
            let _ = refusal.print();
            return if refusal.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    match act(typed) {
        Ok(exit) => exit.into(),
        Err(error) => failure::report(&error).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::CommandFactory;
    use torpor_criu::diagnosis::Operation;
    use torpor_criu::options::ExpertOption;

    use super::*;

    /// Clap checks a command line only when it is used: names that are given twice show here, not to people.
    #[test]
    fn every_command_can_be_typed() {
        Torpor::command().debug_assert();
    }

    /// A heading holds for all flags that follow it, unless they say otherwise: those of a command come before what it shares with others.
    #[test]
    fn headings_that_commands_share_hold_only_what_they_name() {
        for command in Torpor::command().get_subcommands().filter(|command| command.get_name() != "run") {
            for argument in command.get_arguments() {
                let (heading, id) = (argument.get_help_heading(), argument.get_id().as_str());
                let belongs = match heading {
                    Some("Store") => ["store", "passphrase_file", "key_file"].contains(&id),
                    Some("Sources") => id.starts_with("max_"),
                    Some("Registries") => ["authfile", "ca", "plain_http"].contains(&id),
                    _ => true,
                };
                assert!(belongs, "{}: --{id} stands under {heading:?}", command.get_name());
                assert!(id != "output" || heading.is_none(), "{}: --output", command.get_name());
            }
        }
    }

    /// What follows two dashes in a text, up to what ends a word.
    fn flags(text: &str) -> impl Iterator<Item = &str> {
        let ends = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        text.split("--").skip(1).map(move |rest| rest.split(ends).next().unwrap_or(rest))
    }

    #[test]
    fn remedies_of_failures_name_flags_that_the_command_takes_and_options_that_may_be_given() {
        let mut torpor = Torpor::command();
        torpor.build();
        let taken = |command: &str| -> HashSet<String> {
            let command = torpor.find_subcommand(command).unwrap();
            let names =
                command.get_arguments().filter_map(|argument| argument.get_long_and_visible_aliases());
            names.flatten().map(str::to_owned).collect()
        };
        let [run, restore, warm] = ["run", "restore", "warm"].map(taken);
        let dumps = ["checkpoint", "migrate"].map(taken);
        for known in torpor_criu::diagnosis::known() {
            for flag in flags(known.remedy) {
                // Those of other programs stand in a line of code.
                let is_ours = !known.remedy.contains(&format!("mount --{flag}"));
                assert!(!is_ours || run.contains(flag), "{}: run has no --{flag}", known.id);
            }
            let elsewhere = known.remedy_elsewhere();
            // What is to be done at the next checkpoint is said so.
            let (now, next) = elsewhere.split_once("checkpoint it with ").unwrap_or((elsewhere, ""));
            let mut commands = Vec::new();
            if known.operation != Some(Operation::Restore) {
                commands.extend(dumps.iter().map(|taken| (now, taken)));
                if now.contains("--criu-option ") {
                    commands.push(("--criu-option", &warm));
                }
            }
            if known.operation != Some(Operation::Checkpoint) {
                commands.push((now, &restore));
            }
            commands.extend(dumps.iter().map(|taken| (next, taken)));
            for (text, taken) in commands {
                for flag in flags(text).filter(|flag| !text.contains(&format!("mount --{flag}"))) {
                    assert!(taken.contains(flag), "{}: elsewhere it takes no --{flag}", known.id);
                }
            }
            for rest in known.remedy.split("--criu-option ").skip(1) {
                let option = rest.split([' ', ',', ';']).next().unwrap_or(rest);
                let given = option.replace("{1}", "1").replace("{2}", "2").parse::<ExpertOption>();
                assert!(given.is_ok(), "{}: {option}: {given:?}", known.id);
            }
        }
    }
}
