//! Follows admin's change feed for as long as the server lives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::{Code, Error, Kind, Result, limits, status};
use flexfs_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::acks::{Acks, Applied};
use super::{apply, register};
use crate::identity::DataDir;
use crate::service::feed_status::FeedState;
use crate::service::{Consequences, Service, block};

/// First and longest wait before the feed is connected again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where in which feed this server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The feed's id.
    pub feed_id: String,
    /// Everything up to here is applied; 0 = it has to be synchronised first.
    pub revision: u64,
    /// Admin's mark of that revision; 0 = not known.
    pub mark: u64,
}

/// Registers, brings everything up to date, and says where the feed is to be
/// followed from.
///
/// # Errors
/// As [`register::register`] and [`apply::resynchronise`].
pub async fn synchronise(
    service: &Arc<Service>,
    data: &DataDir,
) -> Result<(v1::RegisterServerReply, Position, Acks)> {
    let acks = Acks::start(0);
    let (reply, position) = resume(service, data, &acks).await?;
    Ok((reply, position, acks))
}

/// Like [`synchronise`], with acknowledgements that have begun.
async fn resume(
    service: &Arc<Service>,
    data: &DataDir,
    acks: &Acks,
) -> Result<(v1::RegisterServerReply, Position)> {
    let reply = register::register(&service.authority, data).await?;
    // What changes from here on comes again by the feed.
    let position = Position { feed_id: reply.feed_id.clone(), revision: reply.revision, mark: 0 };
    let mut consequences = Consequences::default();
    let applied = apply::resynchronise(service, &mut consequences).await;
    // Their clients are waited for before any later acknowledgement.
    let revision = if applied.is_ok() { position.revision } else { 0 };
    acks.push(Applied { revision, consequences }).await;
    applied?;
    service.note_contact();
    Ok((reply, position))
}

/// Follows the feed until the server ends.
pub async fn follow(service: Arc<Service>, data: DataDir, mut known: Option<(Position, Acks)>) {
    let mut wait = BACKOFF.0;
    let mut told = None;
    loop {
        let outcome = tokio::select! {
            () = service.stop.cancelled() => return,
            outcome = follow_once(&service, &data, &mut known, &mut wait) => outcome,
        };
        let was_live = service.feed.state() == FeedState::Live;
        service.feed.set_silent();
        if let Err(error) = outcome {
            if error.kind() == Kind::Unauthenticated
                && block(|| service.own_is_refused(error.code()))
            {
                // There is another token by now: nobody has to wait for it.
                continue;
            }
            service.note_failure(&error);
            // Once per outage and reason: it may last for hours, and begin
            // with a connection that ends and go on with a clock that is wrong.
            if was_live || told != Some(error.code()) {
                told = Some(error.code());
                tracing::warn!(error = %error.with_causes(), "the feed of admin is away");
            } else {
                tracing::debug!(error = %error.with_causes(), "the feed of admin is still away");
            }
        } else {
            // With another token, at once.
            wait = BACKOFF.0;
            continue;
        }
        // Jitter: several servers must not come back in step.
        let jitter = f64::from(rand_u16()) / f64::from(u16::MAX);
        tokio::select! {
            () = service.stop.cancelled() => return,
            () = tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * jitter)) => {}
        }
        wait = (wait * 2).min(BACKOFF.1);
        if let Err(error) = service.authority.reconnect() {
            tracing::error!(error = %error.with_causes(), "admin's address");
        }
    }
}

fn rand_u16() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness there is no jitter; nothing depends on it.
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

