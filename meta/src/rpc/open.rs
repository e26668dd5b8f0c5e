//! MetaService: opening a session.

use std::sync::Arc;
use std::time::Instant;

use flexfs_auth::bearer;
use flexfs_auth::token::TokenKind;
use flexfs_common::clock;
use flexfs_common::{Code, Error, Result, limits, protocol, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_service_server::MetaService;
use tonic::{Request, Response, Status};

use super::validate::{Caller, TRIES, changes_too_fast, check_known, verdict_for};
use super::verdict::Verdict;
use crate::service::placed::Served;
use crate::service::sessions::SessionEntry;
use crate::service::{PeerAddress, Service, block};
use crate::volume::{NewSession, OpenedSession};

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
    let request = request.into_inner();
    let version = negotiate(&request)?;
    let caller = Caller {
        token,
        peer,
        volume: request.volume.clone(),
        host_name: request.host_name.clone(),
    };
    let asked = Instant::now();
    check_known(service, &caller.token)?;
    for _ in 0..TRIES {
        let verdict = verdict_for(service, &caller).await?;
        let validated_us = asked.elapsed().as_micros();
        if let Some((served, opened)) = block(|| try_open(service, &caller, &request, &verdict))? {
            tracing::info!(session = %opened.id, token = %verdict.subject.token,
                volume = %verdict.subject.volume, scope = %verdict.scope, peer = %peer.0,
                validated_us, "session opened");
            return Ok(reply(service, &request, &verdict, &served, opened, version));
        }
    }
    Err(changes_too_fast())
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
    request: &v1::OpenSessionRequest,
    verdict: &Arc<Verdict>,
) -> Result<Option<(Arc<Served>, OpenedSession)>> {
    let served = service
        .volumes
        .get(verdict.subject.volume)
        .ok_or_else(|| Error::bare(Code::VolumeNotFound))?;
    if served.placed().state == "retired" {
        return Err(Error::bare(Code::VolumeRetired));
    }
    served.blocks.store()?;
    let knows = |name: &str| request.features.iter().any(|feature| feature == name);
    let opened = served.volume.open_session(NewSession {
        token_id: verdict.subject.token,
        secret_id: verdict.secret_id,
        scope: verdict.scope.clone(),
        token_flags: verdict.flags,
        requested: request.requested.unwrap_or_default(),
        honours: honoured(&request.honours),
        recalls: knows(protocol::RECALL),
        write_rights: knows(protocol::WRITE_RIGHTS),
        make_rights: knows(protocol::MAKE_RIGHTS),
        acls: knows(protocol::ACL),
        host_name: request.host_name.clone(),
        dir: request.dir.clone(),
        peer: caller.peer.0.to_string(),
    })?;
    let volume = Arc::clone(&served.volume);
    let entry = SessionEntry::new(opened.id, volume, verdict.subject.token);
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
    let end = (verdict.ends, verdict.point);
    service.set_end(verdict.secret_id, verdict.subject.volume, end);
    Ok(Some((served, opened)))
}

/// What a client says that its kernel can apply.
fn honoured(names: &[String]) -> v1::Flags {
    let has = |name: &str| names.iter().any(|honoured| honoured == name);
    v1::Flags {
        no_exec: has("noExec"),
        no_suid: has("noSUID"),
        no_dev: has("noDev"),
        no_atime: has("noATime"),
        ..v1::Flags::default()
    }
}

fn reply(
    service: &Service,
    request: &v1::OpenSessionRequest,
    verdict: &Verdict,
    served: &Served,
    opened: OpenedSession,
    version: u32,
) -> v1::OpenSessionReply {
    let settings = served.volume.settings();
    let placed = served.placed();
    let millis = |span: std::time::Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
    let known = |name: &&str| {
        request.features.iter().any(|f| f == name) && (*name != protocol::ACL || opened.acls)
    };
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
        token_millis: verdict.millis_left(),
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
    fn what_a_client_can_honour_is_named() {
        let names = ["noDev", "noExec", "ro", "somethingNew"].map(str::to_owned);
        let expected = v1::Flags { no_exec: true, no_dev: true, ..v1::Flags::default() };
        assert_eq!(honoured(&names), expected);
    }
}
