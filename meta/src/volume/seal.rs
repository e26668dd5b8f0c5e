//! Keys of sessions as they lie in the engine: sealed under a key that lies
//! elsewhere, so that a copy of the engine resumes no session and makes no
//! handle.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use bytes::Bytes;
use flexfs_common::ids::{SessionId, VolumeId};
use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

use super::types::SessionKey;

/// What the key of the file is used for, each with a key of its own.
const ROWS_CONTEXT: &str = "flexfs meta 2026 session keys in the engine";
const HANDLES_CONTEXT: &str = "flexfs meta 2026 handle keys of volumes";
/// First bytes of the associated data.
const DOMAIN: &[u8] = b"flexfs-session-key-1";
/// Bytes of a session's key.
const KEY_LEN: usize = 32;

/// Seals session keys for the engine, and opens them.
pub struct SessionSeal {
    /// Nonces are random, 96 bits: one key may seal 2^32 times (NIST SP
    /// 800-38D section 8.3). Each session is sealed once, when it opens: a
    /// hundred a second for a year.
    rows: RandomizedNonceKey,
    handles: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for SessionSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSeal(…)")
    }
}

/// Whose key it is: a sealed key opens for nobody else.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyOwner {
    pub(super) volume: VolumeId,
    pub(super) incarnation: u64,
    pub(super) session: SessionId,
}

impl KeyOwner {
    /// Fields of fixed widths: no two owners have the same.
    fn associated_data(&self) -> Vec<u8> {
        let incarnation = self.incarnation.to_be_bytes();
        [DOMAIN, self.volume.as_bytes(), &incarnation, self.session.as_bytes()].concat()
    }
}

impl SessionSeal {
    /// Under this key, which must not lie in the engine.
    ///
    /// # Errors
    /// `INTERNAL` when the library refuses.
    pub fn new(key: &[u8; 32]) -> Result<SessionSeal> {
        let rows = Zeroizing::new(blake3::derive_key(ROWS_CONTEXT, key));
        Ok(SessionSeal {
            rows: RandomizedNonceKey::new(&AES_256_GCM, &*rows).map_err(refused)?,
            handles: Zeroizing::new(blake3::derive_key(HANDLES_CONTEXT, key)),
        })
    }

    /// Nonce, sealed key, tag.
    ///
    /// # Errors
    /// `INTERNAL` when the library refuses.
    pub(super) fn seal(&self, owner: &KeyOwner, key: &SessionKey) -> Result<Bytes> {
        let mut body = Zeroizing::new(key.to_vec());
        let data = Aad::from(owner.associated_data());
        let (nonce, tag) =
            self.rows.seal_in_place_separate_tag(data, &mut body).map_err(refused)?;
        Ok(Bytes::from([nonce.as_ref().as_slice(), &body, tag.as_ref()].concat()))
    }

    /// The key that was sealed for this owner.
    ///
    /// # Errors
    /// `ENGINE_FAILED`: it was sealed under another key or for somebody else,
    /// or is damaged.
    pub(super) fn open(&self, owner: &KeyOwner, sealed: &[u8]) -> Result<SessionKey> {
        let unusable = || Error::new(Code::EngineFailed, "the session's key cannot be opened");
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(unusable)?;
        let mut body = Zeroizing::new(body.to_vec());
        let data = Aad::from(owner.associated_data());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let key = self.rows.open_in_place(nonce, data, &mut body).map_err(|_| unusable())?;
        <[u8; KEY_LEN]>::try_from(&*key).map(Zeroizing::new).map_err(|_| unusable())
    }

    /// The key of a volume's handles: what its superblock says, and what lies
    /// outside of the engine.
    pub(super) fn handle_key(&self, stored: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.handles, stored).as_bytes())
    }
}

fn refused(_: Unspecified) -> Error {
    Error::new(Code::Internal, "the library refuses to seal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> KeyOwner {
        let (volume, session) = (VolumeId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        KeyOwner { volume, incarnation: 3, session }
    }

    #[test]
    fn a_sealed_key_opens_under_its_seal_for_its_owner_alone() {
        let seal = SessionSeal::new(&[7; 32]).unwrap();
        let key: SessionKey = Zeroizing::new([9; 32]);
        let sealed = seal.seal(&owner(), &key).unwrap();
        assert_eq!(sealed.len(), NONCE_LEN + KEY_LEN + 16);
        assert_eq!(seal.open(&owner(), &sealed).unwrap(), key);
        let again = SessionSeal::new(&[7; 32]).unwrap();
        assert_eq!(again.open(&owner(), &sealed).unwrap(), key, "after a restart");
        assert_ne!(seal.seal(&owner(), &key).unwrap(), sealed, "no nonce comes twice");
        assert!(SessionSeal::new(&[8; 32]).unwrap().open(&owner(), &sealed).is_err());
        for other in [
            KeyOwner { volume: VolumeId::from_bytes([9; 16]), ..owner() },
            KeyOwner { incarnation: 4, ..owner() },
            KeyOwner { session: SessionId::from_bytes([9; 16]), ..owner() },
        ] {
            assert!(seal.open(&other, &sealed).is_err(), "{other:?}");
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let seal = SessionSeal::new(&[7; 32]).unwrap();
        let sealed = seal.seal(&owner(), &Zeroizing::new([9; 32])).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.open(&owner(), &forged).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(seal.open(&owner(), &sealed[..len]).is_err(), "{len} bytes");
        }
        // Well sealed, and no key of a session.
        let mut short = vec![9; KEY_LEN - 1];
        let data = Aad::from(owner().associated_data());
        let nonce = seal.rows.seal_in_place_append_tag(data, &mut short).unwrap();
        let short = [nonce.as_ref().as_slice(), &short].concat();
        assert!(seal.open(&owner(), &short).is_err());
    }

    #[test]
    fn handles_need_what_lies_outside_of_the_engine() {
        let seal = |key| SessionSeal::new(&[key; 32]).unwrap();
        let key = seal(7).handle_key(&[1; 32]);
        assert_eq!(seal(7).handle_key(&[1; 32]), key);
        assert_ne!(seal(8).handle_key(&[1; 32]), key);
        assert_ne!(seal(7).handle_key(&[2; 32]), key);
        assert_ne!(*key, [1; 32]);
    }
}
