//! What is stored instead of a secret: a keyed tag and an argon2id string.
//!
//! The tag (HMAC-SHA-256, RFC 2104) is compared first, in constant time, so
//! that a wrong secret never reaches argon2 (RFC 9106), which costs tens of
//! milliseconds. Argon2 is what is left when the pepper leaks or is lost.

use std::path::Path;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use aws_lc_rs::{digest, hmac};
use flexfs_common::{Code, Error, Result, home};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::private_file;
use crate::token::{Token, TokenKind};

/// Separates this use of the pepper from any other.
const DOMAIN: &[u8] = b"flx1";
/// What the check value of a pepper is made over. No kind of token begins so.
const CHECK_DOMAIN: &[u8] = b"flx1-pepper-check";
/// Most memory, in KiB, that a stored string may ask of us: 1 GiB. More comes
/// from a damaged or altered database.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Most passes that a stored string may ask for.
const PASSES_MAX: u32 = 64;

/// The key outside the database, with its id (first 8 hex digits of its hash).
#[derive(Clone)]
pub struct Pepper {
    id: String,
    key: Zeroizing<[u8; 32]>,
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

impl Default for Argon2Settings {
    /// 19 MiB, 2 passes, 1 lane (OWASP Password Storage Cheat Sheet).
    fn default() -> Argon2Settings {
        Argon2Settings { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
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

impl Pepper {
    /// Reads the file (0600, owner, no symlink), or makes it: 64 hex digits
    /// and a newline.
    ///
    /// # Errors
    /// `CREDS_INSECURE`, `CONFIG_INVALID`.
    pub fn load_or_create(path: &Path) -> Result<Pepper> {
        match Pepper::load(path) {
            Err(e) if e.code() == Code::CredsMissing => {}
            loaded => return loaded,
        }
        let pepper = Pepper::generate()?;
        if pepper.store_new(path)? {
            return Ok(pepper);
        }
        // Another process was faster: its pepper is the one.
        Pepper::load(path)
    }

    /// Writes the file durably, with mode 0600; false when there is one, which
    /// is never replaced: verifiers may hang on it.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn store_new(&self, path: &Path) -> Result<bool> {
        if let Some(dir) = path.parent() {
            home::make_dir(dir)?;
        }
        let mut text = Zeroizing::new(String::with_capacity(65));
        push_hex(self.key.as_slice(), &mut text);
        text.push('\n');
        home::write_new_file(path, text.as_bytes())
    }

    /// Reads the file; never makes one.
    ///
    /// # Errors
    /// `CREDS_MISSING`, `CREDS_INSECURE`, `CONFIG_INVALID`.
    pub fn load(path: &Path) -> Result<Pepper> {
        let text = private_file::read(path, 256)?;
        let key = parse_hex(text.trim_end()).ok_or_else(|| {
            Error::new(
                Code::ConfigInvalid,
                format!("{} is not a pepper: 64 hexadecimal digits", path.display()),
            )
        })?;
        Ok(Pepper::from_key(key))
    }

    /// A new random one, kept nowhere.
    ///
    /// # Errors
    /// `INTERNAL` when there is no randomness.
    pub fn generate() -> Result<Pepper> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())
            .map_err(|e| Error::new(Code::Internal, "no randomness").caused_by(e))?;
        Ok(Pepper::from_key(key))
    }

    fn from_key(key: Zeroizing<[u8; 32]>) -> Pepper {
        let hash = digest::digest(&digest::SHA256, key.as_slice());
        let mut id = String::with_capacity(8);
        push_hex(hash.as_ref().get(..4).unwrap_or_default(), &mut id);
        Pepper { id, key }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// By which a database knows its pepper: keyed with it, so that it tells
    /// nothing of it, and no other has the same.
    #[must_use]
    pub fn check_value(&self) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_slice());
        let mut value = [0; 32];
        value.copy_from_slice(hmac::sign(&key, CHECK_DOMAIN).as_ref());
        value
    }

    /// Is this its check value? Constant time.
    #[must_use]
    pub fn has_check_value(&self, value: &[u8; 32]) -> bool {
        bool::from(self.check_value().ct_eq(value))
    }

    fn tag(&self, token: &Token) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_slice());
        let mut context = hmac::Context::with_key(&key);
        // Fixed widths throughout: no two inputs run together.
        for part in [DOMAIN, kind_byte(token.kind()), token.id().as_bytes(), token.secret()] {
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// The kind within the tag; stored for ever, never renumbered.
fn kind_byte(kind: TokenKind) -> &'static [u8] {
    match kind {
        TokenKind::Account => b"a",
        TokenKind::Volume => b"v",
        TokenKind::Meta => b"m",
        TokenKind::Claim => b"w",
    }
}

