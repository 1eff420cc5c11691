//! What each process has open.

use serde::Serialize;

use super::{ExploreError, FileNames, Images, Kind, entries, enumerated, first, listed, needed};

/// The open files of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFiles {
    /// Its PID.
    pub pid: u32,
    /// Its files; none for one that had ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OpenFile>,
}

/// One open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// The descriptor's number; `cwd` and `root` for the directories.
    pub fd: String,
    /// Its type, as CRIU calls it; absent for the directories.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub file_type: Option<String>,
    /// What it is: a path, or a name with numbers for what has none.
    pub path: String,
}

/// The open files of all processes.
///
/// # Errors
///
/// When an image is missing or damaged.
pub fn open_files(images: &dyn Images) -> Result<Vec<OpenFiles>, ExploreError> {
    let names = FileNames::read(images)?;
    let mut all = Vec::new();
    for process in listed(images)? {
        let mut files = Vec::new();
        if !process.has_ended(images)? {
            let pid = u64::from(process.pid);
            let ids = first(needed(images, Kind::Ids, pid)?, Kind::Ids, pid)?;
            // A process without descriptors has no image of them.
            for descriptor in entries(images, Kind::Descriptors, ids.number("files_id"))?.unwrap_or_default()
            {
                let file_type = enumerated(&descriptor, "type");
                files.push(OpenFile {
                    fd: descriptor.number("fd").to_string(),
                    path: names.named(&file_type, descriptor.number("id") as u32),
                    file_type: Some(file_type),
                });
            }
            let directories = first(needed(images, Kind::FileSystem, pid)?, Kind::FileSystem, pid)?;
            for (fd, member) in [("cwd", "cwd_id"), ("root", "root_id")] {
                let path = names.regular(directories.number(member) as u32);
                files.push(OpenFile { fd: fd.into(), file_type: None, path });
            }
        }
        all.push(OpenFiles { pid: process.pid, files });
    }
    Ok(all)
}
