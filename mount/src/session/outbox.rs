//! What is to be sent and what is not answered yet. One lock, held for the
//! time of a map operation only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::clone_error;
use super::slots::{Slot, Slots};

/// What a waiting caller gets.
pub(super) type Answer = Result<v1::reply::Result>;

/// Bytes of a frame besides its operations: acknowledgements and tags.
const FRAME_SLACK: usize = 4096;
/// Acknowledgements and cancellations in one frame.
const CONTROLS_PER_FRAME: usize = 128;

/// An operation from its issue to its answer.
#[derive(Debug)]
struct Pending {
    op: v1::Op,
    /// `None` when nobody waits any more.
    answer: Option<oneshot::Sender<Answer>>,
    slot: Option<Slot>,
    waiting_lock: bool,
    sent: bool,
    _places: Places,
}

/// An operation to be issued.
#[derive(Debug)]
pub(super) struct NewOp {
    pub(super) caller: v1::Caller,
    pub(super) body: v1::op::Body,
    pub(super) slot: Option<Slot>,
    pub(super) waiting_lock: bool,
    pub(super) places: Places,
}

/// What an operation occupies until it is answered, beside its slot.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) _in_flight: OwnedSemaphorePermit,
    /// Of those that may have to wait for other mounts.
    pub(super) _waiting: Option<OwnedSemaphorePermit>,
    pub(super) _waiting_mutation: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    /// Issued and not sent on this connection, in order.
    queue: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    recalls_done: VecDeque<u64>,
    cancels: VecDeque<u64>,
    cut_done: bool,
    goodbye: bool,
    /// Set when the session has ended: nothing is accepted any more.
    ended: Option<Arc<Error>>,
}

/// The queue to meta and the table of unanswered operations.
#[derive(Debug)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    slots: Slots,
    frame_max: usize,
    /// There is something to send.
    pub(super) wake: Notify,
    /// The table became empty.
    pub(super) idle: Notify,
}

impl Outbox {
    pub(super) fn new(slots: Slots, frame_max: usize) -> Outbox {
        Outbox {
            inner: Mutex::new(Inner { next_id: 1, ..Inner::default() }),
            slots,
            frame_max,
            wake: Notify::new(),
            idle: Notify::new(),
        }
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Queues an operation; its id and where the answer comes.
    pub(super) fn submit(&self, new: NewOp) -> Result<(u64, oneshot::Receiver<Answer>)> {
        let (sender, receiver) = oneshot::channel();
        let (slot, sequence) = new.slot.as_ref().map_or((0, 0), |s| (s.index, s.sequence));
        let mut op = v1::Op {
            request_id: u64::MAX,
            slot,
            sequence,
            caller: Some(new.caller),
            body: Some(new.body),
        };
        let length = op.encoded_len();
        let mut inner = self.inner.lock();
        let refused = match &inner.ended {
            Some(error) => Some(clone_error(error)),
            None if length + FRAME_SLACK > self.frame_max => {
                Some(Error::new(Code::FsRange, format!("an operation of {length} bytes")))
            }
            None => None,
        };
        if let Some(error) = refused {
            drop(inner);
            if let Some(slot) = new.slot {
                let unused = slot.sequence.saturating_sub(1);
                self.slots.give_back_at(slot, unused);
            }
            return Err(error);
        }
        let id = inner.next_id;
        inner.next_id += 1;
        op.request_id = id;
        let pending = Pending {
            op,
            answer: Some(sender),
            slot: new.slot,
            waiting_lock: new.waiting_lock,
            sent: false,
            _places: new.places,
        };
        inner.pending.insert(id, pending);
        inner.queue.push_back(id);
        drop(inner);
        self.wake.notify_one();
        Ok((id, receiver))
    }

    /// The next frame: everything that is queued, as far as one frame holds
    /// it. `None` when there is nothing to say.
    pub(super) fn next_frame(&self) -> Option<v1::ClientFrame> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let mut frame = v1::ClientFrame::default();
        let mut room = self.frame_max.saturating_sub(FRAME_SLACK);
        while frame.ops.len() < limits::OPS_PER_FRAME_MAX {
            let Some(id) = inner.queue.front() else { break };
            let Some(pending) = inner.pending.get_mut(id) else {
                // Answered or given up before it was sent.
                inner.queue.pop_front();
                continue;
            };
            // 16: tag and length of the field around it.
            let length = pending.op.encoded_len() + 16;
            if length > room && !frame.ops.is_empty() {
                break;
            }
            room = room.saturating_sub(length);
            pending.sent = true;
            frame.ops.push(pending.op.clone());
            inner.queue.pop_front();
        }
        let count = inner.recalls_done.len().min(CONTROLS_PER_FRAME);
        frame.recalls_done = inner.recalls_done.drain(..count).collect();
        let count = inner.cancels.len().min(CONTROLS_PER_FRAME);
        frame.cancel_request_ids = inner.cancels.drain(..count).collect();
        frame.cut_done = std::mem::take(&mut inner.cut_done);
        if inner.goodbye && inner.queue.is_empty() {
            inner.goodbye = false;
            frame.goodbye = true;
        }
        let silent = frame.ops.is_empty()
            && frame.recalls_done.is_empty()
            && frame.cancel_request_ids.is_empty()
            && !frame.cut_done
            && !frame.goodbye;
        (!silent).then_some(frame)
    }

