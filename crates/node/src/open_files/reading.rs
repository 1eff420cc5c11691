//! Reading `/proc` for a tree of tasks.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::process::Pid;

use super::{FdInfo, Mapping, OpenFile, OpenFilesError, OpenKind, Place};
use crate::files::Stat;
use crate::process_tree;

/// The largest file of `/proc` that is read, in bytes.
const READ_LIMIT: u64 = 256 << 20;
/// How often, and after what pause, a task is looked at again that may not be looked at.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// A task and all its descendants, parents first. Read under the freeze it is exact; before, a task that starts
/// meanwhile may be missing.
pub fn tree(root: Pid) -> Result<Vec<Pid>, OpenFilesError> {
    let (mut pids, mut seen) = (vec![root], HashSet::from([root]));
    let mut place = 0;
    while let Some(pid) = pids.get(place).copied() {
        place += 1;
        let tasks = PathBuf::from(format!("/proc/{}/task", pid.as_raw_nonzero()));
        for task in list(&tasks)? {
            let path = tasks.join(task).join("children");
            let Some(text) = read(&path)? else { continue };
            let children = String::from_utf8_lossy(&text);
            let children = children.split_ascii_whitespace().filter_map(|word| word.parse().ok());
            pids.extend(children.filter_map(Pid::from_raw).filter(|pid| seen.insert(*pid)));
        }
    }
    Ok(pids)
}

/// What a task holds; nothing if the task has ended.
pub(super) fn of_task(pid: Pid) -> Result<Vec<OpenFile>, OpenFilesError> {
    let state = || process_tree::state(pid.as_raw_nonzero().get());
    let has_ended = || state().is_none_or(|state| matches!(state, 'Z' | 'X'));
    Ok(patiently(|| read_task(pid), has_ended)?.unwrap_or_default())
}

/// Looks again where the kernel denies it, for some time: without root's capabilities nobody may look at a task in the midst of its `execve`, nor at one
/// that ends (Linux, `fs/proc/base.c`, `task_dump_owner`). None if it has ended.
fn patiently<T>(
    mut look: impl FnMut() -> Result<T, OpenFilesError>,
    has_ended: impl Fn() -> bool,
) -> Result<Option<T>, OpenFilesError> {
    let mut looks = 1;
    loop {
        match look() {
            Err(OpenFilesError::Read { source, .. }) if is_denied(&source) && has_ended() => return Ok(None),
            Err(OpenFilesError::Read { source, .. }) if is_denied(&source) && looks < LOOKS => looks += 1,
            told => return told.map(Some),
        }
        std::thread::sleep(PAUSE);
    }
}

fn read_task(pid: Pid) -> Result<Vec<OpenFile>, OpenFilesError> {
    let mut files = Vec::new();
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let links = [("cwd", Place::WorkingDirectory), ("root", Place::Root), ("exe", Place::Executable)];
    for (name, place) in links {
        files.extend(open_file(pid, place, &process.join(name), None)?);
    }
    for name in list(&process.join("fd"))? {
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let info = process.join("fdinfo").join(&name);
        let Some(bytes) = read(&info)? else { continue };
        let parsed = FdInfo::parse(&bytes).map_err(|source| OpenFilesError::FdInfo { path: info, source })?;
        let link = process.join("fd").join(&name);
        files.extend(open_file(pid, Place::Descriptor(number), &link, Some(parsed))?);
    }
    let maps = process.join("maps");
    let Some(bytes) = read(&maps)? else { return Ok(files) };
    let mappings =
        Mapping::parse_files(&bytes).map_err(|source| OpenFilesError::Maps { path: maps, source })?;
    // Of a file that is mapped in many pieces, one is told, and one more if it is written.
    let mut told = HashSet::new();
    for mapping in mappings {
        if told.insert((mapping.path.clone(), mapping.ino, mapping.shared)) {
            files.push(mapped_file(pid, &process, mapping));
        }
    }
    Ok(files)
}

