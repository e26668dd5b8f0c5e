//! Inode numbers: a keyed permutation of a counter, so that a number tells
//! nothing of how many inodes others made, and none is given out twice.

use flexfs_common::ids::Ino;

/// Rounds of the Feistel network: four make it indistinguishable from a
/// random permutation for whoever sees outputs only (Luby and Rackoff 1988);
/// two more for margin.
const ROUNDS: u8 = 6;

/// The permutation of one volume.
pub(super) struct InodeNumbers {
    key: [u8; 32],
}

impl std::fmt::Debug for InodeNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InodeNumbers(…)")
    }
}

impl InodeNumbers {
    pub(super) fn new(key: &[u8; 32]) -> InodeNumbers {
        InodeNumbers { key: *key }
    }

    /// The first usable number at or after a position, and the position that
    /// follows. 0 and 1 are never used (1 is what the kernel calls the root of
    /// a mount), nor numbers of 2^63 and above (signed in some programs).
    pub(super) fn next(&self, position: u64) -> (Ino, u64) {
        let mut at = position;
        loop {
            let number = self.permute(at);
            at = at.wrapping_add(1);
            if number > 1 && number < 1 << 63 {
                return (Ino(number), at);
            }
        }
    }

    fn permute(&self, position: u64) -> u64 {
        let [a, b, c, d, e, f, g, h] = position.to_be_bytes();
        let (mut left, mut right) =
            (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        for round in 0..ROUNDS {
            let [a, b, c, d] = right.to_be_bytes();
            let hash = blake3::keyed_hash(&self.key, &[round, a, b, c, d]);
            let [a, b, c, d, ..] = *hash.as_bytes();
            (left, right) = (right, left ^ u32::from_be_bytes([a, b, c, d]));
        }
        u64::from(left) << 32 | u64::from(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_in_range_and_unordered() {
        let numbers = InodeNumbers::new(&[7; 32]);
        let mut seen = std::collections::HashSet::new();
        let (mut at, mut rises, mut before) = (0, 0, 0);
        for _ in 0..10_000 {
            let (ino, next) = numbers.next(at);
            assert!(ino.0 > 1 && ino.0 < 1 << 63);
            assert!(seen.insert(ino), "{ino} twice");
            rises += u32::from(ino.0 > before);
            (at, before) = (next, ino.0);
        }
        assert!((4_000..6_000).contains(&rises), "{rises} of 10,000 rise");
        assert_ne!(InodeNumbers::new(&[8; 32]).next(0), numbers.next(0));
    }
}
