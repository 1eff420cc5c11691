//! Memory contents for benchmarks: every page unique, half of them random, half easy to compress.

/// The size of a page, in bytes.
pub(crate) const PAGE: usize = 4096;

/// Fills `page` with what the page of this number has after `turns` changes. Even pages are random; odd ones repeat 256
/// random bytes, which any compressor shrinks to an eighth or less.
pub(crate) fn fill(page: &mut [u8], seed: u64, number: u64, turns: u64) {
    let mut state = mix(mix(seed ^ mix(number)) ^ turns);
    let mut random = |target: &mut [u8]| {
        for word in target.chunks_mut(8) {
            state = mix(state);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
    };
    if number.is_multiple_of(2) {
        random(page);
    } else {
        let mut unit = [0; 256];
        random(&mut unit);
        for part in page.chunks_mut(unit.len()) {
            part.copy_from_slice(&unit[..part.len()]);
        }
    }
}

/// Which pages of `pages` change in the turn of this number (from 1): one in a hundred, scattered.
pub(crate) fn changed(pages: u64, seed: u64, turn: u64) -> impl Iterator<Item = u64> {
    (0..pages / 100).map(move |hundred| hundred * 100 + mix(seed ^ mix(turn) ^ hundred) % 100)
}

/// SplitMix64's step: enough randomness to defeat a compressor, at the speed of memory.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
