//! Where a name stands in its directory: a keyed hash, so that the order
//! says nothing and nobody can choose names that collide.

/// Bits of the hash; with 8 bits of collision digit a cookie is a positive
/// `off_t`.
const HASH_BITS: u32 = 55;
/// Entries of one directory whose names may share a hash.
pub(super) const DIGITS: u64 = 256;

/// The hash of one volume.
pub(super) struct NameOrder {
    key: [u8; 32],
    mask: u64,
}

impl std::fmt::Debug for NameOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NameOrder(…)")
    }
}

impl NameOrder {
    pub(super) fn new(key: &[u8; 32]) -> NameOrder {
        NameOrder { key: *key, mask: (1 << HASH_BITS) - 1 }
    }

    /// An order in which nearly all names collide.
    #[cfg(test)]
    pub(super) fn colliding(key: &[u8; 32]) -> NameOrder {
        NameOrder { key: *key, mask: 0b1 }
    }

    /// The cookie of digit 0; those of the other digits follow it. Never 0,
    /// which means the start of a directory.
    pub(super) fn first_cookie(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.key, name);
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]) & self.mask;
        hash.max(1) << 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_positive_and_have_room_for_the_digit() {
        let order = NameOrder::new(&[3; 32]);
        for i in 0..1000_u32 {
            let cookie = order.first_cookie(&i.to_be_bytes());
            assert!(cookie > 0 && cookie < 1 << 63 && cookie.trailing_zeros() >= 8);
        }
        assert_ne!(
            NameOrder::new(&[4; 32]).first_cookie(b"a"),
            NameOrder::new(&[3; 32]).first_cookie(b"a")
        );
    }
}
