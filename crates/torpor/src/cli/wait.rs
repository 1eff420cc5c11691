//! `torpor wait`: return once a program runs and no checkpoint or restore of it is under way.

use torpor_node::control::{Client, Outcome, Request};

use super::failure::Failure;
use super::{Exit, control};

/// Wait until a program is started or restored, and no checkpoint of it is under way
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    wrapper: control::Args,
}

/// Waits.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let deadline = args.wrapper.deadline();
    let mut client = Client::connect_until(&args.wrapper.socket_until(deadline)?, deadline)?;
    match client.ask(&Request::Wait, deadline, |_| {})? {
        Outcome::Ready => Ok(Exit::Success),
        Outcome::Failed { message, remedy } => Err(Failure { message, remedy, exit: Exit::Failure }.into()),
        Outcome::Refused { message } => Err(Failure { message, remedy: None, exit: Exit::Failure }.into()),
        Outcome::Done { .. } | Outcome::Status { .. } => {
            let message = "torpor answered something else than was asked".to_owned();
            Err(Failure { message, remedy: None, exit: Exit::Failure }.into())
        }
    }
}
