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
            (mapped(memory, &format!("Mapped memory of process {}", process.pid), |mapping| mapping.pages.mapped))
            @if stored > 0 {
                p .hint { "In the checkpoint: " (rows::pages(memory, stored)) }
                (mapped(memory, &format!("Stored memory of process {}", process.pid), |mapping| mapping.pages.stored()))
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

/// Something with addresses, as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    /// First address.
    pub(super) start: u64,
    /// First address behind it.
    pub(super) end: u64,
    /// How wide it is, in any unit.
    pub(super) size: u64,
}

/// Places areas one after the other, each as wide as its size says: where each begins, and how wide it is.
fn place(areas: &[Area]) -> Vec<(f64, f64)> {
    let total: f64 = areas.iter().map(|area| area.size as f64).sum();
    let apart = |pair: &[Area]| if pair[0].end < pair[1].start { GAP } else { 0.0 };
    let gaps: f64 = areas.windows(2).map(apart).sum();
    // With so many that even the least do not fit, the drawing is as wide as it must be, and shrunk as a whole.
    let scale = (WIDTH - gaps - LEAST * areas.len() as f64).max(0.0) / total.max(1.0);
    let mut placed = Vec::with_capacity(areas.len());
    let mut x = 0.0;
    for (index, area) in areas.iter().enumerate() {
        if index > 0 {
            x += apart(&areas[index - 1..=index]);
        }
        let width = LEAST + area.size as f64 * scale;
        placed.push((x, width));
        x += width;
    }
    placed
}

/// A part of an area's height, from its top down.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// The class of its colour.
    pub(super) class: &'static str,
    /// Its part of the height, from zero to one.
    pub(super) share: f64,
}

/// A strip of areas, each with a description and layers that fill its height.
pub(super) fn strip(label: &str, areas: &[(Area, String, Vec<Layer>)]) -> Markup {
    let placed = place(&areas.iter().map(|(area, ..)| *area).collect::<Vec<_>>());
    let width = placed.last().map_or(WIDTH, |(x, width)| x + width);
    html! {
        div .strip {
            svg viewBox={ "0 0 " (number(width)) " " (number(HEIGHT)) } preserveAspectRatio="none" role="group"
                aria-label=(label) {
                @for ((x, width), (_, description, layers)) in placed.iter().zip(areas) {
                    g role="img" tabindex="-1" aria-label=(description) {
                        @for (top, height, class) in heights(layers) {
                            rect class=(class) x=(number(*x)) y=(number(top)) width=(number(*width)) height=(number(height)) {}
                        }
                    }
                }
            }
        }
    }
}

/// Where each layer lies: its top and its height. What there is at all can be seen.
fn heights(layers: &[Layer]) -> Vec<(f64, f64, &'static str)> {
    let mut top: f64 = 0.0;
    let shown = layers.iter().filter(|layer| layer.share > 0.0);
    shown
        .map(|layer| {
            let height = (HEIGHT * layer.share).clamp(3.0, HEIGHT);
            let from = top.min(HEIGHT - height);
            top = from + height;
            (from, height, layer.class)
        })
        .collect()
}

/// The mappings that have a size, drawn one after the other.
fn mapped(memory: &MemoryMap, label: &str, size: impl Fn(&Mapping) -> u64) -> Markup {
    let shown = memory.mappings.iter().filter(|mapping| size(mapping) > 0);
    let areas: Vec<_> = shown
        .map(|mapping| {
            let area = Area { start: mapping.start, end: mapping.end, size: size(mapping) };
            let stored = (mapping.pages.stored() as f64 / size(mapping) as f64).min(1.0);
            let (full, pale) = classes(mapping.kind);
            let layers =
                vec![Layer { class: pale, share: 1.0 - stored }, Layer { class: full, share: stored }];
            (area, describe(memory, mapping), layers)
        })
        .collect();
    strip(label, &areas)
}

/// The classes of a kind's full and pale colour.
fn classes(kind: MappingKind) -> (&'static str, &'static str) {
    match kind {
        MappingKind::Heap => ("heap", "heap pale"),
        MappingKind::Stack => ("stack", "stack pale"),
        MappingKind::Anonymous => ("anonymous", "anonymous pale"),
        MappingKind::File => ("file", "file pale"),
        MappingKind::SharedFile => ("shared-file", "shared-file pale"),
        MappingKind::Shared => ("shared", "shared pale"),
        MappingKind::Kernel => ("kernel", "kernel pale"),
        MappingKind::Other => ("other", "other pale"),
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
    use super::*;

    fn area(start: u64, pages: u64) -> Area {
        Area { start, end: start + pages * 4096, size: pages }
    }

    #[test]
    fn widths_are_to_scale_and_nothing_is_too_small_to_see() {
        let placed = place(&[area(0x1000, 1), area(0x2000, 300_000), area(0x9000_0000, 100_000)]);
        let [first, second, third] = placed[..] else { panic!("{placed:?}") };
        assert!(first.1 >= LEAST);
        assert!((second.1 / third.1 - 3.0).abs() < 0.02, "{placed:?}");
        assert_eq!(second.0, first.1, "no gap where there is none");
        assert_eq!(third.0, first.1 + second.1 + GAP);
        assert!((third.0 + third.1 - WIDTH).abs() < 1.0);
    }

    #[test]
    fn many_mappings_make_a_wide_drawing() {
        let areas: Vec<_> = (0..2000).map(|place| area(place * 0x2000, 1)).collect();
        assert!(place(&areas).iter().all(|(_, width)| *width >= LEAST));
    }

    #[test]
    fn what_is_there_at_all_can_be_seen() {
        let layers = [("a", 0.9999), ("b", 0.0), ("c", 0.0001)].map(|(class, share)| Layer { class, share });
        let heights = heights(&layers);
        assert_eq!(heights.len(), 2);
        assert_eq!(heights[1], (HEIGHT - 3.0, 3.0, "c"));
    }
}
