//! The right to buffer writes to a file: one mount has it, and nobody else
//! keeps attributes or contents of the file meanwhile. It lasts until it is
//! recalled, the mount has closed the file, or its session has ended. Who wants
//! to see or change the file waits until what was written has arrived, or until
//! the lease of the holder is over: then the right passes on, and what its
//! holder still has is refused by the number of the right.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Result, limits};
use flexfs_proto::v1;

use super::{Batches, Granting, Inner, PLACES_MAX, Place, Rights, recall};
use crate::volume::recalls::{RecallQueue, Recalled, Ticket, settled};
use crate::volume::session::Session;

/// A right that was asked for by itself is not recalled for so long: two mounts
/// that write to one file in turn would else take it from each other before
/// either has written.
const HOLD: Duration = Duration::from_millis(5);
/// For so long after a right was recalled nobody but the one who waited for it
/// is granted anything on the file.
const QUIET: Duration = Duration::from_millis(20);
/// How long others wait at most for a holder that is still committing what it
/// had written, each commit within a lease of the one before.
const COMMITTING_MAX: Duration = Duration::from_secs(60);
/// Directories to which somebody has the right, per volume: a quarter of all
/// places, which files need too.
const MAKERS_MAX: usize = PLACES_MAX / 4;

/// Who may buffer writes, or make files.
#[derive(Debug)]
pub(super) struct Writer {
    session: SessionId,
    number: u64,
    queue: Arc<RecallQueue>,
    held_until: BootTime,
    /// The right to a directory ends by itself.
    ends: Option<BootTime>,
    recall: Option<Arc<Ticket>>,
}

/// What an operation has to wait for before it may be carried out.
#[derive(Debug, Default)]
pub(in crate::volume) struct Blocked {
    tickets: Vec<Arc<Ticket>>,
    inos: Vec<Ino>,
    until: Option<BootTime>,
    /// What was read may be older than what has arrived since.
    stale: bool,
    /// Rows of numbers that are taken back then.
    numbers: Vec<Vec<u8>>,
}

impl Blocked {
    pub(in crate::volume) fn is_nothing(&self) -> bool {
        let nothing = self.tickets.is_empty() && self.until.is_none() && !self.stale;
        nothing && self.numbers.is_empty()
    }

    /// Numbers that nobody has used when this is over are taken back.
    pub(in crate::volume) fn takes_back(&mut self, rows: Vec<Vec<u8>>) {
        self.numbers = rows;
    }

    pub(in crate::volume) fn take_numbers(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.numbers)
    }

    /// Ends when the operation may be tried again.
    pub(in crate::volume) async fn over(&mut self) {
        settled(std::mem::take(&mut self.tickets)).await;
        if let Some(until) = self.until.take() {
            tokio::time::sleep(until.left()).await;
        }
    }

    fn not_before(&mut self, at: BootTime) {
        self.until = self.until.max(Some(at));
    }

    pub(in crate::volume) fn wait_for(&mut self, ticket: &Arc<Ticket>) {
        if !self.tickets.iter().any(|other| Arc::ptr_eq(other, ticket)) {
            self.tickets.push(Arc::clone(ticket));
        }
    }
}

impl Place {
    /// Does another than this session buffer writes?
    pub(super) fn is_written_by_another(&self, session: SessionId) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.session != session && !writer.is_gone())
    }
}

impl Writer {
    /// Its session is over, or its time. (One whose lease is over holds on
    /// until somebody asks.)
    pub(super) fn is_gone(&self) -> bool {
        self.queue.is_ended() || self.ends.is_some_and(BootTime::passed)
    }

    /// Is it the right to a directory?
    pub(super) fn makes(&self) -> bool {
        self.ends.is_some()
    }

    /// Was it recalled, and that is over?
    fn is_recalled(&self) -> bool {
        self.recall.as_ref().is_some_and(|ticket| ticket.is_over())
    }
}

impl Inner {
    /// `stamp`: what this writer has committed came before it.
    fn forget_writer(&mut self, ino: Ino, stamp: u64) {
        if let Some(place) = self.places.get_mut(&ino)
            && place.writer.take().is_some()
            && let Some(latest) = self.written.get_mut(super::class(ino))
        {
            *latest = stamp;
        }
    }

