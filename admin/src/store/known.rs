//! Which token ids there are, in memory: a flood of tokens that do not exist
//! never reaches the database.
//!
//! What is not in here does not exist, as soon as [`KnownIds::is_complete`]
//! and while this process knows of all commits (`Store::is_current`). Every
//! creation has a row in the change feed, and enters here before its caller is
//! answered. Purged tokens are no longer read, and cost a look into the
//! database until the next start.
//!
//! Some 35 bytes a token.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use flexfs_common::Result;
use flexfs_common::ids::TokenId;
use parking_lot::RwLock;

use super::changes::FeedRow;
use super::{Sql, Value};

/// Ids of one read.
const PART: i64 = 10_000;

/// The ids of all tokens, in any state, of all accounts.
#[derive(Debug, Default)]
pub struct KnownIds {
    ids: RwLock<HashSet<TokenId>>,
    complete: AtomicBool,
}

impl KnownIds {
    /// Were the ids of before this start read?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Is there such a token, as far as is known here?
    #[must_use]
    pub fn contains(&self, id: TokenId) -> bool {
        self.ids.read().contains(&id)
    }

    /// Enters committed rows.
    pub fn apply(&self, rows: &[FeedRow]) {
        let mut ids = rows.iter().filter_map(|row| row.change.token).peekable();
        if ids.peek().is_some() {
            self.ids.write().extend(ids);
        }
    }

    /// Changes were missed: it is incomplete until it is read again.
    pub fn forget(&self) {
        self.complete.store(false, Ordering::Release);
    }

    /// Reads the ids of before. To be called after changes began to be
    /// followed: what is created meanwhile comes by them.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; to be called again.
    pub async fn load(&self, sql: &mut dyn Sql) -> Result<()> {
        let mut after = String::new();
        loop {
            let part = "SELECT id FROM tokens WHERE id > $1 AND deleted_at IS NULL
                        ORDER BY id LIMIT $2";
            let rows = sql.query(part, vec![Value::text(&after), PART.into()]).await?;
            let texts = rows.into_iter().map(|row| row.cells().text());
            let texts: Vec<String> = texts.collect::<Result<_>>()?;
            let Some(last) = texts.last() else { break };
            after.clone_from(last);
            // One that is none can never be shown.
            self.ids.write().extend(texts.iter().filter_map(|id| id.parse::<TokenId>().ok()));
        }
        self.complete.store(true, Ordering::Release);
        Ok(())
    }
}
