//! Namespaces.

use std::collections::BTreeMap;

use serde::Serialize;
use torpor_criu::image::Kind;
use torpor_criu::image::namespace::{
    IdRange as ImageRange, NetworkDevice as ImageDevice, PidNamespace, TimeNamespace, UserNamespace,
    UtsNamespace,
};
use torpor_criu::image::process::Ids;

use super::addresses::{Found, addresses};
use super::images::Images;

/// A namespace that processes of the checkpoint were in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// `cgroup`, `ipc`, `mnt`, `net`, `pid`, `time`, `user` or `uts`.
    pub kind: &'static str,
    /// CRIU's number for it.
    pub id: u32,
    /// It is the one CRIU itself was in: the checkpoint does not hold it.
    pub of_criu: bool,
    /// The processes in it.
    pub processes: Vec<u32>,
    /// The host name, of `uts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// The NIS domain, of `uts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// Users inside to users outside, of `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<IdRange>,
    /// Groups inside to groups outside, of `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<IdRange>,
    /// The clocks when it was frozen, of `time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<Clocks>,
    /// The network devices, of `net`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// The name under which a restore finds it, where it comes from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
}

/// A range of users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdRange {
    /// The first inside.
    pub inside: u32,
    /// The first outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What clocks showed, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME`.
    pub boottime_ns: u64,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name.
    pub name: String,
    /// As `veth`.
    pub kind: &'static str,
    /// Whether it is up.
    pub up: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Addresses with the lengths of their prefixes, as `10.0.0.2/24`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The hardware address, as `02:42:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_address: Option<String>,
}

/// The name of the kind of namespace that a flag of clone(2) stands for.
pub(super) fn flag_name(flag: u32) -> String {
    match flag {
        0x0000_0080 => "time".to_owned(),
        0x0002_0000 => "mnt".to_owned(),
        0x0200_0000 => "cgroup".to_owned(),
        0x0400_0000 => "uts".to_owned(),
        0x0800_0000 => "ipc".to_owned(),
        0x1000_0000 => "user".to_owned(),
        0x2000_0000 => "pid".to_owned(),
        0x4000_0000 => "net".to_owned(),
        other => format!("{other:#x}"),
    }
}

/// Kinds and numbers in `ids`, in the order of the kinds' names.
fn of_ids(ids: &Ids) -> impl Iterator<Item = (&'static str, u32)> {
    [
        ("cgroup", ids.cgroup_ns_id),
        ("ipc", ids.ipc_ns_id),
        ("mnt", ids.mnt_ns_id),
        ("net", ids.net_ns_id),
        ("pid", ids.pid_ns_id),
        ("time", ids.time_ns_id),
        ("user", ids.user_ns_id),
        ("uts", ids.uts_ns_id),
    ]
    .into_iter()
    .filter_map(|(kind, id)| Some((kind, id?)))
}

/// All namespaces, given what each process has and what CRIU had, in the order of their kinds and numbers.
pub(super) fn namespaces(
    images: &Images<'_>,
    processes: &[(u32, Ids)],
    of_criu: Option<&Ids>,
) -> Vec<Namespace> {
    let mut members: BTreeMap<(&'static str, u32), Vec<u32>> = BTreeMap::new();
    for (pid, ids) in processes {
        for namespace in of_ids(ids) {
            members.entry(namespace).or_default().push(*pid);
        }
    }
    let of_criu: Vec<_> = of_criu.into_iter().flat_map(of_ids).collect();
    members
        .into_iter()
        .map(|((kind, id), processes)| {
            let namespace = Namespace {
                kind,
                id,
                processes,
                of_criu: of_criu.contains(&(kind, id)),
                ..Namespace::default()
            };
            with_contents(images, namespace)
        })
        .collect()
}

fn with_contents(images: &Images<'_>, mut namespace: Namespace) -> Namespace {
    let id = u64::from(namespace.id);
    match namespace.kind {
        "uts" => {
            if let Some(names) = images.one::<UtsNamespace>(id) {
                namespace.host_name = Some(names.nodename);
                namespace.domain_name = Some(names.domainname);
            }
        }
        "user" => {
            if let Some(maps) = images.one::<UserNamespace>(id) {
                namespace.users = maps.uid_map.iter().map(range).collect();
                namespace.groups = maps.gid_map.iter().map(range).collect();
            }
        }
        "time" => {
            // It has the number of the namespace, or zero where there is one only.
            let clocks = images.one::<TimeNamespace>(id).or_else(|| images.one::<TimeNamespace>(0));
            namespace.clocks = clocks.map(|clocks| {
                let nanoseconds =
                    |seconds: u64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
                Clocks {
                    monotonic_ns: nanoseconds(clocks.monotonic.tv_sec, clocks.monotonic.tv_nsec),
                    boottime_ns: nanoseconds(clocks.boottime.tv_sec, clocks.boottime.tv_nsec),
                }
            });
        }
        "net" => {
            let addresses = images.raw(Kind::Addresses, id).map(|file| addresses(&file)).unwrap_or_default();
            images.each::<ImageDevice>(id, |device| namespace.devices.push(self::device(device, &addresses)));
        }
        "pid" => namespace.external = images.one::<PidNamespace>(id).and_then(|found| found.ext_key),
        _ => {}
    }
    namespace
}

fn range(range: &ImageRange) -> IdRange {
    IdRange { inside: range.first, outside: range.lower_first, count: range.count }
}

fn device(device: ImageDevice, found: &[Found]) -> Device {
    let address = device.address.filter(|address| address.iter().any(|byte| *byte != 0));
    Device {
        kind: match device.r#type {
            1 => "loopback",
            2 => "veth",
            3 => "tunnel",
            4 => "external",
            5 => "venet",
            6 => "bridge",
            7 => "macvlan",
            8 => "sit",
            _ => "unknown",
        },
        up: device.flags & 1 != 0,
        mtu: device.mtu,
        hardware_address: address
            .map(|address| address.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")),
        addresses: found
            .iter()
            .filter(|found| found.device == device.ifindex)
            .map(|found| found.address.clone())
            .collect(),
        name: device.name,
    }
}
