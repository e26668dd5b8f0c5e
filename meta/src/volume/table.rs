//! The sessions of a volume in memory: those that live, and what the others
//! were cut with.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_common::ids::SessionId;
use flexfs_common::{Code, Error, Result};
use parking_lot::RwLock;

use super::session::Session;
use super::types::Which;

/// Cut sessions that are remembered; older ones become unknown.
pub(super) const TOMBSTONES_MAX: usize = 4096;
/// Live sessions of one volume.
const SESSIONS_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<SessionId, Arc<Session>>,
    cut: HashMap<SessionId, (Code, i64)>,
}

/// All sessions of a volume.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    inner: RwLock<Inner>,
}

impl SessionTable {
    /// # Errors
    /// The code it was cut with, else `SESSION_UNKNOWN`.
    pub(super) fn live(&self, id: SessionId) -> Result<Arc<Session>> {
        let inner = self.inner.read();
        if let Some(session) = inner.live.get(&id) {
            session.check_live()?;
            return Ok(Arc::clone(session));
        }
        Err(Error::bare(inner.cut.get(&id).map_or(Code::SessionUnknown, |(code, _)| *code)))
    }

    /// # Errors
    /// `RATE_LIMITED` when the volume has as many sessions as it can have.
    pub(super) fn need_room(&self) -> Result<()> {
        if self.inner.read().live.len() >= SESSIONS_MAX {
            return Err(Error::new(Code::RateLimited, "the volume has too many sessions"));
        }
        Ok(())
    }

    pub(super) fn insert(&self, session: Arc<Session>) {
        self.inner.write().live.insert(session.id, session);
    }

    /// Forgets a live session and remembers what it was cut with.
    pub(super) fn end(&self, id: SessionId, code: Code, at: i64) -> Option<Arc<Session>> {
        let mut inner = self.inner.write();
        if code != Code::SessionUnknown {
            inner.cut.insert(id, (code, at));
        }
        inner.live.remove(&id)
    }

    /// What a session was cut with before the restart.
    pub(super) fn remember(&self, id: SessionId, code: Code, at: i64) {
        self.inner.write().cut.insert(id, (code, at));
    }

    /// Was it cut, as far as is remembered?
    pub(super) fn is_remembered(&self, id: SessionId) -> bool {
        self.inner.read().cut.contains_key(&id)
    }

    /// The oldest of the cut sessions, if there are too many.
    pub(super) fn surplus(&self) -> Vec<SessionId> {
        let inner = self.inner.read();
        let surplus = inner.cut.len().saturating_sub(TOMBSTONES_MAX);
        if surplus == 0 {
            return Vec::new();
        }
        let mut all: Vec<_> = inner.cut.iter().map(|(id, (_, at))| (*at, *id)).collect();
        all.sort_unstable();
        all.into_iter().take(surplus).map(|(_, id)| id).collect()
    }

    pub(super) fn forget(&self, ids: &[SessionId]) {
        let mut inner = self.inner.write();
        ids.iter().for_each(|id| {
            inner.cut.remove(id);
        });
    }

    /// Live sessions.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        let inner = self.inner.read();
        inner.live.values().filter(|session| session.is_live()).cloned().collect()
    }

    /// Live sessions of a kind.
    pub(super) fn which(&self, which: Which) -> Vec<Arc<Session>> {
        let mut sessions = self.all();
        sessions.retain(|session| match which {
            Which::Token(token) => session.token_id() == token,
            Which::Secret(secret) => session.secret_id() == secret,
            Which::Session(id) => session.id == id,
            Which::All => true,
        });
        sessions
    }
}
