//! Recalls on their way to one mount: sent, sent again on a new connection,
//! answered, or over because the right's time is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::limits;
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::record::SessionRow;

/// One recall, as those see it who wait for it.
#[derive(Debug)]
pub(super) struct Ticket {
    done: CancellationToken,
    /// When every right that it recalls has ended by itself: [`BootTime`] in
    /// nanoseconds.
    until: AtomicU64,
    since: BootTime,
}

impl Ticket {
    pub(super) fn new(until: BootTime) -> Arc<Ticket> {
        let (done, since) = (CancellationToken::new(), BootTime::now());
        Arc::new(Ticket { done, until: AtomicU64::new(until.as_nanos()), since })
    }

    /// When it began.
    pub(super) fn since(&self) -> BootTime {
        self.since
    }

    /// It recalls another right as well, which ends then.
    pub(super) fn covers(&self, until: BootTime) {
        self.until.fetch_max(until.as_nanos(), Ordering::AcqRel);
    }

    fn until(&self) -> BootTime {
        BootTime::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// Is there nothing left to wait for?
    pub(super) fn is_over(&self) -> bool {
        self.done.is_cancelled() || self.until().passed()
    }

    /// As though its time had come.
    #[cfg(test)]
    pub(super) fn pretend_over(&self) {
        self.done.cancel();
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> Duration {
        self.until().left()
    }

    async fn over(&self) {
        while !self.is_over() {
            tokio::select! {
                () = self.done.cancelled() => return,
                () = tokio::time::sleep(self.until().left()) => {}
            }
        }
    }
}

/// Waits until everything recalled is given up or over: a mount that does not
/// answer delays others by at most its lease.
pub(super) async fn settled(tickets: Vec<Arc<Ticket>>) {
    for ticket in tickets {
        ticket.over().await;
    }
}

/// An honest mount answers a recall within this, on a busy machine.
const PROMPT: Duration = Duration::from_secs(1);

/// What a recall takes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recalled {
    pub(super) inos: Vec<u64>,
    pub(super) name_inos: Vec<u64>,
    pub(super) all: bool,
    pub(super) write_inos: Vec<u64>,
    pub(super) all_writes: bool,
    pub(super) numbers: bool,
}

#[derive(Debug)]
struct Open {
    recalled: Recalled,
    ticket: Arc<Ticket>,
    since: BootTime,
}

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    /// The connection that recalls go to.
    generation: u64,
    to_send: VecDeque<u64>,
    /// Not answered yet, oldest first. As many as the session has rights, at
    /// most.
    open: BTreeMap<u64, Open>,
    /// The session is over.
    ended: bool,
    /// A recall was answered later than a lease, because commits were coming.
    was_late: bool,
    /// Until then it is granted nothing: it left a recall unanswered.
    distrusted: Option<BootTime>,
}

/// Rights that a mount knows of, beside that to keep answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Knows {
    /// To buffer writes to a file.
    pub(super) writing: bool,
    /// To make files in a directory.
    pub(super) making: bool,
}

impl Knows {
    pub(super) fn of(row: &SessionRow) -> Knows {
        Knows { writing: row.write_rights, making: row.make_rights }
    }
}

/// The recalls of one session.
#[derive(Debug)]
pub struct RecallQueue {
    inner: Mutex<Inner>,
    wake: Notify,
    knows: Knows,
    /// When the session was last heard, [`BootTime`] in nanoseconds.
    heard: AtomicU64,
}

impl RecallQueue {
    /// A queue whose ids are above `ids_after`: answers to recalls of before a
    /// restart must not be taken for answers to those of after it.
    pub(super) fn new(ids_after: u64, knows: Knows) -> RecallQueue {
        let inner = Inner { next_id: ids_after, ..Inner::default() };
        let heard = AtomicU64::new(BootTime::now().as_nanos());
        RecallQueue { inner: Mutex::new(inner), wake: Notify::new(), knows, heard }
    }

    pub(super) fn knows(&self) -> Knows {
        self.knows
    }

    /// The session was heard: its lease begins anew.
    pub(super) fn heard(&self, at: BootTime) {
        self.heard.store(at.as_nanos(), Ordering::Release);
    }

    /// When its lease is over for everyone, if nothing more is heard of it.
    pub(super) fn lease_end(&self) -> BootTime {
        let heard = BootTime::from_nanos(self.heard.load(Ordering::Acquire));
        heard.after(limits::LEASE + limits::LEASE_MARGIN)
    }

    /// Sends a recall; `ticket` is over when it is answered.
    pub(super) fn push(&self, recalled: Recalled, ticket: Arc<Ticket>) {
        {
            let mut inner = self.inner.lock();
            if inner.ended {
                ticket.done.cancel();
                return;
            }
            inner.next_id += 1;
            let id = inner.next_id;
            inner.open.insert(id, Open { recalled, ticket, since: BootTime::now() });
            inner.to_send.push_back(id);
        }
        flexfs_common::failpoint!("meta-recall-queued");
        self.wake.notify_waiters();
    }

