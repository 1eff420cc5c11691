//! The mounts a program lives on, and what a checkpoint does about each.
//!
//! Parsing (`/proc/PID/mountinfo`, proc(5)), classification and policy are pure; only [`Mounts::of_process`]
//! reads anything. The result is a [`MountPlan`], a value that can be printed and recorded.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod class;
mod detached;
mod escape;
mod plan;
mod scratch;

pub use class::MountClass;
pub(crate) use detached::DetachedMount;
pub use escape::{EscapeError, escape, escaped_path, escaped_paths, unescape};
pub use plan::{MountPlan, MountPolicy, MountRule, PlannedMount, PolicyError, RootFiles};
pub(crate) use scratch::overlay;

/// The largest mountinfo that is read, in bytes.
pub const MOUNTINFO_LIMIT: u64 = 16 << 20;

/// The most mounts that are read; a container has a few dozen.
pub const MOUNT_LIMIT: usize = 10_000;

/// Why a mount table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// The file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A line does not have the form proc(5) describes.
    #[error("mount table line {line}: {field} is missing or not understood")]
    Line {
        /// Counted from one.
        line: usize,
        /// The field, by its name in proc(5).
        field: &'static str,
    },
    /// More mounts, or more bytes, than are ever read.
    #[error("the mount table is larger than {MOUNTINFO_LIMIT} bytes or {MOUNT_LIMIT} mounts")]
    TooLarge,
}

impl MountsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check that /proc is mounted and that the program still runs",
            Self::Line { .. } => {
                "this kernel writes its mount table in an unknown form; please report the line"
            }
            Self::TooLarge => "run the program in a mount namespace with fewer mounts",
        }
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The mount's id, as in `mnt_id` of `/proc/PID/fdinfo/N`.
    pub id: u64,
    /// The id of the mount this one sits on.
    pub parent: u64,
    /// The device number's major part.
    pub major: u32,
    /// The device number's minor part.
    pub minor: u32,
    /// What of the file system is mounted: `/`, or a directory or file within it for a bind mount.
    #[serde(with = "escaped_path")]
    pub root: PathBuf,
    /// Where it is mounted.
    #[serde(with = "escaped_path")]
    pub point: PathBuf,
    /// Mounted read-only, by the mount's own options or by the file system's.
    pub read_only: bool,
    /// The file system's type, such as `overlay` or `fuse.sshfs`.
    pub file_system: String,
    /// What is mounted: a device, a server and path, or any word.
    pub source: String,
}

impl Mount {
    fn parse(line: &[u8], number: usize) -> Result<Self, MountsError> {
        let missing = |field| MountsError::Line { line: number, field };
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let id = decimal(words.next()).ok_or(missing("mount ID"))?;
        let parent = decimal(words.next()).ok_or(missing("parent ID"))?;
        let device = words.next().ok_or(missing("major:minor"))?;
        let (major, minor) = split_once(device, b':').ok_or(missing("major:minor"))?;
        let major = decimal(Some(major)).and_then(|n| n.try_into().ok()).ok_or(missing("major:minor"))?;
        let minor = decimal(Some(minor)).and_then(|n| n.try_into().ok()).ok_or(missing("major:minor"))?;
        let root = path(words.next()).ok_or(missing("root"))?;
        let point = path(words.next()).filter(|path| path.is_absolute()).ok_or(missing("mount point"))?;
        let options = words.next().ok_or(missing("mount options"))?;
        // Optional fields (propagation) end at a lone dash.
        words.find(|word| *word == b"-").ok_or(missing("separator"))?;
        let file_system = text(words.next()).ok_or(missing("filesystem type"))?;
        // An empty source is written as an empty word, which the split above has swallowed.
        let rest: Vec<&[u8]> = words.collect();
        let (source, super_options): (&[u8], &[u8]) = match rest.as_slice() {
            [] => return Err(missing("super options")),
            [options] => (b"", options),
            [source, options, ..] => (source, options),
        };
        let read_only = has_option(options, b"ro") || has_option(super_options, b"ro");
        let source = text(Some(source)).ok_or(missing("mount source"))?;
        Ok(Self { id, parent, major, minor, root, point, read_only, file_system, source })
    }
}

fn has_option(options: &[u8], wanted: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option == wanted)
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

fn decimal(word: Option<&[u8]>) -> Option<u64> {
    let word = std::str::from_utf8(word?).ok()?;
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
}

