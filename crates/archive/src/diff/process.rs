//! A process before and after.

use serde::Serialize;

use super::Aspects;
use super::change::{Changed, Changes};
use super::pages::MemoryDiff;
use crate::inspect::{Address, Credentials, OpenFile, Process, Socket, Variable};
use crate::memory::{AddressSpace, AddressSpaces, MemoryError};

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing of what was compared differs.
    Same,
    /// Something does.
    Changed,
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
}

/// Which process it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A value that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// What it is, as in `torpor inspect`.
    pub field: &'static str,
    /// As it was.
    pub before: Option<String>,
    /// As it is.
    pub after: Option<String>,
}

/// A variable of the environment that differs. Values are there only where they are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariableChange {
    /// Its name; none for an entry without `=`.
    pub name: Option<String>,
    /// What became of it.
    pub state: State,
    /// Its value before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its value now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// How a process differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessDiff {
    /// What became of it.
    pub state: State,
    /// In the first checkpoint.
    pub before: Option<Identity>,
    /// In the second.
    pub after: Option<Identity>,
    /// Values that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// Variables that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<VariableChange>,
    /// Descriptors of files.
    #[serde(skip_serializing_if = "Changes::is_empty")]
    pub files: Changes<OpenFile>,
    /// Descriptors of sockets.
    #[serde(skip_serializing_if = "Changes::is_empty")]
    pub sockets: Changes<Socket>,
    /// Who it acts as, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Changed<Option<Credentials>>>,
    /// Its memory, where that was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryDiff>,
}

impl ProcessDiff {
    pub(super) fn between(before: Option<&Process>, after: Option<&Process>, aspects: Aspects) -> Self {
        let identity = |process: &Process| Identity { pid: process.pid, name: process.name.clone() };
        let mut diff = Self {
            state: State::Same,
            before: before.map(identity),
            after: after.map(identity),
            fields: Vec::new(),
            environment: Vec::new(),
            files: Changes::default(),
            sockets: Changes::default(),
            credentials: None,
            memory: None,
        };
        let (Some(before), Some(after)) = (before, after) else {
            diff.state = if before.is_some() { State::Gone } else { State::New };
            return diff;
        };
        diff.fields = fields(before, after);
        diff.environment = environment(before, after, aspects.secrets);
        diff.files = Changes::between(files(before), files(after), |file| file.fd, same_file);
        let sockets = |process: &Process| process.sockets.clone().unwrap_or_default();
        diff.sockets = Changes::between(sockets(before), sockets(after), |socket| socket.fd, same_socket);
        if before.credentials != after.credentials {
            let (before, after) = (before.credentials.clone(), after.credentials.clone());
            diff.credentials = Some(Changed { before, after });
        }
        diff.settle();
        diff
    }

    /// Compares the memory of both, or counts that of the one there is.
    pub(super) fn compare_memory(
        &mut self,
        spaces: &(AddressSpaces<'_>, AddressSpaces<'_>),
        before: Option<&Process>,
        after: Option<&Process>,
    ) -> Result<(), MemoryError> {
        let before = open(&spaces.0, before)?;
        let after = open(&spaces.1, after)?;
        self.memory = Some(MemoryDiff::between(before.as_ref(), after.as_ref(), (&spaces.0, &spaces.1))?);
        self.settle();
        Ok(())
    }

    /// Tells the state from what was found.
    fn settle(&mut self) {
        if matches!(self.state, State::New | State::Gone) {
            return;
        }
        let same = self.fields.is_empty()
            && self.environment.is_empty()
            && self.files.is_empty()
            && self.sockets.is_empty()
            && self.credentials.is_none()
            && self.memory.as_ref().is_none_or(MemoryDiff::is_same);
        self.state = if same { State::Same } else { State::Changed };
    }
}

/// The address space of a process that had not ended.
fn open<'a>(
    spaces: &AddressSpaces<'a>,
    process: Option<&Process>,
) -> Result<Option<AddressSpace<'a>>, MemoryError> {
    match process.map(|process| spaces.open(process.pid)).transpose() {
        Err(MemoryError::Ended { .. }) => Ok(None),
        opened => opened,
    }
}

/// The open files that are no sockets, where sockets are listed by themselves.
fn files(process: &Process) -> Vec<OpenFile> {
    let sockets: Vec<u32> = process.sockets.iter().flatten().map(|socket| socket.fd).collect();
    process.files.iter().flatten().filter(|file| !sockets.contains(&file.fd)).cloned().collect()
}

/// Everything of a file that the program knows of it.
fn same_file(before: &OpenFile, after: &OpenFile) -> bool {
    let comparable =
        |file: &OpenFile| OpenFile { id: 0, target: nameless(&file.target).to_owned(), ..file.clone() };
    comparable(before) == comparable(after)
}

