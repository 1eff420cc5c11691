//! Command lines and environments, read from the memory of processes.

use serde::Serialize;
use torpor_criu::image::memory::Memory;

use super::images::Images;
use super::strings;
use crate::memory::AddressSpace;

/// Most bytes of arguments or of environment. Linux allows a quarter of the stack, and never more than 6 MiB.
const MAX_AREA: u64 = 8 << 20;

/// An entry of an environment, as it stands in memory: in its order, however often a name is there, well formed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// What stands before the first `=`; none where there is no `=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What stands behind it, or the whole entry where there is no `=`; none where values are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Bytes of the value.
    pub length: usize,
}

/// The command line.
pub(super) fn arguments(
    images: &Images<'_>,
    space: &AddressSpace<'_>,
    memory: &Memory,
) -> Option<Vec<String>> {
    let area = area(images, space, memory.mm_arg_start, memory.mm_arg_end)?;
    Some(strings::split(&area).into_iter().map(strings::text).collect())
}

/// The environment; values only where they are asked for.
pub(super) fn environment(
    images: &Images<'_>,
    space: &AddressSpace<'_>,
    memory: &Memory,
    values: bool,
) -> Option<Vec<Variable>> {
    let area = area(images, space, memory.mm_env_start, memory.mm_env_end)?;
    Some(strings::split(&area).into_iter().map(|entry| variable(entry, values)).collect())
}

fn variable(entry: &[u8], values: bool) -> Variable {
    let (name, value) = match entry.iter().position(|byte| *byte == b'=') {
        Some(equals) => (Some(strings::text(&entry[..equals])), &entry[equals + 1..]),
        None => (None, entry),
    };
    Variable { name, value: values.then(|| strings::text(value)), length: value.len() }
}

/// The bytes between two addresses; none where nothing of them is in the checkpoint.
fn area(images: &Images<'_>, space: &AddressSpace<'_>, start: u64, end: u64) -> Option<Vec<u8>> {
    let length = end.checked_sub(start).filter(|length| *length <= MAX_AREA)?;
    let mut area = vec![0; length as usize];
    match space.read(start, &mut area) {
        Ok(outcome) if outcome.length > 0 || length == 0 => {
            area.truncate(outcome.length);
            Some(area)
        }
        Ok(_) => None,
        Err(error) => {
            images.note(&format!("memory of process {}", space.pid()), &error);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_as_they_are() {
        let shown = |entry: &[u8]| {
            let variable = variable(entry, true);
            (variable.name, variable.value.unwrap())
        };
        assert_eq!(shown(b"A=b=c"), (Some("A".to_owned()), "b=c".to_owned()));
        assert_eq!(shown(b"=x"), (Some(String::new()), "x".to_owned()));
        assert_eq!(shown(b"no equals"), (None, "no equals".to_owned()));
        assert_eq!(shown(b"\xff=1"), (Some("\\xff".to_owned()), "1".to_owned()));
    }

    #[test]
    fn values_are_left_out_unless_asked_for() {
        let hidden = variable(b"TOKEN=secret", false);
        assert_eq!((hidden.name.as_deref(), hidden.value, hidden.length), (Some("TOKEN"), None, 6));
        assert_eq!(variable(b"secret", false).value, None);
    }
}
