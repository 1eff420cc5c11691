//! Redis, which keeps nothing on disk here.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Definition;
use crate::chore;

const PORT: &str = "7379";

pub(in crate::demo) const SERVICE: Definition = Definition {
    name: "demo/redis",
    port: 7379,
    command: &["redis-server", "--port", PORT, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
};

/// What a restart would lose.
#[derive(Debug, PartialEq)]
pub(in crate::demo) struct State {
    pub(in crate::demo) keys: u32,
    /// Over all keys and values.
    pub(in crate::demo) digest: String,
    /// Redis draws it when it starts.
    pub(in crate::demo) run_id: String,
    pub(in crate::demo) uptime: u64,
}

/// Writes `keys` keys.
pub(in crate::demo) fn fill(keys: u32) -> Result<()> {
    let script = format!(
        "for i = 1, {keys} do redis.call('SET', 'key:' .. i, 'value of ' .. i) end return redis.call('DBSIZE')"
    );
    let said = client(&["EVAL", &script, "0"])?;
    ensure!(said == keys.to_string(), "Redis holds {said} keys instead of {keys}");
    Ok(())
}

pub(in crate::demo) fn state() -> Result<State> {
    const DIGEST: &str = "local sum = '' for i = 1, redis.call('DBSIZE') do \
        sum = redis.sha1hex(sum .. (redis.call('GET', 'key:' .. i) or 'none')) end return sum";
    let info = client(&["INFO", "server"])?;
    Ok(State {
        keys: client(&["DBSIZE"])?.parse().context("DBSIZE is no number")?,
        digest: client(&["EVAL", DIGEST, "0"])?,
        run_id: info_field(&info, "run_id")?,
        uptime: info_field(&info, "uptime_in_seconds")?.parse().context("the uptime is no number")?,
    })
}

/// Proves that it still takes writes.
pub(in crate::demo) fn write_one() -> Result<()> {
    client(&["SET", "written after the restart", "yes"])?;
    let said = client(&["GET", "written after the restart"])?;
    ensure!(said == "yes", "Redis answers `{said}` to a key just written");
    Ok(())
}

fn client(words: &[&str]) -> Result<String> {
    let said = chore::capture(Command::new("redis-cli").args(["-p", PORT]).args(words))?;
    Ok(said.trim().to_owned())
}

fn info_field(info: &str, name: &str) -> Result<String> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("Redis tells no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_info() {
        let info = "# Server\r\nrun_id:abc\r\nuptime_in_seconds:7\r\n";
        assert_eq!(info_field(info, "run_id").unwrap(), "abc");
        assert!(info_field(info, "uptime").is_err());
    }
}
