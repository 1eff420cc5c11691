//! What a container's configuration grants (OCI runtime specification, `config.md` and `config-linux.md`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use torpor_criu::image::credential::CAPABILITIES;

use crate::seccomp::{Profile, SeccompError};

/// Why a configuration cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// It is none.
    #[error("it is no configuration of a container")]
    Syntax(#[from] serde_json::Error),
    /// Its seccomp profile cannot be held against filters.
    #[error("its seccomp profile cannot be understood")]
    Seccomp(#[from] SeccompError),
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GrantedMount {
    /// Where.
    pub destination: PathBuf,
    /// What is mounted, for something of the machine's.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Of which file system; `bind` or nothing for something of the machine's.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its options.
    #[serde(default, deserialize_with = "null_is_none")]
    pub options: Vec<String>,
}

impl GrantedMount {
    /// Whether it is something of the machine's.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|option| option == "bind" || option == "rbind")
    }
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GrantedLimit {
    /// Which, as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The most that it can be raised to.
    pub hard: u64,
}

/// Capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantedCapabilities {
    /// What can ever be had.
    pub bounding: u64,
    /// What the first process may use.
    pub permitted: u64,
    /// What is passed on.
    pub inheritable: u64,
    /// What is passed on to ordinary programs.
    pub ambient: u64,
}

/// What is granted.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The first process's user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Its capabilities.
    pub capabilities: GrantedCapabilities,
    /// Nobody gains more.
    pub no_new_privileges: bool,
    /// What every process's system calls are held against.
    pub seccomp: Option<Profile>,
    /// The AppArmor profile.
    pub apparmor: Option<String>,
    /// The SELinux label.
    pub selinux: Option<String>,
    /// Limits.
    pub limits: Vec<GrantedLimit>,
    /// The least adjustment of the score by which the kernel chooses whom to kill.
    pub oom_score_adj: Option<i32>,
    /// Namespaces that are not the machine's.
    pub namespaces: Vec<String>,
    /// Users in the container, and outside.
    pub uid_map: Vec<(u32, u32, u32)>,
    /// Groups in the container, and outside.
    pub gid_map: Vec<(u32, u32, u32)>,
    /// Mounts.
    pub mounts: Vec<GrantedMount>,
    /// Whether its first process is at a terminal of its own.
    pub terminal: bool,
    /// Whether the root is read-only.
    pub read_only_root: bool,
    /// Paths that are covered up.
    pub masked: Vec<PathBuf>,
    /// Paths that are read-only.
    pub read_only: Vec<PathBuf>,
}

impl Grant {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn parse(config: &[u8]) -> Result<Grant, GrantError> {
        let config: Config = serde_json::from_slice(config)?;
        let process = config.process.unwrap_or_default();
        let linux = config.linux.unwrap_or_default();
        let capabilities = process.capabilities.unwrap_or_default();
        let set = |name: &str| bits(capabilities.get(name).into_iter().flatten().flatten());
        let seccomp = linux.seccomp.filter(|profile| !profile.is_null());
        let map = |ranges: Option<Vec<Range>>| {
            ranges.unwrap_or_default().iter().map(|one| (one.container_id, one.host_id, one.size)).collect()
        };
        Ok(Grant {
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.unwrap_or_default(),
            capabilities: GrantedCapabilities {
                bounding: set("bounding"),
                permitted: set("permitted"),
                inheritable: set("inheritable"),
                ambient: set("ambient"),
            },
            no_new_privileges: process.no_new_privileges,
            seccomp: seccomp.map(serde_json::from_value).transpose()?,
            apparmor: process.apparmor_profile.filter(|profile| !profile.is_empty()),
            selinux: process.selinux_label.filter(|label| !label.is_empty()),
            limits: process.rlimits.unwrap_or_default(),
            oom_score_adj: process.oom_score_adj,
            namespaces: linux.namespaces.unwrap_or_default().into_iter().map(|one| one.kind).collect(),
            uid_map: map(linux.uid_mappings),
            gid_map: map(linux.gid_mappings),
            mounts: config.mounts.unwrap_or_default(),
            terminal: process.terminal,
            read_only_root: config.root.unwrap_or_default().readonly,
            masked: linux.masked_paths.unwrap_or_default(),
            read_only: linux.readonly_paths.unwrap_or_default(),
        })
    }

