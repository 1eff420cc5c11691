//! containerd's handler: since version 3 of the configuration (containerd 2) a file of its own beside it, which it imports.
//!
//! Before, a table of an imported file replaced all of the other's (containerd, `cmd/containerd/server/config/config.go`). So in version 2
//! (containerd 1) the handler goes into the configuration itself. There the first handler that is named replaces those that containerd
//! has by itself, so its own comes along: without it containerd 1 would serve no pods any more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, Value};

use super::plan::{Plan, Wanted};
use super::site::Site;
use super::trial::{self, Trial};
use super::{HANDLER, InstallError};

pub(crate) const CONFIG: &str = "/etc/containerd/config.toml";
pub(crate) const DROP_IN: &str = "/etc/containerd/conf.d/90-torpor.toml";
const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";
const PROGRAM: &str = "containerd";
/// Where its program is.
pub(crate) const PROGRAMS: [&str; 3] =
    ["/usr/bin/containerd", "/usr/local/bin/containerd", "/etc/containerd"];
/// The tables of the CRI's part, by the version of the configuration.
const CRI_2: &str = "io.containerd.grpc.v1.cri";
const CRI_3: &str = "io.containerd.cri.v1.runtime";
/// The handler that containerd has by itself, and the shim it goes by since containerd 1.4.
const DEFAULT: &str = "runc";
const SHIM: &str = "io.containerd.runc.v2";
/// What reaches the runtime.
const ANNOTATIONS: &str = "torpor.dev/*";

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.site.has(&PROGRAMS) {
        return Ok(());
    }
    let config = wanted.site.read(CONFIG)?;
    let path = wanted.site.on_machine(Path::new(CONFIG));
    // What is in force, by containerd itself, knows the files that are imported, too.
    let dump = wanted.site.ask(PROGRAM, &["config", "dump"]).and_then(Result::ok);
    let major = wanted.site.ask(PROGRAM, &["--version"]).and_then(Result::ok).and_then(|said| major(&said));
    let made = made(config.as_deref(), dump.as_deref(), major, runtime, wanted.checkpointing);
    let made = made.map_err(|because| InstallError::Format { path: path.clone(), because })?;
    plan.engines.push("containerd");
    let before = plan.changes.len();
    let mut files = Vec::new();
    if let Some(drop_in) = made.drop_in {
        // The handler first: whoever is imported must be there.
        let path = wanted.site.on_machine(Path::new(DROP_IN));
        files.push((path.clone(), drop_in.clone()));
        plan.write(path, drop_in, "the handler of containerd");
        plan.write(wanted.site.on_machine(Path::new(CONFIG)), made.main.clone(), "have containerd import it");
    } else {
        plan.write(path.clone(), made.main.clone(), "the handler of containerd");
    }
    plan.trials.push(Trial::Containerd {
        main: made.main,
        drop_in: files.pop().map(|(_, text)| text),
        runtime: runtime.to_owned(),
    });
    if wanted.checkpointing && made.version < 3 {
        plan.notes.push(
            "this containerd checkpoints no containers by its own interface, which takes version 2; `torpor checkpoint` does".to_owned(),
        );
    }
    plan.note_changed(before, "restart containerd: `systemctl restart containerd`; containers run on");
    Ok(())
}

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    /// The configuration's version.
    version: i64,
    /// The configuration.
    main: String,
    /// The file of our own.
    drop_in: Option<String>,
}

/// Decides, from the configuration as it is, from what is in force, and from the program's version.
fn made(
    config: Option<&str>,
    dump: Option<&str>,
    major: Option<u32>,
    runtime: &Path,
    checkpointing: bool,
) -> Result<Made, String> {
    let main = match (config, major) {
        (Some(text), _) if !text.trim().is_empty() => text.to_owned(),
        (_, Some(1)) => "version = 2\n".to_owned(),
        _ => "version = 3\n".to_owned(),
    };
    let mut document = parse(&main)?;
    let in_force = dump.map(parse).transpose()?;
    let version = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    let name = if version < 3 { CRI_2 } else { CRI_3 };
    let systemd = in_force.as_ref().map_or_else(|| systemd_groups(&document), systemd_groups);
    match version {
        3 | 4 => {
            let drop_in = drop_in(runtime, systemd, checkpointing);
            let main = if imports(&mut document)? { document.to_string() } else { main };
            Ok(Made { version, main, drop_in: Some(drop_in) })
        }
        2 => {
            let main = if add_handler(&mut document, name, runtime, systemd)? { document.to_string() } else { main };
            Ok(Made { version, main, drop_in: None })
        }
        1 => Err("it says no version, and has the form of containerd 1.2; `containerd config migrate` makes a newer one of it".to_owned()),
        other => Err(format!("its version is {other}, which this release does not know")),
    }
}

