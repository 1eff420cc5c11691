//! What the container, the engine and CRIU wrote.

use serde::Serialize;

use super::images::Images;
use super::strings;
use crate::engine;
use crate::source::{Entry, EntryKind};

/// Most bytes that are shown of a log: its end.
const MOST: u64 = 64 << 10;

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The entry.
    pub entry: String,
    /// All of its bytes.
    pub size: u64,
    /// Its last lines, at most 64 KiB of them.
    pub lines: Vec<String>,
}

/// The container's log, if the engine kept it, and CRIU's.
pub(super) fn logs(images: &Images<'_>) -> Vec<Log> {
    let checkpoint = images.checkpoint();
    let prefix = checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str());
    let beside = format!("{prefix}dump.log");
    let criu = [beside.as_str(), "dump.log"].into_iter().find_map(|name| checkpoint.entry(name));
    let found = engine::log(checkpoint).into_iter().chain(criu);
    found.filter(|entry| entry.kind == EntryKind::File).filter_map(|entry| log(images, entry)).collect()
}

fn log(images: &Images<'_>, entry: &Entry) -> Option<Log> {
    let length = entry.size.min(MOST);
    let mut end = vec![0; length as usize];
    let read = images.checkpoint().source().read_at(entry, entry.size - length, &mut end);
    read.map_err(|error| images.note(&entry.name, &error)).ok()?;
    Some(Log { entry: entry.name.clone(), size: entry.size, lines: lines(&end, entry.size > length) })
}

/// The lines of a text, without the first where that is cut.
fn lines(text: &[u8], cut: bool) -> Vec<String> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n').skip(usize::from(cut));
    lines.map(|line| strings::text(line.strip_suffix(b"\r").unwrap_or(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_is_left_out() {
        assert_eq!(lines(b"a\r\n\nb\n", false), ["a", "", "b"]);
        assert_eq!(lines(b"rest\nb", true), ["b"]);
    }
}
