//! Who may keep what without asking: attributes and contents (many mounts at
//! once), and the names of a directory (one mount, because a kernel drops a
//! name only when nothing is under way in the directory, so that two mounts
//! could wait for one another). In memory alone: after a restart every
//! session counts as having everything until it says otherwise.
//!
//! A right is granted with an answer, for at most a lease. Before a change of
//! another session returns, it is recalled. The right to buffer writes has
//! rules of its own, see [`writers`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId, TokenId};
use flexfs_common::limits;
use flexfs_proto::v1;
use flexfs_proto::v1::reply;
use parking_lot::{Mutex, MutexGuard};

use super::recalls::{RecallQueue, Recalled, Ticket};
use super::session::Session;

mod writers;

pub(super) use writers::Blocked;
use writers::Writer;

/// Inodes with rights, per volume: some 150 bytes each.
const PLACES_MAX: usize = 262_144;
/// Changes are remembered by this many classes of inodes: enough that two
/// busy inodes seldom share one.
const CLASSES: usize = 4096;
/// Rights per volume: some 60 bytes each.
const KEEPERS_MAX: usize = 1 << 20;
/// How long a session that left a recall unanswered is granted nothing: others
/// waited for it.
const DISTRUST: Duration = Duration::from_secs(60);
/// Sessions of one token that do so within that time, each after the one
/// before, until none of the token's is granted anything: a mount that died
/// does not slow down its like, and who opens session after session to make
/// others wait cannot go on with it.
const LAPSES_MAX: u32 = 4;
/// Tokens that are remembered so; beyond, nobody is granted anything.
const LAPSED_MAX: usize = 65_536;
/// For this long after a recall nobody but the one who changed is granted
/// anything: whoever changes something often is not held up each time.
const QUIET: Duration = Duration::from_secs(1);

/// What an answer lets its mount keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    Attributes,
    /// And that this directory has, or has not, the name.
    Names(Ino),
}

/// Whether an answer may come with the right to buffer writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    Nothing,
    /// The file was opened for writing: if nobody has to give up anything.
    Open,
    /// It was asked for.
    Acquire,
    /// (No write.) It is a new directory, whose names its maker may keep.
    OwnNames,
}

/// A session that may keep something.
#[derive(Debug)]
struct Keeper {
    session: SessionId,
    queue: Arc<RecallQueue>,
    until: BootTime,
    /// It is being recalled.
    recall: Option<Arc<Ticket>>,
}

impl Keeper {
    fn is_gone(&self, now: BootTime) -> bool {
        self.until <= now
            || self.recall.as_ref().is_some_and(|ticket| ticket.is_over())
            || self.queue.is_ended()
    }
}

/// The rights on one inode.
#[derive(Debug, Default)]
struct Place {
    attributes: Vec<Keeper>,
    names: Option<Keeper>,
    writer: Option<Writer>,
    /// Until then only this session is granted anything.
    quiet: Option<(Option<SessionId>, BootTime)>,
    /// Likewise, and this one waited for the right to buffer writes, or for
    /// what had been written.
    waited: Option<(SessionId, BootTime)>,
}

impl Place {
    fn is_quiet_for(&self, session: SessionId, now: BootTime) -> bool {
        self.quiet.is_some_and(|(by, until)| until > now && by != Some(session))
            || self.is_waited_for_by_another(session, now).is_some()
    }

    /// Until when nobody but another session is granted the right to buffer.
    fn is_waited_for_by_another(&self, session: SessionId, now: BootTime) -> Option<BootTime> {
        let waited = self.waited.filter(|(by, until)| *until > now && *by != session);
        waited.map(|(_, until)| until)
    }

    fn is_over(&self, now: BootTime) -> bool {
        self.quiet.is_none_or(|(_, until)| until <= now)
            && self.waited.is_none_or(|(_, until)| until <= now)
            && self.attributes.iter().all(|keeper| keeper.is_gone(now))
            && self.names.as_ref().is_none_or(|keeper| keeper.is_gone(now))
            && self.writer.as_ref().is_none_or(Writer::is_gone)
    }
}

/// What the sessions of a token have left unanswered.
#[derive(Clone, Copy, Debug)]
struct Lapses {
    count: u32,
    until: BootTime,
}

