//! TLS on both sides, and whom a client trusts. One provider: aws-lc-rs.
//!
//! Certificates of this installation name *roles*, not addresses: admin is
//! [`ADMIN_NAME`], a metadata server is [`meta_name`] of its id. So one pinned
//! CA works behind every address, and a meta cannot pose as admin.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::ids::ServerId;
use crate::{Code, Error, Result, limits};

mod stream;
pub use stream::Stream;

/// The name in admin's certificate.
pub const ADMIN_NAME: &str = "admin.flexfs";

/// The name in a metadata server's certificate.
#[must_use]
pub fn meta_name(server: ServerId) -> String {
    format!("{server}.meta.flexfs")
}

/// Makes aws-lc-rs the process's provider; first act of every program.
pub fn install_provider() {
    // A second call (tests in one process) finds it installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// SHA-256 over the SubjectPublicKeyInfo of a CA certificate, written
/// `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when it is not an X.509 certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Fingerprint> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|e| Error::new(Code::ConfigInvalid, "not a certificate").caused_by(e))?;
        let hash = digest::digest(&digest::SHA256, parsed.public_key().raw);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Fingerprint> {
        let bad =
            || Error::new(Code::ArgumentInvalid, "a fingerprint is `sha256:` and 64 hex digits");
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Fingerprint(bytes))
    }
}

/// Whom a client takes for the server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who is proven by this CA, under the role's name.
    Ca(CertificateDer<'static>),
    /// Who is proven by the operating system's authorities, under the
    /// address's host name.
    System,
    /// Anybody: a server started with `--noSSL`. Asked for by the literal
    /// address prefix `http://` only.
    Plaintext,
}

/// A server to talk to: where, who, and why we believe it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `host:port`.
    pub address: String,
    /// The role's name ([`ADMIN_NAME`] or [`meta_name`]).
    pub name: String,
    /// Whom to believe.
    pub trust: Trust,
    /// The code to report when it cannot be reached.
    pub unreachable: Code,
}

impl Peer {
    /// Opens a connection with this ALPN protocol.
    ///
    /// # Errors
    /// `unreachable` when there is no connection, `PEER_UNTRUSTED` when the
    /// other side did not prove itself.
    pub async fn connect(&self, alpn: &[u8]) -> Result<Stream> {
        let unreachable = |why: String| Error::new(self.unreachable, why);
        let tcp = tokio::time::timeout(limits::CONNECT, TcpStream::connect(&self.address))
            .await
            .map_err(|_| unreachable(format!("no connection to {} in time", self.address)))?
            .map_err(|e| unreachable(format!("no connection to {}", self.address)).caused_by(e))?;
        tcp.set_nodelay(true).map_err(|e| unreachable(self.address.clone()).caused_by(e))?;
        if matches!(self.trust, Trust::Plaintext) {
            return Ok(Stream::plain(tcp));
        }
        let config = client_config(&self.trust, alpn)?;
        let name = match &self.trust {
            Trust::System => host_of(&self.address).to_owned(),
            Trust::Ca(_) | Trust::Plaintext => self.name.clone(),
        };
        handshake(tcp, config, &name, &self.address, self.unreachable).await
    }

    /// A gRPC channel that connects when first used, and again when broken.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` when the address is not `host:port`.
    pub fn channel(&self) -> Result<Channel> {
        // The scheme is http because TLS is done by our connector.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|e| bad_address(&self.address).caused_by(e))?
            .http2_keep_alive_interval(limits::FEED_HEARTBEAT)
            .keep_alive_timeout(limits::FEED_DEAD)
            .keep_alive_while_idle(false);
        let peer = self.clone();
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let peer = peer.clone();
            async move {
                let stream = peer.connect(b"h2").await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        })))
    }
}

fn bad_address(address: &str) -> Error {
    Error::new(
        Code::ArgumentInvalid,
        format!("`{}` is not an address: host:port", address.escape_debug()),
    )
}

