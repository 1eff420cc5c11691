//! What a manifest tells about the program and the machine it ran on: what the check before a restore goes by.
//!
//! The store keeps it as a JSON document and does not look inside. Later versions may add fields; a reader that finds a
//! newer major `version` refuses.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::launch::Namespaces;
use crate::machine::Machine;
use crate::status::Status;
use crate::streams::{Stream, UnreadInput};
use crate::volumes::VolumeRecord;

/// The version of the document that this release writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// The document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// [`VERSION`].
    pub version: u32,
    /// The Torpor that wrote it.
    pub torpor: String,
    /// The command line.
    pub command: Vec<String>,
    /// What the name's record compares: command, executable and image.
    pub program: torpor_store::lineage::Program,
    /// The process at the root of the tree, and how many there were.
    pub tree: Tree,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// Standard input, output and error.
    pub streams: [Stream; 3],
    /// What it had not read of its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_input: Option<UnreadInput>,
    /// How connections were treated.
    pub tcp: Tcp,
    /// Addresses of the network namespace, to which sockets may be bound.
    pub addresses: Vec<IpAddr>,
    /// CRIU, and what it was told.
    pub criu: Criu,
    /// Files outside of the capture that the program relies on.
    pub volumes: Vec<VolumeRecord>,
    /// The machine.
    pub machine: Machine,
    /// What the program was told about itself: since when it runs and how often it was restored.
    pub status: Status,
}

/// The processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tree {
    /// PID of its root.
    pub root: i32,
    /// PIDs of all, as far as they were known before the freeze.
    pub pids: Vec<i32>,
}

/// How connections were treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tcp {
    /// Whether established connections are in the images at all (else CRIU closed them).
    pub captured: bool,
    /// Ends of connections inside the tree.
    pub inside: usize,
    /// Whether those with a peer outside are to be closed at the restore.
    pub close_outside: bool,
}

/// CRIU, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Criu {
    /// Its version, as a number: 40201 is 4.2.1.
    pub version: u32,
    /// Options that differ from CRIU's own defaults.
    pub options: Vec<(String, String)>,
    /// Whether it read its own configuration files besides.
    pub own_configuration: bool,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A newer release wrote it.
    #[error("the facts of the checkpoint have version {found}, and this torpor reads up to {VERSION}")]
    TooNew {
        /// Its version.
        found: u32,
    },
    /// It is no such document.
    #[error("the facts of the checkpoint cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

/// Reads a document of a `kind` in its newest known `version`; none where it is about something else.
///
/// # Errors
/// A newer release wrote it, or it is broken.
pub(crate) fn of_kind<T: DeserializeOwned>(
    document: &[u8],
    kind: &str,
    version: u32,
) -> Result<Option<T>, FactsError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        #[serde(default)]
        kind: Option<String>,
    }
    let head: Head = serde_json::from_slice(document)?;
    match head.kind {
        Some(found) if found == kind && head.version > version => {
            Err(FactsError::TooNew { found: head.version })
        }
        Some(found) if found == kind => Ok(Some(serde_json::from_slice(document)?)),
        _ => Ok(None),
    }
}

impl Facts {
    /// Reads the document. Its version is looked at before anything else.
    ///
    /// # Errors
    /// Where it is of a newer version, or no such document.
    pub fn parse(document: &[u8]) -> Result<Facts, FactsError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version: found } = serde_json::from_slice(document)?;
        if found > VERSION {
            return Err(FactsError::TooNew { found });
        }
        Ok(serde_json::from_slice(document)?)
    }

    /// Writes it.
    ///
    /// # Errors
    /// Only where a path is no Unicode, which JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FactsError> {
        Ok(serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_refused_before_its_fields_are_looked_at() {
        let error = Facts::parse(br#"{"version": 2, "everything": "else"}"#).unwrap_err();
        assert!(matches!(error, FactsError::TooNew { found: 2 }), "{error}");
        assert!(matches!(Facts::parse(b"{}").unwrap_err(), FactsError::Unreadable(_)));
    }
}
