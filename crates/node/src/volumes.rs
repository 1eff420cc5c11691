//! Files outside the capture that the program has open for writing or mapped shared.
//!
//! A checkpoint does not carry them, so a restore is only right if they are still what they were. What they were is
//! recorded while the program is frozen; [`VolumeRecord::compare`] says, before anything is restored, what is not
//! so any more.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::files::{Stat, Timestamp};
use crate::mounts::{MountPlan, MountPolicy, escaped_path};
use crate::open_files::{OpenFile, OpenFiles, OpenKind};

/// Files up to this length are hashed whole.
pub const WHOLE_LIMIT: u64 = 64 << 20;

/// Of longer files, this many pieces are hashed.
const SAMPLES: u64 = 64;

/// The length of a piece, in bytes.
const SAMPLE_LENGTH: u64 = 256 << 10;

/// Why a file could not be recorded or compared.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}, which the program writes outside the checkpoint", .path.display())]
pub struct VolumeError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl VolumeError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        "check the volume that holds it; Torpor needs to read what the program writes there"
    }
}

/// How a file's content was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hashed {
    /// All of it.
    Whole,
    /// 64 pieces of 256 KiB: the first, the last, and others at even distances.
    Sampled,
}

/// A file outside the capture, as it was when the program was frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// Its path in the program's mount namespace.
    #[serde(with = "escaped_path")]
    pub path: PathBuf,
    /// Where the mount it lies on is.
    #[serde(with = "escaped_path")]
    pub mount_point: PathBuf,
    /// What is mounted there.
    pub mount_source: String,
    /// The mount's file system type.
    pub file_system: String,
    /// Its inode number.
    pub ino: u64,
    /// Its length, in bytes.
    pub size: u64,
    /// When it was last written.
    pub mtime: Timestamp,
    /// How its content was hashed.
    pub hashed: Hashed,
    /// BLAKE3 of that, in hexadecimal.
    pub hash: String,
}

/// In what a file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is not there.
    Missing,
    /// Something else than a regular file is there.
    Kind,
    /// Its length is another.
    Size {
        /// When the program was frozen, in bytes.
        recorded: u64,
        /// Now, in bytes.
        now: u64,
    },
    /// Its content is another.
    Content,
    /// Its content is the same as far as it was hashed, but it was written since.
    Written,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The file.
    pub path: PathBuf,
    /// In what it differs.
    pub what: Difference,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.what {
            Difference::Missing => write!(f, "{path} is not there any more"),
            Difference::Kind => write!(f, "{path} is not a regular file any more"),
            Difference::Size { recorded, now } => {
                write!(f, "{path} was {recorded} bytes long when the program was frozen and is {now} now")
            }
            Difference::Content => write!(f, "{path} has other content than when the program was frozen"),
            Difference::Written => write!(f, "{path} was written after the program was frozen"),
        }
    }
}

impl Changed {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        "the program would go on with what it remembers of the old file: start it fresh, put the file back, or \
         allow the change if you know it does no harm"
    }
}

/// Records every file outside the capture that the tree has open for writing or mapped shared. Call it while the
/// program is frozen. `carried` says of a path whether the checkpoint has it.
pub fn record(
    open: &OpenFiles,
    plan: &MountPlan,
    carried: &dyn Fn(&Path) -> bool,
) -> Result<Vec<VolumeRecord>, VolumeError> {
    let mut records = BTreeMap::new();
    for file in open.iter().filter(|file| is_recorded(file, plan, carried)) {
        if records.contains_key(&file.path) {
            continue;
        }
        let failed = |source| VolumeError { path: file.path.clone(), source };
        // Its name may have been taken over by another file; then the path alone says nothing.
        let Some(opened) = open_regular(&file.path).map_err(failed)? else { continue };
        let (mount_point, mount_source, file_system) = match file.mount(plan) {
            Some(on) => (on.mount.point.clone(), on.mount.source.clone(), on.mount.file_system.clone()),
            None => (PathBuf::from("/"), String::new(), String::new()),
        };
        let stat = Stat::at(&opened, c"").map_err(|error| failed(error.into()))?;
        let hashed = if stat.size <= WHOLE_LIMIT { Hashed::Whole } else { Hashed::Sampled };
        let hash = hash(&opened, stat.size, hashed).map_err(failed)?;
        let record = VolumeRecord {
            path: file.path.clone(),
            mount_point,
            mount_source,
            file_system,
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
            hashed,
            hash,
        };
        records.insert(file.path.clone(), record);
    }
    Ok(records.into_values().collect())
}

fn is_recorded(file: &OpenFile, plan: &MountPlan, carried: &dyn Fn(&Path) -> bool) -> bool {
    // A file without a name goes into the checkpoint as CRIU's ghost file, whatever mount it was on.
    file.writable
        && file.kind == OpenKind::File
        && !file.deleted
        && file.path.is_absolute()
        && !carried(&file.path)
        && file.mount(plan).is_none_or(|on| on.policy != MountPolicy::Carry)
}

