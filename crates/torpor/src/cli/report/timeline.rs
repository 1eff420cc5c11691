//! What took how long.

use maud::{Markup, html};

use crate::cli::inspect::rows;

/// Something that took time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// What.
    pub(crate) name: String,
    /// When it began, in microseconds from the start.
    pub(crate) start_us: u64,
    /// How long it took, in microseconds.
    pub(crate) length_us: u64,
    /// The class of its colour: `bar`, `still` or `part`.
    pub(crate) class: &'static str,
}

/// A line for each span, to scale.
pub(super) fn timeline(spans: &[Span]) -> Markup {
    const LABELS: f64 = 170.0;
    const WIDTH: f64 = 700.0;
    const LINE: f64 = 28.0;
    let end = spans.iter().map(|span| span.start_us.saturating_add(span.length_us)).max().unwrap_or(0).max(1);
    let x = |us: u64| LABELS + us as f64 / end as f64 * WIDTH;
    html! {
        div .timeline {
            svg viewBox={ "0 0 1000 " (LINE * spans.len() as f64 + 4.0) } role="img" aria-label="Timeline" {
                line x1=(LABELS) x2=(LABELS) y1="0" y2=(LINE * spans.len() as f64) {}
                @for (index, span) in spans.iter().enumerate() {
                    @let y = index as f64 * LINE;
                    @let width = (x(span.start_us.saturating_add(span.length_us)) - x(span.start_us)).max(2.0);
                    text x="0" y=(y + 19.0) { (span.name) }
                    rect class=(span.class) x=(x(span.start_us)) y=(y + 5.0) width=(width) height=(LINE - 9.0) rx="2" {}
                    text .soft x=(x(span.start_us) + width + 8.0) y=(y + 19.0) { (rows::duration_us(span.length_us)) }
                }
            }
        }
    }
}
