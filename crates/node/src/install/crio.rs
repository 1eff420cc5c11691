//! CRI-O's handler: a file of its own in `/etc/crio/crio.conf.d`, whose tables are merged into those of others.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item};

use super::plan::{Plan, Wanted};
use super::site::Site;
use super::trial::{self, Trial};
use super::{HANDLER, InstallError};
use crate::doctor::Crio;

pub(crate) const CONFIG: &str = "/etc/crio/crio.conf";
pub(crate) const DIRECTORY: &str = "/etc/crio/crio.conf.d";
pub(crate) const DROP_IN: &str = "/etc/crio/crio.conf.d/90-torpor.conf";
const FILE: &str = "90-torpor.conf";
const PROGRAM: &str = "crio";
pub(crate) const PROGRAMS: [&str; 3] = ["/usr/bin/crio", "/usr/local/bin/crio", "/etc/crio"];

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.site.has(&PROGRAMS) {
        return Ok(());
    }
    plan.engines.push("CRI-O");
    let before = plan.changes.len();
    let path = wanted.site.on_machine(Path::new(DROP_IN));
    let content = drop_in(runtime, wanted.checkpointing);
    plan.write(path, content.clone(), "the handler of CRI-O");
    plan.trials.push(Trial::Crio(content));
    plan.note_changed(before, "restart CRI-O: `systemctl restart crio`; containers run on");
    Ok(())
}

fn drop_in(runtime: &Path, checkpointing: bool) -> String {
    let handler = format!(
        "[crio.runtime.runtimes.{HANDLER}]\nruntime_path = \"{}\"\nruntime_type = \"oci\"\nruntime_root = \"/run/runc\"\n",
        runtime.display()
    );
    // Without its infrastructure container, a pod's network namespace has no process that a checkpoint could know it by.
    let enable = "[crio.runtime]\nenable_criu_support = true\ndrop_infra_ctr = false\n\
                  [crio.checkpoint_restore]\ncontainer_level_enabled = \"checkpoint_restore\"\n";
    if checkpointing { format!("{enable}{handler}") } else { handler }
}

/// Has CRI-O tell what it makes of its configuration with the new file in it; the handler must be in that.
///
/// # Errors
/// What it said.
pub(super) fn try_out(site: &Site, place: &trial::Place, drop_in: &str) -> Result<(), String> {
    place.copy_from(&site.on_machine(Path::new(DIRECTORY)))?;
    place.write(FILE, drop_in)?;
    let directory = place.path().display().to_string();
    match site.ask(PROGRAM, &["--config-dir", &directory, "config"]) {
        None => Ok(()),
        Some(said) if said.as_ref().is_ok_and(|text| !text.contains(&format!("runtimes.{HANDLER}]"))) => {
            Err(format!("the handler {HANDLER} is not in what it makes of its configuration"))
        }
        Some(said) => said.map(drop).map_err(|said| without_chatter(&said)),
    }
}

/// What it says but for how it went about it.
fn without_chatter(said: &str) -> String {
    let grave: Vec<&str> = said.lines().filter(|line| !line.contains(" level=info ")).collect();
    if grave.is_empty() { said.to_owned() } else { grave.join("\n") }
}

/// Adds to what is known of CRI-O what one of its files says, which counts before those that were read.
pub(crate) fn read(document: &DocumentMut, found: &mut Crio) {
    let say = |path: &[&str]| {
        let mut item = document.as_item();
        for name in path {
            item = item.get(name)?;
        }
        Some(item)
    };
    let text = |path: &[&str]| say(path).and_then(Item::as_str).map(str::to_owned);
    let flag = |path: &[&str]| say(path).and_then(Item::as_bool);
    let handler = text(&["crio", "runtime", "runtimes", HANDLER, "runtime_path"]).map(PathBuf::from);
    found.handler = handler.or(found.handler.take());
    found.level = text(&["crio", "checkpoint_restore", "container_level_enabled"]).or(found.level.take());
    found.support = flag(&["crio", "runtime", "enable_criu_support"]).or(found.support);
    found.drop_infra = flag(&["crio", "runtime", "drop_infra_ctr"]).or(found.drop_infra);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handler_and_the_switches() {
        let runtime = Path::new("/opt/torpor/bin/torpor-runtime");
        assert_eq!(drop_in(runtime, false), include_str!("golden/crio.conf"));
        assert_eq!(drop_in(runtime, true), include_str!("golden/crio-checkpointing.conf"));
    }

    #[test]
    fn of_what_it_says_the_reason_is_told() {
        let said = "time=\"1\" level=info msg=\"Updating config\"\ntime=\"2\" level=fatal msg=\"line 2\"";
        assert_eq!(without_chatter(said), "time=\"2\" level=fatal msg=\"line 2\"");
        assert_eq!(without_chatter("no such file"), "no such file");
    }
}
