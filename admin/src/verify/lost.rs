//! Secrets under a pepper that is lost: there is no tag to compare, so argon2id
//! alone tells. What keeps a flood of wrong ones off the pool is asked first:
//! the bucket of failures of the source, then one half of the cores with a
//! short line of its own. The other half verifies everybody else.
//!
//! Who waits holds nothing that others wait for: first comes the turn among the
//! account's own (here, then before the pool), then that of the half, then a
//! core.

use std::net::IpAddr;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result, clock};
use tokio::sync::Semaphore;

use super::Verify;
use super::failures::Charge;
use super::places::Places;
use crate::model::SecretRecord;
use crate::peppers::Have;

/// Who may wait for a turn: some 3 s at 50 ms each on one core.
const LINE_MAX: usize = 64;
/// How many of them may be of one account.
const LINE_OF_ACCOUNT_MAX: usize = LINE_MAX / 2;

#[derive(Debug)]
pub(super) struct LostTurns {
    turns: Arc<Semaphore>,
    line: Semaphore,
    places: Places,
}

impl LostTurns {
    pub(super) fn new() -> LostTurns {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = (cores / 2).max(1);
        LostTurns {
            turns: Arc::new(Semaphore::new(turns)),
            line: Semaphore::new(LINE_MAX + turns),
            places: Places::new(LINE_OF_ACCOUNT_MAX, turns),
        }
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
        let is_lost = |secret: &&SecretRecord| {
            secret.live(now) && self.peppers.have(&secret.verifier.pepper_id) == Have::Lost
        };
        let mut tried = secrets.iter().rev().filter(is_lost).peekable();
        if tried.peek().is_none() {
            return Ok(None);
        }
        let charge = self.failures.charge(from).ok_or(Code::RateLimited)?;
        let mut found = None;
        for secret in tried {
            if self.compare_lost(account, token, &secret.verifier, &charge).await? {
                found = Some(secret);
                break;
            }
        }
        charge.settle();
        Ok(found)
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
        let charge = self.failures.charge(from).ok_or(Code::RateLimited)?;
        let matches = self.compare_lost(account, token, verifier, &charge).await?;
        charge.settle();
        Ok(matches)
    }

    async fn compare_lost(
        &self,
        account: AccountId,
        token: &Token,
        verifier: &Verifier,
        charge: &Charge,
    ) -> Result<bool> {
        let full = |_| Error::bare(Code::RateLimited);
        let _line = self.lost.line.try_acquire().map_err(full)?;
        let place = self.lost.places.take(account)?;
        let own = place.turn().await?;
        let begins = charge.work_begins();
        // Until the work ends, also when the caller has gone before.
        let begin = move || {
            begins();
            (own, place)
        };
        self.hashing.matches_behind(account, token, verifier, &self.lost.turns, begin).await
    }
}
