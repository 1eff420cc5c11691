//! The memory of another process: which pages are there, and how they are kept.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A run of pages of one kind, as `PAGEMAP_SCAN` gives it (Linux, `include/uapi/linux/fs.h`, `struct page_region`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    categories: u64,
}

/// What to look for, and where (the same, `struct pm_scan_arg`).
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// Linux, `include/uapi/asm-generic/mman-common.h`.
const MADV_COLLAPSE: libc::c_int = 25;

/// Finds runs of anonymous small pages that are in memory, from `start` to `end` of the process whose `pagemap` it is.
/// Returns how many of `regions` were filled, and where to go on.
///
/// # Errors
/// The kernel is older than 6.7 (`ENOTTY`), or the process is gone.
pub(crate) fn small_pages(
    pagemap: impl AsFd,
    (start, end): (u64, u64),
    regions: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: regions.as_mut_ptr().expose_provenance() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
        category_mask: PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
        category_anyof_mask: 0,
        return_mask: PAGE_IS_PRESENT,
    };
    // SAFETY: `scan` is as the kernel wants it, and `vec` and `vec_len` are those of a slice we may write.
    let found = unsafe { libc::ioctl(pagemap.as_fd().as_raw_fd(), PAGEMAP_SCAN as _, &raw mut scan) };
    match usize::try_from(found) {
        Ok(found) => Ok((found, scan.walk_end)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel keep `len` bytes at `start` of the process in huge pages (`madvise(2)`, `MADV_COLLAPSE`, since 6.1).
///
/// # Errors
/// `EAGAIN` where no huge page is to be had, `EINVAL` where the process or the mapping does not want any.
pub(crate) fn collapse(process: impl AsFd, start: u64, len: u64) -> io::Result<()> {
    let range = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(usize::try_from(start).map_err(io::Error::other)?),
        iov_len: usize::try_from(len).map_err(io::Error::other)?,
    };
    // SAFETY: the address is one of another process; here only `range` is read, which lives.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_fd().as_raw_fd(),
            &raw const range,
            1usize,
            MADV_COLLAPSE,
            0u32,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
