//! A sum of bytes at the speed of memory (XXH3, 128 bits).

use std::sync::OnceLock;

use twox_hash::XxHash3_128;

use crate::seal::random;

/// A sum that tells whether bytes are the same as before, in this process. It starts from a number that this process
/// drew, so that no program can make two pages that look alike to it; no format has it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u128 {
    static SEED: OnceLock<u64> = OnceLock::new();
    XxHash3_128::oneshot_with_seed(*SEED.get_or_init(|| u64::from_le_bytes(random())), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_one_or_two_bits_changes_the_sum() {
        let page = [0; 4096];
        let mut seen = std::collections::HashSet::from([checksum(&page)]);
        for first in (0..4096 * 8).step_by(37) {
            let mut changed = page;
            changed[first / 8] ^= 1 << (first % 8);
            assert!(seen.insert(checksum(&changed)), "bit {first}");
            for apart in [1, 29, 64, 484, 512, 547] {
                let second = (first + apart) % (4096 * 8);
                let mut twice = changed;
                twice[second / 8] ^= 1 << (second % 8);
                assert!(seen.insert(checksum(&twice)), "bits {first} and {second}");
            }
        }
    }

    #[test]
    fn a_sum_depends_on_length_and_order() {
        let bytes: Vec<u8> = (0..=255).collect();
        let swapped = [&bytes[64..128], &bytes[..64], &bytes[128..]].concat();
        assert_ne!(checksum(&bytes), checksum(&swapped));
        assert_ne!(checksum(&[0; 64]), checksum(&[0; 128]));
        assert_ne!(checksum(&[]), checksum(&[0]));
    }
}
