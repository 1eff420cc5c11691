//! `torpor ls`: the names in a store, the generations of one, or the archives in directories.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use torpor_node::container::holds_briefly;
use torpor_store::lineage::{Generation, Lineage, LineageError, Progress, Record, State};
use torpor_store::name::NameError;
use torpor_store::{GenerationKind, Name};

use super::failure::Failure;
use super::{Exit, import, output, store};

mod archives;

/// List the names in a store, the generations of a name, or the archives in directories
///
/// Without a name or a directory, and where there is no store, the kubelet's directory is listed if there is one:
/// /var/lib/kubelet/checkpoints.
/// Ends with 4 if an archive cannot be read; it is listed with the reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name, to list its generations, its slots, and the names below it; or directories and archives.
    #[arg(value_name = "NAME|DIR")]
    what: Vec<String>,
    #[command(flatten)]
    store: store::Args,
    #[command(flatten)]
    output: output::Args,
}

/// The names in a store.
#[derive(Serialize)]
struct Names {
    names: Vec<NameRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NameRow {
    name: Name,
    epoch: u64,
    progress: Progress,
    /// Who holds the name, while the lease lasts.
    holder: Option<String>,
    /// How it is that nobody holds the name, where its last holder left no end.
    #[serde(skip)]
    parting: Parting,
    generations: usize,
    newest: Option<GenerationRow>,
    stored_bytes: u64,
}

/// The generations of names.
#[derive(Serialize)]
struct Generations {
    generations: Vec<GenerationRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationRow {
    name: Name,
    number: u64,
    kind: GenerationKind,
    created: Timestamp,
    epoch: u64,
    state: State,
    pinned: bool,
    logical_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    note: Option<String>,
}

impl GenerationRow {
    fn new(name: &Name, generation: &Generation) -> GenerationRow {
        GenerationRow {
            name: name.clone(),
            number: generation.number,
            kind: generation.kind,
            created: generation.created,
            epoch: generation.epoch,
            state: generation.state.clone(),
            pinned: generation.pinned,
            logical_bytes: generation.sizes.logical,
            new_bytes: generation.sizes.new,
            stored_bytes: generation.sizes.stored,
            note: generation.note.clone(),
        }
    }
}

/// Lists them.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let name = match wanted(&args.what, Path::exists)? {
        Wanted::Archives(paths) => return archives::list(&paths, args.output),
        Wanted::Name(name) => Some(name),
        Wanted::Store if args.store.is_absent() && Path::new(archives::KUBELET).is_dir() => {
            return archives::list(&[PathBuf::from(archives::KUBELET)], args.output);
        }
        Wanted::Store => None,
    };
    let repository = args.store.open()?;
    let records = Lineage::all(&repository)?;
    match &name {
        None => {
            let now = Lineage::now(&repository)?;
            let names =
                records.iter().filter(|record| !record.is_forgotten()).map(|record| name_row(record, now));
            args.output.print(&Names { names: names.collect() }, names_table)?;
        }
        Some(pattern) => {
            let matching: Vec<_> = records
                .iter()
                .filter(|record| record.name.is_within(pattern) && !record.is_forgotten())
                .collect();
            if matching.is_empty() {
                return Err(LineageError::NoSuchName { name: pattern.clone() }.into());
            }
            let generations = matching.iter().flat_map(|record| {
                record.generations.iter().map(|generation| GenerationRow::new(&record.name, generation))
            });
            args.output.print(&Generations { generations: generations.collect() }, generations_table)?;
        }
    }
    Ok(Exit::Success)
}

/// What is to be listed.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Store,
    Name(Name),
    Archives(Vec<PathBuf>),
}

/// What the arguments mean. What exists as a path is one, and so is what looks like a path.
fn wanted(what: &[String], exists: impl Fn(&Path) -> bool) -> Result<Wanted, anyhow::Error> {
    let is_path = |text: &String| exists(Path::new(text)) || text.starts_with(['/', '.']);
    match what {
        [] => Ok(Wanted::Store),
        paths if paths.iter().all(is_path) => Ok(Wanted::Archives(paths.iter().map(PathBuf::from).collect())),
        [name] => name
            .parse()
            .map(Wanted::Name)
            .map_err(|error: NameError| Failure::new(Exit::Usage, error.to_string(), error.remedy()).into()),
        _ => {
            let message = "several things were given, and not all are directories or archives";
            Err(Failure::new(Exit::Usage, message, "give one name, or directories and archives").into())
        }
    }
}

