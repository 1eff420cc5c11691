//! `/proc/PID/fdinfo/N` (proc_pid_fdinfo(5)).

/// What fdinfo says about a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// The position in the file, in bytes.
    pub position: u64,
    /// The open flags, as in open(2).
    pub flags: u32,
    /// The mount the file was opened through.
    pub mount_id: Option<u64>,
    /// For an inotify descriptor, what it watches.
    pub watches: Vec<InotifyWatch>,
}

/// One watch of an inotify descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyWatch {
    /// The watch descriptor.
    pub descriptor: i32,
    /// The inode watched.
    pub ino: u64,
    /// The device it is on, in the kernel's own packing (20 bits of minor number).
    pub device: u32,
    /// The events asked for.
    pub mask: u32,
}

/// A line of fdinfo that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} is not a number, or missing")]
pub struct FdInfoError {
    /// The field.
    pub field: &'static str,
}

/// The most watches that are read (`fs.inotify.max_user_watches` defaults to at most 1,048,576).
const WATCH_LIMIT: usize = 1 << 20;

impl FdInfo {
    /// Whether the descriptor can write.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        // O_PATH makes the access mode meaningless.
        self.flags & libc::O_PATH as u32 == 0 && self.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
    }

    /// Reads the bytes of an fdinfo file. Lines of other kinds are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, FdInfoError> {
        let mut info = Self::default();
        let mut flags = None;
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            if let Some(rest) = line.strip_prefix("inotify wd:") {
                if info.watches.len() < WATCH_LIMIT {
                    info.watches.push(watch(rest)?);
                }
                continue;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name {
                "pos" => info.position = value.parse().map_err(|_| FdInfoError { field: "pos" })?,
                "flags" => {
                    let parsed = u32::from_str_radix(value, 8);
                    flags = Some(parsed.map_err(|_| FdInfoError { field: "flags" })?);
                }
                "mnt_id" => {
                    info.mount_id = Some(value.parse().map_err(|_| FdInfoError { field: "mnt_id" })?);
                }
                _ => {}
            }
        }
        info.flags = flags.ok_or(FdInfoError { field: "flags" })?;
        Ok(info)
    }
}

fn watch(line: &str) -> Result<InotifyWatch, FdInfoError> {
    let mut words = line.split(' ');
    let hex = |name: &'static str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        word.and_then(|word| u64::from_str_radix(word, 16).ok()).ok_or(FdInfoError { field: name })
    };
    let small =
        |name| hex(name).and_then(|value| u32::try_from(value).map_err(|_| FdInfoError { field: name }));
    let descriptor = words.next().and_then(|word| word.parse().ok()).ok_or(FdInfoError { field: "wd" })?;
    Ok(InotifyWatch { descriptor, ino: hex("ino")?, device: small("sdev")?, mask: small("mask")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_open_for_writing() {
        let info = FdInfo::parse(b"pos:\t4096\nflags:\t0102001\nmnt_id:\t27\nino:\t11\n").unwrap();
        assert_eq!((info.position, info.flags, info.mount_id), (4096, 0o102001, Some(27)));
        assert!(info.is_writable());
    }

    #[test]
    fn a_path_descriptor_writes_nothing() {
        assert!(!FdInfo::parse(b"flags:\t012000001\n").unwrap().is_writable());
    }

    #[test]
    fn watches_are_read() {
        let text = b"pos:\t0\nflags:\t00\nmnt_id:\t15\nino:\t1057\n\
            inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e\n";
        let watch = InotifyWatch { descriptor: 3, ino: 0x9e7e, device: 0x80_0013, mask: 0x800_afce };
        assert_eq!(FdInfo::parse(text).unwrap().watches, [watch]);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(FdInfo::parse(b"pos:\tx\n").unwrap_err().field, "pos");
        assert_eq!(FdInfo::parse(b"").unwrap_err().field, "flags");
        assert_eq!(FdInfo::parse(b"flags:\t0\ninotify wd:1 ino:z\n").unwrap_err().field, "ino");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = FdInfo::parse(&bytes);
        }

        #[test]
        fn any_numbers_are_read(position: u64, flags: u32, mount: u64, wd in 0i32.., ino: u64) {
            let text = format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\n\
                inotify wd:{wd} ino:{ino:x} sdev:1 mask:2 ignored_mask:0 \n");
            let info = FdInfo::parse(text.as_bytes()).unwrap();
            prop_assert_eq!((info.position, info.flags, info.mount_id), (position, flags, Some(mount)));
            prop_assert_eq!((info.watches[0].descriptor, info.watches[0].ino), (wd, ino));
        }
    }
}
