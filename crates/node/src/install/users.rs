//! Containers that run under our handler, and could not be stopped nor deleted without its program.

use std::fs;
use std::path::{Path, PathBuf};

use super::site::Site;

/// Where containerd's shims keep what they know of containers, Docker's own among them.
const SHIMS: [&str; 2] = [
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task",
];
/// The file in which a shim notes the runtime's program (containerd, `cmd/containerd-shim-runc-v2/runc/container.go`).
const RUNTIME: &str = "runtime";
/// What keeps a container of CRI-O's or Podman's; the runtime's program is among its words.
const CONMON: &str = "conmon";
/// The word before a container's ID.
const ID: &str = "-c";

/// The IDs of containers whose runtime is this program, as far as their engines' files and processes tell.
pub(super) fn of(site: &Site, runtime: &Path) -> Vec<String> {
    let mut ids: Vec<String> = shims(site, runtime).chain(conmons(site, runtime)).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn entries(path: PathBuf) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn shims<'a>(site: &'a Site, runtime: &'a Path) -> impl Iterator<Item = String> + 'a {
    let namespaces = SHIMS.into_iter().flat_map(|place| entries(site.on_machine(Path::new(place))));
    let containers = namespaces.flat_map(entries);
    containers.filter_map(move |container| {
        let noted = fs::read_to_string(container.join(RUNTIME)).ok()?;
        (Path::new(noted.trim()) == runtime).then(|| container.file_name()?.to_str().map(str::to_owned))?
    })
}

fn conmons<'a>(site: &'a Site, runtime: &'a Path) -> impl Iterator<Item = String> + 'a {
    entries(site.on_machine(Path::new("/proc"))).filter_map(move |process| {
        let name = fs::read_to_string(process.join("comm")).ok()?;
        let words = fs::read_to_string(process.join("cmdline")).ok().filter(|_| name.trim_end() == CONMON)?;
        let words: Vec<&str> = words.split('\0').collect();
        let uses = words.iter().any(|word| Path::new(word) == runtime);
        let id = words.iter().position(|word| *word == ID).and_then(|at| words.get(at + 1))?;
        uses.then(|| (*id).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_and_conmons_tell_whose_runtime_it_is() {
        let machine = tempfile::tempdir().unwrap();
        let site = Site { machine: machine.path().to_owned(), prefix: "/opt/torpor".into() };
        let write = |path: &str, text: &str| {
            let path = machine.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let (ours, tasks) =
            ("/opt/torpor/bin/torpor-runtime", "run/containerd/io.containerd.runtime.v2.task");
        write(&format!("{tasks}/k8s.io/one/runtime"), ours);
        write(&format!("{tasks}/moby/two/runtime"), "/usr/bin/runc");
        for (process, name, runtime) in
            [("7", "conmon", ours), ("8", "conmon", "/usr/bin/crun"), ("9", "sh", ours)]
        {
            write(&format!("proc/{process}/comm"), &format!("{name}\n"));
            write(&format!("proc/{process}/cmdline"), &format!("conmon\0-c\0id-{process}\0-r\0{runtime}\0"));
        }
        assert_eq!(of(&site, Path::new(ours)), ["id-7", "one"]);
        assert!(of(&site, Path::new("/usr/local/bin/torpor-runtime")).is_empty());
    }
}
