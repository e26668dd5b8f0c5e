//! What admin says of the token of a mount, and how it is asked.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Kind, Result, limits};
use flexfs_proto::v1;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::verdict::{Verdict, VerdictKey};
use crate::grants::stamp::Stamp;
use crate::service::changes::FeedPoint;
use crate::service::feed_status::FeedState;
use crate::service::{PeerAddress, Service, block};

/// Questions to admin at one time.
const VALIDATIONS_MAX: usize = 64;

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

/// Who asks, and how.
pub(super) struct Caller {
    pub(super) token: Token,
    pub(super) peer: PeerAddress,
    pub(super) request: v1::OpenSessionRequest,
}

/// What admin says of the token: from memory while the feed lives, else by
/// asking, else (admin away, within the grace) from what is kept.
pub(super) async fn verdict_for(service: &Arc<Service>, caller: &Caller) -> Result<Arc<Verdict>> {
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
                // A task of its own: a caller that goes away takes nobody along,
                // and leaves no old answer behind.
                let task = tokio::spawn(ask_and_land(
                    Arc::clone(service),
                    question.clone(),
                    caller.token.clone(),
                    caller.peer,
                    caller.request.host_name.clone(),
                ));
                let flight = async move {
                    match task.await {
                        Ok(outcome) => outcome.map_err(Arc::new),
                        Err(e) => Err(Arc::new(Error::bare(Code::Internal).caused_by(e))),
                    }
                }
                .boxed()
                .shared();
                running.insert(question, flight.clone());
                flight
            }
        }
    };
    let outcome = flight.await;
    outcome.map_err(|e| Error::new(e.code(), e.message()).caused_by(e))
}

async fn ask_and_land(
    service: Arc<Service>,
    question: (VerdictKey, String),
    token: Token,
    peer: PeerAddress,
    host_name: String,
) -> Result<Arc<Verdict>> {
    let (key, volume) = question.clone();
    let landing = Landing { service, question };
    ask(&landing.service, token, peer, volume, host_name, key).await
}

/// Takes the flight out of the list, however it ends.
struct Landing {
    service: Arc<Service>,
    question: (VerdictKey, String),
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.service.flights.running.lock().remove(&self.question);
    }
}

async fn ask(
    service: &Arc<Service>,
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
