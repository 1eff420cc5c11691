//! Memory that is there before it is needed: whole pages, huge ones where the kernel has them, touched at once and
//! given back at once.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// What the kernel maps at the least, in bytes. Larger where pages are larger.
const PAGE: usize = 4096;

/// How much is touched between two looks at the clock, in bytes.
const STEP: usize = 16 << 20;

/// Whether huge pages are worth their price still. Filling them with zeros takes some 0.1 ms a MiB. Where memory is in
/// pieces the kernel moves other pages out of the way first, which was seen to take 8 ms a MiB; small pages take 0.3 ms.
fn huge_pages_pay(touched: usize, took: Duration) -> bool {
    let allowed = Duration::from_millis(10)
        + Duration::from_micros(600) * u32::try_from(touched >> 20).unwrap_or(u32::MAX);
    took <= allowed
}

/// A mapping, gone with its last room.
struct Arena {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is only an address, by which nothing is reached but through rooms, and those do not overlap.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no room of it is left.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A part of an arena that nobody else has. It begins at a page.
pub(crate) struct Room {
    start: NonNull<u8>,
    len: usize,
    _arena: Arc<Arena>,
}

// SAFETY: a room is the only way to its bytes, like a box.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `len` are a part of a mapping that lives as long as this room, is readable, was filled by
        // the kernel, and belongs to no other room.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the mapping is writable, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Rooms of these sizes in bytes, which must be whole pages, one after the other in memory that has been touched.
///
/// # Errors
/// Where there is not so much memory.
pub(crate) fn rooms(sizes: &[usize]) -> io::Result<Vec<Room>> {
    assert!(sizes.iter().all(|size| size.is_multiple_of(PAGE)), "rooms are whole pages");
    let len: usize = sizes.iter().sum();
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: a new mapping, at an address that the kernel chooses, touches nothing that exists.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?
    };
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    let arena = Arc::new(Arena { start, len });
    let advise = |from: usize, advice| {
        // A kernel without huge pages goes on without.
        // SAFETY: the range is a part of the mapping just made, and the advice changes no content.
        let _ = unsafe { rustix::mm::madvise(start.add(from).as_ptr().cast(), len - from, advice) };
    };
    // No child gets it: a fork would make each page fault once more.
    advise(0, Advice::LinuxDontFork);
    // Fewer page faults, and faster copies.
    advise(0, Advice::LinuxHugepage);
    let mut whole = Room { start, len, _arena: Arc::clone(&arena) };
    let began = Instant::now();
    let mut huge = true;
    for (number, step) in whole.chunks_mut(STEP).enumerate() {
        if huge && !huge_pages_pay(number * STEP, began.elapsed()) {
            huge = false;
            advise(number * STEP, Advice::LinuxNoHugepage);
        }
        step.chunks_mut(PAGE).for_each(|page| page[0] = 1);
    }
    let mut at = 0;
    let room = |size: &usize| {
        // SAFETY: `at` stays within the mapping, whose length is the sum of all sizes.
        let room = Room { start: unsafe { start.add(at) }, len: *size, _arena: Arc::clone(&arena) };
        at += size;
        room
    };
    drop(whole);
    Ok(sizes.iter().map(room).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_do_not_overlap_and_outlive_each_other() {
        let mut rooms = rooms(&[2 * PAGE, PAGE, 3 * PAGE]).unwrap();
        for (number, room) in rooms.iter_mut().enumerate() {
            room.fill(number as u8 + 1);
        }
        assert!(rooms.iter().all(|room| room.as_ptr().align_offset(PAGE) == 0));
        let last = rooms.pop().unwrap();
        assert_eq!(rooms.iter().map(|room| room.len()).collect::<Vec<_>>(), [2 * PAGE, PAGE]);
        assert!(rooms[0].iter().all(|byte| *byte == 1) && rooms[1].iter().all(|byte| *byte == 2));
        drop(rooms);
        assert!(last.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn huge_pages_are_given_up_where_the_kernel_has_to_make_room_for_them() {
        let millis = Duration::from_millis;
        for (mib, took, pay) in [
            (0, millis(0), true),
            (16, millis(2), true),
            (16, millis(130), false),
            (1024, millis(110), true),
            (1024, millis(300), true),
            (1024, millis(8000), false),
        ] {
            assert_eq!(huge_pages_pay(mib << 20, took), pay, "{mib} MiB in {took:?}");
        }
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(rooms(&[1 << 50]).is_err());
        assert!(rooms(&[]).unwrap().is_empty());
    }
}
