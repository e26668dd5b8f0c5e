//! The second embedded engine: redb 4, one table, and a journal before it.
//!
//! redb alone either syncs every commit or keeps it in memory only; the trait
//! wants a commit handed to the operating system at once and syncs that are
//! shared. So every transaction is first one record of `journal`, then a
//! commit of redb in memory. Now and then a durable commit of redb makes the
//! journal superfluous, and it begins anew; opening replays what is left.
//!
//! It shows that the trait is not fjall's shape, and lets tests inject faults
//! below. Operators cannot choose it: `start` and `verify` would have to know
//! which engine a data directory holds, for one that writes far more.

mod journal;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redb::backends::FileBackend;
use ::redb::{
    AccessGuard, Builder, Database, Durability as Keep, ReadOnlyTable, ReadableDatabase,
    StorageBackend, TableDefinition,
};
use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;

use self::journal::{Journal, Record};
use super::background::{BackgroundSync, SYNC_AFTER};
use super::durability::Durability;
use super::overlay::{Head, Overlay, Writes, head_key};
use super::{CommitVersion, Engine, Pair, Reader, Savepoint, Txn, Visit};

/// All keys lie in this table.
const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("flexfs");
/// A journal of this many bytes is followed by a durable commit of redb:
/// opening replays at most so much, and pages that commits in memory free are
/// of use again only then.
const JOURNAL_MAX_LEN: u64 = 16 * 1024 * 1024;
/// Page cache in bytes.
const CACHE_LEN: usize = 128 * 1024 * 1024;

fn failed<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> Error {
    move |e| Error::new(Code::EngineFailed, what).caused_by(e)
}

/// How an engine on redb is opened; tests want other numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    pub(super) sync_after: Duration,
    pub(super) journal_max_len: u64,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { sync_after: SYNC_AFTER, journal_max_len: JOURNAL_MAX_LEN }
    }
}

/// The database, shared with the background thread.
struct Inner {
    db: Database,
    journal: Journal,
    durability: Durability,
}

impl Inner {
    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.durability.wait(version, &mut || self.journal.sync())
    }

    fn table(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        let read = self.db.begin_read().map_err(failed("reading the database failed"))?;
        read.open_table(TABLE).map_err(failed("opening the table failed"))
    }

    /// Commits to redb: in memory, or on stable storage with everything before.
    fn apply(&self, writes: &Writes, keep: Keep) -> Result<()> {
        let mut txn = self.db.begin_write().map_err(failed("beginning a commit failed"))?;
        txn.set_durability(keep).map_err(failed("beginning a commit failed"))?;
        {
            let mut table = txn.open_table(TABLE).map_err(failed("opening the table failed"))?;
            for (key, value) in writes {
                match value {
                    Some(value) => table.insert(&key[..], &value[..]),
                    None => table.remove(&key[..]),
                }
                .map_err(failed("writing a key failed"))?;
            }
        }
        txn.commit().map_err(failed("committing failed"))
    }

    /// Puts everything on stable storage in redb itself; the journal begins
    /// anew.
    fn checkpoint(&self) -> Result<()> {
        self.apply(&Writes::new(), Keep::Immediate)?;
        self.journal.clear()
    }
}

/// The engine on redb. Lock order: `writer` before anything inside `inner`.
pub struct RedbEngine {
    // Dropped first: its thread holds the other half of `inner`.
    background: BackgroundSync,
    inner: Arc<Inner>,
    /// The head of the latest commit.
    writer: Mutex<Head>,
    journal_max_len: u64,
}

impl std::fmt::Debug for RedbEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbEngine").field("head", &self.inner.durability.head()).finish()
    }
}

