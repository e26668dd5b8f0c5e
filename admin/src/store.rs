//! The database: one set of queries over a narrow driver trait with two
//! implementations, SQLite and Postgres. Nothing outside `store/` knows SQL.
//!
//! All writers go one after the other (SQLite: BEGIN IMMEDIATE; Postgres: a
//! lock held to the end of the transaction), so that what a transaction has
//! checked still holds when it commits. The feed's revision is taken last.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use flexfs_common::Result;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::TokenId;
use uuid::Uuid;

pub mod accounts;
pub mod audit;
pub mod blocks;
pub mod changes;
pub mod claims;
pub mod ending;
pub mod feed;
pub mod known;
pub mod lease;
pub mod metas;
pub mod peppers;
mod postgres;
pub mod requests;
mod row;
pub mod secrets;
pub mod sessions;
mod sqlite;
pub mod tokens;
pub mod url;
pub mod volumes;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod testing;

pub use row::{Cells, Row, Value};
pub use url::DbUrl;

use crate::audit::{Entry, Who};
use changes::{Applied, Change, FeedRow};
use known::KnownIds;
use lease::Lease;

/// Runs statements: the pool of readers, or a transaction.
#[async_trait]
pub trait Sql: Send {
    /// Rows of a query.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    async fn query(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>>;
    /// Rows changed by a statement.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    async fn execute(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64>;
}

/// The one row of a query, if there is one.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn first(sql: &mut dyn Sql, text: &'static str, args: Vec<Value>) -> Result<Option<Row>> {
    Ok(sql.query(text, args).await?.into_iter().next())
}

/// A write transaction; dropped without commit it never happened.
#[async_trait]
trait WriteTransaction: Sql {
    /// # Errors
    /// `DATABASE_FAILED`: whether it was committed is then not known.
    async fn commit(self: Box<Self>) -> Result<()>;
    /// As `Sql`.
    fn sql(&mut self) -> &mut dyn Sql;
}

/// One kind of database.
#[async_trait]
trait Database: Send + Sync {
    fn reader(&self) -> Box<dyn Sql>;
    async fn begin(&self) -> Result<Box<dyn WriteTransaction>>;
    fn kind(&self) -> Kind;
    /// Ends when something may have been committed by another process.
    /// A hint only: the caller polls as well.
    async fn notified(&self);
    /// Tells the other processes that this one knows of everything up to
    /// `seen`, and which revision was the last at that moment; `None` where
    /// there are no others.
    async fn renew(&self, replica: Uuid, seen: u64) -> Result<Option<u64>>;
    /// Ends when every other process that may answer from memory knows of this
    /// revision.
    async fn settled(&self, replica: Uuid, revision: u64) -> Result<()>;
    /// How many other processes were heard of lately.
    async fn others(&self, replica: Uuid) -> Result<Vec<Replica>>;
    async fn close(&self);
}

/// An admin over a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Random, new at every start.
    pub id: Uuid,
    /// Of the program.
    pub version: String,
    /// It knows of every change up to this revision.
    pub seen: u64,
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file, one admin.
    Sqlite,
    /// Shared by several admins.
    Postgres,
}

impl Kind {
    /// `sqlite` or `postgres`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Sqlite => "sqlite",
            Kind::Postgres => "postgres",
        }
    }
}

/// The database and what is known of its changes.
#[derive(Clone)]
pub struct Store {
    db: Arc<dyn Database>,
    applied: Arc<Applied>,
    known: Arc<KnownIds>,
    lease: Arc<Lease>,
    /// This process among those over the database.
    replica: Uuid,
    #[cfg(test)]
    readers: Arc<std::sync::atomic::AtomicU64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.db.kind().name())
    }
}