impl VolumeRecord {
    /// Compares with what is there now; `None` means that nothing the program could notice is different. The
    /// inode number is not compared: a volume restored from a backup, or on another node, has others.
    pub fn compare(&self) -> Result<Option<Changed>, VolumeError> {
        let failed = |source| VolumeError { path: self.path.clone(), source };
        let changed = |what| Ok(Some(Changed { path: self.path.clone(), what }));
        let stat = match Stat::follow(&self.path) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return changed(Difference::Missing),
            Err(error) => return Err(failed(error)),
        };
        if !stat.is_file() {
            return changed(Difference::Kind);
        }
        if stat.size != self.size {
            return changed(Difference::Size { recorded: self.size, now: stat.size });
        }
        let Some(file) = open_regular(&self.path).map_err(failed)? else {
            return changed(Difference::Missing);
        };
        if hash(&file, stat.size, self.hashed).map_err(failed)? != self.hash {
            return changed(Difference::Content);
        }
        if self.hashed == Hashed::Sampled && stat.mtime != self.mtime {
            return changed(Difference::Written);
        }
        Ok(None)
    }
}

/// Compares all records with what is there now.
pub fn compare(records: &[VolumeRecord]) -> Result<Vec<Changed>, VolumeError> {
    records.iter().filter_map(|record| record.compare().transpose()).collect()
}

/// Opens a regular file by its path; nothing if there is none. Never waits for a pipe or a device.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let handle = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !Stat::at(&handle, c"")?.is_file() {
        return Ok(None);
    }
    crate::files::reopen(&handle).map(Some)
}

fn hash(file: &File, size: u64, how: Hashed) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    let mut buffer = vec![0; 128 << 10];
    match how {
        Hashed::Whole => hash_run(file, 0, size, &mut buffer, &mut hasher)?,
        Hashed::Sampled => {
            let last = size.saturating_sub(SAMPLE_LENGTH);
            for sample in 0..SAMPLES {
                // 128 bits, so that no length overflows.
                let offset = u128::from(last) * u128::from(sample) / u128::from(SAMPLES - 1);
                let offset = u64::try_from(offset).unwrap_or(last);
                hash_run(file, offset, SAMPLE_LENGTH, &mut buffer, &mut hasher)?;
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_run(
    file: &File,
    offset: u64,
    length: u64,
    buffer: &mut [u8],
    hasher: &mut blake3::Hasher,
) -> io::Result<()> {
    let (mut offset, end) = (offset, offset.saturating_add(length));
    while offset < end {
        let wanted = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let got = file.read_at(&mut buffer[..wanted], offset)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        offset += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::plan_of;
    use rustix::process::getpid;

    fn own_files(directory: &Path) -> Vec<VolumeRecord> {
        let open = OpenFiles::of(&[getpid()]).unwrap();
        let mut records = record(&open, &MountPlan::default(), &|_| false).unwrap();
        records.retain(|record| record.path.starts_with(directory));
        records
    }

    #[test]
    fn a_file_open_for_writing_is_recorded_and_compared() {
        let root = tempfile::tempdir().unwrap();
        let (path, read) = (root.path().join("data"), root.path().join("read"));
        std::fs::write(&read, "not of interest").unwrap();
        let _read = File::open(&read).unwrap();
        let file = File::create(&path).unwrap();
        file.write_all_at(b"balance 100", 0).unwrap();
        let records = own_files(root.path());
        assert_eq!(records.len(), 1);
        let text = serde_json::to_string(&records).unwrap();
        assert_eq!(serde_json::from_str::<Vec<VolumeRecord>>(&text).unwrap(), records);
        assert_eq!(compare(&records).unwrap(), []);

        file.write_all_at(b"balance 999", 0).unwrap();
        assert_eq!(compare(&records).unwrap()[0].what, Difference::Content);
        file.set_len(3).unwrap();
        assert_eq!(compare(&records).unwrap()[0].what, Difference::Size { recorded: 11, now: 3 });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            compare(&records).unwrap()[0].to_string(),
            format!("{} is not there any more", path.display())
        );
        assert!(own_files(root.path()).is_empty(), "what has no name is in the checkpoint");
    }

    #[test]
    fn what_is_carried_is_not_recorded() {
        let root = tempfile::tempdir().unwrap();
        let _file = File::create(root.path().join("data")).unwrap();
        let open = OpenFiles::of(&[getpid()]).unwrap();
        let records = record(&open, &plan_of(root.path()), &|_| false).unwrap();
        // Found by the path where the descriptor's mount is not in the plan.
        assert!(records.iter().all(|record| !record.path.starts_with(root.path())));
        let records = record(&open, &MountPlan::default(), &|path| path.starts_with(root.path())).unwrap();
        assert!(records.iter().all(|record| !record.path.starts_with(root.path())));
    }

    #[test]
    fn a_long_file_is_sampled_and_its_time_counts() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create(root.path().join("long")).unwrap();
        file.set_len(WHOLE_LIMIT * 16).unwrap();
        let records = own_files(root.path());
        assert_eq!(records[0].hashed, Hashed::Sampled);
        assert_eq!(compare(&records).unwrap(), []);
        let then = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"x", SAMPLE_LENGTH + 1).unwrap();
        file.set_modified(then + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(compare(&records).unwrap()[0].what, Difference::Written);
        file.write_all_at(b"x", WHOLE_LIMIT * 16 - 1).unwrap();
        assert_eq!(compare(&records).unwrap()[0].what, Difference::Content);
    }
}
