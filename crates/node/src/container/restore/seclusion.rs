//! What it takes to have crun restore a container in a control group of its own: where that is, what the container is shown instead of it, and what
//! tells the next command of it where this one is killed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::enclosure;
use crate::container::{ContainerError, Flavor};
use crate::oci_runtime::criu::replace;
use crate::oci_runtime::fit::Grant;
use crate::oci_runtime::remains;

/// The file in a staging directory that tells of what is outside of it.
const TRACES: &str = "outside.json";

/// What is decided before.
#[derive(Debug, Default)]
pub(super) struct Seclusion {
    /// The groups that are to be made.
    pub(super) places: Vec<PathBuf>,
    /// What is to be mounted in the container, by the names that images have for it.
    pub(super) bound: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<String>,
}

impl Seclusion {
    /// For a container of a bundle with this configuration. Nothing, where none is needed or what the container would be shown cannot be told.
    pub(super) fn plan(flavor: Flavor, id: &str, config: &[u8]) -> Seclusion {
        let (Ok(grant), Ok(config)) = (Grant::parse(config), serde_json::from_slice::<Config>(config)) else {
            return Seclusion::default();
        };
        let path = config.linux.and_then(|linux| linux.cgroups_path).filter(|path| !path.is_empty());
        let own = match (flavor, &path) {
            (Flavor::Runc, None) => below(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), id),
            _ => remains::groups(path.as_deref(), id),
        };
        let places = enclosure::places(flavor, remains::shows_own(&grant.mounts, &own));
        let bound = remains::bound(flavor, &grant.mounts, &own);
        Seclusion { places, bound }
    }
}

/// Where runc puts a container that is given no group: in one of its name below each of version 1 that runc itself is in, by its `groups` (runc,
/// `libcontainer/cgroups/fs/paths.go`).
fn below(groups: &str, id: &str) -> Vec<PathBuf> {
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.strip_prefix('/')?);
        let hierarchy = controllers.strip_prefix("name=").unwrap_or(controllers);
        (!hierarchy.is_empty()).then(|| Path::new(remains::MOUNT).join(hierarchy).join(path).join(id))
    };
    groups.lines().filter_map(place).collect()
}

/// What a restore makes or changes besides its staging directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Traces {
    groups: Vec<PathBuf>,
    /// The bundle's configuration.
    path: PathBuf,
    /// What it is when the restore is over.
    config: String,
}

impl Traces {
    /// Writes down, in the staging directory, what there will be.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn leave(
        staging: &Path,
        path: &Path,
        config: &[u8],
        groups: &[PathBuf],
    ) -> Result<(), ContainerError> {
        let config = String::from_utf8_lossy(config).into_owned();
        let traces = Traces { groups: groups.to_vec(), path: path.to_owned(), config };
        let file = staging.join(TRACES);
        let written = serde_json::to_vec(&traces).map_err(std::io::Error::from);
        written.and_then(|bytes| fs::write(&file, bytes)).map_err(ContainerError::place(&file))
    }

    /// Takes away what a restore that was killed has left outside of its staging directory. Says whether all of it is gone.
    pub(super) fn take_away(staging: &Path) -> bool {
        let traces = fs::read(staging.join(TRACES)).ok();
        let Some(traces) = traces.and_then(|bytes| serde_json::from_slice::<Traces>(&bytes).ok()) else {
            return true;
        };
        let annotated = fs::read(&traces.path).is_ok_and(|config| is_ours(&config, staging));
        if annotated && let Err(error) = replace(&traces.path, traces.config.as_bytes()) {
            tracing::warn!(%error, path = %traces.path.display(), "the bundle's configuration stays changed");
        }
        enclosure::take_away(&traces.groups)
    }
}

/// Whether a configuration names one of CRIU's beside that staging directory, as it does while a restore is under way.
fn is_ours(config: &[u8], staging: &Path) -> bool {
    let config: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    let told = config["annotations"][crate::oci_runtime::criu::ANNOTATION].as_str();
    told.is_some_and(|told| Path::new(told).parent() == staging.parent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci_runtime::criu::Annotated;

    #[test]
    fn runc_puts_a_container_without_a_group_below_its_own() {
        let groups = "5:cpu,cpuacct:/user/one\n2:name=systemd:/\n0::/user\n";
        let expected = ["cpu,cpuacct/user/one/web", "systemd/web"];
        assert_eq!(below(groups, "web"), expected.map(|group| Path::new(remains::MOUNT).join(group)));
    }

    #[test]
    fn the_next_command_finds_what_a_killed_restore_has_changed() {
        let place = tempfile::tempdir().unwrap();
        let (staging, path) = (place.path().join("restore-one"), place.path().join("config.json"));
        fs::create_dir(&staging).unwrap();
        assert!(Traces::take_away(&staging), "there is nothing");
        let original = br#"{"process": {}}"#;
        fs::write(&path, original).unwrap();
        let groups = [PathBuf::from("/sys/fs/cgroup/memory/torpor-restore-0-0"), place.path().join("kept")];
        fs::create_dir(&groups[1]).unwrap();
        Traces::leave(&staging, &path, original, &groups).unwrap();
        std::mem::forget(Annotated::new(&path, original, &place.path().join("criu-one.conf")).unwrap());
        assert_ne!(fs::read(&path).unwrap(), original);
        assert!(Traces::take_away(&staging));
        assert_eq!(fs::read(&path).unwrap(), original);
        assert!(groups[1].exists(), "it is no control group");
        fs::write(&path, "{}").unwrap();
        assert!(Traces::take_away(&staging));
        assert_eq!(fs::read(&path).unwrap(), b"{}", "somebody has changed it since");
    }

    #[test]
    fn only_crun_is_secluded() {
        let config = br#"{"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup"}], "linux": {"cgroupsPath": "relative"}}"#;
        for (flavor, config) in [(Flavor::Runc, &config[..]), (Flavor::Crun, b"{")] {
            let plan = Seclusion::plan(flavor, "one", config);
            assert!(plan.places.is_empty() && plan.bound.is_empty(), "{flavor:?}");
        }
    }
}
