//! Secrets under a pepper that is lost: there is no tag to compare, so argon2id
//! alone tells. What keeps a flood of wrong ones off the pool is asked first:
//! the bucket of failures of the source, then one half of the cores with a
//! short line of its own. The other half verifies everybody else.

use std::net::IpAddr;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result, clock};
use tokio::sync::Semaphore;

use super::Verify;
use crate::model::SecretRecord;
use crate::peppers::Have;

/// Who may wait for a turn: some 3 s at 50 ms each on one core.
const LINE_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct LostTurns {
    turns: Arc<Semaphore>,
    line: Semaphore,
}

impl LostTurns {
    pub(super) fn new() -> LostTurns {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = (cores / 2).max(1);
        LostTurns { turns: Arc::new(Semaphore::new(turns)), line: Semaphore::new(LINE_MAX + turns) }
    }
}

impl Verify {
    /// The live one of these secrets that this token is behind, among those
    /// under a lost pepper; the newest is tried first. Ended ones are not
    /// tried: they would only multiply the work.
    ///
    /// # Errors
    /// `RATE_LIMITED`, `INTERNAL`.
    pub(super) async fn matching_lost<'s>(
        &self,
        account: AccountId,
        token: &Token,
        secrets: &'s [SecretRecord],
        from: Option<IpAddr>,
    ) -> Result<Option<&'s SecretRecord>> {
        if !self.peppers.is_any_lost() {
            // No work more than for an unknown id.
            return Ok(None);
        }
        let now = clock::wall_now();
        for secret in secrets.iter().rev().filter(|secret| secret.live(now)) {
            if self.is_behind_lost(account, token, &secret.verifier, from).await? {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }

    /// Is its pepper lost, and is this the secret behind it?
    ///
    /// # Errors
    /// `RATE_LIMITED`, `INTERNAL`.
    pub(super) async fn is_behind_lost(
        &self,
        account: AccountId,
        token: &Token,
        verifier: &Verifier,
        from: Option<IpAddr>,
    ) -> Result<bool> {
        if self.peppers.have(&verifier.pepper_id) != Have::Lost {
            return Ok(false);
        }
        if !self.failures.admit(from) {
            return Err(Code::RateLimited.into());
        }
        let _place = self.lost.line.try_acquire().map_err(|_| Error::bare(Code::RateLimited))?;
        let turn = Arc::clone(&self.lost.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Error::bare(Code::Internal))?;
        let matches = self.hashing.matches_holding(account, token, verifier, turn).await?;
        if matches {
            self.failures.refund(from);
        }
        Ok(matches)
    }
}
