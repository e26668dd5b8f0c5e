//! A volume in service: sessions, operations, cuts. Everything the transport
//! may ask of the core goes through [`Volume`].

mod acl;
mod attr;
mod caller;
mod capability;
mod collect;
mod confine;
mod contents;
mod context;
mod dentry;
mod edit;
mod execute;
mod handle;
mod inode_number;
mod inodes;
mod keys;
mod lifecycle;
mod lock_wait;
mod locks;
mod name_order;
mod numbers_ahead;
mod objects;
mod operation;
mod ops;
mod outcome;
mod permission;
mod random;
mod recalls;
mod record;
mod recovery;
mod reflag;
pub(crate) mod restored;
mod rights;
mod scope;
mod seal;
mod session;
mod session_end;
mod slots;
mod superblock;
mod sync_pump;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod verify;
mod view;

use std::sync::Arc;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;
use parking_lot::{Mutex, MutexGuard, RwLock};

pub use recalls::RecallQueue;
pub use seal::SessionSeal;
pub use types::{
    Attachment, BlockAccess, Execution, NewSession, OpenedSession, Recalls, Reflagged, SessionInfo,
    SessionKey, VolumeSettings, Which,
};

use crate::engine::{CommitVersion, Engine, Room};
use edit::{Edit, Effects};
use keys::Keys;
use lock_wait::{LockWaiters, Wanted};
use recalls::Ticket;
use rights::{By, Rights};
use scope::Scopes;
use session::Session;
use superblock::Identity;
use sync_pump::SyncPump;
use table::SessionTable;
use view::View;

/// One file system tree in service.
///
/// Lock order: `writer`, then the engine's own, then any one of the others,
/// none of which is held while another is taken.
#[derive(Debug)]
pub struct Volume {
    engine: Arc<dyn Engine>,
    blocks: Arc<dyn BlockAccess>,
    settings: RwLock<Arc<VolumeSettings>>,
    keys: Keys,
    identity: Identity,
    seal: Arc<SessionSeal>,
    /// Held from the start of a transaction until its effects in memory are
    /// done: the commit order is the order of this lock.
    writer: Mutex<()>,
    sessions: SessionTable,
    scopes: Scopes,
    rights: Rights,
    /// Over when the mount of a session that was lost at the start holds
    /// nothing any more.
    lost: Arc<Ticket>,
    waiters: Arc<LockWaiters>,
    syncs: Arc<SyncPump>,
    /// Sessions that ended by themselves, for the next tick.
    ended: Mutex<Vec<SessionId>>,
    /// Where collection of unlinked files goes on.
    orphan_cursor: Mutex<Option<Vec<u8>>>,
    /// Until when a block store that failed is left alone.
    store_pause: Mutex<Option<BootTime>>,
}

impl Volume {
    /// Present settings.
    #[must_use]
    pub fn settings(&self) -> VolumeSettings {
        VolumeSettings::clone(&self.settings.read())
    }

    /// # Errors
    /// `FS_NO_SPACE` when the disk below the engine has less.
    fn need_room(&self, room: Room) -> Result<()> {
        if self.engine.room() < room { Err(Code::FsNoSpace.into()) } else { Ok(()) }
    }

