//! For tests: a real server on a real port, with TLS, over a real volume, and
//! a client that speaks the protocol by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::BytesMut;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::ids::{AccountId, SecretId, ServerId, SessionId, TokenId, VolumeId};
use flexfs_common::name::SubtreePath;
use flexfs_common::tls::{self, Peer, ServerCertificate, Stream, Trust};
use flexfs_common::{Code, Result, limits, protocol};
use flexfs_proto::v1;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use crate::authority::{Authority, feed};
use crate::blocks::signed::Signer;
use crate::engine::Engine;
use crate::engine::memory::MemoryEngine;
use crate::grants::Grants;
use crate::identity::DataDir;
use crate::server;
use crate::service::background;
use crate::service::changes::FeedPoint;
use crate::service::own::OwnToken;
use crate::service::placed::Served;
use crate::service::sessions::SessionEntry;
use crate::service::{Parts, Service};
use crate::volume::{NewSession, SessionSeal};
use admin::Admin;

pub(crate) mod admin;
mod narrow;

pub(crate) use narrow::Narrow;

/// No test waits longer than this for something that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) service: Arc<Service>,
    pub(crate) served: Arc<Served>,
    pub(crate) peer: Peer,
}

/// A session as its client knows it.
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    pub(crate) key: [u8; 32],
    pub(crate) root: Vec<u8>,
    pub(crate) token: TokenId,
    pub(crate) secret: SecretId,
}

pub(crate) fn placed(store: &Path) -> v1::PlacedVolume {
    v1::PlacedVolume {
        id: VolumeId::random().to_string(),
        name: "home".into(),
        account_id: AccountId::random().to_string(),
        state: "active".into(),
        flags: Some(v1::Flags::default()),
        block_size: limits::BLOCK_SIZE_DEFAULT,
        compression: "lz4".into(),
        block_store: Some(v1::BlockStoreSpec {
            id: "store".into(),
            kind: "dir".into(),
            location: store.display().to_string(),
            ..v1::BlockStoreSpec::default()
        }),
        ..v1::PlacedVolume::default()
    }
}

/// A server's state whose admin is nowhere.
pub(crate) fn service(engine: Arc<dyn Engine>, grace: Duration) -> Arc<Service> {
    let own = OwnToken::fixed(Token::generate(TokenKind::Meta).unwrap());
    service_of(engine, own, grace, nowhere())
}

fn nowhere() -> Peer {
    Peer {
        address: "127.0.0.1:9".into(),
        name: tls::ADMIN_NAME.into(),
        trust: Trust::Plaintext,
        unreachable: Code::AdminUnreachable,
    }
}

fn service_of(
    engine: Arc<dyn Engine>,
    own: OwnToken,
    grace: Duration,
    admin: Peer,
) -> Arc<Service> {
    Service::new(Parts {
        server_id: ServerId::random(),
        authority: Authority::new(admin, &own.token()).unwrap(),
        own,
        grants: Grants::load(Arc::clone(&engine), &[1; 32], grace).unwrap(),
        engine,
        signer: Arc::new(Signer::new(&[2; 32])),
        seal: Arc::new(SessionSeal::new(&[3; 32]).unwrap()),
    })
    .unwrap()
}

fn certificate(server: ServerId) -> (Arc<ServerCertificate>, Trust) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![tls::meta_name(server)]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let chain = format!("{}{}", leaf.pem(), ca.pem());
    let certificate = ServerCertificate::from_pem(&chain, &key.serialize_pem()).unwrap();
    (certificate, Trust::Ca(ca.der().clone()))
}

impl Bench {
    pub(crate) async fn start() -> Bench {
        Bench::on(Arc::new(MemoryEngine::new())).await
    }