impl RedbEngine {
    /// Opens the database in `dir` (made when missing; redb locks it against
    /// other processes) and replays its journal.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn open(dir: &Path) -> Result<RedbEngine> {
        RedbEngine::open_with(dir, Tuning::default())
    }

    pub(super) fn open_with(dir: &Path, tuning: Tuning) -> Result<RedbEngine> {
        let file = |name| -> std::io::Result<File> {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).open(dir.join(name))
        };
        let files = || -> std::io::Result<(File, File)> {
            std::fs::create_dir_all(dir)?;
            let files = (file("keys.redb")?, file("journal")?);
            File::open(dir)?.sync_all()?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
            Ok(files)
        };
        let (keys, journal) = files().map_err(failed("opening the metadata database failed"))?;
        let disk = |file| FileBackend::new(file).map_err(failed("opening the database failed"));
        RedbEngine::open_on(disk(keys)?, disk(journal)?, tuning)
    }

    /// Opens it on two stores of bytes; a new one is empty.
    pub(super) fn open_on(
        keys: impl StorageBackend,
        journal: impl StorageBackend,
        tuning: Tuning,
    ) -> Result<RedbEngine> {
        let db = Builder::new()
            .set_cache_size(CACHE_LEN)
            .create_with_backend(keys)
            .map_err(failed("opening the metadata database failed"))?;
        // Only now: redb's lock guards the journal too.
        let journal = Journal::open(Box::new(journal))?;
        let mut inner = Inner { db, journal, durability: Durability::default() };
        // The table is there from now on.
        inner.apply(&Writes::new(), Keep::None)?;
        let mut head = match inner.table()?.get(&head_key()[..]) {
            Ok(Some(bytes)) => Head::decode(bytes.value())?,
            Ok(None) => Head::default(),
            Err(error) => return Err(failed("reading the head failed")(error)),
        };
        inner.journal.replay(&mut |record| {
            // Older ones are in redb; a later one without this one's
            // successor was never synced, as nothing after it was.
            if record.head.version.0 == head.version.0 + 1 {
                head = record.head;
                inner.apply(&record.writes, Keep::None)?;
            }
            Ok(record.head.version <= head.version)
        })?;
        // What was found may not be on disk yet; and a version that is now
        // given anew must never be read from what lay behind the end.
        inner.checkpoint()?;
        inner.journal.sync()?;
        inner.durability = Durability::new(head.version);
        RedbEngine::run(inner, head, tuning)
    }

    fn run(inner: Inner, head: Head, tuning: Tuning) -> Result<RedbEngine> {
        let inner = Arc::new(inner);
        let theirs = Arc::clone(&inner);
        let background = BackgroundSync::start(tuning.sync_after, move || {
            if let Err(error) = theirs.sync(theirs.durability.head()) {
                tracing::error!(error = error.with_causes(), "background sync failed");
            }
        })?;
        let journal_max_len = tuning.journal_max_len;
        Ok(RedbEngine { background, inner, writer: Mutex::new(head), journal_max_len })
    }

    fn commit(&self, head: Head, mut writes: Writes) -> Result<()> {
        writes.insert(head_key(), Some(Bytes::copy_from_slice(&head.encode())));
        let record = Record { head, writes };
        self.inner.journal.append(&record)?;
        self.inner.apply(&record.writes, Keep::None)?;
        if self.inner.journal.len() > self.journal_max_len {
            self.inner.checkpoint()?;
        }
        Ok(())
    }
}

/// A key or value where redb has it.
struct Slice(AccessGuard<'static, &'static [u8]>);

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

/// One consistent view of redb's table.
struct Base(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Base {
    /// The pairs of `from..to`, which must not be empty.
    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Result<impl DoubleEndedIterator<Item = Result<(Slice, Slice)>>> {
        let range = self.0.range::<&[u8]>(from..to).map_err(failed("reading a key failed"))?;
        Ok(range.map(|pair| {
            let (key, value) = pair.map_err(failed("reading a key failed"))?;
            Ok((Slice(key), Slice(value)))
        }))
    }
}

impl Reader for Base {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.0.get(key).map_err(failed("reading a key failed"))?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        for pair in self.range(from, to)? {
            let (key, value) = pair?;
            if visit(key.as_ref(), value.as_ref())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        if from >= to {
            return Ok(None);
        }
        let pair = self.range(from, to)?.next_back().transpose()?;
        let bytes = |slice: Slice| Bytes::copy_from_slice(slice.as_ref());
        Ok(pair.map(|(key, value)| (bytes(key), bytes(value))))
    }
}

/// The writer lock keeps what lies below it still.
struct RedbTxn {
    base: Base,
    overlay: Overlay,
    time: i64,
}

impl Reader for RedbTxn {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.overlay.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        self.overlay.scan(from, to, self.base.range(from, to)?, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        if from >= to {
            return Ok(None);
        }
        self.overlay.last(from, to, self.base.range(from, to)?.rev())
    }
}

impl Txn for RedbTxn {
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

impl Engine for RedbEngine {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        self.inner.durability.check()?;
        Ok(Box::new(Base(self.inner.table()?)))
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        let mut head = self.writer.lock();
        self.inner.durability.check()?;
        let mut next = head.next();
        let base = Base(self.inner.table()?);
        let mut txn = RedbTxn { base, overlay: Overlay::default(), time: next.time };
        body(&mut txn)?;
        next.time = txn.time;
        let writes = txn.overlay.finish()?;
        drop(txn.base);
        if writes.is_empty() {
            return Ok(head.version);
        }
        if let Err(error) = self.commit(next, writes) {
            self.inner.durability.poison();
            return Err(error);
        }
        *head = next;
        self.inner.durability.committed(next.version);
        drop(head);
        self.background.wake();
        Ok(next.version)
    }

    fn head(&self) -> CommitVersion {
        self.inner.durability.head()
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.inner.sync(version)
    }
}
