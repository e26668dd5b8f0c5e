//! An admin in this process, and its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::{Argon2Settings, Pepper};
use flexfs_common::home::Home;
use flexfs_common::ids::ServerId;
use flexfs_common::tls::{self, Peer, ServerCertificate, Trust};
use flexfs_common::{Code, Error, clock, status, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use flexfs_proto::v1::authority_service_client::AuthorityServiceClient;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::bootstrap;
use crate::ca::Ca;
use crate::feed::{Registry, poll};
use crate::peppers::Peppers;
use crate::server::Server;
use crate::service::Service;
use crate::store::testing::TestDatabase;
use crate::store::{Kind, Store};
use crate::verify::Verify;

/// Argon2 for tests alone: 64 KiB, one pass.
pub(super) const CHEAP: Argon2Settings = Argon2Settings { memory_kib: 64, passes: 1, lanes: 1 };

/// How long ended tokens stay listed.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) type Client = AdminServiceClient<InterceptedService<Channel, BearerInterceptor>>;
pub(super) type MetaClient = AuthorityServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// A home and a database that outlive servers.
pub(super) struct Site {
    pub(super) home: Home,
    pub(super) db: TestDatabase,
    _dir: TempDir,
}

impl Site {
    pub(super) fn new(kind: Kind) -> Site {
        let dir = tempfile::tempdir().unwrap();
        // Tests may run with any umask; ours wants its directory private.
        let home = Home::at(dir.path().join("home"));
        flexfs_common::home::make_dir(&home.path("")).unwrap();
        Site { home, db: TestDatabase::new(kind), _dir: dir }
    }

    pub(super) fn pepper(&self) -> Pepper {
        Pepper::load_or_create(&self.home.path("admin/pepper")).unwrap()
    }

    /// Starts a server (one of several, with Postgres).
    pub(super) async fn start(&self) -> Running {
        self.start_with(true).await
    }

    pub(super) async fn start_with(&self, with_tls: bool) -> Running {
        tls::install_provider();
        let ssl = self.home.path("ssl");
        let ca = Arc::new(Ca::load_or_create(&ssl).unwrap());
        let own = ca.own_identity(&ssl).unwrap();
        let certificate =
            with_tls.then(|| ServerCertificate::from_pem(&own.chain, &own.key).unwrap());
        let server = Server::bind("127.0.0.1:0", certificate).await.unwrap();
        let address = server.address();
        let store = self.db.open().await;
        let peppers = Peppers::open(&self.home, &store).await.unwrap();
        let verify = Arc::new(Verify::new(store.clone(), peppers, CHEAP).unwrap());
        bootstrap::run(&self.home, &store, &verify).await.unwrap();
        let registry = Arc::new(Registry::default());
        let service = Arc::new(Service::new(store.clone(), verify, ca, registry));
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(poll::follow(store.clone(), stop.clone())),
            tokio::spawn(poll::load_known(store.clone(), stop.clone())),
            tokio::spawn(poll::write_back(Arc::clone(&service), stop.clone())),
            tokio::spawn(poll::purge(Arc::clone(&service), RETENTION, stop.clone())),
            tokio::spawn(server.serve(Arc::clone(&service), stop.clone())),
        ];
        let pem = std::fs::read_to_string(ssl.join("ca")).unwrap();
        let trust = if with_tls {
            Trust::Ca(tls::certificate_from_pem(&pem).unwrap())
        } else {
            Trust::Plaintext
        };
        let peer = Peer {
            address: address.to_string(),
            name: tls::ADMIN_NAME.to_owned(),
            trust,
            unreachable: Code::AdminUnreachable,
        };
        let root = bootstrap::read_token(&self.home).unwrap().unwrap();
        Running { address, store, service, peer, root, stop, tasks }
    }
}

