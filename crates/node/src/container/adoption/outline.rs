//! What an engine has to know of a container to make one like it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Adopter, Wanted};
use crate::container::bound::{self, Bound};
use crate::container::generation::Facts;
use crate::install::HANDLER;

/// Mounts that engines make for every container.
const OWN_MOUNTS: [&str; 6] =
    ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/dev/shm", "/run/.containerenv", "/run/secrets"];
/// Where engines keep volumes.
const VOLUMES: [&str; 2] = ["/var/lib/docker/volumes/", "/var/lib/containers/storage/volumes/"];

/// The outline of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outline {
    /// Its image.
    pub image: Option<String>,
    /// Its image's ID.
    pub image_id: Option<String>,
    /// Its command.
    pub command: Vec<String>,
    /// What it has mounted of the machine's, but for what engines mount into every container.
    pub mounts: Vec<Mount>,
}

/// Something of the machine's that a container had mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where the container had it.
    pub at: PathBuf,
    /// Where it came from: a path, or the name of an engine's volume.
    pub from: String,
}

impl Outline {
    /// That of a checkpoint.
    #[must_use]
    pub fn of(facts: &Facts) -> Outline {
        Outline {
            image: facts.image.clone(),
            image_id: facts.image_id.clone(),
            command: facts.command.clone(),
            mounts: facts.config.as_ref().map(bound_mounts).unwrap_or_default(),
        }
    }

    /// Mounts that no flag of a `create` mentions.
    pub(super) fn missing_mounts(&self, flags: &[String]) -> Vec<Mount> {
        let given = |mount: &&Mount| {
            let at = mount.at.to_str().unwrap_or_default();
            flags.iter().any(|flag| mentions(flag, at))
        };
        self.mounts.iter().filter(|mount| !given(mount)).cloned().collect()
    }

    /// How the image may be known: by its ID, which means the very one, and by its name.
    pub(super) fn images(&self) -> Vec<String> {
        let id = self.image_id.as_ref().map(|id| format!("sha256:{}", id.trim_start_matches("sha256:")));
        id.into_iter().chain(self.image.clone()).collect()
    }

    /// The words of a `create`.
    pub(super) fn words(
        &self,
        adopter: Adopter,
        wanted: &Wanted<'_>,
        image: &str,
        (key, value): (&str, &str),
        id_file: Option<&Path>,
    ) -> Vec<String> {
        let text = |word: &str| word.to_owned();
        // Podman takes the runtime for itself, Docker for the container.
        let mut words: Vec<String> = match adopter {
            Adopter::Docker => ["create", "--runtime", HANDLER],
            Adopter::Podman => ["--runtime", HANDLER, "create"],
        }
        .map(str::to_owned)
        .to_vec();
        words.extend([text("--annotation"), format!("{key}={value}")]);
        if let Some(name) = wanted.name {
            words.extend([text("--name"), text(name)]);
        }
        if let Some(path) = id_file {
            words.extend([text("--cidfile"), path.display().to_string()]);
        }
        let (program, arguments) = match self.command.split_first() {
            Some((program, arguments)) => (Some(program), arguments),
            None => (None, &[][..]),
        };
        if let Some(program) = program {
            words.extend([text("--entrypoint"), program.clone()]);
        }
        words.extend(wanted.flags.iter().cloned());
        words.push(text(image));
        words.extend(arguments.iter().cloned());
        words
    }
}

/// Mounts from outside in a configuration, but for those that engines make.
pub(crate) fn bound_mounts(config: &Value) -> Vec<Mount> {
    let mut found = Vec::new();
    for Bound { at, from, .. } in bound::all(config) {
        if !OWN_MOUNTS.contains(&at) {
            let volume =
                VOLUMES.iter().find_map(|volumes| from.strip_prefix(volumes)?.strip_suffix("/_data"));
            found.push(Mount { at: at.into(), from: volume.unwrap_or(from).to_owned() });
        }
    }
    found
}

/// Whether a word of a `create` is about a mount at a path: `FROM:PATH[:OPTIONS]`, or `…,target=PATH,…`.
fn mentions(flag: &str, at: &str) -> bool {
    flag.split([',', ':', '=']).any(|part| part == at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::adoption::AdoptionError;

    fn outline(mounts: Value) -> Outline {
        let mounts = bound_mounts(&json!({ "mounts": mounts }));
        let command = ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec();
        Outline { image: Some("worker:1".to_owned()), image_id: Some("abc".to_owned()), command, mounts }
    }

    fn flags(flags: &[&str]) -> Vec<String> {
        flags.iter().map(|flag| (*flag).to_owned()).collect()
    }

    #[test]
    fn what_engines_are_told() {
        for (adopter, create) in
            [(Adopter::Docker, "create --runtime torpor"), (Adopter::Podman, "--runtime torpor create")]
        {
            let given = flags(&["--network", "none"]);
            let wanted = Wanted { name: Some("web"), image: None, flags: &given };
            let annotation = ("torpor.dev/restore", "shop/web@3");
            let told = outline(json!([])).words(adopter, &wanted, "worker:1", annotation, None);
            let rest = "--annotation torpor.dev/restore=shop/web@3 --name web --entrypoint /bin/sh --network none worker:1 -c true";
            assert_eq!(told.join(" "), format!("{create} {rest}"));
        }
    }

    #[test]
    fn an_image_is_known_by_its_id_before_its_name() {
        assert_eq!(outline(json!([])).images(), ["sha256:abc", "worker:1"]);
    }

    #[test]
    fn mounts_from_outside_are_for_who_restores_to_give() {
        let outline = outline(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/docker/containers/c/hosts"},
            {"destination": "/data", "type": "bind", "source": "/var/lib/docker/volumes/data/_data", "options": ["rbind"]},
            {"destination": "/srv", "type": "none", "source": "/srv/web", "options": ["rbind", "ro"]},
        ]));
        let missing = |given: &[&str]| outline.missing_mounts(&flags(given));
        let [data, srv] = [("/data", "data"), ("/srv", "/srv/web")]
            .map(|(at, from)| Mount { at: at.into(), from: from.to_owned() });
        assert_eq!(missing(&[]), [data.clone(), srv.clone()]);
        assert_eq!(missing(&["-v", "other:/data"]), std::slice::from_ref(&srv));
        assert_eq!(missing(&["--volume=/x:/srv:ro"]), [data]);
        assert_eq!(missing(&["--mount", "type=volume,source=data,target=/data"]), [srv]);
        let what = "the container in web@1".to_owned();
        let error = AdoptionError::Mounts { what, missing: missing(&[]) };
        assert_eq!(
            error.to_string(),
            "the container in web@1 had mounts that are not given: /data (from data), /srv (from /srv/web)"
        );
        assert!(
            error.remedy().contains("`-- --volume data:/data --volume /srv/web:/srv`"),
            "{}",
            error.remedy()
        );
    }
}
