//! The one table of settings: each key of the configuration file is also a flag and a variable.

use super::choice::{
    AfterCrash, AllowChanged, Capabilities, CpuBaseline, ExtUnixSockets, Fenced, HugePages, Namespace,
    NodeStateUnreachable, OnRestoreFailure, RootFiles, Slots, Tcp,
};

/// What a setting's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One value; the text names it in help (`DURATION`).
    One(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Yes or no. As a flag it takes no value.
    Switch,
    /// Several values: a list in the file, a flag given several times, a variable with commas.
    Many(&'static str),
    /// Several, each one of these words.
    ManyWords(&'static [&'static str]),
    /// A hook, or a list of hooks: see `docs/hooks.md`.
    Hook,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// What it is about: the heading it stands under.
    pub group: &'static str,
    /// Its key in the configuration file, in camelCase.
    pub key: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// What it has when it isn't given, for people.
    pub default: &'static str,
    /// What it decides, in a sentence or two.
    pub help: &'static str,
}

impl Setting {
    /// The words of the key: `nodeStateServerURL` has node, state, server and url.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut after_lower = true;
        for character in self.key.chars() {
            if words.is_empty() || (character.is_ascii_uppercase() && after_lower) {
                words.push(String::new());
            }
            after_lower = !character.is_ascii_uppercase();
            if let Some(word) = words.last_mut() {
                word.push(character.to_ascii_lowercase());
            }
        }
        words
    }

    /// The flag without its dashes: `node-state-server-url`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.words().join("-")
    }

    /// The environment variable: `TORPOR_NODE_STATE_SERVER_URL`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TORPOR_{}", self.words().join("_").to_ascii_uppercase())
    }

    /// The setting with this key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

/// A table's row, without the names of its columns.
const fn row(
    group: &'static str,
    key: &'static str,
    shape: Shape,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { group, key, shape, default, help }
}

use Shape::{Hook, Many, ManyWords, One, Switch, Word};