#[derive(Debug)]
struct Inner {
    /// The stamp of the latest change, by class of inode.
    changed: Vec<u64>,
    /// The stamp when a right to buffer writes was last given up, likewise.
    written: Vec<u64>,
    places: HashMap<Ino, Place>,
    /// Sessions of before a restart, until they have given up everything;
    /// `None` stands for those that were lost.
    unknown: Vec<(Option<SessionId>, Arc<Ticket>)>,
    /// Of these, those that may have buffered writes, until they have sent them.
    unknown_writers: Vec<(SessionId, Arc<Ticket>)>,
    /// Recalls that are not over, and from whom, for answers that are repeated.
    open: Vec<(Option<SessionId>, Arc<Ticket>)>,
    /// Rights granted since the last look, and those found then.
    keepers: usize,
    /// Rights to directories, likewise.
    makers: usize,
    lapsed: HashMap<TokenId, Lapses>,
    /// Sessions that are asked for the numbers that they have ahead.
    numbers: HashMap<SessionId, Arc<Ticket>>,
    /// Of the next right to buffer writes. Higher than all of before a restart.
    next_number: u64,
    /// At the last sweep.
    had_writers: bool,
}

/// All rights of a volume. Its lock is held for a few hash operations.
#[derive(Debug)]
pub(super) struct Rights {
    /// Rises with every change that was published.
    stamp: AtomicU64,
    /// Was a right to buffer writes granted since the last look that found none?
    may_have_writers: AtomicBool,
    inner: Mutex<Inner>,
}

fn class(ino: Ino) -> usize {
    // Inode numbers are a keyed permutation: any bits will do.
    usize::try_from(ino.0 % CLASSES as u64).unwrap_or(0)
}

/// The recalls that a change makes necessary, one per session.
#[derive(Default)]
struct Batches(HashMap<SessionId, (Arc<RecallQueue>, Arc<Ticket>, Recalled)>);

impl Batches {
    /// The recall that takes this right back, and what is to be added to it.
    fn of(&mut self, keeper: &mut Keeper) -> &mut Recalled {
        let (_, ticket, recalled) = self.0.entry(keeper.session).or_insert_with(|| {
            (Arc::clone(&keeper.queue), Ticket::new(keeper.until), Recalled::default())
        });
        ticket.covers(keeper.until);
        keeper.recall = Some(Arc::clone(ticket));
        recalled
    }
}

