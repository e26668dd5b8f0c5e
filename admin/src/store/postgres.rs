//! Postgres: for several admins over one database.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use flexfs_common::{Code, Error, Result, limits};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{Arguments, Column, Row as _, TypeInfo};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::lease::{LEASE, MARGIN};
use super::{Database, Kind, Replica, Row, Sql, Value, WriteTransaction, failed};

/// Connections of one admin.
const CONNECTIONS: u32 = 16;
/// Key of the lock that puts writers one after the other ("flexfs" in ASCII).
const WRITERS: &str = "SELECT pg_advisory_xact_lock(112603859019379)";
/// A statement, or the wait for the writers' lock, takes no longer.
const STATEMENT_LIMIT: &str = "20s";
/// A replica that died in a transaction holds the lock no longer.
const IDLE_LIMIT: &str = "10s";
/// Tells how far a replica is; long silent ones are forgotten on the way.
const RENEW: &str = "WITH gone AS (DELETE FROM replicas
         WHERE renewed_at < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint - 60000000
           AND id <> $1)
     INSERT INTO replicas (id, version, seen, renewed_at)
     VALUES ($1, $2, $3, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
     ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, renewed_at = excluded.renewed_at";
/// Other replicas that may answer from memory and do not know of a revision.
const BEHIND: &str = "SELECT COUNT(*) FROM replicas WHERE id <> $1 AND seen < $2
     AND renewed_at > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint - $3";
/// Other replicas that were heard of within a span.
const OTHERS: &str = "SELECT id, version, seen FROM replicas WHERE id <> $1
     AND renewed_at > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint - $2
     ORDER BY id";
/// Within which a replica that works has told how far it is: twice its lease.
const HEARD: Duration = Duration::from_secs(2);
/// How often a committer looks whether the others know.
const SETTLE_POLL: Duration = Duration::from_millis(5);
/// Wait before the next attempt to listen.
const RELISTEN: Duration = Duration::from_secs(1);

pub(super) struct Postgres {
    pool: PgPool,
    listener: Mutex<Option<PgListener>>,
}

impl Postgres {
    pub(super) async fn open(url: &str) -> Result<Postgres> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| {
                // The library's text could repeat the password.
                Error::new(Code::ConfigInvalid, "the database URL is not understood")
            })?
            .application_name("admin.flexfs")
            .options([
                ("statement_timeout", STATEMENT_LIMIT),
                ("idle_in_transaction_session_timeout", IDLE_LIMIT),
                // A page is found by its index only when its length is known.
                ("plan_cache_mode", "force_custom_plan"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(limits::CALL)
            .connect_with(options)
            .await
            .map_err(failed)?;
        sqlx::migrate!("../migrations/postgres").run(&pool).await.map_err(|e| {
            Error::new(Code::DatabaseFailed, "the tables cannot be brought up to date").caused_by(e)
        })?;
        Ok(Postgres { pool, listener: Mutex::new(None) })
    }

    async fn wait(&self) -> Result<(), sqlx::Error> {
        let mut held = self.listener.lock().await;
        let listener = match held.as_mut() {
            Some(listener) => listener,
            None => {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen("flexfs_changes").await?;
                held.insert(listener)
            }
        };
        let outcome = listener.recv().await;
        if outcome.is_err() {
            *held = None;
        }
        outcome.map(|_| ())
    }
}

fn arguments(args: Vec<Value>) -> Result<PgArguments> {
    let mut out = PgArguments::default();
    for arg in args {
        arg.check()?;
        let added = match arg {
            Value::Text(text) => out.add(text),
            Value::Int(number) => out.add(number),
            Value::Bytes(bytes) => out.add(bytes),
        };
        added.map_err(|e| failed(sqlx::Error::Encode(e)))?;
    }
    Ok(out)
}

fn row(from: &PgRow) -> Result<Row> {
    let mut cells = Vec::with_capacity(from.len());
    for (index, column) in from.columns().iter().enumerate() {
        cells.push(match column.type_info().name() {
            "INT8" => Value::Int(from.try_get(index).map_err(failed)?),
            "BYTEA" => Value::Bytes(from.try_get(index).map_err(failed)?),
            _ => Value::Text(from.try_get(index).map_err(failed)?),
        });
    }
    Ok(Row(cells))
}

struct Reader(PgPool);

#[async_trait]
impl Sql for Reader {
    async fn query(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        let rows = sqlx::query_with(sql, arguments(args)?).fetch_all(&self.0).await;
        rows.map_err(failed)?.iter().map(row).collect()
    }
    async fn execute(&mut self, _sql: &'static str, _args: Vec<Value>) -> Result<u64> {
        Err(Error::new(Code::Internal, "a reader does not write"))
    }
}

struct Transaction(sqlx::Transaction<'static, sqlx::Postgres>);

#[async_trait]
impl Sql for Transaction {
    async fn query(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        let rows = sqlx::query_with(sql, arguments(args)?).fetch_all(&mut *self.0).await;
        rows.map_err(failed)?.iter().map(row).collect()
    }
    async fn execute(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        let done = sqlx::query_with(sql, arguments(args)?).execute(&mut *self.0).await;
        Ok(done.map_err(failed)?.rows_affected())
    }
}

#[async_trait]
impl WriteTransaction for Transaction {
    async fn commit(mut self: Box<Self>) -> Result<()> {
        // Delivered at commit; once per transaction, never per row.
        sqlx::query("NOTIFY flexfs_changes").execute(&mut *self.0).await.map_err(failed)?;
        self.0.commit().await.map_err(failed)
    }
    fn sql(&mut self) -> &mut dyn Sql {
        self
    }
}

#[async_trait]
impl Database for Postgres {
    fn reader(&self) -> Box<dyn Sql> {
        Box::new(Reader(self.pool.clone()))
    }
    async fn begin(&self) -> Result<Box<dyn WriteTransaction>> {
        let mut tx = self.pool.begin().await.map_err(failed)?;
        sqlx::query(WRITERS).execute(&mut *tx).await.map_err(failed)?;
        Ok(Box::new(Transaction(tx)))
    }
    fn kind(&self) -> Kind {
        Kind::Postgres
    }
    async fn notified(&self) {
        if let Err(error) = self.wait().await {
            tracing::debug!(%error, "listening to the database failed; polling goes on");
            tokio::time::sleep(RELISTEN).await;
        }
    }
    async fn renew(&self, replica: Uuid, seen: u64) -> Result<Option<u64>> {
        let seen = i64::try_from(seen).unwrap_or(i64::MAX);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        // Against a commit that is under way: one of the two comes first.
        let head: i64 = sqlx::query_scalar("SELECT revision FROM feed_head FOR SHARE")
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query(RENEW)
            .bind(replica.to_string())
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(seen)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(u64::try_from(head).unwrap_or(0)))
    }
    async fn settled(&self, replica: Uuid, revision: u64) -> Result<()> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let span = i64::try_from((LEASE + MARGIN).as_micros()).unwrap_or(i64::MAX);
        loop {
            let behind: i64 = sqlx::query_scalar(BEHIND)
                .bind(replica.to_string())
                .bind(revision)
                .bind(span)
                .fetch_one(&self.pool)
                .await
                .map_err(failed)?;
            if behind == 0 {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }
    async fn others(&self, replica: Uuid) -> Result<Vec<Replica>> {
        let heard = i64::try_from(HEARD.as_micros()).unwrap_or(i64::MAX);
        let rows = self.reader().query(OTHERS, vec![Value::text(replica), heard.into()]).await?;
        rows.into_iter()
            .map(|row| {
                let mut cells = row.cells();
                let id = Uuid::parse_str(&cells.text()?);
                Ok(Replica {
                    id: id.map_err(|e| Error::bare(Code::DatabaseFailed).caused_by(e))?,
                    version: cells.text()?,
                    seen: cells.number()?,
                })
            })
            .collect()
    }
    async fn close(&self) {
        // The listener holds a connection, which the pool would wait for.
        drop(self.listener.lock().await.take());
        self.pool.close().await;
    }
}
