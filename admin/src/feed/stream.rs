//! One subscription of a metadata server.

use std::sync::Arc;

use flexfs_common::ids::TokenId;
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::model::MetaServer;
use crate::service::{Caller, Service};
use crate::store::changes::FeedRow;
use crate::store::feed;

/// Events that wait for a slow subscriber before its stream ends.
const QUEUE: usize = 16;
/// Reports of sessions that wait to be written: 65,536 sessions in parts of
/// 500, and some.
const REPORTS: usize = 256;
/// Tokens with cuts in one acknowledgement.
const CUTS_PER_ACK: usize = 10_000;

/// What a subscriber sends.
pub trait Requests: Stream<Item = Result<v1::WatchRequest>> + Send + Unpin + 'static {}
impl<T: Stream<Item = Result<v1::WatchRequest>> + Send + Unpin + 'static> Requests for T {}

struct Subscription {
    service: Arc<Service>,
    caller: Caller,
    store: StoreId,
    server: MetaServer,
    // Held for its end.
    _connection: Connection,
    events: mpsc::Sender<Result<v1::WatchEvent>>,
    // Written beside the stream: rows and heartbeats do not wait for them.
    reports: mpsc::Sender<v1::SessionReport>,
    feed_id: String,
    /// Everything up to here was sent.
    sent: u64,
    /// The last revision whose mark was read, and the mark.
    marked: (u64, Option<u64>),
}

/// Must a subscriber drop what it knows?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resynchronise {
    /// It knows nothing.
    No,
    /// It missed too much.
    Yes,
    /// It followed a history that this database does not have.
    OtherHistory,
}

/// Starts the stream of events for a subscriber. It ends when the subscriber
/// goes, is too slow or sends what it should not; when its token is no longer
/// good (with that error); and at `stop`.
pub fn start(
    service: Arc<Service>,
    caller: Caller,
    requests: impl Requests,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<v1::WatchEvent>> {
    let (events, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let failure = events.clone();
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = failure.closed() => Ok(()),
            outcome = run(service, caller, requests, events) => outcome,
        };
        if let Err(error) = outcome {
            tracing::info!(code = %error.code(), error = error.with_causes(), "a feed ends");
            // Nobody listens any more: then nobody needs the reason.
            let _ = failure.send_timeout(Err(error), limits::FEED_HEARTBEAT).await;
        }
    });
    receiver
}

async fn run(
    service: Arc<Service>,
    caller: Caller,
    mut requests: impl Requests,
    events: mpsc::Sender<Result<v1::WatchEvent>>,
) -> Result<()> {
    let first = tokio::time::timeout(limits::HANDSHAKE, requests.next()).await;
    let start = match first {
        Ok(Some(Ok(v1::WatchRequest { body: Some(v1::watch_request::Body::Start(start)) }))) => {
            start
        }
        Ok(Some(Err(error))) => return Err(error),
        Ok(_) | Err(_) => {
            return Err(Error::new(Code::ProtocolInvalid, "a subscription begins with `start`"));
        }
    };
    let (store, server) = service.watching_server(&caller, &start.server_id).await?;
    // Subscribe to the bell before reading the head: nothing falls between.
    let mut bell = service.store().applied().bell();
    bell.mark_unchanged();
    let connection = service
        .registry()
        .connect(&server)
        .ok_or_else(|| Error::new(Code::RateLimited, "this server has too many subscriptions"))?;
    let head = feed::head(service.store().reader().as_mut()).await?;
    let reports = note_reports(&service, &store, &server);
    let mut subscription = Subscription {
        service,
        caller,
        store,
        server,
        _connection: connection,
        events,
        reports,
        feed_id: head.feed_id.clone(),
        sent: start.from_revision,
        marked: (0, None),
    };
    subscription.begin(&start, &head).await?;
    let mut heartbeat = tokio::time::interval(limits::FEED_HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    heartbeat.reset();
    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => subscription.acknowledged(request)?,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            changed = bell.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                if subscription.pump(false).await? {
                    heartbeat.reset();
                }
            }
            _ = heartbeat.tick() => {
                if subscription.reports.is_closed() {
                    return Err(Error::new(Code::DatabaseFailed, "reports were not written"));
                }
                // Time itself can end a token.
                subscription.check_token().await?;
                subscription.pump(true).await?;
            }
        }
    }
}

/// Writes the reports of a server one after the other, until the stream ends
/// or one of them fails.
fn note_reports(
    service: &Arc<Service>,
    store: &StoreId,
    server: &MetaServer,
) -> mpsc::Sender<v1::SessionReport> {
    let (sender, mut reports) = mpsc::channel::<v1::SessionReport>(REPORTS);
    let (service, store, server) = (Arc::clone(service), store.clone(), server.clone());
    tokio::spawn(async move {
        while let Some(report) = reports.recv().await {
            if let Err(error) = service.note_sessions(&store, &server, report).await {
                tracing::warn!(error = error.with_causes(), "a report of sessions is not written");
                return;
            }
        }
    });
    sender
}

