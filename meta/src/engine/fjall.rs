//! The embedded engine: fjall 3, one database, one keyspace, one writer.
//!
//! Every transaction is one atomic batch in fjall's journal, handed to the
//! operating system before it is answered (`PersistMode::Buffer`); syncs are
//! shared. fjall's own optimistic transactions are not used: with one writer
//! there are no conflicts to detect.

mod torn;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;

use super::background::{BackgroundSync, SYNC_AFTER};
use super::durability::Durability;
use super::overlay::{Head, Overlay, head_key};
use super::space::{Disk, Space};
use super::{CommitVersion, Engine, Pair, Reader, Savepoint, Txn, Visit};

/// All keys lie in this keyspace.
const KEYSPACE: &str = "flexfs";
/// Journals up to this many bytes: a restart replays them (0.9–2.5 s per
/// 512 MiB measured), and every memtable of 64 MiB needs its journal.
const JOURNAL_MAX_LEN: u64 = 128 * 1024 * 1024;
/// Block cache in bytes.
const CACHE_LEN: u64 = 128 * 1024 * 1024;

fn failed(what: &'static str) -> impl FnOnce(::fjall::Error) -> Error {
    move |e| Error::new(Code::EngineFailed, what).caused_by(e)
}

/// The database, shared with the background thread.
struct Inner {
    db: Database,
    keys: Keyspace,
    durability: Durability,
}

impl Inner {
    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.durability.wait(version, &mut || {
            self.db.persist(PersistMode::SyncData).map_err(failed("syncing the journal failed"))
        })
    }
}

/// The embedded engine. Lock order: `writer` before anything inside `inner`.
pub struct FjallEngine {
    // Dropped first: its thread holds the other half of `inner`.
    background: BackgroundSync,
    inner: Arc<Inner>,
    disk: Disk,
    /// The head of the latest commit.
    writer: Mutex<Head>,
}

impl std::fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallEngine").field("head", &self.inner.durability.head()).finish()
    }
}

impl FjallEngine {
    /// Opens the database in `dir` (made when missing; fjall locks it against
    /// other processes) and replays its journal.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn open(dir: &Path) -> Result<FjallEngine> {
        FjallEngine::open_with(dir, SYNC_AFTER, None)
    }

    /// As [`FjallEngine::open`], keeping so many bytes of the disk free.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn open_reserving(dir: &Path, reserve: Option<u64>) -> Result<FjallEngine> {
        FjallEngine::open_with(dir, SYNC_AFTER, reserve)
    }

    pub(super) fn open_with(
        dir: &Path,
        sync_after: Duration,
        reserve: Option<u64>,
    ) -> Result<FjallEngine> {
        torn::cut(dir)?;
        let db = Database::builder(dir)
            .max_journaling_size(JOURNAL_MAX_LEN)
            .cache_size(CACHE_LEN)
            .open()
            .map_err(failed("opening the metadata database failed"))?;
        let keys = db
            .keyspace(KEYSPACE, KeyspaceCreateOptions::default)
            .map_err(failed("opening the keyspace failed"))?;
        let head = match keys.get(head_key()).map_err(failed("reading the head failed"))? {
            Some(bytes) => Head::decode(&bytes)?,
            None => Head::default(),
        };
        // What recovery found in the journal may not be on disk yet.
        db.persist(PersistMode::SyncData).map_err(failed("syncing the journal failed"))?;
        let inner = Arc::new(Inner { db, keys, durability: Durability::new(head.version) });
        let theirs = Arc::clone(&inner);
        let background = BackgroundSync::start(sync_after, move || {
            if let Err(error) = theirs.sync(theirs.durability.head()) {
                tracing::error!(error = error.with_causes(), "background sync failed");
            }
        })?;
        let disk = Disk::new(dir, reserve);
        Ok(FjallEngine { background, inner, disk, writer: Mutex::new(head) })
    }
}

fn pair(guard: Guard) -> Result<(::fjall::Slice, ::fjall::Slice)> {
    guard.into_inner().map_err(failed("reading a key failed"))
}

fn bytes(slice: &::fjall::Slice) -> Bytes {
    Bytes::copy_from_slice(slice)
}

struct FjallSnapshot<'e> {
    inner: &'e Inner,
    snapshot: Snapshot,
}

impl Reader for FjallSnapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.snapshot.get(&self.inner.keys, key);
        Ok(value.map_err(failed("reading a key failed"))?.as_ref().map(bytes))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        for guard in self.snapshot.range(&self.inner.keys, from..to) {
            let (key, value) = pair(guard)?;
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        if from >= to {
            return Ok(None);
        }
        let Some(guard) = self.snapshot.range(&self.inner.keys, from..to).next_back() else {
            return Ok(None);
        };
        let (key, value) = pair(guard)?;
        Ok(Some((bytes(&key), bytes(&value))))
    }
}

/// Reads go to the keyspace itself: the writer lock keeps it still.
struct FjallTxn<'e> {
    inner: &'e Inner,
    overlay: Overlay,
    time: i64,
}

impl Reader for FjallTxn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        if let Some(written) = self.overlay.get(key) {
            return Ok(written.clone());
        }
        let value = self.inner.keys.get(key);
        Ok(value.map_err(failed("reading a key failed"))?.as_ref().map(bytes))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        self.overlay.scan(from, to, self.inner.keys.range(from..to).map(pair), visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        if from >= to {
            return Ok(None);
        }
        self.overlay.last(from, to, self.inner.keys.range(from..to).rev().map(pair))
    }
}

impl Txn for FjallTxn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.overlay.write(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.overlay.write(key, None);
    }

    fn savepoint(&mut self) -> Savepoint {
        self.overlay.savepoint()
    }

    fn rollback(&mut self, to: Savepoint) {
        self.overlay.rollback(to);
    }

    fn commit_time(&self) -> i64 {
        self.time
    }

    fn advance(&mut self, to: i64) {
        self.time = self.time.max(to);
    }
}

impl Engine for FjallEngine {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        self.inner.durability.check()?;
        Ok(Box::new(FjallSnapshot { inner: &self.inner, snapshot: self.inner.db.snapshot() }))
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        let mut head = self.writer.lock();
        self.inner.durability.check()?;
        let mut next = head.next();
        let mut txn = FjallTxn { inner: &self.inner, overlay: Overlay::default(), time: next.time };
        body(&mut txn)?;
        next.time = txn.time;
        let writes = txn.overlay.finish()?;
        if writes.is_empty() {
            return Ok(head.version);
        }
        let mut batch = self.inner.db.batch().durability(Some(PersistMode::Buffer));
        let mut len = 0;
        for (key, value) in writes {
            len += key.len() + value.as_ref().map_or(0, Bytes::len);
            match value {
                Some(value) => batch.insert(&self.inner.keys, key, &value[..]),
                None => batch.remove(&self.inner.keys, key),
            }
        }
        batch.insert(&self.inner.keys, head_key(), &next.encode()[..]);
        if let Err(error) = batch.commit() {
            self.inner.durability.poison();
            return Err(failed("committing failed")(error));
        }
        *head = next;
        self.inner.durability.committed(next.version);
        drop(head);
        self.disk.wrote(u64::try_from(len).unwrap_or(u64::MAX));
        self.background.wake();
        Ok(next.version)
    }

    fn head(&self) -> CommitVersion {
        self.inner.durability.head()
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.inner.sync(version)
    }

    fn space(&self) -> Option<Space> {
        Some(self.disk.space())
    }
}
