//! MetaService: opening a session.

use std::sync::Arc;

use flexfs_auth::bearer;
use flexfs_auth::token::TokenKind;
use flexfs_common::clock;
use flexfs_common::{Code, Error, Result, flags, limits, protocol, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_service_server::MetaService;
use tonic::{Request, Response, Status};

use super::validate::{Caller, verdict_for};
use super::verdict::Verdict;
use crate::service::placed::Served;
use crate::service::sessions::SessionEntry;
use crate::service::{PeerAddress, Service, block};
use crate::volume::{NewSession, OpenedSession};

/// How often a session is tried again when the feed overtakes it.
const TRIES: usize = 4;

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
        recalls: request.features.iter().any(|feature| feature == protocol::RECALL),
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
