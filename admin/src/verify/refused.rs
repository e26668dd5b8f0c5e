//! Refused tokens for the audit log: counted per source, id and code, and
//! written in batches, so that a flood of bad tokens is seen but cannot fill
//! the log. A crash loses the last second.

use std::collections::HashMap;
use std::net::IpAddr;

use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Result};
use parking_lot::Mutex;

use crate::audit::{Entry, Who};
use crate::store::Store;

/// Rows of one batch; what comes beyond is counted in one more row.
const ROWS_MAX: usize = 100;

#[derive(Debug, Default)]
struct Counted {
    rows: HashMap<(Option<IpAddr>, TokenId, Code), u64>,
    beyond: u64,
}

#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Counted>);

impl Refused {
    pub(super) fn note(&self, from: Option<IpAddr>, token: TokenId, code: Code) {
        let mut counted = self.0.lock();
        let key = (from, token, code);
        if let Some(count) = counted.rows.get_mut(&key) {
            *count += 1;
        } else if counted.rows.len() < ROWS_MAX {
            counted.rows.insert(key, 1);
        } else {
            counted.beyond += 1;
        }
    }

    /// Writes what was counted; on failure it is lost but for the log here.
    pub(super) async fn flush(&self, store: &Store) -> Result<()> {
        let counted = std::mem::take(&mut *self.0.lock());
        let mut entries: Vec<Entry> = counted
            .rows
            .into_iter()
            .map(|((source, token, code), count)| Entry {
                // Who it claims to be: nothing is proven.
                who: Who::Claimed(token),
                account: None,
                action: "token.use",
                target: token.to_string(),
                source,
                outcome: code.name(),
                detail: format!("{count} times"),
            })
            .collect();
        if counted.beyond > 0 {
            entries.push(Entry {
                who: Who::Several,
                account: None,
                action: "token.use",
                target: String::new(),
                source: None,
                outcome: Code::RateLimited.name(),
                detail: format!("{} more refusals, not listed", counted.beyond),
            });
        }
        if entries.is_empty() {
            return Ok(());
        }
        store.begin().await?.commit_refusals(&entries).await
    }
}
