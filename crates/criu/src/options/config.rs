//! Options that the RPC interface has no field for, and those that experts add.
//!
//! They become lines of a configuration file, which overrules the fields (CRIU, `criu/config.c` and
//! `criu/cr-service.c`). A line is written as `key=value`: CRIU then takes it whole, without looking for quotes or
//! comments in it, and the same form serves options whose value is optional.

use std::path::PathBuf;

use crate::rpc::NetworkLock;

/// How a restore makes sure that a mapped file is the one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileValidation {
    /// By its size.
    Size,
    /// By its build id where it has one, else by its size; CRIU's default.
    BuildId,
}

/// Options without a field.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How mapped files are recognised.
    pub file_validation: Option<FileValidation>,
    /// Holes of deleted files are found by `FIEMAP`, which is faster where it works.
    pub ghost_fiemap: bool,
    /// Mappings with uprobes are accepted.
    pub allow_uprobes: bool,
    /// The connected socket, by its number within CRIU, on which pages are asked for that a dump with lazy pages leaves in
    /// place. The program is let go once the socket's other end is shut down for writing.
    pub page_socket: Option<i32>,
    /// A configuration file of the operator's; read first, so that options here win.
    pub file: Option<PathBuf>,
    /// Options of experts; they win.
    pub expert: Vec<ExpertOption>,
}

impl Config {
    /// The lines of the generated file, without those of [`Config::file`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let validation = self.file_validation.map(|method| match method {
            FileValidation::Size => "file-validation=filesize",
            FileValidation::BuildId => "file-validation=buildid",
        });
        let flags = [
            validation,
            self.ghost_fiemap.then_some("ghost-fiemap"),
            self.allow_uprobes.then_some("allow-uprobes"),
        ];
        let expert = self.expert.iter().filter(|option| option.name != NETWORK_LOCK).map(ToString::to_string);
        let page_socket = self.page_socket.map(|number| format!("ps-socket={number}"));
        flags.into_iter().flatten().map(str::to_owned).chain(page_socket).chain(expert).collect()
    }

    /// CRIU 4.2 crashes on `network-lock` in a configuration file of a request; the field takes it instead.
    pub(super) fn network_lock(&self) -> Option<NetworkLock> {
        let option = self.expert.iter().rev().find(|option| option.name == NETWORK_LOCK)?;
        match option.value.as_deref() {
            Some("iptables") => Some(NetworkLock::Iptables),
            Some("nftables") => Some(NetworkLock::Nftables),
            _ => Some(NetworkLock::Skip),
        }
    }

    pub(super) fn record(&self) -> Vec<(String, String)> {
        let file = self.file.iter().map(|path| ("config_file".to_owned(), path.display().to_string()));
        file.chain(self.lines().into_iter().map(|line| match line.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (line, "true".to_owned()),
        }))
        .collect()
    }
}

const NETWORK_LOCK: &str = "network-lock";

/// An option that an expert gives by CRIU's own name, as `KEY` or `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertOption {
    name: &'static str,
    negated: bool,
    value: Option<String>,
}

impl ExpertOption {
    /// CRIU's name of the option, without `no-`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    /// The value, if it has one.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl std::fmt::Display for ExpertOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let no = if self.negated { "no-" } else { "" };
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => write!(f, "{no}{}", self.name),
        }
    }
}

impl std::str::FromStr for ExpertOption {
    type Err = ExpertError;

    fn from_str(given: &str) -> Result<Self, ExpertError> {
        let (key, value) = match given.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (given, None),
        };
        let key = key.strip_prefix("--").unwrap_or(key);
        let (negated, name) = match key.strip_prefix("no-") {
            Some(name) if find(name).is_some_and(|(_, takes)| takes == Takes::Switch) => (true, name),
            _ => (false, key),
        };
        let Some((name, takes)) = find(name) else {
            return Err(match OWNED.iter().find(|(owned, _)| *owned == key) {
                Some((_, why)) => ExpertError::Owned { option: key.to_owned(), why },
                None => ExpertError::Unknown { option: key.to_owned() },
            });
        };
        let option = || name.to_owned();
        match (takes, value) {
            (Takes::Switch | Takes::Flag, Some(_)) => return Err(ExpertError::NoValue { option: option() }),
            (Takes::Value, None) => return Err(ExpertError::NeedsValue { option: option() }),
            (Takes::Choice(choices), value) if !value.is_some_and(|value| choices.contains(&value)) => {
                return Err(ExpertError::NotAChoice { option: option(), choices });
            }
            _ => {}
        }
        if let Some(value) = value
            && (value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control()))
        {
            return Err(ExpertError::Value { option: option(), value: value.to_owned() });
        }
        Ok(Self { name, negated, value: value.map(str::to_owned) })
    }
}

