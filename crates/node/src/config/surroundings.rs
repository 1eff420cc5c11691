//! What the machine and pod say about where a program runs, and the name that follows from it.

use std::path::{Path, PathBuf};

/// Facts from outside that settings default to. Read once, so that deciding is a pure function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The pod's name: `TORPOR_POD_NAME`, else `POD_NAME`, else in Kubernetes the host name.
    pub pod: Option<String>,
    /// The container's name, `TORPOR_CONTAINER_NAME`.
    pub container: Option<String>,
    /// The host name.
    pub host: String,
    /// The node's name, `KUBERNETES_NODE_NAME`.
    pub node: Option<String>,
    /// Where sockets and status files live: `TORPOR_RUNTIME_DIR`, else `/run` for root, else `XDG_RUNTIME_DIR`,
    /// else `/tmp`.
    pub runtime_dir: PathBuf,
    /// The current directory, which relative paths on the command line start from.
    pub current_dir: PathBuf,
}

impl Surroundings {
    /// Reads them from a lookup of environment variables and the host name.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        host: String,
        root: bool,
        current_dir: PathBuf,
    ) -> Surroundings {
        let set = |name: &str| variable(name).filter(|text| !text.is_empty());
        let in_kubernetes = set("KUBERNETES_SERVICE_HOST").is_some() || set("KUBERNETES_NODE_NAME").is_some();
        let runtime_dir = set("TORPOR_RUNTIME_DIR")
            .or_else(|| if root { Some("/run".into()) } else { set("XDG_RUNTIME_DIR") })
            .unwrap_or_else(|| "/tmp".into());
        Surroundings {
            pod: set("TORPOR_POD_NAME")
                .or_else(|| set("POD_NAME"))
                .or_else(|| in_kubernetes.then(|| host.clone())),
            container: set("TORPOR_CONTAINER_NAME"),
            host,
            node: set("KUBERNETES_NODE_NAME"),
            runtime_dir: PathBuf::from(runtime_dir),
            current_dir,
        }
    }

    /// Reads them from this process.
    ///
    /// # Errors
    /// Where the current directory is gone.
    pub fn read() -> std::io::Result<Surroundings> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Surroundings::from_variables(
            |name| std::env::var(name).ok(),
            host,
            rustix::process::geteuid().is_root(),
            // A directory that was removed, or left behind by entering another mount namespace, has no name but this.
            std::env::current_dir().unwrap_or_else(|_| "/proc/self/cwd".into()),
        ))
    }

    /// The name for `program`: `workload/container`, and for a StatefulSet's pod its ordinal as the slot.
    #[must_use]
    pub fn default_name(&self, program: &str) -> String {
        let file = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
        let container = self.container.clone().or(file).unwrap_or_default();
        let container = part(&container, "program");
        match &self.pod {
            Some(pod) => {
                let (workload, slot) = workload(pod);
                let name = format!("{}/{container}", part(workload, "pod"));
                slot.map_or_else(|| name.clone(), |slot| format!("{name}:{slot}"))
            }
            None => format!("{}/{container}", part(self.host.split('.').next().unwrap_or_default(), "host")),
        }
    }

    /// The slot that a replica in this pod takes when no other is free.
    #[must_use]
    pub fn slot(&self) -> Option<String> {
        self.pod.as_ref().map(|pod| part(pod, "pod"))
    }

    /// The control socket of the program with this name. Where its path would be longer than a socket's may be, a
    /// hash takes the name's place.
    #[must_use]
    pub fn control_socket(&self, name: &str) -> PathBuf {
        self.file(name, "sock")
    }

    /// The status file of the program with this name.
    #[must_use]
    pub fn status_file(&self, name: &str) -> PathBuf {
        self.file(name, "json")
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        let directory = self.runtime_dir.join("torpor");
        // No name has a plus, so two names never share a file.
        let path = directory.join(format!("{}.{extension}", name.replace('/', "+")));
        if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
            return path;
        }
        let hash = blake3::hash(name.as_bytes()).to_hex();
        directory.join(format!("{}.{extension}", &hash[..16]))
    }
}

/// The longest path a control socket may have: what `sun_path` holds (unix(7)), less what making it needs.
const LONGEST_SOCKET_PATH: usize = 103;

