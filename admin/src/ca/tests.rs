use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::PublicKeyData;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

fn verifies(chain: &str, ca: &Ca, name: &str) -> bool {
    tls::install_provider();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(tls::certificate_from_pem(&ca.certificate_pem).unwrap()).unwrap();
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok()
}

#[test]
fn the_authority_survives_a_restart_and_a_crash_while_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let ssl = dir.path().join("ssl");
    let first = Ca::load_or_create(&ssl).unwrap();
    let again = Ca::load_or_create(&ssl).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    for file in ["ca", "caKey"] {
        let mode = std::fs::metadata(ssl.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Crashed after the key, before the certificate: the key is used.
    std::fs::remove_file(ssl.join("ca")).unwrap();
    let after = Ca::load_or_create(&ssl).unwrap();
    assert_eq!(first.fingerprint(), after.fingerprint());
    // A lost key is told, not replaced behind everybody's back.
    std::fs::remove_file(ssl.join("caKey")).unwrap();
    assert_eq!(Ca::load_or_create(&ssl).unwrap_err().code(), Code::ConfigInvalid);
}

#[test]
fn a_readable_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ssl = dir.path().join("ssl");
    Ca::load_or_create(&ssl).unwrap();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(ssl.join("caKey"), open).unwrap();
    assert_eq!(Ca::load_or_create(&ssl).unwrap_err().code(), Code::CredsInsecure);
}

#[test]
fn admin_has_its_role_and_keeps_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path()).unwrap();
    let first = ca.own_identity(dir.path()).unwrap();
    for name in ["admin.flexfs", "localhost", "127.0.0.1"] {
        assert!(verifies(&first.chain, &ca, name), "{name}");
    }
    assert!(!verifies(&first.chain, &ca, "x.meta.flexfs"));
    assert_eq!(ca.own_identity(dir.path()).unwrap().chain, first.chain);
    // Of another CA: made anew.
    let other = tempfile::tempdir().unwrap();
    let other_ca = Ca::load_or_create(other.path()).unwrap();
    let replaced = other_ca.own_identity(dir.path()).unwrap();
    assert_ne!(replaced.chain, first.chain);
    assert!(verifies(&replaced.chain, &other_ca, "admin.flexfs"));
}

#[test]
fn a_server_gets_its_own_name_whatever_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path()).unwrap();
    let key = new_key().unwrap();
    // Greedy: admin's name, and to be a CA.
    let mut wish = CertificateParams::new(vec![tls::ADMIN_NAME.to_owned()]).unwrap();
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).unwrap();
    let server = ServerId::random();
    let chain = ca.sign_server(request.der(), server, "meta.example").unwrap();
    assert!(verifies(&chain, &ca, &tls::meta_name(server)));
    assert!(verifies(&chain, &ca, "meta.example"));
    assert!(!verifies(&chain, &ca, tls::ADMIN_NAME));
    assert!(!verifies(&chain, &ca, &tls::meta_name(ServerId::random())));
    let der = tls::certificate_from_pem(&chain).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.der_bytes());
    // A store named like a role lends nothing.
    for host in [tls::ADMIN_NAME, "ADMIN.flexfs.", "*.meta.flexfs"] {
        let chain = ca.sign_server(request.der(), server, host).unwrap();
        assert!(!verifies(&chain, &ca, tls::ADMIN_NAME), "{host}");
    }
}

#[test]
fn a_request_not_signed_by_its_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path()).unwrap();
    let request =
        CertificateParams::new(vec![]).unwrap().serialize_request(&new_key().unwrap()).unwrap();
    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bad in [&forged[..], b"", b"\x30\x00"] {
        let error = ca.sign_server(bad, ServerId::random(), "h").unwrap_err();
        assert_eq!(error.code(), Code::ArgumentInvalid);
    }
}
