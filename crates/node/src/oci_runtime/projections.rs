//! Files that are written anew for each pod: tokens, configuration maps, `/etc/hosts` and the like.
//!
//! The kubelet writes a volume of projected files into a directory whose name is the time, and has `..data` lead to it (Kubernetes,
//! `pkg/volume/util/atomic_writer.go`). Whoever has such a file open knows it by that name. In another pod the same file is in a
//! directory of another name, and has another size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use torpor_criu::image::edit::Moved;

use super::fit::GrantedMount;

/// The link to the newest directory.
const NEWEST: &str = "..data";
/// Files that engines write for each pod.
const WRITTEN: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

/// What is written anew, by where it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projections {
    /// Directories, and the name of the newest in each.
    newest: BTreeMap<PathBuf, String>,
    /// Single files.
    files: Vec<PathBuf>,
}

impl Projections {
    /// Looks at what is to be mounted.
    #[must_use]
    pub fn of(mounts: &[GrantedMount]) -> Projections {
        let mut all = Projections::default();
        for mount in mounts.iter().filter(|mount| mount.is_bind()) {
            if WRITTEN.iter().any(|path| mount.destination == Path::new(path)) {
                all.files.push(mount.destination.clone());
            }
            let link = mount.source.as_ref().and_then(|source| std::fs::read_link(source.join(NEWEST)).ok());
            if let Some(name) = link.as_deref().and_then(Path::to_str).filter(|name| is_dated(name)) {
                all.newest.insert(mount.destination.clone(), name.to_owned());
            }
        }
        all
    }

    /// Where a file is now, if it is elsewhere or may have another size.
    #[must_use]
    pub fn moved(&self, name: &str) -> Option<Moved> {
        let path = Path::new(name);
        if self.files.iter().any(|file| file == path) {
            return Some(Moved { name: name.to_owned(), any_size: true });
        }
        // Programs see `/var/run` where it is a link to `/run` by the latter.
        self.newest.iter().find_map(|(destination, newest)| {
            let at = [destination.as_path(), &resolved(destination)]
                .into_iter()
                .find_map(|place| Some((place.to_owned(), path.strip_prefix(place).ok()?)));
            let (place, inside) = at?;
            let mut parts = inside.components();
            let dated = parts.next()?.as_os_str().to_str()?;
            let moved = match is_dated(dated) {
                true => place.join(newest).join(parts.as_path()),
                false => return None,
            };
            Some(Moved { name: moved.to_str()?.to_owned(), any_size: true })
        })
    }
}

/// `/var/run` is a link to `/run` in most images.
fn resolved(path: &Path) -> PathBuf {
    match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => path.to_owned(),
    }
}

/// Whether it is a name as `..2026_11_21_16_00_00.123456789`.
fn is_dated(name: &str) -> bool {
    name.strip_prefix("..").is_some_and(|rest| {
        rest.len() > 10 && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_' || byte == b'.')
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

    fn bind(destination: &str, source: &Path) -> GrantedMount {
        let (destination, source) = (destination.into(), Some(source.to_owned()));
        GrantedMount { destination, source, kind: "bind".into(), options: Vec::new() }
    }

    #[test]
    fn a_token_is_in_a_directory_of_another_name() {
        let volume = tempfile::tempdir().unwrap();
        symlink("..2026_11_22_08_00_00.42", volume.path().join(NEWEST)).unwrap();
        let plain = tempfile::tempdir().unwrap();
        let odd = tempfile::tempdir().unwrap();
        symlink("../../etc", odd.path().join(NEWEST)).unwrap();
        let mounts = [
            bind(TOKEN, volume.path()),
            bind("/data", plain.path()),
            bind("/odd", odd.path()),
            bind("/etc/hosts", plain.path()),
        ];
        let projections = Projections::of(&mounts);
        let moved = |name: &str| projections.moved(name).map(|moved| moved.name);
        let old = "..2026_11_21_16_00_00.123";
        let new = "..2026_11_22_08_00_00.42";
        for (name, expected) in [
            (format!("{TOKEN}/{old}/token"), Some(format!("{TOKEN}/{new}/token"))),
            (
                format!("/run/secrets/kubernetes.io/serviceaccount/{old}/a/b"),
                Some(format!("/run/secrets/kubernetes.io/serviceaccount/{new}/a/b")),
            ),
            (format!("{TOKEN}/{old}"), Some(format!("{TOKEN}/{new}"))),
            (TOKEN.to_owned(), None),
            (format!("{TOKEN}/plain"), None),
            (format!("/data/{old}/token"), None),
            (format!("/odd/{old}/token"), None),
            ("/etc/hosts".to_owned(), Some("/etc/hosts".to_owned())),
            ("/etc/passwd".to_owned(), None),
        ] {
            let moved = moved(&name).map(|moved| moved.trim_end_matches('/').to_owned());
            assert_eq!(moved, expected, "{name}");
        }
    }
}
