//! A configuration printed as the file that would give it.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::given::{Given, Origin};
use super::hook::HookConfig;
use super::quantity::{show_duration, show_size};
use super::setting::{SETTINGS, Setting};
use super::{Credentials, MemoryBudget, RunConfig};

impl RunConfig {
    /// This configuration as a YAML file, each key under a comment that says where its value is from. Keys without a
    /// value are comments, with what they would decide.
    #[must_use]
    pub fn explain(&self, given: &Given) -> String {
        let mut text = String::new();
        for setting in SETTINGS {
            let value = self.value(setting.key);
            let origin = match given.origin(setting.key) {
                Some(Origin::Flag) => format!("from --{}", setting.flag()),
                Some(Origin::Variable) => format!("from {}", setting.variable()),
                Some(Origin::File(path)) => format!("from {}", path.display()),
                None => "default".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = match value {
                Value::Null => {
                    writeln!(text, "# {}. Default: {}.\n# {}:", setting.help, setting.default, setting.key)
                }
                value => {
                    writeln!(text, "# {}. {}.\n{}", setting.help, sentence(&origin), entry(setting, value))
                }
            };
        }
        text
    }

    /// The value of a key, `null` where it has none.
    fn value(&self, key: &str) -> Value {
        let paths = |paths: &[PathBuf]| list(paths, |path| json!(path));
        let store = self.store.as_ref();
        match key {
            "name" => json!(self.name.to_string()),
            "store" => store.filter(|store| !store.must_exist).map_or(Value::Null, |store| json!(store.url)),
            "imageDir" => store.filter(|store| store.must_exist).map_or(Value::Null, |store| {
                json!(store.url.strip_prefix("file://").map(|path| path.replace("%25", "%")))
            }),
            "passphraseFile" => match store.map(|store| &store.credentials) {
                Some(Credentials::PassphraseFile(path)) => json!(path),
                _ => Value::Null,
            },
            "keyFile" => match store.map(|store| &store.credentials) {
                Some(Credentials::KeyFile(path)) => json!(path),
                _ => Value::Null,
            },
            "keepLast" => json!(self.retention.keep_last),
            "keepWithin" => json!(self.retention.keep_within.map(show_duration)),
            "triggerSignal" => json!(self.trigger_signal),
            "every" => json!(self.every.map(show_duration)),
            "controlSocket" => json!(self.control_socket),
            "controlGroup" => json!(self.control_group),
            "httpListen" => json!(self.http.as_ref().map(|http| http.listen)),
            "httpTokenFile" => json!(self.http.as_ref().map(|http| &http.token_file)),
            "nodeStateServerURL" => json!(self.node_state.as_ref().map(|node| &node.url)),
            "nodeStateTimeout" => json!(self.node_state.as_ref().map(|node| show_duration(node.timeout))),
            "nodeStateUnreachable" => json!(self.node_state.as_ref().map(|node| node.unreachable)),
            "nodeName" => json!(self.node_state.as_ref().map(|node| &node.node)),
            "grace" => json!(show_duration(self.grace)),
            "stopReserve" => json!(show_duration(self.stop_reserve)),
            "exitCode" => json!(self.exit_code),
            "noRestore" => json!(self.no_restore),
            "onRestoreFailure" => json!(self.on_restore_failure),
            "afterCrash" => json!(self.after_crash),
            "fenced" => json!(self.fenced),
            "slots" => json!(self.slots),
            "allowChanged" => list(&self.allow_changed, |word| json!(word)),
            "leaveStopped" => json!(self.leave_stopped),
            "pidBase" => json!(self.pid_base),
            "capabilities" => json!(self.capabilities),
            "ipcNamespace" => json!(self.ipc_namespace),
            "timeNamespace" => json!(self.time_namespace),
            "cpuBaseline" => json!(self.cpu_baseline),
            "seccompProfile" => json!(self.seccomp_profile),
            "statusFile" => json!(self.status_file),
            "additionalPaths" => paths(&self.additional_paths),
            "exclude" => paths(&self.exclude),
            "volumes" => {
                list(&self.volumes, |rule| json!(format!("{}={}", rule.path.display(), rule.policy)))
            }
            "rootFiles" => json!(self.root_files),
            "inotifyIncompatiblePaths" => paths(&self.inotify_incompatible_paths),
            "tcp" => json!(self.tcp),
            "tcpListenRemap" => list(&self.tcp_listen_remap, |map| json!(map)),
            "extUnixSockets" => json!(self.ext_unix_sockets),
            "memoryBudget" => match self.memory_budget {
                MemoryBudget::Auto => json!("auto"),
                MemoryBudget::Bytes(bytes) => json!(show_size(bytes)),
            },
            "hugePages" => json!(self.huge_pages),
            "preCheckpoint" => hooks(&self.hooks.pre_checkpoint),
            "postCheckpoint" => hooks(&self.hooks.post_checkpoint),
            "postRestore" => hooks(&self.hooks.post_restore),
            "onAppReady" => hooks(&self.hooks.on_app_ready),
            "criu" => json!(self.criu),
            "criuConfiguration" => json!(self.criu_configuration),
            "criuOptions" => list(&self.criu_options, |option| json!(option)),
            _ => Value::Null,
        }
    }
}

fn list<T>(entries: &[T], value: impl Fn(&T) -> Value) -> Value {
    if entries.is_empty() { Value::Null } else { entries.iter().map(value).collect() }
}

fn hooks(hooks: &[HookConfig]) -> Value {
    list(hooks, |hook| json!(hook))
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `key: value`. JSON is YAML, so it is what is written where YAML's own writer refuses.
fn entry(setting: &Setting, value: Value) -> String {
    let json = format!("{}: {value}", setting.key);
    // A text in a folded block may lose a blank at its end.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let yaml = serde_saphyr::to_string_with_options(&json!({ setting.key: value }), options);
    yaml.map_or(json, |yaml| yaml.trim_end().to_owned())
}
