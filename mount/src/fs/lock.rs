//! Locks across mounts: fcntl(2) ranges and flock(2), kept by meta.

use std::collections::{HashMap, HashSet};

use flexfs_common::Result;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use parking_lot::Mutex;

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

/// Who has (or had) locks where. Spares a round trip at each close of a file
/// nobody locked. May name owners that hold nothing any more.
#[derive(Debug, Default)]
pub(super) struct LockTable(Mutex<Owners>);

/// An inode, the owner, and whether the lock is flock(2)'s.
type Key = (u64, u64, bool);

#[derive(Debug, Default)]
struct Owners {
    /// With the open that each locked through last.
    all: HashMap<Key, u64>,
    /// The same by open.
    by_open: HashMap<u64, HashSet<Key>>,
}

impl Owners {
    fn remove(&mut self, key: &Key) -> bool {
        let Some(fh) = self.all.remove(key) else { return false };
        if let Some(keys) = self.by_open.get_mut(&fh) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_open.remove(&fh);
            }
        }
        true
    }
}

impl LockTable {
    pub(super) fn take_posix(&self, ino: u64, owner: u64) -> bool {
        self.0.lock().remove(&(ino, owner, false))
    }

    pub(super) fn take_flock(&self, ino: u64, owner: u64) -> bool {
        self.0.lock().remove(&(ino, owner, true))
    }

    /// The owners of fcntl(2) locks that an open leaves behind at its end.
    /// Locks of a process ended when the process closed it (`take_posix`), so
    /// these are open file description locks (F_OFD_SETLK): the kernel tells
    /// their end by no request of its own.
    pub(super) fn take_posix_of(&self, fh: u64) -> Vec<u64> {
        let mut owners = self.0.lock();
        let keys = owners.by_open.get(&fh).into_iter().flatten();
        let keys: Vec<Key> = keys.filter(|(_, _, flock)| !flock).copied().collect();
        keys.iter().for_each(|key| {
            owners.remove(key);
        });
        keys.into_iter().map(|(_, owner, _)| owner).collect()
    }

    /// True when it was not there.
    fn add(&self, ino: u64, lock: &LockRequest, fh: u64) -> bool {
        let mut owners = self.0.lock();
        let key = (ino, lock.owner, lock.flock);
        let is_new = !owners.remove(&key);
        owners.all.insert(key, fh);
        owners.by_open.entry(fh).or_default().insert(key);
        is_new
    }

    fn has(&self, ino: u64, lock: &LockRequest) -> bool {
        self.0.lock().all.contains_key(&(ino, lock.owner, lock.flock))
    }

    fn remove(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

impl LockRequest {
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
        let file = self.handles.file(fh)?;
        file.data.report_made().await?;
        let mut guard = WaitGuard { table: &self.locks, key: None };
        if request.kind != v1::LockKind::Unlock && self.locks.add(file.ino, &request, fh) {
            // Known before meta is asked: a close that comes right after the
            // grant must find it.
            guard.key = Some((file.ino, request.owner, request.flock));
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
        }
        outcome.map(reply::done)
    }

    /// A wait was given up (its future dropped). The grant may have been on
    /// its way: an owner that held nothing before holds nothing after.
    pub async fn lock_given_up(&self, fh: u64, request: LockRequest) {
        let Ok(file) = self.handles.file(fh) else { return };
        if self.locks.has(file.ino, &request) {
            // It had locks before; which of them were replaced is not known.
            return;
        }
        let unlock = LockRequest { kind: v1::LockKind::Unlock, ..request };
        self.unlock(&file, unlock).await;
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
        assert!(table.add(5, &request(1, false), 8));
        assert!(!table.add(5, &request(1, false), 8));
        assert!(!table.take_flock(5, 1));
        assert!(!table.take_posix(6, 1));
        assert!(table.take_posix(5, 1));
        assert!(!table.take_posix(5, 1));
    }

    #[test]
    fn a_wait_given_up_leaves_no_owner() {
        let table = LockTable::default();
        assert!(table.add(5, &request(1, true), 8));
        drop(WaitGuard { table: &table, key: Some((5, 1, true)) });
        assert!(!table.take_flock(5, 1));
        assert!(table.add(5, &request(1, true), 8));
        drop(WaitGuard { table: &table, key: None });
        assert!(table.take_flock(5, 1));
    }

    #[test]
    fn an_open_leaves_behind_what_was_locked_through_it_last() {
        let table = LockTable::default();
        for (owner, flock) in [(1, false), (2, false), (3, false), (4, true)] {
            table.add(5, &request(owner, flock), 8);
        }
        // Closed by its process; locked again through another open.
        assert!(table.take_posix(5, 1));
        table.add(5, &request(2, false), 9);
        assert_eq!(table.take_posix_of(8), [3]);
        assert_eq!(table.take_posix_of(8), [0; 0]);
        assert!(table.take_flock(5, 4));
        assert_eq!(table.take_posix_of(9), [2]);
        assert!(table.0.lock().all.is_empty() && table.0.lock().by_open.is_empty());
    }
}
