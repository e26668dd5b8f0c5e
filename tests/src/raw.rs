//! A client of the raw protocol that obeys nothing: what an attacker with a
//! valid token and a program of their own can send.

use aws_lc_rs::hmac;
use bytes::BytesMut;
use flexfs_auth::bearer::BearerInterceptor;
use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::tls::{self, Peer, Stream, Trust};
use flexfs_common::{Code, Error, Result, limits, protocol, status};
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use flexfs_proto::v1::meta_service_client::MetaServiceClient;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply::Result as Answer;
use flexfs_proto::v1::{
    Attr, Caller, Challenge, ClientFrame, Cut, DescribeMountRequest, Entry, ExtentMap, FileKind,
    Heartbeat, Lookup, Make, MintObjects, MintedObject, Op, Open, OpenSessionReply,
    OpenSessionRequest, ReadExtents, Resume, Resumed, ServerFrame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::cluster::{Cluster, Token};

/// How long an answer may take.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(20);

/// Runs an attack.
///
/// # Panics
/// When there is no runtime.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// A client of admin's service.
pub type Admin = AdminServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// admin's service, called as `system`: without the time that a command takes
/// to start.
///
/// # Errors
/// When the cluster's files cannot be read.
pub fn system(cluster: &Cluster) -> Result<Admin> {
    let text = std::fs::read_to_string(cluster.home().join("admin/root.token"))
        .map_err(|e| Error::new(Code::ConfigInvalid, "admin/root.token").caused_by(e))?;
    let token = flexfs_auth::token::Token::parse(text.trim_end())?;
    let bearer = BearerInterceptor::new(&token);
    Ok(AdminServiceClient::with_interceptor(admin_peer(cluster)?.channel()?, bearer))
}

fn admin_peer(cluster: &Cluster) -> Result<Peer> {
    let ca = std::fs::read_to_string(cluster.home().join("ssl/ca"))
        .map_err(|e| Error::new(Code::ConfigInvalid, "ssl/ca").caused_by(e))?;
    Ok(Peer {
        address: cluster.admin_address().to_owned(),
        name: tls::ADMIN_NAME.to_owned(),
        trust: Trust::Ca(tls::certificate_from_pem(&ca)?),
        unreachable: Code::AdminUnreachable,
    })
}

/// A session, opened with a token.
#[derive(Clone, Debug)]
pub struct RawSession {
    /// What meta granted.
    pub reply: OpenSessionReply,
    peer: Peer,
}

impl RawSession {
    /// Opens a session of a volume, asking for nothing special.
    ///
    /// # Errors
    /// What admin or meta says.
    pub async fn open(cluster: &Cluster, volume: &str, token: &Token) -> Result<RawSession> {
        RawSession::open_as(cluster, volume, token, |_| ()).await
    }

    /// Opens a session with a changed request.
    ///
    /// # Errors
    /// What admin or meta says.
    pub async fn open_as(
        cluster: &Cluster,
        volume: &str,
        token: &Token,
        change: impl FnOnce(&mut OpenSessionRequest),
    ) -> Result<RawSession> {
        let token = flexfs_auth::token::Token::parse(&token.text())?;
        let admin = admin_peer(cluster)?;
        let trust = admin.trust.clone();
        let bearer = BearerInterceptor::new(&token);
        let mut client = AdminServiceClient::with_interceptor(admin.channel()?, bearer);
        let described = client
            .describe_mount(DescribeMountRequest { volume: volume.to_owned() })
            .await
            .map_err(|e| status::from_status(&e, Code::AdminUnreachable))?
            .into_inner();
        let server = described
            .meta_server_id
            .parse()
            .map_err(|_| Error::new(Code::ProtocolInvalid, "meta_server_id"))?;
        let peer = Peer {
            address: described.meta_address,
            name: tls::meta_name(server),
            trust,
            unreachable: Code::MetaUnreachable,
        };
        let mut request = open_request(volume);
        change(&mut request);
        RawSession::open_at(peer, &token, request).await
    }

    /// Opens one more session of the same server, as a client does that has
    /// kept its address: without a word to admin.
    ///
    /// # Errors
    /// What meta says.
    pub async fn open_again(&self, volume: &str, token: &Token) -> Result<RawSession> {
        let token = flexfs_auth::token::Token::parse(&token.text())?;
        RawSession::open_at(self.peer.clone(), &token, open_request(volume)).await
    }

    async fn open_at(
        peer: Peer,
        token: &flexfs_auth::token::Token,
        request: OpenSessionRequest,
    ) -> Result<RawSession> {
        let bearer = BearerInterceptor::new(token);
        let mut client = MetaServiceClient::with_interceptor(peer.channel()?, bearer);
        let reply = client
            .open_session(request)
            .await
            .map_err(|e| status::from_status(&e, Code::MetaUnreachable))?
            .into_inner();
        Ok(RawSession { reply, peer })
    }

    /// A connection without any proof yet, and its challenge.
    ///
    /// # Errors
    /// When there is none.
    pub async fn challenge(&self) -> Result<(RawConnection, Challenge)> {
        let stream = self.peer.connect(frame::ALPN).await?;
        let exporter = stream.exporter()?;
        let (reader, writer) = tokio::io::split(stream);
        let mut connection = RawConnection {
            reader: FrameReader::new(reader, FrameKind::Server),
            writer,
            exporter,
            next_request: 1,
            sequence: 0,
            cut: None,
        };
        let frame = connection.read().await?;
        let challenge = frame.challenge.ok_or_else(|| unexpected("no challenge"))?;
        Ok((connection, challenge))
    }

    /// Connects and proves the session's key.
    ///
    /// # Errors
    /// What meta refuses it with.
    pub async fn connect(&self) -> Result<RawConnection> {
        let (mut connection, challenge) = self.challenge().await?;
        let proof = self.proof(&connection, &challenge.nonce);
        connection.resume(&self.reply.session_id, proof).await?;
        Ok(connection)
    }

    /// HMAC-SHA-256(key, domain || session id || nonce || exporter).
    #[must_use]
    pub fn proof(&self, connection: &RawConnection, nonce: &[u8]) -> Vec<u8> {
        let secret = self.reply.session_key.as_ref().map(|key| key.value.clone());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.unwrap_or_default());
        let mut context = hmac::Context::with_key(&key);
        let parts = [protocol::RESUME_DOMAIN, &self.reply.session_id, nonce, &connection.exporter];
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().to_vec()
    }

    /// One HTTP/1.1 request to the block endpoint: the status and the body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn fetch(&self, method: &str, url: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let broken = |e: std::io::Error| Error::new(Code::MetaUnreachable, "HTTP").caused_by(e);
        let mut stream = self.peer.connect(b"http/1.1").await?;
        let head = format!(
            "{method} {url} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.peer.name,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.map_err(broken)?;
        // A server that refuses does not wait for the body.
        let _ = stream.write_all(body).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(ANSWER, stream.read_to_end(&mut answer)).await;
        let read = read.map_err(|_| Error::bare(Code::DeadlineExceeded))?;
        // A connection that ends roughly after its answer has answered.
        if let (Err(error), true) = (read, answer.is_empty()) {
            return Err(broken(error));
        }
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.ok_or_else(|| unexpected("no HTTP answer"))?;
        let line = String::from_utf8_lossy(answer.get(..12).unwrap_or_default()).into_owned();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.get(end + 4..).unwrap_or_default().to_vec();
        Ok((status.ok_or_else(|| unexpected(&line))?, body))
    }

    /// The handle of the session's root.
    #[must_use]
    pub fn root(&self) -> Vec<u8> {
        self.reply.root_handle.clone()
    }
}