    /// Reads on a snapshot.
    fn with_view<T>(&self, read: impl FnOnce(View<'_>) -> Result<T>) -> Result<T> {
        let snapshot = self.engine.snapshot()?;
        read(View::new(&*snapshot, &self.keys))
    }

    /// A transaction under the writer lock, and what it changes in memory. It
    /// is refused once another server has taken the volume over.
    fn transact(
        &self,
        _writer: &MutexGuard<'_, ()>,
        change: &mut dyn FnMut(&mut Edit<'_>) -> Result<()>,
    ) -> Result<(CommitVersion, Effects)> {
        let mut effects = Effects::default();
        let version = self.engine.transact(&mut |txn| {
            let mut edit = Edit::new(txn, &self.keys);
            if superblock::epoch(edit.view())? != self.identity.epoch {
                return Err(Error::new(
                    Code::MetaMoved,
                    "another metadata server has taken the volume over",
                ));
            }
            change(&mut edit)?;
            effects = std::mem::take(&mut edit.effects);
            Ok(())
        })?;
        Ok((version, effects))
    }

    /// A transaction of the volume's own, with its effects in memory.
    fn change_alone(
        &self,
        change: &mut dyn FnMut(&mut Edit<'_>) -> Result<()>,
    ) -> Result<CommitVersion> {
        let writer = self.writer.lock();
        let (version, effects) = self.transact(&writer, change)?;
        // The volume's own changes are answered to nobody: nobody waits.
        let _ = self.recall(By::default(), &effects, (edit::Extent::default(), effects.extent()));
        self.apply(effects, &writer);
        Ok(version)
    }

    /// Recalls from others than `by` what the operation between two points of
    /// a committed transaction made old. It must not be answered before these
    /// are over.
    fn recall(
        &self,
        by: By,
        effects: &Effects,
        (from, to): (edit::Extent, edit::Extent),
    ) -> Vec<Arc<Ticket>> {
        let changed = effects.changed.get(from.changed..to.changed).unwrap_or_default();
        let renamed = effects.renamed.get(from.renamed..to.renamed).unwrap_or_default();
        let mut recalls = self.rights.publish(by, changed, renamed);
        let left = effects.left_scopes.get(from.left_scopes..to.left_scopes).unwrap_or_default();
        let ended = effects.ended.get(from.ended..to.ended).unwrap_or_default();
        if left.is_empty() && ended.is_empty() {
            return recalls;
        }
        // What lay below the directory is outside now, whatever it is; and who
        // has lost the place of its scope sees nothing any more.
        let loses = |session: &Session| {
            session.confined.as_ref().is_some_and(|scope| left.contains(&scope.ino))
                || ended.contains(&(session.id, Code::FsStale))
        };
        let losers = self.sessions.all().into_iter().filter(|session| loses(session));
        recalls.extend(losers.filter_map(|session| self.rights.recall_all(&session)));
        recalls
    }

    /// What a committed transaction changes in memory, besides recalls.
    fn apply(&self, effects: Effects, writer: &MutexGuard<'_, ()>) {
        for (id, change) in effects.opens {
            if let Ok(session) = self.sessions.live(id) {
                session.opens.fetch_add(change, std::sync::atomic::Ordering::AcqRel);
            }
        }
        for (id, change) in effects.minted {
            if let Ok(session) = self.sessions.live(id) {
                session.minted.fetch_add(change, std::sync::atomic::Ordering::AcqRel);
            }
        }
        for (session, ino) in effects.closed {
            self.rights.closed(session, ino);
        }
        for root in effects.left_scopes {
            self.scopes.bump(root);
        }
        for (id, code) in effects.ended {
            self.ended_in_memory(id, code);
        }
        if !effects.unlocked.is_empty() && !self.waiters.is_empty() {
            self.hand_on_locks(effects.unlocked, writer);
        }
    }

    fn ended_in_memory(&self, id: SessionId, code: Code) {
        let at = i64::try_from(flexfs_common::clock::wall_now().as_nanosecond()).unwrap_or(0);
        if let Some(session) = self.sessions.end(id, code, at) {
            session.end(code);
            if session.confined.is_some() {
                self.scopes.unpin(id, session.scope_inos());
            }
            if code == Code::FsStale {
                self.ended.lock().push(id);
            }
        }
        self.waiters.end_session(id, code);
    }

    /// Gives locks that became free to those who wait for them, in order. A
    /// grant may free something itself (a write lock that becomes a read
    /// lock): on until nobody can be served.
    fn hand_on_locks(&self, mut inos: Vec<Ino>, writer: &MutexGuard<'_, ()>) {
        while !inos.is_empty() {
            inos.sort_unstable();
            inos.dedup();
            let waiting: Vec<(u64, Wanted)> =
                inos.into_iter().flat_map(|ino| self.waiters.waiting_for(ino)).collect();
            if waiting.is_empty() {
                return;
            }
            match self.grant_some(&waiting, writer) {
                Ok((granted, effects)) => {
                    granted.into_iter().for_each(|number| self.waiters.grant(number));
                    inos = effects.unlocked;
                }
                Err(error) => {
                    let error = error.with_causes();
                    tracing::error!(error, "locks could not be handed on");
                    return;
                }
            }
        }
    }

    /// Acquires what can be acquired for those who wait; returns their numbers.
    fn grant_some(
        &self,
        waiting: &[(u64, Wanted)],
        writer: &MutexGuard<'_, ()>,
    ) -> Result<(Vec<u64>, Effects)> {
        let mut granted = Vec::new();
        let (_, effects) = self.transact(writer, &mut |edit| {
            granted.clear();
            for (number, wanted) in waiting {
                match locks::request(edit, wanted.ino, &wanted.request) {
                    Ok(()) => {
                        let empty = reply::Result::Empty(v1::Empty {});
                        slots::keep(edit, wanted.session, wanted.slot, Some(&empty));
                        granted.push(*number);
                    }
                    Err(error) if error.code() == Code::FsWouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        Ok((granted, effects))
    }

    /// Unlocks what was granted to somebody who no longer listened, and lets
    /// a repeat of the request be a new one.
    fn undo_abandoned(edit: &mut Edit<'_>, abandoned: &[Wanted]) -> Result<()> {
        for wanted in abandoned {
            let mut request = wanted.request.clone();
            request.unlock = true;
            locks::request(edit, wanted.ino, &request)?;
            let (slot, sequence) = wanted.slot;
            slots::keep(edit, wanted.session, (slot, sequence.saturating_sub(1)), None);
        }
        Ok(())
    }
}
