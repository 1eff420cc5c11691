//! What has to be another where a container goes on under another engine.

use std::collections::HashSet;

use super::{WireError, edit_entries};
use crate::image::file::{File, RegularFile};
use crate::image::namespace::Mount;
use crate::image::{ImageError, ImageReader, ImageWriter, Kind, Limits};
use crate::wire::Message;

/// Numbers of fields (CRIU `images/fdinfo.proto`, `images/regfile.proto`, `images/netdev.proto`).
mod field {
    pub(super) const REGULAR_FILE: u32 = 3;
    pub(super) const MODE: u32 = 10;
    pub(super) const NETWORK_KEY: u32 = 8;
}

/// What engines mount for their own ends, and a program hardly misses.
pub const MOUNTS_OF_ENGINES: [&str; 3] = ["/run/.containerenv", "/dev/termination-log", "/etc/resolv.conf"];

/// The ids of mounts that something else refers to: what is mounted on them, and files that are open there.
#[must_use]
pub fn mounts_in_use<'a>(
    mounts: impl IntoIterator<Item = &'a Mount>,
    files: impl IntoIterator<Item = &'a File>,
) -> HashSet<u32> {
    let below = mounts.into_iter().map(|mount| mount.parent_mnt_id);
    let open = files.into_iter().flat_map(|file| {
        let regular = file.reg.as_ref().and_then(|file| file.mnt_id);
        let socket = file.usk.as_ref().and_then(|socket| socket.mnt_id);
        regular.into_iter().chain(socket).map(i32::cast_unsigned)
    });
    below.chain(open).collect()
}

/// A `mountpoints-ID.img` without some of its mounts. Nothing may be mounted on them, and no file on them may be open.
///
/// # Errors
///
/// When the image is damaged.
pub fn without_mounts(
    mountpoints: &[u8],
    mut leave_out: impl FnMut(&Mount) -> bool,
) -> Result<Vec<u8>, ImageError> {
    let kind = Kind::Mounts;
    let limits = Limits { payload: mountpoints.len() as u64, ..Limits::default() };
    let mut reader = ImageReader::new(kind, mountpoints, limits)?;
    let failed = |source| ImageError::Io { kind, offset: 0, source };
    let mut writer =
        ImageWriter::with_head(reader.head(), Vec::with_capacity(mountpoints.len())).map_err(failed)?;
    while let Some(entry) = reader.next_entry()? {
        let mount = <Mount as prost::Message>::decode(entry.message)
            .map_err(|source| ImageError::Message { kind, offset: entry.offset, source })?;
        if !leave_out(&mount) {
            writer.entry(entry.message, entry.extra).map_err(failed)?;
        }
    }
    Ok(writer.into_inner())
}

/// A `files.img` that says nothing of the permissions of the root directory, so that a restore takes it as it is: engines make
/// it with different ones, and every process has it open.
///
/// # Errors
///
/// When the image is damaged.
pub fn any_mode_of_root(files: &[u8]) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::Files, files, |entry| {
        entry.edit(field::REGULAR_FILE, |message| {
            let file = <RegularFile as prost::Message>::decode(message.encode().as_slice())
                .map_err(|_| WireError::Mismatch { number: field::REGULAR_FILE, expected: "a file" })?;
            if file.name == "/" {
                message.remove(field::MODE);
            }
            Ok::<_, WireError>(())
        })?;
        Ok(())
    })
}

/// A `netns-ID.img` that leaves the network to whoever restores: it has to give a namespace under this name.
///
/// # Errors
///
/// When the name is longer than an image can say.
pub fn external_network(key: &str) -> std::io::Result<Vec<u8>> {
    let mut namespace = Message::default();
    namespace.set_bytes(field::NETWORK_KEY, key.as_bytes().to_vec());
    let mut writer = ImageWriter::new(Kind::NetworkNamespace, Vec::new())?;
    writer.entry(&namespace.encode(), &[])?;
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::image::file::FileType;
    use crate::image::framing::tests::image;
    use crate::image::read_all;

    fn mount(mnt_id: u32, mountpoint: &str) -> Mount {
        Mount { mnt_id, mountpoint: mountpoint.to_owned(), ..Mount::default() }
    }

    #[test]
    fn a_mount_is_left_out_and_the_others_keep_every_byte() {
        let mut kept = mount(1, "/").encode_to_vec();
        kept.extend([0xfa, 0x3f, 3, b'n', b'e', b'w']);
        let gone = mount(2, "/run/.containerenv").encode_to_vec();
        let before = image(Kind::Mounts, &[(&gone, &[]), (&kept, &[])]);
        let after = without_mounts(&before, |mount| mount.mountpoint == "/run/.containerenv").unwrap();
        assert_eq!(after, image(Kind::Mounts, &[(&kept, &[])]));
        assert!(without_mounts(&before[..before.len() - 1], |_| false).is_err());
    }

    #[test]
    fn a_mount_is_in_use_by_what_is_mounted_on_it_or_open_there() {
        let mounts = [
            Mount { parent_mnt_id: 1, ..mount(2, "/run") },
            Mount { parent_mnt_id: 2, ..mount(3, "/run/x") },
        ];
        let reg = RegularFile { mnt_id: Some(7), ..RegularFile::default() };
        let file = File { reg: Some(reg), ..File::default() };
        assert_eq!(mounts_in_use(&mounts, [&file]), HashSet::from([1, 2, 7]));
    }

    #[test]
    fn only_the_root_loses_its_permissions() {
        let file = |id, name: &str| {
            let reg =
                RegularFile { id, name: name.to_owned(), mode: Some(0o40755), ..RegularFile::default() };
            let kind = FileType::Regular as i32;
            File { r#type: kind, id, reg: Some(reg), ..File::default() }.encode_to_vec()
        };
        let (root, other) = (file(1, "/"), file(2, "/etc"));
        let after = any_mode_of_root(&image(Kind::Files, &[(&root, &[]), (&other, &[])])).unwrap();
        let files: Vec<File> = read_all(&after).unwrap();
        let modes: Vec<_> = files.into_iter().map(|file| file.reg.unwrap().mode).collect();
        assert_eq!(modes, [None, Some(0o40755)]);
    }

    #[test]
    fn a_network_is_named() {
        let image = external_network("extRootNetNS").unwrap();
        let limits = Limits::default();
        let mut reader = ImageReader::new(Kind::NetworkNamespace, &image[..], limits).unwrap();
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(entry.message, b"\x42\x0cextRootNetNS");
        assert!(reader.next_entry().unwrap().is_none());
    }
}