impl Store {
    /// Opens the database, makes it if it is an absent SQLite file, and brings
    /// its tables up to date.
    ///
    /// # Errors
    /// `DATABASE_FAILED`, `CONFIG_INVALID`.
    pub async fn open(url: &DbUrl) -> Result<Store> {
        let db: Arc<dyn Database> = match url {
            DbUrl::Sqlite(path) => Arc::new(sqlite::Sqlite::open(path).await?),
            DbUrl::Postgres(url) => Arc::new(postgres::Postgres::open(url).await?),
        };
        let store = Store {
            db,
            applied: Arc::new(Applied::new()),
            known: Arc::default(),
            lease: Arc::default(),
            replica: Uuid::new_v4(),
            #[cfg(test)]
            readers: Arc::default(),
        };
        let mut tx = store.db.begin().await?;
        feed::initialise(tx.sql()).await?;
        tx.commit().await?;
        store.catch_up().await?;
        Ok(store)
    }

    /// Which database it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.db.kind()
    }

    /// Runs queries, each seeing what was committed before it.
    #[must_use]
    pub fn reader(&self) -> Box<dyn Sql> {
        #[cfg(test)]
        self.readers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.db.reader()
    }

    /// How often something was to be read so far.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> u64 {
        self.readers.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Begins a change; waits for the writer before it.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(Tx { inner: self.db.begin().await?, store: self.clone() })
    }

    /// What changed, and when.
    #[must_use]
    pub fn applied(&self) -> &Arc<Applied> {
        &self.applied
    }

    /// Takes note of changes that other processes committed.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn catch_up(&self) -> Result<()> {
        let mut reader = self.reader();
        let head = feed::head(reader.as_mut()).await?;
        self.applied.begin_at(head.revision);
        while self.applied.seen() < head.revision {
            let seen = self.applied.seen();
            let rows = feed::rows_after(reader.as_mut(), seen, head.revision).await?;
            // After the rows: what was removed meanwhile may be missing.
            let floor = feed::head(reader.as_mut()).await?.floor;
            if seen < floor {
                // Away for longer than the history is kept: nothing is known.
                tracing::warn!(seen, floor, "changes were missed: everything is read anew");
                self.known.forget();
                self.applied.missed(head.revision);
                self.applied.advance(head.revision);
                return self.load_known().await;
            }
            let Some(last) = rows.last().map(|row| row.revision) else { break };
            self.enter(&rows);
            self.applied.advance(last);
        }
        Ok(())
    }

    fn enter(&self, rows: &[FeedRow]) {
        self.known.apply(rows);
        self.applied.apply(rows);
    }

    /// Reads into memory which tokens there are.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; to be called again.
    pub async fn load_known(&self) -> Result<()> {
        self.known.load(self.reader().as_mut()).await
    }

    /// Is it in memory which tokens there are?
    #[must_use]
    pub fn knows_tokens(&self) -> bool {
        self.known.is_complete()
    }

    /// May there be a token of this id? False only when there is certainly
    /// none; asks nobody.
    #[must_use]
    pub fn may_exist(&self, id: TokenId) -> bool {
        // In this order: what was committed before it was so is in the set.
        !self.known.is_complete() || !self.is_current() || self.known.contains(id)
    }

    /// May what was read before be used again, if no change of it is known?
    #[must_use]
    pub fn is_current(&self) -> bool {
        match self.kind() {
            Kind::Sqlite => true,
            Kind::Postgres => self.lease.holds(),
        }
    }

    /// The newest revision that everything read from now on contains.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn known_head(&self) -> Result<u64> {
        if self.is_current() {
            return Ok(self.applied.latest());
        }
        Ok(feed::head(self.reader().as_mut()).await?.revision)
    }

    /// Renews the lease of this process, when it knows of everything.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; the lease then ends.
    pub async fn renew_lease(&self) -> Result<()> {
        let sent = BootTime::now();
        let Some(head) = self.db.renew(self.replica, self.applied.seen()).await? else {
            return Ok(());
        };
        if self.applied.seen() < head {
            // Known before it counts; whoever committed it still waits for us.
            self.catch_up().await?;
            self.db.renew(self.replica, self.applied.seen()).await?;
        }
        if self.applied.seen() >= head {
            self.lease.renewed(sent);
        }
        Ok(())
    }

    /// Ends when another process may have committed something.
    pub async fn notified(&self) {
        self.db.notified().await;
    }

    /// How many other admins work on the database, as far as they tell: each
    /// does every 250 ms. On SQLite there are none.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn other_admins(&self) -> Result<u64> {
        Ok(self.db.others(self.replica).await?.len() as u64)
    }

    /// The admins that work on the database: this one, and others as far as
    /// they tell.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn replicas(&self) -> Result<Vec<Replica>> {
        let own = Replica {
            id: self.replica,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seen: self.applied.latest(),
        };
        let mut all = vec![own];
        all.extend(self.db.others(self.replica).await?);
        Ok(all)
    }

    /// Closes all connections; open calls fail.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// A change in the making: the only way to write. Every commit carries its
