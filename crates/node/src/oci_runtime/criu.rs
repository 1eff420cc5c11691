//! The CRIU that a runtime starts: the one that is meant, without plugins and without configuration files of the machine's.
//!
//! runc and crun look for `criu` in `PATH`. For a restore that begins with a directory in which this name is this very program,
//! which becomes CRIU. A configuration of ours reaches CRIU by the annotation `org.criu.config` (runc, `libcontainer/criu_linux.go`;
//! crun, `src/libcrun/criu.c`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use torpor_criu::program::Program;
use torpor_criu::session::{NO_PLUGINS, SEARCH_PATH};

use super::images::Prepared;
use crate::container::Flavor;

/// The name under which the binary becomes CRIU, where [`VARIABLE`] says which.
pub const NAME: &str = "criu";
/// CRIU's command line, a word a line.
pub const VARIABLE: &str = "TORPOR_RUNTIME_CRIU";
/// The directory of plugins that it may load.
pub const PLUGINS: &str = "TORPOR_RUNTIME_CRIU_PLUGINS";
/// The annotation that names a configuration.
pub const ANNOTATION: &str = "org.criu.config";

/// What a runtime is started with, so that it finds CRIU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its `PATH`.
    pub path: OsString,
    /// The value of [`VARIABLE`].
    pub words: OsString,
}

/// Makes CRIU be found, by way of `directory`.
///
/// # Errors
/// The directory cannot be written.
pub fn provide(directory: &Path, criu: &Program) -> io::Result<Found> {
    std::fs::create_dir_all(directory)?;
    let link = directory.join(NAME);
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(std::env::current_exe()?, &link)?,
    }
    let mut path = directory.as_os_str().to_owned();
    let inherited = std::env::var_os("PATH").filter(|path| !path.is_empty());
    path.push(":");
    path.push(inherited.unwrap_or_else(|| SEARCH_PATH.into()));
    Ok(Found { path, words: criu.command_line().join(OsStr::new("\n")) })
}

/// Becomes CRIU, where this process was started to. Returns why that fails; none where it was not.
#[must_use]
pub fn exec(arguments: &[OsString]) -> Option<io::Error> {
    let name = arguments.first().and_then(|first| Path::new(first).file_name());
    let words = std::env::var_os(VARIABLE).filter(|_| name.is_some_and(|name| name == NAME))?;
    let words = words.to_str()?;
    let mut words = words.lines();
    let plugins = std::env::var_os(PLUGINS).unwrap_or_else(|| NO_PLUGINS.into());
    let mut command = Command::new(words.next()?);
    command.args(words).arg("--no-default-config").args(&arguments[1..]);
    command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C").env("CRIU_LIBS_DIR", plugins);
    Some(command.exec())
}

/// What CRIU is told besides what the runtime tells it, one option a line. `bound` is what is mounted for some of the names that images have
/// for mounts from outside.
#[must_use]
pub fn configuration(
    options: &[(String, String)],
    prepared: &Prepared,
    bound: &[(PathBuf, PathBuf)],
    stop: bool,
) -> String {
    let was = |name: &str| options.iter().any(|(key, value)| key == name && value == "true");
    let mut lines = vec!["file-locks"];
    for (wanted, line) in [
        (stop, "leave-stopped"),
        (prepared.connections && !was("tcp_close"), "tcp-established"),
        (was("tcp_close"), "tcp-close"),
        (was("ext_unix_sk"), "ext-unix-sk"),
        (was("shell_job"), "shell-job"),
    ] {
        if wanted {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n" + &bindings(bound)
}

/// Lines that have CRIU mount something else than the runtime says, by the names that images have for mounts from outside.
pub(crate) fn bindings(bound: &[(PathBuf, PathBuf)]) -> String {
    let mut text = String::new();
    // What stands in a configuration counts before what the runtime says. A path with spaces or quotes would be another there.
    let is_plain =
        |path: &str| !path.contains(|letter: char| letter.is_whitespace() || "\"'#\\]".contains(letter));
    for (name, place) in bound {
        if let (Some(name), Some(place)) = (name.to_str(), place.to_str())
            && is_plain(name)
            && is_plain(place)
        {
            text += &format!("external mnt[{name}]:{place}\n");
        }
    }
    text
}

/// A bundle's configuration with our configuration of CRIU in it. It is as it was when this is dropped.
#[derive(Debug)]
pub struct Annotated<'a> {
    path: PathBuf,
    original: &'a [u8],
}

impl<'a> Annotated<'a> {
    /// Puts the annotation into the file `path`, whose content is `original`.
    ///
    /// # Errors
    /// It is no configuration, or cannot be written.
    pub fn new(path: &Path, original: &'a [u8], configuration: &Path) -> io::Result<Annotated<'a>> {
        let mut config: serde_json::Value = serde_json::from_slice(original)?;
        let root = config.as_object_mut().ok_or(io::ErrorKind::InvalidData)?;
        let annotations = root.entry("annotations").or_insert_with(|| serde_json::json!({}));
        if annotations.is_null() {
            *annotations = serde_json::json!({});
        }
        let annotations = annotations.as_object_mut().ok_or(io::ErrorKind::InvalidData)?;
        annotations.insert(ANNOTATION.to_owned(), configuration.to_string_lossy().into_owned().into());
        replace(path, &serde_json::to_vec(&config)?)?;
        Ok(Annotated { path: path.to_owned(), original })
    }
}

impl Drop for Annotated<'_> {
    fn drop(&mut self) {
        if let Err(error) = replace(&self.path, self.original) {
            tracing::warn!(%error, path = %self.path.display(), "the bundle's configuration stays changed");
        }
    }
}

/// Writes a file as a whole.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("torpor");
    std::fs::write(&partial, content)?;
    std::fs::set_permissions(&partial, std::fs::metadata(path)?.permissions())?;
    std::fs::rename(partial, path)
}

