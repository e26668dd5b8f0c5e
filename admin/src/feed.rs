//! The change feed towards metadata servers: who is connected, what each has
//! acknowledged, and the stream itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{ServerId, TokenId};
use flexfs_common::name::StoreId;
use flexfs_common::{Result, clock, limits};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::MetaServer;
use crate::service::revoke::MetaAnswer;
use crate::store::{Kind, Store, metas};

pub mod poll;
pub mod stream;

/// Tokens whose cuts are remembered per server between two writes.
const CUTS_MAX: usize = 10_000;
/// Subscriptions of one server at once: one, and some that are not yet known
/// to be broken.
const CONNECTIONS_MAX: u32 = 8;
/// How often a waiter looks at what other replicas wrote.
const REPLICA_POLL: Duration = Duration::from_millis(50);

/// What is known of one server in this process.
#[derive(Debug)]
struct Known {
    meta_store: StoreId,
    connections: u32,
    acknowledged: u64,
    last_seen_at: Timestamp,
    /// When this process itself heard of it, by a clock that does not jump.
    heard: BootTime,
    // Not yet written to the database.
    cuts: HashMap<TokenId, u32>,
    dirty: bool,
}

/// The servers that this process has heard of since it started, and a bell
/// that rings at every acknowledgement.
#[derive(Debug)]
pub struct Registry {
    known: Mutex<HashMap<ServerId, Known>>,
    bell: watch::Sender<u64>,
}

/// What is known of a server here and in the database together.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// The newer of both.
    pub server: MetaServer,
    /// Is it connected to this process?
    pub connected: bool,
    /// When this process itself last heard of it.
    pub heard: Option<BootTime>,
}

impl Refreshed {
    /// Has it been away for longer than it may go on without admin? Not if
    /// this process has heard of it since, whatever the wall clock did.
    fn is_gone(&self) -> bool {
        let grace = jiff::SignedDuration::try_from(limits::ADMIN_GRACE).unwrap_or_default();
        let horizon = clock::wall_now().checked_sub(grace).unwrap_or(Timestamp::MIN);
        let heard = self.heard.is_some_and(|at| !at.after(limits::ADMIN_GRACE).passed());
        !self.connected && !heard && self.server.last_seen_at < horizon
    }
}

impl Known {
    fn hear(&mut self) {
        self.last_seen_at = clock::wall_now();
        self.heard = BootTime::now();
    }
}

/// A connection of a server; dropped when it ends.
#[derive(Debug)]
pub struct Connection {
    registry: Arc<Registry>,
    server: ServerId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut known = self.registry.known.lock();
        if let Some(known) = known.get_mut(&self.server) {
            known.connections = known.connections.saturating_sub(1);
            known.hear();
            known.dirty = true;
        }
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { known: Mutex::default(), bell: watch::Sender::new(0) }
    }
}