/// Splits `http://host:port`, `https://host:port` or `host:port`; true means
/// without TLS.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse_address(text: &str) -> Result<(String, bool)> {
    let (rest, plain) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => (text, false),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let port_ok = rest.rsplit_once(':').is_some_and(|(host, port)| {
        let host_ok = !host.is_empty() && !host.contains(['/', ' ', '@']);
        host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if port_ok { Ok((rest.to_owned(), plain)) } else { Err(bad_address(text)) }
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn handshake(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: &str,
    address: &str,
    unreachable: Code,
) -> Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| bad_address(address))?;
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
    let tls = tokio::time::timeout(limits::HANDSHAKE, connecting)
        .await
        .map_err(|_| Error::new(unreachable, format!("{address} did not finish TLS in time")))?
        .map_err(|e| {
            let certificate = e
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)));
            if certificate {
                Error::new(Code::PeerUntrusted, format!("{address} did not prove who it is"))
                    .caused_by(e)
            } else {
                Error::new(unreachable, format!("{address} does not speak TLS with us"))
                    .caused_by(e)
            }
        })?;
    Ok(Stream::client(tls))
}

/// A client's configuration for this trust, TLS 1.3 only.
///
/// # Errors
/// `CONFIG_INVALID` when the CA certificate is not one.
pub fn client_config(trust: &Trust, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
    install_provider();
    let failed = |e: rustls::Error| Error::new(Code::ConfigInvalid, "TLS set-up").caused_by(e);
    let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = match trust {
        Trust::Ca(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.clone()).map_err(failed)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::System | Trust::Plaintext => {
            builder.with_platform_verifier().map_err(failed)?.with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    // No 0-RTT: a replayed first flight must have no effect.
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Connects to `address`, takes the CA certificate with this fingerprint from
/// the chain it shows, and checks that the server is proven by it under
/// `name`. Nothing secret is sent.
///
/// # Errors
/// `PEER_UNTRUSTED` when no certificate of the chain has the fingerprint or
/// the server is not proven by it; `unreachable` when there is no answer.
pub async fn fetch_ca(
    address: &str,
    name: &str,
    fingerprint: Fingerprint,
    unreachable: Code,
) -> Result<CertificateDer<'static>> {
    install_provider();
    let found = Arc::new(Mutex::new(None));
    let verifier = PinVerifier { fingerprint, found: Arc::clone(&found) };
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::time::timeout(limits::CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| Error::new(unreachable, format!("no connection to {address} in time")))?
        .map_err(|e| Error::new(unreachable, format!("no connection to {address}")).caused_by(e))?;
    handshake(tcp, Arc::new(config), name, address, unreachable).await?;
    let ca = found.lock().take();
    ca.ok_or_else(|| Error::bare(Code::PeerUntrusted))
}

/// Accepts a server whose chain holds the pinned CA and is proven by it.
#[derive(Debug)]
struct PinVerifier {
    fingerprint: Fingerprint,
    found: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|c| Fingerprint::of(c).is_ok_and(|f| f == self.fingerprint))
            .ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let inner = WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        *self.found.lock() = Some(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Parses the first certificate of a PEM text.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::new(Code::ConfigInvalid, "not a PEM certificate").caused_by(e))
}

/// A server's certificate that can be replaced while it serves.
#[derive(Debug)]
pub struct ServerCertificate(Mutex<Arc<CertifiedKey>>);

impl ServerCertificate {
    /// From PEM texts: the chain leaf first, and the private key.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn from_pem(chain: &str, key: &str) -> Result<Arc<ServerCertificate>> {
        Ok(Arc::new(ServerCertificate(Mutex::new(certified_key(chain, key)?))))
    }

    /// Puts another certificate into use for new connections.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; the old one stays.
    pub fn replace(&self, chain: &str, key: &str) -> Result<()> {
        let new = certified_key(chain, key)?;
        *self.0.lock() = new;
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock()))
    }
}

fn certified_key(chain: &str, key: &str) -> Result<Arc<CertifiedKey>> {
    install_provider();
    let bad = |what: &str| Error::new(Code::ConfigInvalid, what.to_owned());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad("the certificate chain is not PEM").caused_by(e))?;
    if chain.is_empty() {
        return Err(bad("the certificate chain is empty"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|e| bad("the private key is not PEM").caused_by(e))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map(Arc::new)
        .map_err(|e| bad("certificate and key do not fit together").caused_by(e))
}

/// A server's configuration, TLS 1.3 only, with these ALPN protocols.
#[must_use]
pub fn server_config(certificate: Arc<ServerCertificate>, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    install_provider();
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // No 0-RTT: a replayed first flight must have no effect.
    config.max_early_data_size = 0;
    Arc::new(config)
}

#[cfg(test)]
mod tests;
