//! What request ids were used for, so that a repetition is known as one.

use flexfs_common::Result;
use flexfs_common::ids::{RequestId, TokenId};
use jiff::Timestamp;

use super::{Sql, Value, first};

/// What was done under a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// To what: an id.
    pub target: String,
    /// The revision with which it was done.
    pub revision: u64,
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn find(sql: &mut dyn Sql, who: TokenId, id: RequestId) -> Result<Option<Done>> {
    let row = first(
        sql,
        "SELECT digest, target, revision FROM requests WHERE who = $1 AND request_id = $2",
        vec![Value::text(who), Value::text(id)],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut cells = row.cells();
    Ok(Some(Done { digest: cells.bytes()?, target: cells.text()?, revision: cells.number()? }))
}

/// Notes what was done; the first note of an id stays.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn insert(
    sql: &mut dyn Sql,
    (who, id): (TokenId, RequestId),
    done: &Done,
    now: Timestamp,
) -> Result<()> {
    sql.execute(
        "INSERT INTO requests (who, request_id, digest, target, revision, at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (who, request_id) DO NOTHING",
        vec![
            Value::text(who),
            Value::text(id),
            Value::bytes(&done.digest),
            Value::text(&done.target),
            Value::unsigned(done.revision),
            Value::time(now),
        ],
    )
    .await
    .map(drop)
}

/// Forgets those used before an instant.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn purge(sql: &mut dyn Sql, before: Timestamp) -> Result<u64> {
    sql.execute("DELETE FROM requests WHERE at < $1", vec![Value::time(before)]).await
}