    /// Sessions of before a restart may have written to files that they have
    /// open.
    fn wait_for_unknown(
        &self,
        (by, ino): (SessionId, Ino),
        may_write: &dyn Fn(SessionId, Ino) -> Result<bool>,
        blocked: &mut Blocked,
    ) -> Result<()> {
        for (session, ticket) in &self.unknown_writers {
            if *session != by && !ticket.is_over() && may_write(*session, ino)? {
                blocked.wait_for(ticket);
            }
        }
        Ok(())
    }
}

impl Rights {
    /// Is there nobody who may have written something that meta does not have?
    /// Cheap: asked with each answer.
    pub(in crate::volume) fn has_no_writers(&self) -> bool {
        !self.may_have_writers.load(Ordering::Acquire)
    }

    /// Asks those who may buffer writes to these files to send what they have.
    /// What comes back has to be waited for before `by` sees or changes them.
    /// `stamp` was taken before what is to be told was read.
    ///
    /// # Errors
    /// What `may_write` (has this session the file open?) fails with.
    pub(in crate::volume) fn recall_writers(
        &self,
        by: SessionId,
        (inos, stamp): (&[Ino], u64),
        may_write: &dyn Fn(SessionId, Ino) -> Result<bool>,
    ) -> Result<Blocked> {
        let mut blocked = Blocked::default();
        let now = BootTime::now();
        let mut batches = Batches::default();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        for ino in inos {
            inner.wait_for_unknown((by, *ino), may_write, &mut blocked)?;
            blocked.stale |= inner.written.get(super::class(*ino)).is_some_and(|at| *at > stamp);
            let Some(place) = inner.places.get_mut(ino) else { continue };
            if !place.is_written_by_another(by) {
                continue;
            }
            let Some(writer) = &mut place.writer else { continue };
            if writer.recall.is_none() && writer.held_until > now {
                blocked.not_before(writer.held_until);
                continue;
            }
            let ticket = writer
                .recall
                .get_or_insert_with(|| batches.of_writer(writer.session, &writer.queue, *ino));
            blocked.wait_for(ticket);
            blocked.inos.push(*ino);
            place.waited = Some((by, now.after(QUIET)));
        }
        // Not among the open ones, for which repeated answers wait: a commit that
        // such a recall is waiting for may be one of those.
        for (queue, ticket, recalled) in batches.0.into_values() {
            queue.push(recalled, ticket);
        }
        Ok(blocked)
    }

    /// A session wants the right to buffer writes: recalls what others may keep
    /// of the file.
    pub(in crate::volume) fn make_way(&self, by: SessionId, ino: Ino, blocked: &mut Blocked) {
        let now = BootTime::now();
        let mut tickets = Vec::new();
        let mut batches = Batches::default();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let others =
            inner.unknown.iter().filter(|(session, _)| session.is_none() || *session != Some(by));
        tickets.extend(
            others.filter(|(_, ticket)| !ticket.is_over()).map(|(_, ticket)| Arc::clone(ticket)),
        );
        if let Some(place) = inner.places.get_mut(&ino) {
            // Its own right is being taken back: first that.
            let own = place.writer.as_ref().filter(|writer| writer.session == by);
            let under_way = own.and_then(|writer| writer.recall.as_ref());
            tickets.extend(under_way.filter(|ticket| !ticket.is_over()).map(Arc::clone));
            if let Some(until) = place.is_waited_for_by_another(by, now) {
                blocked.not_before(until);
            } else if under_way.is_none_or(|ticket| ticket.is_over()) {
                // (Else others wait for this very session.)
                place.waited = Some((by, now.after(QUIET)));
            }
            for keeper in &mut place.attributes {
                recall(Some(by), keeper, now, &mut tickets, |keeper| {
                    batches.of(keeper).inos.push(ino.0);
                });
            }
        }
        for (session, (queue, ticket, recalled)) in batches.0 {
            inner.open.push((Some(session), Arc::clone(&ticket)));
            queue.push(recalled, ticket);
        }
        drop(guard);
        tickets.iter().for_each(|ticket| blocked.wait_for(ticket));
    }

    /// Everything to which these sessions have such a right.
    pub(in crate::volume) fn written_by(&self, sessions: &[SessionId]) -> Vec<Ino> {
        let inner = self.inner.lock();
        let is_theirs = |place: &Place| {
            place.writer.as_ref().is_some_and(|writer| sessions.contains(&writer.session))
        };
        inner.places.iter().filter(|(_, place)| is_theirs(place)).map(|(ino, _)| *ino).collect()
    }

