//! Live sessions in memory. The rows in the engine are the truth; these hold
//! what every operation asks for.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SecretId, SessionId, TokenId};
use flexfs_common::name::SubtreePath;
use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use parking_lot::{Mutex, RwLock};

use super::handle::{HandleKey, Handles};
use super::recalls::{Knows, RecallQueue};
use super::record::SessionRow;
use super::scope::ScopeRoot;
use super::types::{SessionInfo, SessionKey};

/// One live mount of one token.
pub(super) struct Session {
    pub(super) id: SessionId,
    /// Holds the key only sealed.
    row: SessionRow,
    key: SessionKey,
    scope: SubtreePath,
    token_id: TokenId,
    /// The scope's root.
    pub(super) root: Ino,
    /// `None`: the whole volume, nothing to confine.
    pub(super) confined: Option<Arc<ScopeRoot>>,
    pub(super) handles: Handles,
    life: RwLock<Life>,
    /// Its client may know other flags than those in force.
    untold: AtomicBool,
    ended: OnceLock<Code>,
    generation: AtomicU64,
    /// When it was last heard, [`BootTime`] in nanoseconds.
    heard: AtomicU64,
    /// How often it has lost its locks by silence.
    lock_losses: Mutex<u64>,
    /// Object keys given out and neither used nor lapsed.
    pub(super) minted: AtomicI64,
    /// Opens.
    pub(super) opens: AtomicI64,
    /// `None`: the mount does not know recalls.
    pub(super) recalls: Option<Arc<RecallQueue>>,
    #[cfg(test)]
    pretended: AtomicU64,
}

/// What changes while it lives. Set under the writer lock, with the row.
#[derive(Clone, Debug)]
struct Life {
    /// The secret it last authenticated with.
    secret_id: SecretId,
    /// The token's own flags.
    token_flags: v1::Flags,
    /// Effective flags.
    flags: Arc<v1::Flags>,
}

/// What a session is made of besides its row.
pub(super) struct SessionParts {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    pub(super) root: Ino,
    pub(super) confined: Option<Arc<ScopeRoot>>,
    pub(super) flags: v1::Flags,
    /// Generations begin after this one.
    pub(super) generation: u64,
    /// Of before a restart: nobody knows what its client was told.
    pub(super) recovered: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    /// # Errors
    /// `ENGINE_FAILED` when the row is damaged.
    pub(super) fn new(row: SessionRow, parts: SessionParts, keys: &HandleKey) -> Result<Session> {
        let damaged = || Error::new(Code::EngineFailed, "a damaged session record");
        let id = |bytes: &Bytes| <[u8; 16]>::try_from(&bytes[..]).map_err(|_| damaged());
        Ok(Session {
            id: parts.id,
            key: parts.key,
            scope: row.scope.parse().map_err(|_| damaged())?,
            token_id: TokenId::from_bytes(id(&row.token)?),
            root: parts.root,
            confined: parts.confined,
            handles: keys.for_session(parts.id),
            life: RwLock::new(Life {
                secret_id: SecretId::from_bytes(id(&row.secret)?),
                token_flags: row.token_flags.unwrap_or_default(),
                flags: Arc::new(parts.flags),
            }),
            untold: AtomicBool::new(parts.recovered),
            ended: OnceLock::new(),
            generation: AtomicU64::new(parts.generation),
            heard: AtomicU64::new(BootTime::now().as_nanos()),
            lock_losses: Mutex::new(row.lock_losses),
            minted: AtomicI64::new(0),
            opens: AtomicI64::new(0),
            recalls: row
                .recalls
                .then(|| Arc::new(RecallQueue::new(parts.generation, Knows::of(&row)))),
            #[cfg(test)]
            pretended: AtomicU64::new(0),
            row,
        })
    }

    pub(super) fn token_id(&self) -> TokenId {
        self.token_id
    }

    pub(super) fn secret_id(&self) -> SecretId {
        self.life.read().secret_id
    }

    /// It lives from this secret from now on.
    pub(super) fn set_secret(&self, secret: SecretId) {
        self.life.write().secret_id = secret;
    }

