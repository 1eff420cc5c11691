//! Processes as a tree that opens and closes.

use maud::{Markup, PreEscaped, html};
use torpor_archive::inspect::Process;

use super::page::visible;
use crate::cli::inspect::rows;

/// Deepest process that is drawn below its parent.
const MAX_DEPTH: usize = 64;

/// The processes, each below its parent.
pub(super) fn tree(processes: &[Process]) -> Markup {
    let places = rows::standings(processes, MAX_DEPTH);
    let has_children =
        |place: usize| places.get(place + 1).is_some_and(|next| next.depth > places[place].depth);
    let mut text = String::from("<ul class=\"tree\">");
    let mut open = 0;
    for (place, process) in processes.iter().enumerate() {
        let depth = places[place].depth;
        for _ in depth..open {
            text.push_str("</ul></details></li>");
        }
        open = depth;
        let line = self::line(process).into_string();
        if has_children(place) {
            text.push_str("<li class=\"item\"><details open><summary>");
            text.push_str(&line);
            text.push_str("</summary><ul>");
            open += 1;
        } else {
            text.push_str("<li class=\"item\"><div class=\"leaf\" tabindex=\"-1\">");
            text.push_str(&line);
            text.push_str("</div></li>");
        }
    }
    for _ in 0..open {
        text.push_str("</ul></details></li>");
    }
    text.push_str("</ul>");
    PreEscaped(text)
}

fn line(process: &Process) -> Markup {
    html! {
        span .pid { (process.pid) } " "
        @if process.state != "alive" { span .state { (rows::state(process)) } " " }
        (visible(&rows::command(process)))
        @if process.threads.len() > 1 { span .pid { " · " (process.threads.len()) " threads" } }
        @if let Some(memory) = &process.memory {
            span .pid { " · " (rows::pages(memory, memory.total.stored())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_closed_where_they_end() {
        let process = |pid, parent| Process { pid, parent, name: "<b>".to_owned(), ..Process::default() };
        let text = tree(&[process(1, None), process(2, Some(1)), process(3, Some(2)), process(4, Some(1))])
            .into_string();
        for (opening, closing) in [("<ul", "</ul>"), ("<li", "</li>"), ("<details", "</details>")] {
            assert_eq!(text.matches(opening).count(), text.matches(closing).count(), "{text}");
        }
        assert!(text.contains("&lt;b&gt;") && !text.contains("<b>"));
    }
}
