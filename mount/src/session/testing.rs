//! `LoopbackMeta`: an in-process server that speaks the real protocol (gRPC,
//! operations in frames, simulated object endpoint, one port) and keeps a
//! volume in memory, with switches for what goes wrong in real life.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::frame;
use flexfs_common::ids::{ObjectId, ServerId, SessionId};
use flexfs_common::tls::{self, Peer, ServerCertificate, Stream, Trust};
use flexfs_common::{Code, limits, protocol};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_service_server::{MetaService, MetaServiceServer};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status};

use super::{MetaSession, SessionConfig, SessionEvent};

mod frames;
mod objects;
mod ops;

/// A regular file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) attr: v1::Attr,
    pub(crate) data_change: u64,
    pub(crate) inline: Option<Vec<u8>>,
    /// By file offset; not overlapping.
    pub(crate) extents: BTreeMap<u64, v1::Extent>,
}

/// What the server keeps, and its switches.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) files: HashMap<u64, File>,
    pub(crate) objects: HashMap<ObjectId, bytes::Bytes>,
    pub(crate) minted: HashSet<ObjectId>,
    next: u64,
    /// Per session, the last mutation of each slot.
    slots: HashMap<SessionId, HashMap<u32, (u64, v1::Reply)>>,
    generation: u64,
    /// Names of SetXattr in the order in which they were carried out.
    pub(crate) journal: Vec<Vec<u8>>,
    /// Operations by kind, as received.
    pub(crate) counts: HashMap<&'static str, usize>,
    /// Range headers of object GETs, and number of PUTs.
    pub(crate) gets: Vec<Option<String>>,
    pub(crate) puts: usize,
    /// Break the connection after carrying out so many more operations.
    pub(crate) break_after: Option<usize>,
    /// Fail the next commits with these.
    pub(crate) commit_failures: Vec<Code>,
    /// Answer the next object requests with these statuses.
    pub(crate) http_failures: Vec<u16>,
    /// Signed URLs issued before this number are refused.
    pub(crate) urls_from: u64,
    urls: u64,
    lock_holder: Option<u64>,
    cancelled: Vec<u64>,
    pub(crate) recalls_done: Vec<u64>,
    pub(crate) cut_acknowledged: bool,
    pub(crate) goodbyes: usize,
    pub(crate) refuse_with: Option<Code>,
    /// What sessions may live from: texts of tokens.
    pub(crate) secrets: Vec<String>,
    /// Those that came by reauthentication, in order, refused or not.
    pub(crate) offered: Vec<String>,
    /// Refuse the next of them with these.
    pub(crate) offer_failures: Vec<Code>,
    /// Break the connection after the next of them.
    pub(crate) lose_offer_answer: bool,
    /// Grants the right to buffer writes no longer; `passed_on`: to none of
    /// before either.
    pub(crate) keeps_write_rights: bool,
    pub(crate) passed_on: bool,
}

/// The number of the right to buffer writes that this server grants.
pub(crate) const WRITE_RIGHT: u64 = 7;

impl World {
    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// Sizes of the volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) block_size: u32,
    pub(crate) inline_max: u32,
    pub(crate) lease_millis: u32,
    pub(crate) slot_count: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            block_size: limits::BLOCK_SIZE_MIN,
            inline_max: limits::INLINE_MAX,
            lease_millis: 10_000,
            slot_count: limits::SLOT_COUNT,
        }
    }
}

/// The server.
#[derive(Debug)]
pub(crate) struct LoopbackMeta {
    pub(crate) world: Mutex<World>,
    pub(crate) sizes: Sizes,
    /// The first secret of the volume's token.
    pub(crate) token: Token,
    key: [u8; 32],
    tls: Option<Arc<rustls::ServerConfig>>,
    address: String,
    name: String,
    trust: Trust,
    /// Heartbeats and operations are left unread while true.
    pub(crate) paused: watch::Sender<bool>,
    /// Rises: every connection breaks.
    pub(crate) broken: watch::Sender<u64>,
    /// Told on every connection.
    pub(crate) told: tokio::sync::broadcast::Sender<v1::ServerFrame>,
    unlocked: tokio::sync::Notify,
}

