//! Locks across mounts: fcntl(2) ranges and flock(2), kept by meta.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{FileSystem, reply};
use crate::caller::Requester;
use crate::handle_table::OpenFile;

/// A lock as the kernel names it.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest {
    /// Read, write, or unlock.
    pub kind: v1::LockKind,
    /// flock(2) instead of fcntl(2).
    pub flock: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` = to the end.
    pub end: u64,
    /// Whose it is, opaque.
    pub owner: u64,
    /// Process, for F_GETLK.
    pub pid: u32,
}

/// Last byte of a lock to the end, as the kernel says it (OFFSET_MAX).
const END_MAX: u64 = i64::MAX as u64;

/// Who has (or had) locks where. Spares a round trip at each close of a file
/// nobody locked. May name owners that hold nothing any more.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    owners: Mutex<Owners>,
    /// Unlocks that nobody waits for: how many of each owner.
    leaving: Mutex<HashMap<Key, u32>>,
    left: Notify,
}

/// An unlock that nobody waits for, until it is answered.
#[derive(Debug)]
struct Leaving<'a> {
    table: &'a LockTable,
    key: Key,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut leaving = self.table.leaving.lock();
        if let Some(count) = leaving.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                leaving.remove(&self.key);
            }
        }
        drop(leaving);
        self.table.left.notify_waiters();
    }
}

/// An inode, the owner, and whether the lock is flock(2)'s.
type Key = (u64, u64, bool);

#[derive(Debug, Clone, Copy)]
struct Locked {
    /// The open that it locked through last.
    fh: u64,
    /// How often all locks had been lost before it locked first.
    losses: u64,
}

#[derive(Debug, Default)]
struct Owners {
    all: HashMap<Key, Locked>,
    /// The same by open.
    by_open: HashMap<u64, HashSet<Key>>,
}

impl Owners {
    fn remove(&mut self, key: &Key) -> bool {
        let Some(locked) = self.all.remove(key) else { return false };
        if let Some(keys) = self.by_open.get_mut(&locked.fh) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_open.remove(&locked.fh);
            }
        }
        true
    }
}

impl LockTable {
    pub(super) fn take_posix(&self, ino: u64, owner: u64) -> bool {
        self.owners.lock().remove(&(ino, owner, false))
    }

    pub(super) fn take_flock(&self, ino: u64, owner: u64) -> bool {
        self.owners.lock().remove(&(ino, owner, true))
    }

    /// The owners of fcntl(2) locks that an open leaves behind at its end.
    /// Locks of a process ended when the process closed it (`take_posix`), so
    /// these are open file description locks (F_OFD_SETLK): the kernel tells
    /// their end by no request of its own.
    pub(super) fn take_posix_of(&self, fh: u64) -> Vec<u64> {
        let mut owners = self.owners.lock();
        let keys = owners.by_open.get(&fh).into_iter().flatten();
        let keys: Vec<Key> = keys.filter(|(_, _, flock)| !flock).copied().collect();
        keys.iter().for_each(|key| {
            owners.remove(key);
        });
        keys.into_iter().map(|(_, owner, _)| owner).collect()
    }

    /// True when it was not there. `losses`: how often all locks have been lost.
    fn add(&self, ino: u64, lock: &LockRequest, (fh, losses): (u64, u64)) -> bool {
        let mut owners = self.owners.lock();
        let key = (ino, lock.owner, lock.flock);
        let before = owners.all.get(&key).map(|locked| locked.losses);
        owners.remove(&key);
        owners.all.insert(key, Locked { fh, losses: before.unwrap_or(losses) });
        owners.by_open.entry(fh).or_default().insert(key);
        before.is_none()
    }

    /// This owner has unlocked everything, when all locks had been lost so often:
    /// there is nothing that it can have lost before.
    fn holds_nothing(&self, key: &Key, losses: u64) {
        if let Some(locked) = self.owners.lock().all.get_mut(key) {
            locked.losses = losses;
        }
    }

    /// Is a lock held through this open, as far as is known here?
    fn is_used(&self, fh: u64) -> bool {
        self.owners.lock().by_open.contains_key(&fh)
    }

    /// Has this owner lost a lock, and not unlocked since?
    fn has_lost(&self, ino: u64, lock: &LockRequest, losses: u64) -> bool {
        let owners = self.owners.lock();
        let locked = owners.all.get(&(ino, lock.owner, lock.flock));
        locked.is_some_and(|locked| locked.losses < losses)
    }

    /// Was a lock lost that was taken through this open?
    fn has_lost_through(&self, fh: u64, losses: u64) -> bool {
        if losses == 0 {
            return false;
        }
        let owners = self.owners.lock();
        let mut keys = owners.by_open.get(&fh).into_iter().flatten();
        keys.any(|key| owners.all.get(key).is_some_and(|locked| locked.losses < losses))
    }

    fn has(&self, ino: u64, lock: &LockRequest) -> bool {
        self.owners.lock().all.contains_key(&(ino, lock.owner, lock.flock))
    }

    /// An unlock begins that nobody waits for; it ends with a [`Leaving`].
    fn leaves(&self, key: Key) {
        *self.leaving.lock().entry(key).or_default() += 1;
    }

    /// Until no unlock of this owner is on its way: it would take what is
    /// locked now.
    async fn has_left(&self, key: &Key) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if !self.leaving.lock().contains_key(key) {
                return;
            }
            left.await;
        }
    }

    fn remove(&self, key: &Key) {
        self.owners.lock().remove(key);
    }
}

fn lost() -> Error {
    Error::bare(Code::LockLost)
}

impl LockRequest {
    fn is_of_everything(&self) -> bool {
        self.flock || (self.start == 0 && self.end >= END_MAX)
    }

    fn state(&self) -> v1::LockState {
        v1::LockState {
            kind: self.kind.into(),
            flock: self.flock,
            start: self.start,
            end: self.end,
            owner: self.owner,
            pid: self.pid,
        }
    }
}

impl FileSystem {
    /// fcntl(2) F_GETLK: a lock that is in the way, or `Unlock`.
    ///
    /// # Errors
    /// Meta's.
    pub async fn getlk(
        &self,
        who: Requester,
        fh: u64,
        request: LockRequest,
    ) -> Result<v1::LockState> {
        let file = self.handles.file(fh)?;
        file.data.report_made().await?;
        let body = Body::GetLock(v1::GetLock {
            handle: file.handle.to_vec(),
            lock: Some(request.state()),
        });
        reply::lock(self.call_open(who, body).await?)
    }

    /// F_SETLK, F_SETLKW, flock(2). With `wait` the future ends when the lock
    /// is there; dropping it gives the wait up (see
    /// [`FileSystem::lock_given_up`]).
    ///
    /// # Errors
    /// `FS_WOULD_BLOCK`, `FS_DEADLOCK`, and meta's.
    pub async fn setlk(
        &self,
        who: Requester,
        fh: u64,
        request: LockRequest,
        wait: bool,
    ) -> Result<()> {
        // Only under a lease it is known how often locks were lost.
        self.ready().await?;
        let file = self.handles.file(fh)?;
        self.locks.has_left(&(file.ino, request.owner, request.flock)).await;
        file.data.report_made().await?;
        let losses = self.session.lock_losses();
        let has_lost = self.locks.has_lost(file.ino, &request, losses);
        let mut guard = WaitGuard { table: &self.locks, key: None };
        if request.kind != v1::LockKind::Unlock {
            if has_lost {
                return Err(lost());
            }
            if self.locks.add(file.ino, &request, (fh, losses)) {
                // Known before meta is asked: a close that comes right after the
                // grant must find it.
                guard.key = Some((file.ino, request.owner, request.flock));
            }
        }
        let body = Body::SetLock(v1::SetLock {
            handle: file.handle.to_vec(),
            lock: Some(request.state()),
            wait,
        });
        // Without a refusal meanwhile, what it became is not known: the owner
        // stays in the table, and the next close asks meta.
        let outcome = self.call_open(who, body).await;
        if outcome.is_ok() {
            guard.key = None;
            if request.kind == v1::LockKind::Unlock && request.is_of_everything() {
                self.locks.holds_nothing(&(file.ino, request.owner, request.flock), losses);
            }
        }
        outcome.map(reply::done)
    }

    /// Who held a lock that is lost does nothing more through its open until it
    /// has unlocked or closed: others may have changed what it
    /// believes to be its own. To be asked when the session is ready.
    ///
    /// # Errors
    /// `LOCK_LOST`.
    pub(super) fn check_locks(&self, fh: u64) -> Result<()> {
        match self.locks.has_lost_through(fh, self.session.lock_losses()) {
            true => Err(lost()),
            false => Ok(()),
        }
    }

    /// How often all locks have been lost, if one is held through this open:
    /// what is done there must not be done after the next loss.
    pub(super) fn lock_losses_of(&self, fh: u64) -> Option<u64> {
        self.locks.is_used(fh).then(|| self.session.lock_losses())
    }

    /// A wait was given up (its future dropped). The grant may have been on
    /// its way: an owner that held nothing before holds nothing after. What
    /// takes it back, which goes on by itself while meta is away: later locks of
    /// the owner wait for it.
    pub fn lock_given_up(
        self: &Arc<Self>,
        fh: u64,
        request: LockRequest,
    ) -> Option<JoinHandle<()>> {
        let file = self.handles.file(fh).ok()?;
        if self.locks.has(file.ino, &request) {
            // It had locks before; which of them were replaced is not known.
            return None;
        }
        let unlock = LockRequest { kind: v1::LockKind::Unlock, ..request };
        let (fs, key) = (Arc::clone(self), (file.ino, request.owner, request.flock));
        // Now, not in the task: before anybody can lock anew.
        self.locks.leaves(key);
        Some(tokio::spawn(async move {
            let _leaving = Leaving { table: &fs.locks, key };
            fs.unlock(&file, unlock).await;
        }))
    }

    async fn unlock(&self, file: &OpenFile, unlock: LockRequest) {
        let body = Body::SetLock(v1::SetLock {
            handle: file.handle.to_vec(),
            lock: Some(unlock.state()),
            wait: false,
        });
        if let Err(error) = self.session.call(v1::Caller::default(), body).await {
            // The lock ends with the session at the latest.
            tracing::debug!(code = %error.code(), "unlock was not answered: {error}");
        }
    }
}

/// Takes an owner out of the table again unless its lock was granted.
struct WaitGuard<'a> {
    table: &'a LockTable,
    key: Option<Key>,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.table.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(owner: u64, flock: bool) -> LockRequest {
        let kind = v1::LockKind::Write;
        LockRequest { kind, flock, start: 0, end: u64::MAX, owner, pid: 1 }
    }

    #[test]
    fn owners_are_told_apart_by_kind_of_lock() {
        let table = LockTable::default();
        assert!(table.add(5, &request(1, false), (8, 0)));
        assert!(!table.add(5, &request(1, false), (8, 0)));
        assert!(!table.take_flock(5, 1));
        assert!(!table.take_posix(6, 1));
        assert!(table.take_posix(5, 1));
        assert!(!table.take_posix(5, 1));
    }

    #[test]
    fn a_wait_given_up_leaves_no_owner() {
        let table = LockTable::default();
        assert!(table.add(5, &request(1, true), (8, 0)));
        drop(WaitGuard { table: &table, key: Some((5, 1, true)) });
        assert!(!table.take_flock(5, 1));
        assert!(table.add(5, &request(1, true), (8, 0)));
        drop(WaitGuard { table: &table, key: None });
        assert!(table.take_flock(5, 1));
    }

    #[test]
    fn an_open_leaves_behind_what_was_locked_through_it_last() {
        let table = LockTable::default();
        for (owner, flock) in [(1, false), (2, false), (3, false), (4, true)] {
            table.add(5, &request(owner, flock), (8, 0));
        }
        // Closed by its process; locked again through another open.
        assert!(table.take_posix(5, 1));
        table.add(5, &request(2, false), (9, 0));
        assert_eq!(table.take_posix_of(8), [3]);
        assert_eq!(table.take_posix_of(8), [0; 0]);
        assert!(table.take_flock(5, 4));
        assert_eq!(table.take_posix_of(9), [2]);
        assert!(table.owners.lock().all.is_empty() && table.owners.lock().by_open.is_empty());
    }

    #[test]
    fn a_lock_is_lost_for_its_open_until_its_owner_unlocks() {
        let table = LockTable::default();
        table.add(5, &request(1, false), (8, 0));
        table.add(5, &request(2, true), (9, 1));
        assert!(!table.has_lost_through(8, 0) && !table.has_lost(5, &request(1, false), 0));
        assert!(table.has_lost_through(8, 1) && table.has_lost(5, &request(1, false), 1));
        assert!(!table.has_lost_through(9, 1), "locked after the loss");
        // Another attempt does not make it good.
        table.add(5, &request(1, false), (8, 1));
        assert!(table.has_lost_through(8, 1));
        assert!(table.take_posix(5, 1));
        table.add(5, &request(1, false), (8, 1));
        assert!(!table.has_lost_through(8, 1) && table.has_lost_through(8, 2));
        // Who has unlocked has nothing to lose.
        table.holds_nothing(&(5, 1, false), 2);
        assert!(!table.has_lost_through(8, 2) && table.has_lost_through(8, 3));
    }
}
