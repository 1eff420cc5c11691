//! Every document from outside that is read here, by number: for the fuzz target `config` and its seeds.

use std::ffi::OsString;
use std::path::Path;

use crate::capabilities::Capabilities;
use crate::config::{Dialect, Given, RunConfig, Surroundings};
use crate::container::state::{Container, Description};
use crate::migration::message;
use crate::seccomp::{Around, Profile};

/// What there is to read, in the order of the numbers that choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Torpor's configuration file.
    Torpor,
    /// crik's.
    Crik,
    /// Variables, one a line.
    Variables,
    /// A seccomp profile.
    Seccomp,
    /// runc's state of a container.
    Runc,
    /// crun's, with the bundle's configuration after a zero byte.
    Crun,
    /// A bundle's configuration.
    Bundle,
    /// What the source of a migration says.
    Request,
    /// What the target says.
    Answer,
}

impl Document {
    /// All of them.
    pub const ALL: [Document; 9] = [
        Document::Torpor,
        Document::Crik,
        Document::Variables,
        Document::Seccomp,
        Document::Runc,
        Document::Crun,
        Document::Bundle,
        Document::Request,
        Document::Answer,
    ];

    /// Reads `input` as the document that its first byte chooses. True where it is one, and one that can be used.
    ///
    /// # Panics
    /// Where a configuration that was printed means another thing.
    pub fn read_any(input: &[u8]) -> bool {
        let Some((choice, bytes)) = input.split_first() else { return false };
        Document::ALL[usize::from(*choice) % Document::ALL.len()].read(bytes)
    }

    /// Reads `bytes`. True where they are a document that can be used.
    ///
    /// # Panics
    /// Where a configuration that was printed means another thing.
    pub fn read(self, bytes: &[u8]) -> bool {
        match self {
            Document::Torpor => file(bytes, Dialect::Torpor),
            Document::Crik => file(bytes, Dialect::Crik),
            Document::Variables => variables(bytes),
            Document::Seccomp => seccomp(bytes),
            Document::Runc => Container::from_runc(bytes, Path::new("/run/runc")).is_ok_and(|c| placed(&c)),
            Document::Crun => {
                let mut parts = bytes.splitn(2, |byte| *byte == 0);
                let (status, config) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                Container::from_crun(status, config, (Path::new("/run/crun"), "one"), |_| None)
                    .is_ok_and(|container| placed(&container))
            }
            Document::Bundle => Description::from_oci(bytes).is_ok() & Description::root_of(bytes).is_ok(),
            Document::Request => said::<message::Request>(bytes),
            Document::Answer => said::<message::Answer>(bytes),
        }
    }
}

/// Whether a connection says anything before it ends.
fn said<T: serde::de::DeserializeOwned>(mut bytes: &[u8]) -> bool {
    let mut heard = 0;
    while message::read::<T>(&mut bytes).is_ok() {
        heard += 1;
    }
    heard > 0
}

fn file(bytes: &[u8], dialect: Dialect) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Given::from_file(Path::new("/etc/config.yaml"), text, dialect) {
        Ok((given, warnings)) => {
            assert!(warnings.iter().all(|warning| !warning.to_string().is_empty()));
            means(&given, dialect)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = error.remedy();
            false
        }
    }
}

fn variables(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let (given, _) = Given::from_variables(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    means(&given, Dialect::Torpor)
}

/// Whether it means anything, and that it means the same once it was printed and read again.
fn means(given: &Given, dialect: Dialect) -> bool {
    let surroundings = Surroundings {
        pod: Some("web-7d9f8b6c5-x2x4k".to_owned()),
        host: "box".to_owned(),
        runtime_dir: "/run".into(),
        current_dir: "/".into(),
        ..Surroundings::default()
    };
    let program = vec![OsString::from("/bin/redis")];
    let config = match RunConfig::resolve(given, dialect, program.clone(), &surroundings) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = error.remedy();
            return false;
        }
    };
    let printed = config.explain(given);
    let (given, _) = Given::from_file(Path::new("printed"), &printed, dialect)
        .unwrap_or_else(|error| panic!("{error:?}\n{printed}"));
    let mut again = RunConfig::resolve(&given, dialect, program, &surroundings)
        .unwrap_or_else(|error| panic!("{error:?}\n{printed}"));
    // What is printed names it.
    again.name_given = config.name_given;
    assert_eq!(again, config, "{printed}");
    true
}

fn seccomp(bytes: &[u8]) -> bool {
    let Ok(profile) = serde_json::from_slice::<Profile>(bytes) else { return false };
    let all = Capabilities::from_bits(u64::MAX);
    [Capabilities::NONE, all]
        .into_iter()
        .all(|capabilities| profile.filter(Around { capabilities, kernel: "6.18.5" }).is_ok())
}

/// Whether what decides by a state can decide by this one.
fn placed(container: &Container) -> bool {
    let _ = (container.pod(), container.image(), container.joins("network"));
    container.init > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing starts from and what it has found: `fuzz/fuzz_targets/config.rs` does the same with more inputs.
    #[test]
    fn what_fuzzing_starts_from_is_understood() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/config");
        for seed in std::fs::read_dir(seeds).unwrap() {
            let path = seed.unwrap().path();
            let read = Document::read_any(&std::fs::read(&path).unwrap());
            let found = path.file_name().unwrap().to_string_lossy().starts_with("found-");
            assert!(read || found, "{}", path.display());
        }
    }
}
