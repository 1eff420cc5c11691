//! The web server in `xtask/demo/web.py`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Definition;

const PORT: u16 = 7380;

pub(in crate::demo) const SERVICE: Definition =
    Definition { name: "demo/web", port: PORT, command: &["python3", "web.py", "7380"] };

/// What a restart would lose.
#[derive(Debug, PartialEq, Deserialize)]
pub(in crate::demo) struct State {
    pub(in crate::demo) counter: u32,
    pub(in crate::demo) threads: u32,
    pub(in crate::demo) least_work: u64,
    pub(in crate::demo) uptime: f64,
}

pub(in crate::demo) fn state() -> Result<State> {
    get("/")
}

/// Adds one to the counter, and returns it.
pub(in crate::demo) fn count() -> Result<u32> {
    Ok(get("/count")?.counter)
}

fn get(path: &str) -> Result<State> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("cannot reach the web server")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the web server does not answer")?;
    parse(&answer)
}

fn parse(answer: &str) -> Result<State> {
    let (_, body) = answer.split_once("\r\n\r\n").context("the web server's answer has no body")?;
    serde_json::from_str(body).with_context(|| format!("the web server answers `{body}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_body_of_an_answer() {
        let answer = "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n\
                      {\"counter\": 3, \"threads\": 8, \"least_work\": 9, \"uptime\": 1.5}";
        assert_eq!(parse(answer).unwrap().counter, 3);
        assert!(parse("HTTP/1.0 200 OK\r\n").is_err());
    }
}