pub(crate) fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())
}

/// `containerd github.com/containerd/containerd/v2 2.1.9 …`, `containerd containerd.io 1.7.24 …`.
pub(crate) fn major(said: &str) -> Option<u32> {
    let word = said
        .split_whitespace()
        .find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
    word.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// The CRI's part of a configuration of either version.
fn cri(document: &DocumentMut) -> Option<&dyn toml_edit::TableLike> {
    let plugins = document.get("plugins")?.as_table_like()?;
    [CRI_3, CRI_2].iter().find_map(|name| plugins.get(name)).and_then(Item::as_table_like)
}

/// Something below it.
fn below<'a>(mut table: &'a dyn toml_edit::TableLike, path: &[&str]) -> Option<&'a Item> {
    let (last, above) = path.split_last()?;
    for name in above {
        table = table.get(name)?.as_table_like()?;
    }
    table.get(last)
}

/// Whether the default handler has its control groups made by systemd: ours must, too, for the kubelet names them in its way.
fn systemd_groups(document: &DocumentMut) -> bool {
    let Some(cri) = cri(document) else { return false };
    let default = below(cri, &["containerd", "default_runtime_name"]).and_then(Item::as_str);
    let default = default.filter(|name| !name.is_empty()).unwrap_or("runc");
    let set = below(cri, &["containerd", "runtimes", default, "options", "SystemdCgroup"]);
    set.and_then(Item::as_bool) == Some(true)
}

/// The program of our handler, as a configuration has it.
pub(crate) fn handler(document: &DocumentMut) -> Option<PathBuf> {
    let program = below(cri(document)?, &["containerd", "runtimes", HANDLER, "options", "BinaryName"])?;
    program.as_str().map(PathBuf::from)
}

/// Whether containers may be checkpointed through the CRI; none where it says nothing.
pub(crate) fn enable_criu(document: &DocumentMut) -> Option<bool> {
    cri(document)?.get("enable_criu").and_then(Item::as_bool)
}

/// The file of our own.
fn drop_in(runtime: &Path, systemd: bool, checkpointing: bool) -> String {
    let cri = format!("[plugins.'{CRI_3}'");
    let enable = if checkpointing { format!("{cri}]\n  enable_criu = true\n") } else { String::new() };
    let groups = if systemd { "  SystemdCgroup = true\n" } else { "" };
    format!(
        "version = 3\n{enable}{cri}.containerd.runtimes.{HANDLER}]\n  runtime_type = '{SHIM}'\n  \
         pod_annotations = ['{ANNOTATIONS}']\n  container_annotations = ['{ANNOTATIONS}']\n\
         {cri}.containerd.runtimes.{HANDLER}.options]\n  BinaryName = '{}'\n{groups}",
        runtime.display()
    )
}

/// Has a configuration import the files beside it. Whether that is a change.
fn imports(document: &mut DocumentMut) -> Result<bool, String> {
    if imports_ours(document) {
        return Ok(false);
    }
    let array = match document.get_mut("imports") {
        None => {
            let mut array = Array::new();
            array.push(IMPORTS);
            insert_after_version(document, array);
            return Ok(true);
        }
        Some(item) => item.as_array_mut().ok_or("its `imports` are no list")?,
    };
    array.push(IMPORTS);
    Ok(true)
}

/// Whether a configuration imports the files beside it.
pub(crate) fn imports_ours(document: &DocumentMut) -> bool {
    let imports = document.get("imports").and_then(Item::as_array);
    imports.is_some_and(|files| files.iter().any(|file| file.as_str() == Some(IMPORTS)))
}

