use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;

use super::*;

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

fn leaf(authority: &Authority, name: &str) -> Arc<ServerCertificate> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let chain = format!("{}{}", certificate.pem(), authority.pem);
    ServerCertificate::from_pem(&chain, &key.serialize_pem()).unwrap()
}

async fn serve(certificate: Arc<ServerCertificate>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(certificate, &[b"h2"]));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A refused handshake is what some of the tests are about.
                let _ = acceptor.accept(tcp).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_pinned_ca_is_fetched_and_proves_the_server() {
    let ca = authority();
    let address = serve(leaf(&ca, ADMIN_NAME)).await;
    let pin = Fingerprint::of(&ca.der).unwrap();
    let fetched = fetch_ca(&address, ADMIN_NAME, pin, Code::AdminUnreachable).await.unwrap();
    assert_eq!(fetched, ca.der);
    let peer = Peer {
        address: address.clone(),
        name: ADMIN_NAME.into(),
        trust: Trust::Ca(fetched),
        unreachable: Code::AdminUnreachable,
    };
    peer.connect(b"h2").await.unwrap();
}

#[tokio::test]
async fn a_stranger_and_a_wrong_role_are_not_trusted() {
    let (ca, stranger) = (authority(), authority());
    let pin = Fingerprint::of(&ca.der).unwrap();
    let other_ca = serve(leaf(&stranger, ADMIN_NAME)).await;
    let meta_posing = serve(leaf(&ca, &meta_name(ServerId::random()))).await;
    for address in [&other_ca, &meta_posing] {
        let error = fetch_ca(address, ADMIN_NAME, pin, Code::AdminUnreachable).await.unwrap_err();
        assert_eq!(error.code(), Code::PeerUntrusted, "{}", error.with_causes());
        let peer = Peer {
            address: address.clone(),
            name: ADMIN_NAME.into(),
            trust: Trust::Ca(ca.der.clone()),
            unreachable: Code::AdminUnreachable,
        };
        assert_eq!(peer.connect(b"h2").await.unwrap_err().code(), Code::PeerUntrusted);
    }
}

#[test]
fn fingerprints_and_addresses_parse() {
    let pin = Fingerprint::of(&authority().der).unwrap();
    assert_eq!(pin.to_string().parse::<Fingerprint>().unwrap(), pin);
    for bad in ["", "sha256:", "sha256:zz", &pin.to_string()[7..]] {
        assert!(bad.parse::<Fingerprint>().is_err());
    }
    assert_eq!(parse_address("h:1").unwrap(), ("h:1".into(), false));
    assert_eq!(parse_address("http://[::1]:7400").unwrap(), ("[::1]:7400".into(), true));
    for bad in ["", "h", "h:", ":1", "h:0", "h:70000", "http://", "a b:1"] {
        assert!(parse_address(bad).is_err(), "{bad}");
    }
}
