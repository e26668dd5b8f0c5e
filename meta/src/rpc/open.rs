//! MetaService: opening a session.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_auth::bearer;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::clock::{self, BootTime};
use flexfs_common::{Code, Error, Kind, Result, flags, limits, protocol, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_service_server::MetaService;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::verdict::{Verdict, VerdictKey};
use crate::grants::stamp::Stamp;
use crate::service::changes::FeedPoint;
use crate::service::feed_status::FeedState;
use crate::service::placed::Served;
use crate::service::sessions::SessionEntry;
use crate::service::{PeerAddress, Service, block};
use crate::volume::{NewSession, OpenedSession};

/// Questions to admin at one time.
const VALIDATIONS_MAX: usize = 64;
/// How often a session is tried again when the feed overtakes it.
const TRIES: usize = 4;

type Outcome = Result<Arc<Verdict>, Arc<Error>>;
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// Questions to admin that are on their way: one per token, address and
/// volume asked for.
#[derive(Debug)]
pub struct Flights {
    running: Mutex<HashMap<(VerdictKey, String), Flight>>,
    permits: Arc<Semaphore>,
}

impl Default for Flights {
    fn default() -> Flights {
        Flights { running: Mutex::default(), permits: Arc::new(Semaphore::new(VALIDATIONS_MAX)) }
    }
}

/// The control service of mounts.
#[derive(Clone, Debug)]
pub struct OpenService(pub Arc<Service>);

#[tonic::async_trait]
impl MetaService for OpenService {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionReply>, Status> {
        let reply = open_session(&self.0, request).await.inspect_err(|error| {
            tracing::info!(code = %error.code(), error = %error.with_causes(), "session refused");
        })?;
        Ok(Response::new(reply))
    }
}

/// Who asks, and how.
struct Caller {
    token: Token,
    peer: PeerAddress,
    request: v1::OpenSessionRequest,
}

async fn open_session(
    service: &Arc<Service>,
    request: Request<v1::OpenSessionRequest>,
) -> Result<v1::OpenSessionReply> {
    let token = bearer::token_of(request.metadata())?;
    if token.kind() != TokenKind::Volume {
        return Err(Error::bare(Code::TokenWrongKind));
    }
    let peer = *request
        .extensions()
        .get::<PeerAddress>()
        .ok_or_else(|| Error::new(Code::Internal, "a request without an address"))?;
    let caller = Caller { token, peer, request: request.into_inner() };
    let version = negotiate(&caller.request)?;
    if let Some(code) = service.feed.own_refused() {
        let why = format!("admin refuses this metadata server's own token ({code})");
        return Err(Error::new(Code::MetaUnregistered, why));
    }
    if block(|| service.grants.is_revoked(caller.token.id()))? {
        return Err(Error::bare(Code::TokenRevoked));
    }
    for _ in 0..TRIES {
        let verdict = verdict_for(service, &caller).await?;
        if let Some((served, opened)) = block(|| try_open(service, &caller, &verdict))? {
            return Ok(reply(service, &caller, &verdict, &served, opened, version));
        }
    }
    Err(Error::new(Code::AdminUnreachable, "the token's rights change too fast"))
}

/// Checks the form of a request and agrees on a protocol version.
fn negotiate(request: &v1::OpenSessionRequest) -> Result<u32> {
    let long = request.host_name.len() > limits::NAME_MAX_LEN
        || request.dir.len() > limits::PATH_MAX_LEN
        || request.volume.len() > limits::NAME_MAX_LEN
        || request.client_version.len() > limits::NAME_MAX_LEN
        || request.features.len() > 64
        || request.honours.len() > 64;
    if long {
        return Err(Error::new(Code::ProtocolInvalid, "a field of OpenSession is too long"));
    }
    if request.volume.is_empty() {
        return Err(Error::new(Code::ArgumentInvalid, "no volume is named"));
    }
    let version = request.protocol_max.min(protocol::VERSION);
    if version < request.protocol_min.max(protocol::VERSION_MIN) {
        return Err(Error::new(
            Code::ProtocolVersion,
            format!(
                "this server speaks protocol {} to {}, the client {} to {}",
                protocol::VERSION_MIN,
                protocol::VERSION,
                request.protocol_min,
                request.protocol_max
            ),
        ));
    }
    Ok(version)
}

/// What admin says of the token: from memory while the feed lives, else by
/// asking, else (admin away, within the grace) from what is kept.
async fn verdict_for(service: &Arc<Service>, caller: &Caller) -> Result<Arc<Verdict>> {
    let key = service.verdicts.key(&caller.token, caller.peer.ip());
    let state = service.feed.state();
    if state == FeedState::Live
        && let Some(verdict) = service.verdicts.get(&key)
        && service.changes.is_current(verdict.subject, verdict.point)
        && !verdict.has_ended()
        && names(service, &verdict, &caller.request.volume)
    {
        return Ok(verdict);
    }
    if state == FeedState::Unreachable
        && let Some(verdict) = kept_verdict(service, caller)?
    {
        return Ok(verdict);
    }
    match fetch(service, caller, key).await {
        Err(error) if away(&error) => kept_verdict(service, caller)?.ok_or(error),
        other => other,
    }
}

fn away(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// Is this the volume that the caller asks for?
fn names(service: &Service, verdict: &Verdict, volume: &str) -> bool {
    service.volumes.get(verdict.subject.volume).is_some_and(|served| {
        let settings = served.volume.settings();
        settings.name == volume || settings.id.to_string() == volume
    })
}

fn kept_verdict(service: &Service, caller: &Caller) -> Result<Option<Arc<Verdict>>> {
    let now = Stamp::now();
    if !service.grants.may_open(&now) {
        return Ok(None);
    }
    // A row that is being applied now is later than this.
    let point = FeedPoint { epoch: service.changes.epoch(), revision: service.feed.revision() };
    let kept = service.grants.find(&caller.token, caller.peer.ip(), &now, point)?;
    Ok(kept.filter(|verdict| names(service, verdict, &caller.request.volume)).map(Arc::new))
}

/// Asks admin; callers with the same question share one answer.
async fn fetch(service: &Arc<Service>, caller: &Caller, key: VerdictKey) -> Result<Arc<Verdict>> {
    let question = (key, caller.request.volume.clone());
    let flight = {
        let mut running = service.flights.running.lock();
        match running.get(&question) {
            Some(flight) => flight.clone(),
            None => {
                let asking = ask(
                    Arc::clone(service),
                    caller.token.clone(),
                    caller.peer,
                    caller.request.volume.clone(),
                    caller.request.host_name.clone(),
                    key,
                );
                // A task of its own: a caller that goes away takes nobody along.
                let task = tokio::spawn(asking);
                let flight = async move {
                    match task.await {
                        Ok(outcome) => outcome.map_err(Arc::new),
                        Err(e) => Err(Arc::new(Error::bare(Code::Internal).caused_by(e))),
                    }
                }
                .boxed()
                .shared();
                running.insert(question.clone(), flight.clone());
                flight
            }
        }
    };
    let outcome = flight.clone().await;
    {
        let mut running = service.flights.running.lock();
        if running.get(&question).is_some_and(|present| present.ptr_eq(&flight)) {
            running.remove(&question);
        }
    }
    outcome.map_err(|e| Error::new(e.code(), e.message()).caused_by(e))
}

async fn ask(
    service: Arc<Service>,
    token: Token,
    peer: PeerAddress,
    volume: String,
    host_name: String,
    key: VerdictKey,
) -> Result<Arc<Verdict>> {
    let _permit = tokio::time::timeout(
        limits::HANDSHAKE,
        Arc::clone(&service.flights.permits).acquire_owned(),
    )
    .await
    .map_err(|_| Error::bare(Code::RateLimited))?
    .map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    let epoch = service.changes.epoch();
    let asked = BootTime::now();
    let answer = service
        .authority
        .validate(v1::ValidateVolumeTokenRequest {
            token: Some(token.to_wire()),
            volume,
            peer_address: peer.ip().to_string(),
            host_name,
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            if error.kind() == Kind::Unauthenticated {
                service.verdicts.drop(&key);
            }
            if error.code() == Code::TokenRevoked {
                block(|| service.grants.note_revoked(token.id(), service.feed.revision()))?;
            }
            return Err(error);
        }
    };
    let verdict = Arc::new(Verdict::from_wire(&answer, epoch, asked)?);
    if verdict.subject.token != token.id() {
        return Err(Error::new(Code::ProtocolInvalid, "admin answered for another token"));
    }
    let placed = answer.volume.unwrap_or_default();
    block(|| {
        service.serve_volume(&placed)?;
        service.grants.remember(&token, peer.ip(), &verdict, Stamp::now())
    })?;
    service.verdicts.put(key, Arc::clone(&verdict));
    Ok(verdict)
}

/// Opens the session; `None` when the feed has overtaken the verdict. Blocks.
fn try_open(
    service: &Arc<Service>,
    caller: &Caller,
    verdict: &Arc<Verdict>,
) -> Result<Option<(Arc<Served>, OpenedSession)>> {
    let request = &caller.request;
    let served = service
        .volumes
        .get(verdict.subject.volume)
        .ok_or_else(|| Error::bare(Code::VolumeNotFound))?;
    if served.placed().state == "retired" {
        return Err(Error::bare(Code::VolumeRetired));
    }
    let requested = request.requested.unwrap_or_default();
    let merged = flags::merge(&served.volume.settings().flags, &verdict.flags, &requested)?;
    check_honours(&merged, &request.honours)?;
    served.blocks.store()?;
    let opened = served.volume.open_session(NewSession {
        token_id: verdict.subject.token,
        secret_id: verdict.secret_id,
        scope: verdict.scope.clone(),
        token_flags: verdict.flags,
        requested,
        host_name: request.host_name.clone(),
        dir: request.dir.clone(),
        peer: caller.peer.0.to_string(),
    })?;
    let entry = SessionEntry::new(
        opened.id,
        Arc::clone(&served.volume),
        verdict.subject.token,
        verdict.secret_id,
    );
    if let Err(error) = service.sessions.insert(entry) {
        served.volume.end_session(opened.id)?;
        return Err(error);
    }
    // A revocation notes its row first and cuts then: so either it found the
    // session, or we find its row here.
    let overtaken = !service.changes.is_current(verdict.subject, verdict.point)
        || verdict.has_ended()
        || !served.volume.session_is_live(opened.id);
    if overtaken {
        service.sessions.remove(opened.id);
        served.volume.end_session(opened.id)?;
        return Ok(None);
    }
    service.set_end(verdict.secret_id, verdict.subject.volume, verdict.ends);
    Ok(Some((served, opened)))
}

/// Restrictions that only a client's kernel can apply.
fn check_honours(flags: &v1::Flags, honours: &[String]) -> Result<()> {
    let kernel = [
        (flags.no_exec, "noExec"),
        (flags.no_suid, "noSUID"),
        (flags.no_dev, "noDev"),
        (flags.no_atime, "noATime"),
    ];
    for (set, name) in kernel {
        if set && !honours.iter().any(|honoured| honoured == name) {
            let why = format!("the client cannot honour {name}");
            return Err(Error::new(Code::FlagUnsupported, why));
        }
    }
    Ok(())
}

fn reply(
    service: &Service,
    caller: &Caller,
    verdict: &Verdict,
    served: &Served,
    opened: OpenedSession,
    version: u32,
) -> v1::OpenSessionReply {
    let settings = served.volume.settings();
    let placed = served.placed();
    let millis = |span: std::time::Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
    tracing::info!(session = %opened.id, token = %verdict.subject.token, volume = %settings.id,
        scope = %verdict.scope, peer = %caller.peer.0, "session opened");
    let known = |name: &&str| caller.request.features.iter().any(|f| f == name);
    v1::OpenSessionReply {
        session_id: opened.id.as_bytes().to_vec(),
        session_key: Some(v1::SecretBytes { value: opened.key.to_vec() }),
        protocol_version: version,
        features: protocol::FEATURES.iter().filter(|f| known(f)).map(|f| (*f).into()).collect(),
        flags: Some(opened.flags),
        root_handle: opened.root_handle,
        root_attr: Some(opened.root_attr),
        lease_millis: millis(limits::LEASE),
        session_millis: millis(limits::SESSION),
        slot_count: limits::SLOT_COUNT,
        max_frame_bytes: limits::OPS_FRAME_MAX_LEN,
        max_in_flight: limits::OPS_IN_FLIGHT_MAX,
        inline_max: settings.inline_max,
        block_size: settings.block_size,
        compression: placed.compression,
        encryption: placed.encryption,
        volume_id: settings.id.to_string(),
        volume_name: settings.name,
        token_id: verdict.subject.token.to_string(),
        mount_path: verdict.scope.to_string(),
        token_millis: verdict
            .ends
            .map_or(0, |at| u64::try_from(at.left().as_millis()).unwrap_or(u64::MAX).max(1)),
        now: Some(wire::timestamp_to_wire(clock::wall_now())),
        server_id: service.server_id.to_string(),
    }
}

#[cfg(test)]
mod away_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_meet_or_refuse() {
        let request = |min, max| v1::OpenSessionRequest {
            volume: "v".into(),
            protocol_min: min,
            protocol_max: max,
            ..v1::OpenSessionRequest::default()
        };
        assert_eq!(negotiate(&request(1, 9)).unwrap(), protocol::VERSION);
        for (min, max) in [(2, 9), (0, 0), (9, 1)] {
            assert_eq!(negotiate(&request(min, max)).unwrap_err().code(), Code::ProtocolVersion);
        }
        let long = v1::OpenSessionRequest { host_name: "h".repeat(1000), ..request(1, 1) };
        assert_eq!(negotiate(&long).unwrap_err().code(), Code::ProtocolInvalid);
    }

    #[test]
    fn a_restriction_that_the_client_cannot_honour_refuses_it() {
        let flags = v1::Flags { ro: true, no_exec: true, no_dev: true, ..v1::Flags::default() };
        let honours = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        check_honours(&flags, &honours(&["noDev", "noExec"])).unwrap();
        let error = check_honours(&flags, &honours(&["noDev"])).unwrap_err();
        assert_eq!(error.code(), Code::FlagUnsupported);
        assert!(error.message().contains("noExec"));
    }
}
