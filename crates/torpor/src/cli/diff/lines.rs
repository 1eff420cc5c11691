//! Differences for people: `+` is new, `-` is gone, `~` is another.

use std::fmt::{Display, Write};

use torpor_archive::diff::{
    Changed, Changes, Diff, FieldChange, Identity, LayerPath, MappingDiff, MappingState, MemoryDiff,
    ProcessDiff, State, VariableChange,
};
use torpor_archive::engine::ChangeKind;
use torpor_archive::inspect::{Credentials, Mount, OpenFile, Socket};

use super::super::tree::Node;
use super::output::{bytes, lines, plain, table};

/// Lines, each with how deep it is.
pub(super) type Lines = Vec<(usize, String)>;

/// The whole of it, with deeper lines further to the right.
pub(super) fn text(diff: &Diff) -> String {
    let indented = |(depth, line): &(usize, String)| format!("{:1$}{line}\n", "", depth * 2);
    of(diff).iter().map(indented).collect()
}

/// The same as trees.
pub(super) fn trees(diff: &Diff) -> Vec<Node> {
    let mut open: Vec<Node> = Vec::new();
    let mut trees = Vec::new();
    let close = |open: &mut Vec<Node>, trees: &mut Vec<Node>, depth: usize| {
        while open.len() > depth
            && let Some(node) = open.pop()
        {
            match open.last_mut() {
                Some(parent) => parent.push(node),
                None => trees.push(node),
            }
        }
    };
    for (depth, line) in of(diff) {
        close(&mut open, &mut trees, depth);
        open.push(Node::new(line));
    }
    close(&mut open, &mut trees, 0);
    trees
}

/// What differs, line by line.
pub(super) fn of(diff: &Diff) -> Lines {
    let mut text = Lines::new();
    if diff.equal {
        line(&mut text, 0, "nothing differs");
    }
    if !diff.container.is_empty() {
        line(&mut text, 0, "container");
        for field in &diff.container {
            line(&mut text, 1, &value(field));
        }
    }
    for found in &diff.processes {
        process(&mut text, found);
    }
    if let Some(mounts) = diff.mounts.as_ref().filter(|mounts| !mounts.is_empty()) {
        line(&mut text, 0, "mounts");
        changes(&mut text, 1, mounts, mount);
    }
    if let Some(layer) = diff.writable_layer.as_ref().filter(|layer| !layer.is_empty()) {
        line(&mut text, 0, "writable layer");
        changes(&mut text, 1, layer, layer_path);
    }
    for problem in &diff.problems {
        line(&mut text, 0, &format!("not compared: {}: {}", plain(&problem.entry), plain(&problem.message)));
    }
    if diff.secrets {
        line(&mut text, 0, "this report holds secrets: values of environment variables");
    }
    text
}

fn line(text: &mut Lines, depth: usize, what: &str) {
    text.push((depth, what.to_owned()));
}

fn layer_path(path: &LayerPath) -> String {
    let mut text = format!(
        "{} {}",
        plain(&path.path),
        match path.change.kind {
            ChangeKind::Written => "written",
            ChangeKind::Removed => "removed",
            ChangeKind::Emptied => "emptied",
        }
    );
    if let Some(size) = path.change.size {
        let _ = write!(text, ", {}", bytes(size));
    }
    if let Some(link) = &path.change.link {
        let _ = write!(text, ", leads to {}", plain(link));
    }
    text
}

fn process(text: &mut Lines, process: &ProcessDiff) {
    let named = |identity: &Identity| format!("{} {}", identity.pid, plain(&identity.name));
    let title = match (&process.before, &process.after) {
        (Some(before), Some(after)) if before.pid != after.pid => {
            format!("{}, was {}", named(after), named(before))
        }
        (_, Some(identity)) | (Some(identity), None) => named(identity),
        (None, None) => return,
    };
    line(text, 0, &format!("{} {title}", sign(process.state)));
    for field in &process.fields {
        line(text, 1, &value(field));
    }
    section(text, "environment", !process.environment.is_empty(), |text| {
        for variable in &process.environment {
            line(text, 2, &of_variable(variable));
        }
    });
    section(text, "files", !process.files.is_empty(), |text| changes(text, 2, &process.files, file));
    section(text, "sockets", !process.sockets.is_empty(), |text| changes(text, 2, &process.sockets, socket));
    if let Some(Changed { before, after }) = &process.credentials {
        section(text, "credentials", true, |text| {
            line(text, 2, &format!("- {}", credentials(before.as_ref())));
            line(text, 2, &format!("+ {}", credentials(after.as_ref())));
        });
    }
    if let Some(found) = process.memory.as_ref().filter(|memory| !memory.is_same()) {
        memory(text, found);
    }
}

fn section(text: &mut Lines, name: &str, there: bool, write: impl FnOnce(&mut Lines)) {
    if there {
        line(text, 1, name);
        write(text);
    }
}

fn sign(state: State) -> char {
    match state {
        State::Same => '=',
        State::Changed => '~',
        State::New => '+',
        State::Gone => '-',
    }
}