impl Registry {
    fn ring(&self) {
        self.bell.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn entry<T>(&self, server: &MetaServer, with: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock();
        let entry = known.entry(server.id).or_insert_with(|| Known {
            meta_store: server.meta_store.clone(),
            connections: 0,
            acknowledged: server.acknowledged,
            last_seen_at: server.last_seen_at,
            heard: BootTime::now(),
            cuts: HashMap::new(),
            dirty: false,
        });
        with(entry)
    }

    /// A server has registered.
    pub fn registered(&self, server: &MetaServer) {
        self.entry(server, |known| {
            known.last_seen_at = server.last_seen_at;
            known.heard = BootTime::now();
        });
    }

    /// A server has subscribed; `None` when it has too many subscriptions.
    #[must_use]
    pub fn connect(self: &Arc<Self>, server: &MetaServer) -> Option<Connection> {
        let admitted = self.entry(server, |known| {
            let admitted = known.connections < CONNECTIONS_MAX;
            if admitted {
                known.connections += 1;
                known.hear();
                known.dirty = true;
            }
            admitted
        });
        admitted.then(|| Connection { registry: Arc::clone(self), server: server.id })
    }

    /// A server has applied everything up to a revision, and cut sessions.
    pub fn acknowledge(&self, server: ServerId, revision: u64, cuts: &[(TokenId, u32)]) {
        if let Some(known) = self.known.lock().get_mut(&server) {
            known.hear();
            if revision > known.acknowledged || !cuts.is_empty() {
                known.acknowledged = known.acknowledged.max(revision);
                known.dirty = true;
            }
            for (token, count) in cuts {
                if known.cuts.len() < CUTS_MAX || known.cuts.contains_key(token) {
                    let sum = known.cuts.entry(*token).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        self.ring();
    }

    /// A server starts anew after a resynchronisation, at this revision.
    pub fn resynchronised(&self, server: &MetaServer, revision: u64) {
        self.entry(server, |known| {
            known.acknowledged = known.acknowledged.min(revision);
            known.dirty = true;
        });
    }

    /// The row of a server, brought up to date.
    #[must_use]
    pub fn refresh(&self, server: MetaServer) -> Refreshed {
        let known = self.known.lock();
        let Some(known) = known.get(&server.id) else {
            return Refreshed { server, connected: false, heard: None };
        };
        let newer = known.last_seen_at >= server.last_seen_at;
        let acknowledged = if newer { known.acknowledged } else { server.acknowledged };
        let last_seen_at = known.last_seen_at.max(server.last_seen_at);
        Refreshed {
            server: MetaServer { acknowledged, last_seen_at, ..server },
            connected: known.connections > 0,
            heard: Some(known.heard),
        }
    }

    /// Which server a mount should go to: a connected one, else the one last
    /// heard of.
    #[must_use]
    pub fn choose(&self, servers: Vec<MetaServer>) -> Option<MetaServer> {
        servers
            .into_iter()
            .map(|server| self.refresh(server))
            .max_by_key(|r| (r.connected, r.server.last_seen_at, r.server.id))
            .map(|refreshed| refreshed.server)
    }

    /// Waits until every server of the store that may still act on what it
    /// knew (connected, or heard of within the grace for admin's absence) has
    /// acknowledged the revision, or the time is over.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn wait_for(
        &self,
        store: &Store,
        meta_store: &StoreId,
        revision: u64,
        since: Instant,
        wait: Duration,
    ) -> Result<Vec<MetaAnswer>> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut bell = self.bell.subscribe();
        let mut answered: HashMap<ServerId, Duration> = HashMap::new();
        loop {
            bell.mark_unchanged();
            let servers = metas::servers_of(store.reader().as_mut(), meta_store).await?;
            let mut answers = Vec::new();
            for server in servers {
                let refreshed = self.refresh(server);
                if refreshed.is_gone() {
                    continue;
                }
                let server = refreshed.server;
                if server.acknowledged >= revision {
                    answered.entry(server.id).or_insert_with(|| since.elapsed());
                }
                answers
                    .push(MetaAnswer { id: server.id, after: answered.get(&server.id).copied() });
            }
            let all = answers.iter().all(|answer| answer.after.is_some());
            if all || tokio::time::Instant::now() >= deadline {
                return Ok(answers);
            }
            let poll = match store.kind() {
                // Every server is connected to this very process.
                Kind::Sqlite => deadline,
                Kind::Postgres => deadline.min(tokio::time::Instant::now() + REPLICA_POLL),
            };
            // Any end of the wait is followed by another look.
            let _ = tokio::time::timeout_at(poll, bell.changed()).await;
        }
    }

    /// Writes what changed to the database, for other replicas and for the
    /// time after a restart.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; it is written next time.
    pub async fn flush(&self, store: &Store) -> Result<()> {
        let mut changed = Vec::new();
        for (id, known) in self.known.lock().iter_mut().filter(|(_, known)| known.dirty) {
            known.dirty = false;
            let cuts = std::mem::take(&mut known.cuts);
            changed.push((*id, known.acknowledged, known.last_seen_at, cuts));
        }
        if changed.is_empty() {
            return Ok(());
        }
        let written = write(store, &changed).await;
        if written.is_err() {
            let mut all = self.known.lock();
            for (id, _, _, cuts) in changed {
                if let Some(known) = all.get_mut(&id) {
                    known.dirty = true;
                    for (token, count) in cuts {
                        let sum = known.cuts.entry(token).or_default();
                        *sum = sum.saturating_add(count);
                    }
                }
            }
        }
        written
    }

    /// Connected servers live, also when there is nothing to acknowledge.
    pub fn note_connected(&self) {
        for known in self.known.lock().values_mut().filter(|known| known.connections > 0) {
            known.hear();
            known.dirty = true;
        }
    }

    /// Servers connected to this process.
    #[must_use]
    pub fn connected_servers(&self) -> Vec<ServerId> {
        let known = self.known.lock();
        known.iter().filter(|(_, known)| known.connections > 0).map(|(id, _)| *id).collect()
    }

    /// Servers of a store connected to this process.
    #[must_use]
    pub fn connected(&self, store: &StoreId) -> usize {
        let known = self.known.lock();
        known.values().filter(|k| k.meta_store == *store && k.connections > 0).count()
    }
}

type Changed = (ServerId, u64, Timestamp, HashMap<TokenId, u32>);

async fn write(store: &Store, changed: &[Changed]) -> Result<()> {
    let mut tx = store.begin().await?;
    for (id, acknowledged, last_seen_at, cuts) in changed {
        metas::acknowledge(tx.sql(), *id, *acknowledged, *last_seen_at).await?;
        for (token, count) in cuts {
            metas::add_cuts(tx.sql(), *id, *token, *count).await?;
        }
    }
    tx.commit_quietly().await
}
