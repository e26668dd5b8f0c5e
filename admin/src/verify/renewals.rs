//! Verifiers that are behind the present scheme, renewed at use: a tag under an
//! earlier or lost pepper, or an argon2id string weaker than the settings. Only
//! then is the secret at hand. New ones are gathered in memory and written in
//! batches; what a crash loses is renewed at the next cold use. None is written
//! when the database is used with another pepper than ours.

use std::collections::HashMap;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Result};
use parking_lot::Mutex;

use super::Verify;
use crate::peppers::Peppers;
use crate::store::Store;
use crate::store::peppers::{self, Whose};

/// Entries gathered between two writes. Cold verifications are bounded by the
/// pool, so a second brings some hundreds; beyond, they wait for another use.
const GATHERED_MAX: usize = 16_384;
/// Entries of one transaction: the writer is not held for long.
const ROWS_PER_WRITE: usize = 500;

#[derive(Clone, Debug)]
struct Renewal {
    old: Verifier,
    new: Verifier,
}

#[derive(Debug, Default)]
struct Gathered {
    renewals: HashMap<Whose, Renewal>,
    /// Our pepper is no longer the one: nothing more is gathered.
    is_stopped: bool,
}

impl Gathered {
    fn note(&mut self, whose: Whose, renewal: Renewal) {
        let has_room = self.renewals.len() < GATHERED_MAX || self.renewals.contains_key(&whose);
        if has_room && !self.is_stopped {
            self.renewals.insert(whose, renewal);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<Gathered>);

impl Renewals {
    fn note(&self, whose: Whose, renewal: Renewal) {
        self.0.lock().note(whose, renewal);
    }

    fn stop(&self) {
        let mut gathered = self.0.lock();
        gathered.is_stopped = true;
        gathered.renewals.clear();
    }

    async fn flush(&self, store: &Store, peppers: &Peppers) -> Result<()> {
        let mut left: Vec<_> = std::mem::take(&mut self.0.lock().renewals).into_iter().collect();
        while !left.is_empty() {
            let part = left.len().saturating_sub(ROWS_PER_WRITE);
            match write(store, peppers, left.get(part..).unwrap_or_default()).await {
                Ok(()) => left.truncate(part),
                Err(error) if error.code() == Code::PepperMismatch => {
                    self.stop();
                    return Err(error);
                }
                Err(error) => {
                    let mut gathered = self.0.lock();
                    for (whose, renewal) in left {
                        // A newer one was made from what the database has.
                        if !gathered.renewals.contains_key(&whose) {
                            gathered.note(whose, renewal);
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

async fn write(store: &Store, peppers: &Peppers, renewals: &[(Whose, Renewal)]) -> Result<()> {
    let mut tx = store.begin().await?;
    peppers.require_current(tx.sql()).await?;
    for (whose, renewal) in renewals {
        // False: rotated away, purged or renewed by another server meanwhile.
        peppers::renew(tx.sql(), *whose, &renewal.old, &renewal.new).await?;
    }
    tx.commit_quietly().await
}

impl Verify {
    /// Renews a verifier that was found to be of this token, if it is behind.
    /// Never stands in the way of the token itself.
    pub(super) async fn renew(
        &self,
        account: AccountId,
        token: &Token,
        whose: Whose,
        old: &Verifier,
    ) {
        let current = self.peppers.current();
        let moves = old.pepper_id != current.id();
        let new = if old.is_weaker_than(self.hashing.settings()) {
            match self.hashing.derive(Some(account), token, current).await {
                Ok(new) => Some(new),
                Err(error) => {
                    // The pool is full: another time.
                    tracing::debug!(error = error.with_causes(), "a verifier stays as it is");
                    moves.then(|| old.retagged(token, current))
                }
            }
        } else {
            moves.then(|| old.retagged(token, current))
        };
        if let Some(new) = new {
            self.renewals.note(whose, Renewal { old: old.clone(), new });
        }
    }

    /// Writes the renewed verifiers gathered so far.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; they are written next time. `PEPPER_MISMATCH`; they
    /// are of no use any more.
    pub async fn flush_renewed(&self) -> Result<()> {
        self.renewals.flush(&self.store, &self.peppers).await
    }

    /// Forgets the renewals gathered so far and gathers no more: the pepper
    /// was changed behind our back.
    pub fn stop_renewing(&self) {
        self.renewals.stop();
    }
}
