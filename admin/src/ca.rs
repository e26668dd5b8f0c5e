//! The installation's certificate authority: made at the first start, kept in
//! `$FLEXFS_HOME/ssl/{ca,caKey}`; admin's own certificate beside it in
//! `ssl/{cert,key}`. PEM files of mode 0600.
//!
//! Certificates name roles, not addresses (see `common::tls`): one pinned CA
//! works behind every address.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::hmac;
use flexfs_auth::private_file;
use flexfs_common::ids::ServerId;
use flexfs_common::tls::{self, Fingerprint};
use flexfs_common::{Code, Error, Result, home, limits};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use zeroize::Zeroizing;

/// Life of the CA: longer than an installation; replacing it means that every
/// client must be given the new one.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Clocks that go late must take a new certificate for valid.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Bytes of a PEM file of ours.
const PEM_MAX_LEN: usize = 64 * 1024;

/// The authority, ready to sign.
pub struct Ca {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    fingerprint: Fingerprint,
    mark_key: hmac::Key,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.fingerprint)
    }
}

/// A certificate chain and its key, as PEM texts.
pub struct Identity {
    /// Leaf first.
    pub chain: String,
    /// The private key.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

fn failed(what: &str) -> impl FnOnce(rcgen::Error) -> Error + '_ {
    move |e| Error::new(Code::Internal, format!("{what} cannot be made")).caused_by(e)
}

impl Ca {
    /// Reads the authority from this directory, or makes it. The key is
    /// written first: a crash in between leaves no CA that cannot sign.
    ///
    /// # Errors
    /// `CREDS_INSECURE`, `CONFIG_INVALID`.
    pub fn load_or_create(ssl: &Path) -> Result<Ca> {
        let (cert_path, key_path) = (ssl.join("ca"), ssl.join("caKey"));
        home::make_dir(ssl)?;
        if let Some(certificate) = read(&cert_path)? {
            let key = read(&key_path)?.ok_or_else(|| {
                Error::new(
                    Code::ConfigInvalid,
                    format!(
                        "{} exists, but its key {} does not",
                        cert_path.display(),
                        key_path.display()
                    ),
                )
            })?;
            return Ca::from_pem(&certificate, &key);
        }
        let key = match read(&key_path)? {
            Some(key) => key,
            None => {
                let key = new_key()?.serialize_pem();
                home::write_new_file(&key_path, key.as_bytes())?;
                // Another process may have been faster: its key is the one.
                read(&key_path)?.ok_or(Code::Internal)?
            }
        };
        let pair = parse_key(&key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "flexfs CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, CA_LIFE);
        let certificate = params.self_signed(&pair).map_err(failed("the CA"))?;
        home::write_new_file(&cert_path, certificate.pem().as_bytes())?;
        let certificate = read(&cert_path)?.ok_or(Code::Internal)?;
        Ca::from_pem(&certificate, &key)
    }

    fn from_pem(certificate: &str, key: &str) -> Result<Ca> {
        let pair = parse_key(key)?;
        let der = tls::certificate_from_pem(certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| {
            Error::new(Code::ConfigInvalid, "ssl/ca is no certificate").caused_by(e)
        })?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(Error::new(
                Code::ConfigInvalid,
                "ssl/ca and ssl/caKey do not fit together",
            ));
        }
        let fingerprint = Fingerprint::of(&der)?;
        let own = hmac::Key::new(hmac::HMAC_SHA256, pair.serialized_der());
        let mark_key = hmac::sign(&own, b"flexfs marks of revisions");
        let mark_key = hmac::Key::new(hmac::HMAC_SHA256, mark_key.as_ref());
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(failed("the issuer"))?;
        Ok(Ca { certificate_pem: certificate.to_owned(), issuer, fingerprint, mark_key })
    }

    /// SHA-256 of its public key: what `--caFingerprint` pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// For marks of the feed's revisions: the same at every replica, and known
    /// to no metadata server.
    #[must_use]
    pub fn mark_key(&self) -> &hmac::Key {
        &self.mark_key
    }

