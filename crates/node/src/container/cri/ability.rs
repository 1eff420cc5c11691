//! Whether a runtime still restores a container that it is told to create from a checkpoint.
//!
//! containerd: 2.1 does, 2.2.7 and 2.3.4 want a switch (`internal/cri/config/config.go`), 2.4 has no such thing any more. CRI-O: since 1.25, by a
//! level since 1.36 and the last releases before (`pkg/config/config.go`).

use serde_json::Value;
use toml_edit::DocumentMut;

use crate::doctor::Crio;
use crate::install::crio;

/// A runtime that restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restorer {
    /// containerd.
    Containerd {
        /// Whether it pulls the container's image also where it has it.
        pulls_always: bool,
    },
    /// CRI-O.
    CriO,
}

/// Why a runtime does not restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unable {
    /// It cannot yet.
    Old,
    /// It cannot any more.
    Gone,
    /// It could, and is not to.
    SwitchedOff,
    /// It is neither containerd nor CRI-O.
    Foreign,
}

impl Unable {
    /// What to do about it, by the runtime's name.
    #[must_use]
    pub fn remedy(self, runtime: &str) -> &'static str {
        match (self, runtime) {
            (Unable::SwitchedOff, "cri-o") => {
                "set `container_level_enabled = \"checkpoint_restore\"` in the table crio.checkpoint_restore, which `torpor install-node --enable-checkpointing` does, and restart CRI-O"
            }
            (Unable::SwitchedOff, _) => {
                "set `enable_experimental_restore_via_create = true` in containerd's table [plugins.\"io.containerd.cri.v1.runtime\"], and restart it; or restore it by the handler of `torpor install-node`"
            }
            _ => {
                "containerd restores so from 2.1 to 2.3, CRI-O from 1.25 on; elsewhere `torpor install-node` gives it a handler that restores, which pods ask by an annotation"
            }
        }
    }
}

/// Decides by the runtime's name and version, and by what it tells of its configuration.
pub(super) fn decide(name: &str, version: &str, configuration: &str) -> Result<Restorer, Unable> {
    let numbers = numbers(version);
    match name {
        "containerd" => {
            let document: Value = serde_json::from_str(configuration).unwrap_or_default();
            let switch = document.get("enableExperimentalRestoreViaCreate").and_then(Value::as_bool);
            match numbers {
                [..=1, ..] | [2, 0, _] => Err(Unable::Old),
                [2, 1..=3, _] if switch != Some(false) => {
                    Ok(Restorer::Containerd { pulls_always: numbers[1] == 1 })
                }
                [2, 1..=3, _] => Err(Unable::SwitchedOff),
                _ => Err(Unable::Gone),
            }
        }
        "cri-o" if numbers < [1, 25, 0] => Err(Unable::Old),
        "cri-o" => {
            let mut found = Crio::default();
            if let Ok(document) = configuration.parse::<DocumentMut>() {
                crio::read(&document, &mut found);
            }
            let is_on = match found.level.as_deref() {
                Some(level) => level == "checkpoint_restore",
                None => found.support != Some(false),
            };
            if is_on { Ok(Restorer::CriO) } else { Err(Unable::SwitchedOff) }
        }
        _ => Err(Unable::Foreign),
    }
}

/// The first three numbers of a version as `v2.1.9~ds1` or `1.36.3`.
fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = [0; 3];
    let parts = version.trim_start_matches('v').split(|letter: char| !letter.is_ascii_digit());
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = part.parse().unwrap_or(0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_restore_by_version_and_configuration() {
        let on = r#"{"enableExperimentalRestoreViaCreate": true}"#;
        let off = r#"{"enableExperimentalRestoreViaCreate": false}"#;
        let containerd = |pulls_always| Ok(Restorer::Containerd { pulls_always });
        for (name, version, configuration, expected) in [
            ("containerd", "1.7.24", "{}", Err(Unable::Old)),
            ("containerd", "v2.0.11", "{}", Err(Unable::Old)),
            ("containerd", "2.1.9~ds1", "{}", containerd(true)),
            ("containerd", "v2.2.6", "", containerd(false)),
            ("containerd", "v2.2.7", off, Err(Unable::SwitchedOff)),
            ("containerd", "v2.3.4", off, Err(Unable::SwitchedOff)),
            ("containerd", "v2.3.4", on, containerd(false)),
            ("containerd", "v2.4.0-beta.0", "{}", Err(Unable::Gone)),
            ("containerd", "3.0", "{}", Err(Unable::Gone)),
            ("cri-o", "1.24.0", "", Err(Unable::Old)),
            ("cri-o", "1.30.1", "[crio.runtime]\nenable_criu_support = true\n", Ok(Restorer::CriO)),
            ("cri-o", "1.30.1", "[crio.runtime]\nenable_criu_support = false\n", Err(Unable::SwitchedOff)),
            (
                "cri-o",
                "1.36.3",
                "[crio.checkpoint_restore]\ncontainer_level_enabled = \"checkpoint_only\"\n",
                Err(Unable::SwitchedOff),
            ),
            (
                "cri-o",
                "1.36.3",
                include_str!("../../install/golden/crio-checkpointing.conf"),
                Ok(Restorer::CriO),
            ),
            // What CRI-O 1.37 tells of itself.
            ("cri-o", "1.37.0", include_str!("golden/crio-1.37.toml"), Ok(Restorer::CriO)),
            ("docker", "20.10", "", Err(Unable::Foreign)),
        ] {
            assert_eq!(decide(name, version, configuration), expected, "{name} {version} {configuration}");
        }
    }
}
