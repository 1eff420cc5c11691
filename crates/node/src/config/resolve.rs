//! From what was given to what it means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use torpor_store::name::Name;

use super::choice::{
    AfterCrash, AllowChanged, Capabilities, CpuBaseline, ExtUnixSockets, Fenced, HugePages, Namespace,
    NodeStateUnreachable, OnRestoreFailure, RootFiles, Slots, Tcp, VolumePolicy,
};
use super::error::{ConfigError, ValueError};
use super::given::{Dialect, Given};
use super::hook::{HookConfig, check_url, kind, scalar};
use super::quantity::{self, PortMap, Signal};
use super::surroundings::Surroundings;
use super::{
    Credentials, Hooks, HttpConfig, MemoryBudget, NodeStateConfig, Retention, RunConfig, StoreConfig,
    VolumeRule,
};

const DEFAULT_STORE: &str = "file:///var/lib/torpor";
const DEFAULT_GRACE: Duration = Duration::from_secs(25);
const LEAST_STOP_RESERVE: Duration = Duration::from_secs(5);
const DEFAULT_NODE_STATE_TIMEOUT: Duration = Duration::from_secs(2);
/// 128 + SIGTERM: what a program that a drain ended would have ended with.
const DEFAULT_EXIT_CODE: u8 = 143;
const DEFAULT_KEEP_LAST: u32 = 3;
/// The name of a store that stands for one program.
const IMAGE_DIR_NAME: &str = "image-dir";
/// The kernel hands out no PID below this once it has wrapped around (RESERVED_PIDS, kernel/pid.c), and none above
/// PID_MAX_LIMIT.
const PID_BASES: (u64, u64) = (300, 4_194_304 - 1);

impl RunConfig {
    /// What `given` means for `program` in these `surroundings`. Touches nothing.
    ///
    /// # Errors
    /// Where a value cannot be understood, or two contradict each other.
    pub fn resolve(
        given: &Given,
        dialect: Dialect,
        program: Vec<OsString>,
        surroundings: &Surroundings,
    ) -> Result<RunConfig, ConfigError> {
        let read = Reader { given, surroundings };
        let no_restore = read.switch("noRestore")?;
        let (name, name_given) = read.name(&program, no_restore)?;
        let grace = read.duration("grace")?.unwrap_or(DEFAULT_GRACE);
        Ok(RunConfig {
            slots: read.slots(&name, name_given)?,
            store: read.store(dialect)?,
            retention: read.retention()?,
            trigger_signal: read.trigger_signal()?,
            every: read.positive_duration("every")?,
            control_socket: read
                .path("controlSocket")?
                .unwrap_or_else(|| surroundings.control_socket(&name.to_string())),
            control_group: read.number("controlGroup", 0, u64::from(u32::MAX - 1))?.map(|gid| gid as u32),
            http: read.http()?,
            node_state: read.node_state()?,
            grace,
            stop_reserve: read.stop_reserve(grace)?,
            exit_code: read.number("exitCode", 0, 255)?.map_or(DEFAULT_EXIT_CODE, |code| code as u8),
            no_restore,
            on_restore_failure: read
                .word("onRestoreFailure", OnRestoreFailure::from_word, OnRestoreFailure::WORDS)?
                .unwrap_or(OnRestoreFailure::Fresh),
            after_crash: read
                .word("afterCrash", AfterCrash::from_word, AfterCrash::WORDS)?
                .unwrap_or(AfterCrash::Last),
            fenced: read.word("fenced", Fenced::from_word, Fenced::WORDS)?.unwrap_or(Fenced::End),
            allow_changed: read.words("allowChanged", AllowChanged::from_word, AllowChanged::WORDS)?,
            leave_stopped: read.switch("leaveStopped")?,
            pid_base: read.number("pidBase", PID_BASES.0, PID_BASES.1)?.map(|pid| pid as u32),
            capabilities: read
                .word("capabilities", Capabilities::from_word, Capabilities::WORDS)?
                .unwrap_or(Capabilities::Drop),
            seccomp_profile: read.path("seccompProfile")?,
            ipc_namespace: read
                .word("ipcNamespace", Namespace::from_word, Namespace::WORDS)?
                .unwrap_or(Namespace::Auto),
            time_namespace: read
                .word("timeNamespace", Namespace::from_word, Namespace::WORDS)?
                .unwrap_or(Namespace::Auto),
            cpu_baseline: read.word("cpuBaseline", CpuBaseline::from_word, CpuBaseline::WORDS)?,
            status_file: read
                .path("statusFile")?
                .unwrap_or_else(|| surroundings.status_file(&name.to_string())),
            additional_paths: read.paths("additionalPaths")?,
            exclude: read.paths("exclude")?,
            volumes: read.volumes()?,
            root_files: read
                .word("rootFiles", RootFiles::from_word, RootFiles::WORDS)?
                .unwrap_or(RootFiles::Auto),
            inotify_incompatible_paths: read.paths("inotifyIncompatiblePaths")?,
            tcp: read.word("tcp", Tcp::from_word, Tcp::WORDS)?.unwrap_or(Tcp::Close),
            tcp_listen_remap: read
                .each("tcpListenRemap", |text| PortMap::parse(text).map_err(ValueError::Quantity))?,
            ext_unix_sockets: read
                .word("extUnixSockets", ExtUnixSockets::from_word, ExtUnixSockets::WORDS)?
                .unwrap_or(ExtUnixSockets::Reconnect),
            memory_budget: read.memory_budget()?,
            huge_pages: read
                .word("hugePages", HugePages::from_word, HugePages::WORDS)?
                .unwrap_or(HugePages::Gather),
            hooks: Hooks {
                pre_checkpoint: read.hooks("preCheckpoint")?,
                post_checkpoint: read.hooks("postCheckpoint")?,
                post_restore: read.hooks("postRestore")?,
                on_app_ready: read.hooks("onAppReady")?,
            },
            criu: read.path("criu")?,
            criu_options: read.each("criuOptions", |text| Ok(text.to_owned()))?,
            criu_configuration: read.switch("criuConfiguration")?,
            name,
            name_given,
            program,
        })
    }
}

