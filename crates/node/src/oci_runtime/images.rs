//! CRIU's images, made to fit the place in which they are restored.
//!
//! Sockets that were bound to the old pod's address are bound to the new one's; connections that lead out and cannot go on are
//! closed. Files of volumes that engines and the kubelet write anew for each pod are found where they are now. Images are edited at the level of their encoding, so that what is not known here stays.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use torpor_criu::image::edit::{self, Socket};
use torpor_criu::image::file::File;
use torpor_criu::image::namespace::Mount;
use torpor_criu::image::process::{Core, TaskState, TreeEntry};
use torpor_criu::image::{Record, read_all};

use super::projections::Projections;
use crate::container::ContainerError;

/// What was changed, and what CRIU and `start` have to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// Addresses that sockets were moved from and to.
    pub moved: Vec<(IpAddr, IpAddr)>,
    /// How many connections were closed.
    pub closed: usize,
    /// Whether connections are left.
    pub connections: bool,
    /// Processes that were stopped at the checkpoint, by their PIDs in the container.
    pub stopped: Vec<u32>,
    /// The profile or label of the machine's security module that they get, where they had another.
    pub label: Option<String>,
    /// Whether CRIU needs plugins for devices.
    pub plugins: bool,
}

/// Makes the images in a directory fit a network with these addresses, and what is mounted by the engine.
///
/// # Errors
/// One of them cannot be read, changed or written.
pub fn prepare(
    images: &Path,
    addresses: &[IpAddr],
    projections: &Projections,
) -> Result<Prepared, ContainerError> {
    let mut prepared = Prepared { stopped: stopped(images)?, ..Prepared::default() };
    let path = images.join("files.img");
    if !path.exists() {
        return Ok(prepared);
    }
    let read = std::fs::read(&path).map_err(ContainerError::place(&path))?;
    let broken = |source| ContainerError::Edit { path: path.clone(), source };
    let damaged = |source| broken(edit::EditError::from(source));
    let sockets = edit::sockets(&read).map_err(damaged)?;
    let mut files = read.clone();
    prepared.moved = moves(&sockets, addresses);
    for &(from, to) in &prepared.moved {
        files = edit::rebind(&files, from, to).map_err(broken)?;
    }
    let sockets = edit::sockets(&files).map_err(damaged)?;
    let lost = lost(&sockets, addresses);
    let closed = edit::close_connections(&files, |socket| lost.contains(&socket.id)).map_err(broken)?;
    prepared.closed = lost.len();
    for inode in &closed.inodes {
        let path = images.join(format!("tcp-stream-{inode:x}.img"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ContainerError::place(&path)(error));
            }
            _ => {}
        }
    }
    let image = edit::move_files(&closed.image, |file| projections.moved(&file.name)).map_err(damaged)?;
    // Each engine makes its containers' roots with other permissions.
    let image = edit::any_mode_of_root(&image).map_err(damaged)?;
    if image != read {
        std::fs::write(&path, &image).map_err(ContainerError::place(&path))?;
    }
    prepared.connections =
        sockets.iter().any(|socket| socket.is_tcp_connection() && !lost.contains(&socket.id));
    Ok(prepared)
}

/// Leaves out mounts that another engine had for its own ends, where nothing is mounted at their place here and nothing uses them.
///
/// # Errors
/// An image cannot be read, changed or written.
pub(super) fn leave_out_engines_own(
    images: &Path,
    is_mounted: impl Fn(&str) -> bool,
) -> Result<(), ContainerError> {
    let files = images.join("files.img");
    let files: Vec<File> = if files.exists() { entries(&files)? } else { Vec::new() };
    let names = std::fs::read_dir(images).map_err(ContainerError::place(images))?;
    let is_list = |path: &Path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"mountpoints-"))
    };
    for path in names.flatten().map(|name| name.path()).filter(|path| is_list(path)) {
        let bytes = std::fs::read(&path).map_err(ContainerError::place(&path))?;
        let broken = |source| ContainerError::Image { path: path.clone(), source };
        let mounts: Vec<Mount> = read_all(&bytes).map_err(broken)?;
        let in_use = edit::mounts_in_use(&mounts, &files);
        let is_idle = |mount: &Mount| {
            let place = mount.mountpoint.as_str();
            mount.ext_key.is_some()
                && edit::MOUNTS_OF_ENGINES.contains(&place)
                && !is_mounted(place)
                && !in_use.contains(&mount.mnt_id)
        };
        if mounts.iter().any(is_idle) {
            let less = edit::without_mounts(&bytes, is_idle).map_err(broken)?;
            std::fs::write(&path, less).map_err(ContainerError::place(&path))?;
        }
    }
    Ok(())
}

