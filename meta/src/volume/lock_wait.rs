//! Locks that are waited for: first come, first served. Whoever releases a
//! lock hands it on before anybody else can take it; the waiting future only
//! delivers the news.
//!
//! waiting → granted (locked, not yet delivered) → delivered;
//! waiting → given up; granted → abandoned (to be unlocked) when the future
//! is dropped, unless a repeat of the request was answered in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result, limits};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::edit::Edit;
use super::locks::{self, Request};
use super::record::Lock;

/// Waiters of one volume.
const WAITERS_MAX: usize = 65_536;

/// A lock that somebody waits for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) session: SessionId,
    pub(super) ino: Ino,
    pub(super) request: Request,
    /// Slot and sequence of the operation.
    pub(super) slot: (u32, u64),
}

#[derive(Debug)]
struct Waiter {
    wanted: Wanted,
    news: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// By ticket: the order of arrival.
    waiting: BTreeMap<u64, Waiter>,
    granted: HashMap<u64, Wanted>,
    abandoned: Vec<Wanted>,
}

/// All waiters of a volume.
#[derive(Debug, Default)]
pub(super) struct LockWaiters {
    inner: Mutex<Inner>,
}

/// The waiting side.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    waiters: Arc<LockWaiters>,
    news: oneshot::Receiver<Result<()>>,
}

impl LockWaiters {
    /// # Errors
    /// `FS_NO_LOCKS` when too many wait already.
    pub(super) fn need_room(&self, session: SessionId, more: usize) -> Result<()> {
        let inner = self.inner.lock();
        let mine = inner.waiting.values().filter(|w| w.wanted.session == session).count();
        let most = usize::try_from(limits::OPS_IN_FLIGHT_MAX).unwrap_or(usize::MAX);
        if inner.waiting.len() + more >= WAITERS_MAX || mine + more >= most {
            return Err(Code::FsNoLocks.into());
        }
        Ok(())
    }

    /// Begins to wait. Under the volume's writer lock, so that no release is
    /// missed.
    pub(super) fn wait(self: &Arc<LockWaiters>, wanted: Wanted) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, Waiter { wanted, news: sender });
        Ticket { number, waiters: Arc::clone(self), news: receiver }
    }

    /// Who waits for locks of an inode, in order.
    pub(super) fn waiting_for(&self, ino: Ino) -> Vec<(u64, Wanted)> {
        let inner = self.inner.lock();
        let of_ino = inner.waiting.iter().filter(|(_, waiter)| waiter.wanted.ino == ino);
        of_ino.map(|(number, waiter)| (*number, waiter.wanted.clone())).collect()
    }

    /// Does anybody wait?
    pub(super) fn is_empty(&self) -> bool {
        self.inner.lock().waiting.is_empty()
    }

    /// The lock is theirs, committed.
    pub(super) fn grant(&self, number: u64) {
        let mut inner = self.inner.lock();
        let Some(waiter) = inner.waiting.remove(&number) else { return };
        inner.granted.insert(number, waiter.wanted);
        // When nobody listens any more, the dropped ticket is on its way here
        // and waits for our lock.
        let _ = waiter.news.send(Ok(()));
    }

    /// The request was answered from its stored result: its lock is delivered.
    pub(super) fn answered(&self, session: SessionId, slot: (u32, u64)) {
        let mut inner = self.inner.lock();
        inner.granted.retain(|_, wanted| wanted.session != session || wanted.slot != slot);
    }

    /// The session has ended.
    pub(super) fn end_session(&self, session: SessionId, code: Code) {
        let mut inner = self.inner.lock();
        let gone: Vec<u64> = inner
            .waiting
            .iter()
            .filter(|(_, waiter)| waiter.wanted.session == session)
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            if let Some(waiter) = inner.waiting.remove(&number) {
                // Nobody listens: nothing to tell.
                let _ = waiter.news.send(Err(Error::bare(code)));
            }
        }
        inner.granted.retain(|_, wanted| wanted.session != session);
        inner.abandoned.retain(|wanted| wanted.session != session);
    }

    /// Locks granted to nobody: to be unlocked before anything else.
    pub(super) fn take_abandoned(&self) -> Vec<Wanted> {
        std::mem::take(&mut self.inner.lock().abandoned)
    }

    /// They could not be unlocked now.
    pub(super) fn put_back_abandoned(&self, wanted: Vec<Wanted>) {
        self.inner.lock().abandoned.extend(wanted);
    }

    fn posix_waits(&self) -> Vec<Wanted> {
        let inner = self.inner.lock();
        let posix = inner.waiting.values().filter(|waiter| !waiter.wanted.request.lock.flock);
        posix.map(|waiter| waiter.wanted.clone()).collect()
    }
}

impl Ticket {
    /// Waits for the lock. Dropping the future gives it up.
    ///
    /// # Errors
    /// The code the session ended with.
    pub(super) async fn wait(mut self) -> Result<()> {
        let news = (&mut self.news).await;
        let delivered = self.waiters.inner.lock().granted.remove(&self.number).is_some();
        match news {
            Ok(Ok(())) if !delivered => {
                // The session ended between the grant and now.
                Err(Error::bare(Code::SessionUnknown))
            }
            Ok(result) => result,
            Err(_) => Err(Error::bare(Code::OperationInterrupted)),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.waiters.inner.lock();
        inner.waiting.remove(&self.number);
        if let Some(wanted) = inner.granted.remove(&self.number) {
            inner.abandoned.push(wanted);
        }
    }
}

/// Would waiting close a circle of owners that wait for one another (fcntl(2)
/// EDEADLK)? flock(2) knows no such thing.
pub(super) fn would_deadlock(
    edit: &Edit<'_>,
    waiters: &LockWaiters,
    wanted: &Wanted,
) -> Result<bool> {
    if wanted.request.lock.flock {
        return Ok(false);
    }
    let mut waits = waiters.posix_waits();
    waits.extend(edit.effects.waits.iter().filter(|w| !w.request.lock.flock).cloned());
    let mut seen = HashSet::new();
    let mut blockers = holders(edit, wanted)?;
    while let Some(holder) = blockers.pop() {
        if locks::same_owner(&holder, &wanted.request.lock) {
            return Ok(true);
        }
        if !seen.insert((holder.session.clone(), holder.owner)) {
            continue;
        }
        for wait in waits.iter().filter(|wait| locks::same_owner(&wait.request.lock, &holder)) {
            blockers.extend(holders(edit, wait)?);
        }
    }
    Ok(false)
}

/// Who holds what keeps this from being acquired.
fn holders(edit: &Edit<'_>, wanted: &Wanted) -> Result<Vec<Lock>> {
    let mut row = locks::row(edit.view(), wanted.ino)?;
    row.locks.retain(|held| locks::conflicts(held, &wanted.request.lock));
    Ok(row.locks)
}
