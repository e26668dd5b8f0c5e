//! Volumes come into service; sessions are opened, attached, renewed, ended.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::name::{DentryName, SubtreePath};
use flexfs_common::{Code, Error, Result, flags, limits};
use flexfs_proto::v1;
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::attr::attr;
use super::edit::Edit;
use super::keys::Keys;
use super::lock_wait::LockWaiters;
use super::recalls::{RecallQueue, Ticket};
use super::record::SessionRow;
use super::rights::Rights;
use super::scope::Scopes;
use super::seal::{KeyOwner, SessionSeal};
use super::session::{Session, SessionParts};
use super::sync_pump::SyncPump;
use super::table::SessionTable;
use super::types::{
    Attachment, BlockAccess, NewSession, OpenedSession, SessionInfo, SessionKey, VolumeSettings,
    Which,
};
use super::view::View;
use super::{Volume, dentry, random, reflag, session_end, slots, superblock};
use crate::engine::{Engine, Room};

/// Bits of a connection's generation below the volume's epoch: connections of
/// one session while one server has the volume.
const GENERATION_BITS: u32 = 32;

/// A session that is to be live in memory.
pub(super) struct Arrived {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    /// Of before a restart.
    pub(super) recovered: bool,
}

impl Volume {
    /// Takes the volume into service: makes the superblock and the root
    /// (root:root 0755) when it is new, raises the epoch, recovers. Sessions
    /// whose rows cannot be opened, as under another seal, end; what they held
    /// is let go of when their leases are over.
    ///
    /// # Errors
    /// `ENGINE_FAILED`, `FORMAT_UNSUPPORTED`.
    pub fn open(
        engine: Arc<dyn Engine>,
        settings: VolumeSettings,
        blocks: Arc<dyn BlockAccess>,
        seal: Arc<SessionSeal>,
    ) -> Result<Arc<Volume>> {
        let keys = Keys::new(settings.id);
        let mut identity = None;
        engine.transact(&mut |txn| {
            let mut edit = Edit::new(txn, &keys);
            identity = Some(superblock::take_into_service(&mut edit, settings.id, &seal)?);
            Ok(())
        })?;
        let identity = identity.ok_or_else(|| Error::bare(Code::EngineFailed))?;
        let write_rights_from = (identity.epoch << GENERATION_BITS) + 1;
        let volume = Volume {
            syncs: Arc::new(SyncPump::new(Arc::clone(&engine))),
            engine,
            blocks,
            settings: RwLock::new(Arc::new(settings)),
            keys,
            identity,
            seal,
            writer: Mutex::new(()),
            sessions: SessionTable::default(),
            scopes: Scopes::default(),
            rights: Rights::new(write_rights_from),
            lost: Ticket::new(BootTime::now().after(limits::LEASE + limits::LEASE_MARGIN)),
            waiters: Arc::new(LockWaiters::default()),
            ended: Mutex::default(),
            orphan_cursor: Mutex::default(),
            store_pause: Mutex::default(),
        };
        volume.recover_sessions()?;
        Ok(Arc::new(volume))
    }

    pub(super) fn key_owner(&self, session: SessionId) -> KeyOwner {
        let volume = self.settings.read().id;
        KeyOwner { volume, incarnation: self.identity.incarnation, session }
    }

    /// Makes a session live in memory.
    pub(super) fn adopt(&self, row: SessionRow, arrived: Arrived) -> Result<Arc<Session>> {
        let Arrived { id, key, recovered } = arrived;
        let token_flags = row.token_flags.unwrap_or_default();
        let requested = row.requested.unwrap_or_default();
        let merged = flags::merge(&self.settings.read().flags, &token_flags, &requested)?;
        let path: Vec<Ino> = row.scope_inos.iter().copied().map(Ino).collect();
        let parts = SessionParts {
            id,
            key,
            root: path.last().copied().unwrap_or(self.identity.root),
            confined: self.scopes.pin(id, &path),
            flags: merged,
            generation: self.identity.epoch << GENERATION_BITS,
            recovered,
        };
        let session = Session::new(row, parts, &self.identity.handles)
            .inspect_err(|_| self.scopes.unpin(id, path.iter().copied()))?;
        let session = Arc::new(session);
        self.sessions.insert(Arc::clone(&session));
        Ok(session)
    }

    /// Opens a session: merges flags, resolves the scope without following
    /// links, makes the row.
    ///
    /// # Errors
    /// `FLAG_CONFLICT`, `FLAG_UNSUPPORTED`, `SCOPE_MISSING` (the subtree is not there),
    /// `RATE_LIMITED` (too many sessions), `FS_NO_SPACE` (the disk below the
    /// engine is full), `ENGINE_FAILED`.
    pub fn open_session(&self, new: NewSession) -> Result<OpenedSession> {
        self.need_room(Room::Low)?;
        let id = SessionId::random();
        let key: SessionKey = Zeroizing::new(random::fill()?);
        let sealed_key = self.seal.seal(&self.key_owner(id), &key)?;
        let writer = self.writer.lock();
        self.sessions.need_room()?;
        // Under the lock: no change of the volume's flags comes in between.
        let merged = flags::merge(&self.settings.read().flags, &new.token_flags, &new.requested)?;
        reflag::need_honoured(&merged, &new.honours)?;
        let acls = new.acls && !merged.no_acl && flags::identity_is_true(&merged);
        let mut made = None;
        self.transact(&writer, &mut |edit| {
            let path = self.resolve_scope(edit.view(), &new.scope)?;
            let root = path.last().copied().unwrap_or(self.identity.root);
            let row = SessionRow {
                token: Bytes::copy_from_slice(new.token_id.as_bytes()),
                secret: Bytes::copy_from_slice(new.secret_id.as_bytes()),
                scope: new.scope.to_string(),
                scope_inos: path.iter().map(|ino| ino.0).collect(),
                token_flags: Some(new.token_flags),
                requested: Some(new.requested),
                host_name: new.host_name.clone(),
                dir: new.dir.clone(),
                peer: new.peer.clone(),
                opened_at: Some(edit.stamp()),
                recalls: new.recalls,
                honours: Some(new.honours),
                sealed_key: sealed_key.clone(),
                write_rights: new.write_rights,
                make_rights: new.make_rights,
                lock_losses: 0,
                acls,
            };
            edit.put(&self.keys.session(id), &row);
            made = Some((row, attr(root, &edit.view().inode_named(root)?)));
            Ok(())
        })?;
        flexfs_common::failpoint!("meta-session-opened");
        let (row, root_attr) = made.ok_or_else(|| Error::bare(Code::Internal))?;
        let session = self.adopt(row, Arrived { id, key: key.clone(), recovered: false })?;
        drop(writer);
        Ok(OpenedSession {
            id,
            key,
            flags: *session.flags(),
            acls,
            root_handle: session.handles.make(session.root).into(),
            root_attr,
        })
    }