async fn follow_once(
    service: &Arc<Service>,
    data: &DataDir,
    known: &mut Option<(Position, Acks)>,
    wait: &mut Duration,
) -> Result<()> {
    match known {
        None => {
            let (_, position, acks) = synchronise(service, data).await?;
            *known = Some((position, acks));
        }
        Some((position, acks)) if position.revision == 0 => {
            *position = resume(service, data, acks).await?.1;
        }
        Some(_) => {}
    }
    let Some((position, acks)) = known.as_mut() else {
        return Err(Error::bare(Code::Internal));
    };
    // A token that changes from here on is seen below.
    let mut own = service.own.changes();
    let (sender, receiver) = mpsc::channel(64);
    // Of their own: they must not keep acknowledgements from their place.
    let (reporter, reports) = mpsc::channel(1);
    let requests =
        futures::stream::select(ReceiverStream::new(receiver), ReceiverStream::new(reports));
    let mut queue = VecDeque::new();
    let start = v1::WatchStart {
        server_id: service.server_id.to_string(),
        feed_id: position.feed_id.clone(),
        from_revision: position.revision,
        from_mark: position.mark,
    };
    send(&sender, v1::watch_request::Body::Start(start))?;
    let mut events = service.authority.watch(requests).await?;
    service.feed.set_own_refused(None);
    // Admin takes acknowledgements of what it sent: so not before it began.
    let mut begun = false;
    // Whatever else there is to do meanwhile, it does not put this off.
    let mut dead = Instant::now() + limits::FEED_DEAD;
    loop {
        tokio::select! {
            event = tokio::time::timeout_at(dead, events.message()) => {
                let event = event
                    .map_err(|_| Error::new(Code::AdminUnreachable, "the feed is silent"))?
                    .map_err(|e| status::from_status(&e, Code::AdminUnreachable))?
                    .ok_or_else(ended)?;
                apply_event(service, position, acks, event).await?;
                dead = Instant::now() + limits::FEED_DEAD;
                *wait = BACKOFF.0;
                if !begun {
                    begun = true;
                    send_acks(&sender, acks)?;
                    queue = service.report_all().into();
                }
            }
            () = acks.changed(), if begun => send_acks(&sender, acks)?,
            () = service.sessions.news.gathered(), if begun && queue.is_empty() => {
                queue = service.report_changes().into();
            }
            // As fast as admin takes them.
            permit = reporter.reserve(), if !queue.is_empty() => {
                let permit = permit.map_err(|_| ended())?;
                if let Some(report) = queue.pop_front() {
                    permit.send(request(v1::watch_request::Body::Sessions(report)));
                }
            }
            // The next subscription has the new token.
            _ = own.changed() => return Ok(()),
        }
    }
}

fn ended() -> Error {
    Error::new(Code::AdminUnreachable, "the feed has ended")
}

fn request(body: v1::watch_request::Body) -> v1::WatchRequest {
    v1::WatchRequest { body: Some(body) }
}

fn send(sender: &mpsc::Sender<v1::WatchRequest>, body: v1::watch_request::Body) -> Result<()> {
    // A feed that takes nothing any more is dead.
    sender
        .try_send(request(body))
        .map_err(|_| Error::new(Code::AdminUnreachable, "admin takes no acknowledgements"))
}

fn send_acks(sender: &mpsc::Sender<v1::WatchRequest>, acks: &Acks) -> Result<()> {
    loop {
        let (ack, more) = acks.take();
        if ack.revision == 0 && ack.cuts.is_empty() {
            return Ok(());
        }
        if let Err(error) = send(sender, v1::watch_request::Body::Ack(ack.clone())) {
            acks.put_back(&ack);
            return Err(error);
        }
        if !more {
            return Ok(());
        }
    }
}

async fn apply_event(
    service: &Arc<Service>,
    position: &mut Position,
    acks: &mut Acks,
    event: v1::WatchEvent,
) -> Result<()> {
    let other_feed = !event.feed_id.is_empty() && event.feed_id != position.feed_id;
    if event.resynchronise || other_feed {
        // An older copy of admin's database has the same feed's id: what is
        // acknowledged from here on is another history as well.
        let went_back = event.other_history || event.covered_up_to < position.revision;
        tracing::warn!(other_feed, went_back, "resynchronising with admin");
        if other_feed || went_back {
            *acks = Acks::start(0);
            // Until everything is applied, this is a feed not yet begun.
            *position = Position { feed_id: event.feed_id, revision: 0, mark: 0 };
        }
        let mut consequences = Consequences::default();
        let applied = apply::resynchronise(service, &mut consequences).await;
        if applied.is_ok() {
            (position.revision, position.mark) = (event.covered_up_to, event.mark);
        }
        acks.push(Applied { revision: position.revision, consequences }).await;
        applied?;
    } else {
        let mut consequences = Consequences::default();
        let applied = apply::rows(service, &event.rows, &mut consequences).await;
        if let Err(error) = applied {
            // Their clients are waited for before any later acknowledgement.
            acks.push(Applied { revision: position.revision, consequences }).await;
            return Err(error);
        }
        let last_row = event.rows.iter().map(|row| row.revision).max().unwrap_or(0);
        let revision = position.revision.max(event.covered_up_to).max(last_row);
        if revision == event.covered_up_to {
            position.mark = event.mark;
        } else if revision != position.revision {
            position.mark = 0;
        }
        if revision != position.revision || !consequences.is_empty() {
            position.revision = revision;
            acks.push(Applied { revision, consequences }).await;
        }
    }
    if service.feed.state() != FeedState::Live {
        tracing::info!(revision = position.revision, "the feed of admin is live");
    }
    service.feed.set_live(position.revision);
    service.note_contact();
    Ok(())
}
