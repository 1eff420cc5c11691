//! Address spaces, drawn to scale.

use maud::{Markup, html};
use torpor_archive::inspect::{Mapping, MemoryMap, Process};
use torpor_archive::memory::MappingKind;

use super::page::{table, visible};
use crate::cli::inspect::rows;
use crate::cli::output;

/// Width of a drawing, in its own units.
const WIDTH: f64 = 10_000.0;
/// Least width of a mapping, so that a single page can be seen and reached.
const LEAST: f64 = 12.0;
/// Width of a gap between mappings.
const GAP: f64 = 6.0;
/// Height of a drawing, in its own units.
const HEIGHT: f64 = 100.0;
/// Most mappings that are drawn in one page.
pub(super) const MOST: usize = 30_000;

/// The colours of the kinds.
pub(super) fn legend() -> Markup {
    html! {
        ul .legend {
            @for kind in MappingKind::ALL {
                li {
                    svg viewBox="0 0 10 10" aria-hidden="true" { rect class=(kind.name()) width="10" height="10" {} }
                    (kind.name())
                }
            }
        }
        p .hint {
            "Pale: mapped. Full: how much of it is in the checkpoint or its parents. Widths are to scale, but for the least, which "
            "are drawn wide enough to be seen. Gaps between mappings are not to scale."
        }
    }
}

/// One process's address space: what is mapped, what is stored, and the mappings one by one.
pub(super) fn map(process: &Process, memory: &MemoryMap) -> Markup {
    let stored = memory.total.stored();
    let title = format!("{} {}", process.pid, visible(&rows::command(process)));
    html! {
        div .map {
            h3 { (title) }
            div .zoom {
                label for={ "zoom-" (process.pid) } { "Zoom" }
                input id={ "zoom-" (process.pid) } type="range" min="0" max="5" value="0" step="1";
            }
            p .hint { "Mapped: " (rows::pages(memory, memory.total.mapped)) }
            (strip(memory, &format!("Mapped memory of process {}", process.pid), |mapping| mapping.pages.mapped))
            @if stored > 0 {
                p .hint { "In the checkpoint: " (rows::pages(memory, stored)) }
                (strip(memory, &format!("Stored memory of process {}", process.pid), |mapping| mapping.pages.stored()))
            }
            p .detail aria-live="polite" { "Point at a mapping, or go through them with the arrow keys." }
        }
        (kinds(memory))
        details .more {
            summary { (output::count(memory.mappings.len(), "mapping")) " one by one" }
            (mappings(memory))
        }
    }
}

/// A mapping as it is drawn.
#[derive(Debug, PartialEq)]
struct Drawn<'a> {
    mapping: &'a Mapping,
    x: f64,
    width: f64,
}

/// Places mappings one after the other, as wide as `size` says.
fn place(mappings: &[Mapping], size: impl Fn(&Mapping) -> u64) -> Vec<Drawn<'_>> {
    let shown: Vec<_> = mappings.iter().filter(|mapping| size(mapping) > 0).collect();
    let total: f64 = shown.iter().map(|mapping| size(mapping) as f64).sum();
    let apart = |pair: &[&Mapping]| if pair[0].end < pair[1].start { GAP } else { 0.0 };
    let gaps: f64 = shown.windows(2).map(apart).sum();
    // With so many that even the least do not fit, the drawing is as wide as it must be, and shrunk as a whole.
    let scale = (WIDTH - gaps - LEAST * shown.len() as f64).max(0.0) / total.max(1.0);
    let mut drawn = Vec::with_capacity(shown.len());
    let mut x = 0.0;
    for (index, mapping) in shown.iter().enumerate() {
        if index > 0 {
            x += apart(&shown[index - 1..=index]);
        }
        let width = LEAST + size(mapping) as f64 * scale;
        drawn.push(Drawn { mapping, x, width });
        x += width;
    }
    drawn
}