fn open_request(volume: &str) -> OpenSessionRequest {
    OpenSessionRequest {
        volume: volume.to_owned(),
        protocol_min: protocol::VERSION_MIN,
        protocol_max: protocol::VERSION,
        // It keeps nothing, so that nobody has to wait for it.
        features: Vec::new(),
        honours: ["noExec", "noSUID", "noDev", "noATime"].map(str::to_owned).to_vec(),
        host_name: "attacker".to_owned(),
        client_version: "raw".to_owned(),
        dir: "/".to_owned(),
        ..OpenSessionRequest::default()
    }
}

/// A connection for operations.
#[derive(Debug)]
pub struct RawConnection {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
    exporter: [u8; protocol::EXPORTER_LEN],
    next_request: u64,
    sequence: u64,
    /// The session was cut, and why.
    pub cut: Option<Cut>,
}

impl RawConnection {
    /// Sends a proof.
    ///
    /// # Errors
    /// What meta refuses it with.
    pub async fn resume(&mut self, session: &[u8], proof: Vec<u8>) -> Result<Resumed> {
        let session_id = session.to_vec();
        let resume = Resume { session_id, proof, protocol_version: protocol::VERSION };
        self.send(&ClientFrame { resume: Some(resume), ..ClientFrame::default() }).await?;
        let frame = self.read().await?;
        let resumed = frame.resumed.ok_or_else(|| unexpected("not resumed"))?;
        self.sequence = resumed.slot_sequences.first().copied().unwrap_or(0);
        Ok(resumed)
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, frame: &ClientFrame) -> Result<()> {
        let mut bytes = BytesMut::new();
        frame::encode(FrameKind::Client, frame, &mut bytes)?;
        let sent = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        };
        sent.await.map_err(|e| Error::new(Code::MetaUnreachable, "sending").caused_by(e))
    }

    /// The next frame.
    ///
    /// # Errors
    /// `META_UNREACHABLE` when the connection ends, `DEADLINE_EXCEEDED` when
    /// nothing comes, and what meta refuses with.
    pub async fn read(&mut self) -> Result<ServerFrame> {
        let frame: Option<ServerFrame> = tokio::time::timeout(ANSWER, self.reader.next())
            .await
            .map_err(|_| Error::bare(Code::DeadlineExceeded))??;
        let frame = frame.ok_or_else(|| Error::new(Code::MetaUnreachable, "closed"))?;
        if let Some(cut) = &frame.cut {
            self.cut = Some(cut.clone());
        }
        match &frame.refused {
            Some(detail) => Err(flexfs_common::wire::error_from_detail(detail)?),
            None => Ok(frame),
        }
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn heartbeat(&mut self) -> Result<()> {
        let heartbeat = Some(Heartbeat { number: self.next_request });
        self.send(&ClientFrame { heartbeat, ..ClientFrame::default() }).await
    }

    /// One operation that changes nothing, as root.
    ///
    /// # Errors
    /// The operation's own, or the connection's.
    pub async fn ask(&mut self, body: Body) -> Result<Answer> {
        self.perform(body, 0).await
    }

    /// One mutation on slot 0, as root.
    ///
    /// # Errors
    /// The operation's own, or the connection's.
    pub async fn change(&mut self, body: Body) -> Result<Answer> {
        self.sequence += 1;
        self.perform(body, self.sequence).await
    }

    /// One operation with this sequence on slot 0.
    ///
    /// # Errors
    /// The operation's own, or the connection's.
    pub async fn perform(&mut self, body: Body, sequence: u64) -> Result<Answer> {
        let request_id = self.next_request;
        self.next_request += 1;
        let op = Op {
            request_id,
            slot: 0,
            sequence,
            caller: Some(Caller { umask: 0o022, ..Caller::default() }),
            body: Some(body),
        };
        self.send(&ClientFrame { ops: vec![op], ..ClientFrame::default() }).await?;
        loop {
            let frame = self.read().await?;
            for reply in frame.replies {
                if reply.request_id == request_id {
                    return match reply.result.ok_or_else(|| unexpected("an empty reply"))? {
                        Answer::Error(detail) => {
                            Err(flexfs_common::wire::error_from_detail(&detail)?)
                        }
                        answer => Ok(answer),
                    };
                }
            }
            if let Some(cut) = &self.cut {
                let detail = cut.reason.clone().unwrap_or_default();
                return Err(flexfs_common::wire::error_from_detail(&detail)?);
            }
        }
    }

    /// Mutations in order, as root, many in one frame, each on a slot of its
    /// own. To be used on its own: the sequences of all slots go up together.
    ///
    /// # Errors
    /// The first one's, or the connection's.
    pub async fn change_all(&mut self, mut bodies: impl Iterator<Item = Body>) -> Result<()> {
        loop {
            self.sequence += 1;
            let first = self.next_request;
            let frame: Vec<Op> = (0..limits::SLOT_COUNT)
                .zip(bodies.by_ref())
                .map(|(slot, body)| Op {
                    request_id: first + u64::from(slot),
                    slot,
                    sequence: self.sequence,
                    caller: Some(Caller { umask: 0o022, ..Caller::default() }),
                    body: Some(body),
                })
                .collect();
            let mut awaited = frame.len();
            if awaited == 0 {
                return Ok(());
            }
            self.next_request += u64::from(limits::SLOT_COUNT);
            self.send(&ClientFrame { ops: frame, ..ClientFrame::default() }).await?;
            while awaited > 0 {
                for reply in self.read().await?.replies {
                    if let Some(Answer::Error(detail)) = reply.result {
                        return Err(flexfs_common::wire::error_from_detail(&detail)?);
                    }
                    awaited -= 1;
                }
            }
        }
    }

    /// Looks a name up.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn lookup(&mut self, parent: &[u8], name: &[u8]) -> Result<Entry> {
        let body = Lookup { parent: parent.to_vec(), name: name.to_vec() };
        entry(self.ask(Body::Lookup(body)).await?)
    }

    /// Makes a file or directory.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn make(&mut self, parent: &[u8], name: &[u8], kind: FileKind) -> Result<Entry> {
        let body = Make {
            parent: parent.to_vec(),
            name: name.to_vec(),
            kind: kind.into(),
            mode: 0o755,
            exclusive: true,
            ..Make::default()
        };
        entry(self.change(Body::Make(body)).await?)
    }

    /// Where the bytes of a file are.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn extents(&mut self, handle: &[u8]) -> Result<ExtentMap> {
        let body = ReadExtents {
            handle: handle.to_vec(),
            offset: 0,
            length: 1 << 30,
            ..Default::default()
        };
        match self.ask(Body::ReadExtents(body)).await? {
            Answer::Extents(map) => Ok(map),
            other => Err(unexpected(&format!("{other:?}"))),
        }
    }

    /// A key for a new object, with its URL.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn mint(&mut self, size_limit: u32) -> Result<MintedObject> {
        let body = MintObjects { count: 1, size_limit };
        match self.change(Body::MintObjects(body)).await? {
            Answer::Minted(minted) => {
                minted.objects.into_iter().next().ok_or_else(|| unexpected("nothing minted"))
            }
            other => Err(unexpected(&format!("{other:?}"))),
        }
    }

    /// Opens a file with open(2) flags.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn open(&mut self, handle: &[u8], flags: u32) -> Result<u64> {
        let body = Open { handle: handle.to_vec(), flags };
        match self.change(Body::Open(body)).await? {
            Answer::Opened(opened) => Ok(opened.open_id),
            other => Err(unexpected(&format!("{other:?}"))),
        }
    }
}

/// The entry in an answer.
///
/// # Errors
/// When it is another.
pub fn entry(answer: Answer) -> Result<Entry> {
    match answer {
        Answer::Entry(entry) => Ok(entry),
        other => Err(unexpected(&format!("{other:?}"))),
    }
}

/// The attributes in an answer.
///
/// # Errors
/// When it is another.
pub fn attr(answer: Answer) -> Result<Attr> {
    match answer {
        Answer::Attr(attr) => Ok(attr),
        other => Err(unexpected(&format!("{other:?}"))),
    }
}

fn unexpected(what: &str) -> Error {
    Error::new(Code::ProtocolInvalid, format!("unexpected: {what}"))
}
