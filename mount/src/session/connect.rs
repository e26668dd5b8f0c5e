//! Opening a session by gRPC, and proving it on an operations connection.

use std::sync::Arc;

use aws_lc_rs::hmac;
use flexfs_common::clock::BootTime;
use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::ids::SessionId;
use flexfs_common::tls::{Peer, Stream, Trust};
use flexfs_common::{Code, Error, Result, limits, protocol, status, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_service_client::MetaServiceClient;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use zeroize::{Zeroize, Zeroizing};

use super::{SessionConfig, Shared};

/// Restrictions that this client applies in its kernel or passes on.
const HONOURS: [&str; 7] =
    ["ro", "noExec", "noSUID", "noDev", "noATime", "rootSquash", "allSquash"];
/// Bytes of a session key and of a challenge's nonce.
const KEY_LEN: usize = 32;

/// The session's secret.
pub(super) type Key = Zeroizing<[u8; KEY_LEN]>;

/// A connection on which the session is proven.
pub(super) struct Link {
    pub(super) reader: FrameReader<ReadHalf<Stream>>,
    pub(super) writer: WriteHalf<Stream>,
}

/// Asks meta for a session.
pub(super) async fn open_session(
    config: &mut SessionConfig,
) -> Result<(v1::OpenSessionReply, SessionId, Key)> {
    let unreachable = config.meta.unreachable;
    let mut client = MetaServiceClient::new(config.meta.channel()?);
    let mut request = tonic::Request::new(v1::OpenSessionRequest {
        volume: config.volume.clone(),
        protocol_min: protocol::VERSION_MIN,
        protocol_max: protocol::VERSION,
        features: protocol::FEATURES.iter().map(|name| (*name).to_owned()).collect(),
        requested: Some(config.requested),
        honours: HONOURS.iter().map(|name| (*name).to_owned()).collect(),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        dir: config.dir.clone(),
    });
    request.set_timeout(limits::CALL);
    let bearer = Zeroizing::new(format!("Bearer {}", config.token.value));
    config.token.value.zeroize();
    let mut header: tonic::metadata::AsciiMetadataValue =
        bearer.parse().map_err(|_| Error::bare(Code::TokenMalformed))?;
    header.set_sensitive(true);
    request.metadata_mut().insert("authorization", header);
    let call = tokio::time::timeout(limits::CALL, client.open_session(request));
    let mut reply = call
        .await
        .map_err(|_| Error::new(unreachable, "meta did not open the session in time"))?
        .map_err(|refusal| status::from_status(&refusal, unreachable))?
        .into_inner();
    let key = take_key(&mut reply)?;
    let id = check_grant(&mut reply)?;
    Ok((reply, id, key))
}

/// Moves the key out of the reply, so that it lies in one place only.
fn take_key(reply: &mut v1::OpenSessionReply) -> Result<Key> {
    let invalid = || Error::new(Code::ProtocolInvalid, "a session without a key of 32 bytes");
    let mut sent = reply.session_key.take().ok_or_else(invalid)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let fits = sent.value.len() == KEY_LEN;
    if fits {
        key.copy_from_slice(&sent.value);
    }
    sent.value.zeroize();
    if fits { Ok(key) } else { Err(invalid()) }
}

/// Refuses a grant this client cannot work with; bounds what it uses.
fn check_grant(reply: &mut v1::OpenSessionReply) -> Result<SessionId> {
    let invalid = |what: &str| Error::new(Code::ProtocolInvalid, format!("a session with {what}"));
    if !(protocol::VERSION_MIN..=protocol::VERSION).contains(&reply.protocol_version) {
        return Err(Error::bare(Code::ProtocolVersion));
    }
    let id: [u8; 16] =
        reply.session_id.as_slice().try_into().map_err(|_| invalid("an id of another length"))?;
    if reply.root_handle.is_empty() || reply.root_attr.is_none() {
        return Err(invalid("no root"));
    }
    if reply.lease_millis == 0 || reply.slot_count == 0 || reply.max_in_flight == 0 {
        return Err(invalid("no lease or no slots"));
    }
    if !(limits::BLOCK_SIZE_MIN..=limits::BLOCK_SIZE_MAX).contains(&reply.block_size) {
        return Err(invalid("a block size out of range"));
    }
    reply.slot_count = reply.slot_count.min(limits::SLOT_COUNT);
    reply.max_in_flight = reply.max_in_flight.min(limits::OPS_IN_FLIGHT_MAX);
    reply.max_frame_bytes = match reply.max_frame_bytes {
        0 => limits::OPS_FRAME_MAX_LEN,
        other => other.min(limits::OPS_FRAME_MAX_LEN),
    };
    reply.inline_max = reply.inline_max.min(limits::INLINE_MAX);
    if reply.max_frame_bytes < 64 * 1024 {
        return Err(invalid("frames below 64 KiB"));
    }
    Ok(SessionId::from_bytes(id))
}

/// Connects and proves the session. What is unanswered is queued again.
///
/// # Errors
/// Meta's refusal; its `unreachable`; `PROTOCOL_INVALID`.
pub(super) async fn connect(shared: &Arc<Shared>) -> Result<Link> {
    let proven = tokio::time::timeout(limits::HANDSHAKE, prove(shared));
    proven.await.map_err(|_| {
        Error::new(shared.peer.unreachable, "meta did not take the session up in time")
    })?
}

async fn prove(shared: &Arc<Shared>) -> Result<Link> {
    let mut stream = shared.peer.connect(frame::ALPN).await?;
    if matches!(shared.peer.trust, Trust::Plaintext) {
        stream.write_all(frame::PREFACE).await.map_err(|e| broken(&shared.peer, e))?;
    } else if stream.alpn() != Some(frame::ALPN) {
        return Err(Error::new(Code::ProtocolVersion, "the server offers no operations here"));
    }
    let exporter = Zeroizing::new(stream.exporter()?);
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, FrameKind::Server);
    let challenge = match next(shared, &mut reader).await? {
        v1::ServerFrame { challenge: Some(challenge), .. } => challenge,
        _ => return Err(Error::new(Code::ProtocolInvalid, "no challenge")),
    };
    if challenge.nonce.len() != KEY_LEN {
        return Err(Error::new(Code::ProtocolInvalid, "a nonce of another length"));
    }
    let resume = v1::Resume {
        session_id: shared.id.as_bytes().to_vec(),
        proof: proof(&shared.key, shared.id, &challenge.nonce, exporter.as_slice()),
        protocol_version: challenge.protocol_version.min(protocol::VERSION),
    };
    let mut bytes = bytes::BytesMut::new();
    let frame = v1::ClientFrame { resume: Some(resume), ..v1::ClientFrame::default() };
    frame::encode(FrameKind::Client, &frame, &mut bytes)?;
    let sent = BootTime::now();
    writer.write_all(&bytes).await.map_err(|e| broken(&shared.peer, e))?;
    writer.flush().await.map_err(|e| broken(&shared.peer, e))?;
    match next(shared, &mut reader).await? {
        v1::ServerFrame { resumed: Some(resumed), .. } => {
            shared.resumed(sent, &resumed);
            Ok(Link { reader, writer })
        }
        _ => Err(Error::new(Code::ProtocolInvalid, "neither resumed nor refused")),
    }
}

/// The next frame of the handshake; a refusal or a cut is its error.
async fn next(
    shared: &Arc<Shared>,
    reader: &mut FrameReader<ReadHalf<Stream>>,
) -> Result<v1::ServerFrame> {
    let frame: v1::ServerFrame = reader
        .next()
        .await?
        .ok_or_else(|| Error::new(shared.peer.unreachable, "meta closed the connection"))?;
    let reason = frame.refused.as_ref().or(frame.cut.as_ref().and_then(|cut| cut.reason.as_ref()));
    match reason {
        Some(detail) => Err(wire::error_from_detail(detail).unwrap_or_else(|e| e)),
        None => Ok(frame),
    }
}

fn broken(peer: &Peer, cause: std::io::Error) -> Error {
    Error::new(peer.unreachable, format!("the connection to {} broke", peer.address))
        .caused_by(cause)
}

/// HMAC-SHA-256(key, domain || session id || nonce || exporter).
pub(super) fn proof(key: &Key, id: SessionId, nonce: &[u8], exporter: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
    let mut context = hmac::Context::with_key(&key);
    context.update(protocol::RESUME_DOMAIN);
    context.update(id.as_bytes());
    context.update(nonce);
    context.update(exporter);
    context.sign().as_ref().to_vec()
}
