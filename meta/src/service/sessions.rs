//! Live sessions and their connections, in memory. The truth about a session
//! is in its volume; this is the way from its id to the volume and to the
//! connection that serves it now.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{SessionId, TokenId};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::news::{Change, News};
use crate::volume::Volume;

/// Live sessions of one server: far above what its port can carry, low
/// enough that their entries never matter (some 300 bytes each).
const SESSIONS_MAX: usize = 65_536;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Its session was cut; the client is told and may answer.
    Cut(v1::ErrorDetail),
    /// A later connection of the same session has taken over.
    Superseded,
}

/// The connection that serves a session now.
#[derive(Debug)]
pub struct Link {
    generation: u64,
    ending: watch::Sender<Option<Ending>>,
    /// Counts changes of the session's flags: which they are is the volume's
    /// to say.
    flags: watch::Sender<u64>,
}

impl Link {
    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Follows the ending.
    #[must_use]
    pub fn ending(&self) -> watch::Receiver<Option<Ending>> {
        self.ending.subscribe()
    }

    /// Follows changes of the session's flags.
    #[must_use]
    pub fn flags(&self) -> watch::Receiver<u64> {
        self.flags.subscribe()
    }

    /// The first ending stays.
    fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|present| {
            let first = present.is_none();
            if first {
                *present = Some(ending);
            }
            first
        });
    }
}

/// One live session. The secret that it lives from is in its volume alone:
/// it changes there, as a point of the commit order.
#[derive(Debug)]
pub struct SessionEntry {
    /// Its id.
    pub id: SessionId,
    /// Its volume.
    pub volume: Arc<Volume>,
    /// Its token.
    pub token_id: TokenId,
    /// When its lease was last renewed (BootTime nanoseconds).
    renewed: AtomicU64,
    link: Mutex<Option<Arc<Link>>>,
    cut_done: CancellationToken,
    /// Held by a re-authentication: one at a time, and when the last began.
    pub(crate) reauthentication: tokio::sync::Mutex<Option<BootTime>>,
}

impl SessionEntry {
    /// A session whose lease begins now.
    #[must_use]
    pub fn new(id: SessionId, volume: Arc<Volume>, token_id: TokenId) -> Arc<SessionEntry> {
        Arc::new(SessionEntry {
            id,
            volume,
            token_id,
            renewed: AtomicU64::new(BootTime::now().as_nanos()),
            link: Mutex::new(None),
            cut_done: CancellationToken::new(),
            reauthentication: tokio::sync::Mutex::new(None),
        })
    }

    /// A connection of this generation serves it from now on; an older one
    /// is told to end.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN` when a younger one was here first.
    pub fn connect(&self, generation: u64) -> Result<Arc<Link>> {
        let new = Arc::new(Link {
            generation,
            ending: watch::Sender::new(None),
            flags: watch::Sender::new(0),
        });
        let mut link = self.link.lock();
        if let Some(old) = link.as_ref() {
            if old.generation >= generation {
                return Err(Error::new(
                    Code::SessionUnknown,
                    "a younger connection of the session has taken over",
                ));
            }
            old.end(Ending::Superseded);
        }
        *link = Some(Arc::clone(&new));
        Ok(new)
    }

    /// The connection is over.
    pub fn disconnect(&self, link: &Arc<Link>) {
        let mut present = self.link.lock();
        if present.as_ref().is_some_and(|l| Arc::ptr_eq(l, link)) {
            *present = None;
        }
    }

    /// Is a connection serving it?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.lock().is_some()
    }

    /// The lease begins anew.
    pub fn mark_renewed(&self) {
        self.renewed.store(BootTime::now().as_nanos(), Ordering::Release);
    }

    /// The client has said that it serves nothing any more.
    pub fn mark_cut_done(&self) {
        self.cut_done.cancel();
    }

    /// Tells the connection, if there is one, that the session was cut.
    pub fn push_cut(&self, reason: &v1::ErrorDetail) {
        if let Some(link) = self.link.lock().as_ref() {
            link.end(Ending::Cut(reason.clone()));
        }
    }

    /// Tells the connection, if there is one, that the session's flags changed.
    pub fn push_flags(&self) {
        if let Some(link) = self.link.lock().as_ref() {
            link.flags.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Until when the client may believe in its lease: a lease counts from
    /// when its renewal was sent, so from when it arrived is late enough.
    fn lease_left(&self) -> Duration {
        BootTime::from_nanos(self.renewed.load(Ordering::Acquire)).after(limits::LEASE).left()
    }

    /// Serves the client of this cut session nothing from its caches any more?
    #[must_use]
    pub fn is_quiet_now(&self) -> bool {
        self.cut_done.is_cancelled() || self.lease_left().is_zero()
    }

    /// Ends when the client of this cut session serves nothing from its caches
    /// any more: it said so, or its lease is over.
    pub async fn is_quiet(&self) {
        loop {
            let left = self.lease_left();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = self.cut_done.cancelled() => return,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// All live sessions of this server.
#[derive(Debug, Default)]
pub struct Sessions {
    entries: RwLock<HashMap<SessionId, Arc<SessionEntry>>>,
    /// What admin is to be told of them.
    pub news: News,
}

impl Sessions {
    /// Adds one.
    ///
    /// # Errors
    /// `RATE_LIMITED` when there are too many.
    pub fn insert(&self, entry: Arc<SessionEntry>) -> Result<()> {
        let id = entry.id;
        {
            let mut sessions = self.entries.write();
            if sessions.len() >= SESSIONS_MAX {
                return Err(Error::new(Code::RateLimited, "too many sessions on this server"));
            }
            sessions.insert(id, entry);
        }
        self.news.note(id, Change::Opened);
        Ok(())
    }

    /// The session of this id.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Arc<SessionEntry>> {
        self.entries.read().get(&id).cloned()
    }

    /// Takes one out.
    pub fn remove(&self, id: SessionId) -> Option<Arc<SessionEntry>> {
        let removed = self.entries.write().remove(&id);
        if removed.is_some() {
            self.news.note(id, Change::Closed);
        }
        removed
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.read().is_empty()
    }

    /// Every session, at this moment.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<SessionEntry>> {
        self.entries.read().values().cloned().collect()
    }
}