    /// What `by` waited for is over: rights that were given up, or ran out, are
    /// no more. Under the writer lock: nothing commits under such a right
    /// after this.
    pub(in crate::volume) fn pass_on(&self, by: SessionId, blocked: &Blocked) {
        let stamp = self.stamp();
        let mut inner = self.inner.lock();
        for ino in &blocked.inos {
            let writer = inner.places.get(ino).and_then(|place| place.writer.as_ref());
            if writer.is_some_and(Writer::is_recalled) {
                inner.forget_writer(*ino, stamp);
                if let Some(place) = inner.places.get_mut(ino) {
                    place.waited = Some((by, BootTime::now().after(QUIET)));
                }
            }
        }
    }

    /// Has this session the right of this number, or may it have had it before
    /// a restart?
    pub(in crate::volume) fn has_right(&self, by: SessionId, ino: Ino, number: u64) -> bool {
        let inner = self.inner.lock();
        let writer = inner.places.get(&ino).and_then(|place| place.writer.as_ref());
        writer.is_some_and(|writer| writer.session == by && writer.number == number)
            || inner.unknown_writers.iter().any(|(of, ticket)| *of == by && !ticket.is_over())
    }

    /// May a session commit what it wrote under the right of this number?
    /// Under the writer lock. Who waits for it waits on, as long as commits come.
    pub(in crate::volume) fn allows_commit(&self, by: SessionId, ino: Ino, number: u64) -> bool {
        let inner = self.inner.lock();
        let writer = inner.places.get(&ino).and_then(|place| place.writer.as_ref());
        let is_his = |w: &&Writer| w.session == by && w.number == number && !w.is_gone();
        if let Some(writer) = writer.filter(is_his) {
            writer.recall.iter().for_each(is_coming);
            return true;
        }
        let mut of_before = inner.unknown_writers.iter();
        let own = of_before.find(|(session, ticket)| *session == by && !ticket.is_over());
        own.iter().for_each(|(_, ticket)| is_coming(ticket));
        own.is_some()
    }

    /// A session has closed the file.
    pub(in crate::volume) fn closed(&self, session: SessionId, ino: Ino) {
        let stamp = self.stamp();
        let mut inner = self.inner.lock();
        let writer = inner.places.get(&ino).and_then(|place| place.writer.as_ref());
        let Some(writer) = writer.filter(|writer| writer.session == session) else { return };
        // One that is recalled is waited for until it has answered.
        if writer.recall.is_none() {
            inner.forget_writer(ino, stamp);
        }
    }

    /// As though the lease of who has the right to this file were over.
    #[cfg(test)]
    pub(in crate::volume) fn pretend_lapsed(&self, ino: Ino) {
        let inner = self.inner.lock();
        let writer = inner.places[&ino].writer.as_ref().unwrap();
        writer.recall.as_ref().unwrap().pretend_over();
    }

    /// How much longer who asked for this file waits.
    #[cfg(test)]
    pub(in crate::volume) fn waited_for(&self, ino: Ino) -> Duration {
        let inner = self.inner.lock();
        inner.places[&ino].writer.as_ref().unwrap().recall.as_ref().unwrap().left()
    }

    /// Asks a session for the numbers that it has ahead. One question at a time.
    pub(in crate::volume) fn recall_numbers(&self, session: &Session) -> Option<Arc<Ticket>> {
        let queue = session.recalls.as_ref().filter(|queue| queue.knows().making)?;
        let mut inner = self.inner.lock();
        inner.numbers.retain(|_, ticket| !ticket.is_over());
        if let Some(ticket) = inner.numbers.get(&session.id) {
            return Some(Arc::clone(ticket));
        }
        let ticket = Ticket::new(queue.lease_end());
        inner.numbers.insert(session.id, Arc::clone(&ticket));
        drop(inner);
        queue.push(Recalled { numbers: true, ..Recalled::default() }, Arc::clone(&ticket));
        Some(ticket)
    }

    /// What these sessions of before a restart may have written or made, where
    /// it is not known.
    pub(in crate::volume) fn wait_for_recovered(&self, of: &[SessionId], blocked: &mut Blocked) {
        let inner = self.inner.lock();
        for (session, ticket) in &inner.unknown_writers {
            if of.contains(session) && !ticket.is_over() {
                blocked.wait_for(ticket);
            }
        }
    }