fn strip(memory: &MemoryMap, label: &str, size: impl Fn(&Mapping) -> u64) -> Markup {
    let drawn = place(&memory.mappings, &size);
    let width = drawn.last().map_or(WIDTH, |last| last.x + last.width);
    html! {
        div .strip {
            svg viewBox={ "0 0 " (number(width)) " " (number(HEIGHT)) } preserveAspectRatio="none" role="group" aria-label=(label) {
                @for Drawn { mapping, x, width } in &drawn {
                    @let height = height(mapping, &size);
                    g role="img" tabindex="-1" aria-label=(describe(memory, mapping)) class=(mapping.kind.name()) {
                        rect .area x=(number(*x)) y="0" width=(number(*width)) height=(number(HEIGHT)) {}
                        @if height > 0.0 {
                            rect x=(number(*x)) y=(number(HEIGHT - height)) width=(number(*width)) height=(number(height)) {}
                        }
                    }
                }
            }
        }
    }
}

/// How high the full colour stands: as much as is stored of what the drawing is about.
fn height(mapping: &Mapping, size: impl Fn(&Mapping) -> u64) -> f64 {
    match mapping.pages.stored() {
        0 => 0.0,
        stored => (HEIGHT * stored as f64 / size(mapping).max(1) as f64).clamp(3.0, HEIGHT),
    }
}

fn number(number: f64) -> String {
    format!("{number:.1}").trim_end_matches(".0").to_owned()
}

fn describe(memory: &MemoryMap, mapping: &Mapping) -> String {
    let name = mapping.name.as_deref().map(|name| format!(" {}", visible(name))).unwrap_or_default();
    format!(
        "{} {} {}{name}: {} mapped, {} stored; {}",
        rows::range(mapping),
        mapping.protection,
        mapping.kind,
        rows::pages(memory, mapping.pages.mapped),
        rows::pages(memory, mapping.pages.stored()),
        rows::absent(&mapping.pages)
    )
}

fn kinds(memory: &MemoryMap) -> Markup {
    let rows: Vec<_> = memory
        .kinds
        .iter()
        .map(|total| {
            vec![
                total.kind.to_string(),
                total.mappings.to_string(),
                rows::pages(memory, total.pages.mapped),
                rows::pages(memory, total.pages.present),
                rows::pages(memory, total.pages.in_parents),
                rows::absent(&total.pages),
            ]
        })
        .collect();
    table("By kind", &["Kind", ">Mappings", ">Mapped", ">Stored", ">In parents", "Not stored, pages"], &rows)
}

fn mappings(memory: &MemoryMap) -> Markup {
    let rows: Vec<_> = memory
        .mappings
        .iter()
        .map(|mapping| {
            vec![
                rows::range(mapping),
                mapping.protection.clone(),
                mapping.kind.to_string(),
                rows::pages(memory, mapping.pages.mapped),
                rows::pages(memory, mapping.pages.stored()),
                mapping.name.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table("Mappings", &["Range", "Protection", "Kind", ">Mapped", ">Stored", "Name"], &rows)
}

#[cfg(test)]
mod tests {
    use torpor_archive::inspect::Pages;

    use super::*;

    fn mapping(start: u64, pages: u64) -> Mapping {
        Mapping {
            start,
            end: start + pages * 4096,
            protection: "rw-p".to_owned(),
            kind: MappingKind::Heap,
            name: None,
            offset: None,
            pages: Pages { mapped: pages, ..Pages::default() },
        }
    }

    #[test]
    fn widths_are_to_scale_and_nothing_is_too_small_to_see() {
        let mappings = [mapping(0x1000, 1), mapping(0x2000, 300_000), mapping(0x9000_0000, 100_000)];
        let drawn = place(&mappings, |mapping| mapping.pages.mapped);
        let widths: Vec<_> = drawn.iter().map(|drawn| drawn.width).collect();
        assert!(widths[0] >= LEAST);
        assert!((widths[1] / widths[2] - 3.0).abs() < 0.02, "{widths:?}");
        assert_eq!(drawn[1].x, widths[0], "no gap where there is none");
        assert_eq!(drawn[2].x, widths[0] + widths[1] + GAP);
        assert!((drawn[2].x + widths[2] - WIDTH).abs() < 1.0);
    }

    #[test]
    fn many_mappings_make_a_wide_drawing() {
        let mappings: Vec<_> = (0..2000).map(|place| mapping(place * 0x2000, 1)).collect();
        let drawn = place(&mappings, |mapping| mapping.pages.mapped);
        assert!(drawn.iter().all(|drawn| drawn.width >= LEAST));
        assert_eq!(drawn.len(), 2000);
    }
}