impl LoopbackMeta {
    /// Starts a server without TLS.
    pub(crate) async fn start(sizes: Sizes) -> Arc<LoopbackMeta> {
        LoopbackMeta::serve(sizes, None).await
    }

    /// Starts a server that is proven by a CA of its own.
    pub(crate) async fn start_tls(sizes: Sizes) -> Arc<LoopbackMeta> {
        LoopbackMeta::serve(sizes, Some(certificate())).await
    }

    async fn serve(sizes: Sizes, tls: Option<Certified>) -> Arc<LoopbackMeta> {
        tls::install_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut key = [0; 32];
        getrandom::fill(&mut key).unwrap();
        let token = Token::generate(TokenKind::Volume).unwrap();
        let (config, name, trust) = match tls {
            Some(certified) => {
                let protocols: [&[u8]; 3] = [frame::ALPN, b"h2", b"http/1.1"];
                let config = tls::server_config(certified.certificate, &protocols);
                (Some(config), certified.name, Trust::Ca(certified.ca))
            }
            None => (None, "loopback".to_owned(), Trust::Plaintext),
        };
        let server = Arc::new(LoopbackMeta {
            world: Mutex::new(World {
                secrets: vec![token.reveal().to_owned()],
                ..World::default()
            }),
            sizes,
            token,
            key,
            tls: config,
            address: listener.local_addr().unwrap().to_string(),
            name,
            trust,
            paused: watch::Sender::new(false),
            broken: watch::Sender::new(0),
            told: tokio::sync::broadcast::Sender::new(16),
            unlocked: tokio::sync::Notify::new(),
        });
        let (grpc, incoming) = mpsc::channel::<Result<Stream, std::io::Error>>(16);
        let service = MetaServiceServer::from_arc(Arc::clone(&server));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)),
        );
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(dispatch(Arc::clone(&accepting), tcp, grpc.clone()));
            }
        });
        server
    }

    /// A session with it.
    pub(crate) async fn mount(
        &self,
        wait_limit: Duration,
    ) -> (Arc<MetaSession>, mpsc::Receiver<SessionEvent>) {
        let config = SessionConfig {
            meta: Peer {
                address: self.address.clone(),
                name: self.name.clone(),
                trust: self.trust.clone(),
                unreachable: Code::MetaUnreachable,
            },
            volume: "v".into(),
            token: self.token.to_wire(),
            requested: v1::Flags::default(),
            dir: "/mnt".into(),
            wait_limit,
        };
        MetaSession::open(config).await.unwrap()
    }

    /// A new empty file.
    pub(crate) fn create(&self) -> v1::Attr {
        let mut world = self.world.lock();
        let ino = world.fresh() + 100;
        let attr = v1::Attr {
            ino,
            kind: v1::FileKind::Regular.into(),
            mode: 0o644,
            nlink: 1,
            change: 1,
            ..v1::Attr::default()
        };
        world.files.insert(ino, File { attr, data_change: 1, ..File::default() });
        attr
    }

    /// Contents as another mount would see them.
    pub(crate) fn contents(&self, ino: u64) -> Vec<u8> {
        let world = self.world.lock();
        let file = &world.files[&ino];
        let mut out = vec![0; usize::try_from(file.attr.size).unwrap()];
        if let Some(inline) = &file.inline {
            out[..inline.len()].copy_from_slice(inline);
        }
        for (at, extent) in &file.extents {
            let id = ObjectId::from_slice(&extent.object_id).unwrap();
            let plain_len = u32::try_from(extent.object_length).unwrap();
            let plain =
                crate::codec::ObjectHead::decode_object(id, world.objects[&id].clone(), plain_len);
            let plain = plain.unwrap();
            let from = usize::try_from(extent.object_offset).unwrap();
            let to = usize::try_from(*at).unwrap();
            let length = usize::try_from(extent.length).unwrap();
            out[to..to + length].copy_from_slice(&plain[from..from + length]);
        }
        out
    }

    pub(crate) fn attr(&self, ino: u64) -> v1::Attr {
        self.world.lock().files[&ino].attr
    }

    pub(crate) fn counted(&self, what: &str) -> usize {
        self.world.lock().counts.get(what).copied().unwrap_or(0)
    }

    /// Another secret of the token, accepted from now on.
    pub(crate) fn rotate(&self) -> Token {
        let token = Token::generate_for(TokenKind::Volume, self.token.id()).unwrap();
        self.world.lock().secrets.push(token.reveal().to_owned());
        token
    }

    /// Tells every session that these flags are in force.
    pub(crate) fn change_flags(&self, flags: v1::Flags) {
        let frame = v1::ServerFrame { flags_changed: Some(flags), ..Default::default() };
        self.told.send(frame).unwrap();
    }

    /// Breaks every connection.
    pub(crate) fn break_connections(&self) {
        self.broken.send_modify(|number| *number += 1);
    }

    fn opened(&self) -> v1::OpenSessionReply {
        let id = SessionId::random();
        self.world.lock().slots.insert(id, HashMap::new());
        v1::OpenSessionReply {
            session_id: id.as_bytes().to_vec(),
            session_key: Some(v1::SecretBytes { value: self.key.to_vec() }),
            protocol_version: 1,
            root_handle: vec![1],
            root_attr: Some(v1::Attr::default()),
            lease_millis: self.sizes.lease_millis,
            slot_count: self.sizes.slot_count,
            max_frame_bytes: limits::OPS_FRAME_MAX_LEN,
            max_in_flight: limits::OPS_IN_FLIGHT_MAX,
            inline_max: self.sizes.inline_max,
            block_size: self.sizes.block_size,
            compression: "lz4".into(),
            token_id: self.token.id().to_string(),
            features: protocol::FEATURES.iter().map(|name| (*name).to_owned()).collect(),
            ..v1::OpenSessionReply::default()
        }
    }
}