fn name_row(record: &Record, now: Timestamp) -> NameRow {
    let sum = |size: fn(&Generation) -> u64| record.generations.iter().map(size).sum();
    NameRow {
        name: record.name.clone(),
        epoch: record.epoch,
        progress: record.progress.clone(),
        holder: record.live_holder(now).map(|holder| {
            let place = holder.pod.as_ref().unwrap_or(&holder.host);
            format!("{place} (process {})", holder.pid)
        }),
        parting: Parting::of(record),
        generations: record.generations.len(),
        newest: record.generations.last().map(|generation| GenerationRow::new(&record.name, generation)),
        stored_bytes: sum(|generation| generation.sizes.stored),
    }
}

fn names_table(names: &Names) -> String {
    if names.names.is_empty() {
        return "the store has no checkpoints yet\n".to_owned();
    }
    let mut table =
        output::table(&["NAME", ">GENERATIONS", "NEWEST", ">SIZE", ">STORED", "PROGRAM", "HELD BY"]);
    for row in &names.names {
        table.add_row([
            row.name.to_string(),
            row.generations.to_string(),
            row.newest.as_ref().map_or_else(String::new, |newest| output::moment(newest.created)),
            row.newest.as_ref().map_or_else(String::new, |newest| output::bytes(newest.logical_bytes)),
            output::bytes(row.stored_bytes),
            progress(&row.progress, row.holder.is_some(), row.parting),
            row.holder.clone().unwrap_or_default(),
        ]);
    }
    output::lines(&table)
}

fn generations_table(rows: &Generations) -> String {
    if rows.generations.is_empty() {
        return "the name has no checkpoints\n".to_owned();
    }
    let mut table =
        output::table(&["GENERATION", "KIND", "CREATED", ">EPOCH", ">SIZE", ">NEW", ">STORED", "STATE"]);
    for row in &rows.generations {
        let pinned = if row.pinned { ", pinned" } else { "" };
        table.add_row([
            format!("{}@{}", row.name, row.number),
            row.kind.to_string(),
            output::moment(row.created),
            row.epoch.to_string(),
            output::bytes(row.logical_bytes),
            output::bytes(row.new_bytes),
            output::bytes(row.stored_bytes),
            state(&row.state) + pinned,
        ]);
    }
    output::lines(&table)
}

/// Why somebody holds a name no more who did not say what became of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// It held the name for a checkpoint or a restore alone, and let the program run on.
    LeftRunning,
    /// It had a checkpoint of somebody else's, and no program.
    Imported,
    /// It watched the program, and is gone.
    Lost,
}

impl Parting {
    /// That of a record's last holder.
    pub(super) fn of(record: &Record) -> Parting {
        match &record.holder {
            Some(holder) if holds_briefly(holder) => Parting::LeftRunning,
            Some(holder) if import::was_by(holder) => Parting::Imported,
            _ => Parting::Lost,
        }
    }
}

/// What became of a program, in a few words.
pub(super) fn progress(progress: &Progress, held: bool, parting: Parting) -> String {
    match progress {
        Progress::New => "never ran".to_owned(),
        Progress::Running { .. } if held => "running".to_owned(),
        Progress::Running { epoch, .. } => match parting {
            Parting::LeftRunning => format!("left running in epoch {epoch}"),
            Parting::Imported => "imported".to_owned(),
            Parting::Lost => format!("lost in epoch {epoch}"),
        },
        Progress::Suspended { generation, .. } => format!("suspended in generation {generation}"),
        Progress::Ended { code, .. } => format!("ended with code {code}"),
        Progress::Crashed { signal: Some(signal), .. } => format!("crashed by signal {signal}"),
        _ => "crashed".to_owned(),
    }
}

/// What became of a generation, in a few words.
pub(super) fn state(state: &State) -> String {
    match state {
        State::Committed => "committed".to_owned(),
        State::Resumed { epoch } => format!("resumed in epoch {epoch}"),
        State::Failed { reason } => format!("failed: {}", reason.lines().next().unwrap_or_default()),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_name() {
        let exists = |path: &Path| path == Path::new("web");
        let wanted =
            |what: &[&str]| wanted(&what.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), exists);
        let paths = |paths: &[&str]| Wanted::Archives(paths.iter().map(PathBuf::from).collect());
        assert_eq!(wanted(&[]).unwrap(), Wanted::Store);
        assert_eq!(wanted(&["web"]).unwrap(), paths(&["web"]));
        assert_eq!(wanted(&["/not/there", "web"]).unwrap(), paths(&["/not/there", "web"]));
        assert_eq!(wanted(&["shop/web"]).unwrap(), Wanted::Name("shop/web".parse().unwrap()));
        assert!(wanted(&["shop/web", "web"]).is_err());
        assert!(wanted(&["no name"]).is_err());
    }
}
