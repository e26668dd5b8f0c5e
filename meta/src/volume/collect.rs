//! Background work, a bounded part at each tick: silent sessions, what ended
//! sessions left, unlinked files, truncations, objects nobody needs.

use std::ops::ControlFlow;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, ObjectId, SessionId};
use flexfs_common::{Code, Result, limits};

use super::edit::Edit;
use super::keys::{Keys, Tag, id_at, u64_at};
use super::record::{Condemned, Object, ObjectState};
use super::session::Session;
use super::session_end::{self, session_of};
use super::{Volume, contents, inodes, objects, superblock};
use crate::engine::Room;

/// Transactions between two looks at the clock.
const STEPS: usize = 16;
/// How long a tick works before it looks at sessions again.
const TICK_FOR: Duration = Duration::from_millis(400);
/// How long a block store that failed is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(30);
/// Objects deleted between two looks at the clock.
const OBJECTS: usize = 64;
/// How long a tick deletes objects: sessions are looked at each second.
const DELETE_FOR: Duration = Duration::from_millis(400);

impl Volume {
    /// Background work, bounded per call: expire silent sessions, drop their
    /// locks and opens, reclaim unlinked files, condemn and delete objects,
    /// finish intents. Call it every second. Returns sessions that ended
    /// since the last call without [`Volume::cut`] or [`Volume::end_session`].
    ///
    /// A block store that fails is logged and left alone for a while.
    ///
    /// # Errors
    /// `ENGINE_FAILED`; `META_MOVED` when another server has the volume.
    pub fn tick(&self) -> Result<Vec<SessionId>> {
        self.expire_sessions()?;
        self.rights.sweep(&self.sessions.all());
        let abandoned = self.waiters.take_abandoned();
        if !abandoned.is_empty() {
            let undone = self.change_alone(&mut |edit| Self::undo_abandoned(edit, &abandoned));
            if let Err(error) = undone {
                self.waiters.put_back_abandoned(abandoned);
                return Err(error);
            }
        }
        let until = BootTime::now().after(TICK_FOR);
        while self.reap_sessions()? && !until.passed() {}
        // What frees space is written first, and may be a lot.
        if self.engine.room() >= Room::Low {
            while self.reclaim_orphans()? && !until.passed() {}
            while self.finish_truncations()? && !until.passed() {}
        }
        self.forget_tombstones()?;
        self.delete_objects()?;
        Ok(std::mem::take(&mut *self.ended.lock()))
    }

    /// A lost lease costs the locks, an hour of silence the session.
    fn expire_sessions(&self) -> Result<()> {
        for session in self.sessions.all() {
            if session.silent_for() >= limits::SESSION {
                self.change_alone(&mut |edit| {
                    session_end::end(edit, session.id, Code::SessionUnknown);
                    Ok(())
                })?;
                self.ended.lock().push(session.id);
            } else if session.lease_lost() {
                self.lose_locks(&session)?;
            }
        }
        Ok(())
    }

    /// Lets go of all locks of a silent session. Its count of losses is written
    /// with them, so that it is told whenever it comes back.
    pub(super) fn lose_locks(&self, session: &Session) -> Result<()> {
        let held = self.keys.locks_of_session(session.id);
        let mut left = self.with_view(|view| view.any(&held))?;
        let mut counted = false;
        while left {
            self.change_alone(&mut |edit| {
                // Cut, or heard, before this point of the commit order. Each
                // step asks anew: what was locked since the last is not lost.
                if !session.is_live() || !session.loses_locks() {
                    left = false;
                    return Ok(());
                }
                counted = true;
                edit.put(&edit.keys().session(session.id), &session.present_row());
                left = !session_end::release_locks(edit, session.id)?;
                Ok(())
            })?;
        }
        if counted {
            tracing::warn!(session = %session.id, "silent for longer than its lease: its locks are lost");
        }
        Ok(())
    }

    /// What ended sessions left; true when there is more.
    fn reap_sessions(&self) -> Result<bool> {
        let retention = self.settings.read().retention;
        let left = self.reapable_sessions()?;
        for session in left.iter().copied() {
            self.change_alone(&mut |edit| {
                session_end::reap(edit, session, retention)?;
                Ok(())
            })?;
        }
        Ok(!left.is_empty())
    }

