//! The memory of another process: which pages are there, and how they are kept.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// A run of pages of one kind, as `PAGEMAP_SCAN` gives it (Linux, `include/uapi/linux/fs.h`, `struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
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

/// Which anonymous pages that are in memory are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// All of them.
    Anonymous,
    /// Those that are not part of a huge page.
    Small,
}

/// Runs found in one go.
const REGIONS: usize = 512;

/// Runs of such pages in a mapping of the process whose `pagemap` it is, in ascending order. One may be cut in two.
///
/// # Errors
/// The kernel is older than 6.7 (`ENOTTY`), or the process is gone.
pub(crate) fn runs(pagemap: impl AsFd, mapping: &Range<u64>, pages: Pages) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut regions = [PageRegion::default(); REGIONS];
    let mut from = mapping.start;
    while from < mapping.end {
        let (count, until) = scan(&pagemap, from..mapping.end, pages, &mut regions)?;
        found.extend(regions[..count].iter().map(|region| region.start..region.end));
        if until <= from {
            break;
        }
        from = until;
    }
    Ok(found)
}

fn scan(
    pagemap: impl AsFd,
    range: Range<u64>,
    pages: Pages,
    regions: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let unwanted = PAGE_IS_FILE | PAGE_IS_PFNZERO | if pages == Pages::Small { PAGE_IS_HUGE } else { 0 };
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        flags: 0,
        start: range.start,
        end: range.end,
        walk_end: 0,
        vec: regions.as_mut_ptr().expose_provenance() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: unwanted,
        category_mask: PAGE_IS_PRESENT | unwanted,
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

/// Reads memory of a process from `start` on, and returns how much there was.
///
/// # Errors
/// `EFAULT` where nothing is, `EPERM` where it may not be read, `ESRCH` where the process is gone.
pub(crate) fn read(pid: i32, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = iovec(start, buffer.len())?;
    // SAFETY: the local range is that of a slice we may write; the other one is of another process.
    let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// A range of another process's addresses.
fn iovec(start: u64, len: usize) -> io::Result<libc::iovec> {
    let start = usize::try_from(start).map_err(io::Error::other)?;
    Ok(libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(start), iov_len: len })
}

/// The first word of a line of maps (proc_pid_maps(5)).
pub(crate) fn address_range(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// Has the kernel keep `len` bytes at `start` of the process in huge pages (`madvise(2)`, `MADV_COLLAPSE`, since 6.1).
///
/// # Errors
/// `EAGAIN` where no huge page is to be had, `EINVAL` where the process or the mapping does not want any.
pub(crate) fn collapse(process: impl AsFd, start: u64, len: usize) -> io::Result<()> {
    let range = iovec(start, len)?;
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
