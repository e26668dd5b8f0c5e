//! Which token ids there are, in memory: a flood of tokens that do not exist
//! never reaches the database.
//!
//! What is not in here does not exist, as soon as [`KnownIds::is_complete`]
//! and while this process knows of all commits (`Store::is_current`). Every
//! creation has a row in the change feed, and enters here before its caller is
//! answered. Ids of purged tokens stay until the next start: they only cost a
//! look into the database.
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

    /// Reads the ids of before. To be called after changes began to be
    /// followed: what is created meanwhile comes by them.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; to be called again.
    pub async fn load(&self, sql: &mut dyn Sql) -> Result<()> {
        let mut after = String::new();
        loop {
            let part = "SELECT id FROM tokens WHERE id > $1 ORDER BY id LIMIT $2";
            let rows = sql.query(part, vec![Value::text(&after), PART.into()]).await?;
            let ids = rows.into_iter().map(|row| row.cells().parse());
            let ids: Vec<TokenId> = ids.collect::<Result<_>>()?;
            let Some(last) = ids.last() else { break };
            after = last.to_string();
            self.ids.write().extend(ids);
        }
        self.complete.store(true, Ordering::Release);
        Ok(())
    }
}
