//! A page: its frame, and the pieces every page is made of.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cli::output;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// A page with its sections. All text is escaped; what a browser may do with the page is named in it: its own style and
/// script, known by their hashes, and nothing else.
#[derive(Debug)]
pub(crate) struct Page {
    title: String,
    lead: String,
    secrets: bool,
    sections: Vec<Section>,
    data: String,
}

#[derive(Debug)]
struct Section {
    id: String,
    title: String,
    body: Markup,
}

impl Page {
    /// A page without sections, which holds `data` for programs, as JSON.
    pub(crate) fn new<T: Serialize>(
        title: impl Into<String>,
        lead: impl Into<String>,
        secrets: bool,
        data: &T,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            title: title.into(),
            lead: lead.into(),
            secrets,
            sections: Vec::new(),
            data: embedded(&output::json(data)?),
        })
    }

    /// Adds a section. Its id is made of letters, digits and dashes, and used once.
    pub(crate) fn section(&mut self, id: impl Into<String>, title: impl Into<String>, body: Markup) {
        self.sections.push(Section { id: id.into(), title: title.into(), body });
    }

    /// Writes the page, readable by its owner alone: it tells about the inside of programs.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(path)
            .and_then(|mut file| file.write_all(self.markup().into_string().as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn markup(&self) -> Markup {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="referrer" content="no-referrer";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a .skip href="#report" { "Skip to the report" }
                    header {
                        h1 { (self.title) }
                        p .lead { (self.lead) }
                        @if self.secrets {
                            p .secrets role="note" { "This report holds secrets: handle it as you would a password." }
                        }
                    }
                    nav aria-label="Parts" {
                        ul {
                            @for section in &self.sections {
                                li { a href={ "#" (section.id) } { (section.title) } }
                            }
                        }
                        div .search role="search" {
                            label for="filter" { "Filter" }
                            input #filter type="search" autocomplete="off" spellcheck="false"
                                placeholder="press / to type";
                            output #matches for="filter" aria-live="polite" {}
                        }
                    }
                    main #report tabindex="-1" {
                        @for section in &self.sections {
                            section #(section.id) aria-labelledby={ (section.id) "-title" } {
                                h2 id={ (section.id) "-title" } { (section.title) }
                                (section.body)
                            }
                        }
                    }
                    footer { "Made by torpor " (env!("CARGO_PKG_VERSION")) "." }
                    script #data type="application/json" { (PreEscaped(&self.data)) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        }
    }
}

/// Names and values.
pub(crate) fn facts<N: AsRef<str>>(facts: &[(N, String)]) -> Markup {
    html! {
        dl {
            @for (name, value) in facts {
                div .item { dt { (name.as_ref()) } dd { (visible(value)) } }
            }
        }
    }
}

/// A table; columns whose name begins with `>` are aligned to the right.
pub(crate) fn table(caption: &str, columns: &[&str], rows: &[Vec<String>]) -> Markup {
    let class = |column: &str| column.starts_with('>').then_some("number");
    html! {
        div .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        @for column in columns {
                            th scope="col" class=[class(column)] { (heading(column)) }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr .item {
                            @for (cell, column) in row.iter().zip(columns) {
                                td class=[class(column)] { (visible(cell)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The name of a column in small letters, as a page has it.
fn heading(column: &str) -> String {
    let mut letters = column.trim_start_matches('>').chars();
    let first: String = letters.next().into_iter().collect();
    if matches!(column, ">PID" | "FD" | ">FD") {
        column.trim_start_matches('>').to_owned()
    } else {
        first + &letters.as_str().to_lowercase()
    }
}

/// Text from a checkpoint, with what would not be seen, or turn the direction of writing, as escapes.
pub(super) fn visible(text: &str) -> String {
    output::plain(text).into_owned()
}

/// JSON that can stand in a script element: it has nothing that could end that.
fn embedded(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</script><script>alert(1)</script><!--\" onload='x'>\u{2028}";

    #[derive(Serialize)]
    struct Data {
        name: &'static str,
    }

    #[test]
    fn text_from_a_checkpoint_stays_text() {
        let mut page = Page::new(HOSTILE, HOSTILE, false, &Data { name: HOSTILE }).unwrap();
        page.section("a", HOSTILE, table(HOSTILE, &["A"], &[vec![HOSTILE.to_owned()]]));
        page.section("b", "B", facts(&[(HOSTILE, HOSTILE.to_owned())]));
        let page = page.markup().into_string();
        // The page's own: one with data, one with the script.
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("alert(1)</script>") && !page.contains("onload='x'>"));
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = Page::new("t", "l", false, &Data { name: "n" }).unwrap().markup().into_string();
        assert!(page.contains("default-src 'none'") && !page.contains("unsafe-inline"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
        // A policy by hash does not cover attributes.
        assert!(!page.contains(" style=") && !page.contains(" onclick="));
    }

    #[test]
    fn embedded_json_means_the_same() {
        let value = serde_json::json!({ "a": HOSTILE });
        let text = embedded(&value.to_string());
        assert!(!text.contains('<'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
