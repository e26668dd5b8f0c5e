//! Verifiers that are behind the present scheme, renewed at use: a tag under an
//! earlier or lost pepper, or an argon2id string weaker than the settings. Only
//! then is the secret at hand. A new string is made in a task of its own: whoever
//! shows the token has waited for argon2id once already. What is new is gathered
//! in memory and written in batches; what a crash loses is renewed at the next
//! cold use. Nothing is written when the database is used with another pepper
//! than ours.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
/// Argon2id strings that wait to be made anew, each with its token in memory:
/// made one after the other, some 50 s.
const UNDERWAY_MAX: usize = 1024;
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
    /// Whose argon2id string is being made anew.
    underway: HashSet<Whose>,
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

/// Is an argon2id string to be made anew?
enum Begin {
    Yes,
    /// It is, for another use of the same secret.
    Underway,
    /// Not now.
    No,
}

#[derive(Debug, Default)]
pub(super) struct Renewals {
    gathered: Mutex<Gathered>,
    /// Who of those that are under way may stand in the line for the cores.
    turn: tokio::sync::Mutex<()>,
}

impl Renewals {
    fn begin(&self, whose: Whose) -> Begin {
        let mut gathered = self.gathered.lock();
        if gathered.underway.contains(&whose) {
            Begin::Underway
        } else if gathered.is_stopped || gathered.underway.len() >= UNDERWAY_MAX {
            Begin::No
        } else {
            gathered.underway.insert(whose);
            Begin::Yes
        }
    }

    fn finish(&self, whose: Whose, renewal: Option<Renewal>) {
        let mut gathered = self.gathered.lock();
        gathered.underway.remove(&whose);
        if let Some(renewal) = renewal {
            gathered.note(whose, renewal);
        }
    }

    fn note(&self, whose: Whose, renewal: Renewal) {
        self.gathered.lock().note(whose, renewal);
    }

    fn stop(&self) {
        let mut gathered = self.gathered.lock();
        gathered.is_stopped = true;
        gathered.renewals.clear();
    }

    async fn flush(&self, store: &Store, peppers: &Peppers) -> Result<()> {
        let mut left: Vec<_> =
            std::mem::take(&mut self.gathered.lock().renewals).into_iter().collect();
        while !left.is_empty() {
            let part = left.len().saturating_sub(ROWS_PER_WRITE);
            match write(store, peppers, left.get(part..).unwrap_or_default()).await {
                Ok(()) => left.truncate(part),
                Err(error) if error.code() == Code::PepperMismatch => {
                    self.stop();
                    return Err(error);
                }
                Err(error) => {
                    let mut gathered = self.gathered.lock();
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
    /// The token's caller does not wait for it.
    pub(super) fn renew(&self, account: AccountId, token: &Token, whose: Whose, old: &Verifier) {
        let current = self.peppers.current();
        let is_weak = old.is_weaker_than(self.hashing.settings());
        let begin = if is_weak { self.renewals.begin(whose) } else { Begin::No };
        match begin {
            Begin::Underway => return,
            Begin::Yes => {}
            Begin::No => {
                if old.pepper_id != current.id() {
                    let new = old.retagged(token, current);
                    self.renewals.note(whose, Renewal { old: old.clone(), new });
                }
                return;
            }
        }
        let (hashing, renewals) = (Arc::clone(&self.hashing), Arc::clone(&self.renewals));
        let (token, old, pepper) = (token.clone(), old.clone(), current.clone());
        tokio::spawn(async move {
            // One after the other: who is verified finds at most one before him.
            let _turn = renewals.turn.lock().await;
            let new = match hashing.derive(Some(account), &token, &pepper).await {
                Ok(new) => Some(new),
                Err(error) => {
                    // The pool is full: another time.
                    tracing::debug!(error = error.with_causes(), "a verifier stays as it is");
                    (old.pepper_id != pepper.id()).then(|| old.retagged(&token, &pepper))
                }
            };
            renewals.finish(whose, new.map(|new| Renewal { old, new }));
        });
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

#[cfg(test)]
impl Verify {
    /// Ends when no string is being made anew.
    pub(crate) async fn renewed(&self) {
        while !self.renewals.gathered.lock().underway.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
