//! A file as a block device, which goes by itself once nothing uses it any more.
//!
//! Linux, `include/uapi/linux/loop.h` and `drivers/block/loop.c`; in one step since 5.8.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

const GET_FREE: libc::c_ulong = 0x4c82;
const CONFIGURE: libc::c_ulong = 0x4c0a;
const READ_ONLY: u32 = 1;
/// The device is freed when the last that has it open or mounted lets go.
const AUTOCLEAR: u32 = 4;
/// How often others may be quicker.
const ATTEMPTS: usize = 16;

/// `struct loop_config`, with the `struct loop_info64` in it.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    of_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: u32,
    key_size: u32,
    flags: u32,
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A block device that cannot be written.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    /// Keeps it until it is mounted.
    _open: File,
}

impl LoopDevice {
    /// One that has what is in a file.
    pub(crate) fn of(file: &Path) -> io::Result<LoopDevice> {
        let file = File::open(file)?;
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            let path = PathBuf::from(format!("/dev/loop{}", free(control.as_raw_fd())?));
            let open = File::open(&path)?;
            match configure(open.as_raw_fd(), file.as_raw_fd()) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(LoopDevice { path, _open: open }),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn free(control: RawFd) -> io::Result<i32> {
    // SAFETY: this call takes no argument and gives a number or an error; the descriptor is open.
    match unsafe { libc::ioctl(control, GET_FREE as _) } {
        number if number < 0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

fn configure(device: RawFd, file: RawFd) -> io::Result<()> {
    let configuration = Configuration {
        file: file.cast_unsigned(),
        block_size: 0,
        device: 0,
        inode: 0,
        of_device: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encryption: 0,
        key_size: 0,
        flags: READ_ONLY | AUTOCLEAR,
        names: [[0; 64]; 2],
        key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads a `struct loop_config`, which lives until the call has ended; both descriptors are open.
    match unsafe { libc::ioctl(device, CONFIGURE as _, &raw const configuration) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn it_is_as_the_kernel_has_it() {
        assert_eq!(size_of::<Configuration>(), 304);
    }

    #[test]
    fn a_file_is_a_device_for_as_long_as_it_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        std::fs::write(&path, [7; 4096]).unwrap();
        let device = match LoopDevice::of(&path) {
            Ok(device) => device,
            Err(error) => return eprintln!("left out: there are no loop devices here: {error}"),
        };
        let mut bytes = Vec::new();
        File::open(device.path()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
        let name = device.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(std::fs::read_to_string(format!("/sys/block/{name}/ro")).unwrap(), "1\n");
    }
}
