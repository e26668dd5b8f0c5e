//! The life of the connection: send, receive, renew, reconnect.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use flexfs_common::clock::BootTime;
use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::tls::Stream;
use flexfs_common::{Error, Kind, Result, limits, wire};
use flexfs_proto::v1;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use zeroize::Zeroize;

use super::backoff::jittered;
use super::connect::{Link, connect};
use super::{SessionEvent, Shared};

/// First and longest wait between two attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection from which nothing came for this long is dead: meta answers
/// every heartbeat. Leaves half a lease for a new connection.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest time between two looks at the lease.
const LEASE_LOOK: Duration = Duration::from_millis(500);
/// How long a cut session's connection is kept for the acknowledgement.
const CUT_LINGER: Duration = Duration::from_secs(30);

/// Why a connection ended in order.
#[derive(Debug)]
enum End {
    /// We said goodbye.
    Goodbye,
    /// The cut is acknowledged.
    Acknowledged,
    /// The mount has let the session go.
    Stopped,
}

/// Runs until the session has ended.
pub(super) async fn drive(shared: Arc<Shared>, mut link: Link) {
    loop {
        match serve(&shared, link).await {
            Ok(end) => {
                tracing::debug!(?end, "the session's connection ended");
                break;
            }
            Err(error) => {
                tracing::warn!(error = %error.with_causes(), "the connection to meta is lost");
            }
        }
        if shared.is_over() {
            break;
        }
        shared.disconnected();
        match reconnect(&shared).await {
            Some(new) => link = new,
            None => break,
        }
    }
    shared.finished();
}

/// Serves one connection until it ends.
async fn serve(shared: &Arc<Shared>, link: Link) -> Result<End> {
    let Link { mut reader, mut writer } = link;
    let linger = async {
        shared.cut_error().await;
        tokio::time::sleep(CUT_LINGER).await;
    };
    let ended = tokio::select! {
        biased;
        result = receive(shared, &mut reader) => result,
        result = send(shared, &mut writer) => result,
        () = shared.stop.cancelled() => Ok(End::Stopped),
        () = linger => Ok(End::Acknowledged),
    };
    if ended.is_ok() {
        // A clean TLS end; the other side does not depend on it.
        let _ = tokio::time::timeout(Duration::from_secs(1), writer.shutdown()).await;
    }
    ended
}

async fn send(shared: &Arc<Shared>, writer: &mut WriteHalf<Stream>) -> Result<End> {
    let mut beat = tokio::time::interval_at(
        tokio::time::Instant::now() + limits::SESSION_HEARTBEAT,
        limits::SESSION_HEARTBEAT,
    );
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut bytes = BytesMut::with_capacity(64 * 1024);
    loop {
        let heartbeat = tokio::select! {
            biased;
            _ = beat.tick() => Some(shared.next_heartbeat()),
            () = shared.outbox.wake.notified() => None,
        };
        if let Some(heartbeat) = heartbeat {
            let frame =
                v1::ClientFrame { heartbeat: Some(heartbeat), ..v1::ClientFrame::default() };
            write(shared, writer, &mut bytes, &frame).await?;
        }
        if let Some(reauthenticate) = shared.new_secret.to_send() {
            send_secret(shared, writer, &mut bytes, reauthenticate).await?;
        }
        while let Some(frame) = shared.outbox.next_frame() {
            write(shared, writer, &mut bytes, &frame).await?;
            if frame.goodbye {
                return Ok(End::Goodbye);
            }
            if frame.cut_done {
                return Ok(End::Acknowledged);
            }
        }
    }
}

/// A secret is not left behind in our buffers.
async fn send_secret(
    shared: &Arc<Shared>,
    writer: &mut WriteHalf<Stream>,
    bytes: &mut BytesMut,
    reauthenticate: v1::Reauthenticate,
) -> Result<()> {
    let mut frame =
        v1::ClientFrame { reauthenticate: Some(reauthenticate), ..v1::ClientFrame::default() };
    let written = write(shared, writer, bytes, &frame).await;
    bytes.zeroize();
    let token = frame.reauthenticate.as_mut().and_then(|sent| sent.token.as_mut());
    if let Some(token) = token {
        token.value.zeroize();
    }
    written
}

