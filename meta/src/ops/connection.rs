//! The loop of a connection that has proven its session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::frame::FrameReader;
use flexfs_common::{Code, Error, Result, clock, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::{Attached, lease_millis};
use super::outgoing::Outgoing;
use super::{frames, reauthenticate};
use crate::service::sessions::Ending;
use crate::service::{PeerAddress, Service, block};
use crate::volume::{Execution, RecallQueue};

/// What a client has, once its session has ended, to take what is being written.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    End,
}

struct Connection<'a, W> {
    service: &'a Arc<Service>,
    attached: Attached,
    peer: PeerAddress,
    outgoing: &'a mut Outgoing<W>,
    /// Of its own: a session that has lost its place answers them too.
    recalls: Option<Arc<RecallQueue>>,
    /// Operations that are answered later.
    pending: FuturesUnordered<BoxFuture<'static, v1::Reply>>,
    /// Of those, by request id: the handle of what may be given up.
    waiting: HashMap<u64, Option<AbortHandle>>,
    /// A re-authentication that is under way: one at a time.
    reauthenticating: Option<BoxFuture<'static, v1::Reauthenticated>>,
}

/// Serves until the client leaves, breaks a rule, or the session ends.
///
/// # Errors
/// `PROTOCOL_INVALID` when the client broke a rule or the connection broke.
pub async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    service: &Arc<Service>,
    reader: &mut FrameReader<R>,
    outgoing: &mut Outgoing<W>,
    (attached, peer): (Attached, PeerAddress),
) -> Result<()> {
    let mut ending = attached.link.ending();
    let mut flags = attached.link.flags();
    let generation = attached.link.generation();
    let recalls = attached.entry.volume.recalls(attached.entry.id);
    let mut connection = Connection {
        service,
        attached,
        peer,
        outgoing,
        recalls: recalls.clone(),
        pending: FuturesUnordered::new(),
        waiting: HashMap::new(),
        reauthenticating: None,
    };
    // Changes from here on are followed; what changed before is told now.
    let entry = &connection.attached.entry;
    if entry.volume.flags_are_untold(entry.id) && connection.tell_flags().await? == Next::End {
        return Ok(());
    }
    loop {
        let next = tokio::select! {
            biased;
            () = service.stop.cancelled() => return Ok(()),
            ending = ended(&mut ending) => {
                return connection.finish(ending, reader).await;
            }
            Some(reply) = connection.pending.next(), if !connection.pending.is_empty() => {
                connection.answer_later(reply).await?
            }
            Ok(()) = flags.changed() => connection.tell_flags().await?,
            done = under_way(&mut connection.reauthenticating) => {
                connection.reauthenticated(done).await?
            }
            recall = next_recall(recalls.as_deref(), generation) => {
                let recalls = vec![recall];
                connection.send(v1::ServerFrame { recalls, ..v1::ServerFrame::default() }).await?
            }
            frame = reader.next::<v1::ClientFrame>() => match frame? {
                Some(frame) => connection.handle(frame).await?,
                None => return Ok(()),
            },
        };
        if next == Next::End {
            return Ok(());
        }
    }
}

/// Waits for the ending. The sender lives in the link that we hold.
async fn ended(ending: &mut tokio::sync::watch::Receiver<Option<Ending>>) -> Ending {
    match ending.wait_for(Option::is_some).await {
        Ok(ending) => ending.clone().unwrap_or(Ending::Superseded),
        Err(_) => Ending::Superseded,
    }
}

/// The end of a re-authentication, if there is one.
async fn under_way(
    future: &mut Option<BoxFuture<'static, v1::Reauthenticated>>,
) -> v1::Reauthenticated {
    let done = match future {
        Some(running) => running.await,
        None => std::future::pending().await,
    };
    *future = None;
    done
}

async fn next_recall(recalls: Option<&RecallQueue>, generation: u64) -> v1::Recall {
    match recalls {
        Some(recalls) => recalls.next(generation).await,
        None => std::future::pending().await,
    }
}

