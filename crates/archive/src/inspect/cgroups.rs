//! Control groups.

use serde::Serialize;
use torpor_criu::image::cgroup::{CgroupDirectory, Cgroups as Image};

use super::images::Images;

/// Deepest directory that is followed.
const MAX_DEPTH: usize = 64;

/// The groups of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroups {
    /// Which groups go together.
    pub sets: Vec<CgroupSet>,
    /// Settings that a restore puts back, by group.
    pub directories: Vec<CgroupSettings>,
}

/// Groups that processes are in together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupSet {
    /// CRIU's number for it.
    pub id: u32,
    /// The processes with a thread in it.
    pub processes: Vec<u32>,
    /// CRIU itself was in it.
    pub of_criu: bool,
    /// One group of each hierarchy.
    pub groups: Vec<CgroupMembership>,
}

/// A group of one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupMembership {
    /// The controllers of version 1, as `cpu,cpuacct`; empty for version 2.
    pub controllers: String,
    /// Its path.
    pub path: String,
    /// How much of the path is outside the cgroup namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_root: Option<String>,
}

/// The settings of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupSettings {
    /// The controllers of version 1; empty for version 2.
    pub controllers: String,
    /// Its path.
    pub path: String,
    /// Files and what is in them.
    pub settings: Vec<CgroupSetting>,
}

/// A setting of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CgroupSetting {
    /// The file, as `memory.max`.
    pub name: String,
    /// What is in it.
    pub value: String,
}

/// The groups, with the processes (set, then pid) in them.
pub(super) fn cgroups(images: &Images<'_>, members: &[(u32, u32)], of_criu: Option<u32>) -> Cgroups {
    let Some(image) = images.one::<Image>(0) else { return Cgroups::default() };
    let mut cgroups = Cgroups::default();
    for set in image.sets {
        let mut processes: Vec<u32> =
            members.iter().filter(|(id, _)| *id == set.id).map(|(_, pid)| *pid).collect();
        processes.dedup();
        let groups = set.ctls.into_iter().map(|group| CgroupMembership {
            namespace_root: group
                .cgns_prefix
                .filter(|length| *length > 0)
                .and_then(|length| group.path.get(..length as usize).map(str::to_owned)),
            controllers: group.name,
            path: group.path,
        });
        cgroups.sets.push(CgroupSet {
            id: set.id,
            processes,
            of_criu: of_criu == Some(set.id),
            groups: groups.collect(),
        });
    }
    for hierarchy in &image.controllers {
        let controllers = hierarchy.cnames.join(",");
        for directory in &hierarchy.dirs {
            settings(&controllers, "", directory, 0, &mut cgroups.directories);
        }
    }
    cgroups
}

fn settings(
    controllers: &str,
    above: &str,
    directory: &CgroupDirectory,
    depth: usize,
    into: &mut Vec<CgroupSettings>,
) {
    let path = format!("{above}/{}", directory.dir_name.trim_start_matches('/'));
    let settings_here = directory.properties.iter().map(|property| CgroupSetting {
        name: property.name.clone(),
        value: property.value.trim_end().to_owned(),
    });
    into.push(CgroupSettings {
        controllers: controllers.to_owned(),
        path: path.clone(),
        settings: settings_here.collect(),
    });
    if depth < MAX_DEPTH {
        for child in &directory.children {
            settings(controllers, &path, child, depth + 1, into);
        }
    }
}
