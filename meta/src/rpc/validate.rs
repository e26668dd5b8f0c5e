//! What admin says of the token of a mount, and how it is asked.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::failures::Failures;
use super::lanes::Lanes;
use super::verdict::{Verdict, VerdictKey};
use crate::grants::stamp::Stamp;
use crate::service::changes::{FeedPoint, Heard};
use crate::service::feed_status::FeedState;
use crate::service::{PeerAddress, Service, block};
use crate::volume::VolumeSettings;

/// How often a session is tried again when the feed overtakes it.
pub(crate) const TRIES: usize = 4;

type Outcome = Result<Arc<Verdict>, Arc<Error>>;
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// One question: which token, from which address, for which volume.
pub type Question = (VerdictKey, String);

/// Questions to admin that are on their way: one per token, address and
/// volume asked for.
#[derive(Debug, Default)]
pub struct Flights {
    running: Mutex<HashMap<Question, Flight>>,
    lanes: Lanes,
    failures: Failures,
}

/// Who asks, and how.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) token: Token,
    pub(crate) peer: PeerAddress,
    /// Name or id.
    pub(crate) volume: String,
    pub(crate) host_name: String,
}

/// The feed overtook an answer of admin too often.
pub(crate) fn changes_too_fast() -> Error {
    Error::new(Code::AdminUnreachable, "the token's rights change too fast")
}

/// What is known here before anybody is asked.
///
/// # Errors
/// `META_UNREGISTERED` while admin refuses this server's own token;
/// `TOKEN_REVOKED`.
pub(crate) fn check_known(service: &Service, token: &Token) -> Result<()> {
    if let Some(code) = service.feed.own_refused() {
        return Err(own_refused(code));
    }
    if service.grants.is_revoked(token.id()) {
        return Err(Error::bare(Code::TokenRevoked));
    }
    Ok(())
}

fn own_refused(code: Code) -> Error {
    let why = format!("admin refuses this metadata server's own token ({code})");
    Error::new(Code::MetaUnregistered, why)
}

/// What admin says of the token: from memory while the feed lives, else by
/// asking, else (admin away, within the grace) from what is kept.
pub(crate) async fn verdict_for(service: &Arc<Service>, caller: &Caller) -> Result<Arc<Verdict>> {
    let key = service.verdicts.key(&caller.token, caller.peer.ip());
    let state = service.feed.state();
    if state == FeedState::Live
        && let Some(verdict) = service.verdicts.get(&key)
        && service.changes.is_current(verdict.subject, verdict.point)
        && !verdict.has_ended()
        && verdict.is_fresh()
        && let Some(served) = service.volumes.get(verdict.subject.volume)
    {
        let settings = served.volume.settings();
        if is_named(&settings, &caller.volume) {
            return Ok(verdict);
        }
        // Admin would say the same, to each of any number of names.
        return Err(another_volume(&settings, &caller.volume));
    }
    if state == FeedState::Unreachable
        && let Some(verdict) = kept_verdict(service, caller)?
    {
        return Ok(verdict);
    }
    let question = (key, caller.volume.clone());
    let heard = service.changes.heard_of(caller.token.id());
    if state == FeedState::Live
        && let Some(refusal) = service.flights.failures.find(&question, heard)
    {
        return Err(refusal);
    }
    match fetch(service, caller, question).await {
        Err(error) if away(&error) => kept_verdict(service, caller)?.ok_or(error),
        other => other,
    }
}

