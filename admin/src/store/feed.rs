//! The change feed: dense revisions in commit order.

use aws_lc_rs::hmac;
use flexfs_common::Result;
use flexfs_common::name::StoreId;
use jiff::Timestamp;

use super::changes::{Change, FeedRow, kind_from_word, kind_word};
use super::{Row, Sql, Value, first};

/// Rows read at once.
pub const ROWS_MAX: usize = 1000;
/// Rows kept: a metadata server that was away longer resynchronises, which
/// costs it one list and one check of its sessions.
const KEEP: u64 = 100_000;
/// Old rows are removed once in so many revisions.
const PRUNE_EVERY: u64 = 1024;

/// Where the feed stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Random, new after every restore.
    pub feed_id: String,
    /// The last revision.
    pub revision: u64,
    /// Revisions up to this one are no longer kept.
    pub floor: u64,
}

/// What tells a revision from the same one of another history, as an older
/// copy of the database has it that went on by itself: from the row and its
/// time, keyed, because the row may be another tenant's. `None` when the row is not kept, or there was none.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn mark(sql: &mut dyn Sql, key: &hmac::Key, revision: u64) -> Result<Option<u64>> {
    let text = "SELECT at, kind, account_id, volume_id, token_id FROM changes WHERE revision = $1";
    let Some(row) = first(sql, text, vec![Value::unsigned(revision)]).await? else {
        return Ok(None);
    };
    let mut cells = row.cells();
    let mut hash = hmac::Context::with_key(key);
    hash.update(b"mark");
    hash.update(&cells.int()?.to_be_bytes());
    for _ in 0..4 {
        hash.update(cells.text()?.as_bytes());
        hash.update(&[0]);
    }
    let mut mark = [0; 8];
    mark.copy_from_slice(hash.sign().as_ref().get(..8).unwrap_or(&[0; 8]));
    // 0 says that there is none.
    Ok(Some(u64::from_be_bytes(mark).max(1)))
}

/// Makes the head at the first start.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn initialise(sql: &mut dyn Sql) -> Result<()> {
    sql.execute(
        "INSERT INTO feed_head (one, feed_id, revision, floor) VALUES (1, $1, 0, 0)
         ON CONFLICT (one) DO NOTHING",
        vec![Value::text(uuid::Uuid::new_v4())],
    )
    .await
    .map(drop)
}

/// Where the feed stands now.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn head(sql: &mut dyn Sql) -> Result<Head> {
    let row = first(sql, "SELECT feed_id, revision, floor FROM feed_head WHERE one = 1", vec![])
        .await?
        .ok_or(flexfs_common::Code::DatabaseFailed)?;
    let mut cells = row.cells();
    Ok(Head { feed_id: cells.text()?, revision: cells.number()?, floor: cells.number()? })
}

/// Takes revisions from the head, which stays locked to the end of the
/// transaction, and writes the rows. The last thing before the audit record.
pub(super) async fn append(
    sql: &mut dyn Sql,
    now: Timestamp,
    changes: &[Change],
) -> Result<Vec<FeedRow>> {
    let count = changes.len() as u64;
    if count == 0 {
        return Ok(Vec::new());
    }
    let row = first(
        sql,
        "UPDATE feed_head SET revision = revision + $1 WHERE one = 1 RETURNING revision",
        vec![Value::unsigned(count)],
    )
    .await?
    .ok_or(flexfs_common::Code::DatabaseFailed)?;
    let last: u64 = row.cells().number()?;
    let mut rows = Vec::with_capacity(changes.len());
    for (revision, change) in (last + 1 - count..=last).zip(changes) {
        sql.execute(
            "INSERT INTO changes (revision, at, kind, account_id, volume_id, token_id, \
             meta_store, block_store) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            vec![
                Value::unsigned(revision),
                Value::time(now),
                kind_word(change.kind).into(),
                or_empty(change.account),
                or_empty(change.volume),
                or_empty(change.token),
                or_empty(change.meta_store.as_ref()),
                or_empty(change.block_store.as_ref()),
            ],
        )
        .await?;
        rows.push(FeedRow { revision, change: change.clone() });
    }
    if last % PRUNE_EVERY < count && last > KEEP {
        prune(sql, last - KEEP).await?;
    }
    Ok(rows)
}

/// Removes history up to `floor`.
pub(crate) async fn prune(sql: &mut dyn Sql, floor: u64) -> Result<()> {
    sql.execute("DELETE FROM changes WHERE revision <= $1", vec![Value::unsigned(floor)]).await?;
    sql.execute(
        "UPDATE feed_head SET floor = $1 WHERE one = 1 AND floor < $1",
        vec![Value::unsigned(floor)],
    )
    .await
    .map(drop)
}

fn or_empty(value: Option<impl ToString>) -> Value {
    Value::text(value.map(|value| value.to_string()).unwrap_or_default())
}

macro_rules! columns {
    () => {
        "SELECT c.revision, c.kind, c.account_id, c.volume_id, c.token_id, c.meta_store, \
         c.block_store FROM changes c WHERE c.revision > $1 AND c.revision <= $2 "
    };
}

fn decode(row: Row) -> Result<FeedRow> {
    let mut cells = row.cells();
    Ok(FeedRow {
        revision: cells.number()?,
        change: Change {
            kind: kind_from_word(&cells.text()?)?,
            account: cells.opt_parse()?,
            volume: cells.opt_parse()?,
            token: cells.opt_parse()?,
            meta_store: cells.opt_parse()?,
            block_store: cells.opt_parse()?,
        },
    })
}

/// Rows after one revision and up to another, at most [`ROWS_MAX`].
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn rows_after(sql: &mut dyn Sql, after: u64, up_to: u64) -> Result<Vec<FeedRow>> {
    let rows = sql
        .query(
            concat!(columns!(), "ORDER BY c.revision LIMIT 1000"),
            vec![Value::unsigned(after), Value::unsigned(up_to)],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// Like [`rows_after`], but only what concerns the volumes of one meta store:
/// itself and its token, its volumes and their tokens, the accounts that own
/// them, the block stores they use.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn rows_for_store(
    sql: &mut dyn Sql,
    store: &StoreId,
    after: u64,
    up_to: u64,
) -> Result<Vec<FeedRow>> {
    let rows = sql
        .query(
            concat!(
                columns!(),
                "AND (c.meta_store = $3
                   OR (c.meta_store = '' AND c.volume_id = '' AND c.token_id = ''
                       AND c.account_id <> '' AND EXISTS (SELECT 1 FROM volumes v
                           WHERE v.meta_store = $3 AND v.account_id = c.account_id))
                   OR (c.block_store <> '' AND EXISTS (SELECT 1 FROM volumes v
                           WHERE v.meta_store = $3 AND v.block_store = c.block_store)))
                 ORDER BY c.revision LIMIT 1000"
            ),
            vec![Value::unsigned(after), Value::unsigned(up_to), Value::text(store)],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}
