//! containerd's handler: a file of its own beside the configuration, which imports it.
//!
//! Files that are imported are merged into the tables of others since version 3 of the configuration (containerd 2); before, a table of theirs
//! replaced all of the other's (containerd, `cmd/containerd/server/config/config.go`). So a version 2 is left to a person.

use std::path::Path;
use std::process::{Command, Stdio};

use super::plan::{Plan, Wanted};
use super::{HANDLER, InstallError};

const CONFIG: &str = "/etc/containerd/config.toml";
const DROP_IN: &str = "/etc/containerd/conf.d/90-torpor.toml";
const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";
/// Where its program is.
const PROGRAMS: [&str; 3] = ["/usr/bin/containerd", "/usr/local/bin/containerd", "/etc/containerd"];

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.has(&PROGRAMS) {
        return Ok(());
    }
    let config = wanted.read(CONFIG)?;
    let path = wanted.on_machine(Path::new(CONFIG));
    let main = match &config {
        None => format!("version = 3\nimports = [\"{IMPORTS}\"]\n"),
        Some(text) => match imported(text) {
            Ok(text) => text,
            Err(because) => return Err(InstallError::Format { path, because }),
        },
    };
    plan.engines.push("containerd");
    // The handler first: whoever is imported must be there.
    let drop_in = drop_in(runtime, wanted.checkpointing);
    plan.write(wanted.on_machine(Path::new(DROP_IN)), drop_in, "the handler of containerd");
    plan.write(path, main, "have containerd import it");
    plan.notes.push("restart containerd: `systemctl restart containerd`; containers run on".to_owned());
    Ok(())
}

/// Asks containerd itself, where it is this machine's.
///
/// # Errors
/// What it said.
pub(super) fn takes_its_configuration(wanted: &Wanted) -> Result<(), String> {
    if wanted.machine != Path::new("/") || !wanted.has(&PROGRAMS) {
        return Ok(());
    }
    match Command::new("containerd").args(["config", "dump"]).stdin(Stdio::null()).output() {
        Ok(output) if !output.status.success() => {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
        // One that is not in the path is asked by nobody.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The file of our own.
fn drop_in(runtime: &Path, checkpointing: bool) -> String {
    let cri = "[plugins.'io.containerd.cri.v1.runtime'";
    let enable = if checkpointing { format!("{cri}]\n  enable_criu = true\n") } else { String::new() };
    format!(
        "version = 3\n{enable}{cri}.containerd.runtimes.{HANDLER}]\n  runtime_type = 'io.containerd.runc.v2'\n  \
         pod_annotations = ['torpor.dev/*']\n  container_annotations = ['torpor.dev/*']\n\
         {cri}.containerd.runtimes.{HANDLER}.options]\n  BinaryName = '{}'\n",
        runtime.display()
    )
}

/// A configuration that imports the files beside it; the same where it does already.
fn imported(text: &str) -> Result<String, String> {
    // What stands before the first table belongs to all.
    let top = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let key = |line: &str| {
        line.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
    };
    let mut version = None;
    let mut imports = None;
    for (number, line) in top.enumerate() {
        match key(line) {
            Some((key, value)) if key == "version" => version = Some((number, value)),
            Some((key, value)) if key == "imports" => imports = Some((number, value)),
            _ => {}
        }
    }
    let Some((after, _)) = version.filter(|(_, value)| value.starts_with('3') || value.starts_with('4'))
    else {
        return Err(
            "its version is not 3, and older ones cannot be extended by a file beside them".to_owned()
        );
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match imports {
        Some((_, value)) if value.contains(IMPORTS) => return Ok(text.to_owned()),
        Some((at, value)) => {
            let inside = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let Some(inside) = inside.map(|inside| inside.trim().trim_end_matches(',')) else {
                return Err("its `imports` do not stand in one line".to_owned());
            };
            let before = if inside.is_empty() { String::new() } else { format!("{inside}, ") };
            lines[at] = format!("imports = [{before}\"{IMPORTS}\"]");
        }
        None => lines.insert(after + 1, format!("imports = [\"{IMPORTS}\"]")),
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_imports_what_is_beside_it_once() {
        for (before, after) in [
            ("version = 3\n[a]\n", "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[a]\n"),
            ("version = 3\nimports = []\n", "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"),
            (
                "imports = ['/x.toml',]\nversion = 3\n",
                "imports = ['/x.toml', \"/etc/containerd/conf.d/*.toml\"]\nversion = 3\n",
            ),
        ] {
            assert_eq!(imported(before).as_deref(), Ok(after));
            assert_eq!(imported(after).as_deref(), Ok(after));
        }
        for refused in ["", "version = 2\n", "[a]\nversion = 3\n", "version = 3\nimports = [\n'/x']\n"] {
            assert!(imported(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_handler_lets_our_annotations_pass() {
        let text = drop_in(Path::new("/opt/torpor/bin/torpor-runtime"), true);
        for part in ["runtimes.torpor]", "pod_annotations = ['torpor.dev/*']", "enable_criu = true"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!drop_in(Path::new("/x"), false).contains("enable_criu"));
    }
}