fn path(word: Option<&[u8]>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = unescape(word?).ok()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

fn text(word: Option<&[u8]>) -> Option<String> {
    Some(String::from_utf8_lossy(&unescape(word?).ok()?).into_owned())
}

/// All mounts of one mount namespace, in the order they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Reads the bytes of a mountinfo file (proc(5)).
    pub fn parse(bytes: &[u8]) -> Result<Self, MountsError> {
        if bytes.len() as u64 > MOUNTINFO_LIMIT {
            return Err(MountsError::TooLarge);
        }
        let mut mounts = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            if mounts.len() == MOUNT_LIMIT {
                return Err(MountsError::TooLarge);
            }
            mounts.push(Mount::parse(line, number + 1)?);
        }
        Ok(Self { mounts })
    }

    /// Reads the mounts of a process; `None` means this one.
    pub fn of_process(pid: Option<rustix::process::Pid>) -> Result<Self, MountsError> {
        let path = match pid {
            None => PathBuf::from("/proc/self/mountinfo"),
            Some(pid) => PathBuf::from(format!("/proc/{}/mountinfo", pid.as_raw_nonzero())),
        };
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MOUNTINFO_LIMIT + 1).read_to_end(&mut bytes))
            .map_err(|source| MountsError::Read { path, source })?;
        Self::parse(&bytes)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount with this id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.id == id)
    }

    /// Those a path lookup can reach: a mount over another, or over a directory that holds another, hides it.
    #[must_use]
    pub fn reachable(&self) -> Vec<&Mount> {
        self.mounts
            .iter()
            .enumerate()
            .filter(|(place, mount)| self.is_reachable(*place, mount))
            .map(|(_, mount)| mount)
            .collect()
    }

    fn is_reachable(&self, place: usize, mount: &Mount) -> bool {
        let covers_itself = |other: &&Mount| other.parent == mount.id && other.point == mount.point;
        if self.mounts.iter().any(|other| other.id != mount.id && covers_itself(&other)) {
            return false;
        }
        // Up to the root: no step may lie beneath, or under, a sibling's mount point. A damaged table could
        // hold a ring, so the number of steps is bounded.
        let (mut place, mut mount) = (place, mount);
        for _ in 0..self.mounts.len() {
            let hidden = self.mounts.iter().enumerate().any(|(other_place, other)| {
                other.parent == mount.parent
                    && other.id != mount.id
                    && mount.point.starts_with(&other.point)
                    && (other.point != mount.point || other_place > place)
            });
            if hidden {
                return false;
            }
            let above = self.mounts.iter().position(|other| other.id == mount.parent && other.id != mount.id);
            match above {
                Some(above) => (place, mount) = (above, &self.mounts[above]),
                None => return true,
            }
        }
        false
    }

    /// The reachable mount that holds a path, by name alone.
    #[must_use]
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        self.reachable()
            .into_iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACHINE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334556k,nr_inodes=3083639,mode=755
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684100k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 25 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684100k
31 27 0:30 /a\\040b /mnt/with\\040space ro,nosuid shared:7 master:2 - fuse.sshfs host:/x rw
";

    #[test]
    fn a_line_is_read_with_its_escapes_and_optional_fields() {
        let mounts = Mounts::parse(MACHINE.as_bytes()).unwrap();
        let last = mounts.by_id(31).unwrap();
        assert_eq!(last.root, Path::new("/a b"));
        assert_eq!(last.point, Path::new("/mnt/with space"));
        assert_eq!(last.file_system, "fuse.sshfs");
        assert_eq!((last.major, last.minor), (0, 30));
        assert!(last.read_only);
    }

    #[test]
    fn a_read_only_file_system_is_read_only_however_it_is_mounted() {
        let mounts = Mounts::parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 ro,noload\n").unwrap();
        assert!(mounts.all()[0].read_only);
    }

    #[test]
    fn an_empty_source_is_read() {
        let mounts = Mounts::parse(b"1 0 0:5 / /x rw - tmpfs  rw\n").unwrap();
        assert_eq!(mounts.all()[0].source, "");
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_field() {
        let error =
            Mounts::parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 x / /y rw - a b c\n").unwrap_err();
        assert_eq!(error.to_string(), "mount table line 2: major:minor is missing or not understood");
    }

    #[test]
    fn of_stacked_mounts_only_the_top_is_reachable() {
        let mounts = Mounts::parse(MACHINE.as_bytes()).unwrap();
        let ids: Vec<u64> = mounts.reachable().iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [22, 24, 27, 30, 31]);
        assert_eq!(mounts.holding(Path::new("/dev/shm/x")).unwrap().id, 30);
        assert_eq!(mounts.holding(Path::new("/dev/shmx")).unwrap().id, 24);
    }

    #[test]
    fn a_mount_over_a_directory_hides_the_mounts_beneath_it() {
        let table =
            "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /x/y rw - tmpfs b rw\n3 1 0:6 / /x rw - tmpfs c rw\n";
        let mounts = Mounts::parse(table.as_bytes()).unwrap();
        let ids: Vec<u64> = mounts.reachable().iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn a_table_whose_parents_form_a_ring_ends() {
        let table = "1 2 8:1 / /a rw - ext4 a rw\n2 1 0:5 / /b rw - tmpfs b rw\n";
        assert!(Mounts::parse(table.as_bytes()).unwrap().reachable().is_empty());
    }

    #[test]
    fn this_process_has_a_root_mount() {
        let mounts = Mounts::of_process(None).unwrap();
        assert_eq!(mounts.holding(Path::new("/nothing here")).unwrap().point, Path::new("/"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(mounts) = Mounts::parse(&bytes) {
                prop_assert!(mounts.reachable().len() <= mounts.all().len());
            }
        }

        #[test]
        fn what_the_kernel_would_write_is_read_back(
            id in 0u64..1 << 40, point in proptest::collection::vec(1u8.., 1..40), read_only: bool,
        ) {
            let mut absolute = b"/".to_vec();
            absolute.extend(&point);
            let options = if read_only { "ro" } else { "rw" };
            let line = format!("{id} 0 8:1 / {} {options} - ext4 /dev/x rw\n", escape(&absolute));
            let mounts = Mounts::parse(line.as_bytes()).unwrap();
            use std::os::unix::ffi::OsStrExt;
            prop_assert_eq!(mounts.all()[0].point.as_os_str().as_bytes(), &absolute[..]);
            prop_assert_eq!(mounts.all()[0].id, id);
            prop_assert_eq!(mounts.all()[0].read_only, read_only);
        }
    }
}
