//! `torpor checkpoint`: have a running program's torpor make a checkpoint, from here or another container; or make one
//! of a container or of plain processes that know nothing of Torpor.

mod container;
mod engine;
mod process;

pub(super) use container::{are_mounted, clean_up, milliseconds, reference, took};

use serde::Serialize;
use torpor_node::control::{Client, Outcome, Request};

use super::failure::Failure;
use super::target::Target;
use super::{Exit, control, output};

/// Checkpoint a program that runs under `torpor run`, a container, or plain processes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A container on this machine, whoever started it: container:ID-OR-NAME, or pod:NAMESPACE/POD[/CONTAINER]. Or pid:NUMBER, a
    /// process and all below it. Without it, a program that runs under `torpor run`.
    #[arg(value_name = "TARGET")]
    target: Option<Target>,
    #[command(flatten)]
    wrapper: control::Args,
    /// Let the program run on. Without it, the program ends with its checkpoint and goes on at its next start.
    #[arg(long)]
    leave_running: bool,
    /// Make a checkpoint that is restored many times: connections are closed in it. The program runs on.
    #[arg(long, conflicts_with = "target")]
    template: bool,
    #[command(flatten)]
    container: container::Args,
    #[command(flatten)]
    engine: engine::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    name: String,
    generation: u64,
    suspended: bool,
    phases: Vec<Took>,
}

#[derive(Serialize)]
pub(super) struct Took {
    pub(super) phase: String,
    pub(super) milliseconds: f64,
}

/// Asks for it and tells how it went.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.target {
        Some(Target::Containers(query)) => return container::run(query, args),
        Some(Target::Process(pid)) => return process::run(*pid, args),
        None => {}
    }
    if let Some(flag) = args.container.dump.given() {
        let message = format!("{flag} is about a container or plain processes, and there is no TARGET");
        let remedy = "name one, or leave it out: a program under `torpor run` is told at its start";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    }
    let mut client = Client::connect(&args.wrapper.socket()?)?;
    let request =
        Request::Checkpoint { leave_running: args.leave_running || args.template, template: args.template };
    let outcome = client.ask(&request, args.wrapper.deadline(), |phase| {
        tracing::info!(phase = phase.phase, elapsed_ms = phase.elapsed_ms, "checkpoint");
    })?;
    let made = made(outcome)?;
    args.output.print(&made, told)?;
    Ok(Exit::Success)
}

/// The checkpoint, or why there is none.
fn made(outcome: Outcome) -> Result<Made, Failure> {
    let failure = |message, remedy| Failure { message, remedy, exit: Exit::Failure };
    match outcome {
        Outcome::Done { name, generation, suspended, phases } => Ok(Made {
            name,
            generation,
            suspended,
            phases: phases.into_iter().map(|(phase, milliseconds)| Took { phase, milliseconds }).collect(),
        }),
        Outcome::Failed { message, remedy } => {
            Err(failure(format!("there is no checkpoint: {message}"), remedy))
        }
        Outcome::Refused { message } => Err(failure(format!("torpor refuses: {message}"), None)),
        Outcome::Status { .. } | Outcome::Ready => {
            Err(failure("torpor answered something else than was asked".to_owned(), None))
        }
    }
}

fn told(made: &Made) -> String {
    let what = if made.suspended { "the program is suspended" } else { "the program runs on" };
    format!("{}@{} committed; {what}\n{}", made.name, made.generation, times(None, &made.phases))
}

/// How long it stood still, and how long each phase took.
pub(super) fn times(frozen_milliseconds: Option<f64>, phases: &[Took]) -> String {
    let frozen = frozen_milliseconds.iter().map(|frozen| format!("  frozen   {frozen:>9.1} ms\n"));
    let phases =
        phases.iter().map(|Took { phase, milliseconds }| format!("  {phase:<8} {milliseconds:>9.1} ms\n"));
    frozen.chain(phases).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_words() {
        let done = Outcome::Done {
            name: "web/app".into(),
            generation: 4,
            suspended: true,
            phases: vec![("check".into(), 1.25), ("capture".into(), 1034.5)],
        };
        let text = told(&made(done).unwrap());
        let expected = "web/app@4 committed; the program is suspended\n  check          1.2 ms\n  capture     1034.5 ms\n";
        assert_eq!(text, expected);

        let failed = Outcome::Failed { message: "the disk is full".into(), remedy: Some("make room".into()) };
        let failure = made(failed).map(|_| ()).unwrap_err();
        assert_eq!(failure.message, "there is no checkpoint: the disk is full");
        assert_eq!(failure.remedy.as_deref(), Some("make room"));
        let refused = made(Outcome::refused("the program has ended")).map(|_| ()).unwrap_err();
        assert_eq!(refused.message, "torpor refuses: the program has ended");
    }
}
