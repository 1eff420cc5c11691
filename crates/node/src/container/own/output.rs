//! What a program says: shown as it comes, searched for a line, and the end of it kept.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use regex::bytes::Regex;

/// How many lines are kept.
const LINES: usize = 10;
/// The longest line that is looked at, in bytes; what is longer is looked at in pieces.
const LONGEST: usize = 64 << 10;

/// The program's output.
#[derive(Debug, Clone, Default)]
pub(super) struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// What is looked for.
    expression: Option<Regex>,
    found: AtomicBool,
    last: Mutex<VecDeque<String>>,
}

impl Output {
    /// Output in which a line is looked for.
    pub(super) fn new(expression: Option<Regex>) -> Output {
        Output(Arc::new(Shared { expression, ..Shared::default() }))
    }

    /// Listens to one stream until it ends, and shows what comes.
    pub(super) fn listen(&self, mut stream: impl Read + Send + 'static) -> io::Result<()> {
        let output = self.clone();
        let listener = std::thread::Builder::new().name("output".into());
        listener.spawn(move || {
            let mut line = Vec::new();
            let mut buffer = [0; 8 << 10];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        // Where nobody looks, it goes on all the same.
                        let _ = io::stderr().write_all(&buffer[..length]);
                        output.take(&mut line, &buffer[..length]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            output.keep(&line);
        })?;
        Ok(())
    }

    /// Whether the line was said.
    pub(super) fn found(&self) -> bool {
        self.0.found.load(Ordering::Relaxed)
    }

    /// The last lines.
    pub(super) fn ending(&self) -> String {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Takes what came; `line` is what has no end yet. A prompt has none either, so that is looked at as well.
    fn take(&self, line: &mut Vec<u8>, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            line.extend(&bytes[..end]);
            self.look(line);
            self.keep(line);
            line.clear();
            bytes = &bytes[end + 1..];
        }
        line.extend(bytes);
        self.look(line);
        if line.len() > LONGEST {
            line.clear();
        }
    }

    fn look(&self, line: &[u8]) {
        if self.0.expression.as_ref().is_some_and(|expression| expression.is_match(line)) {
            self.0.found.store(true, Ordering::Relaxed);
        }
    }

    fn keep(&self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(String::from_utf8_lossy(line).trim_end().chars().take(500).collect());
        if last.len() > LINES {
            last.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&str]) -> Output {
        let output = Output::new(Some(Regex::new("^ready (to|for) serve$|> $").unwrap()));
        let mut line = Vec::new();
        for piece in pieces {
            output.take(&mut line, piece.as_bytes());
        }
        output.keep(&line);
        output
    }

    #[test]
    fn a_line_is_found_however_it_comes() {
        assert!(heard(&["loading\nrea", "dy to ser", "ve\nserving\n"]).found());
        assert!(heard(&["console> "]).found());
        assert!(!heard(&["not ready to serve\n", "ready to\nserve\n"]).found());
    }

    #[test]
    fn the_last_lines_are_kept() {
        let lines: String = (0..20).map(|number| format!("{number}\n")).collect();
        assert!(heard(&[&lines]).ending().starts_with("10\n11"));
        assert_eq!(heard(&["one\n\ntwo"]).ending(), "one\ntwo");
        assert!(heard(&[&"x".repeat(1 << 20)]).ending().len() < 1000);
    }
}