    /// A new connection: what is not answered is sent again.
    pub(super) fn attach(&self, generation: u64) {
        {
            let mut inner = self.inner.lock();
            inner.generation = generation;
            inner.to_send = inner.open.keys().copied().collect();
        }
        self.wake.notify_waiters();
    }

    /// The next recall for the connection of this generation.
    pub async fn next(&self, generation: u64) -> v1::Recall {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            if let Some(recall) = self.pop(generation) {
                return recall;
            }
            woken.await;
        }
    }

    fn pop(&self, generation: u64) -> Option<v1::Recall> {
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return None;
        }
        while let Some(id) = inner.to_send.pop_front() {
            if let Some(open) = inner.open.get(&id) {
                let Recalled { inos, name_inos, all, write_inos, all_writes, numbers } =
                    open.recalled.clone();
                return Some(v1::Recall {
                    id,
                    inos,
                    name_inos,
                    all,
                    write_inos,
                    all_writes,
                    numbers,
                });
            }
        }
        None
    }

    /// The mount has carried these out.
    pub fn answered(&self, ids: &[u64]) {
        let mut inner = self.inner.lock();
        for id in ids {
            if let Some(open) = inner.open.remove(id) {
                let took = BootTime::now().since(open.since);
                inner.was_late |= took > limits::LEASE + limits::LEASE_MARGIN;
                flexfs_common::failpoint!("meta-recall-answered");
                open.ticket.done.cancel();
            }
        }
    }

    /// Forgets what is over. True when something ran out without an answer, or
    /// was answered late: the session counts as late until `distrusted`.
    pub(super) fn lapse(&self, distrusted: BootTime) -> bool {
        let mut inner = self.inner.lock();
        let before = inner.open.len();
        inner.open.retain(|_, open| !open.ticket.is_over());
        let lapsed = std::mem::take(&mut inner.was_late) || inner.open.len() < before;
        if lapsed {
            inner.distrusted = Some(distrusted);
        }
        lapsed
    }

    /// Has a recall been unanswered for longer than it takes, or was one of a
    /// short time ago?
    pub(super) fn is_late(&self, now: BootTime) -> bool {
        let inner = self.inner.lock();
        if inner.distrusted.is_some_and(|until| until > now) {
            return true;
        }
        inner.open.first_key_value().is_some_and(|(_, open)| now.since(open.since) > PROMPT)
    }

    /// Has the session ended? Then it keeps nothing.
    pub(super) fn is_ended(&self) -> bool {
        self.inner.lock().ended
    }

    /// The session has ended: nothing of it is waited for.
    pub(super) fn end(&self) {
        let open = {
            let mut inner = self.inner.lock();
            inner.ended = true;
            std::mem::take(&mut inner.open)
        };
        open.values().for_each(|open| open.ticket.done.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalled(ino: u64) -> Recalled {
        Recalled { inos: vec![ino], ..Recalled::default() }
    }

    #[tokio::test]
    async fn a_recall_is_sent_until_it_is_answered_and_only_on_the_latest_connection() {
        let queue = RecallQueue::new(0, Knows::default());
        let ticket = Ticket::new(BootTime::now().after(Duration::from_secs(60)));
        queue.push(recalled(5), Arc::clone(&ticket));
        queue.attach(1);
        let first = queue.next(1).await;
        assert_eq!(first.inos, [5]);
        assert!(queue.pop(1).is_none(), "sent once a connection");
        queue.attach(2);
        assert!(queue.pop(1).is_none(), "the old connection gets nothing");
        assert_eq!(queue.next(2).await, first);
        assert!(!ticket.is_over());
        queue.answered(&[first.id + 1, first.id]);
        settled(vec![ticket]).await;
        queue.attach(3);
        assert!(queue.pop(3).is_none());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_time_of_the_right_or_the_session() {
        let queue = RecallQueue::new(0, Knows::default());
        let short = Ticket::new(BootTime::now());
        short.covers(BootTime::now().after(Duration::from_millis(30)));
        queue.push(recalled(5), Arc::clone(&short));
        let before = std::time::Instant::now();
        settled(vec![short]).await;
        assert!(before.elapsed() >= Duration::from_millis(20));
        let (now, minute) = (BootTime::now(), Duration::from_secs(60));
        assert!(!queue.is_late(now));
        assert!(queue.lapse(now.after(minute)), "it ran out without an answer");
        assert!(!queue.lapse(now.after(minute)));
        assert!(queue.is_late(now) && !queue.is_late(now.after(minute)));
        let long = Ticket::new(BootTime::now().after(Duration::from_secs(60)));
        queue.push(recalled(6), Arc::clone(&long));
        queue.end();
        settled(vec![long]).await;
        let late = Ticket::new(BootTime::now().after(Duration::from_secs(60)));
        queue.push(recalled(7), Arc::clone(&late));
        settled(vec![late]).await;
    }
}