    /// What a process can come to have.
    #[must_use]
    pub fn attainable(&self) -> u64 {
        match self.no_new_privileges {
            true => self.capabilities.permitted | self.capabilities.ambient,
            false => self.capabilities.bounding,
        }
    }

    /// Whether a process can come to have a capability, by the kernel's name.
    #[must_use]
    pub fn may(&self, capability: &str) -> bool {
        let number = CAPABILITIES.iter().position(|known| *known == capability);
        number.is_some_and(|number| self.attainable() & (1 << number) != 0)
    }

    /// The profile or label of the machine's security module that processes are under, as CRIU takes it.
    #[must_use]
    pub fn security_label(&self) -> Option<(&'static str, &str)> {
        let apparmor = self.apparmor.as_deref().map(|profile| ("apparmor", profile));
        apparmor.or_else(|| self.selinux.as_deref().map(|label| ("selinux", label)))
    }

    /// Whether a kind of namespace is not the machine's.
    #[must_use]
    pub fn has_namespace(&self, kind: &str) -> bool {
        self.namespaces.iter().any(|own| own == kind)
    }
}

fn bits<'a>(names: impl Iterator<Item = &'a String>) -> u64 {
    names
        .filter_map(|name| {
            let plain = name.to_ascii_lowercase();
            let plain = plain.strip_prefix("cap_").unwrap_or(&plain).to_owned();
            CAPABILITIES.iter().position(|known| *known == plain)
        })
        .fold(0, |set, number| set | 1 << number)
}

fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    root: Option<Root>,
    #[serde(default)]
    mounts: Option<Vec<GrantedMount>>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Process {
    terminal: bool,
    user: User,
    capabilities: Option<BTreeMap<String, Option<Vec<String>>>>,
    no_new_privileges: bool,
    apparmor_profile: Option<String>,
    selinux_label: Option<String>,
    rlimits: Option<Vec<GrantedLimit>>,
    oom_score_adj: Option<i32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct User {
    uid: u32,
    gid: u32,
    additional_gids: Option<Vec<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Root {
    readonly: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
    uid_mappings: Option<Vec<Range>>,
    gid_mappings: Option<Vec<Range>>,
    seccomp: Option<serde_json::Value>,
    masked_paths: Option<Vec<PathBuf>>,
    readonly_paths: Option<Vec<PathBuf>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_grants() {
        let config = br#"{
            "process": {
                "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETUID", "CAP_OF_THE_FUTURE"], "permitted": ["CAP_CHOWN"]},
                "noNewPrivileges": true, "apparmorProfile": "",
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 10}]
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [{"destination": "/data", "type": "bind", "options": null}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}], "seccomp": null,
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}
        }"#;
        let grant = Grant::parse(config).unwrap();
        assert_eq!((grant.uid, grant.gid, grant.groups.as_slice()), (7, 8, &[9][..]));
        assert_eq!(grant.capabilities.bounding, 1 | 1 << 7);
        assert!(grant.may("chown") && !grant.may("setuid"), "nobody gains privileges");
        assert_eq!(grant.apparmor, None);
        assert!(grant.seccomp.is_none() && grant.read_only_root && grant.mounts[0].is_bind());
        assert!(grant.has_namespace("network") && !grant.has_namespace("user"));
        assert_eq!(grant.uid_map, [(0, 1000, 10)]);
        assert_eq!(grant.limits[0].hard, 10);
    }

    #[test]
    fn an_empty_configuration_grants_nothing() {
        let grant = Grant::parse(b"{}").unwrap();
        assert_eq!(grant.attainable(), 0);
        assert!(grant.namespaces.is_empty());
        assert!(matches!(Grant::parse(b"7"), Err(GrantError::Syntax(_))));
    }
}