/// Why an expert's option is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpertError {
    /// Not among the options that may be given.
    #[error("criu option {option} is not known")]
    Unknown {
        /// The option.
        option: String,
    },
    /// Decided by the caller of CRIU, never by an expert.
    #[error("criu option {option} cannot be given: {why}")]
    Owned {
        /// The option.
        option: String,
        /// The reason.
        why: &'static str,
    },
    /// Given without its value.
    #[error("criu option {option} needs a value")]
    NeedsValue {
        /// The option.
        option: String,
    },
    /// Given with a value it does not take.
    #[error("criu option {option} takes no value")]
    NoValue {
        /// The option.
        option: String,
    },
    /// Given with a value that is none of its choices.
    #[error("criu option {option} takes one of {}", choices.join(", "))]
    NotAChoice {
        /// The option.
        option: String,
        /// Its choices.
        choices: &'static [&'static str],
    },
    /// The value cannot be written into a configuration file.
    #[error("criu option {option} has a value with blanks or nothing in it: {value:?}")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

impl ExpertError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unknown { .. } => {
                let names: Vec<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
                format!("give one of {}", names.join(", "))
            }
            Self::Owned { option, .. } => format!("leave {option} out"),
            Self::NeedsValue { option } => format!("write {option}=VALUE"),
            Self::NoValue { option } => format!("write {option} alone"),
            Self::NotAChoice { option, choices } => format!("write {option}={}", choices[0]),
            Self::Value { .. } => {
                "CRIU's configuration files have no way to write it; use another value".to_owned()
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Present or not.
    Flag,
    /// Present, or negated with `no-`.
    Switch,
    Value,
    Optional,
    Choice(&'static [&'static str]),
}

fn find(name: &str) -> Option<(&'static str, Takes)> {
    ALLOWED.iter().find(|(allowed, _)| *allowed == name).copied()
}

/// Options that change how much CRIU accepts or how it works, but not what it runs, writes or connects to.
const ALLOWED: &[(&str, Takes)] = &[
    ("allow-uprobes", Takes::Switch),
    ("cgroup-dump-controller", Takes::Value),
    ("cgroup-props", Takes::Value),
    ("cgroup-root", Takes::Value),
    ("cgroup-yard", Takes::Value),
    ("cpu-cap", Takes::Optional),
    ("deprecated", Takes::Switch),
    ("empty-ns", Takes::Choice(&["net"])),
    ("enable-external-masters", Takes::Flag),
    ("enable-external-sharing", Takes::Flag),
    ("enable-fs", Takes::Value),
    ("evasive-devices", Takes::Switch),
    ("ext-unix-sk", Takes::Optional),
    ("external", Takes::Value),
    ("file-locks", Takes::Switch),
    ("file-validation", Takes::Choice(&["filesize", "buildid"])),
    ("force-irmap", Takes::Switch),
    ("ghost-fiemap", Takes::Switch),
    ("ghost-limit", Takes::Value),
    ("irmap-scan-path", Takes::Value),
    ("link-remap", Takes::Switch),
    ("lsm-mount-context", Takes::Value),
    ("lsm-profile", Takes::Value),
    ("manage-cgroups", Takes::Optional),
    ("mntns-compat-mode", Takes::Switch),
    (NETWORK_LOCK, Takes::Choice(&["iptables", "nftables", "skip"])),
    ("pre-dump-mode", Takes::Choice(&["splice", "read"])),
    ("skip-file-rwx-check", Takes::Switch),
    ("skip-in-flight", Takes::Switch),
    ("skip-mnt", Takes::Value),
    ("tcp-close", Takes::Switch),
    ("tcp-established", Takes::Switch),
    ("timeout", Takes::Value),
    ("verbosity", Takes::Optional),
    ("weak-sysctls", Takes::Switch),
];

