//! What differs between two checkpoints, as a page.

use std::path::Path;

use maud::{Markup, PreEscaped, html};
use torpor_archive::diff::{Diff, MappingDiff, MappingState, MemoryDiff};

use super::Page;
use super::memory_map::{Area, Layer, strip};
use super::page::visible;
use crate::cli::output;

/// A line, with how deep it is below a title.
pub(crate) type Line = (usize, String);

/// The states of pages, with what they mean.
const LEGEND: [(&str, &str); 4] =
    [("same", "the same"), ("changed", "changed"), ("new", "new"), ("gone", "gone")];

/// Writes a page about a difference, given its lines for people.
pub(crate) fn write(path: &Path, diff: &Diff, lines: &[Line]) -> anyhow::Result<()> {
    page(diff, lines)?.write(path)
}

fn page(diff: &Diff, lines: &[Line]) -> anyhow::Result<Page> {
    let lead = format!("{} → {}", diff.before, diff.after);
    let mut page = Page::new("What differs between two checkpoints", lead, diff.secrets, diff)?;
    let drawn: Vec<_> = diff
        .processes
        .iter()
        .filter_map(|process| {
            let identity = process.after.as_ref().or(process.before.as_ref())?;
            let memory = process.memory.as_ref().filter(|memory| !memory.mappings.is_empty())?;
            Some((format!("{} {}", identity.pid, visible(&identity.name)), memory))
        })
        .collect();
    let starts: Vec<_> = (0..lines.len()).filter(|at| lines[*at].0 == 0).collect();
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(lines.len());
        page.section(format!("part-{number}"), lines[*start].1.clone(), outline(&lines[start + 1..end]));
    }
    if !drawn.is_empty() {
        let body = html! {
            ul .legend {
                @for (class, name) in LEGEND {
                    li {
                        svg viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} }
                        (name)
                    }
                }
            }
            @for (title, memory) in &drawn {
                (map(title, memory))
            }
        };
        page.section("memory", "Memory", body);
    }
    Ok(page)
}

/// Lines as lists in lists.
fn outline(lines: &[Line]) -> Markup {
    let mut text = String::from("<ul class=\"outline\">");
    let mut open = 1;
    for (depth, line) in lines {
        for _ in open..*depth {
            text.push_str("<li><ul>");
        }
        for _ in *depth..open {
            text.push_str("</ul></li>");
        }
        open = *depth;
        let class = match line.chars().next() {
            Some('+') => "line plus",
            Some('-') => "line minus",
            Some('~') => "line tilde",
            _ => "line",
        };
        text.push_str(&html! { li .item { span class=(class) { (visible(line)) } } }.into_string());
    }
    for _ in 1..open {
        text.push_str("</ul></li>");
    }
    text.push_str("</ul>");
    PreEscaped(text)
}

/// One process's mappings, each as wide as it has pages, with as much of each colour as there are pages in that state.
fn map(title: &str, memory: &MemoryDiff) -> Markup {
    let mut mappings: Vec<_> = memory.mappings.iter().collect();
    mappings.sort_by_key(|mapping| (mapping.start, mapping.end));
    let areas: Vec<_> = mappings
        .into_iter()
        .map(|mapping| {
            let counts = counts(mapping);
            let total: u64 = counts.iter().map(|(_, pages)| pages).sum();
            let area = Area { start: mapping.start, end: mapping.end, size: total };
            let share = |pages: u64| pages as f64 / total.max(1) as f64;
            let layers = counts.map(|(class, pages)| Layer { class, share: share(pages) });
            (area, describe(memory, mapping), layers.to_vec())
        })
        .collect();
    html! {
        div .map {
            h3 { (title) }
            div .zoom {
                label { "Zoom " input type="range" min="0" max="5" value="0" step="1"; }
            }
            (strip(&format!("Memory of {title}"), &areas))
            p .detail aria-live="polite" { "Point at a mapping, or go through them with the arrow keys." }
        }
    }
}

fn counts(mapping: &MappingDiff) -> [(&'static str, u64); 5] {
    let pages = &mapping.pages;
    [
        ("same", pages.same),
        ("changed", pages.changed),
        ("new", pages.new),
        ("gone", pages.gone),
        ("unknown", pages.unknown),
    ]
}

fn describe(memory: &MemoryDiff, mapping: &MappingDiff) -> String {
    let state = match mapping.state {
        MappingState::Same => "",
        MappingState::Changed => ", changed",
        MappingState::New => ", new",
        MappingState::Gone => ", gone",
    };
    let file = mapping.file.as_deref().map(|file| format!(" {}", visible(file))).unwrap_or_default();
    let counts = counts(mapping).map(|(name, pages)| match pages {
        0 => String::new(),
        pages => format!("; {name} {}", output::bytes(pages.saturating_mul(memory.page_size))),
    });
    format!(
        "{:012x}-{:012x} {} {}{file}{state}{}",
        mapping.start,
        mapping.end,
        mapping.protection,
        mapping.kind,
        counts.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_closed_where_they_end() {
        let lines = [(1, "~ a"), (2, "+ <b>"), (3, "deep"), (1, "c"), (2, "- d")];
        let text = outline(&lines.map(|(depth, line)| (depth, line.to_owned()))).into_string();
        for (opening, closing) in [("<ul", "</ul>"), ("<li", "</li>")] {
            assert_eq!(text.matches(opening).count(), text.matches(closing).count(), "{text}");
        }
        assert!(text.contains("&lt;b&gt;") && !text.contains("<b>"));
    }
}