    /// The inodes of a scope's components; none for the whole volume.
    fn resolve_scope(&self, view: View<'_>, scope: &SubtreePath) -> Result<Vec<Ino>> {
        let missing =
            || Error::new(Code::ScopeMissing, format!("the directory {scope} is not there"));
        let mut path = Vec::new();
        let mut at = self.identity.root;
        for component in scope.components() {
            let name = DentryName::parse(component.as_bytes()).map_err(|_| missing())?;
            let found = dentry::find(view, &self.identity.order, at, &name)?.ok_or_else(missing)?;
            if found.kind != v1::FileKind::Directory as i32 {
                return Err(missing());
            }
            at = found.ino;
            path.push(at);
        }
        Ok(path)
    }

    /// The key of a live session, to check a proof with.
    ///
    /// # Errors
    /// The code the session was cut with, else `SESSION_UNKNOWN`.
    pub fn session_key(&self, session: SessionId) -> Result<SessionKey> {
        Ok(self.sessions.live(session)?.key().clone())
    }

    /// A connection has proven the session: raises its generation.
    ///
    /// # Errors
    /// As [`Volume::session_key`].
    pub fn attach(&self, session: SessionId) -> Result<Attachment> {
        let session = self.sessions.live(session)?;
        // Frames of older connections are either committed now or refused.
        let generation = {
            let _writer = self.writer.lock();
            session.next_generation()
        };
        session.heard();
        if let Some(recalls) = &session.recalls {
            recalls.attach(generation);
        }
        let slot_sequences = self.with_view(|view| slots::sequences(view, session.id))?;
        Ok(Attachment { generation, slot_sequences })
    }

    /// What is recalled from a session, for its connection; `None` when it
    /// does not know recalls.
    #[must_use]
    pub fn recalls(&self, session: SessionId) -> Option<Arc<RecallQueue>> {
        self.sessions.live(session).ok()?.recalls.clone()
    }

    /// Every mount is to ask again from now on, whatever it was granted.
    pub fn recall_everything(&self) {
        for session in self.sessions.all() {
            // Nobody waits: nothing has changed.
            let _ = self.rights.recall_all(&session);
        }
    }

    /// A heartbeat: the lease begins anew. How often the session has lost its
    /// locks, for its client.
    ///
    /// # Errors
    /// As [`Volume::session_key`]; `SESSION_UNKNOWN` for an old generation.
    pub fn renew(&self, session: SessionId, generation: u64) -> Result<u64> {
        let session = self.sessions.live(session)?;
        session.check_generation(generation)?;
        Ok(session.heard())
    }

    /// Ends sessions for good, as a point in the commit order: when it
    /// returns, nothing of them commits any more. Returns those that were live.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn cut(&self, which: Which, code: Code) -> Result<Vec<SessionId>> {
        let mut ids = Vec::new();
        self.change_alone(&mut |edit| {
            // Under the writer lock: a session that is being opened is either
            // among them or begins after this point of the commit order.
            ids = self.sessions.which(which).iter().map(|session| session.id).collect();
            ids.iter().for_each(|id| session_end::end(edit, *id, code));
            Ok(())
        })?;
        self.release_now(&ids)?;
        Ok(ids)
    }

    fn end_alone(&self, session: SessionId, code: Code) -> Result<()> {
        self.change_alone(&mut |edit| {
            session_end::end(edit, session, code);
            Ok(())
        })
        .map(|_| ())
    }

    /// Locks of ended sessions go at once: others wait for them.
    pub(super) fn release_now(&self, sessions: &[SessionId]) -> Result<()> {
        for session in sessions {
            let held = self.keys.locks_of_session(*session);
            if self.with_view(|view| view.any(&held))? {
                self.change_alone(&mut |edit| {
                    session_end::release_locks(edit, *session)?;
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// A clean unmount.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn end_session(&self, session: SessionId) -> Result<()> {
        if self.sessions.live(session).is_err() {
            return Ok(());
        }
        self.end_alone(session, Code::SessionUnknown)?;
        self.release_now(&[session])
    }

    /// Is it live? Cheap: asked every 256 KiB of a transfer.
    #[must_use]
    pub fn session_is_live(&self, session: SessionId) -> bool {
        self.sessions.live(session).is_ok()
    }

    /// Live sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.all().iter().map(|session| session.info()).collect()
    }
}
