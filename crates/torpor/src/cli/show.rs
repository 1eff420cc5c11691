//! `torpor show`: all that is kept about a name or a generation.

use std::fmt::Write;

use serde::Serialize;
use torpor_store::lineage::{Attempt, Generation, Lineage, LineageError, Outcome, Record};
use torpor_store::manifest::{Manifest, Phase};
use torpor_store::name::Reference;

use super::{Exit, ls, output, store};

/// Show all that is kept about a name or a generation
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME, or NAME@NUMBER for one generation.
    name: Reference,
    #[command(flatten)]
    store: store::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
struct ShownName {
    held: bool,
    record: Record,
}

#[derive(Serialize)]
struct ShownGeneration {
    reference: String,
    generation: Generation,
    manifest: ShownManifest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownManifest {
    parent: Option<u64>,
    phases: Vec<Phase>,
    images: Vec<String>,
    memory: Vec<ShownMemory>,
    files: u64,
    /// What the checkpoint was made of and on: the node's own document.
    facts: Option<serde_json::Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownMemory {
    memory: String,
    pages: u64,
    zero_pages: u64,
}

/// Shows it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let repository = args.store.open()?;
    let name = &args.name.name;
    let record = Lineage::new(&repository, name.clone())
        .record()?
        .filter(|record| !record.is_forgotten())
        .ok_or_else(|| LineageError::NoSuchName { name: name.clone() })?;
    let Some(number) = args.name.generation else {
        let held = record.live_holder(Lineage::now(&repository)?).is_some();
        args.output.print(&ShownName { held, record }, name_text)?;
        return Ok(Exit::Success);
    };
    let generation = record
        .generation(number)
        .cloned()
        .ok_or_else(|| LineageError::NoSuchGeneration { name: name.clone(), number })?;
    let manifest = shown_manifest(&repository.manifest(generation.manifest)?);
    let shown = ShownGeneration { reference: args.name.to_string(), generation, manifest };
    args.output.print(&shown, generation_text)?;
    Ok(Exit::Success)
}

fn shown_manifest(manifest: &Manifest) -> ShownManifest {
    let description = manifest.description();
    ShownManifest {
        parent: description.parent,
        phases: description.phases.clone(),
        images: manifest.images().iter().map(|image| image.name.clone()).collect(),
        memory: manifest
            .memory()
            .iter()
            .map(|object| ShownMemory {
                memory: object.id.to_string(),
                pages: object.pages,
                zero_pages: object.zero_pages,
            })
            .collect(),
        files: manifest.file_count(),
        facts: serde_json::from_slice(&description.facts).ok(),
    }
}

/// Two columns: what, and how it is.
struct Facts(Vec<(&'static str, String)>);

impl Facts {
    fn add(&mut self, what: &'static str, value: impl Into<String>) {
        self.0.push((what, value.into()));
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(what, _)| what.len()).max().unwrap_or(0) + 2;
        let mut text = String::new();
        for (what, value) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:width$}{value}", format!("{what}:"));
        }
        text
    }
}

fn name_text(shown: &ShownName) -> String {
    let record = &shown.record;
    let mut facts = Facts(Vec::new());
    facts.add("name", record.name.to_string());
    facts.add("program", ls::progress(&record.progress, shown.held, ls::Parting::of(record)));
    facts.add("epoch", record.epoch.to_string());
    if let Some(holder) = &record.holder {
        let pod = holder.pod.as_ref().map(|pod| format!(" in pod {pod}")).unwrap_or_default();
        let what = if shown.held { "held by" } else { "last held by" };
        facts.add(what, format!("process {} on {}{pod}", holder.pid, holder.host));
        facts.add("since", output::moment(holder.since));
        facts.add("lease until", output::moment(holder.lease_until));
    }
    facts.add("generations", record.generations.len().to_string());
    let mut table = output::table(&[">GENERATION", "KIND", "CREATED", ">SIZE", ">STORED", "STATE"]);
    for generation in &record.generations {
        table.add_row([
            generation.number.to_string(),
            generation.kind.to_string(),
            output::moment(generation.created),
            output::bytes(generation.sizes.logical),
            output::bytes(generation.sizes.stored),
            ls::state(&generation.state),
        ]);
    }
    let table =
        if record.generations.is_empty() { String::new() } else { "\n".to_owned() + &output::lines(&table) };
    facts.text() + &table
}

fn generation_text(shown: &ShownGeneration) -> String {
    let (generation, manifest) = (&shown.generation, &shown.manifest);
    let mut facts = Facts(Vec::new());
    facts.add("generation", shown.reference.clone());
    facts.add("kind", generation.kind.to_string());
    facts.add("state", ls::state(&generation.state) + if generation.pinned { ", pinned" } else { "" });
    facts.add("created", output::moment(generation.created));
    facts.add("epoch", generation.epoch.to_string());
    if let Some(parent) = manifest.parent {
        facts.add("follows", parent.to_string());
    }
    facts.add("manifest", generation.manifest.to_string());
    let sizes = generation.sizes;
    facts.add(
        "size",
        format!(
            "{} (memory {}, files {}, images {})",
            output::bytes(sizes.logical),
            output::bytes(sizes.memory),
            output::bytes(sizes.files),
            output::bytes(sizes.images)
        ),
    );
    facts.add("new", format!("{}, {} stored", output::bytes(sizes.new), output::bytes(sizes.stored)));
    for (what, value) in [
        ("command", &generation.program.command),
        ("executable", &generation.program.executable),
        ("image", &generation.program.image),
        ("note", &generation.note),
    ] {
        if let Some(value) = value {
            facts.add(what, value.clone());
        }
    }
    facts.add("files", manifest.files.to_string());
    facts.add("images", manifest.images.join(" "));
    for memory in &manifest.memory {
        facts.add("memory", format!("{}: {} pages, {} zero", memory.memory, memory.pages, memory.zero_pages));
    }
    for phase in &manifest.phases {
        facts.add("phase", format!("{} {:.1} ms", phase.name, phase.micros as f64 / 1000.0));
    }
    for attempt in &generation.attempts {
        facts.add("attempt", attempt_text(attempt));
    }
    facts.text()
}

fn attempt_text(attempt: &Attempt) -> String {
    let outcome = match &attempt.outcome {
        Outcome::Started => "never told how it went".to_owned(),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        Outcome::Restored { .. } => "restored".to_owned(),
        Outcome::Settled => "restored, and ran on".to_owned(),
        _ => "unknown".to_owned(),
    };
    format!("epoch {}, {}: {outcome}", attempt.epoch, output::moment(attempt.at))
}