/// A server that runs.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) store: Store,
    pub(super) service: Arc<Service>,
    pub(super) peer: Peer,
    pub(super) root: Token,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        self.store.close().await;
    }

    /// A claim code for a token of a volume.
    pub(super) async fn claim(&self, client: &mut Client, volume: &str) -> Token {
        let code = generate(TokenKind::Claim);
        let end = clock::wall_now().checked_add(Duration::from_secs(600)).unwrap();
        let request = v1::CreateVolumeTokenRequest {
            volume: volume.to_owned(),
            claim: Some(code.to_wire()),
            claim_expires_at: Some(wire::timestamp_to_wire(end)),
            ..Default::default()
        };
        client.create_volume_token(request).await.unwrap();
        code
    }

    pub(super) fn client(&self, token: &Token) -> Client {
        let channel = self.peer.channel().unwrap();
        AdminServiceClient::with_interceptor(channel, BearerInterceptor::new(token))
    }

    pub(super) fn system(&self) -> Client {
        self.client(&self.root)
    }

    pub(super) fn meta(&self, token: &Token) -> MetaClient {
        let channel = self.peer.channel().unwrap();
        AuthorityServiceClient::with_interceptor(channel, BearerInterceptor::new(token))
    }

    /// A tenant with its owner token.
    pub(super) async fn account(&self, name: &str) -> Tenant {
        let owner = generate(TokenKind::Account);
        let request = v1::CreateAccountRequest {
            name: name.into(),
            email: String::new(),
            owner_token: Some(owner.to_wire()),
        };
        let reply = self.system().create_account(request).await.unwrap().into_inner();
        Tenant { id: reply.account.unwrap().id, owner }
    }

    /// A meta store and its token.
    pub(super) async fn meta_store(&self, id: &str) -> Token {
        let token = generate(TokenKind::Meta);
        let request = v1::CreateMetaStoreRequest {
            id: id.into(),
            address: "127.0.0.1:7410".into(),
            meta_token: Some(token.to_wire()),
        };
        self.system().create_meta_store(request).await.unwrap();
        token
    }

    pub(super) async fn block_store(&self, id: &str) {
        let store = v1::BlockStore {
            id: id.into(),
            kind: "dir".into(),
            location: "/srv/blocks".into(),
            ..v1::BlockStore::default()
        };
        let request = v1::CreateBlockStoreRequest { block_store: Some(store) };
        self.system().create_block_store(request).await.unwrap();
    }

    /// Meta store `m1`, block store `b1`; gives the meta token.
    pub(super) async fn stores(&self) -> Token {
        self.block_store("b1").await;
        self.meta_store("m1").await
    }

    /// An account token of this role.
    pub(super) async fn account_token(&self, account: &str, role: &str) -> Token {
        let token = generate(TokenKind::Account);
        let request = v1::CreateAccountTokenRequest {
            token: Some(token.to_wire()),
            account_id: account.into(),
            role: role.into(),
            ..v1::CreateAccountTokenRequest::default()
        };
        self.system().create_account_token(request).await.unwrap();
        token
    }

    /// Registers a server with a new key.
    pub(super) async fn register(&self, meta: &Token, server: ServerId) -> v1::RegisterServerReply {
        let request = registration(server);
        self.meta(meta).register_server(request).await.unwrap().into_inner()
    }
}

/// A request to register, with a key of its own.
pub(super) fn registration(server: ServerId) -> v1::RegisterServerRequest {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec![]).unwrap().serialize_request(&key).unwrap();
    v1::RegisterServerRequest {
        server_id: server.to_string(),
        version: "0.0.0".into(),
        certificate_request: request.der().to_vec(),
        listen_address: String::new(),
    }
}

/// An account and its owner token.
pub(super) struct Tenant {
    pub(super) id: String,
    pub(super) owner: Token,
}

pub(super) fn generate(kind: TokenKind) -> Token {
    Token::generate(kind).unwrap()
}

/// A volume in `m1` and `b1`, with a token.
pub(super) fn new_volume(name: &str, token: Option<&Token>) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest {
        volume: Some(v1::Volume {
            name: name.into(),
            meta_store_id: "m1".into(),
            block_store_id: "b1".into(),
            ..v1::Volume::default()
        }),
        volume_token: token.map(Token::to_wire),
    }
}

/// Makes a volume with a token; gives the volume and the token.
pub(super) async fn make_volume(client: &mut Client, name: &str) -> (v1::Volume, Token) {
    let token = generate(TokenKind::Volume);
    let reply = client.create_volume(new_volume(name, Some(&token))).await.unwrap().into_inner();
    (reply.volume.unwrap(), token)
}

pub(super) fn by_id(id: impl ToString) -> v1::GetRequest {
    v1::GetRequest { id: id.to_string(), account_id: String::new() }
}

pub(super) fn delete(id: impl ToString) -> v1::DeleteRequest {
    v1::DeleteRequest { id: id.to_string(), account_id: String::new() }
}

pub(super) fn revoke(kind: &str, id: impl ToString) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest {
        kind: kind.into(),
        id: id.to_string(),
        ..v1::RevokeTokenRequest::default()
    }
}

/// The code of a refusal.
pub(super) fn code<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Code {
    error(result).code()
}

pub(super) fn error<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Error {
    status::from_status(&result.unwrap_err(), Code::AdminUnreachable)
}

/// The same token with another secret.
pub(super) fn again(token: &Token) -> Token {
    Token::generate_for(token.kind(), token.id()).unwrap()
}

/// Is this token accepted?
pub(super) async fn used(admin: &Running, token: &Token) -> Result<(), Code> {
    match admin.client(token).who_am_i(v1::WhoAmIRequest {}).await {
        Ok(_) => Ok(()),
        Err(status) => Err(code(Err::<(), _>(status))),
    }
}