impl Rights {
    /// No rights; those to buffer writes are numbered from here.
    pub(super) fn new(first_number: u64) -> Rights {
        let inner = Inner {
            changed: vec![0; CLASSES],
            written: vec![0; CLASSES],
            places: HashMap::new(),
            unknown: Vec::new(),
            unknown_writers: Vec::new(),
            open: Vec::new(),
            keepers: 0,
            makers: 0,
            lapsed: HashMap::new(),
            numbers: HashMap::new(),
            next_number: first_number,
            had_writers: false,
        };
        Rights {
            stamp: AtomicU64::new(0),
            may_have_writers: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// To be taken BEFORE the view that an answer is read from.
    pub(super) fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// A transaction was committed: recalls what others may keep of these
    /// inodes, and of the names in these directories. Under the writer lock.
    /// Their change must not be answered before the tickets are over.
    pub(super) fn publish(
        &self,
        By { session: by, holds_right }: By,
        changed: &[Ino],
        renamed: &[Ino],
    ) -> Vec<Arc<Ticket>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let stamp = self.stamp.load(Ordering::Acquire) + 1;
        let touched = || changed.iter().chain(renamed);
        for ino in touched() {
            if let Some(latest) = inner.changed.get_mut(class(*ino)) {
                *latest = stamp;
            }
        }
        self.stamp.store(stamp, Ordering::Release);
        let mut tickets = Vec::new();
        if touched().next().is_none() {
            return tickets;
        }
        inner.unknown.retain(|(_, ticket)| !ticket.is_over());
        let others =
            inner.unknown.iter().filter(|(session, _)| session.is_none() || *session != by);
        tickets.extend(others.filter(|_| !holds_right).map(|(_, ticket)| Arc::clone(ticket)));
        if inner.places.is_empty() {
            return tickets;
        }
        let now = BootTime::now();
        let mut batches = Batches::default();
        for ino in changed {
            let Some(place) = inner.places.get_mut(ino) else { continue };
            let mut found = false;
            for keeper in &mut place.attributes {
                found |= recall(by, keeper, now, &mut tickets, |keeper| {
                    batches.of(keeper).inos.push(ino.0);
                });
            }
            if found {
                place.quiet = Some((by, now.after(QUIET)));
            }
        }
        for ino in renamed {
            let Some(place) = inner.places.get_mut(ino) else { continue };
            let Some(keeper) = &mut place.names else { continue };
            let found = recall(by, keeper, now, &mut tickets, |keeper| {
                batches.of(keeper).name_inos.push(ino.0);
            });
            if found {
                place.quiet = Some((by, now.after(QUIET)));
            }
        }
        inner.open.retain(|(_, ticket)| !ticket.is_over());
        for (session, (queue, ticket, recalled)) in batches.0 {
            inner.open.push((Some(session), Arc::clone(&ticket)));
            queue.push(recalled, ticket);
        }
        tickets
    }

    /// Recalls everything from a session. The ticket is over when it has
    /// answered.
    pub(super) fn recall_all(&self, session: &Session) -> Option<Arc<Ticket>> {
        let queue = session.recalls.as_ref()?;
        let ticket = Ticket::new(BootTime::now().after(limits::LEASE + limits::LEASE_MARGIN));
        self.inner.lock().open.push((Some(session.id), Arc::clone(&ticket)));
        queue.push(Recalled { all: true, ..Recalled::default() }, Arc::clone(&ticket));
        Some(ticket)
    }

    /// A session of before a restart: nobody knows what it may keep, so that
    /// every change of others waits until it has given up everything.
    pub(super) fn recovered(&self, session: &Session) {
        if let Some(ticket) = self.recall_all(session) {
            self.inner.lock().unknown.push((Some(session.id), ticket));
        }
        self.recovered_writer(session);
    }

    /// Sessions of before a restart that are no more: nobody can be asked to
    /// give up what they may keep, so that every change waits for this.
    pub(super) fn lost(&self, ticket: &Arc<Ticket>) {
        let mut inner = self.inner.lock();
        inner.unknown.push((None, Arc::clone(ticket)));
        inner.open.push((None, Arc::clone(ticket)));
    }

    /// Everything that others than this session have not given up yet.
    pub(super) fn open(&self, by: SessionId) -> Vec<Arc<Ticket>> {
        let mut inner = self.inner.lock();
        inner.open.retain(|(_, ticket)| !ticket.is_over());
        let others = inner.open.iter().filter(|(session, _)| *session != Some(by));
        others.map(|(_, ticket)| Arc::clone(ticket)).collect()
    }

    /// Looks for recalls that ran out without an answer, and forgets what is
    /// over.
    pub(super) fn sweep(&self, sessions: &[Arc<Session>]) {
        let now = BootTime::now();
        let until = now.after(DISTRUST);
        let lapsed = |session: &&Arc<Session>| {
            session.recalls.as_ref().is_some_and(|recalls| recalls.lapse(until))
        };
        let mut late: Vec<TokenId> =
            sessions.iter().filter(lapsed).map(|session| session.token_id()).collect();
        let mut inner = self.inner.lock();
        inner.lapsed.retain(|_, lapses| lapses.until > now);
        late.sort_unstable();
        // Those of one machine that died lapse together, and count as one.
        late.dedup();
        for token in late {
            tracing::info!(%token, "a recall was not answered in time");
            if inner.lapsed.len() < LAPSED_MAX || inner.lapsed.contains_key(&token) {
                let lapses = inner.lapsed.entry(token).or_insert(Lapses { count: 0, until });
                lapses.count += 1;
                lapses.until = until;
            }
        }
        let (mut keepers, mut makers) = (0, 0);
        inner.places.retain(|_, place| {
            keepers += place.attributes.len() + usize::from(place.names.is_some());
            if place.writer.as_ref().is_some_and(|writer| writer.makes() && writer.is_gone()) {
                place.writer = None;
            }
            makers += usize::from(place.writer.as_ref().is_some_and(Writer::makes));
            !place.is_over(now)
        });
        inner.keepers = keepers;
        inner.makers = makers;
        inner.unknown_writers.retain(|(_, ticket)| !ticket.is_over());
        let any = !inner.unknown_writers.is_empty()
            || inner.places.values().any(|place| place.writer.is_some());
        // Found twice: whatever was read before the last one was given up is
        // answered by then.
        self.may_have_writers.store(any || inner.had_writers, Ordering::Release);
        inner.had_writers = any;
    }

    /// To grant rights with answers read after `stamp` was taken; `None` for
    /// a mount that does not know recalls, or does not answer them.
    pub(super) fn granting<'r>(&'r self, session: &'r Session, stamp: u64) -> Option<Granting<'r>> {
        let queue = session.recalls.as_ref()?;
        let now = BootTime::now();
        if queue.is_late(now) {
            return None;
        }
        let inner = self.inner.lock();
        let lapses = inner.lapsed.get(&session.token_id()).filter(|lapses| lapses.until > now);
        let distrusted = lapses.is_some_and(|lapses| lapses.count >= LAPSES_MAX);
        if distrusted || inner.lapsed.len() >= LAPSED_MAX {
            return None;
        }
        let rights = self;
        Some(Granting { rights, inner, session: session.id, queue, stamp, now })
    }
}

/// Recalls a right from another than the one who changed. True when there was
/// one.
fn recall(
    by: Option<SessionId>,
    keeper: &mut Keeper,
    now: BootTime,
    tickets: &mut Vec<Arc<Ticket>>,
    begin: impl FnOnce(&mut Keeper),
) -> bool {
    if Some(keeper.session) == by || keeper.is_gone(now) {
        return false;
    }
    if keeper.recall.is_none() {
        begin(keeper);
    }
    if let Some(ticket) = &keeper.recall
        && !tickets.iter().any(|other| Arc::ptr_eq(other, ticket))
    {
        tickets.push(Arc::clone(ticket));
    }
    true
}

/// Who has changed something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct By {
    /// `None`: the volume itself.
    pub(super) session: Option<SessionId>,
    /// Under the right to write to the file: nobody else kept anything of it,
    /// also before a restart.
    pub(super) holds_right: bool,
}

