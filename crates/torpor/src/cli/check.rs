//! `torpor check`: whether checkpoints are whole, and would restore here; whether what runs can be checkpointed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_archive::check::{self, Answer, Finding, Site};

use super::{Exit, failure, output, place};

mod site;
mod target;

use target::CheckedTarget;

use super::target::Target;

/// Check whether checkpoints are whole and would restore here, or whether what runs can be checkpointed
///
/// Ends with 0 if nothing is in the way, with 4 if something is damaged or missing, and with 1 if all is whole but would not restore
/// on this machine, or if something that runs cannot be checkpointed. What cannot be known does not count. Nothing is frozen, and
/// nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An archive of an engine, a directory of images, `-` for standard input, or NAME or NAME@NUMBER of the store; or what runs on
    /// this machine: pid:N, container:ID-OR-NAME or pod:NAMESPACE/POD[/CONTAINER].
    #[arg(required = true, value_name = "SOURCE|TARGET")]
    sources: Vec<String>,
    /// Ask only whether they are whole, not whether they would restore here.
    #[arg(long)]
    whole: bool,
    /// The CRIU that would restore them, or make the checkpoint, rather than the one Torpor finds.
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
    #[command(flatten)]
    target: target::Args,
    #[command(flatten)]
    place: place::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
struct Checked {
    checkpoints: Vec<CheckedSource>,
    /// What runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<CheckedTarget>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedSource {
    source: String,
    /// Whether it is whole.
    whole: Answer,
    /// Whether it would restore on this machine, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    restorable: Option<Answer>,
    /// Why it cannot be opened, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    findings: Vec<Finding>,
    /// What was found out about this machine.
    here: Vec<Finding>,
}

impl CheckedSource {
    fn refused(source: String, error: &anyhow::Error) -> CheckedSource {
        CheckedSource {
            source,
            whole: Answer::No,
            restorable: None,
            error: Some(failure::sentence(error)),
            remedy: failure::remedy(error),
            findings: Vec::new(),
            here: Vec::new(),
        }
    }

    fn of(checkpoint: &Checkpoint, site: Option<&Site>) -> CheckedSource {
        let findings = check::whole(checkpoint);
        let here = site.map_or_else(Vec::new, |site| check::here(checkpoint, site, Path::exists));
        CheckedSource {
            source: checkpoint.source().name().to_owned(),
            whole: verdict(&findings),
            restorable: site.map(|_| verdict(&here)),
            error: None,
            remedy: None,
            findings,
            here,
        }
    }

    fn exit(&self) -> Exit {
        match (self.whole, self.restorable) {
            (Answer::No, _) => Exit::Damaged,
            (_, Some(Answer::No)) => Exit::Failure,
            _ => Exit::Success,
        }
    }
}

/// No where something is in the way, unknown where something that matters cannot be known, or else yes.
fn verdict(findings: &[Finding]) -> Answer {
    let has = |answer| findings.iter().any(|finding| finding.answer == answer);
    if has(Answer::No) {
        Answer::No
    } else if has(Answer::Unknown) {
        Answer::Unknown
    } else {
        Answer::Yes
    }
}

/// Checks them.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut site = None;
    let mut exit = Exit::Success;
    let mut checked = Checked { checkpoints: Vec::new(), targets: Vec::new() };
    for source in &args.sources {
        if let Some(target) = Target::parse(source)? {
            for one in args.target.look(source, &target, args.criu.as_deref())? {
                exit = worse(exit, one.exit());
                checked.targets.push(one);
            }
            continue;
        }
        if !args.whole && site.is_none() {
            site = Some(site::read(args.criu.as_deref()));
        }
        match args.place.checkpoints(source) {
            Ok(checkpoints) => {
                for checkpoint in &checkpoints {
                    let one = CheckedSource::of(checkpoint, site.as_ref());
                    exit = worse(exit, one.exit());
                    checked.checkpoints.push(one);
                }
            }
            // Alone it is told like any failure.
            Err(error) if args.sources.len() == 1 => return Err(error),
            Err(error) => {
                exit = worse(exit, failure::exit(&error));
                checked.checkpoints.push(CheckedSource::refused(source.clone(), &error));
            }
        }
    }
    args.output.print(&checked, text)?;
    Ok(exit)
}

/// Damage is worse than a machine that does not fit; else the first failure decides.
fn worse(so_far: Exit, next: Exit) -> Exit {
    match (so_far, next) {
        (Exit::Success, next) | (Exit::Failure, next @ Exit::Damaged) => next,
        _ => so_far,
    }
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
        if source.restorable.is_some() {
            text.push_str("would it restore here?\n");
            text.push_str(&findings_table(&source.here));
        }
    }
    for target in &checked.targets {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&target.heading());
        text.push('\n');
        text.push_str(&findings_table(&target.findings));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_decides_and_what_is_not_known_does_not() {
        let yes = || Finding::yes("a", "a?", "so");
        let no = || Finding::no("b", "b?", "not so", "mend it");
        let unknown = || Finding::unknown("c", "c?", "who knows");
        assert_eq!(verdict(&[yes(), yes()]), Answer::Yes);
        assert_eq!(verdict(&[yes(), unknown()]), Answer::Unknown);
        assert_eq!(verdict(&[unknown(), no()]), Answer::No);
        assert_eq!(worse(Exit::Failure, Exit::Damaged), Exit::Damaged);
        assert_eq!(worse(Exit::Damaged, Exit::Failure), Exit::Damaged);
        assert_eq!(worse(Exit::NotFound, Exit::Damaged), Exit::NotFound);
    }
}
