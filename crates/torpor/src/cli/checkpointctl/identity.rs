//! Who a container was, as checkpointctl tells it (checkpoint-restore/checkpointctl, `internal/container.go`), from what
//! [`engine`] reads.

use std::collections::BTreeMap;

use anyhow::Context;
use jiff::Timestamp;
use torpor_archive::Checkpoint;
use torpor_archive::engine::{self, Engine};

use super::document::{Interface, Mount, Network};
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Who a container was. What is not known is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    /// `Podman`, `CRI-O` or `containerd`.
    pub(super) engine: String,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    /// The image's name.
    pub(super) image: String,
    /// What was asked for.
    pub(super) requested_image: String,
    pub(super) image_id: String,
    pub(super) runtime: String,
    /// When the container was made.
    pub(super) created: String,
    /// When the checkpoint was made, as the engine notes it: Podman does not.
    pub(super) checkpointed: String,
    /// When the checkpoint was made: as the engine notes it, or as the newest image of CRIU's has it.
    pub(super) made: Option<Timestamp>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) mounts: Vec<Mount>,
    pub(super) ip: String,
    pub(super) mac: String,
    /// Podman's networks.
    pub(super) networks: Vec<Network>,
}

impl Identity {
    /// Reads it.
    pub(super) fn read(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let name = checkpoint.source().name();
        if let Some(missing) =
            ["config.dump", "spec.dump"].iter().find(|entry| checkpoint.entry(entry).is_none())
        {
            let remedy = "give an archive that Podman, CRI-O or containerd made; `torpor inspect` reads directories too";
            return Err(Failure::new(Exit::Failure, format!("{name} has no {missing}"), remedy).into());
        }
        Self::collect(checkpoint).with_context(|| format!("in {name}"))
    }

    fn collect(checkpoint: &Checkpoint) -> Result<Self, engine::EngineError> {
        let container = engine::container(checkpoint)?;
        // Times are shown in the zone that they are written in.
        let config = engine::document(checkpoint, "config.dump")?.unwrap_or_default();
        let time = |key: &str| config.get(key).and_then(|time| time.as_str()).unwrap_or_default();
        let checkpointed = time("checkpointedTime");
        let noted = container.annotations.get("io.kubernetes.cri-o.Created").filter(|time| !time.is_empty());
        let image = container.image.unwrap_or_default();
        let name = image.name.unwrap_or_default();
        let pod = container.pod.unwrap_or_default();
        let mounts = engine::mounts(checkpoint)?.into_iter().map(|mount| Mount {
            destination: mount.destination,
            r#type: mount.kind,
            source: mount.source,
        });
        // Interfaces that cannot be read are left out, as there.
        let interfaces = engine::networks(checkpoint).unwrap_or_default();
        Ok(Self {
            engine: container.engine.to_string(),
            name: container.name.unwrap_or_default(),
            id: container.id.unwrap_or_default(),
            // The id of a pod of Podman's is none of these.
            pod: pod.name.unwrap_or_default(),
            namespace: pod.namespace.unwrap_or_default(),
            requested_image: image.requested.unwrap_or_else(|| name.clone()),
            image: name,
            image_id: image.id.unwrap_or_default(),
            runtime: container.runtime.unwrap_or_default(),
            created: noted.cloned().unwrap_or_else(|| to_the_second(time("createdTime"))),
            // Engines write the year 1 where they mean no time.
            checkpointed: match engine::moment(checkpointed) {
                Some(_) => to_the_second(checkpointed),
                None => String::new(),
            },
            made: container.checkpointed,
            annotations: container.annotations,
            mounts: mounts.collect(),
            ip: joined(
                interfaces.iter().flat_map(|interface| &interface.addresses).map(|ip| without_prefix(ip)),
            ),
            mac: joined(interfaces.iter().filter_map(|interface| interface.mac.as_deref())),
            networks: if container.engine == Engine::Podman { networks(interfaces) } else { Vec::new() },
        })
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}

fn without_prefix(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

/// Interfaces by network; of several addresses the last is shown, as there.
fn networks(interfaces: Vec<engine::Interface>) -> Vec<Network> {
    let mut networks: BTreeMap<String, BTreeMap<String, Interface>> = BTreeMap::new();
    for interface in interfaces {
        let shown = Interface {
            ip: interface.addresses.last().cloned().unwrap_or_default(),
            mac: interface.mac.unwrap_or_default(),
            gateway: interface.gateways.last().cloned().unwrap_or_default(),
        };
        let network = networks.entry(interface.network.unwrap_or_default()).or_default();
        network.insert(interface.name.unwrap_or_default(), shown);
    }
    networks.into_iter().map(|(name, interfaces)| Network { name, interfaces }).collect()
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
    fn of_an_interface_with_two_addresses_the_last_is_shown() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let interface = engine::Interface {
            network: Some("net".to_owned()),
            name: Some("eth0".to_owned()),
            addresses: texts(&["10.7.0.2/24", "fd00::2/64"]),
            mac: Some("f6:32:62:2c:b5:be".to_owned()),
            gateways: texts(&["10.7.0.1", "fd00::1"]),
        };
        assert_eq!(
            joined(interface.addresses.iter().map(|address| without_prefix(address))),
            "10.7.0.2, fd00::2"
        );
        let shown = &networks(vec![interface])[0].interfaces["eth0"];
        assert_eq!((shown.ip.as_str(), shown.gateway.as_str()), ("fd00::2/64", "fd00::1"));
    }
}
