//! SQLite: one writer connection, a pool of readers, WAL.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use flexfs_common::{Code, Error, Result, home};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, Row as _, TypeInfo, ValueRef};
use uuid::Uuid;

use super::{Database, Kind, Replica, Row, Sql, Value, WriteTransaction, failed};

/// Readers at once; SQLite's readers do not wait for the writer.
const READERS: u32 = 8;
/// How long a writer of another process (`recover`) may take.
const BUSY: Duration = Duration::from_secs(10);

pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    pub(super) async fn open(path: &Path) -> Result<Sqlite> {
        if let Some(dir) = path.parent() {
            home::make_dir(dir)?;
        }
        make_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // Acknowledged = durable.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            // Removed verifiers must not stay in free pages.
            .pragma("secure_delete", "ON")
            .pragma("trusted_schema", "OFF");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(flexfs_common::limits::CALL)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        sqlx::migrate!("../migrations/sqlite").run(&writer).await.map_err(|e| {
            Error::new(Code::DatabaseFailed, "the tables cannot be brought up to date").caused_by(e)
        })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(flexfs_common::limits::CALL)
            .connect_with(options.read_only(true))
            .await
            .map_err(failed)?;
        Ok(Sqlite { writer, readers })
    }
}

/// SQLite makes the file (and its -wal and -shm, which take its mode) with
/// the process's umask: so it is made here, with 0600.
fn make_private(path: &Path) -> Result<()> {
    let refused = |why: &str| {
        Error::new(Code::ConfigInvalid, format!("the database {} {why}", path.display()))
    };
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(refused("cannot be made").caused_by(e)),
    }
    let meta = std::fs::metadata(path).map_err(|e| refused("cannot be read").caused_by(e))?;
    if meta.mode() & 0o077 != 0 {
        return Err(refused(&format!("can be read by others; run: chmod 600 {}", path.display())));
    }
    Ok(())
}

fn arguments(args: Vec<Value>) -> Result<SqliteArguments> {
    let mut out = SqliteArguments::default();
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

fn row(from: &SqliteRow) -> Result<Row> {
    let mut cells = Vec::with_capacity(from.len());
    for index in 0..from.len() {
        let raw = from.try_get_raw(index).map_err(failed)?;
        let cell = if raw.is_null() {
            Value::Text(None)
        } else {
            let kind = raw.type_info();
            match kind.name() {
                "INTEGER" => Value::Int(from.try_get(index).map_err(failed)?),
                "BLOB" => Value::Bytes(from.try_get(index).map_err(failed)?),
                _ => Value::Text(from.try_get(index).map_err(failed)?),
            }
        };
        cells.push(cell);
    }
    Ok(Row(cells))
}

struct Reader(SqlitePool);

#[async_trait]
impl Sql for Reader {
    async fn query(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        let rows = sqlx::query_with(sql, arguments(args)?).fetch_all(&self.0).await;
        rows.map_err(failed)?.iter().map(row).collect()
    }
    async fn execute(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        // Refused by the database: these connections are read-only.
        let done = sqlx::query_with(sql, arguments(args)?).execute(&self.0).await;
        Ok(done.map_err(failed)?.rows_affected())
    }
}

struct Transaction(sqlx::Transaction<'static, sqlx::Sqlite>);

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
    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit().await.map_err(failed)
    }
    fn sql(&mut self) -> &mut dyn Sql {
        self
    }
}

#[async_trait]
impl Database for Sqlite {
    fn reader(&self) -> Box<dyn Sql> {
        Box::new(Reader(self.readers.clone()))
    }
    async fn begin(&self) -> Result<Box<dyn WriteTransaction>> {
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        Ok(Box::new(Transaction(tx)))
    }
    fn kind(&self) -> Kind {
        Kind::Sqlite
    }
    async fn notified(&self) {
        // Nobody tells; the poll finds what `recover` wrote.
        std::future::pending::<()>().await;
    }
    async fn renew(&self, _replica: Uuid, _seen: u64) -> Result<Option<u64>> {
        Ok(None)
    }
    async fn settled(&self, _replica: Uuid, _revision: u64) -> Result<()> {
        Ok(())
    }
    async fn others(&self, _replica: Uuid) -> Result<Vec<Replica>> {
        Ok(Vec::new())
    }
    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