/// Every setting of `torpor run`, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    row(
        "Store",
        "name",
        One("NAME"),
        "workload/program, from the pod or host",
        "The name checkpoints are kept under",
    ),
    row(
        "Store",
        "slots",
        Word(Slots::WORDS),
        "own",
        "Whether the name is for one program, or each of several that are alike claims a free slot of it",
    ),
    row(
        "Store",
        "store",
        One("URL"),
        "file:///var/lib/torpor",
        "Where checkpoints are kept: file:///path or an absolute path",
    ),
    row(
        "Store",
        "imageDir",
        One("DIR"),
        "none",
        "A directory that holds the store of this one program and stands for its name, as with crik; it must exist",
    ),
    row("Store", "passphraseFile", One("FILE"), "none", "Seal the store under the passphrase in this file"),
    row("Store", "keyFile", One("FILE"), "none", "Seal the store under the key in this file"),
    row("Store", "keepLast", One("N"), "3", "Keep at least this many generations"),
    row("Store", "keepWithin", One("DURATION"), "none", "Keep generations younger than this"),
    row("Triggers", "triggerSignal", One("SIGNAL"), "SIGTERM", "The signal that suspends the program"),
    row("Triggers", "every", One("DURATION"), "never", "Checkpoint this often while the program runs on"),
    row(
        "Triggers",
        "controlSocket",
        One("FILE"),
        "<runtime dir>/torpor/NAME.sock",
        "The socket `torpor checkpoint` talks to",
    ),
    row("Triggers", "controlGroup", One("GID"), "none", "A group that may use the control socket, by number"),
    row(
        "Triggers",
        "httpListen",
        One("ADDRESS:PORT"),
        "none",
        "Serve the HTTP endpoint here; needs httpTokenFile",
    ),
    row(
        "Triggers",
        "httpTokenFile",
        One("FILE"),
        "none",
        "The file with the token that callers of the HTTP endpoint must send",
    ),
    row(
        "Triggers",
        "nodeStateServerURL",
        One("URL"),
        "none",
        "Ask this server on the trigger signal whether the node shuts down",
    ),
    row(
        "Triggers",
        "nodeStateTimeout",
        One("DURATION"),
        "2s",
        "How long the node state server may take to answer",
    ),
    row(
        "Triggers",
        "nodeStateUnreachable",
        Word(NodeStateUnreachable::WORDS),
        "suspend",
        "What to do when the node state server gives no usable answer",
    ),
    row("Triggers", "nodeName", One("NAME"), "$KUBERNETES_NODE_NAME", "The node asked about"),
    row(
        "Time",
        "grace",
        One("DURATION"),
        "25s",
        "Time from the trigger signal until the program is killed from outside",
    ),
    row(
        "Time",
        "stopReserve",
        One("DURATION"),
        "a third of grace, at least 5s",
        "The end of grace, kept for the program to end by itself when a suspend does not fit",
    ),
    row("Time", "exitCode", One("CODE"), "143", "What Torpor ends with after a suspend"),
    row("Start", "noRestore", Switch, "no", "Start from the beginning, whatever is in the store"),
    row(
        "Start",
        "onRestoreFailure",
        Word(OnRestoreFailure::WORDS),
        "fresh",
        "What to do when no generation could be restored",
    ),
    row(
        "Start",
        "afterCrash",
        Word(AfterCrash::WORDS),
        "last",
        "What to do when the program crashed since its last checkpoint",
    ),
    row(
        "Start",
        "fenced",
        Word(Fenced::WORDS),
        "end",
        "What to do when a newer start has taken over the name",
    ),
    row(
        "Start",
        "allowChanged",
        ManyWords(AllowChanged::WORDS),
        "none",
        "Restore although this changed since the checkpoint",
    ),
    row(
        "Start",
        "leaveStopped",
        Switch,
        "no",
        "After a restore, leave the program stopped until it gets SIGCONT",
    ),
    row("Program", "pidBase", One("PID"), "from 10000 up, by the name", "The lowest PID of the program"),
    row(
        "Program",
        "capabilities",
        Word(Capabilities::WORDS),
        "drop",
        "What the program gets of the capabilities granted for Torpor",
    ),
    row(
        "Program",
        "seccompProfile",
        One("FILE"),
        "none",
        "Apply this seccomp profile to the program, while Torpor and CRIU run without one",
    ),
    row("Program", "ipcNamespace", Word(Namespace::WORDS), "auto", "Give the program its own IPC namespace"),
    row("Program", "timeNamespace", Word(Namespace::WORDS), "auto", "Give the program its own clock"),
    row(
        "Program",
        "cpuBaseline",
        Word(CpuBaseline::WORDS),
        "none",
        "Keep libraries within this instruction set",
    ),
    row(
        "Program",
        "statusFile",
        One("FILE"),
        "<runtime dir>/torpor/NAME.json",
        "The file that tells the program whether it was restored",
    ),
    row(
        "Carried",
        "additionalPaths",
        Many("PATH"),
        "none",
        "Files and directories to carry besides what changed",
    ),
    row("Carried", "exclude", Many("PATH"), "none", "Files and directories not to carry"),
    row(
        "Carried",
        "volumes",
        Many("PATH=carry|leave|refuse"),
        "none",
        "What becomes of the files of a mount",
    ),
    row(
        "Carried",
        "rootFiles",
        Word(RootFiles::WORDS),
        "auto",
        "What becomes of files changed on the root file system",
    ),
    row(
        "Carried",
        "inotifyIncompatiblePaths",
        Many("PATH"),
        "none",
        "Paths taken away while the program is captured, and put back when it runs on",
    ),
    row(
        "Carried",
        "tcp",
        Word(Tcp::WORDS),
        "close",
        "What becomes of established connections with a peer outside",
    ),
    row("Carried", "tcpListenRemap", Many("OLD:NEW"), "none", "Listen on another port after a restore"),
    row(
        "Carried",
        "extUnixSockets",
        Word(ExtUnixSockets::WORDS),
        "reconnect",
        "What becomes of Unix sockets with a peer outside",
    ),
    row(
        "Carried",
        "memoryBudget",
        One("SIZE"),
        "auto",
        "How much memory a capture may add to the container, or auto",
    ),
    row(
        "Carried",
        "hugePages",
        Word(HugePages::WORDS),
        "gather",
        "Whether memory is gathered into huge pages before a freeze, for a shorter one",
    ),
    row("Hooks", "preCheckpoint", Hook, "none", "Run before the program is frozen"),
    row("Hooks", "postCheckpoint", Hook, "none", "Run when a checkpoint ended and the program runs on"),
    row("Hooks", "postRestore", Hook, "none", "Run when the program goes on after a restore"),
    row("Hooks", "onAppReady", Hook, "none", "Run once the program runs, fresh or restored"),
    row("CRIU", "criu", One("FILE"), "looked for", "The CRIU to use"),
    row(
        "CRIU",
        "criuOptions",
        Many("KEY[=VALUE]"),
        "none",
        "Further options for CRIU, from a list of allowed ones",
    ),
    row(
        "CRIU",
        "criuConfiguration",
        Switch,
        "no",
        "Let CRIU read /etc/criu/default.conf and its like, which are ignored otherwise",
    ),
];