/// Options whose meaning somebody else depends on, with the reason an expert is told.
const OWNED: &[(&str, &str)] = &[
    ("action-script", "it would run a program with CRIU's privileges"),
    ("address", MEMORY),
    ("auto-dedup", MEMORY),
    ("close", DESCRIPTORS),
    ("config", "there is one configuration file and it is generated"),
    ("daemon", FLOW),
    ("display-stats", FLOW),
    ("exec-cmd", "it would run a program with CRIU's privileges"),
    ("freeze-cgroup", FLOW),
    ("images-dir", PLACES),
    ("inherit-fd", DESCRIPTORS),
    ("join-ns", "namespaces are chosen with the program's own options"),
    ("lazy-pages", MEMORY),
    ("leave-running", FLOW),
    ("leave-stopped", FLOW),
    ("libdir", "plugins are code that runs with CRIU's privileges"),
    ("log-file", PLACES),
    ("log-pid", PLACES),
    ("no-default-config", "there is one configuration file and it is generated"),
    ("page-server", MEMORY),
    ("pidfile", PLACES),
    ("port", MEMORY),
    ("prev-images-dir", MEMORY),
    ("ps-socket", MEMORY),
    ("restore-detached", FLOW),
    ("restore-sibling", FLOW),
    ("root", PLACES),
    ("shell-job", "streams and terminals are decided when the program starts"),
    ("status-fd", DESCRIPTORS),
    ("stream", MEMORY),
    ("tls", MEMORY),
    ("tls-cacert", MEMORY),
    ("tls-cacrl", MEMORY),
    ("tls-cert", MEMORY),
    ("tls-key", MEMORY),
    ("tls-no-cn-verify", MEMORY),
    ("track-mem", MEMORY),
    ("tree", FLOW),
    ("unprivileged", "it follows from the privileges that there are"),
    ("work-dir", PLACES),
];

const MEMORY: &str = "how memory leaves and enters is decided for every checkpoint";
const DESCRIPTORS: &str = "descriptors are numbered for every session";
const FLOW: &str = "it is decided by what is asked for: suspend, checkpoint or restore";
const PLACES: &str = "directories and logs are chosen for every session";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(given: &str) -> Result<String, ExpertError> {
        given.parse::<ExpertOption>().map(|option| option.to_string())
    }

    #[test]
    fn allowed_options_become_lines() {
        for (given, line) in [
            ("timeout=30", "timeout=30"),
            ("--ghost-limit=16M", "ghost-limit=16M"),
            ("link-remap", "link-remap"),
            ("no-link-remap", "no-link-remap"),
            ("manage-cgroups", "manage-cgroups"),
            ("cpu-cap=^all", "cpu-cap=^all"),
            ("external=mnt[/a#b]:c=d", "external=mnt[/a#b]:c=d"),
        ] {
            assert_eq!(parse(given).as_deref(), Ok(line), "{given}");
        }
    }

    #[test]
    fn refusals_name_the_option() {
        for (given, message) in [
            (
                "action-script=/x",
                "criu option action-script cannot be given: it would run a program with CRIU's privileges",
            ),
            ("frobnicate", "criu option frobnicate is not known"),
            ("no-frobnicate", "criu option no-frobnicate is not known"),
            ("timeout", "criu option timeout needs a value"),
            ("link-remap=yes", "criu option link-remap takes no value"),
            ("network-lock=maybe", "criu option network-lock takes one of iptables, nftables, skip"),
            ("skip-mnt=/a b", "criu option skip-mnt has a value with blanks or nothing in it: \"/a b\""),
            ("timeout=", "criu option timeout has a value with blanks or nothing in it: \"\""),
        ] {
            let error = parse(given).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(!error.remedy().is_empty());
        }
    }

    #[test]
    fn the_network_lock_never_reaches_the_file() {
        let config = Config { expert: vec!["network-lock=nftables".parse().unwrap()], ..Config::default() };
        assert_eq!(config.lines(), Vec::<String>::new());
        assert_eq!(config.network_lock(), Some(NetworkLock::Nftables));
    }

    #[test]
    fn every_option_is_either_allowed_or_owned() {
        for (name, _) in OWNED {
            assert!(find(name).is_none(), "{name} is in both tables");
        }
        assert!(ALLOWED.is_sorted_by_key(|(name, _)| *name));
        assert!(OWNED.is_sorted_by_key(|(name, _)| *name));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_line_of_one_option(given in "\\PC{0,40}|(timeout|external|verbosity)=.{0,20}") {
            if let Ok(line) = parse(&given) {
                prop_assert!(!line.chars().any(char::is_whitespace));
                prop_assert!(ALLOWED.iter().any(|(name, _)| line.trim_start_matches("no-").starts_with(name)));
            }
        }
    }
}
