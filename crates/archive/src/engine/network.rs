//! The networks of a container.

use serde::Serialize;
use serde_json::Value;

use super::{EngineError, annotation, document, text};
use crate::Checkpoint;

/// Most addresses that are looked for among annotations.
const MAX_ADDRESSES: usize = 64;

/// An interface of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The network, where the engine has names for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The interface's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Addresses, with the length of the prefix where it is known.
    pub addresses: Vec<String>,
    /// The hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Where packets go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
}

/// The networks as the engine wrote them down, by network and interface.
///
/// # Errors
/// Where a document is there and cannot be read.
pub fn networks(checkpoint: &Checkpoint) -> Result<Vec<Interface>, EngineError> {
    let status = document(checkpoint, "network.status")?;
    let mut interfaces = of_podman(status.as_ref());
    if interfaces.is_empty() {
        interfaces.extend(of_annotations(document(checkpoint, "spec.dump")?.as_ref()));
    }
    Ok(interfaces)
}

fn of_podman(status: Option<&Value>) -> Vec<Interface> {
    let mut found = Vec::new();
    for (network, status) in status.and_then(Value::as_object).into_iter().flatten() {
        for (name, interface) in status.get("interfaces").and_then(Value::as_object).into_iter().flatten() {
            let subnets = interface.get("subnets").and_then(Value::as_array);
            let subnets = subnets.map_or(&[][..], Vec::as_slice);
            found.push(Interface {
                network: Some(network.clone()),
                name: Some(name.clone()),
                addresses: subnets.iter().filter_map(|subnet| text(Some(subnet), "ipnet")).collect(),
                mac: text(Some(interface), "mac_address"),
                gateways: subnets.iter().filter_map(|subnet| text(Some(subnet), "gateway")).collect(),
            });
        }
    }
    found
}

/// CRI-O notes addresses only.
fn of_annotations(spec: Option<&Value>) -> Option<Interface> {
    let address = |number: usize| annotation(spec, &format!("io.kubernetes.cri-o.IP.{number}"));
    let addresses: Vec<_> =
        (0..MAX_ADDRESSES).map_while(address).filter(|text| !text.is_empty()).map(str::to_owned).collect();
    (!addresses.is_empty()).then(|| Interface { addresses, ..Interface::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn podman_has_a_document() {
        let status = json!({ "podman": { "interfaces": { "eth0": {
            "subnets": [{ "ipnet": "10.88.0.9/16", "gateway": "10.88.0.1" }], "mac_address": "aa:bb",
        } } } });
        let interface = Interface {
            network: Some("podman".to_owned()),
            name: Some("eth0".to_owned()),
            addresses: vec!["10.88.0.9/16".to_owned()],
            mac: Some("aa:bb".to_owned()),
            gateways: vec!["10.88.0.1".to_owned()],
        };
        assert_eq!(of_podman(Some(&status)), [interface]);
        assert_eq!(of_podman(Some(&json!(null))), []);
    }

    #[test]
    fn cri_o_has_annotations() {
        let spec = json!({ "annotations": {
            "io.kubernetes.cri-o.IP.0": "10.0.0.5", "io.kubernetes.cri-o.IP.1": "fd00::5",
        } });
        assert_eq!(of_annotations(Some(&spec)).unwrap().addresses, ["10.0.0.5", "fd00::5"]);
    }
}
