//! Who this server is, durably: everything in the data directory that is not
//! the engine's. Files are 0600 in a 0700 directory.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flexfs_common::ids::ServerId;
use flexfs_common::{Code, Error, Result, home, tls};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::blocks::signed::{Hex, unhex};

/// The data directory of a metadata server.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// A certificate and its private key, PEM.
pub struct KeyedCertificate {
    /// Leaf first, then the CA.
    pub chain: String,
    /// The private key.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedCertificate")
    }
}

impl DataDir {
    /// Opens the directory, making it when it is missing.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when it cannot be made or belongs to another user.
    pub fn open(path: &Path) -> Result<DataDir> {
        home::make_dir(path)?;
        let bad = |why: &str| Error::new(Code::ConfigInvalid, format!("{} {why}", path.display()));
        let metadata =
            std::fs::metadata(path).map_err(|e| bad("cannot be looked at").caused_by(e))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(bad("belongs to another user"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(bad("can be written by others: chmod 700"));
        }
        Ok(DataDir(path.to_owned()))
    }

    /// Where the embedded engine lies.
    #[must_use]
    pub fn engine(&self) -> PathBuf {
        self.0.join("engine")
    }

    /// Where a restore builds the engine's directory, which then gets its
    /// name at once.
    #[must_use]
    pub fn restoring(&self) -> PathBuf {
        self.0.join("engine.restoring")
    }

    /// Refuses a directory in which a restore was broken off: an empty
    /// database in its place would be served as if nothing had been lost.
    ///
    /// # Errors
    /// `RESTORE_UNFINISHED`.
    pub fn need_whole(&self) -> Result<()> {
        if self.restoring().exists() {
            let at = self.0.display();
            let why = format!("a restore into {at} was broken off");
            return Err(Error::new(Code::RestoreUnfinished, why));
        }
        // Made after the first engine: where it is, there was one.
        if !self.engine().exists() && self.0.join("grantKey").exists() {
            let at = self.engine();
            let why = format!(
                "this server has had a database and {} is not there; restore a backup, or move \
                 the whole data directory away to begin anew",
                at.display()
            );
            return Err(Error::new(Code::RestoreUnfinished, why));
        }
        Ok(())
    }

    /// A restore is done: its directory is the engine's from now on.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn finish_restore(&self) -> Result<()> {
        let failed = |e| {
            let at = self.restoring();
            Error::new(Code::ConfigInvalid, format!("cannot rename {}", at.display())).caused_by(e)
        };
        std::fs::rename(self.restoring(), self.engine()).map_err(failed)?;
        std::fs::File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// The server's id; made at the first call.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn server_id(&self) -> Result<ServerId> {
        let path = self.0.join("server");
        let text = match read_private(&path)? {
            Some(text) => text,
            None => {
                home::write_new_file(&path, format!("{}\n", ServerId::random()).as_bytes())?;
                read_private(&path)?.ok_or_else(|| unusable(&path))?
            }
        };
        text.trim_end().parse().map_err(|e: Error| unusable(&path).caused_by(e))
    }

    /// The server's id, when it has one.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn known_server_id(&self) -> Result<Option<ServerId>> {
        let path = self.0.join("server");
        let Some(text) = read_private(&path)? else { return Ok(None) };
        text.trim_end().parse().map(Some).map_err(|e: Error| unusable(&path).caused_by(e))
    }

    /// A durable random key of this name; made at the first call.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `INTERNAL` without randomness.
    pub fn key(&self, name: &str) -> Result<Zeroizing<[u8; 32]>> {
        let path = self.0.join(name);
        let text = match read_private(&path)? {
            Some(text) => text,
            None => {
                let key = random_key()?;
                let text = Zeroizing::new(Hex(key.as_slice()).to_string());
                home::write_new_file(&path, text.as_bytes())?;
                read_private(&path)?.ok_or_else(|| unusable(&path))?
            }
        };
        unhex(text.trim_end()).map(Zeroizing::new).ok_or_else(|| unusable(&path))
    }

    /// The server's own key pair; made at the first call.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `INTERNAL` without randomness.
    pub fn key_pair(&self) -> Result<KeyPair> {
        let path = self.0.join("serverKey");
        if read_private(&path)?.is_none() {
            let key = KeyPair::generate().map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
            let pem = Zeroizing::new(key.serialize_pem());
            home::write_new_file(&path, pem.as_bytes())?;
        }
        let text = read_private(&path)?.ok_or_else(|| unusable(&path))?;
        KeyPair::from_pem(&text).map_err(|e| unusable(&path).caused_by(e))
    }

    /// The last certificate that admin issued, if it is still valid for this
    /// server's key.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when the files cannot be read.
    pub fn cached_certificate(&self) -> Result<Option<KeyedCertificate>> {
        let Some(chain) = read_private(&self.0.join("serverCert"))? else { return Ok(None) };
        let pair = self.key_pair()?;
        let valid = lifetime(&chain).is_ok_and(|life| life.not_after > now())
            && leaf_key(&chain).is_ok_and(|key| key == pair.subject_public_key_info());
        let key = Zeroizing::new(pair.serialize_pem());
        Ok(valid.then(|| KeyedCertificate { chain: chain.to_string(), key }))
    }

    /// Keeps a certificate that admin issued.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn keep_certificate(&self, chain: &str) -> Result<()> {
        home::write_file(&self.0.join("serverCert"), chain.as_bytes())
    }
}

