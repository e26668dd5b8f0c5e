//! What a source that floods us with bad tokens costs: no look into the
//! database, as long as memory can tell that a token is bad.
//!
//! A source whose failures are used up, or would be if all that it shows now
//! fail, gets its next refusals from the set of known ids and from rows read
//! lately. What memory cannot refuse goes the whole way, so a good token is
//! never refused. All refusals of what was not proven are answered a fixed time
//! after the question: how long it took says nothing of where the answer came
//! from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::Verifier;
use flexfs_common::Code;
use flexfs_common::ids::{TokenId, VolumeId};
use flexfs_common::name::StoreId;
use tokio::time::Instant;

use super::cache::Turn;
use super::failures::Manner;
use super::{Showing, Verify};
use crate::peppers::Have;
use crate::store::tokens::Standing;

/// Tokens that were shown with a wrong secret, at most 2 KiB each. A flood
/// over more ids than these costs a look each.
const ROWS: usize = 4096;
/// When a refusal is answered, counted from the question: far above what a look
/// into the database takes, so that the time does not tell whether there was a
/// row to be read.
const PAUSE: Duration = Duration::from_millis(10);

/// What a token, or a claim code of it, was compared with in vain.
pub(super) struct Compared {
    pub(super) verifiers: Vec<Verifier>,
    pub(super) volume: Option<VolumeId>,
    pub(super) meta_store: Option<StoreId>,
    /// Known before it was read.
    pub(super) revision: u64,
}

impl Compared {
    pub(super) fn with(standing: &Standing, revision: u64) -> Compared {
        Compared {
            verifiers: standing.secrets.iter().map(|secret| secret.verifier.clone()).collect(),
            volume: standing.token.volume_id(),
            meta_store: standing.meta_store.clone(),
            revision,
        }
    }
}

/// By token, and whether by a claim code of it.
pub(super) struct RowsOfFailures(quick_cache::sync::Cache<(TokenId, bool), Arc<Compared>>);

impl std::fmt::Debug for RowsOfFailures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowsOfFailures({})", self.0.len())
    }
}

fn key(token: &Token) -> (TokenId, bool) {
    (token.id(), token.kind() == TokenKind::Claim)
}

impl RowsOfFailures {
    pub(super) fn new() -> RowsOfFailures {
        RowsOfFailures(quick_cache::sync::Cache::new(ROWS))
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.len()
    }
}

impl Verify {
    /// Does memory refuse this token or claim code? Only of a source that is
    /// not calm, and what is certainly bad. `TOKEN_UNKNOWN` is still to be
    /// counted as a failure.
    pub(super) fn memory_refuses(&self, token: &Token, showing: &Showing<'_>) -> Option<Code> {
        let manner = self.failures.manner(showing.from);
        if manner == Manner::Calm || !self.is_bad(token, showing.store) {
            return None;
        }
        if manner == Manner::Busy {
            return Some(Code::TokenUnknown);
        }
        self.failures.goes_on(showing.from);
        Some(Code::RateLimited)
    }

    /// To be held while the row of a token is read: of a source that is not
    /// calm one at a time, since the first one's row may refuse the others.
    ///
    /// # Errors
    /// As [`Verify::memory_refuses`], after the wait.
    pub(super) async fn reading_turn(
        &self,
        token: &Token,
        showing: &Showing<'_>,
    ) -> Result<Option<Turn>, Code> {
        let is_calm = self.failures.manner(showing.from) == Manner::Calm;
        // No row is of use to the others: a good one would wait for nothing.
        if is_calm || !self.store.is_current() {
            return Ok(None);
        }
        let turn = self.caches.flight(&self.caches.key_of_id(token)).turn().await;
        match self.memory_refuses(token, showing) {
            Some(code) => Err(code),
            None => Ok(turn),
        }
    }

    /// Keeps what a token of a source that is not calm was compared with in vain:
    /// only then, else the time would tell of the work.
    pub(super) fn keep_row(
        &self,
        token: &Token,
        from: Option<IpAddr>,
        compared: impl FnOnce() -> Option<Compared>,
    ) {
        if self.failures.manner(from) == Manner::Calm {
            return;
        }
        if let Some(compared) = compared() {
            self.rows.0.insert(key(token), Arc::new(compared));
        }
    }

    fn is_bad(&self, token: &Token, store: Option<&StoreId>) -> bool {
        if !self.store.may_exist(token.id()) {
            return true;
        }
        if !self.store.is_current() {
            return false;
        }
        let Some(compared) = self.rows.0.get(&key(token)) else { return false };
        let applied = self.store.applied();
        let changed = applied.changed_since(&token.id(), compared.revision)
            || compared.volume.is_some_and(|id| applied.changed_since(&id, compared.revision));
        let placed = store.is_none() || compared.meta_store.as_ref() == store;
        // Of one under a lost pepper no tag tells.
        let may_match = |verifier: &Verifier| {
            self.peppers.tag_matches(token, verifier)
                || self.peppers.have(&verifier.pepper_id) == Have::Lost
        };
        let may_be_good = placed && compared.verifiers.iter().any(may_match);
        !changed && !may_be_good
    }
}

/// Ends when the refusal of what was not proven may be answered.
pub(super) async fn pause(since: Instant, code: Code) {
    if matches!(code, Code::TokenUnknown | Code::RateLimited) {
        tokio::time::sleep_until(since + PAUSE).await;
    }
}
