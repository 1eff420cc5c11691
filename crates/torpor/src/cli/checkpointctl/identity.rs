//! Who a container was, as checkpointctl tells it: from `config.dump`, `spec.dump` and `network.status`
//! (checkpoint-restore/checkpointctl, `internal/container.go`; archives of Podman, CRI-O and containerd).

use std::collections::BTreeMap;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use torpor_archive::Checkpoint;

use super::document::{Interface, Mount, Network};
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Most bytes of a JSON entry that are read.
const MAX_JSON: u64 = 16 << 20;

/// `config.dump`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) id: String,
    pub(super) name: String,
    /// What was asked for.
    pub(super) rootfs_image: String,
    /// The image's id.
    pub(super) rootfs_image_ref: String,
    /// The image's name.
    pub(super) rootfs_image_name: String,
    /// Podman calls the id so.
    #[serde(rename = "rootfsImageID")]
    pub(super) rootfs_image_id: String,
    pub(super) runtime: String,
    pub(super) created_time: String,
    pub(super) checkpointed_time: String,
}

/// What is needed of `spec.dump`, the runtime's specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) mounts: Vec<SpecMount>,
}

/// A mount of the specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SpecMount {
    destination: String,
    r#type: String,
    source: String,
}

/// A network in Podman's `network.status`.
#[derive(Debug, Deserialize)]
struct NetworkStatus {
    #[serde(default)]
    interfaces: BTreeMap<String, InterfaceStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InterfaceStatus {
    subnets: Vec<Subnet>,
    mac_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subnet {
    ipnet: String,
    gateway: String,
}

/// The name and attempt that CRI-O notes.
#[derive(Deserialize)]
struct CrioMetadata {
    #[serde(default)]
    name: String,
}

/// Who a container was.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) config: Config,
    pub(super) spec: Spec,
    /// `Podman`, `CRI-O` or `containerd`.
    pub(super) engine: &'static str,
    pub(super) name: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) created: String,
    pub(super) ip: String,
    pub(super) mac: String,
    pub(super) networks: Vec<Network>,
}

impl Identity {
    /// Reads it.
    pub(super) fn read(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let config: Config = needed(checkpoint, "config.dump")?;
        let spec: Spec = needed(checkpoint, "spec.dump")?;
        let annotation = |key: &str| spec.annotations.get(key).cloned().unwrap_or_default();
        let created = to_the_second(&config.created_time);
        let mut identity = match annotation("io.container.manager").as_str() {
            "libpod" => {
                let status = optional(checkpoint, "network.status").unwrap_or_default();
                let (networks, ip, mac) = networks(status);
                Self { engine: "Podman", name: config.name.clone(), ip, mac, networks, ..Self::default() }
            }
            "cri-o" => {
                let metadata = annotation("io.kubernetes.cri-o.Metadata");
                let metadata: CrioMetadata = serde_json::from_str(&metadata).with_context(|| {
                    format!("cannot read the annotation io.kubernetes.cri-o.Metadata in {}", name(checkpoint))
                })?;
                let given = annotation("io.kubernetes.cri-o.Created");
                Self {
                    engine: "CRI-O",
                    name: metadata.name,
                    pod: annotation("io.kubernetes.pod.name"),
                    namespace: annotation("io.kubernetes.pod.namespace"),
                    created: given,
                    ip: annotation("io.kubernetes.cri-o.IP.0"),
                    ..Self::default()
                }
            }
            _ => Self {
                engine: "containerd",
                name: annotation("io.kubernetes.cri.container-name"),
                pod: annotation("io.kubernetes.cri.sandbox-name"),
                namespace: annotation("io.kubernetes.cri.sandbox-namespace"),
                ..Self::default()
            },
        };
        if identity.created.is_empty() {
            identity.created = created;
        }
        (identity.config, identity.spec) = (config, spec);
        Ok(identity)
    }

    /// When the checkpoint was made, as the engine notes it; empty for Podman, which does not.
    pub(super) fn checkpointed(&self) -> String {
        moment(&self.config.checkpointed_time)
            .map_or_else(String::new, |_| to_the_second(&self.config.checkpointed_time))
    }

    /// When the checkpoint was made: as the engine notes it, or as the newest image of CRIU's has it.
    pub(super) fn made(&self, checkpoint: &Checkpoint) -> Option<Timestamp> {
        moment(&self.config.checkpointed_time).or_else(|| {
            let images = checkpoint.layers().first().into_iter().flat_map(|layer| checkpoint.images(layer));
            let newest = images.map(|(_, entry)| entry.modified).max()?;
            Timestamp::from_second(newest).ok()
        })
    }