/// The configurations of CRIU that a runtime reads where no annotation names another.
#[must_use]
pub fn usual(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::Runc => &["/etc/criu/runc.conf"],
        Flavor::Crun => &["/etc/criu/crun.conf", "/etc/criu/runc.conf"],
    }
}

/// What CRIU would have been told about this container if it had not been restored. The runtime keeps our annotation, and a later
/// checkpoint by the runtime reads our file.
#[must_use]
pub fn afterwards(original: &[u8], usual: &[&str]) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: Option<std::collections::BTreeMap<String, String>>,
    }
    let annotations = serde_json::from_slice::<Config>(original).ok().and_then(|config| config.annotations);
    let own = annotations.and_then(|annotations| annotations.get(ANNOTATION).cloned());
    let paths = match &own {
        Some(path) => vec![path.as_str()],
        None => usual.to_vec(),
    };
    paths.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect()
    }

    #[test]
    fn criu_is_told_what_held_at_the_checkpoint() {
        let plain = Prepared::default();
        let connected = Prepared { connections: true, ..Prepared::default() };
        for (names, prepared, stop, expected) in [
            (&[][..], &plain, false, "file-locks\n"),
            (&[], &connected, true, "file-locks\nleave-stopped\ntcp-established\n"),
            (&["tcp_close"], &connected, false, "file-locks\ntcp-close\n"),
            (&["ext_unix_sk", "shell_job"], &plain, false, "file-locks\next-unix-sk\nshell-job\n"),
            (&["libdir", "action_script"], &plain, false, "file-locks\n"),
        ] {
            assert_eq!(configuration(&options(names), prepared, &[], stop), expected, "{names:?}");
        }
        let bound = [("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu/pod/one"), ("/odd name", "/x")];
        let bound = bound.map(|(name, place)| (PathBuf::from(name), PathBuf::from(place)));
        assert_eq!(
            configuration(&[], &plain, &bound, false),
            "file-locks\nexternal mnt[/sys/fs/cgroup/cpu]:/sys/fs/cgroup/cpu/pod/one\n"
        );
    }

    #[test]
    fn a_bundle_is_annotated_only_while_it_is_restored() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        for original in
            [r#"{"a": 1}"#, r#"{"annotations": null}"#, r#"{"annotations": {"org.criu.config": "/x"}}"#]
        {
            std::fs::write(&path, original).unwrap();
            let annotated = Annotated::new(&path, original.as_bytes(), Path::new("/ours")).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(config["annotations"][ANNOTATION], "/ours");
            drop(annotated);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), original);
        }
        assert!(Annotated::new(&path, b"[]", Path::new("/ours")).is_err());
    }

    #[test]
    fn a_later_checkpoint_by_the_runtime_finds_what_it_would_have_found() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, name).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (own, usual) = (file("own"), file("usual"));
        let annotated = format!(r#"{{"annotations": {{"org.criu.config": "{own}"}}}}"#);
        assert_eq!(afterwards(annotated.as_bytes(), &[&usual]), b"own");
        assert_eq!(afterwards(b"{}", &["/no/such", &usual]), b"usual");
        assert_eq!(afterwards(br#"{"annotations": {"org.criu.config": ""}}"#, &[&usual]), b"");
        assert_eq!(afterwards(b"{}", &[]), b"");
    }
}
