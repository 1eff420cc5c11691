//! CRI-O's handler: a file of its own in `/etc/crio/crio.conf.d`, whose tables are merged into those of others.

use std::path::Path;

use super::plan::{Plan, Wanted};
use super::{HANDLER, InstallError};

const DROP_IN: &str = "/etc/crio/crio.conf.d/90-torpor.conf";
const PROGRAMS: [&str; 3] = ["/usr/bin/crio", "/usr/local/bin/crio", "/etc/crio"];

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.has(&PROGRAMS) {
        return Ok(());
    }
    plan.engines.push("CRI-O");
    let path = wanted.on_machine(Path::new(DROP_IN));
    plan.write(path, drop_in(runtime, wanted.checkpointing), "the handler of CRI-O");
    plan.notes.push("restart CRI-O: `systemctl restart crio`; containers run on".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handler_and_the_switches() {
        let plain = drop_in(Path::new("/opt/torpor/bin/torpor-runtime"), false);
        assert!(plain.contains("runtime_path = \"/opt/torpor/bin/torpor-runtime\""));
        assert!(!plain.contains("enable_criu_support"));
        let all = drop_in(Path::new("/x"), true);
        for switch in ["enable_criu_support = true", "drop_infra_ctr = false", "container_level_enabled"] {
            assert!(all.contains(switch), "{all}");
        }
    }
}