fn open_file(
    pid: Pid,
    place: Place,
    link: &Path,
    info: Option<FdInfo>,
) -> Result<Option<OpenFile>, OpenFilesError> {
    let read = |source| OpenFilesError::Read { path: link.to_owned(), source };
    let target = match fs::read_link(link) {
        Ok(target) => target,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    // Asking about a descriptor does not open it, so nothing blocks. A file of a dead server may not answer.
    let stat = Stat::follow(link).ok();
    let deleted = stat.is_some_and(|stat| stat.links == 0) && target.is_absolute();
    let info = info.unwrap_or_default();
    let writable = info.is_writable();
    let FdInfo { position, flags, mount_id, watches } = info;
    let mount_id = mount_id.filter(|_| matches!(place, Place::Descriptor(_)));
    let kind = kind(&target, stat.as_ref(), watches);
    let path = if deleted { without_mark(target) } else { target };
    Ok(Some(OpenFile { pid, place, path, kind, writable, flags, position, deleted, mount_id, stat }))
}

fn mapped_file(pid: Pid, process: &Path, mapping: Mapping) -> OpenFile {
    let range = format!("{:x}-{:x}", mapping.start, mapping.end);
    // The exact way needs a capability; the path, if it still leads to the mapped inode, does without.
    let stat = Stat::follow(process.join("map_files").join(range))
        .ok()
        .or_else(|| if mapping.deleted { None } else { Stat::follow(&mapping.path).ok() });
    let kind = kind(&mapping.path, stat.as_ref(), Vec::new());
    OpenFile {
        pid,
        place: Place::Mapping(mapping.start),
        path: mapping.path,
        kind,
        // What is mapped shared and read-only can be made writable again; that it was opened for writing is not
        // told. The copy is cheap beside the doubt.
        writable: mapping.shared,
        flags: 0,
        position: 0,
        deleted: mapping.deleted,
        mount_id: None,
        stat,
    }
}

/// Tells what is open from the link's text and the inode's type.
fn kind(target: &Path, stat: Option<&Stat>, watches: Vec<super::InotifyWatch>) -> OpenKind {
    let text = target.as_os_str().as_bytes();
    if let Some(word) = text.strip_prefix(b"anon_inode:") {
        let word = word.strip_prefix(b"[").and_then(|word| word.strip_suffix(b"]")).unwrap_or(word);
        return match word {
            b"inotify" => OpenKind::Inotify(watches),
            b"fanotify" => OpenKind::Fanotify,
            b"io_uring" => OpenKind::IoUring,
            _ => OpenKind::Anonymous(String::from_utf8_lossy(word).into_owned()),
        };
    }
    if text.starts_with(b"/memfd:") {
        return OpenKind::Memory;
    }
    let Some(stat) = stat else { return OpenKind::File };
    let (major, minor) = stat.rdev;
    match stat.file_type() {
        FileType::Directory => OpenKind::Directory,
        FileType::Symlink => OpenKind::Symlink,
        FileType::Fifo if text.starts_with(b"pipe:") => OpenKind::Pipe,
        FileType::Fifo => OpenKind::Fifo,
        FileType::Socket => OpenKind::Socket,
        FileType::CharacterDevice if is_terminal(major) => OpenKind::Terminal { major, minor },
        FileType::CharacterDevice => OpenKind::Character { major, minor },
        FileType::BlockDevice => OpenKind::Block { major, minor },
        FileType::RegularFile => OpenKind::File,
        FileType::Unknown => OpenKind::Anonymous(target.display().to_string()),
    }
}

/// Terminals by the kernel's list of device numbers (Documentation/admin-guide/devices.txt): virtual consoles and
/// serial lines, `/dev/tty`, console and ptmx, and pseudo terminals.
fn is_terminal(major: u32) -> bool {
    matches!(major, 4 | 5 | 128..=143 | 204)
}

fn without_mark(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let length = bytes.strip_suffix(b" (deleted)").map_or(bytes.len(), <[u8]>::len);
    PathBuf::from(OsString::from_vec(bytes[..length].to_vec()))
}

fn list(directory: &Path) -> Result<Vec<OsString>, OpenFilesError> {
    let names = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
    });
    match names {
        Ok(names) => Ok(names),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(source) => Err(OpenFilesError::Read { path: directory.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, OpenFilesError> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(READ_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(OpenFilesError::Read { path: path.to_owned(), source }),
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The task, or its descriptor, ended meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_may_not_be_looked_at_is_looked_at_again() {
        let denied = |errno: i32| OpenFilesError::Read {
            path: "/proc/9/fd".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let looks = |errno, denials: u32, ended: bool| {
            let mut looks = 0;
            let look = || {
                looks += 1;
                if looks <= denials { Err(denied(errno)) } else { Ok(()) }
            };
            let told = patiently(look, || ended);
            (told.map_err(|error| error.to_string()), looks)
        };
        let refused = Err("cannot read /proc/9/fd".to_owned());
        for (errno, denials, ended, expected) in [
            (libc::EACCES, 0, true, (Ok(Some(())), 1)),
            (libc::EACCES, 3, false, (Ok(Some(())), 4)),
            (libc::EACCES, 3, true, (Ok(None), 1)),
            (libc::EACCES, u32::MAX, false, (refused.clone(), LOOKS)),
            (libc::EIO, 1, false, (refused, 1)),
        ] {
            assert_eq!(looks(errno, denials, ended), expected);
        }
    }
}
