//! Searching memory.

use std::fmt::Write;

use anyhow::Context;
use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_archive::memory::{AddressSpaces, Filter, Match, Passing, Pattern, Search, row};

use super::super::failure;
use super::super::output::{bytes, count, lines, plain, table};
use super::super::tree::Node;
use super::Exit;

/// What is searched for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Search")]
#[group(skip)]
pub(super) struct Args {
    /// Search for text. This and the other searches can be given several times, and together.
    #[arg(long, value_name = "TEXT")]
    search: Vec<String>,
    /// Search for what a regular expression matches, up to 4096 bytes.
    #[arg(long, value_name = "EXPRESSION")]
    search_regex: Vec<String>,
    /// Search for bytes, in hexadecimal.
    #[arg(long, value_name = "BYTES")]
    search_hex: Vec<String>,
    /// Search for text in UTF-16, in both byte orders.
    #[arg(long, value_name = "TEXT")]
    search_utf16: Vec<String>,
    /// Show so many bytes before and after each match.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=4096))]
    context: u16,
    /// Show at most so many matches. All are counted.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: usize,
}

impl Args {
    /// Whether nothing is searched for.
    pub(super) fn is_empty(&self) -> bool {
        [&self.search, &self.search_regex, &self.search_hex, &self.search_utf16]
            .iter()
            .all(|patterns| patterns.is_empty())
    }

    /// What is searched for.
    pub(super) fn patterns(&self) -> anyhow::Result<Vec<Pattern>> {
        let mut patterns = Vec::new();
        for text in &self.search {
            patterns.push(Pattern::text(text)?);
        }
        for text in &self.search_regex {
            patterns.push(Pattern::regex(text)?);
        }
        for text in &self.search_hex {
            patterns.push(Pattern::hexadecimal(text)?);
        }
        for text in &self.search_utf16 {
            patterns.push(Pattern::utf16(text)?);
        }
        Ok(patterns)
    }
}