    /// admin's own certificate from `ssl/{cert,key}`, made anew when it is not
    /// there, not of this CA, or past half its life.
    ///
    /// # Errors
    /// `CREDS_INSECURE`, `CONFIG_INVALID`.
    pub fn own_identity(&self, ssl: &Path) -> Result<Identity> {
        let (cert_path, key_path) = (ssl.join("cert"), ssl.join("key"));
        if let (Some(chain), Some(key)) = (read(&cert_path)?, read(&key_path)?)
            && self.is_fresh(&chain)
            && tls::ServerCertificate::from_pem(&chain, &key).is_ok()
        {
            return Ok(Identity { chain: chain.to_string(), key });
        }
        let pair = new_key()?;
        let mut params = CertificateParams::new(vec![
            tls::ADMIN_NAME.to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ])
        .map_err(failed("the certificate"))?;
        describe_leaf(&mut params, tls::ADMIN_NAME);
        let certificate =
            params.signed_by(&pair, &self.issuer).map_err(failed("the certificate"))?;
        let identity =
            Identity { chain: self.chain(&certificate), key: Zeroizing::new(pair.serialize_pem()) };
        home::write_file(&key_path, identity.key.as_bytes())?;
        home::write_file(&cert_path, identity.chain.as_bytes())?;
        Ok(identity)
    }

    fn chain(&self, leaf: &Certificate) -> String {
        let mut chain = leaf.pem();
        if !chain.ends_with('\n') {
            chain.push('\n');
        }
        chain.push_str(&self.certificate_pem);
        chain
    }

    /// Is the leaf of this CA, and not past half its life?
    fn is_fresh(&self, chain: &str) -> bool {
        let Ok(der) = tls::certificate_from_pem(chain) else { return false };
        let Ok((_, leaf)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let (begin, end) =
            (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let now = jiff::Timestamp::now().as_second();
        now >= begin
            && now < begin.saturating_add(end.saturating_sub(begin) / 2)
            && chain.contains(self.certificate_pem.trim_end())
    }

    /// Signs a metadata server's request (PKCS#10, DER, RFC 2986): proves that
    /// the server holds the key, takes the public key and nothing else of it,
    /// and names the server's role and its store's host. PEM, leaf first.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` when the request is not one or not signed by its key.
    pub fn sign_server(&self, request: &[u8], server: ServerId, host: &str) -> Result<String> {
        let bad = |e: rcgen::Error| {
            Error::new(Code::ArgumentInvalid, "the certificate request is not valid").caused_by(e)
        };
        let request = CertificateSigningRequestParams::from_der(&request.into()).map_err(bad)?;
        let name = tls::meta_name(server);
        let mut params = CertificateParams::new(vec![name.clone()]).map_err(bad)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            params.subject_alt_names.push(SanType::IpAddress(ip));
        } else if !is_role(host)
            && let Ok(dns) = host.to_owned().try_into()
        {
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        describe_leaf(&mut params, &name);
        let signed = CertificateSigningRequestParams { params, public_key: request.public_key }
            .signed_by(&self.issuer)
            .map_err(failed("the certificate"))?;
        Ok(self.chain(&signed))
    }
}

/// A store's address must not lend a server another one's role.
fn is_role(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "flexfs" || host.ends_with(".flexfs") || host.contains('*')
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed("a key"))
}

fn parse_key(pem: &str) -> Result<KeyPair> {
    // The library's text is not repeated: it could quote the file.
    KeyPair::from_pem(pem)
        .map_err(|_| Error::new(Code::ConfigInvalid, "ssl/caKey is not a private key in PEM"))
}

fn describe_leaf(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_life(params, limits::CERT_LIFE);
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now).saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + Duration::from_secs(now) + life;
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>> {
    match private_file::read(path, PEM_MAX_LEN) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.code() == Code::CredsMissing => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
