//! Results: a table for people, JSON or YAML for programs.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

/// The version of every JSON and YAML document. Fields are added without raising it; it is raised where one changes
/// its meaning or goes away.
const VERSION: u32 = 1;

/// The flag of every command that shows something.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// How results are written.
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
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
        let document = Document { version: VERSION, body };
        let mut written = match self.output {
            Format::Table => text(body),
            Format::Json => serde_json::to_string_pretty(&document)?,
            Format::Yaml => serde_saphyr::to_string(&document)?,
        };
        if !written.is_empty() && !written.ends_with('\n') {
            written.push('\n');
        }
        match std::io::stdout().lock().write_all(written.as_bytes()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
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
    fn numbers_stand_on_the_right() {
        let mut made = table(&["NAME", ">SIZE"]);
        made.add_row(["a", "1 B"]);
        made.add_row(["bcd", "100 B"]);
        assert_eq!(lines(&made), "NAME   SIZE\na       1 B\nbcd   100 B\n");
    }
}