    /// Inodes of the scope's components, the scope's root last.
    pub(super) fn scope_inos(&self) -> impl Iterator<Item = Ino> + '_ {
        self.row.scope_inos.iter().copied().map(Ino)
    }

    pub(super) fn flags(&self) -> Arc<v1::Flags> {
        Arc::clone(&self.life.read().flags)
    }

    /// The token's own flags, and those that hold with them.
    pub(super) fn set_flags(&self, token: v1::Flags, effective: v1::Flags) {
        let mut life = self.life.write();
        life.token_flags = token;
        if *life.flags != effective {
            life.flags = Arc::new(effective);
            self.untold.store(true, Ordering::Release);
        }
    }

    pub(super) fn token_flags(&self) -> v1::Flags {
        self.life.read().token_flags
    }

    /// What the client asked for, and which restrictions it can honour.
    pub(super) fn client_flags(&self) -> (v1::Flags, v1::Flags) {
        (self.row.requested.unwrap_or_default(), self.row.honours.unwrap_or_default())
    }

    /// Does its client's kernel check access control lists?
    pub(super) fn knows_acls(&self) -> bool {
        self.row.acls
    }

    /// May its client know other flags than those in force?
    pub(super) fn is_untold(&self) -> bool {
        self.untold.load(Ordering::Acquire)
    }

    /// Its row with another secret.
    pub(super) fn row_with_secret(&self, secret: SecretId) -> SessionRow {
        SessionRow {
            secret: Bytes::copy_from_slice(secret.as_bytes()),
            token_flags: Some(self.token_flags()),
            lock_losses: *self.lock_losses.lock(),
            ..self.row.clone()
        }
    }

    /// Its row with other flags of its token.
    pub(super) fn row_with_flags(&self, token: v1::Flags) -> SessionRow {
        SessionRow {
            secret: Bytes::copy_from_slice(self.secret_id().as_bytes()),
            token_flags: Some(token),
            lock_losses: *self.lock_losses.lock(),
            ..self.row.clone()
        }
    }

    /// # Errors
    /// The code it was ended with.
    pub(super) fn check_live(&self) -> Result<()> {
        self.ended.get().map_or(Ok(()), |code| Err(Error::bare(*code)))
    }

    pub(super) fn is_live(&self) -> bool {
        self.ended.get().is_none()
    }

    /// Ends it for good; the first code stays.
    pub(super) fn end(&self, code: Code) {
        // Already ended: nothing to change.
        let _ = self.ended.set(code);
        // One that lost its place is connected still: what it keeps has to go
        // before what took the place away is answered.
        if let Some(recalls) = self.recalls.as_ref().filter(|_| code != Code::FsStale) {
            recalls.end();
        }
    }

    /// # Errors
    /// The code it was ended with, or `SESSION_UNKNOWN` for an old generation.
    pub(super) fn check_generation(&self, generation: u64) -> Result<()> {
        self.check_live()?;
        if self.generation.load(Ordering::Acquire) != generation {
            return Err(Error::new(Code::SessionUnknown, "a newer connection is in use"));
        }
        Ok(())
    }

    /// A new connection: frames of older ones are dropped.
    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// It was heard: the lease begins anew. How often it has lost its locks.
    pub(super) fn heard(&self) -> u64 {
        let losses = self.lock_losses.lock();
        let now = BootTime::now();
        self.heard.store(now.as_nanos(), Ordering::Release);
        if let Some(recalls) = &self.recalls {
            recalls.heard(now);
        }
        #[cfg(test)]
        self.pretended.store(0, Ordering::Release);
        *losses
    }

    /// It is about to lose its locks, unless it was heard meanwhile: then false.
    /// Whoever is heard later is told.
    pub(super) fn loses_locks(&self) -> bool {
        let mut losses = self.lock_losses.lock();
        let lost = self.lease_lost();
        *losses += u64::from(lost);
        lost
    }

    /// Its row as it is now.
    pub(super) fn present_row(&self) -> SessionRow {
        self.row_with_flags(self.token_flags())
    }

    /// How long it has been silent.
    pub(super) fn silent_for(&self) -> Duration {
        let silent =
            BootTime::now().since(BootTime::from_nanos(self.heard.load(Ordering::Acquire)));
        #[cfg(test)]
        let silent = silent + Duration::from_nanos(self.pretended.load(Ordering::Acquire));
        silent
    }

    /// Has its lease ended for everyone?
    pub(super) fn lease_lost(&self) -> bool {
        self.silent_for() > limits::LEASE + limits::LEASE_MARGIN
    }

    /// Lets the session look as though it had been silent for `span`, also on
    /// a machine that has not run that long.
    #[cfg(test)]
    pub(super) fn pretend_silence(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap();
        self.pretended.store(nanos, Ordering::Release);
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.key
    }

    pub(super) fn info(&self) -> SessionInfo {
        let opened_at = self.row.opened_at.unwrap_or_default();
        SessionInfo {
            id: self.id,
            token_id: self.token_id,
            secret_id: self.secret_id(),
            scope: self.scope.clone(),
            flags: *self.flags(),
            host_name: self.row.host_name.clone(),
            dir: self.row.dir.clone(),
            peer: self.row.peer.clone(),
            opened_at: wire::timestamp_from_wire(&opened_at).unwrap_or_default(),
        }
    }
}