#[tonic::async_trait]
impl MetaService for LoopbackMeta {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionReply>, Status> {
        let token = flexfs_auth::bearer::token_of(request.metadata())?;
        if !self.world.lock().secrets.iter().any(|secret| secret == token.reveal()) {
            return Err(flexfs_common::Error::bare(Code::TokenUnknown).into());
        }
        Ok(Response::new(self.opened()))
    }
}

/// One port for everything, as the real server has it.
async fn dispatch(
    server: Arc<LoopbackMeta>,
    tcp: TcpStream,
    grpc: mpsc::Sender<Result<Stream, std::io::Error>>,
) {
    let Some(config) = server.tls.clone() else {
        let mut first = [0; 8];
        while tcp.peek(&mut first).await.unwrap_or(0) < 8 {
            tokio::task::yield_now().await;
        }
        let stream = Stream::plain(tcp);
        return match &first {
            frame::PREFACE => frames::serve(server, stream, true).await,
            b"PRI * HT" => drop(grpc.send(Ok(stream)).await),
            _ => objects::serve(server, stream).await,
        };
    };
    let Ok(accepted) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await else { return };
    let stream = Stream::server(accepted);
    match stream.alpn() {
        Some(frame::ALPN) => frames::serve(server, stream, false).await,
        Some(b"h2") => drop(grpc.send(Ok(stream)).await),
        _ => objects::serve(server, stream).await,
    }
}

struct Certified {
    certificate: Arc<ServerCertificate>,
    ca: rustls::pki_types::CertificateDer<'static>,
    name: String,
}

fn certificate() -> Certified {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let name = tls::meta_name(ServerId::random());
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.clone()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    let chain = format!("{}{}", leaf.pem(), ca.pem());
    let certificate = ServerCertificate::from_pem(&chain, &key.serialize_pem()).unwrap();
    Certified { certificate, ca: ca.der().clone(), name }
}
