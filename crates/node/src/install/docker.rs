//! Docker's runtime: an entry in `daemon.json`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plan::{Plan, Wanted};
use super::site::Site;
use super::trial::{self, Trial};
use super::{HANDLER, InstallError};

pub(crate) const CONFIG: &str = "/etc/docker/daemon.json";
const PROGRAM: &str = "dockerd";
pub(crate) const PROGRAMS: [&str; 3] = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/etc/docker"];

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.site.has(&PROGRAMS) {
        return Ok(());
    }
    let text = wanted.site.read(CONFIG)?.unwrap_or_default();
    let path = wanted.site.on_machine(Path::new(CONFIG));
    let format = |because: String| InstallError::Format { path: path.clone(), because };
    let content = with_runtime(&text, runtime).map_err(format)?;
    plan.engines.push("Docker");
    let before = plan.changes.len();
    plan.trials.push(Trial::Docker(content.clone()));
    plan.write(path, content, "the runtime of Docker");
    plan.note_changed(before, "reload Docker: `systemctl reload docker`; containers run on");
    Ok(())
}

/// Has Docker's daemon look at its new configuration (it can since version 23).
///
/// # Errors
/// What it said.
pub(super) fn try_out(site: &Site, place: &trial::Place, config: &str) -> Result<(), String> {
    let path = place.write("daemon.json", config)?.display().to_string();
    match site.ask(PROGRAM, &["--validate", "--config-file", &path]) {
        Some(Err(said)) if !said.contains("unknown flag") => Err(said),
        _ => Ok(()),
    }
}

/// The program of our runtime, as a configuration has it.
///
/// # Errors
/// It is no configuration.
pub(crate) fn runtime(text: &str) -> Result<Option<PathBuf>, serde_json::Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config: Value = serde_json::from_str(text)?;
    Ok(config["runtimes"][HANDLER]["path"].as_str().map(PathBuf::from))
}

/// The configuration with our runtime in it; the same where it is there already.
fn with_runtime(text: &str, runtime: &Path) -> Result<String, String> {
    let mut config: Value = match text.trim() {
        "" => json!({}),
        text => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    let wanted = json!({"path": runtime});
    if config["runtimes"][HANDLER] == wanted {
        return Ok(text.to_owned());
    }
    let root = config.as_object_mut().ok_or("it is no object")?;
    let runtimes = root.entry("runtimes").or_insert_with(|| json!({}));
    runtimes.as_object_mut().ok_or("its `runtimes` are no object")?.insert(HANDLER.to_owned(), wanted);
    let text = serde_json::to_string_pretty(&config).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_added_to_what_is_there() {
        let runtime = Path::new("/opt/torpor/bin/torpor-runtime");
        let added = with_runtime(r#"{"log-driver": "journald", "runtimes": {"a": {"path": "/a"}}}"#, runtime)
            .unwrap();
        let config: Value = serde_json::from_str(&added).unwrap();
        assert_eq!(config["log-driver"], "journald");
        assert_eq!(config["runtimes"]["a"]["path"], "/a");
        assert_eq!(config["runtimes"]["torpor"]["path"], "/opt/torpor/bin/torpor-runtime");
        assert_eq!(with_runtime(&added, runtime).unwrap(), added);
        assert!(with_runtime("", runtime).unwrap().contains("torpor-runtime"));
        for refused in ["[", "[]", r#"{"runtimes": []}"#] {
            assert!(with_runtime(refused, runtime).is_err(), "{refused}");
        }
    }
}
