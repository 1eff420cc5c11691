//! Mounts.

use serde::Serialize;
use torpor_criu::image::Kind;
use torpor_criu::image::namespace::Mount as Image;

use super::images::Images;

/// Flags of mount(2) by their bits.
const FLAGS: [(u32, &str); 10] = [
    (1, "ro"),
    (2, "nosuid"),
    (4, "nodev"),
    (8, "noexec"),
    (0x10, "sync"),
    (0x40, "mand"),
    (0x80, "dirsync"),
    (0x400, "noatime"),
    (0x800, "nodiratime"),
    (0x20_0000, "relatime"),
];

/// A mount of a mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Its mount namespace, by CRIU's number.
    pub namespace: u64,
    /// Its number when it was dumped.
    pub id: u32,
    /// The mount it is on.
    pub parent: u32,
    /// Where it is mounted.
    pub mountpoint: String,
    /// The file system.
    pub file_system: String,
    /// What was given as its source.
    pub source: String,
    /// What of the file system is mounted.
    pub root: String,
    /// Flags of the mount, as `nosuid`.
    pub flags: Vec<&'static str>,
    /// Options of the file system.
    pub options: String,
    /// The group it shares events with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<u32>,
    /// The group it receives events from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// It comes from outside: the name under which a restore says where from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
    /// What is mounted was removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// The mounts of all mount namespaces, in the order of their paths.
pub(super) fn mounts(images: &Images<'_>) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for namespace in images.ids(Kind::Mounts) {
        images.each::<Image>(namespace, |mount| mounts.push(of(namespace, mount)));
    }
    mounts.sort_by(|a, b| (a.namespace, &a.mountpoint, a.id).cmp(&(b.namespace, &b.mountpoint, b.id)));
    mounts
}

fn of(namespace: u64, mount: Image) -> Mount {
    let external = mount.ext_mount == Some(true) || mount.ext_key.is_some();
    Mount {
        namespace,
        id: mount.mnt_id,
        parent: mount.parent_mnt_id,
        mountpoint: absolute(&mount.mountpoint),
        file_system: mount.fsname.clone().unwrap_or_else(|| mount.file_system().to_owned()),
        source: mount.source,
        root: mount.root,
        flags: FLAGS.iter().filter(|(bit, _)| mount.flags & bit != 0).map(|(_, name)| *name).collect(),
        options: mount.options,
        shared: mount.shared_id.filter(|id| *id != 0),
        master: mount.master_id.filter(|id| *id != 0),
        external: external.then(|| mount.ext_key.unwrap_or_default()),
        removed: mount.deleted == Some(true),
    }
}

/// CRIU keeps paths from the root on, with or without a dot before them.
fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches('.').trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_name() {
        let mount = of(
            7,
            Image {
                fstype: 5,
                mountpoint: "./dev/shm".to_owned(),
                flags: 2 | 8,
                ext_key: Some("key".to_owned()),
                ..Image::default()
            },
        );
        assert_eq!((mount.mountpoint.as_str(), mount.file_system.as_str()), ("/dev/shm", "tmpfs"));
        assert_eq!(mount.flags, ["nosuid", "noexec"]);
        assert_eq!(mount.external.as_deref(), Some("key"));
        assert_eq!(absolute("/"), "/");
    }
}
