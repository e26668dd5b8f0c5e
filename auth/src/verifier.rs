//! What is stored instead of a secret: a keyed tag and an argon2id string.

use std::path::Path;

use flexfs_common::Result;

use crate::token::Token;

/// The key outside the database, with its id (first 8 hex digits of its hash).
#[derive(Clone)]
pub struct Pepper {
    id: String,
    key: zeroize::Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pepper({})", self.id)
    }
}

/// argon2id parameters; OWASP minimum or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Settings {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// The stored form of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// HMAC-SHA-256(pepper, "flx1" || kind || id || secret).
    pub tag: [u8; 32],
    /// Which pepper.
    pub pepper_id: String,
    /// argon2id PHC string over the bare secret.
    pub phc: String,
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl Pepper {
    /// Reads the file (0600, owner, no symlink), or makes it.
    ///
    /// # Errors
    /// `CREDS_INSECURE`, `CONFIG_INVALID`.
    pub fn load_or_create(path: &Path) -> Result<Pepper> {
        unimplemented!()
    }
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl Verifier {
    /// Derives both steps (tens of milliseconds: call it on a blocking pool).
    ///
    /// # Errors
    /// `INTERNAL`.
    pub fn derive(token: &Token, pepper: &Pepper, settings: Argon2Settings) -> Result<Verifier> {
        unimplemented!()
    }
    /// Step one, constant time, microseconds. False for another pepper.
    #[must_use]
    pub fn tag_matches(&self, token: &Token, pepper: &Pepper) -> bool {
        unimplemented!()
    }
    /// Step two (blocking pool). Only after step one.
    ///
    /// # Errors
    /// `INTERNAL` when the stored string is not a PHC string.
    pub fn phc_matches(&self, token: &Token) -> Result<bool> {
        unimplemented!()
    }
}
