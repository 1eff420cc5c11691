//! Images of plain processes made fit for a sandbox: without connections that lead out, and without privileges that do.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::FileType;
use torpor_criu::image::edit::{self, EditError, Socket};
use torpor_criu::image::file::{File, RegularFile};

use super::message::Grown;
use crate::container::{ContainerError, own};
use crate::oci_runtime::images::entries;

/// `CAP_NET_RAW` (`include/uapi/linux/capability.h`): the network has nothing in it.
const NET_RAW: u64 = 1 << 13;

/// Which bits of a file's flags tell how it was opened (open(2)).
const ACCESS: u32 = libc::O_ACCMODE as u32;

/// What images are about.
#[derive(Debug)]
pub(super) struct Told {
    /// The highest PID of all threads.
    pub(super) highest_pid: i32,
    /// Files that have grown since.
    pub(super) grown: Vec<Grown>,
    /// Whether connections among the processes are kept.
    pub(super) connections: bool,
    /// What files take that are open for writing, in bytes: the kernel copies them as a whole when they are opened.
    pub(super) copied: u64,
}

/// Changes images in a directory of ours, in which others' are links.
///
/// # Errors
/// They are a container's, or cannot be read or changed.
pub(super) fn confine(images: &Path) -> Result<Told, ContainerError> {
    let threads = threads(images)?;
    // The first process of a PID namespace: its mounts are not the machine's either.
    if threads.contains(&1) {
        return Err(ContainerError::NeedsBundle { checkpoint: "the checkpoint".to_owned() });
    }
    let allowed = allowed();
    for thread in &threads {
        let core = images.join(format!("core-{thread}.img"));
        replace(&core, |image| Ok(edit::limit_capabilities(image, allowed)?))?;
        // Where an older CRIU kept them.
        remove(&images.join(format!("creds-{thread}.img")))?;
    }
    let path = images.join("files.img");
    let (mut grown, mut connections, mut copied) = (Vec::new(), false, 0);
    // Older dumps have their files in others, with which all connections are closed.
    if path.exists() {
        let mut outside = Vec::new();
        replace(&path, |image| {
            let sockets = edit::sockets(image)?;
            let inside = inside(&sockets);
            connections = !inside.is_empty();
            let closed = edit::close_connections(image, |socket| !inside.contains(&socket.id))?;
            outside = closed.inodes;
            Ok(edit::any_mode_of_root(&closed.image)?)
        })?;
        for inode in outside {
            remove(&images.join(format!("tcp-stream-{inode:x}.img")))?;
        }
        let files = entries::<File>(&path)?;
        let regular = || files.iter().filter_map(|file| file.reg.as_ref());
        grown = regular().filter_map(|file| has_grown(file, length(file)?)).collect();
        let written: BTreeMap<&str, u64> = regular()
            .filter(|file| file.flags & ACCESS != libc::O_RDONLY.cast_unsigned())
            .filter_map(|file| Some((file.name.as_str(), length(file)?)))
            .collect();
        copied = written.values().sum();
        for socket in files.iter().filter_map(|file| file.isk.as_ref()) {
            let stream = images.join(format!("tcp-stream-{:x}.img", socket.ino));
            if stream.exists() {
                replace(&stream, |image| Ok(edit::count_as_sent(image)?))?;
            }
        }
    }
    let highest_pid = threads.into_iter().max().unwrap_or_default();
    Ok(Told { highest_pid, grown, connections, copied })
}

/// The PIDs of all threads, by the images that they have. What the tree says of the threads of a process that has ended is nothing.
fn threads(images: &Path) -> Result<Vec<i32>, ContainerError> {
    let failed = ContainerError::place(images);
    let mut threads = Vec::new();
    for entry in fs::read_dir(images).map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("core-")?.strip_suffix(".img"));
        threads.extend(number.and_then(|number| number.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// Changes an image, which is ours from then on.
fn replace(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, EditError>,
) -> Result<(), ContainerError> {
    let failed = ContainerError::place(path);
    let image = fs::read(path).map_err(&failed)?;
    let changed = change(&image).map_err(|source| ContainerError::Edit { path: path.to_owned(), source })?;
    fs::remove_file(path).and_then(|()| fs::write(path, changed)).map_err(failed)
}

fn remove(path: &Path) -> Result<(), ContainerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ContainerError::place(path)(error)),
        _ => Ok(()),
    }
}

/// Sockets of connections that the sandbox can have: both ends are among the processes, and they are at addresses of a loopback.
fn inside(sockets: &[Socket]) -> Vec<u32> {
    let is_local = |socket: &Socket| {
        let loopback = |address: Option<SocketAddr>| {
            address.is_some_and(|address| address.ip().to_canonical().is_loopback())
        };
        loopback(socket.local()) && loopback(socket.remote())
    };
    let pairs = edit::internal_pairs(sockets).into_iter();
    let pairs = pairs.filter(|(a, b)| is_local(&sockets[*a]) && is_local(&sockets[*b]));
    pairs.flat_map(|(a, b)| [sockets[a].id, sockets[b].id]).collect()
}

/// The length of a file now, in bytes; none where there is no such file.
fn length(file: &RegularFile) -> Option<u64> {
    let metadata = fs::symlink_metadata(&file.name).ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// A file that is longer than it was. Of a program or library that is another one, its beginning would be, too.
fn has_grown(file: &RegularFile, length: u64) -> Option<Grown> {
    let regular = file.mode.is_none_or(|mode| FileType::from_raw_mode(mode) == FileType::RegularFile);
    let was = file.size.filter(|size| regular && file.build_id.is_empty() && *size < length)?;
    file.name.starts_with('/').then(|| Grown { path: file.name.clone().into(), length: was })
}

/// Capabilities that processes keep: those that containers have under each engine, and one more. None of them changes anything outside of the
/// sandbox's namespaces.
fn allowed() -> u64 {
    own::capabilities().bits() | NET_RAW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_grown_and_a_program_is_another_one() {
        let file = |size, build_id: &[u32]| RegularFile {
            name: "/var/log/x".to_owned(),
            size: Some(size),
            build_id: build_id.to_vec(),
            mode: Some(0o100_644),
            ..RegularFile::default()
        };
        assert_eq!(has_grown(&file(5, &[]), 9), Some(Grown { path: "/var/log/x".into(), length: 5 }));
        for (file, length) in [
            (file(5, &[]), 5),
            (file(5, &[]), 3),
            (file(5, &[7]), 9),
            (RegularFile { mode: Some(0o040_755), ..file(5, &[]) }, 9),
            (RegularFile { name: "relative".to_owned(), ..file(5, &[]) }, 9),
            (RegularFile { size: None, ..file(5, &[]) }, 9),
        ] {
            assert_eq!(has_grown(&file, length), None, "{file:?} {length}");
        }
    }

    #[test]
    fn nothing_that_is_allowed_changes_the_machine() {
        use torpor_criu::image::credential::CAPABILITIES;
        let allowed: Vec<_> = (0..CAPABILITIES.len())
            .filter(|number| allowed() & 1 << number != 0)
            .map(|number| CAPABILITIES[number])
            .collect();
        let expected = [
            "chown",
            "dac_override",
            "fowner",
            "fsetid",
            "kill",
            "setgid",
            "setuid",
            "setpcap",
            "net_bind_service",
            "net_raw",
            "sys_chroot",
            "setfcap",
        ];
        assert_eq!(allowed, expected);
    }
}