    pub(crate) async fn on(engine: Arc<dyn Engine>) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let service = service(engine, limits::ADMIN_GRACE);
        let placed = placed(&dir.path().join("blocks"));
        Bench::serve(dir, service, placed).await
    }

    /// With an admin, whose feed is followed, and a credentials file.
    pub(crate) async fn with_admin() -> (Bench, Admin) {
        let (bench, admin) = Bench::beside_admin().await;
        let data = DataDir::open(&bench.dir.path().join("data")).unwrap();
        tokio::spawn(feed::follow(Arc::clone(&bench.service), data, None));
        tokio::spawn(background::watch_time(Arc::clone(&bench.service)));
        admin.subscriptions(1).await;
        (bench, admin)
    }

    /// With an admin that is asked, and whose feed is not followed.
    pub(crate) async fn beside_admin() -> (Bench, Admin) {
        let dir = tempfile::tempdir().unwrap();
        let placed = placed(&dir.path().join("blocks"));
        let own = Token::generate(TokenKind::Meta).unwrap();
        let admin = Admin::start(&own, placed.clone()).await;
        let creds = dir.path().join("creds");
        admin.creds(&creds, &own);
        let own = OwnToken::load(&creds).unwrap();
        let engine = Arc::new(MemoryEngine::new());
        let service = service_of(engine, own, limits::ADMIN_GRACE, admin.peer.clone());
        (Bench::serve(dir, service, placed).await, admin)
    }

    async fn serve(
        dir: tempfile::TempDir,
        service: Arc<Service>,
        placed: v1::PlacedVolume,
    ) -> Bench {
        let served = service.serve_volume(&placed, FeedPoint::default()).unwrap();
        service.feed.set_started();
        service.note_contact();
        let (certificate, trust) = certificate(service.server_id);
        let bound = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let peer = Peer {
            address: bound.address().to_string(),
            name: tls::meta_name(service.server_id),
            trust,
            unreachable: Code::MetaUnreachable,
        };
        tokio::spawn(bound.serve(Arc::clone(&service), Some(certificate)));
        Bench { dir, service, served, peer }
    }

    pub(crate) fn open(&self) -> Opened {
        self.open_as(TokenId::random())
    }

    pub(crate) fn open_as(&self, token: TokenId) -> Opened {
        let secret = SecretId::random();
        let opened = self
            .served
            .volume
            .open_session(NewSession {
                token_id: token,
                secret_id: secret,
                scope: SubtreePath::root(),
                token_flags: v1::Flags::default(),
                requested: v1::Flags::default(),
                honours: v1::Flags::default(),
                recalls: false,
                write_rights: false,
                make_rights: false,
                acls: false,
                host_name: "host".into(),
                dir: "/mnt".into(),
                peer: "127.0.0.1:1".into(),
            })
            .unwrap();
        let entry = SessionEntry::new(opened.id, Arc::clone(&self.served.volume), token);
        self.service.sessions.insert(entry).unwrap();
        Opened { id: opened.id, key: *opened.key, root: opened.root_handle, token, secret }
    }

    pub(crate) async fn connect(&self, session: &Opened) -> Client {
        let mut client = Client::connect(&self.peer).await;
        client.resume(session.id, &session.key).await;
        let resumed = client.next().await.resumed.expect("resumed");
        assert!(resumed.generation > 0);
        client
    }
}

pub(crate) struct Client {
    reader: FrameReader<ReadHalf<Stream>>,
    write: WriteHalf<Stream>,
    pub(crate) exporter: [u8; 32],
    pub(crate) nonce: Vec<u8>,
}

impl Client {
    /// Connects and reads the challenge.
    pub(crate) async fn connect(peer: &Peer) -> Client {
        let stream = peer.connect(frame::ALPN).await.unwrap();
        let exporter = stream.exporter().unwrap();
        let (read, write) = tokio::io::split(stream);
        let reader = FrameReader::new(read, FrameKind::Server);
        let mut client = Client { reader, write, exporter, nonce: Vec::new() };
        client.nonce = client.next().await.challenge.expect("challenge").nonce;
        assert_eq!(client.nonce.len(), 32);
        client
    }

    pub(crate) fn proof(&self, session: SessionId, key: &[u8; 32]) -> Vec<u8> {
        let input =
            [protocol::RESUME_DOMAIN, session.as_bytes().as_slice(), &self.nonce, &self.exporter]
                .concat();
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input).as_ref().to_vec()
    }

    pub(crate) async fn resume(&mut self, session: SessionId, key: &[u8; 32]) {
        let proof = self.proof(session, key);
        self.resume_with(session, proof).await;
    }

    pub(crate) async fn resume_with(&mut self, session: SessionId, proof: Vec<u8>) {
        let resume = v1::Resume {
            session_id: session.as_bytes().to_vec(),
            proof,
            protocol_version: protocol::VERSION,
        };
        self.send(v1::ClientFrame { resume: Some(resume), ..v1::ClientFrame::default() }).await;
    }

    pub(crate) async fn send(&mut self, frame: v1::ClientFrame) {
        let mut buffer = BytesMut::new();
        frame::encode(FrameKind::Client, &frame, &mut buffer).unwrap();
        self.send_bytes(&buffer).await;
    }

    /// A server that has closed already is seen at the next read.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.write.write_all(bytes).await;
        let _ = self.write.flush().await;
    }

    pub(crate) async fn ops(&mut self, ops: Vec<v1::Op>) {
        self.send(v1::ClientFrame { ops, ..v1::ClientFrame::default() }).await;
    }

    pub(crate) async fn next(&mut self) -> v1::ServerFrame {
        self.try_next().await.unwrap().expect("a frame")
    }

    /// `None` when the server has closed.
    pub(crate) async fn try_next(&mut self) -> Result<Option<v1::ServerFrame>> {
        tokio::time::timeout(LIMIT, self.reader.next()).await.expect("an answer in time")
    }

    pub(crate) async fn refused(&mut self) -> String {
        self.next().await.refused.expect("refused").code
    }

    /// The server closes without another word.
    pub(crate) async fn closed(&mut self) {
        assert!(!matches!(self.try_next().await, Ok(Some(_))));
    }
}

pub(crate) fn op(request_id: u64, body: v1::op::Body) -> v1::Op {
    v1::Op {
        request_id,
        caller: Some(v1::Caller::default()),
        body: Some(body),
        ..v1::Op::default()
    }
}

pub(crate) fn get_attr(request_id: u64, root: &[u8]) -> v1::Op {
    op(request_id, v1::op::Body::GetAttr(v1::GetAttr { handle: root.to_vec() }))
}

pub(crate) fn error_code(reply: &v1::Reply) -> Option<&str> {
    match &reply.result {
        Some(v1::reply::Result::Error(detail)) => Some(&detail.code),
        _ => None,
    }
}