impl Verifier {
    /// Derives both steps (tens of milliseconds: call it on a blocking pool).
    ///
    /// # Errors
    /// `INTERNAL`.
    pub fn derive(token: &Token, pepper: &Pepper, settings: Argon2Settings) -> Result<Verifier> {
        let failed = |why: &str| Error::new(Code::Internal, format!("argon2: {why}"));
        let params = Params::new(settings.memory_kib, settings.passes, settings.lanes, None)
            .map_err(|e| failed("the settings are refused").caused_by(e))?;
        let hash: PasswordHash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password(token.secret())
            .map_err(|e| failed("it failed").caused_by(e))?;
        Ok(Verifier { tag: pepper.tag(token), pepper_id: pepper.id.clone(), phc: hash.to_string() })
    }

    /// Step one, constant time, microseconds. False for another pepper.
    #[must_use]
    pub fn tag_matches(&self, token: &Token, pepper: &Pepper) -> bool {
        let mut tag = pepper.tag(token);
        let same = self.pepper_id == pepper.id && bool::from(tag.ct_eq(&self.tag));
        tag.zeroize();
        same
    }

    /// The same with a tag under another pepper. The token must have been
    /// found to be the one behind this verifier.
    #[must_use]
    pub fn retagged(&self, token: &Token, pepper: &Pepper) -> Verifier {
        let (tag, pepper_id) = (pepper.tag(token), pepper.id.clone());
        Verifier { tag, pepper_id, phc: self.phc.clone() }
    }

    /// Are these settings stronger than those the string was made with: more
    /// memory or passes, and less of neither? False for a damaged string.
    #[must_use]
    pub fn is_weaker_than(&self, settings: Argon2Settings) -> bool {
        let params =
            PasswordHash::new(&self.phc).ok().and_then(|hash| Params::try_from(&hash).ok());
        params.is_some_and(|params| {
            let (memory, passes) = (params.m_cost(), params.t_cost());
            let no_less = settings.memory_kib >= memory && settings.passes >= passes;
            no_less && (settings.memory_kib > memory || settings.passes > passes)
        })
    }

    /// Step two (blocking pool). Only after step one.
    ///
    /// # Errors
    /// `INTERNAL` when the stored string is not an argon2id PHC string, or
    /// asks for more than 1 GiB or 64 passes.
    pub fn phc_matches(&self, token: &Token) -> Result<bool> {
        let broken = || Error::new(Code::Internal, "a stored verifier is damaged");
        let hash = PasswordHash::new(&self.phc).map_err(|e| broken().caused_by(e))?;
        let params = Params::try_from(&hash).map_err(|e| broken().caused_by(e))?;
        let bounded = params.m_cost() <= MEMORY_KIB_MAX && params.t_cost() <= PASSES_MAX;
        if hash.algorithm.as_str() != "argon2id" || !bounded {
            return Err(broken());
        }
        // The parameters of the string count, not those of this value.
        match Argon2::default().verify_password(token.secret(), &hash) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(e) => Err(broken().caused_by(e)),
        }
    }
}

/// Work as for a known token, for an id that is not known, so that the time
/// of the answer does not tell which it was.
pub fn dummy_work(token: &Token, pepper: &Pepper) {
    let mut tag = pepper.tag(token);
    std::hint::black_box(bool::from(tag.ct_eq(&[0; 32])));
    tag.zeroize();
}

fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
}

