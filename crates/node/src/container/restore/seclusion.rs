//! What it takes to have crun restore a container in a control group of its own: where that is, what the container is shown instead of it, and what
//! tells the next command of it where this one is killed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Wanted;
use crate::container::route::{Runtime, started};
use crate::container::{ContainerError, Flavor};
use crate::container::{enclosure, orphan};
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
    /// The container's groups that are not there yet.
    pub(super) to_come: Vec<PathBuf>,
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
        Seclusion { places, bound, to_come: remains::groups_to_come(&own) }
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
    /// The runtime's program.
    program: PathBuf,
    flavor: Flavor,
    /// The directory of its states, where it is not the usual one.
    root: Option<PathBuf>,
    id: String,
    bundle: PathBuf,
    /// The bundle's configuration, as it is when the restore is over.
    config: String,
    /// The groups in which the runtime is.
    enclosure: Vec<PathBuf>,
    /// Those of the container that were not there before.
    groups: Vec<PathBuf>,
}

impl Traces {
    /// Writes down, in the staging directory, what there will be.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn leave(
        staging: &Path,
        runtime: &Runtime,
        wanted: &Wanted<'_>,
        config: &[u8],
        secluded: &Seclusion,
    ) -> Result<(), ContainerError> {
        let traces = Traces {
            program: runtime.program().to_owned(),
            flavor: runtime.flavor(),
            root: wanted.root.map(Path::to_owned),
            id: wanted.id.to_owned(),
            bundle: wanted.bundle.to_owned(),
            config: String::from_utf8_lossy(config).into_owned(),
            enclosure: secluded.places.clone(),
            groups: secluded.to_come.clone(),
        };
        let file = staging.join(TRACES);
        let written = serde_json::to_vec(&traces).map_err(std::io::Error::from);
        written.and_then(|bytes| fs::write(&file, bytes)).map_err(ContainerError::place(&file))
    }

    /// Takes away what a restore that was killed has left outside of its staging directory: half a container, too. Says whether all of it is gone.
    pub(super) fn take_away(staging: &Path) -> bool {
        let traces = fs::read(staging.join(TRACES)).ok();
        let Some(traces) = traces.and_then(|bytes| serde_json::from_slice::<Traces>(&bytes).ok()) else {
            return true;
        };
        let Traces { program, flavor, root, id, bundle, .. } = &traces;
        if orphan::is_attended(bundle, id) {
            return false;
        }
        orphan::outlast(bundle, id);
        orphan::end_criu(staging);
        let path = bundle.join("config.json");
        let annotated = fs::read(&path).is_ok_and(|config| is_ours(&config, staging));
        if annotated && let Err(error) = replace(&path, traces.config.as_bytes()) {
            tracing::warn!(%error, path = %path.display(), "the bundle's configuration stays changed");
        }
        let runtime = Runtime::find(*flavor, Some(program));
        if let Ok(runtime) = runtime
            // The runtime may know of processes that CRIU has not let go.
            && !(started(staging) && runtime.has_whole(root.as_deref(), id))
        {
            remains::end_groups(&traces.groups);
            runtime.forget(root.as_deref(), id, Some(bundle));
        }
        enclosure::take_away(&traces.enclosure)
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
        let kept = place.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let runtime = Runtime::find(Flavor::Crun, Some(Path::new("/bin/false"))).unwrap();
        let wanted = Wanted {
            id: "one",
            bundle: place.path(),
            root: Some(place.path()),
            images: place.path(),
            detach: true,
            pid_file: None,
            external_unix: false,
            shell_job: false,
            stopped: false,
            alone: false,
            staging: place.path(),
        };
        let secluded = Seclusion {
            places: vec![PathBuf::from("/sys/fs/cgroup/memory/torpor-restore-0-0"), kept.clone()],
            ..Seclusion::default()
        };
        Traces::leave(&staging, &runtime, &wanted, original, &secluded).unwrap();
        std::mem::forget(Annotated::new(&path, original, &place.path().join("criu-one.conf")).unwrap());
        assert_ne!(fs::read(&path).unwrap(), original);
        assert!(Traces::take_away(&staging));
        assert_eq!(fs::read(&path).unwrap(), original);
        assert!(kept.exists(), "it is no control group");
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
