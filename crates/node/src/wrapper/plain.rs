//! A program for which nothing is kept: it is run, signals are passed on, and its exit code is ours.

use std::sync::mpsc::Receiver;

use super::WrapperError;
use super::event_loop::Message;
use super::program;
use super::signals::{Meaning, meaning};
use crate::children::Children;
use crate::config::RunConfig;
use crate::streams::Streams;
use crate::sys::process;

pub(super) fn run(config: &RunConfig, inbox: &Receiver<Message>) -> Result<i32, WrapperError> {
    let mut streams = Streams::of_torpor()?;
    let launched = program::launch(config, &streams, Vec::new())?.start()?;
    streams.release().map_err(WrapperError::Wait)?;
    let children = Children::default();
    for message in inbox {
        let Message::Signal(signal) = message else { continue };
        match meaning(signal, 0) {
            Meaning::Child => {
                if let Some(ended) = children.reap(Some(launched.pid)).map_err(WrapperError::Wait)? {
                    streams.drain();
                    return Ok(ended.exit_code());
                }
            }
            Meaning::Resized => streams.resize(),
            Meaning::Trigger | Meaning::PassOn => {
                let _ = process::kill(launched.pid, signal);
            }
            Meaning::Nothing => {}
        }
    }
    Ok(0)
}
