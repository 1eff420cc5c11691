//! Standard streams of plain processes that led outside by pipes: they become those of whoever restores them.

use std::path::Path;

use torpor_criu::image::Kind;
use torpor_criu::image::file::{Descriptor, File};
use torpor_criu::image::process::{Core, Ids, TreeEntry};

use crate::container::ContainerError;
use crate::oci_runtime::images::entries;

/// Which bits of a file's flags tell how it was opened (open(2)).
const ACCESS: u32 = libc::O_ACCMODE as u32;

/// Which of the descriptors 0, 1 and 2 of the first process are ends of pipes whose other ends nobody of them has, with CRIU's names
/// for the pipes. Written into, such a pipe would end the program: nobody reads it.
///
/// # Errors
/// An image cannot be read.
pub(super) fn outside(images: &Path) -> Result<Vec<(u32, String)>, ContainerError> {
    let tree = entries::<TreeEntry>(&images.join("pstree.img"))?;
    let Some(root) = tree.iter().find(|entry| entry.ppid == 0) else { return Ok(Vec::new()) };
    let path = images.join(format!("ids-{}.img", root.pid));
    let ids = match path.exists() {
        true => entries::<Ids>(&path)?.into_iter().next(),
        false => {
            let core = entries::<Core>(&images.join(format!("core-{}.img", root.pid)))?;
            core.into_iter().next().and_then(|core| core.ids)
        }
    };
    let Some(ids) = ids else { return Ok(Vec::new()) };
    let path = images.join(Kind::Descriptors.file_name(ids.files_id.into()));
    let files = images.join("files.img");
    // Of one without descriptors there is no image, and older dumps have their files in others.
    if !path.exists() || !files.exists() {
        return Ok(Vec::new());
    }
    Ok(ends(&entries(&path)?, &entries(&files)?))
}

fn ends(descriptors: &[Descriptor], files: &[File]) -> Vec<(u32, String)> {
    let standard = descriptors.iter().filter(|descriptor| descriptor.fd <= 2);
    let outside = standard.filter_map(|descriptor| {
        let pipe = files.iter().find(|file| file.id == descriptor.id)?.pipe.as_ref()?;
        let mut ends = files.iter().filter_map(|file| file.pipe.as_ref());
        let inside = ends.any(|end| end.pipe_id == pipe.pipe_id && end.flags & ACCESS != pipe.flags & ACCESS);
        (!inside).then(|| (descriptor.fd, format!("pipe:[{}]", pipe.pipe_id)))
    });
    let mut all: Vec<(u32, String)> = outside.collect();
    // One pipe may be two of them: it is given once.
    all.sort();
    all.dedup_by(|later, earlier| later.1 == earlier.1);
    all
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::file::Pipe;

    use super::*;

    #[test]
    fn a_pipe_with_both_ends_inside_is_the_processes_own() {
        let descriptor = |fd: u32, id: u32| Descriptor { id, fd, ..Descriptor::default() };
        let pipe = |id: u32, pipe_id: u32, flags: i32| File {
            id,
            pipe: Some(Pipe { id, pipe_id, flags: flags as u32, ..Pipe::default() }),
            ..File::default()
        };
        let files = [
            pipe(1, 70, libc::O_RDONLY),
            pipe(2, 71, libc::O_WRONLY | libc::O_NONBLOCK),
            pipe(3, 72, libc::O_WRONLY),
            pipe(4, 72, libc::O_RDONLY),
            File { id: 5, ..File::default() },
        ];
        let told = |descriptors: &[Descriptor]| {
            ends(descriptors, &files).into_iter().map(|(fd, key)| format!("{fd} {key}")).collect::<Vec<_>>()
        };
        let streams = [descriptor(0, 1), descriptor(1, 2), descriptor(2, 2), descriptor(9, 1)];
        assert_eq!(told(&streams), ["0 pipe:[70]", "1 pipe:[71]"]);
        assert!(told(&[descriptor(1, 3), descriptor(0, 5), descriptor(2, 99)]).is_empty());
    }
}