/// The workload a pod belongs to, and its ordinal where it has one, by the way Kubernetes names pods: a
/// StatefulSet's are `NAME-ORDINAL`, a Deployment's `NAME-HASH-RANDOM`, a Job's or DaemonSet's `NAME-RANDOM`. Random
/// parts use the 27 characters of Kubernetes' `SafeEncodeString` (apimachinery, pkg/util/rand), five of them.
fn workload(pod: &str) -> (&str, Option<&str>) {
    let random = |text: &str| text.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    let ordinal =
        |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((rest, last)) = pod.rsplit_once('-') else { return (pod, None) };
    if rest.is_empty() {
        return (pod, None);
    }
    // Five digits may be either; an ordinal that high is rarer than a random part without a letter is unlikely.
    if ordinal(last) {
        return (rest, Some(last));
    }
    if last.len() != 5 || !random(last) {
        return (pod, None);
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if !name.is_empty() && (8..=10).contains(&hash.len()) && random(hash) => {
            (name, None)
        }
        // An indexed Job: NAME-INDEX-RANDOM.
        Some((name, index)) if !name.is_empty() && ordinal(index) => (name, Some(index)),
        _ => (rest, None),
    }
}

/// `text` as a part of a name: what a name does not take becomes `-`.
fn part(text: &str, instead: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(63)
        .collect();
    if clean.is_empty() { instead.to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use torpor_store::name::Name;

    use super::*;

    #[test]
    fn pods_tell_their_workload() {
        for (pod, meant) in [
            ("web-0", ("web", Some("0"))),
            ("my-db-12", ("my-db", Some("12"))),
            ("web-7d9f8b6c5-x2x4k", ("web", None)),
            ("web-6799fc88d8-x2x4k", ("web", None)),
            ("my-web-backend-x2x4k", ("my-web-backend", None)),
            ("fluentd-x2x4k", ("fluentd", None)),
            ("job-3-x2x4k", ("job", Some("3"))),
            ("plain", ("plain", None)),
            ("redis-master", ("redis-master", None)),
            ("-0", ("-0", None)),
            ("", ("", None)),
        ] {
            assert_eq!(workload(pod), meant, "{pod}");
        }
    }

    #[test]
    fn names_follow_from_the_surroundings() {
        let host = Surroundings { host: "box.example.org".into(), ..Surroundings::default() };
        let pod = |pod: &str| Surroundings { pod: Some(pod.into()), ..host.clone() };
        let named = Surroundings { container: Some("main".into()), ..pod("web-1") };
        for (surroundings, program, name) in [
            (&host, "/usr/bin/redis-server", "box/redis-server"),
            (&host, "[", "box/program"),
            (&pod("web-0"), "python3", "web/python3:0"),
            (&pod("web-7d9f8b6c5-x2x4k"), "python3", "web/python3"),
            (&named, "python3", "web/main:1"),
        ] {
            assert_eq!(surroundings.default_name(program), name);
            name.parse::<Name>().unwrap();
        }
    }

    #[test]
    fn the_runtime_directory_depends_on_who_runs() {
        let read = |root, given: &'static [(&str, &str)]| {
            let variable =
                |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Surroundings::from_variables(variable, "h".into(), root, "/".into()).runtime_dir
        };
        assert_eq!(read(true, &[("XDG_RUNTIME_DIR", "/run/user/0")]), Path::new("/run"));
        assert_eq!(read(false, &[("XDG_RUNTIME_DIR", "/run/user/5")]), Path::new("/run/user/5"));
        assert_eq!(read(false, &[]), Path::new("/tmp"));
        assert_eq!(read(true, &[("TORPOR_RUNTIME_DIR", "/x")]), Path::new("/x"));
    }

    proptest! {
        #[test]
        fn a_default_name_is_always_a_name(pod in proptest::option::of("\\PC{0,90}"), host in "\\PC{0,90}", program in "\\PC{0,90}") {
            let surroundings = Surroundings { pod, host, ..Surroundings::default() };
            let name = surroundings.default_name(&program);
            prop_assert!(name.parse::<Name>().is_ok(), "{}", name);
        }
    }
}