    /// A session of before a restart: it may have written to whatever it has
    /// open for writing.
    pub(super) fn recovered_writer(&self, session: &Session) {
        let Some(queue) = session.recalls.as_ref().filter(|queue| queue.knows().writing) else {
            return;
        };
        let ticket = Ticket::new(BootTime::now().after(limits::LEASE + limits::LEASE_MARGIN));
        let mut inner = self.inner.lock();
        self.may_have_writers.store(true, Ordering::Release);
        inner.unknown_writers.push((session.id, Arc::clone(&ticket)));
        queue.push(Recalled { all_writes: true, ..Recalled::default() }, ticket);
    }
}

/// What is waited for is coming: another lease, up to a limit.
fn is_coming(ticket: &Arc<Ticket>) {
    let next = BootTime::now().after(limits::LEASE + limits::LEASE_MARGIN);
    ticket.covers(next.min(ticket.since().after(COMMITTING_MAX)));
}

impl Batches {
    fn of_writer(&mut self, session: SessionId, queue: &Arc<RecallQueue>, ino: Ino) -> Arc<Ticket> {
        let until = queue.lease_end();
        let (_, ticket, recalled) = self
            .0
            .entry(session)
            .or_insert_with(|| (Arc::clone(queue), Ticket::new(until), Recalled::default()));
        recalled.write_inos.push(ino.0);
        Arc::clone(ticket)
    }
}

impl Granting<'_> {
    /// Grants the right to buffer writes to a file that was opened for writing,
    /// if nobody else has it or keeps anything of the file. `held`: it was asked
    /// for by itself.
    pub(super) fn write_right(&mut self, attr: &mut v1::Attr, held: bool) {
        if !self.queue.knows().writing || attr.kind() != v1::FileKind::Regular {
            return;
        }
        let held_until = if held { self.now.after(HOLD) } else { self.now };
        if let Some(number) = self.right_to(Ino(attr.ino), (held_until, None)) {
            attr.write_right = number;
        }
    }

    /// Grants the right to make files in a directory that is new.
    pub(super) fn make_right(&mut self, entry: &mut v1::Entry) {
        let Some(attr) = entry.attr.as_ref().filter(|_| self.queue.knows().making) else { return };
        if self.inner.makers >= MAKERS_MAX {
            return;
        }
        let ends = self.now.after(limits::MAKE_RIGHT + limits::MAKE_RIGHT_MARGIN);
        if let Some(number) = self.right_to(Ino(attr.ino), (self.now, Some(ends))) {
            self.inner.makers += 1;
            entry.make_right = number;
            entry.make_right_millis =
                u32::try_from(limits::MAKE_RIGHT.as_millis()).unwrap_or(u32::MAX);
        }
    }

    /// The number of the right to this inode, if the session may have it.
    fn right_to(
        &mut self,
        ino: Ino,
        (held_until, ends): (BootTime, Option<BootTime>),
    ) -> Option<u64> {
        let (session, now) = (self.session, self.now);
        let others = |(unknown, ticket): &(Option<SessionId>, Arc<Ticket>)| {
            *unknown != Some(session) && !ticket.is_over()
        };
        if self.inner.unknown.iter().any(others) {
            return None;
        }
        let queue = Arc::clone(self.queue);
        let number = self.inner.next_number;
        let place = self.any_place(ino)?;
        if place.is_waited_for_by_another(session, now).is_some() {
            return None;
        }
        let is_kept = |keeper: &super::Keeper| keeper.session != session && !keeper.is_gone(now);
        if place.attributes.iter().any(is_kept) {
            return None;
        }
        match &mut place.writer {
            Some(writer) if writer.is_gone() => {}
            // Given up, or over: another one under another number.
            Some(writer) if writer.session == session && writer.is_recalled() => {}
            Some(writer) if writer.session == session && writer.recall.is_none() => {
                return Some(writer.number);
            }
            Some(_) => return None,
            None => {}
        }
        place.writer = Some(Writer { session, number, queue, held_until, ends, recall: None });
        self.inner.next_number += 1;
        self.rights.may_have_writers.store(true, Ordering::Release);
        Some(number)
    }
}
