//! Refused tokens for the audit log: counted per source, id and code, and
//! written in batches, so that a flood of bad tokens is seen but cannot fill
//! the log. A crash loses the last second.

use std::collections::HashMap;
use std::net::IpAddr;

use flexfs_common::ids::{AccountId, TokenId};
use flexfs_common::{Code, Result};
use parking_lot::Mutex;

use crate::audit::{Entry, Who};
use crate::store::Store;

/// Rows of one batch; what comes beyond is counted in one more row.
const ROWS_MAX: usize = 100;

/// A token that was shown, and whether it was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// The id that was shown; nothing is proven.
    Unproven(TokenId),
    /// The secret is one of this token, of this account.
    Proven(TokenId, AccountId),
    /// Whatever came from a source beyond its rate: a flood has an id of its
    /// own in each request, and would write as many rows.
    Flood,
}

#[derive(Debug, Default)]
struct Counted {
    rows: HashMap<(Option<IpAddr>, Shown, Code), u64>,
    beyond: u64,
}

#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Counted>);

impl Refused {
    pub(super) fn note(&self, from: Option<IpAddr>, shown: Shown, code: Code) {
        let shown = match (shown, code) {
            (Shown::Unproven(_), Code::RateLimited) => Shown::Flood,
            (shown, _) => shown,
        };
        let mut counted = self.0.lock();
        let key = (from, shown, code);
        if let Some(count) = counted.rows.get_mut(&key) {
            *count += 1;
        } else if counted.rows.len() < ROWS_MAX {
            counted.rows.insert(key, 1);
        } else {
            counted.beyond += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.lock().rows.len()
    }

    /// Writes what was counted; on failure it is lost but for the log here.
    pub(super) async fn flush(&self, store: &Store) -> Result<()> {
        let counted = std::mem::take(&mut *self.0.lock());
        let mut entries: Vec<Entry> = counted
            .rows
            .into_iter()
            .map(|((source, shown, code), count)| {
                let (who, account, target) = match shown {
                    Shown::Unproven(token) => (Who::Claimed(token), None, token.to_string()),
                    Shown::Proven(token, account) => {
                        (Who::Token(token), Some(account), token.to_string())
                    }
                    Shown::Flood => (Who::Several, None, String::new()),
                };
                Entry {
                    who,
                    account,
                    action: action(code),
                    target,
                    source,
                    outcome: code.name(),
                    detail: format!("{count} times"),
                    request: None,
                }
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
                request: None,
            });
        }
        if entries.is_empty() {
            return Ok(());
        }
        store.begin().await?.commit_refusals(&entries).await
    }
}

/// What the record is called: an ended secret or a redeemed claim code in use
/// may be in the wrong hands, which somebody should look at.
fn action(code: Code) -> &'static str {
    match code {
        Code::TokenRotated => "token.reuse",
        Code::ClaimUsed => "claim.reuse",
        _ => "token.use",
    }
}