/// Everything of a socket that the program knows of it.
fn same_socket(before: &Socket, after: &Socket) -> bool {
    let end = |address: &Option<Address>| {
        address.clone().map(|end| Address { address: nameless(&end.address).to_owned(), ..end })
    };
    let comparable = |socket: &Socket| Socket {
        id: 0,
        peer: None,
        local: end(&socket.local),
        remote: end(&socket.remote),
        ..socket.clone()
    };
    comparable(before) == comparable(after)
}

/// The name of a file without the number of its inode, where it has no other name: `pipe:` for `pipe:[1234]`. A restore gives it another
/// number, and so has every copy of a program.
fn nameless(name: &str) -> &str {
    match name.split_once(":[") {
        Some((kind, rest)) if !kind.contains('/') && rest.contains(']') => kind,
        _ => name,
    }
}

fn fields(before: &Process, after: &Process) -> Vec<FieldChange> {
    let threads = |process: &Process| {
        let threads: Vec<_> = process.threads.iter().map(|thread| thread.id.to_string()).collect();
        (!threads.is_empty()).then(|| threads.join(" "))
    };
    let arguments = |process: &Process| process.arguments.as_deref().map(crate::inspect::command_line);
    type Value<'f> = &'f dyn Fn(&Process) -> Option<String>;
    let all: [(&'static str, Value<'_>); 11] = [
        ("pid", &|process| Some(process.pid.to_string())),
        ("parent", &|process| process.parent.map(|parent| parent.to_string())),
        ("state", &|process| Some(process.state.clone())),
        ("name", &|process| Some(process.name.clone())),
        ("executable", &|process| process.executable.clone()),
        ("arguments", &arguments),
        ("threads", &threads),
        ("workingDirectory", &|process| process.working_directory.clone()),
        ("rootDirectory", &|process| process.root_directory.clone()),
        ("umask", &|process| process.umask.clone()),
        ("session", &|process| Some(process.session.to_string())),
    ];
    all.into_iter()
        .filter_map(|(field, value)| {
            let (before, after) = (value(before), value(after));
            (before != after).then_some(FieldChange { field, before, after })
        })
        .collect()
}

/// Variables by name. One that is there several times is compared in the order in which it stands.
fn environment(before: &Process, after: &Process, secrets: bool) -> Vec<VariableChange> {
    // A program that writes its title over its environment leaves nothing but zero bytes.
    let there = |variable: &Variable| variable.name.is_some() || variable.length > 0;
    let variables = |process: &Process| -> Vec<Variable> {
        process.environment.iter().flatten().filter(|variable| there(variable)).cloned().collect()
    };
    let changes = Changes::between(
        variables(before),
        variables(after),
        // Without a name, the whole entry is one.
        |variable| (variable.name.clone(), variable.name.is_none().then(|| variable.value.clone())),
        |before, after| before == after,
    );
    let value = |variable: Variable| variable.value.filter(|_| secrets);
    let new = changes.new.into_iter().map(|variable| VariableChange {
        name: variable.name.clone(),
        state: State::New,
        before: None,
        after: value(variable),
    });
    let gone = changes.gone.into_iter().map(|variable| VariableChange {
        name: variable.name.clone(),
        state: State::Gone,
        before: value(variable),
        after: None,
    });
    let changed = changes.changed.into_iter().map(|changed| VariableChange {
        name: changed.after.name.clone(),
        state: State::Changed,
        before: value(changed.before),
        after: value(changed.after),
    });
    let mut all: Vec<_> = new.chain(gone).chain(changed).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_inodes_mean_nothing() {
        for (name, compared) in [
            ("pipe:[123]", "pipe"),
            ("socket:[1] → socket:[2]", "socket"),
            ("/a:[1]", "/a:[1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(nameless(name), compared);
        }
    }

    #[test]
    fn variables_are_compared_by_name_and_their_values_are_not_told_unasked() {
        let variable = |name: &str, value: &str| Variable {
            name: Some(name.to_owned()),
            value: Some(value.to_owned()),
            length: value.len(),
        };
        let process = |environment| Process { environment: Some(environment), ..Process::default() };
        let before = process(vec![variable("A", "1"), variable("B", "1"), variable("B", "2")]);
        let after = process(vec![variable("C", "3"), variable("B", "1"), variable("A", "2")]);
        let found = |secrets| {
            let changes = environment(&before, &after, secrets);
            let told = |value: &Option<String>| value.clone().unwrap_or_default();
            let shown = |change: &VariableChange| {
                (told(&change.name), change.state, told(&change.before), told(&change.after))
            };
            changes.iter().map(shown).collect::<Vec<_>>()
        };
        let row = |name: &str, state, before: &str, after: &str| {
            (name.to_owned(), state, before.to_owned(), after.to_owned())
        };
        assert_eq!(
            found(true),
            [
                row("A", State::Changed, "1", "2"),
                row("B", State::Gone, "2", ""),
                row("C", State::New, "", "3")
            ]
        );
        assert!(found(false).iter().all(|(_, _, before, after)| before.is_empty() && after.is_empty()));
    }
}