/// Reads values of settings as what they should be, with errors that say where they were given.
struct Reader<'a> {
    given: &'a Given,
    surroundings: &'a Surroundings,
}

impl Reader<'_> {
    fn wrong(&self, key: &'static str, source: ValueError) -> ConfigError {
        ConfigError::Value { place: self.given.place(key), source }
    }

    /// Reads one text and understands it by `parse`.
    fn one<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.given.value(key) else { return Ok(None) };
        scalar(value).and_then(|text| parse(&text)).map(Some).map_err(|source| self.wrong(key, source))
    }

    /// Reads a list, or one value in place of a list of one.
    fn each<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Vec<T>, ConfigError> {
        let entries = match self.given.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(entries)) => entries.as_slice(),
            Some(single) => std::slice::from_ref(single),
        };
        entries
            .iter()
            .map(|entry| scalar(entry).and_then(|text| parse(&text)))
            .collect::<Result<_, _>>()
            .map_err(|source| self.wrong(key, source))
    }

    fn word<T>(
        &self,
        key: &'static str,
        from_word: impl FnOnce(&str) -> Option<T>,
        allowed: &'static [&'static str],
    ) -> Result<Option<T>, ConfigError> {
        self.one(key, |text| switch_word(text, from_word, allowed))
    }

    fn words<T>(
        &self,
        key: &'static str,
        from_word: impl Fn(&str) -> Option<T>,
        allowed: &'static [&'static str],
    ) -> Result<Vec<T>, ConfigError> {
        self.each(key, |text| switch_word(text, &from_word, allowed))
    }

    fn switch(&self, key: &'static str) -> Result<bool, ConfigError> {
        let truth = self.one(key, |text| match text {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(ValueError::Word { found: text.to_owned(), allowed: &["true", "false"] }),
        })?;
        Ok(truth.unwrap_or(false))
    }

    fn number(&self, key: &'static str, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
        self.one(key, |text| match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(ValueError::Number { found: text.to_owned(), least, most }),
        })
    }

    fn duration(&self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.one(key, |text| Ok(quantity::duration(text)?))
    }

    fn positive_duration(&self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        let duration = self.duration(key)?;
        if duration == Some(Duration::ZERO) {
            return Err(self.wrong(key, ValueError::Zero));
        }
        Ok(duration)
    }

    /// A path; on the command line it may begin at the current directory.
    fn absolute(&self, key: &str, text: &str) -> Result<PathBuf, ValueError> {
        let path = Path::new(text);
        if path.is_absolute() {
            Ok(path.to_owned())
        } else if !text.is_empty() && self.given.is_flag(key) {
            Ok(self.surroundings.current_dir.join(path))
        } else {
            Err(ValueError::Path { found: text.to_owned() })
        }
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        self.one(key, |text| self.absolute(key, text))
    }

    fn paths(&self, key: &'static str) -> Result<Vec<PathBuf>, ConfigError> {
        self.each(key, |text| self.absolute(key, text))
    }

    fn hooks(&self, key: &'static str) -> Result<Vec<HookConfig>, ConfigError> {
        self.given
            .value(key)
            .map_or(Ok(Vec::new()), HookConfig::list)
            .map_err(|source| self.wrong(key, source))
    }

    fn name(&self, program: &[OsString], no_restore: bool) -> Result<(Name, bool), ConfigError> {
        if program.is_empty() && no_restore {
            return Err(ConfigError::NoProgram);
        }
        if let Some(name) = self.one("name", |text| Ok(text.parse::<Name>()?))? {
            return Ok((name, true));
        }
        let derived = match program.first() {
            _ if self.image_dir()?.is_some() => IMAGE_DIR_NAME.to_owned(),
            Some(program) => self.surroundings.default_name(&program.to_string_lossy()),
            None => return Err(ConfigError::NoProgram),
        };
        let name = derived.parse::<Name>().map_err(|error| self.wrong("name", error.into()))?;
        Ok((name, false))
    }

    /// A slot that is said ends the choice; one that a pod's ordinal says is the pod's.
    fn slots(&self, name: &Name, name_given: bool) -> Result<Slots, ConfigError> {
        match self.word("slots", Slots::from_word, Slots::WORDS)?.unwrap_or(Slots::Own) {
            Slots::Claim if name.slot().is_some() && name_given => Err(ConfigError::Conflict {
                one: self.given.place("slots"),
                other: self.given.place("name"),
                remedy: "leave the slot out of the name (what follows the colon), or slots",
            }),
            Slots::Claim if name.slot().is_some() => Ok(Slots::Own),
            slots => Ok(slots),
        }
    }

    /// The image directory; crik takes an empty one for none.
    fn image_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        match self.given.value("imageDir") {
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            _ => self.path("imageDir"),
        }
    }

    fn store(&self, dialect: Dialect) -> Result<Option<StoreConfig>, ConfigError> {
        let conflict = |one, other, remedy| ConfigError::Conflict {
            one: self.given.place(one),
            other: self.given.place(other),
            remedy,
        };
        let credentials = match (self.path("passphraseFile")?, self.path("keyFile")?) {
            (None, None) => Credentials::None,
            (Some(path), None) => Credentials::PassphraseFile(path),
            (None, Some(path)) => Credentials::KeyFile(path),
            (Some(_), Some(_)) => {
                return Err(conflict("passphraseFile", "keyFile", "give the one this machine is to use"));
            }
        };
        let url = self.one("store", |text| self.store_url(text))?;
        match (url, self.image_dir()?) {
            (Some(_), Some(_)) => {
                Err(conflict("store", "imageDir", "imageDir holds a store of its own; give one"))
            }
            (None, Some(directory)) => {
                Ok(Some(StoreConfig { url: file_url(&directory), must_exist: true, credentials }))
            }
            (Some(url), None) => Ok(Some(StoreConfig { url, must_exist: false, credentials })),
            (None, None) => Ok((dialect == Dialect::Torpor).then(|| StoreConfig {
                url: DEFAULT_STORE.to_owned(),
                must_exist: false,
                credentials,
            })),
        }
    }

    /// A URL as it is, and a path as one.
    fn store_url(&self, text: &str) -> Result<String, ValueError> {
        let wrong = |problem| ValueError::Url { found: text.to_owned(), problem };
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(text.to_owned()),
            Some(("file", _)) => {
                Err(wrong("a file URL has three slashes and an absolute path: file:///path"))
            }
            Some((scheme, rest)) if !rest.is_empty() && is_scheme(scheme) => Ok(text.to_owned()),
            Some(_) => Err(wrong("it is no URL")),
            None => Ok(file_url(&self.absolute("store", text)?)),
        }
    }

    fn retention(&self) -> Result<Retention, ConfigError> {
        Ok(Retention {
            keep_last: self
                .number("keepLast", 1, u64::from(u32::MAX))?
                .map_or(DEFAULT_KEEP_LAST, |n| n as u32),
            keep_within: self.positive_duration("keepWithin")?,
        })
    }

    fn trigger_signal(&self) -> Result<Signal, ConfigError> {
        let signal = self.one("triggerSignal", |text| {
            let signal = Signal::parse(text)?;
            if signal.can_be_caught() {
                Ok(signal)
            } else {
                Err(ValueError::Uncatchable { signal: signal.to_string() })
            }
        })?;
        Ok(signal.unwrap_or(Signal::TERM))
    }

    fn stop_reserve(&self, grace: Duration) -> Result<Duration, ConfigError> {
        match self.duration("stopReserve")? {
            Some(reserve) if reserve > grace => Err(ConfigError::Conflict {
                one: self.given.place("stopReserve"),
                other: self.given.place("grace"),
                remedy: "the reserve is a part of grace: make it shorter, or grace longer",
            }),
            Some(reserve) => Ok(reserve),
            // Whole seconds, so that it reads well.
            None => Ok(Duration::from_secs(grace.as_secs() / 3).max(LEAST_STOP_RESERVE).min(grace)),
        }
    }

    fn http(&self) -> Result<Option<HttpConfig>, ConfigError> {
        let listen = self.one("httpListen", |text| {
            text.parse().map_err(|_| ValueError::Address { found: text.to_owned() })
        })?;
        let needs = |one, other, remedy| ConfigError::Needs { one: self.given.place(one), other, remedy };
        match (listen, self.path("httpTokenFile")?) {
            (Some(listen), Some(token_file)) => Ok(Some(HttpConfig { listen, token_file })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(needs("httpListen", "httpTokenFile", "the endpoint is never served without a token"))
            }
            (None, Some(_)) => {
                Err(needs("httpTokenFile", "httpListen", "say where the endpoint is to listen"))
            }
        }
    }

    fn node_state(&self) -> Result<Option<NodeStateConfig>, ConfigError> {
        if self.given.value("nodeStateServerURL").and_then(Value::as_str) == Some("") {
            return Ok(None);
        }
        let url = self.one("nodeStateServerURL", |text| {
            check_url(text).map(|()| text.trim_end_matches('/').to_owned())
        })?;
        let node = self.one("nodeName", |text| Ok(text.to_owned()))?;
        let timeout = self.positive_duration("nodeStateTimeout")?.unwrap_or(DEFAULT_NODE_STATE_TIMEOUT);
        let unreachable = self
            .word("nodeStateUnreachable", NodeStateUnreachable::from_word, NodeStateUnreachable::WORDS)?
            .unwrap_or(NodeStateUnreachable::Suspend);
        let node = node.or_else(|| self.surroundings.node.clone()).unwrap_or_default();
        Ok(url.map(|url| NodeStateConfig { url, node, timeout, unreachable }))
    }

    fn volumes(&self) -> Result<Vec<VolumeRule>, ConfigError> {
        let wrong = |found: String| ValueError::VolumeRule { found };
        let rule = |path: &str, policy: &str| {
            Ok(VolumeRule {
                path: self.absolute("volumes", path)?,
                policy: switch_word(policy, VolumePolicy::from_word, VolumePolicy::WORDS)?,
            })
        };
        if let Some(Value::Object(rules)) = self.given.value("volumes") {
            return rules
                .iter()
                .map(|(path, policy)| match policy {
                    Value::String(policy) => rule(path, policy),
                    other => Err(ValueError::Kind { expected: "carry, leave or refuse", found: kind(other) }),
                })
                .collect::<Result<_, _>>()
                .map_err(|source| self.wrong("volumes", source));
        }
        self.each("volumes", |text| {
            let (path, policy) = text.rsplit_once('=').ok_or_else(|| wrong(text.to_owned()))?;
            rule(path, policy)
        })
    }

    fn memory_budget(&self) -> Result<MemoryBudget, ConfigError> {
        let budget = self.one("memoryBudget", |text| match text {
            "auto" => Ok(MemoryBudget::Auto),
            text => match quantity::size(text)? {
                0 => Err(ValueError::Zero),
                bytes => Ok(MemoryBudget::Bytes(bytes)),
            },
        })?;
        Ok(budget.unwrap_or(MemoryBudget::Auto))
    }
}

/// One of `allowed`. YAML 1.1 takes `on`, `off`, `yes` and `no` for truth, so those words are taken back here.
fn switch_word<T>(
    text: &str,
    from_word: impl FnOnce(&str) -> Option<T>,
    allowed: &'static [&'static str],
) -> Result<T, ValueError> {
    let word = match text {
        "true" if allowed.contains(&"on") => "on",
        "false" if allowed.contains(&"off") => "off",
        other => other,
    };
    from_word(word).ok_or_else(|| ValueError::Word { found: text.to_owned(), allowed })
}

/// A directory as a URL, where a percent sign begins an escape.
fn file_url(directory: &Path) -> String {
    format!("file://{}", directory.display().to_string().replace('%', "%25"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests;
