//! What was verified lately. Keys are a keyed hash of the whole token, the
//! key random per process: a dump of this memory gives nobody a token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::hmac;
use flexfs_auth::token::Token;
use flexfs_common::{Code, Error, Result, limits};
use parking_lot::Mutex;

use super::Verified;
use crate::store::changes::Applied;

/// HMAC-SHA-256 of the token's text under the key of this process.
pub(super) type Key = [u8; 32];

/// A success and how old it is.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) verified: Verified,
    /// Taken before the row was read.
    pub(super) revision: u64,
}

impl Cached {
    /// Is something newer known of the token, its account or its volume?
    pub(super) fn is_stale(&self, applied: &Applied) -> bool {
        let token = &self.verified.standing.token;
        applied.changed_since(&token.id, self.revision)
            || applied.changed_since(&token.account_id, self.revision)
            || token.volume_id().is_some_and(|id| applied.changed_since(&id, self.revision))
    }
}

#[derive(Clone, Copy)]
struct Failure {
    at: Instant,
    /// Taken before the row was read.
    revision: u64,
}

pub(super) struct Caches {
    mac: hmac::Key,
    successes: quick_cache::sync::Cache<Key, Cached>,
    failures: quick_cache::sync::Cache<Key, Failure>,
    // Tokens being verified now. An entry lives while somebody waits for it.
    flights: Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Caches({} good)", self.successes.len())
    }
}

impl Caches {
    pub(super) fn new() -> Result<Caches> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())
            .map_err(|e| Error::new(Code::Internal, "no randomness").caused_by(e))?;
        Ok(Caches {
            mac: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            successes: quick_cache::sync::Cache::new(limits::SUCCESS_CACHE),
            failures: quick_cache::sync::Cache::new(limits::FAILURE_CACHE),
            flights: Arc::default(),
        })
    }

    pub(super) fn key(&self, token: &Token) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&self.mac, token.reveal().as_bytes()).as_ref());
        key
    }

    /// A key of whatever token has this id, different from those of tokens.
    pub(super) fn key_of_id(&self, token: &Token) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&self.mac, token.id().to_string().as_bytes()).as_ref());
        key
    }

    pub(super) fn get(&self, key: &Key) -> Option<Cached> {
        self.successes.get(key)
    }

    pub(super) fn put(&self, key: Key, cached: Cached) {
        self.successes.insert(key, cached);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.successes.remove(key);
    }

    /// Did it fail within the last seconds, and has its row not changed since?
    pub(super) fn failed_lately(&self, key: &Key, token: &Token, applied: &Applied) -> bool {
        let Some(failure) = self.failures.get(key) else { return false };
        let holds = failure.at.elapsed() < limits::FAILURE_CACHE_AGE
            && !applied.changed_since(&token.id(), failure.revision);
        if !holds {
            self.failures.remove(key);
        }
        holds
    }

    /// Keeps a failure that was told from a row read after this revision was
    /// the newest: what came later may have made the secret good.
    pub(super) fn remember_failure(
        &self,
        key: Key,
        token: &Token,
        applied: &Applied,
        revision: u64,
    ) {
        if applied.changed_since(&token.id(), revision) {
            return;
        }
        self.failures.insert(key, Failure { at: Instant::now(), revision });
    }

    /// Entries: successes, failures, flights.
    #[cfg(test)]
    pub(super) fn kept(&self) -> [usize; 3] {
        [self.successes.len(), self.failures.len(), self.flights.lock().len()]
    }

    #[cfg(test)]
    pub(super) fn forget_successes(&self) {
        self.successes.clear();
    }

    #[cfg(test)]
    pub(super) fn forget_failures(&self) {
        self.failures.clear();
    }

    pub(super) fn flight(&self, key: &Key) -> Flight {
        let mutex = Arc::clone(self.flights.lock().entry(*key).or_default());
        Flight { key: *key, mutex: Some(mutex), flights: Arc::clone(&self.flights) }
    }
}

/// A place in the line for one token.
pub(super) struct Flight {
    key: Key,
    mutex: Option<Arc<tokio::sync::Mutex<()>>>,
    flights: Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Flight {
    pub(super) async fn wait(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match &self.mutex {
            Some(mutex) => Some(mutex.lock().await),
            None => None,
        }
    }
}

/// A place in the line whose turn it is.
pub(super) struct Turn {
    // Before the place: the last one in the line sees that nobody is left.
    _guard: tokio::sync::OwnedMutexGuard<()>,
    _flight: Flight,
}

impl Flight {
    /// Waits, and owns the turn. `None` never happens.
    pub(super) async fn turn(self) -> Option<Turn> {
        let mutex = self.mutex.clone()?;
        Some(Turn { _guard: mutex.lock_owned().await, _flight: self })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        self.mutex = None;
        // The last one in the line takes the entry away.
        if flights.get(&self.key).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            flights.remove(&self.key);
        }
    }
}