/// The key out of `keys` that `typed` was probably meant to be.
pub(super) fn nearest<'a>(typed: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    keys.map(|key| (distance(&typed, &key.to_ascii_lowercase()), key))
        .filter(|(far, key)| *far <= 1 + key.len() / 5)
        .min_by_key(|(far, _)| *far)
        .map(|(_, key)| key)
}

/// How many single-byte edits turn `one` into `other` (Levenshtein). Texts beyond 64 bytes are cut.
fn distance(one: &str, other: &str) -> usize {
    let one = &one.as_bytes()[..one.len().min(64)];
    let other = &other.as_bytes()[..other.len().min(64)];
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flags_and_variables_follow_from_keys() {
        for (key, flag, variable) in [
            ("name", "name", "TORPOR_NAME"),
            ("imageDir", "image-dir", "TORPOR_IMAGE_DIR"),
            ("nodeStateServerURL", "node-state-server-url", "TORPOR_NODE_STATE_SERVER_URL"),
            ("onRestoreFailure", "on-restore-failure", "TORPOR_ON_RESTORE_FAILURE"),
        ] {
            let setting = Setting::find(key).unwrap();
            assert_eq!((setting.flag().as_str(), setting.variable().as_str()), (flag, variable));
        }
    }

    #[test]
    fn nothing_is_there_twice() {
        let flags: HashSet<String> = SETTINGS.iter().map(Setting::flag).collect();
        assert_eq!(flags.len(), SETTINGS.len());
    }

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        let keys = || SETTINGS.iter().map(|setting| setting.key);
        for (typed, meant) in [
            ("imagedir", Some("imageDir")),
            ("imageDri", Some("imageDir")),
            ("nodeStateServerUrl", Some("nodeStateServerURL")),
            ("additionalPath", Some("additionalPaths")),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, keys()), meant, "{typed}");
        }
    }

    /// The settings as `docs/configuration.md` has them.
    fn tables() -> String {
        let mut text = String::new();
        let mut group = "";
        for setting in SETTINGS {
            if setting.group != group {
                group = setting.group;
                text.push_str(&format!("### {group}\n\n| key | value | default | |\n|---|---|---|---|\n"));
            }
            let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
            let value = match setting.shape {
                Shape::One(value) => code(value),
                Shape::Word(words) => words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", "),
                Shape::Switch => "yes or no".to_owned(),
                Shape::Many(value) => format!("{}, several", code(value)),
                Shape::ManyWords(words) => {
                    format!("{}; several", words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", "))
                }
                Shape::Hook => "hooks".to_owned(),
            };
            let default = setting.default.replace('<', "&lt;").replace('>', "&gt;");
            text.push_str(&format!("| `{}` | {value} | {default} | {} |\n", setting.key, setting.help));
            let last_of_group = SETTINGS
                .iter()
                .skip_while(|other| other.key != setting.key)
                .nth(1)
                .is_none_or(|next| next.group != group);
            if last_of_group {
                text.push('\n');
            }
        }
        text
    }

    #[test]
    fn the_document_has_every_setting() {
        let document = include_str!("../../../../docs/configuration.md");
        let tables = tables();
        assert!(document.contains(&tables), "docs/configuration.md should have:\n{tables}");
    }
}