fn changes<T>(text: &mut Lines, depth: usize, changes: &Changes<T>, shown: impl Fn(&T) -> String) {
    for item in &changes.gone {
        line(text, depth, &format!("- {}", shown(item)));
    }
    for item in &changes.new {
        line(text, depth, &format!("+ {}", shown(item)));
    }
    for Changed { before, after } in &changes.changed {
        line(text, depth, &format!("~ {}", shown(before)));
        line(text, depth, &format!("  {}", shown(after)));
    }
}

fn value(field: &FieldChange) -> String {
    let shown =
        |value: &Option<String>| value.as_deref().map_or("none".into(), |text| plain(text).into_owned());
    format!("~ {}: {} -> {}", field.field, shown(&field.before), shown(&field.after))
}

fn of_variable(variable: &VariableChange) -> String {
    let name = variable.name.as_deref().map_or("(no name)".into(), plain);
    let mut text = format!("{} {name}", sign(variable.state));
    for (sign, value) in [("-", &variable.before), ("+", &variable.after)] {
        if let Some(value) = value {
            let _ = write!(text, " {sign}{}", plain(value));
        }
    }
    text
}

fn file(file: &OpenFile) -> String {
    let mut text = format!("{} {} {} {}", file.fd, file.kind, plain(&file.target), file.flags.join(" "));
    if let Some(position) = file.position {
        let _ = write!(text, " at {position}");
    }
    if let Some(size) = file.size {
        let _ = write!(text, " of {size}");
    }
    if let Some(queued) = file.queued.filter(|queued| *queued > 0) {
        let _ = write!(text, " {queued} queued");
    }
    text
}

fn socket(socket: &Socket) -> String {
    let end = |address: &Option<torpor_archive::inspect::Address>| {
        address.as_ref().map_or("*".to_owned(), |address| plain(&address.to_string()).into_owned())
    };
    format!(
        "{} {} {} {} -> {}{}{}",
        socket.fd,
        plain(&socket.protocol),
        plain(&socket.state),
        end(&socket.local),
        end(&socket.remote),
        queue(" received", socket.receive_queue),
        queue(" sent", socket.send_queue),
    )
}

fn queue(name: &str, bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!("{name} {bytes} B") }
}

fn mount(mount: &Mount) -> String {
    format!(
        "{} {} {} {} {}",
        plain(&mount.mountpoint),
        plain(&mount.file_system),
        plain(&mount.source),
        mount.flags.join(","),
        plain(&mount.options)
    )
}

fn credentials(credentials: Option<&Credentials>) -> String {
    let Some(of) = credentials else { return "none".to_owned() };
    let set = |name: &str, names: &[String]| {
        format!("{name} {}", if names.is_empty() { "none".to_owned() } else { names.join(",") })
    };
    [
        format!("users {}/{}/{}", of.users.real, of.users.effective, of.users.saved),
        format!("groups {}/{}/{}", of.groups.real, of.groups.effective, of.groups.saved),
        set("effective", &of.effective),
        set("permitted", &of.permitted),
        set("bounding", &of.bounding),
        format!("seccomp {}", of.seccomp.mode),
        format!("profile {}", of.lsm_profile.as_deref().map_or("none".into(), plain)),
    ]
    .join(", ")
}

fn memory(text: &mut Lines, memory: &MemoryDiff) {
    let pages = memory.pages;
    let size = |pages: u64| bytes(pages * memory.page_size);
    line(
        text,
        1,
        &format!(
            "memory: {} new, {} changed, {} gone, {} the same; {} of it moved{}{}",
            size(pages.new),
            size(pages.changed),
            size(pages.gone),
            size(pages.same),
            size(pages.moved),
            if memory.moved_at_least { " at least" } else { "" },
            if pages.unknown > 0 { format!(", {} unknown", size(pages.unknown)) } else { String::new() },
        ),
    );
    let columns =
        ["", "START", "END", "PROT", "KIND", ">NEW", ">CHANGED", ">GONE", ">SAME", ">MOVED", "FILE"];
    let mut made = table(&columns);
    for mapping in &memory.mappings {
        let pages = &mapping.pages;
        let mut row = vec![
            mapping_sign(mapping).to_string(),
            format!("{:012x}", mapping.start),
            format!("{:012x}", mapping.end),
            protection(mapping),
            mapping.kind.to_string(),
        ];
        row.extend([pages.new, pages.changed, pages.gone, pages.same, pages.moved].map(size));
        row.push(mapping.file.as_deref().map(plain).unwrap_or_default().into_owned());
        made.add_row(row);
    }
    for row in lines(&made).lines() {
        line(text, 2, row);
    }
}

fn mapping_sign(mapping: &MappingDiff) -> impl Display {
    match mapping.state {
        MappingState::Same | MappingState::Changed => '~',
        MappingState::New => '+',
        MappingState::Gone => '-',
    }
}

fn protection(mapping: &MappingDiff) -> String {
    match mapping.protection_before {
        Some(before) => format!("{before} -> {}", mapping.protection),
        None => mapping.protection.to_string(),
    }
}
