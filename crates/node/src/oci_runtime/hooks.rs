//! Hooks of a container's configuration, as far as a restore does not run them (opencontainers/runtime-spec, `config.md`, "POSIX-platform
//! Hooks").
//!
//! runc runs `prestart` and `createRuntime` while it restores, crun none; `poststop` both, when they delete. What is left is for us:
//! `poststart` at the start, and with crun the first two once all is there and nothing runs. `createContainer` and `startContainer` run
//! in the midst of making a container, by a process that a restore does not have; where there are such, the container is not restored.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How often it is looked whether a hook has ended.
const LOOK: Duration = Duration::from_millis(2);
/// How much of what a hook says is told, in bytes.
const SAID: u64 = 1024;

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the program runs, in the runtime's namespaces.
    CreateRuntime,
    /// After it was started.
    Poststart,
}

/// A configuration's hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    prestart: Option<Vec<Hook>>,
    create_runtime: Option<Vec<Hook>>,
    create_container: Option<Vec<Hook>>,
    start_container: Option<Vec<Hook>>,
    poststart: Option<Vec<Hook>>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Hook {
    path: PathBuf,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    /// In seconds.
    timeout: Option<u64>,
}

/// What of a configuration a hook is told, and what it names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    oci_version: String,
    annotations: Option<BTreeMap<String, String>>,
    hooks: Option<Hooks>,
}

/// Why a hook has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciHookError {
    /// It cannot be run.
    #[error("the hook {} cannot be run", path.display())]
    Run {
        /// The hook.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("the hook {} failed ({status}): {said}", path.display())]
    Failed {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        said: String,
    },
    /// It took too long.
    #[error("the hook {} took longer than {seconds} seconds", path.display())]
    Expired {
        /// The hook.
        path: PathBuf,
        /// How long it may take.
        seconds: u64,
    },
}

/// A container whose hooks are run.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a str,
    pub(super) pid: i32,
    pub(super) bundle: &'a Path,
    /// The bundle's configuration.
    pub(super) config: &'a [u8],
}

/// The kind of hooks that no restore can run; none where there are none.
pub(super) fn impossible(config: &[u8]) -> Option<&'static str> {
    let hooks = read(config).hooks?;
    let any = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    match (any(&hooks.create_container), any(&hooks.start_container)) {
        (true, _) => Some("createContainer"),
        (false, true) => Some("startContainer"),
        (false, false) => None,
    }
}

fn read(config: &[u8]) -> Config {
    // One that nobody could read got nobody as far as here.
    serde_json::from_slice(config).unwrap_or_default()
}

impl Subject<'_> {
    /// Runs the hooks of a point, one after another, until one fails.
    pub(super) fn run(&self, point: Point) -> Result<(), OciHookError> {
        let config = read(self.config);
        let hooks = config.hooks.clone().unwrap_or_default();
        let lists = match point {
            Point::CreateRuntime => [hooks.prestart, hooks.create_runtime],
            Point::Poststart => [hooks.poststart, None],
        };
        let state = self.state(&config, point);
        lists.into_iter().flatten().flatten().try_for_each(|hook| hook.run(&state))
    }

    /// The state that a hook reads, as the specification has it.
    fn state(&self, config: &Config, point: Point) -> Vec<u8> {
        let status = match point {
            Point::CreateRuntime => "creating",
            Point::Poststart => "running",
        };
        let version = if config.oci_version.is_empty() { "1.0.0" } else { &config.oci_version };
        let state = serde_json::json!({
            "ociVersion": version, "id": self.id, "status": status, "pid": self.pid, "bundle": self.bundle,
            "annotations": config.annotations.clone().unwrap_or_default(),
        });
        state.to_string().into_bytes()
    }
}

impl Hook {
    fn run(&self, state: &[u8]) -> Result<(), OciHookError> {
        let failed = |source| OciHookError::Run { path: self.path.clone(), source };
        let mut command = Command::new(&self.path);
        if let Some([name, rest @ ..]) = self.args.as_deref() {
            use std::os::unix::process::CommandExt;
            command.arg0(name).args(rest);
        }
        command.env_clear();
        for (key, value) in self.env.iter().flatten().filter_map(|setting| setting.split_once('=')) {
            command.env(key, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read it need not. A state is shorter than a pipe.
            let _ = input.write_all(state);
        }
        let said = child.stderr.take().map(|said| std::thread::spawn(move || ending(said)));
        let until = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                let seconds = self.timeout.unwrap_or_default();
                return Err(OciHookError::Expired { path: self.path.clone(), seconds });
            }
            std::thread::sleep(LOOK);
        };
        if status.success() {
            // What it left in the background may hold the pipe for ever.
            return Ok(());
        }
        let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
        Err(OciHookError::Failed { path: self.path.clone(), status, said })
    }
}

/// What a hook says, in one line.
fn ending(said: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = said.take(SAID).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(hooks: serde_json::Value, point: Point) -> Result<(), OciHookError> {
        let config =
            serde_json::json!({"ociVersion": "1.2.0", "annotations": {"a": "b"}, "hooks": hooks}).to_string();
        Subject { id: "one", pid: 7, bundle: Path::new("/b"), config: config.as_bytes() }.run(point)
    }

    #[test]
    fn a_hook_reads_the_state_and_has_words_and_environment_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let script = format!("cat > {}; echo \"$0 $1 $X\" >> {}", out.display(), out.display());
        let hook = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one"], "env": ["X=y", "PATH=/bin:/usr/bin"]});
        run(serde_json::json!({"poststart": [hook]}), Point::Poststart).unwrap();
        let said = std::fs::read_to_string(&out).unwrap();
        let (state, words) = said.rsplit_once('}').unwrap();
        assert_eq!(words.trim(), "zero one y");
        let state: serde_json::Value = serde_json::from_str(&format!("{state}}}")).unwrap();
        assert_eq!(
            state,
            serde_json::json!({"ociVersion": "1.2.0", "id": "one", "status": "running", "pid": 7, "bundle": "/b", "annotations": {"a": "b"}})
        );
        std::fs::remove_file(&out).unwrap();
        run(serde_json::json!({"poststart": [hook], "prestart": null}), Point::CreateRuntime).unwrap();
        assert!(!out.exists());
    }

    #[test]
    fn the_first_that_fails_is_told() {
        let hook =
            |script: &str| serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1});
        let failed = run(
            serde_json::json!({"prestart": [hook("echo no >&2; exit 3"), hook("exit 4")]}),
            Point::CreateRuntime,
        );
        assert_eq!(failed.unwrap_err().to_string(), "the hook /bin/sh failed (exit status: 3): no");
        let slow = run(serde_json::json!({"createRuntime": [hook("exec sleep 100")]}), Point::CreateRuntime);
        assert!(matches!(slow, Err(OciHookError::Expired { seconds: 1, .. })));
        let none = serde_json::json!({"poststart": [{"path": "/no/such"}]});
        assert!(matches!(run(none, Point::Poststart), Err(OciHookError::Run { .. })));
    }

    #[test]
    fn hooks_that_no_restore_runs_are_named() {
        for (config, named) in [
            (r#"{}"#, None),
            (r#"{"hooks": null}"#, None),
            (r#"{"hooks": {"createContainer": [], "poststart": [{"path": "/x"}]}}"#, None),
            (r#"{"hooks": {"createContainer": [{"path": "/x"}]}}"#, Some("createContainer")),
            (r#"{"hooks": {"startContainer": [{"path": "/x"}]}}"#, Some("startContainer")),
        ] {
            assert_eq!(impossible(config.as_bytes()), named, "{config}");
        }
    }
}
