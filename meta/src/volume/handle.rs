//! Handles: what a client names an inode with. 32 bytes: inode number,
//! incarnation, and a MAC under a key of this volume and this session, so
//! that a handle that was guessed or taken from another session is none.

use bytes::Bytes;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Result};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a handle.
pub(super) const HANDLE_LEN: usize = 32;
const MAC_LEN: usize = 16;
/// Domain separation of the sessions' keys.
const SESSION_DOMAIN: &[u8] = b"flexfs-handle-1";

/// The volume's handle key.
pub(super) struct HandleKey {
    key: Zeroizing<[u8; 32]>,
    incarnation: u64,
}

impl std::fmt::Debug for HandleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandleKey(…)")
    }
}

impl HandleKey {
    pub(super) fn new(key: Zeroizing<[u8; 32]>, incarnation: u64) -> HandleKey {
        HandleKey { key, incarnation }
    }

    /// The key of a session; the same after every restart.
    pub(super) fn for_session(&self, session: SessionId) -> Handles {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(SESSION_DOMAIN).update(session.as_bytes());
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        Handles { key, incarnation: self.incarnation }
    }
}

/// Makes and checks the handles of one session.
pub(super) struct Handles {
    key: Zeroizing<[u8; 32]>,
    incarnation: u64,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handles(…)")
    }
}

impl Handles {
    /// The handle of an inode.
    pub(super) fn make(&self, ino: Ino) -> Bytes {
        let body = [ino.0.to_be_bytes(), self.incarnation.to_be_bytes()];
        let body = body.as_flattened();
        let mut handle = Vec::with_capacity(HANDLE_LEN);
        handle.extend_from_slice(body);
        handle.extend_from_slice(&self.mac(body));
        Bytes::from(handle)
    }

    /// The inode of a handle that this session was given.
    ///
    /// # Errors
    /// `FS_STALE`, whatever is wrong with it.
    pub(super) fn check(&self, handle: &[u8]) -> Result<Ino> {
        let handle: &[u8; HANDLE_LEN] = handle.try_into().map_err(|_| Code::FsStale)?;
        let (body, mac) = handle.split_at(HANDLE_LEN - MAC_LEN);
        let genuine: bool = self.mac(body).ct_eq(mac).into();
        let (ino, incarnation) = body.split_first_chunk::<8>().ok_or(Code::FsStale)?;
        if !genuine || incarnation != self.incarnation.to_be_bytes() {
            return Err(Code::FsStale.into());
        }
        Ok(Ino(u64::from_be_bytes(*ino)))
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC_LEN] {
        let hash = blake3::keyed_hash(&self.key, body);
        let mut mac = [0; MAC_LEN];
        mac.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handles(session: u8, incarnation: u64) -> Handles {
        HandleKey::new(Zeroizing::new([9; 32]), incarnation)
            .for_session(SessionId::from_bytes([session; 16]))
    }

    #[test]
    fn only_the_session_that_got_a_handle_can_use_it() {
        let mine = handles(1, 5);
        let handle = mine.make(Ino(42));
        assert_eq!(handle.len(), HANDLE_LEN);
        assert_eq!(mine.check(&handle).unwrap(), Ino(42));
        assert_eq!(handles(1, 5).check(&handle).unwrap(), Ino(42), "after a restart");
        assert_eq!(handles(2, 5).check(&handle).unwrap_err().code(), Code::FsStale);
        assert_eq!(handles(1, 6).check(&handle).unwrap_err().code(), Code::FsStale);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let mine = handles(1, 5);
        let handle = mine.make(Ino(42));
        for bit in 0..HANDLE_LEN * 8 {
            let mut forged = handle.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(mine.check(&forged).is_err(), "bit {bit}");
        }
        assert!(mine.check(&handle[..31]).is_err());
        assert!(mine.check(&[]).is_err());
    }
}
