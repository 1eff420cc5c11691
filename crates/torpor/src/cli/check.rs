//! `torpor check`: whether checkpoints are whole.

use std::fmt::Write;

use serde::Serialize;
use torpor_archive::check::{self, Answer, Finding};

use super::{Exit, failure, output, place};

/// Check whether checkpoints are whole, and would restore here
///
/// Ends with 0 if nothing is wrong, and with 4 if something is damaged or missing. What cannot be known does not count.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An archive of an engine, a directory of images, `-` for standard input, or NAME[@GENERATION] of the store.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    #[command(flatten)]
    place: place::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
struct Checked {
    checkpoints: Vec<CheckedSource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedSource {
    source: String,
    whole: Answer,
    /// Why it cannot be opened, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    findings: Vec<Finding>,
}

/// Checks them.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut exit = Exit::Success;
    let mut checked = Checked { checkpoints: Vec::new() };
    for source in &args.sources {
        let checkpoint = match args.place.checkpoint(source) {
            Ok(checkpoint) => checkpoint,
            // Alone it is told like any failure.
            Err(error) if args.sources.len() == 1 => return Err(error),
            Err(error) => {
                exit = worse(exit, failure::exit(&error));
                checked.checkpoints.push(CheckedSource {
                    source: source.clone(),
                    whole: Answer::No,
                    error: Some(failure::sentence(&error)),
                    remedy: failure::remedy(&error),
                    findings: Vec::new(),
                });
                continue;
            }
        };
        let findings = check::whole(&checkpoint);
        let whole = if findings.iter().any(|finding| finding.answer == Answer::No) {
            exit = worse(exit, Exit::Damaged);
            Answer::No
        } else {
            Answer::Yes
        };
        checked.checkpoints.push(CheckedSource {
            source: source.clone(),
            whole,
            error: None,
            remedy: None,
            findings,
        });
    }
    args.output.print(&checked, text)?;
    Ok(exit)
}

/// The first failure decides.
fn worse(so_far: Exit, next: Exit) -> Exit {
    if so_far == Exit::Success { next } else { so_far }
}

fn text(checked: &Checked) -> String {
    let mut text = String::new();
    for (number, source) in checked.checkpoints.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", source.source);
        if let Some(error) = &source.error {
            let _ = writeln!(text, "  cannot be read: {error}");
        }
        if let Some(remedy) = &source.remedy {
            let _ = writeln!(text, "  help: {remedy}");
        }
        text.push_str(&findings_table(&source.findings));
    }
    text
}

fn findings_table(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut table = output::table(&["  ANSWER", "QUESTION", "REASON"]);
    for finding in findings {
        let answer = match finding.answer {
            Answer::Yes => "  yes",
            Answer::No => "  NO",
            Answer::Unknown => "  unknown",
        };
        table.add_row([answer, finding.question, &finding.reason]);
    }
    let mut text = output::lines(&table);
    for finding in findings.iter().filter(|finding| finding.answer == Answer::No) {
        for fault in finding.faults.iter().skip(1) {
            let at = fault.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
            let _ = writeln!(text, "  {}{at}: {}", fault.entry, fault.problem);
        }
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "  help: {remedy}");
        }
    }
    text
}
