//! Results: a table for people, JSON or YAML for programs.

use std::borrow::Cow;
use std::io::Write;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::tree::Node;

/// The version of every JSON and YAML document. Fields are added without raising it; it is raised where one changes
/// its meaning or goes away.
const VERSION: u32 = 1;

/// The flag of every command that shows something.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// How results are written.
    #[arg(long, short, value_name = "FORMAT", default_value = "table", help_heading = None)]
    output: Format,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A document as programs read it.
#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

impl Args {
    /// Writes a result to standard output: `body` for programs, or what `text` makes of it for people.
    pub(crate) fn print<T: Serialize>(self, body: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let written = match self.output {
            Format::Table => text(body),
            Format::Json => json(body)?,
            Format::Yaml => yaml(body)?,
        };
        write(written)
    }
}

/// The flag of commands that can draw trees.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct TreeArgs {
    /// How results are written.
    #[arg(long, short, value_name = "FORMAT", default_value = "table", help_heading = None)]
    output: TreeFormat,
}

/// How results are written that can be drawn as trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TreeFormat {
    /// For people: tables.
    Table,
    /// For people: trees.
    Tree,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl TreeArgs {
    /// Writes a result to standard output: `body` for programs, or what `table` or `trees` make of it for people.
    pub(crate) fn print<T: Serialize>(
        self,
        body: &T,
        table: impl FnOnce(&T) -> String,
        trees: impl FnOnce(&T) -> Vec<Node>,
    ) -> anyhow::Result<()> {
        let written = match self.output {
            TreeFormat::Table => table(body),
            TreeFormat::Tree => trees(body).iter().map(Node::lines).collect(),
            TreeFormat::Json => json(body)?,
            TreeFormat::Yaml => yaml(body)?,
        };
        write(written)
    }
}

/// A document as JSON.
pub(crate) fn json<T: Serialize>(body: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&Document { version: VERSION, body })?)
}

fn yaml<T: Serialize>(body: &T) -> anyhow::Result<String> {
    // A text in a folded block may lose a blank at its end.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_with_options(&Document { version: VERSION, body }, options)?)
}

/// Writes a result, of which the last line is to be whole.
fn write(mut written: String) -> anyhow::Result<()> {
    if !written.is_empty() && !written.ends_with('\n') {
        written.push('\n');
    }
    put(written.as_bytes())
}

/// Writes to standard output. That nobody reads any more is no failure: whoever closed it has seen enough.
pub(super) fn put(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Text from a checkpoint as a terminal may have it: what would move the cursor, change colours or turn the direction of
/// writing is shown as an escape.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if harmful(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// A table of these columns; those whose name begins with `>` are aligned to the right.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.trim_start_matches('>')));
    for (index, column) in columns.iter().enumerate() {
        if let Some(made) = table.column_mut(index) {
            made.set_padding((0, 2));
            if column.starts_with('>') {
                made.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// A table as text, without the blanks that end its lines.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Bytes for people, such as `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A moment for people, to the second.
pub(crate) fn moment(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A count with its noun, such as `1 pack` or `2 packs`.
pub(crate) fn count(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_one_place() {
        for (value, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn a_document_begins_with_its_version() {
        #[derive(Serialize)]
        struct Body {
            names: [u8; 0],
        }
        let document = Document { version: VERSION, body: &Body { names: [] } };
        assert_eq!(serde_json::to_string(&document).unwrap(), r#"{"version":1,"names":[]}"#);
    }

    #[test]
    fn text_cannot_steer_a_terminal() {
        assert_eq!(plain("a\tb"), "a\\tb");
        assert_eq!(plain("\u{1b}]0;x\u{7}\u{202e}é"), "\\u{1b}]0;x\\u{7}\\u{202e}é");
    }

    #[test]
    fn numbers_stand_on_the_right() {
        let mut made = table(&["NAME", ">SIZE"]);
        made.add_row(["a", "1 B"]);
        made.add_row(["bcd", "100 B"]);
        assert_eq!(lines(&made), "NAME   SIZE\na       1 B\nbcd   100 B\n");
    }
}
