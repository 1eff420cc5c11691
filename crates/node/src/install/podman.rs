//! Podman's runtime: a file of its own in `/etc/containers/containers.conf.d`, which every call of Podman reads (containers/common,
//! `pkg/config`).

use std::path::Path;

use super::plan::{Plan, Wanted};
use super::{HANDLER, InstallError};

pub(crate) const DROP_IN: &str = "/etc/containers/containers.conf.d/90-torpor.conf";
pub(crate) const PROGRAMS: [&str; 2] = ["/usr/bin/podman", "/usr/local/bin/podman"];

pub(super) fn plan(wanted: &Wanted, runtime: &Path, plan: &mut Plan) -> Result<(), InstallError> {
    if wanted.site.has(&PROGRAMS) {
        plan.engines.push("Podman");
        plan.write(wanted.site.on_machine(Path::new(DROP_IN)), drop_in(runtime), "the runtime of Podman");
    }
    Ok(())
}

fn drop_in(runtime: &Path) -> String {
    format!("[engine.runtimes]\n{HANDLER} = [\"{}\"]\n", runtime.display())
}

/// The runtime's program, as our file has it.
pub(crate) fn runtime(document: &toml_edit::DocumentMut) -> Option<std::path::PathBuf> {
    let programs = document.get("engine")?.get("runtimes")?.get(HANDLER)?.as_array()?;
    programs.get(0)?.as_str().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_named_by_its_path() {
        let path = Path::new("/opt/torpor/bin/torpor-runtime");
        let text = drop_in(path);
        assert_eq!(text, include_str!("golden/podman.conf"));
        assert_eq!(runtime(&text.parse().unwrap()).as_deref(), Some(path));
    }
}