fn parse_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let mut value = 0;
        for digit in pair {
            value = value * 16 + char::from(*digit).to_digit(16)?;
        }
        *byte = u8::try_from(value).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Small, so that the tests of a debug build stay quick.
    const QUICK: Argon2Settings = Argon2Settings { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn both_steps_accept_the_secret_and_no_other() {
        let pepper = Pepper::generate().unwrap();
        let token = Token::generate(TokenKind::Volume).unwrap();
        let verifier = Verifier::derive(&token, &pepper, QUICK).unwrap();
        assert!(verifier.tag_matches(&token, &pepper));
        assert!(verifier.phc_matches(&token).unwrap());
        let other = Token::generate(TokenKind::Volume).unwrap();
        assert!(!verifier.tag_matches(&other, &pepper));
        assert!(!verifier.phc_matches(&other).unwrap());
        assert!(!verifier.tag_matches(&token, &Pepper::generate().unwrap()));
        let retagged = Verifier { pepper_id: "00000000".into(), ..verifier.clone() };
        assert!(!retagged.tag_matches(&token, &pepper));
        assert!(!format!("{verifier:?} {pepper:?}").contains(&token.reveal()[28..]));
    }

    #[test]
    fn the_tag_binds_kind_and_id() {
        let pepper = Pepper::from_key(Zeroizing::new([7; 32]));
        let tags: std::collections::HashSet<_> = TokenKind::ALL
            .into_iter()
            .flat_map(|kind| [with_secret(kind, 1), with_secret(kind, 2)])
            .map(|token| pepper.tag(&token))
            .collect();
        assert_eq!(tags.len(), 8);
    }

    /// The same secret in tokens of other kinds and ids.
    fn with_secret(kind: TokenKind, id: u8) -> Token {
        let id = uuid::Builder::from_random_bytes([id; 16]).into_uuid().into_bytes();
        Token::from_parts(kind, id, [9; 32])
    }

    /// HMAC-SHA-256 as computed by Python's hmac over the same bytes: the
    /// stored form may never change.
    #[test]
    fn the_tag_is_what_it_always_was() {
        let pepper = Pepper::from_key(Zeroizing::new([7; 32]));
        let mut hex = String::new();
        push_hex(&pepper.tag(&with_secret(TokenKind::Volume, 1)), &mut hex);
        assert_eq!(hex, "75f21c2d9bb99f3b3429d6d8586d336d34e4d1816df9be711d8b9c942030355e");
        assert_eq!(pepper.id(), "4bb06f8e");
    }

    #[test]
    fn a_check_value_is_of_one_pepper_and_no_tag() {
        let pepper = Pepper::from_key(Zeroizing::new([7; 32]));
        assert!(pepper.has_check_value(&pepper.check_value()));
        assert!(!Pepper::generate().unwrap().has_check_value(&pepper.check_value()));
        assert!(
            TokenKind::ALL
                .into_iter()
                .all(|kind| { !CHECK_DOMAIN.starts_with(&[DOMAIN, kind_byte(kind)].concat()) })
        );
        // As Python's hmac computes it: stored for ever.
        let mut hex = String::new();
        push_hex(&pepper.check_value(), &mut hex);
        assert_eq!(hex, "38aebe58194caab7bc7039b69590cd82e53b505fdab316cbb0fdb9caeb289e3e");
    }

    #[test]
    fn a_verifier_moves_to_another_pepper_and_keeps_its_string() {
        let (old, new) = (Pepper::generate().unwrap(), Pepper::generate().unwrap());
        let token = Token::generate(TokenKind::Volume).unwrap();
        let verifier = Verifier::derive(&token, &old, QUICK).unwrap();
        let moved = verifier.retagged(&token, &new);
        assert!(moved.tag_matches(&token, &new) && !moved.tag_matches(&token, &old));
        assert!(moved.phc_matches(&token).unwrap());
        assert!(!moved.tag_matches(&Token::generate(TokenKind::Volume).unwrap(), &new));
    }

    #[test]
    fn only_what_is_stronger_in_one_and_weaker_in_nothing_is_stronger() {
        let token = Token::generate(TokenKind::Volume).unwrap();
        let made = Argon2Settings { memory_kib: 64, passes: 2, lanes: 1 };
        let verifier = Verifier::derive(&token, &Pepper::generate().unwrap(), made).unwrap();
        let stronger = |memory_kib, passes| {
            verifier.is_weaker_than(Argon2Settings { memory_kib, passes, lanes: 1 })
        };
        assert!(stronger(128, 2) && stronger(64, 3) && stronger(128, 3));
        assert!(!stronger(64, 2) && !stronger(32, 3) && !stronger(128, 1) && !stronger(32, 1));
        let damaged = Verifier { phc: "junk".into(), ..verifier };
        assert!(!damaged.is_weaker_than(Argon2Settings::default()));
    }

    #[test]
    fn the_default_is_the_owasp_minimum_and_stands_in_the_string() {
        let token = Token::generate(TokenKind::Account).unwrap();
        let pepper = Pepper::generate().unwrap();
        let verifier = Verifier::derive(&token, &pepper, Argon2Settings::default()).unwrap();
        assert!(verifier.phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", verifier.phc);
        assert!(verifier.phc_matches(&token).unwrap());
    }

    #[test]
    fn damaged_strings_are_errors_not_matches() {
        let token = Token::generate(TokenKind::Account).unwrap();
        for phc in [
            "",
            "junk",
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2id$v=19$m=64,t=100000,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
        ] {
            let verifier = Verifier { tag: [0; 32], pepper_id: String::new(), phc: phc.into() };
            assert_eq!(verifier.phc_matches(&token).unwrap_err().code(), Code::Internal, "{phc}");
        }
        let empty = "$argon2id$v=19$m=64,t=1,p=1".to_owned();
        let verifier = Verifier { tag: [0; 32], pepper_id: String::new(), phc: empty };
        assert!(!verifier.phc_matches(&token).unwrap());
    }

    #[test]
    fn the_pepper_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin/pepper");
        let made = Pepper::load_or_create(&path).unwrap();
        let read = Pepper::load_or_create(&path).unwrap();
        assert_eq!(made.id(), read.id());
        assert_eq!(made.key, read.key);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() == 65 && text.ends_with('\n'));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Pepper::load_or_create(&path).unwrap_err().code(), Code::CredsInsecure);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        // A damaged one is never replaced: every verifier hangs on it.
        std::fs::write(&path, "short\n").unwrap();
        assert_eq!(Pepper::load_or_create(&path).unwrap_err().code(), Code::ConfigInvalid);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
    }
}