/// An address that this place has for itself alone.
fn is_own(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

/// Where sockets move whose addresses are not here: to the address of the same family, where there is just one.
fn moves(sockets: &[Socket], addresses: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let old: BTreeSet<IpAddr> = sockets
        .iter()
        .filter_map(Socket::local)
        .map(|local| local.ip())
        .filter(|address| is_own(*address) && !addresses.contains(address))
        .collect();
    let new = |old: &IpAddr| {
        let mut same = addresses.iter().filter(|new| new.is_ipv4() == old.is_ipv4());
        same.next().copied().filter(|_| same.next().is_none())
    };
    old.iter().filter_map(|old| Some((*old, new(old)?))).collect()
}

/// Connections that lead out from an address that is not here.
fn lost(sockets: &[Socket], addresses: &[IpAddr]) -> BTreeSet<u32> {
    let inside: BTreeSet<u32> = edit::internal_pairs(sockets)
        .into_iter()
        .flat_map(|(one, other)| [sockets[one].id, sockets[other].id])
        .collect();
    let leads_out = |socket: &&Socket| {
        socket.is_tcp_connection()
            && !inside.contains(&socket.id)
            && socket.local().is_some_and(|local| is_own(local.ip()) && !addresses.contains(&local.ip()))
    };
    sockets.iter().filter(leads_out).map(|socket| socket.id).collect()
}

/// Processes that were stopped by a signal.
pub(crate) fn stopped(images: &Path) -> Result<Vec<u32>, ContainerError> {
    let mut all = Vec::new();
    for entry in entries::<TreeEntry>(&images.join("pstree.img"))? {
        let path = images.join(format!("core-{}.img", entry.pid));
        let is_stopped =
            |core: &Core| core.tc.as_ref().is_some_and(|task| task.state() == TaskState::Stopped);
        if entries::<Core>(&path)?.first().is_some_and(is_stopped) {
            all.push(entry.pid);
        }
    }
    Ok(all)
}

/// All entries of an image.
pub(crate) fn entries<M: Record>(path: &Path) -> Result<Vec<M>, ContainerError> {
    let bytes = std::fs::read(path).map_err(ContainerError::place(path))?;
    read_all(&bytes).map_err(|source| ContainerError::Image { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use torpor_criu::image::edit::SocketKind;
    use torpor_criu::image::socket::TcpState;
    use torpor_criu::image::{ImageWriter, Kind};

    use super::*;

    fn socket(id: u32, local: &str, remote: Option<&str>) -> Socket {
        let local: std::net::SocketAddr = local.parse().unwrap();
        let remote: Option<std::net::SocketAddr> = remote.map(|remote| remote.parse().unwrap());
        let state = if remote.is_some() { TcpState::Established } else { TcpState::Listen };
        Socket {
            id,
            inode: id,
            family: if local.is_ipv4() { 2 } else { 10 },
            kind: SocketKind::Tcp(Some(state)),
            source: Some(local.ip()),
            source_port: local.port(),
            destination: remote.map(|remote| remote.ip()),
            destination_port: remote.map_or(0, |remote| remote.port()),
            namespace: None,
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_another_engine_mounted_for_itself_is_left_out_where_it_is_not_here() {
        let images = tempfile::tempdir().unwrap();
        let path = images.path().join("mountpoints-5.img");
        let mount = |mnt_id, place: &str| {
            let key = Some(place.to_owned());
            Mount { mnt_id, mountpoint: place.to_owned(), ext_key: key, ..Mount::default() }
        };
        let mut image = ImageWriter::new(Kind::Mounts, Vec::new()).unwrap();
        for (id, place) in [(1, "/data"), (2, "/run/.containerenv"), (3, "/dev/termination-log")] {
            image.entry(&mount(id, place).encode_to_vec(), &[]).unwrap();
        }
        std::fs::write(&path, image.into_inner()).unwrap();
        leave_out_engines_own(images.path(), |place| place == "/dev/termination-log").unwrap();
        let left: Vec<Mount> = entries(&path).unwrap();
        let left: Vec<&str> = left.iter().map(|mount| mount.mountpoint.as_str()).collect();
        assert_eq!(left, ["/data", "/dev/termination-log"]);
    }

    #[test]
    fn sockets_move_to_the_new_pods_address() {
        let sockets = [
            socket(1, "10.0.0.7:80", None),
            socket(2, "0.0.0.0:81", None),
            socket(3, "127.0.0.1:82", None),
            socket(4, "[::ffff:10.0.0.7]:83", None),
        ];
        let moved = |here: &[&str]| moves(&sockets, &addresses(here));
        let old: IpAddr = "10.0.0.7".parse().unwrap();
        assert_eq!(moved(&["10.0.9.1"]), [(old, "10.0.9.1".parse().unwrap())]);
        assert_eq!(moved(&["10.0.9.1", "fd00::1"]).len(), 1);
        assert!(moved(&["10.0.0.7"]).is_empty(), "it is here");
        assert!(moved(&["10.0.9.1", "10.0.9.2"]).is_empty(), "which one?");
        assert!(moved(&[]).is_empty());
    }

    #[test]
    fn connections_that_lead_out_from_elsewhere_are_lost() {
        let sockets = [
            socket(1, "10.0.0.7:4000", Some("10.0.0.9:5432")),
            socket(2, "127.0.0.1:4001", Some("127.0.0.1:81")),
            socket(3, "10.0.0.7:4002", Some("10.0.0.7:82")),
            socket(4, "10.0.0.7:82", Some("10.0.0.7:4002")),
            socket(5, "10.0.0.7:80", None),
        ];
        assert_eq!(lost(&sockets, &addresses(&["10.0.9.1"])), BTreeSet::from([1]));
        assert!(lost(&sockets, &addresses(&["10.0.0.7"])).is_empty());
    }
}