    /// The mounts of the specification.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mounts = self.spec.mounts.iter().map(|mount| Mount {
            destination: mount.destination.clone(),
            r#type: mount.r#type.clone(),
            source: mount.source.clone(),
        });
        mounts.collect()
    }
}

fn name(checkpoint: &Checkpoint) -> &str {
    checkpoint.source().name()
}

fn needed<T: DeserializeOwned>(checkpoint: &Checkpoint, entry: &str) -> anyhow::Result<T> {
    let Some(found) = checkpoint.entry(entry) else {
        let message = format!("{} has no {entry}", name(checkpoint));
        let remedy =
            "give an archive that Podman, CRI-O or containerd made; `torpor inspect` reads directories too";
        return Err(Failure::new(Exit::Failure, message, remedy).into());
    };
    let bytes = checkpoint.bytes(found, MAX_JSON)?;
    serde_json::from_slice(&bytes).with_context(|| format!("cannot read {entry} in {}", name(checkpoint)))
}

/// An entry that need not be there; none, too, where it cannot be read.
fn optional<T: DeserializeOwned>(checkpoint: &Checkpoint, entry: &str) -> Option<T> {
    serde_json::from_slice(&checkpoint.bytes(checkpoint.entry(entry)?, MAX_JSON).ok()?).ok()
}

/// Networks, all addresses, and all hardware addresses.
fn networks(status: BTreeMap<String, NetworkStatus>) -> (Vec<Network>, String, String) {
    let (mut ips, mut macs) = (Vec::new(), Vec::new());
    let mut interface = |status: InterfaceStatus| {
        if !status.mac_address.is_empty() {
            macs.push(status.mac_address.clone());
        }
        let mut shown = Interface { mac: status.mac_address, ..Interface::default() };
        for subnet in status.subnets {
            if !subnet.ipnet.is_empty() {
                let address = subnet.ipnet.split('/').next().unwrap_or_default();
                ips.push(address.to_owned());
                shown.ip = subnet.ipnet;
            }
            if !subnet.gateway.is_empty() {
                shown.gateway = subnet.gateway;
            }
        }
        shown
    };
    let networks = status
        .into_iter()
        .map(|(name, network)| {
            let interfaces = network.interfaces.into_iter().map(|(name, status)| (name, interface(status)));
            Network { name, interfaces: interfaces.collect() }
        })
        .collect();
    (networks, ips.join(", "), macs.join(", "))
}

/// A time that is set: engines written in Go write the year 1 where it is not.
fn moment(time: &str) -> Option<Timestamp> {
    time.parse()
        .ok()
        .filter(|time: &Timestamp| *time > Timestamp::from_second(-62_000_000_000).unwrap_or(*time))
}

/// A time in RFC 3339 without parts of seconds.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, rest)) => format!("{whole}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_to_the_second_in_their_own_zone() {
        for (time, shown) in [
            ("2026-11-21T13:28:05.4767255Z", "2026-11-21T13:28:05Z"),
            ("2026-11-21T13:28:05.47+02:00", "2026-11-21T13:28:05+02:00"),
            ("2026-11-21T13:28:05Z", "2026-11-21T13:28:05Z"),
        ] {
            assert_eq!(to_the_second(time), shown);
        }
    }

    #[test]
    fn the_year_one_is_no_time() {
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert_eq!(moment(""), None);
        assert!(moment("2026-11-21T13:28:05Z").is_some());
    }

    #[test]
    fn podmans_networks() {
        let status = serde_json::from_str(
            r#"{"net": {"interfaces": {"eth0": {"subnets": [{"ipnet": "10.7.0.2/24", "gateway": "10.7.0.1"}],
                "mac_address": "f6:32:62:2c:b5:be"}}, "dns_server_ips": ["10.7.0.1"]}}"#,
        )
        .unwrap();
        let (networks, ip, mac) = networks(status);
        assert_eq!((ip.as_str(), mac.as_str()), ("10.7.0.2", "f6:32:62:2c:b5:be"));
        assert_eq!(networks[0].interfaces["eth0"].gateway, "10.7.0.1");
        assert_eq!(networks[0].interfaces["eth0"].ip, "10.7.0.2/24");
    }
}