impl<W: AsyncWrite + Unpin> Connection<'_, W> {
    async fn handle(&mut self, frame: v1::ClientFrame) -> Result<Next> {
        frames::check(&frame, self.waiting.len())?;
        if let Some(recalls) = &self.recalls {
            recalls.answered(&frame.recalls_done);
        }
        for id in &frame.cancel_request_ids {
            if let Some(Some(handle)) = self.waiting.get(id) {
                handle.abort();
            }
        }
        if !frame.ops.is_empty() && self.execute(frame.ops).await? == Next::End {
            return Ok(Next::End);
        }
        if let Some(request) = frame.reauthenticate
            && self.reauthenticate(request).await? == Next::End
        {
            return Ok(Next::End);
        }
        if let Some(heartbeat) = frame.heartbeat
            && self.renew(heartbeat.number).await? == Next::End
        {
            return Ok(Next::End);
        }
        if frame.goodbye {
            let entry = &self.attached.entry;
            block(|| entry.volume.end_session(entry.id))?;
            self.service.sessions.remove(entry.id);
            tracing::info!(session = %entry.id, "session closed");
            return Ok(Next::End);
        }
        Ok(Next::Continue)
    }

    /// Carries out the operations of a frame; what is done at once goes out
    /// together.
    async fn execute(&mut self, ops: Vec<v1::Op>) -> Result<Next> {
        for op in &ops {
            if self.waiting.contains_key(&op.request_id) {
                return Err(Error::new(Code::ProtocolInvalid, "a request id is in use"));
            }
        }
        if let Err(error) = self.service.check_grace() {
            let replies = ops.iter().map(|op| frames::error_reply(op.request_id, &error)).collect();
            return self.send_replies(replies).await;
        }
        for part in frames::parts(ops) {
            let ids: Vec<_> = part.iter().map(|op| (op.request_id, may_be_given_up(op))).collect();
            let entry = &self.attached.entry;
            let generation = self.attached.link.generation();
            // On this thread: most of it is over in microseconds, and to hand
            // the other tasks of this worker to another thread costs more.
            let executions = entry.volume.execute(entry.id, generation, part);
            let mut replies = Vec::with_capacity(executions.len());
            for (execution, (id, interruptible)) in executions.into_iter().zip(ids) {
                match execution {
                    Execution::Done(reply) => replies.push(reply),
                    Execution::Pending(future) => self.keep(id, interruptible, future)?,
                }
            }
            if self.send_replies(replies).await? == Next::End {
                return Ok(Next::End);
            }
        }
        Ok(Next::Continue)
    }

    fn keep(
        &mut self,
        id: u64,
        interruptible: bool,
        future: std::pin::Pin<Box<dyn Future<Output = v1::Reply> + Send>>,
    ) -> Result<()> {
        let (future, handle) = if interruptible {
            let (handle, registration) = AbortHandle::new_pair();
            let future = Abortable::new(future, registration).map(move |outcome| match outcome {
                Ok(reply) => reply,
                Err(Aborted) => frames::error_reply(id, &Error::bare(Code::OperationInterrupted)),
            });
            (future.boxed(), Some(handle))
        } else {
            (future, None)
        };
        if self.waiting.insert(id, handle).is_some() {
            return Err(Error::new(Code::ProtocolInvalid, "a request id is in use"));
        }
        self.pending.push(future);
        Ok(())
    }

    /// A pending operation is done, and perhaps others with it.
    async fn answer_later(&mut self, reply: v1::Reply) -> Result<Next> {
        let mut replies = vec![reply];
        while let Some(Some(reply)) = self.pending.next().now_or_never() {
            replies.push(reply);
        }
        for reply in &replies {
            self.waiting.remove(&reply.request_id);
        }
        self.send_replies(replies).await
    }

    async fn renew(&mut self, number: u64) -> Result<Next> {
        let entry = &self.attached.entry;
        let generation = self.attached.link.generation();
        // A session that has ended is told so by its ending; an old
        // generation is about to be closed.
        let Ok(lock_losses) = entry.volume.renew(entry.id, generation) else {
            return Ok(Next::Continue);
        };
        entry.mark_renewed();
        let ack = v1::HeartbeatAck {
            number,
            lease_millis: lease_millis(),
            now: Some(wire::timestamp_to_wire(clock::wall_now())),
            lock_losses,
        };
        self.send(v1::ServerFrame { heartbeat_ack: Some(ack), ..v1::ServerFrame::default() }).await
    }

    /// Verified beside everything else: admin may have to be asked.
    async fn reauthenticate(&mut self, request: v1::Reauthenticate) -> Result<Next> {
        let number = request.number;
        let text = zeroize::Zeroizing::new(request.token.map(|t| t.value).unwrap_or_default());
        let token = match Token::parse(&text) {
            Ok(_) if self.reauthenticating.is_some() => {
                Err(Error::new(Code::RateLimited, "a re-authentication is under way"))
            }
            parsed => parsed,
        };
        let token = match token {
            Ok(token) => token,
            Err(error) => return self.reauthenticated(answer(number, Err(error))).await,
        };
        let (service, entry) = (Arc::clone(self.service), Arc::clone(&self.attached.entry));
        let peer = self.peer;
        let work = async move {
            answer(number, reauthenticate::reauthenticate(service, entry, peer, token).await)
        };
        self.reauthenticating = Some(work.boxed());
        Ok(Next::Continue)
    }

    async fn reauthenticated(&mut self, reauthenticated: v1::Reauthenticated) -> Result<Next> {
        let reauthenticated = Some(reauthenticated);
        self.send(v1::ServerFrame { reauthenticated, ..v1::ServerFrame::default() }).await
    }

    /// The flags that hold now: whatever led here, the latest are told.
    async fn tell_flags(&mut self) -> Result<Next> {
        let entry = &self.attached.entry;
        // A session that has ended is told so by its ending.
        let Ok(flags) = entry.volume.session_flags(entry.id) else { return Ok(Next::Continue) };
        let flags_changed = Some(flags);
        self.send(v1::ServerFrame { flags_changed, ..v1::ServerFrame::default() }).await
    }

    async fn send_replies(&mut self, replies: Vec<v1::Reply>) -> Result<Next> {
        for frame in frames::pack(replies) {
            if self.send(frame).await? == Next::End {
                return Ok(Next::End);
            }
        }
        Ok(Next::Continue)
    }

    /// Waits while the client does not read; its cut does not wait for that
    /// much longer.
    async fn send(&mut self, frame: v1::ServerFrame) -> Result<Next> {
        self.outgoing.push(&frame)?;
        let mut ending = self.attached.link.ending();
        let late = async {
            ended(&mut ending).await;
            tokio::time::sleep(LAST_WRITE).await;
        };
        tokio::select! {
            biased;
            sent = self.outgoing.flush() => sent.map(|()| Next::Continue),
            // Half a frame is out: the client learns of its end when it comes back.
            () = late => Ok(Next::End),
        }
    }

    /// Tells the client why it ends, and gives it a lease's time to say that
    /// it serves nothing any more.
    async fn finish<R: AsyncRead + Unpin>(
        &mut self,
        ending: Ending,
        reader: &mut FrameReader<R>,
    ) -> Result<()> {
        // Locks that are waited for are given up.
        self.pending.clear();
        self.waiting.clear();
        self.reauthenticating = None;
        let Ending::Cut(detail) = ending else { return Ok(()) };
        let cut = v1::Cut { reason: Some(detail) };
        let frame = v1::ServerFrame { cut: Some(cut), ..v1::ServerFrame::default() };
        let told = tokio::time::timeout(limits::LEASE, async {
            if self.outgoing.send(&frame).await.is_err() {
                return;
            }
            loop {
                let told = match reader.next::<v1::ClientFrame>().await {
                    Ok(Some(frame)) if frame.cut_done => {
                        self.attached.entry.mark_cut_done();
                        return;
                    }
                    Ok(Some(frame)) if frame.goodbye => return,
                    // What it had sent before it knew.
                    Ok(Some(frame)) => self.refuse(&frame).await,
                    Ok(None) | Err(_) => return,
                };
                if told.is_err() {
                    return;
                }
            }
        });
        // After a lease the client has stopped by itself.
        let _ = told.await;
        Ok(())
    }

    async fn refuse(&mut self, frame: &v1::ClientFrame) -> Result<()> {
        let entry = &self.attached.entry;
        let error = match block(|| entry.volume.session_key(entry.id)) {
            Err(error) => error,
            Ok(_) => Error::bare(Code::SessionUnknown),
        };
        let replies = frame.ops.iter().map(|op| frames::error_reply(op.request_id, &error));
        for frame in frames::pack(replies.collect()) {
            self.outgoing.push(&frame)?;
        }
        self.outgoing.flush().await
    }
}

fn answer(number: u64, outcome: Result<u64>) -> v1::Reauthenticated {
    match outcome {
        Ok(token_millis) => v1::Reauthenticated { number, refused: None, token_millis },
        Err(error) => {
            let refused = Some(wire::error_to_detail(&error));
            v1::Reauthenticated { number, refused, token_millis: 0 }
        }
    }
}

/// A waiting lock is given up when its caller is interrupted; everything else
/// finishes as it would have.
fn may_be_given_up(op: &v1::Op) -> bool {
    matches!(&op.body, Some(Body::SetLock(lock)) if lock.wait)
}