    /// An answer came. One for an operation nobody knows is dropped: it was
    /// given up.
    pub(super) fn complete(&self, reply: v1::Reply) {
        let mut inner = self.inner.lock();
        let Some(pending) = inner.pending.remove(&reply.request_id) else { return };
        let idle = inner.pending.is_empty();
        drop(inner);
        let Pending { answer, slot, .. } = pending;
        if let Some(slot) = slot {
            self.slots.give_back(slot);
        }
        if let Some(answer) = answer {
            // The caller may have gone in this moment: nobody misses it.
            let _ = answer.send(parse_reply(reply));
        }
        if idle {
            self.idle.notify_waiters();
        }
    }

    /// The caller has gone: a waiting lock is given up at meta, a read that
    /// was not sent is forgotten, anything else runs to its end.
    pub(super) fn abandon(&self, id: u64) {
        let mut inner = self.inner.lock();
        let Some(pending) = inner.pending.get_mut(&id) else { return };
        pending.answer = None;
        let (sent, has_slot, lock) = (pending.sent, pending.slot.is_some(), pending.waiting_lock);
        if !sent && !has_slot {
            inner.pending.remove(&id);
            return;
        }
        if lock {
            inner.cancels.push_back(id);
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// A new connection is in use: whatever is not answered is sent again, in
    /// the order of its issue. What nobody waits for any more is not: meta's
    /// `seen` sequences tell whether it was carried out.
    pub(super) fn requeue(&self, seen: &[u64]) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.cancels.clear();
        let mut returned = Vec::new();
        inner.pending.retain(|_, pending| {
            pending.sent = false;
            if pending.answer.is_some() {
                return true;
            }
            let Some(slot) = &pending.slot else { return false };
            let known = usize::try_from(slot.index).ok().and_then(|index| seen.get(index));
            // Carried out, or not (meta keeps no sequence of what failed):
            // either way the slot goes on without it.
            let resume_at = match known {
                Some(seen) if *seen == slot.sequence => slot.sequence,
                Some(seen) if *seen < slot.sequence => slot.sequence - 1,
                _ => return true,
            };
            returned.extend(pending.slot.take().map(|slot| (slot, resume_at)));
            false
        });
        inner.queue = inner.pending.keys().copied().collect();
        let idle = inner.pending.is_empty();
        drop(guard);
        for (slot, last) in returned {
            self.slots.give_back_at(slot, last);
        }
        if idle {
            self.idle.notify_waiters();
        }
        self.wake.notify_one();
    }

    /// The session has ended: all waiting and all later calls fail.
    pub(super) fn fail_all(&self, error: &Arc<Error>) {
        let mut inner = self.inner.lock();
        inner.ended.get_or_insert_with(|| Arc::clone(error));
        inner.queue.clear();
        let pending = std::mem::take(&mut inner.pending);
        drop(inner);
        for (_, pending) in pending {
            if let Some(slot) = pending.slot {
                self.slots.give_back(slot);
            }
            if let Some(answer) = pending.answer {
                let _ = answer.send(Err(clone_error(error)));
            }
        }
        self.idle.notify_waiters();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.inner.lock().pending.is_empty()
    }

    pub(super) fn recall_done(&self, id: u64) {
        self.inner.lock().recalls_done.push_back(id);
        self.wake.notify_one();
    }

    pub(super) fn cut_done(&self) {
        self.inner.lock().cut_done = true;
        self.wake.notify_one();
    }

    pub(super) fn goodbye(&self) {
        self.inner.lock().goodbye = true;
        self.wake.notify_one();
    }
}

fn parse_reply(reply: v1::Reply) -> Answer {
    match reply.result {
        Some(v1::reply::Result::Error(detail)) => {
            Err(flexfs_common::wire::error_from_detail(&detail).unwrap_or_else(|e| e))
        }
        Some(result) => Ok(result),
        None => Err(Error::new(Code::ProtocolInvalid, "an answer without a result")),
    }
}