/// 32 random bytes.
///
/// # Errors
/// `INTERNAL` without randomness.
pub fn random_key() -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice())
        .map_err(|e| Error::new(Code::Internal, "no randomness").caused_by(e))?;
    Ok(key)
}

/// A request for a certificate (PKCS#10, DER) under the server's name.
///
/// # Errors
/// `INTERNAL`.
pub fn certificate_request(server: ServerId, key: &KeyPair) -> Result<Vec<u8>> {
    let failed = |e| Error::new(Code::Internal, "certificate request").caused_by(e);
    let params = CertificateParams::new(vec![tls::meta_name(server)]).map_err(failed)?;
    let request = params.serialize_request(key).map_err(failed)?;
    Ok(request.der().to_vec())
}

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Begin.
    pub not_before: i64,
    /// End.
    pub not_after: i64,
}

impl Lifetime {
    /// When it should be renewed: at two thirds.
    #[must_use]
    pub fn renew_at(self) -> i64 {
        let span = self.not_after.saturating_sub(self.not_before).max(0);
        self.not_before.saturating_add(span / 3 * 2)
    }
}

/// The lifetime of the first certificate of a PEM chain.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn lifetime(chain: &str) -> Result<Lifetime> {
    let der = tls::certificate_from_pem(chain)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| Error::new(Code::ConfigInvalid, "not a certificate").caused_by(e))?;
    let validity = parsed.validity();
    Ok(Lifetime {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

fn leaf_key(chain: &str) -> Result<Vec<u8>> {
    let der = tls::certificate_from_pem(chain)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| Error::new(Code::ConfigInvalid, "not a certificate").caused_by(e))?;
    Ok(parsed.public_key().raw.to_vec())
}

/// Seconds since 1970, now.
#[must_use]
pub fn now() -> i64 {
    flexfs_common::clock::wall_now().as_second()
}

fn unusable(path: &Path) -> Error {
    Error::new(Code::ConfigInvalid, format!("{} is not understood", path.display()))
}

/// Reads a file that must be ours alone; `None` when it is not there.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let bad = |why: &str| Error::new(Code::ConfigInvalid, format!("{} {why}", path.display()));
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad("cannot be read").caused_by(e)),
    };
    let metadata = file.metadata().map_err(|e| bad("cannot be read").caused_by(e))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(bad("can be read or changed by others: chown, chmod 600"));
    }
    let mut text = Zeroizing::new(String::new());
    // A key or chain of certificates is far below this.
    file.take(64 * 1024)
        .read_to_string(&mut text)
        .map_err(|e| bad("cannot be read").caused_by(e))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An empty engine in place of one that is gone would be served as if
    /// there had never been a file.
    #[test]
    fn an_engine_that_is_gone_is_not_replaced_by_an_empty_one() {
        let base = tempfile::tempdir().unwrap();
        let data = DataDir::open(&base.path().join("data")).unwrap();
        data.need_whole().unwrap();
        std::fs::create_dir(data.engine()).unwrap();
        data.key("grantKey").unwrap();
        data.need_whole().unwrap();
        std::fs::remove_dir(data.engine()).unwrap();
        assert_eq!(data.need_whole().unwrap_err().code(), Code::RestoreUnfinished);
    }

    #[test]
    fn what_a_server_is_survives_a_restart() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("data");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(first.known_server_id().unwrap(), None);
        let (id, key) = (first.server_id().unwrap(), first.key("urlKey").unwrap());
        let pem = first.key_pair().unwrap().serialize_pem();
        let again = DataDir::open(&path).unwrap();
        assert_eq!(again.server_id().unwrap(), id);
        assert_eq!(again.key("urlKey").unwrap(), key);
        assert_ne!(again.key("grantKey").unwrap(), key);
        assert_eq!(again.key_pair().unwrap().serialize_pem(), pem);
        std::fs::set_permissions(path.join("urlKey"), std::fs::Permissions::from_mode(0o640))
            .unwrap();
        assert_eq!(again.key("urlKey").unwrap_err().code(), Code::ConfigInvalid);
    }

    #[test]
    fn only_a_valid_certificate_of_the_own_key_is_used_again() {
        let base = tempfile::tempdir().unwrap();
        let data = DataDir::open(&base.path().join("data")).unwrap();
        assert!(data.cached_certificate().unwrap().is_none());
        let own = data.key_pair().unwrap();
        let self_signed = |key: &KeyPair, year: i32| {
            let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(key).unwrap().pem()
        };
        data.keep_certificate(&self_signed(&own, 2021)).unwrap();
        assert!(data.cached_certificate().unwrap().is_none());
        data.keep_certificate(&self_signed(&KeyPair::generate().unwrap(), 2120)).unwrap();
        assert!(data.cached_certificate().unwrap().is_none());
        let good = self_signed(&own, 2120);
        data.keep_certificate(&good).unwrap();
        assert_eq!(data.cached_certificate().unwrap().unwrap().chain, good);
        let life = lifetime(&good).unwrap();
        assert!(life.not_before < life.renew_at() && life.renew_at() < life.not_after);
    }
}