    /// A step of those that left something. Lost ones are passed over while
    /// their mounts may still hold it: the first seconds after a start.
    fn reapable_sessions(&self) -> Result<Vec<SessionId>> {
        let lost_are_over = self.lost.is_over();
        let mut left = Vec::new();
        self.with_view(|view| {
            view.scan(&self.keys.all(Tag::Leftover), &mut |key, value| {
                if lost_are_over || !session_end::is_unheard(value) {
                    left.extend(session_of(key));
                }
                let full = left.len() == STEPS;
                Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
        })?;
        Ok(left)
    }

    /// Orphans that nobody holds open; true until all have been looked at.
    /// Those that are held are passed over, so that they do not hide others.
    fn reclaim_orphans(&self) -> Result<bool> {
        let retention = self.settings.read().retention;
        let mut cursor = self.orphan_cursor.lock();
        let mut range = self.keys.all(Tag::Orphan);
        if let Some(after) = cursor.take() {
            range.from = after;
        }
        let found = self.with_view(|view| view.keys_of(&range, STEPS))?;
        let mut more = found.len() == STEPS;
        if more {
            cursor.clone_from(&found.last().map(|last| [last.as_slice(), &[0]].concat()));
        }
        drop(cursor);
        for ino in found.iter().filter_map(|key| u64_at(key, 0)).map(Ino) {
            let mut gone = false;
            self.change_alone(&mut |edit| {
                gone = inodes::reclaim_step(edit, ino, retention, contents::STEP_EXTENTS)?;
                Ok(())
            })?;
            more |= !gone;
        }
        Ok(more)
    }

    /// Truncations in steps; true when there is more.
    fn finish_truncations(&self) -> Result<bool> {
        let retention = self.settings.read().retention;
        let found = self.with_view(|view| view.keys_of(&self.keys.all(Tag::Intent), STEPS))?;
        for ino in found.iter().filter_map(|key| u64_at(key, 0)).map(Ino) {
            self.change_alone(&mut |edit| {
                contents::trim_step(edit, ino, retention)?;
                Ok(())
            })?;
        }
        Ok(!found.is_empty())
    }

    fn forget_tombstones(&self) -> Result<()> {
        let surplus = self.sessions.surplus();
        if !surplus.is_empty() {
            self.change_alone(&mut |edit| {
                surplus.iter().for_each(|id| edit.delete(&self.keys.tombstone(*id)));
                Ok(())
            })?;
            self.sessions.forget(&surplus);
        }
        Ok(())
    }

    /// Objects that are due, for as long as a tick may take.
    fn delete_objects(&self) -> Result<()> {
        if self.store_pause.lock().is_some_and(|until| !until.passed()) {
            return Ok(());
        }
        let until = BootTime::now().after(DELETE_FOR);
        while self.delete_some()? == OBJECTS && !until.passed() {}
        Ok(())
    }

    /// A part of what is due: condemned in one transaction, which is put on
    /// stable storage; deleted from the store, and only then forgotten. A key
    /// that lapsed is condemned first, so that no commit can name it any more.
    /// Returns how many went. After a restore they are put aside instead, until
    /// the operator confirms.
    fn delete_some(&self) -> Result<usize> {
        let mut due = Vec::new();
        let mut held_back = 0;
        self.change_alone(&mut |edit| {
            let held = superblock::held_since(edit.view())?.is_some();
            due = self.condemn_due(edit, held)?;
            if held {
                held_back = due.len();
                for (key, _) in due.drain(..) {
                    edit.delete(&key);
                    edit.put_raw(&Keys::held(&key), &[]);
                }
            }
            Ok(())
        })?;
        if due.is_empty() {
            return Ok(held_back);
        }
        // A loss of power must not bring back metadata that names what the
        // store has not any more.
        flexfs_common::failpoint!("meta-collect-condemned");
        self.engine.sync(self.engine.head())?;
        flexfs_common::failpoint!("meta-collect-synced");
        let mut gone = Vec::with_capacity(due.len());
        for (key, object) in due {
            if let Err(error) = self.blocks.delete(object) {
                tracing::warn!(%object, error = error.with_causes(), "an object was not deleted");
                *self.store_pause.lock() = Some(BootTime::now().after(STORE_PAUSE));
                break;
            }
            gone.push((key, object));
        }
        flexfs_common::failpoint!("meta-collect-deleted");
        self.change_alone(&mut |edit| {
            for (key, object) in &gone {
                edit.delete(key);
                edit.delete(&self.keys.object(*object));
            }
            Ok(())
        })?;
        Ok(gone.len())
    }

    /// What is due, with its key in the queue; what was put aside comes first.
    fn condemn_due(&self, edit: &mut Edit<'_>, held: bool) -> Result<Vec<(Vec<u8>, ObjectId)>> {
        let mut due = Vec::new();
        let range = self.keys.queue_until(edit.now());
        let mut keys = match held {
            true => Vec::new(),
            false => edit.view().keys_of(&self.keys.all(Tag::Held), OBJECTS)?,
        };
        let room = OBJECTS.saturating_sub(keys.len());
        keys.extend(edit.view().keys_of(&range, room)?);
        for key in keys {
            let Some(object) = id_at(&key, 8).map(ObjectId) else { continue };
            match objects::state(edit, object)? {
                Some(ObjectState::Minted(minted)) => {
                    let condemned = ObjectState::Condemned(Condemned { due: minted.due });
                    edit.put(&self.keys.object(object), &Object { state: Some(condemned) });
                    if let Ok(session) = <[u8; 16]>::try_from(&minted.session[..]) {
                        edit.effects.minted.push((SessionId::from_bytes(session), -1));
                    }
                    due.push((key, object));
                }
                Some(ObjectState::Condemned(_)) => due.push((key, object)),
                // Committed, or gone: nothing to collect.
                Some(ObjectState::Committed(_)) | None => edit.delete(&key),
            }
        }
        Ok(due)
    }
}