fn away(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// Is this what the caller calls the volume? As admin takes it.
fn is_named(settings: &VolumeSettings, asked: &str) -> bool {
    settings.name == asked || asked.eq_ignore_ascii_case(&settings.id.to_string())
}

fn another_volume(settings: &VolumeSettings, asked: &str) -> Error {
    let (name, asked) = (&settings.name, asked.escape_debug());
    let message = format!("the token is for the volume `{name}`, not for `{asked}`");
    Error::new(Code::CredsMismatch, message)
}

fn kept_verdict(service: &Service, caller: &Caller) -> Result<Option<Arc<Verdict>>> {
    let now = Stamp::now();
    if !service.grants.may_open(&now) {
        return Ok(None);
    }
    // A row that is being applied now is later than this.
    let point = FeedPoint { epoch: service.changes.epoch(), revision: service.feed.revision() };
    let kept = service.grants.find(&caller.token, caller.peer.ip(), &now, point)?;
    let asked_for = |verdict: &Verdict| {
        let served = service.volumes.get(verdict.subject.volume);
        served.is_some_and(|served| is_named(&served.volume.settings(), &caller.volume))
    };
    Ok(kept.filter(asked_for).map(Arc::new))
}

/// Asks admin; callers with the same question share one answer.
async fn fetch(
    service: &Arc<Service>,
    caller: &Caller,
    question: Question,
) -> Result<Arc<Verdict>> {
    let flight = {
        let mut running = service.flights.running.lock();
        match running.get(&question) {
            Some(flight) => flight.clone(),
            None => {
                // A task of its own: a caller that goes away takes nobody along,
                // and leaves no old answer behind.
                let asking = Asking {
                    service: Arc::clone(service),
                    question: question.clone(),
                    token: caller.token.clone(),
                    peer: caller.peer,
                    host_name: caller.host_name.clone(),
                };
                let task = tokio::spawn(async move { asking.ask().await });
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

/// One question on its way. Dropped, however it ends, it is no longer in the
/// list.
struct Asking {
    service: Arc<Service>,
    question: Question,
    token: Token,
    peer: PeerAddress,
    host_name: String,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.service.flights.running.lock().remove(&self.question);
    }
}

impl Asking {
    async fn ask(&self) -> Result<Arc<Verdict>> {
        let service = &self.service;
        let known = service.grants.knows(&self.token, self.peer.ip());
        let _seat = service.flights.lanes.enter(self.peer.ip(), known).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let heard = service.changes.heard_of(self.token.id());
            let (epoch, asked) = (service.changes.epoch(), BootTime::now());
            let generation = service.authority.generation();
            let error = match service.authority.validate(self.request()).await {
                Ok(answer) => return self.answered(&answer, epoch, asked),
                Err(error) if error.kind() == Kind::Unauthenticated => error,
                Err(error) => return Err(error),
            };
            // Whose token is it that admin refuses?
            match service.authority.confirm_own(asked).await {
                // Ours is another one by now: the question was not answered.
                Ok(()) if service.authority.generation() != generation => {
                    if tries >= TRIES {
                        return Err(changes_too_fast());
                    }
                }
                Ok(()) => return Err(self.refused(error, heard)?),
                Err(own) if own.kind() == Kind::Unauthenticated => {
                    if !block(|| service.own_is_refused(own.code())) || tries >= TRIES {
                        return Err(own_refused(own.code()));
                    }
                }
                Err(unknown) => return Err(unknown),
            }
        }
    }

    fn request(&self) -> v1::ValidateVolumeTokenRequest {
        v1::ValidateVolumeTokenRequest {
            token: Some(self.token.to_wire()),
            volume: self.question.1.clone(),
            peer_address: self.peer.ip().to_string(),
            host_name: self.host_name.clone(),
        }
    }

    /// Admin refuses the volume token: the error to answer with.
    fn refused(&self, error: Error, heard: Heard) -> Result<Error> {
        let service = &self.service;
        // The token itself may be as good as it was.
        if error.code() != Code::CredsMismatch {
            service.verdicts.drop(&self.question.0);
        }
        service.flights.failures.keep(self.question.clone(), &error, heard);
        if error.code() == Code::TokenRevoked {
            block(|| service.grants.note_revoked(self.token.id(), service.feed.revision()))?;
        }
        Ok(error)
    }

    fn answered(
        &self,
        answer: &v1::ValidateVolumeTokenReply,
        epoch: u64,
        asked: BootTime,
    ) -> Result<Arc<Verdict>> {
        let service = &self.service;
        let verdict = Arc::new(Verdict::from_wire(answer, epoch, asked)?);
        if verdict.subject.token != self.token.id() {
            return Err(Error::new(Code::ProtocolInvalid, "admin answered for another token"));
        }
        let placed = answer.volume.clone().unwrap_or_default();
        let peer = self.peer.ip();
        block(|| {
            service.serve_volume(&placed, verdict.point)?;
            service.grants.remember(&self.token, peer, &verdict, Stamp::now())?;
            // A row notes itself first and changes grants then: so either it
            // found this one, or we find the row here.
            if !service.changes.is_current(verdict.subject, verdict.point) {
                service.grants.forget_one(&self.token, peer)?;
            }
            Ok::<_, Error>(())
        })?;
        service.verdicts.put(self.question.0, Arc::clone(&verdict));
        Ok(verdict)
    }
}