impl Subscription {
    /// The first event: the rows missed, or that too many were.
    async fn begin(&mut self, start: &v1::WatchStart, head: &feed::Head) -> Result<()> {
        let continues = start.feed_id == head.feed_id
            && start.from_revision != 0
            && start.from_revision <= head.revision
            && start.from_revision >= head.floor;
        // An older copy of the database that went on by itself.
        let other_history = continues
            && start.from_mark != 0
            && self.mark(start.from_revision).await?.is_some_and(|mark| mark != start.from_mark);
        if continues && !other_history {
            return self.pump(true).await.map(drop);
        }
        // 0 = from now, after a resynchronisation (or nothing known yet).
        let from_now = start.feed_id == head.feed_id && start.from_revision == 0;
        let told = match (from_now, other_history) {
            (true, _) => Resynchronise::No,
            (false, false) => Resynchronise::Yes,
            (false, true) => Resynchronise::OtherHistory,
        };
        self.resynchronise(head, told).await
    }

    /// The mark of a revision; `None` when its row is not kept.
    async fn mark(&mut self, revision: u64) -> Result<Option<u64>> {
        if self.marked.0 != revision {
            let mut reader = self.service.store().reader();
            let mark = feed::mark(reader.as_mut(), self.service.ca().mark_key(), revision).await?;
            self.marked = (revision, mark);
        }
        Ok(self.marked.1)
    }

    /// Goes on from the head.
    async fn resynchronise(&mut self, head: &feed::Head, told: Resynchronise) -> Result<()> {
        self.feed_id.clone_from(&head.feed_id);
        self.sent = head.revision;
        self.service.registry().resynchronised(&self.server, head.revision);
        let mark = self.mark(head.revision).await?.unwrap_or(0);
        self.send(v1::WatchEvent {
            rows: Vec::new(),
            covered_up_to: head.revision,
            feed_id: head.feed_id.clone(),
            resynchronise: told != Resynchronise::No,
            mark,
            other_history: told == Resynchronise::OtherHistory,
        })
        .await
    }

    /// Sends what is new; with `always` a mark even when nothing is. Was
    /// anything sent?
    async fn pump(&mut self, always: bool) -> Result<bool> {
        let mut mark = always;
        loop {
            let service = Arc::clone(&self.service);
            let mut reader = service.store().reader();
            let head = feed::head(reader.as_mut()).await?;
            if head.feed_id != self.feed_id || head.revision < self.sent || head.floor > self.sent {
                // Restored, or the history is gone: let it come again.
                return Err(Error::new(Code::MetaMoved, "the feed begins anew"));
            }
            if head.revision == self.sent && !mark {
                return Ok(false);
            }
            let rows = feed::rows_for_store(reader.as_mut(), &self.store, self.sent, head.revision)
                .await?;
            let more = rows.len() >= feed::ROWS_MAX;
            let covered = match rows.last() {
                Some(last) if more => last.revision,
                Some(_) | None => head.revision,
            };
            let mark_of_covered = self.mark(covered).await?.unwrap_or(0);
            let own = self.caller.token_id();
            let concerns_us = rows.iter().any(|row| concerns(row, own));
            self.send(v1::WatchEvent {
                rows: rows.iter().map(to_wire).collect(),
                covered_up_to: covered,
                feed_id: self.feed_id.clone(),
                resynchronise: false,
                mark: mark_of_covered,
                other_history: false,
            })
            .await?;
            self.sent = covered;
            if concerns_us {
                self.check_token().await?;
            }
            if !more {
                return Ok(true);
            }
            mark = false;
        }
    }

    async fn check_token(&self) -> Result<()> {
        let verifier = self.service.verifier();
        verifier.still_good(&self.caller.verified, self.caller.source).await
    }

    async fn send(&self, event: v1::WatchEvent) -> Result<()> {
        // A subscriber that takes nothing for so long has been dead for long.
        self.events
            .send_timeout(Ok(event), limits::FEED_DEAD)
            .await
            .map_err(|_| Error::new(Code::DeadlineExceeded, "the subscriber takes no events"))
    }

    fn acknowledged(&self, request: v1::WatchRequest) -> Result<()> {
        let ack = match request.body {
            Some(v1::watch_request::Body::Ack(ack)) => ack,
            Some(v1::watch_request::Body::Sessions(report)) => {
                // A failure ends the stream: the server reports all of its
                // sessions when it subscribes again.
                return self.reports.try_send(report).map_err(|_| {
                    Error::new(Code::RateLimited, "reports come faster than they are written")
                });
            }
            Some(v1::watch_request::Body::Start(_)) | None => {
                return Err(Error::new(
                    Code::ProtocolInvalid,
                    "only acknowledgements and reports follow `start`",
                ));
            }
        };
        if ack.revision > self.sent || ack.cuts.len() > CUTS_PER_ACK {
            return Err(Error::new(
                Code::ProtocolInvalid,
                "an acknowledgement of what was not sent",
            ));
        }
        let mut cuts = Vec::with_capacity(ack.cuts.len());
        for cut in ack.cuts {
            cuts.push((cut.token_id.parse::<TokenId>()?, cut.sessions));
        }
        self.service.registry().acknowledge(self.server.id, ack.revision, &cuts);
        Ok(())
    }
}

/// Can the row have ended this token?
fn concerns(row: &FeedRow, token: TokenId) -> bool {
    row.change.token == Some(token)
}

fn to_wire(row: &FeedRow) -> v1::FeedRow {
    let change = &row.change;
    v1::FeedRow {
        revision: row.revision,
        kind: change.kind.into(),
        account_id: change.account.map(|id| id.to_string()).unwrap_or_default(),
        volume_id: change.volume.map(|id| id.to_string()).unwrap_or_default(),
        token_id: change.token.map(|id| id.to_string()).unwrap_or_default(),
    }
}