async fn write(
    shared: &Arc<Shared>,
    writer: &mut WriteHalf<Stream>,
    bytes: &mut BytesMut,
    frame: &v1::ClientFrame,
) -> Result<()> {
    bytes.clear();
    frame::encode(FrameKind::Client, frame, bytes)?;
    let broken = |e| Error::new(shared.peer.unreachable, "the connection broke").caused_by(e);
    writer.write_all(bytes).await.map_err(broken)?;
    writer.flush().await.map_err(broken)
}

async fn receive(shared: &Arc<Shared>, reader: &mut FrameReader<ReadHalf<Stream>>) -> Result<End> {
    let lost = |why: &'static str| Error::new(shared.peer.unreachable, why);
    loop {
        let frame: v1::ServerFrame = tokio::time::timeout(SILENCE_MAX, reader.next())
            .await
            .map_err(|_| lost("meta is silent"))??
            .ok_or_else(|| lost("meta closed the connection"))?;
        take_frame(shared, frame)?;
    }
}

/// What came, in an order that keeps caches right: answers first (their
/// grants are older than the recalls of the same frame), then recalls.
fn take_frame(shared: &Arc<Shared>, frame: v1::ServerFrame) -> Result<()> {
    if let Some(ack) = frame.heartbeat_ack {
        shared.heartbeat_answered(&ack);
    }
    for reply in frame.replies {
        shared.outbox.complete(reply);
    }
    for recall in frame.recalls {
        shared.recall(recall);
    }
    if let Some(flags) = frame.flags_changed {
        shared.flags_changed(flags);
    }
    if let Some(answer) = frame.reauthenticated {
        shared.new_secret.answered(answer);
    }
    if let Some(cut) = frame.cut {
        let reason = cut.reason.unwrap_or_default();
        shared.cut(wire::error_from_detail(&reason).unwrap_or_else(|e| e));
    }
    match frame.refused {
        Some(detail) => {
            let error = wire::error_from_detail(&detail)?;
            if is_final(&error) {
                shared.cut(super::clone_error(&error));
            }
            Err(error)
        }
        None => Ok(()),
    }
}

/// Is there no use in trying again with this session?
fn is_final(error: &Error) -> bool {
    match error.kind() {
        Kind::Unauthenticated | Kind::Denied => true,
        Kind::Posix => error.code() == flexfs_common::Code::FsStale,
        Kind::Invalid
        | Kind::NotFound
        | Kind::Exists
        | Kind::Conflict
        | Kind::Limited
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Cancelled
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::Internal => false,
    }
}

/// Tries until it succeeds; `None` when the session is over.
async fn reconnect(shared: &Arc<Shared>) -> Option<Link> {
    let mut backoff = BACKOFF_MIN;
    loop {
        let attempt = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            attempt = connect(shared) => attempt,
        };
        match attempt {
            Ok(link) => {
                tracing::info!("connected to meta again");
                return Some(link);
            }
            Err(error) if is_final(&error) => {
                shared.cut(error);
                return None;
            }
            Err(error) => {
                tracing::debug!(error = %error.with_causes(), "meta is not back yet");
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(jittered(backoff)) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Notices the end of the lease when nothing renews it.
pub(super) async fn watch_lease(shared: Arc<Shared>) {
    loop {
        let left = shared.lease.left();
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = shared.cut_error() => return,
            // At least a moment: a lost lease is looked at again until it is
            // back. And never for long: this sleep does not count a suspend.
            () = tokio::time::sleep(left.clamp(LEASE_LOOK / 5, LEASE_LOOK)) => {}
        }
        if shared.lease.notice_end() {
            tracing::warn!("the lease has ended: nothing cached is used until meta answers");
            shared.events.push(SessionEvent::LeaseLost);
        }
    }
}

/// When a heartbeat was sent, to date the lease.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    next: u64,
    sent: std::collections::VecDeque<(u64, BootTime)>,
}

impl Heartbeats {
    /// Unanswered heartbeats that are remembered.
    const KEPT: usize = 16;

    pub(super) fn next(&mut self) -> v1::Heartbeat {
        self.next += 1;
        if self.sent.len() == Self::KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.next, BootTime::now()));
        v1::Heartbeat { number: self.next }
    }

    /// When heartbeat `number` was sent; it and older ones are forgotten.
    pub(super) fn answered(&mut self, number: u64) -> Option<BootTime> {
        let sent = self.sent.iter().find(|(n, _)| *n == number).map(|(_, at)| *at);
        self.sent.retain(|(n, _)| *n > number);
        sent
    }
}