/// Rights being granted to one session.
pub(super) struct Granting<'r> {
    rights: &'r Rights,
    inner: MutexGuard<'r, Inner>,
    session: SessionId,
    queue: &'r Arc<RecallQueue>,
    stamp: u64,
    now: BootTime,
}

/// What a client is told: its own clock counts it from when it asked.
fn millis() -> u32 {
    u32::try_from(limits::LEASE.as_millis()).unwrap_or(0)
}

impl Granting<'_> {
    /// Grants what goes with an answer, and says so in it.
    pub(super) fn fill(&mut self, result: &mut reply::Result, (keep, wish): (Keep, Wish)) {
        match (wish, &mut *result) {
            (Wish::Nothing, _) => {}
            (Wish::OwnNames, reply::Result::Entry(entry)) => {
                if let Some(attr) = &entry.attr {
                    entry.own_names_cache_millis = self.names(Ino(attr.ino));
                }
                self.make_right(entry);
            }
            (Wish::OwnNames, _) => {}
            (_, reply::Result::Entry(v1::Entry { attr: Some(attr), .. }))
            | (_, reply::Result::Opened(v1::Opened { attr: Some(attr), .. }))
            | (_, reply::Result::Attr(attr)) => {
                self.write_right(attr, wish == Wish::Acquire);
            }
            _ => {}
        }
        let names = match keep {
            Keep::Nothing => return,
            Keep::Attributes => 0,
            Keep::Names(dir) => self.names(dir),
        };
        match result {
            reply::Result::Entry(entry) => {
                entry.name_cache_millis = names;
                self.attr(entry.attr.as_mut());
            }
            reply::Result::Attr(attr) => self.attr(Some(attr)),
            reply::Result::Opened(opened) => self.attr(opened.attr.as_mut()),
            reply::Result::DirPage(page) => {
                page.name_cache_millis = names;
                page.entries.iter_mut().for_each(|entry| self.attr(entry.attr.as_mut()));
            }
            _ => {}
        }
    }

    /// The name is not there: may that be remembered? Milliseconds.
    pub(super) fn names(&mut self, dir: Ino) -> u32 {
        let (session, now) = (self.session, self.now);
        let new = self.keeper();
        let Some(place) = self.place(dir) else { return 0 };
        match &place.names {
            Some(keeper) if keeper.is_gone(now) => {}
            Some(keeper) if keeper.session != session || keeper.recall.is_some() => return 0,
            Some(_) | None => {}
        }
        place.names = Some(new);
        millis()
    }

    fn attr(&mut self, attr: Option<&mut v1::Attr>) {
        let Some(attr) = attr else { return };
        let (session, now) = (self.session, self.now);
        let new = self.keeper();
        let Some(place) = self.place(Ino(attr.ino)) else { return };
        place.attributes.retain(|keeper| !keeper.is_gone(now));
        if place.is_written_by_another(session) {
            return;
        }
        match place.attributes.iter_mut().find(|keeper| keeper.session == session) {
            Some(keeper) if keeper.recall.is_some() => return,
            Some(keeper) => keeper.until = new.until,
            None => place.attributes.push(new),
        }
        attr.cache_millis = millis();
    }

    fn keeper(&self) -> Keeper {
        Keeper {
            session: self.session,
            queue: Arc::clone(self.queue),
            until: self.now.after(limits::LEASE + limits::LEASE_MARGIN),
            recall: None,
        }
    }

    /// Where a right on this inode is kept, if there may be one: nothing has
    /// changed since the answer was read, and it is not being fought over.
    fn place(&mut self, ino: Ino) -> Option<&mut Place> {
        let (session, now) = (self.session, self.now);
        self.any_place(ino).filter(|place| !place.is_quiet_for(session, now))
    }

    /// As [`Granting::place`], also if it is being fought over.
    fn any_place(&mut self, ino: Ino) -> Option<&mut Place> {
        let inner = &mut *self.inner;
        if inner.changed.get(class(ino)).is_none_or(|changed| *changed > self.stamp) {
            return None;
        }
        if inner.places.len() >= PLACES_MAX && !inner.places.contains_key(&ino) {
            return None;
        }
        if inner.keepers >= KEEPERS_MAX {
            return None;
        }
        inner.keepers += 1;
        Some(inner.places.entry(ino).or_default())
    }
}
