//! The audit log: append-only, hash-chained, written in the transaction of
//! the change it records.

use flexfs_common::Result;
use jiff::Timestamp;

use super::{Sql, Value, first};
use crate::audit::{Entry, GENESIS, Record};

pub(super) async fn append(
    sql: &mut dyn Sql,
    now: Timestamp,
    revision: u64,
    entry: &Entry,
) -> Result<()> {
    let last = first(sql, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", vec![]).await?;
    let (seq, before) = match last {
        None => (0, GENESIS),
        Some(row) => {
            let mut cells = row.cells();
            (cells.number::<u64>()?, cells.bytes::<32>()?)
        }
    };
    let record = Record {
        seq: seq + 1,
        // What is hashed is what is stored: microseconds.
        at: Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now),
        who: entry.who.to_string(),
        account: entry.account.map(|id| id.to_string()).unwrap_or_default(),
        action: entry.action.to_owned(),
        target: entry.target.clone(),
        source: entry.source.map(|address| address.to_string()).unwrap_or_default(),
        outcome: entry.outcome.to_owned(),
        detail: entry.detail.clone(),
        revision,
    };
    sql.execute(
        "INSERT INTO audit (seq, at, who, account_id, action, target, source, outcome, detail, \
         revision, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        vec![
            Value::unsigned(record.seq),
            Value::time(record.at),
            Value::text(&record.who),
            Value::text(&record.account),
            Value::text(&record.action),
            Value::text(&record.target),
            Value::text(&record.source),
            Value::text(&record.outcome),
            Value::text(&record.detail),
            Value::unsigned(record.revision),
            Value::bytes(&before),
            Value::bytes(&record.hash(&before)),
        ],
    )
    .await
    .map(drop)
}

/// One record with its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// The hash of the one before.
    pub prev_hash: [u8; 32],
    /// Its own.
    pub hash: [u8; 32],
}

/// Records after a sequence number, at most 1000.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn after(sql: &mut dyn Sql, seq: u64) -> Result<Vec<Stored>> {
    let rows = sql
        .query(
            "SELECT seq, at, who, account_id, action, target, source, outcome, detail, revision, \
             prev_hash, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT 1000",
            vec![Value::unsigned(seq)],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok(Stored {
                record: Record {
                    seq: cells.number()?,
                    at: cells.time()?,
                    who: cells.text()?,
                    account: cells.text()?,
                    action: cells.text()?,
                    target: cells.text()?,
                    source: cells.text()?,
                    outcome: cells.text()?,
                    detail: cells.text()?,
                    revision: cells.number()?,
                },
                prev_hash: cells.bytes()?,
                hash: cells.bytes()?,
            })
        })
        .collect()
}

/// Where the chain breaks: the first record whose number, link or hash is not
/// what follows from the one before. `None` = unbroken (what was cut off at
/// the end is not seen without an anchor elsewhere).
#[must_use]
pub fn first_break(records: &[Stored]) -> Option<u64> {
    let mut before = GENESIS;
    for (expected, stored) in (1..).zip(records) {
        let record = &stored.record;
        let intact = record.seq == expected
            && stored.prev_hash == before
            && stored.hash == record.hash(&before);
        if !intact {
            return Some(expected);
        }
        before = stored.hash;
    }
    None
}