#[derive(Serialize)]
struct Shown {
    /// Whether contents of memory are in the report.
    secrets: bool,
    sources: Vec<ShownSource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSource {
    source: String,
    /// Bytes that were searched.
    searched: u64,
    patterns: Vec<ShownPattern>,
    matches: Vec<ShownMatch>,
    /// What could not be read. The rest was searched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Serialize)]
struct ShownPattern {
    pattern: String,
    /// Matches, shown or not. In shared memory each counts once.
    count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownMatch {
    /// The pattern, by its place.
    pattern: usize,
    pid: Option<u32>,
    name: Option<String>,
    address: u64,
    length: usize,
    kind: Option<&'static str>,
    protection: Option<String>,
    file: Option<String>,
    /// The shared memory it is in, by CRIU's number.
    shared: Option<u64>,
    #[serde(flatten)]
    content: Option<Content>,
}

/// Bytes of memory as text, where they are not shown as rows.
#[derive(Serialize)]
struct Content {
    before: String,
    #[serde(rename = "match")]
    bytes: String,
    after: String,
    #[serde(skip)]
    raw: Vec<u8>,
    /// Bytes before the match.
    #[serde(skip)]
    lead: usize,
}

/// Searches.
pub(super) fn run(args: &super::Args, filter: Filter, patterns: Vec<Pattern>) -> anyhow::Result<Exit> {
    let search = Search {
        patterns,
        pid: args.pid,
        filter,
        context: args.search.context.into(),
        limit: args.search.limit,
    };
    let mut shown = Shown { secrets: args.show_secrets, sources: Vec::new() };
    let mut failed = None;
    for source in &args.sources {
        match search_source(&search, args, source).with_context(|| format!("cannot search {source}")) {
            Ok(found) => shown.sources.push(found),
            Err(error) if args.sources.len() == 1 => return Err(error),
            Err(error) => {
                failure::report(&error);
                failed.get_or_insert(failure::exit(&error));
            }
        }
    }
    args.output.print(
        &shown,
        |shown| text(shown, args.search.context > 0),
        |shown| shown.sources.iter().map(tree).collect(),
    )?;
    if let Some(exit) = failed {
        return Ok(exit);
    }
    let damaged = shown.sources.iter().any(|source| !source.problems.is_empty());
    Ok(if damaged { Exit::Damaged } else { Exit::Success })
}

fn search_source(search: &Search, args: &super::Args, source: &str) -> anyhow::Result<ShownSource> {
    let mut passing = Passing::new(search);
    let checkpoint = Checkpoint::new(args.place.tapped(source, Some(&mut passing))?)?;
    let spaces = &AddressSpaces::new(&checkpoint)?;
    let found = passing.finish(spaces)?;
    let patterns = search.patterns.iter().zip(&found.counts);
    Ok(ShownSource {
        source: source.to_owned(),
        searched: found.searched,
        patterns: patterns
            .map(|(pattern, count)| ShownPattern { pattern: pattern.given().to_owned(), count: *count })
            .collect(),
        matches: found
            .matches
            .into_iter()
            .map(|found| shown_match(found, spaces, args.show_secrets))
            .collect(),
        problems: found.problems.into_iter().map(|problem| failure::sentence(&problem.into())).collect(),
    })
}

fn shown_match(found: Match, spaces: &AddressSpaces<'_>, secrets: bool) -> ShownMatch {
    let name = found.pid.and_then(|pid| spaces.process(pid).ok()).map(|process| process.name.clone());
    let path = found.mapping.and_then(|mapping| spaces.path(mapping.file?)).map(str::to_owned);
    let content = secrets.then(|| Content {
        before: found.before.escape_ascii().to_string(),
        bytes: found.bytes.escape_ascii().to_string(),
        after: found.after.escape_ascii().to_string(),
        lead: found.before.len(),
        raw: [found.before, found.bytes, found.after].concat(),
    });
    ShownMatch {
        pattern: found.pattern,
        pid: found.pid,
        name,
        address: found.address,
        length: found.length,
        kind: found.mapping.map(|mapping| mapping.kind.name()),
        protection: found.mapping.map(|mapping| mapping.protection.to_string()),
        file: path,
        shared: found.shared,
        content,
    }
}

fn text(shown: &Shown, context: bool) -> String {
    let mut text = String::new();
    let mut any = false;
    for source in &shown.sources {
        if shown.sources.len() > 1 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}:", plain(&source.source));
        }
        any |= !source.matches.is_empty();
        if shown.secrets && context {
            text += &source.matches.iter().map(|found| rows(source, found)).collect::<String>();
        } else if !source.matches.is_empty() {
            text += &match_table(source, shown.secrets);
        }
        let total: u64 = source.patterns.iter().map(|pattern| pattern.count).sum();
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let matches = if total == 1 { "1 match".to_owned() } else { format!("{total} matches") };
        let _ = writeln!(text, "{matches} in {}", bytes(source.searched));
        if source.patterns.len() > 1 {
            for pattern in &source.patterns {
                let _ = writeln!(text, "  {}: {}", plain(&pattern.pattern), pattern.count);
            }
        }
        if total > source.matches.len() {
            let _ = writeln!(text, "only the first {} are shown: --limit", source.matches.len());
        }
        for problem in &source.problems {
            let _ = writeln!(text, "not searched: {}", plain(problem));
        }
    }
    if any && !shown.secrets {
        text += "what is there is shown with --show-secrets\n";
    }
    text
}

fn match_table(source: &ShownSource, secrets: bool) -> String {
    let several = source.patterns.len() > 1;
    let mut columns = vec!["PID", "NAME", "ADDRESS", ">BYTES", "PROT", "KIND", "FILE"];
    columns.extend(several.then_some("PATTERN"));
    columns.extend(secrets.then_some("MATCH"));
    let mut made = table(&columns);
    for found in &source.matches {
        let mut row = vec![
            found.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            found.name.as_deref().map(plain).unwrap_or_default().into_owned(),
            format!("{:016x}", found.address),
            found.length.to_string(),
            found.protection.clone().unwrap_or_default(),
            found.kind.unwrap_or("not mapped").to_owned(),
            found.file.as_deref().map(plain).unwrap_or_default().into_owned(),
        ];
        row.extend(several.then(|| plain(&source.patterns[found.pattern].pattern).into_owned()));
        row.extend(found.content.as_ref().map(|content| content.bytes.clone()));
        made.add_row(row);
    }
    lines(&made)
}

/// A match with what is around it.
fn rows(source: &ShownSource, found: &ShownMatch) -> String {
    let Some(content) = &found.content else { return String::new() };
    let mut text = format!(
        "{} {}  {:016x}  {} {}{}  {}  {}\n",
        found.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        plain(found.name.as_deref().unwrap_or_default()),
        found.address,
        found.protection.as_deref().unwrap_or_default(),
        found.kind.unwrap_or("not mapped"),
        found.file.as_deref().map(|file| format!(" {}", plain(file))).unwrap_or_default(),
        plain(&source.patterns[found.pattern].pattern),
        count(found.length, "byte"),
    );
    let start = found.address - content.lead as u64;
    for (place, bytes) in content.raw.chunks(16).enumerate() {
        text += &row(start + place as u64 * 16, bytes);
    }
    text.push('\n');
    text
}

fn tree(source: &ShownSource) -> Node {
    let patterns = source.patterns.iter().enumerate().map(|(place, pattern)| {
        let found = source.matches.iter().filter(|found| found.pattern == place).map(|found| {
            let pid = found.pid.map_or("-".to_owned(), |pid| pid.to_string());
            let text =
                [&found.name, &found.protection, &found.file].map(|text| text.as_deref().unwrap_or_default());
            let content = found.content.as_ref().map(|content| content.bytes.as_str()).unwrap_or_default();
            let kind = found.kind.unwrap_or("not mapped");
            let [name, protection, file] = text;
            Node::new(format!("{pid} {name} {:016x} {protection} {kind} {file} {content}", found.address))
        });
        Node::new(format!("{}: {}", pattern.pattern, pattern.count)).with(found)
    });
    Node::new(&source.source).with(patterns)
}
