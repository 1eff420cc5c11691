//! `torpor doctor`: what this machine can do.

use std::path::PathBuf;

use torpor_node::doctor::{Directory, Findings, NodeFindings, Report, Row, Status, StoreFinding, Topic};
use torpor_node::install::{self, Site};
use torpor_store::OpenError;

use super::{Exit, failure, output, store};

/// Tell what this machine can do, and what to do where it cannot
///
/// Every row that is not well has a remedy below it. Ends with 0 if nothing that every checkpoint and restore needs is
/// missing, with 1 if something is; warnings do not count.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show every feature of CRIU, also those that are as they should be.
    #[arg(long)]
    all: bool,
    /// The CRIU to try: an executable, or the directory of a private one.
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Look at the machine as a node, too: what `torpor install-node` puts there, and the switches of its engines and kubelet.
    #[arg(long)]
    node: bool,
    /// Where `torpor install-node` has put everything.
    #[arg(long, value_name = "DIR", default_value = install::PREFIX, requires = "node")]
    prefix: PathBuf,
    /// Where the node's root directory is, when this runs in a container.
    #[arg(long, value_name = "DIR", default_value = "/", requires = "node")]
    machine: PathBuf,
    #[command(flatten)]
    store: store::Args,
    #[command(flatten)]
    output: output::Args,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut directories = vec![Directory::examine("temporary", &std::env::temp_dir())];
    if let Ok(directory) = store::directory(&args.store.store) {
        directories.insert(0, Directory::examine("store", &directory));
    }
    let findings = Findings::examine(args.criu.as_deref(), directories, Some(open(&args.store)));
    let report = match args.node {
        false => Report::of(&findings),
        true => {
            let site = Site { machine: args.machine.clone(), prefix: args.prefix.clone() };
            Report::of_node(&findings, &NodeFindings::examine(&site))
        }
    };
    args.output.print(&report, |report| text(report, args.all))?;
    Ok(if report.fit { Exit::Success } else { Exit::Failure })
}

fn open(args: &store::Args) -> StoreFinding {
    let opened = match args.open() {
        Ok(_) => Ok("opens".to_owned()),
        Err(error) if matches!(error.downcast_ref(), Some(OpenError::NoStore { .. })) => absent(&args.store),
        Err(error) => {
            let remedy = failure::remedy(&error).unwrap_or_else(|| "see docs/store.md".to_owned());
            Err((failure::sentence(&error), remedy))
        }
    };
    StoreFinding { url: args.store.clone(), opened }
}

/// A store that is not there is fine where the first checkpoint can make it.
fn absent(url: &str) -> Result<String, (String, String)> {
    let above = store::directory(url).map(|path| Directory::examine("store", &path));
    match above {
        Ok(above) if above.writable && above.path.is_dir() => {
            Ok("not there yet; the first checkpoint makes it".to_owned())
        }
        Ok(above) => Err((
            format!("not there, and cannot be made in {}", above.path.display()),
            "run as a user who may write there, or choose another place with --store".to_owned(),
        )),
        Err(failure) => Err((failure.to_string(), "choose another place with --store".to_owned())),
    }
}

fn text(report: &Report, all: bool) -> String {
    let mut text = String::new();
    let mut topic = None;
    let width = report.rows.iter().filter(|row| shown(row, all)).map(|row| row.title.chars().count()).max();
    let width = width.unwrap_or(0);
    for row in &report.rows {
        if topic != Some(row.topic) {
            topic = Some(row.topic);
            text += &heading(report, row.topic);
        }
        if !shown(row, all) {
            continue;
        }
        let mut first = true;
        let remedy = row.remedy.iter().flat_map(|remedy| fold(&format!("-> {remedy}")));
        for line in fold(&row.found).into_iter().chain(remedy) {
            let (status, title) =
                if first { (row.status.to_string(), row.title.as_str()) } else { Default::default() };
            text += &format!("  {status:4}  {title:width$}  {line}\n");
            first = false;
        }
    }
    text + &verdict(report)
}

/// Breaks a text into lines that stand in the last column.
fn fold(text: &str) -> Vec<String> {
    const WIDTH: usize = 76;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("   {word}")),
        }
    }
    lines
}

/// Dozens of features that are as they should be would hide the one that is not.
fn shown(row: &Row, all: bool) -> bool {
    all || row.topic != Topic::Feature || row.status > Status::Skip || row.id == "feature"
}

fn heading(report: &Report, topic: Topic) -> String {
    let rows = || report.rows.iter().filter(|row| row.topic == topic);
    let count = match topic {
        Topic::Feature if rows().count() > 1 => {
            let well = rows().filter(|row| row.status == Status::Ok).count();
            format!(": {well} of {}", rows().count())
        }
        _ => String::new(),
    };
    format!("{}{count}\n", topic.title())
}

fn verdict(report: &Report) -> String {
    let count = |status| report.rows.iter().filter(|row| row.status == status).count();
    let warnings = match count(Status::Warn) {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        many => format!(", with {many} warnings"),
    };
    match count(Status::Fail) {
        0 => format!("\nTorpor works here{warnings}.\n"),
        1 => format!("\nTorpor does not work here: 1 thing it needs is missing{warnings}.\n"),
        many => format!("\nTorpor does not work here: {many} things it needs are missing{warnings}.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(topic: Topic, title: &str, status: Status, remedy: Option<&str>) -> Row {
        Row {
            id: title.to_owned(),
            topic,
            title: title.to_owned(),
            status,
            found: "found".to_owned(),
            remedy: remedy.map(str::to_owned),
        }
    }

    #[test]
    fn features_that_are_well_are_counted_not_listed() {
        let report = Report {
            fit: true,
            rows: vec![
                row(Topic::Machine, "kernel", Status::Ok, None),
                row(Topic::Feature, "uffd", Status::Ok, None),
                row(Topic::Feature, "timens", Status::Warn, Some("get one")),
            ],
        };
        let expected = "machine\n  ok    kernel  found\nfeatures CRIU finds: 1 of 2\n  warn  timens  found\n                -> get one\n\nTorpor works here, with 1 warning.\n";
        assert_eq!(text(&report, false), expected);
        assert!(text(&report, true).contains("uffd"));
    }

    #[test]
    fn long_texts_are_folded_below_themselves() {
        let folded = fold(&"word ".repeat(30));
        assert_eq!(folded.len(), 3);
        assert!(folded[1].starts_with("   word") && folded.iter().all(|line| line.len() <= 80));
    }

    #[test]
    fn the_verdict_counts_what_is_missing() {
        let report =
            Report { fit: false, rows: vec![row(Topic::Criu, "CRIU", Status::Fail, Some("install it"))] };
        assert!(verdict(&report).contains("1 thing it needs is missing"));
    }
}
