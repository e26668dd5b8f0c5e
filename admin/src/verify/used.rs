//! When tokens were last used: gathered in memory, written now and then,
//! never a write per request.

use std::collections::HashMap;

use flexfs_common::Result;
use flexfs_common::ids::TokenId;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::store::{Store, tokens};

/// Tokens gathered between two writes; what comes beyond is not noted.
const GATHERED_MAX: usize = 65_536;
/// Rows of one transaction: the writer is not held for long.
const ROWS_PER_WRITE: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Used(Mutex<HashMap<TokenId, Timestamp>>);

impl Used {
    pub(super) fn note(&self, id: TokenId, at: Timestamp) {
        let mut used = self.0.lock();
        if used.len() < GATHERED_MAX || used.contains_key(&id) {
            used.insert(id, at);
        }
    }

    pub(super) async fn flush(&self, store: &Store) -> Result<()> {
        let used: Vec<_> = std::mem::take(&mut *self.0.lock()).into_iter().collect();
        for part in used.chunks(ROWS_PER_WRITE) {
            let mut tx = store.begin().await?;
            for (id, at) in part {
                tokens::note_used(tx.sql(), *id, *at).await?;
            }
            tx.commit_quietly().await?;
        }
        Ok(())
    }
}