/// audit record; what others must hear of carries feed rows, too.
pub struct Tx {
    inner: Box<dyn WriteTransaction>,
    store: Store,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tx")
    }
}

impl Tx {
    /// Runs statements in the transaction.
    pub fn sql(&mut self) -> &mut dyn Sql {
        self.inner.sql()
    }

    /// Writes the feed rows and the audit record and commits. Returns the
    /// revision of the last row.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; then nothing happened, except when the connection
    /// broke during the commit itself: creations are therefore repeatable.
    pub async fn commit(self, entry: Entry, changes: &[Change]) -> Result<u64> {
        self.commit_all(&[entry], changes).await
    }

    /// Like [`Tx::commit`], for changes of several things at once.
    ///
    /// # Errors
    /// As [`Tx::commit`].
    pub async fn commit_all(mut self, entries: &[Entry], changes: &[Change]) -> Result<u64> {
        let now = flexfs_common::clock::wall_now();
        let sql = self.inner.sql();
        let rows = feed::append(sql, now, changes).await?;
        let revision = match rows.last() {
            Some(row) => row.revision,
            None => feed::head(sql).await?.revision,
        };
        let mut own: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for row in &rows {
            let Some(account) = row.change.account else { continue };
            let (count, last) = own.entry(account).or_default();
            (*count, *last) = (*count + 1, row.revision);
        }
        for (account, (count, last)) in own {
            accounts::count_changes(sql, account, count, last).await?;
        }
        for entry in entries {
            audit::append(sql, now, revision, entry).await?;
            note_request(sql, entry, revision, now).await?;
        }
        self.inner.commit().await?;
        self.store.enter(&rows);
        if !rows.is_empty() {
            self.store.db.settled(self.store.replica, revision).await?;
        }
        Ok(revision)
    }

    /// Commits audit records of what was not done: they change nothing, so
    /// nobody else hears of them.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn commit_refusals(mut self, entries: &[Entry]) -> Result<()> {
        let now = flexfs_common::clock::wall_now();
        let sql = self.inner.sql();
        let revision = feed::head(sql).await?.revision;
        for entry in entries {
            audit::append(sql, now, revision, entry).await?;
        }
        self.inner.commit().await
    }

    /// Commits bookkeeping that is neither audited nor told to anybody
    /// (last-used times, acknowledgements).
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn commit_quietly(self) -> Result<()> {
        self.inner.commit().await
    }
}

/// Keeps what was done under the caller's request id, so that a repetition is
/// known as one.
async fn note_request(
    sql: &mut dyn Sql,
    entry: &Entry,
    revision: u64,
    now: jiff::Timestamp,
) -> Result<()> {
    let (Who::Token(who), Some(request)) = (entry.who, entry.request) else { return Ok(()) };
    let done = requests::Done { digest: request.digest, target: entry.target.clone(), revision };
    requests::insert(sql, (who, request.id), &done, now).await
}

/// An error of the database library, whose text stays in our log.
fn failed(error: sqlx::Error) -> flexfs_common::Error {
    flexfs_common::Error::bare(flexfs_common::Code::DatabaseFailed).caused_by(error)
}
