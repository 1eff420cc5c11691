//! A directory as it is, with changes that go elsewhere: an overlay of the kernel's.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::MountFlags;

/// Shows at `seen` what is in `lower`; what is written goes to a new directory `upper`, and `work` is the kernel's own beside it. All
/// three are made where they are not there.
///
/// # Errors
/// They cannot be made, or the kernel makes no overlay of `lower`.
pub(crate) fn overlay(
    lower: &Path,
    upper: &Path,
    work: &Path,
    seen: &Path,
    flags: MountFlags,
) -> io::Result<()> {
    for directory in [seen, upper, work] {
        std::fs::create_dir_all(directory)?;
    }
    // The directory itself has the owner and mode of what it covers up.
    let metadata = std::fs::metadata(lower)?;
    std::fs::set_permissions(upper, metadata.permissions())?;
    std::os::unix::fs::chown(upper, Some(metadata.uid()), Some(metadata.gid()))?;
    let options =
        format!("lowerdir={},upperdir={},workdir={}", escaped(lower), escaped(upper), escaped(work));
    let options = CString::new(options)?;
    Ok(rustix::mount::mount("overlay", seen, "overlay", flags, options.as_c_str())?)
}

/// In the options of an overlay, commas and colons stand between things (Linux, fs/overlayfs/params.c).
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().fold(String::new(), |mut text, c| {
        if matches!(c, '\\' | ',' | ':') {
            text.push('\\');
        }
        text.push(c);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_become_options() {
        assert_eq!(escaped(Path::new("/a,b:c\\d")), "/a\\,b\\:c\\\\d");
    }
}