/// A key that comes last in a table stands behind whatever comment ends it. What is about all of the file belongs to its head.
fn insert_after_version(document: &mut DocumentMut, array: Array) {
    let table = document.as_table_mut();
    let mut rest: Vec<(String, Item)> = Vec::new();
    let names: Vec<String> = table.iter().map(|(name, _)| name.to_owned()).collect();
    let after = names.iter().position(|name| name == "version").map_or(0, |at| at + 1);
    for name in &names[after..] {
        if let Some((key, item)) = table.remove_entry(name) {
            rest.push((key.get().to_owned(), item));
        }
    }
    table.insert("imports", Item::Value(Value::Array(array)));
    for (name, item) in rest {
        table.insert(&name, item);
    }
}

/// Puts the handler into a configuration of version 2. Whether that is a change.
fn add_handler(document: &mut DocumentMut, cri: &str, runtime: &Path, systemd: bool) -> Result<bool, String> {
    let same = document.to_string();
    let runtimes = ["plugins", cri, "containerd", "runtimes"];
    if below(document.as_table(), &runtimes)
        .and_then(Item::as_table_like)
        .is_none_or(|named| named.is_empty())
    {
        let table = table_at(document, &[&runtimes[..], &[DEFAULT]].concat())?;
        set(table, "runtime_type", SHIM.into());
    }
    let table = table_at(document, &[&runtimes[..], &[HANDLER]].concat())?;
    set(table, "runtime_type", SHIM.into());
    for key in ["pod_annotations", "container_annotations"] {
        set(table, key, Value::Array(Array::from_iter([ANNOTATIONS])));
    }
    let table = table_at(document, &[&runtimes[..], &[HANDLER, "options"]].concat())?;
    set(table, "BinaryName", runtime.display().to_string().into());
    if systemd {
        set(table, "SystemdCgroup", true.into());
    }
    Ok(document.to_string() != same)
}

/// A table of a configuration, made where it is not there. Those above it get no heading of their own.
fn table_at<'a>(
    document: &'a mut DocumentMut,
    path: &[&str],
) -> Result<&'a mut dyn toml_edit::TableLike, String> {
    let mut table: &mut dyn toml_edit::TableLike = document.as_table_mut();
    for (place, name) in path.iter().enumerate() {
        let implicit = place < path.len() - 1;
        let item = table.entry(name).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(implicit);
            Item::Table(table)
        });
        table = item.as_table_like_mut().ok_or_else(|| format!("its `{name}` is no table"))?;
    }
    Ok(table)
}

/// Sets a value, unless it is that already.
fn set(table: &mut dyn toml_edit::TableLike, key: &str, value: Value) {
    let says = |item: &Item| item.as_value().map(|value| value.clone().decorated("", "").to_string());
    if table.get(key).and_then(says) != Some(value.clone().decorated("", "").to_string()) {
        table.insert(key, Item::Value(value));
    }
}

/// The handlers of a configuration.
fn handlers(document: &DocumentMut) -> BTreeSet<String> {
    let runtimes = cri(document).and_then(|cri| below(cri, &["containerd", "runtimes"]));
    let runtimes = runtimes.and_then(Item::as_table_like);
    runtimes.into_iter().flat_map(|table| table.iter().map(|(name, _)| name.to_owned())).collect()
}

/// Has containerd make of its new configuration what it would make of it in its place; the handler must be in that, and every one that
/// is in force.
///
/// # Errors
/// What it said.
pub(super) fn try_out(
    site: &Site,
    place: &trial::Place,
    (main, drop_in): (&str, Option<&str>),
    runtime: &Path,
) -> Result<(), String> {
    let mut document = parse(main)?;
    if let Some(text) = drop_in {
        let beside = place.write("90-torpor.toml", text)?;
        let imports = document.get_mut("imports").and_then(Item::as_array_mut);
        imports.ok_or("nothing is imported")?.push(beside.display().to_string());
    }
    let main = place.write("config.toml", &document.to_string())?;
    let Some(said) = site.ask(PROGRAM, &["--config", &main.display().to_string(), "config", "dump"]) else {
        return Ok(());
    };
    let after = parse(&said?)?;
    if handler(&after).as_deref() != Some(runtime) {
        return Err(format!("the handler {HANDLER} is not in what it makes of its configuration"));
    }
    let before = site.ask(PROGRAM, &["config", "dump"]).and_then(Result::ok).map(|said| parse(&said));
    let before = before.transpose()?.map(|document| handlers(&document)).unwrap_or_default();
    match before.difference(&handlers(&after)).next() {
        Some(lost) => Err(format!("its handler {lost} would be lost")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
