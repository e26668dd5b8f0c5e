//! The bounded pool for argon2id: as many at once as there are cores, a
//! bounded line before it, and never the runtime's own unbounded pool (512
//! threads of 19 MiB each are 9.5 GiB).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flexfs_auth::token::Token;
use flexfs_auth::verifier::{Argon2Settings, Pepper, Verifier};
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Who may wait for a core: at 50 ms each on two cores, some 25 s, which is
/// as long as a call waits.
const LINE_MAX: usize = 1024;
/// How many of them may be of one account, so that a tenant whose tokens all
/// come at once does not shut out the others.
const LINE_OF_ACCOUNT_MAX: usize = LINE_MAX / 2;

/// Runs argon2id.
#[derive(Debug)]
pub struct Hashing {
    settings: Argon2Settings,
    cores: Arc<Semaphore>,
    line: Semaphore,
    // How many of each account stand in the line or work.
    accounts: Arc<Mutex<HashMap<AccountId, usize>>>,
    // How often argon2id was asked for, since the start.
    runs: AtomicU64,
}

/// A place of an account in the line.
struct Place {
    account: AccountId,
    accounts: Arc<Mutex<HashMap<AccountId, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock();
        if let Some(count) = accounts.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                accounts.remove(&self.account);
            }
        }
    }
}

impl Hashing {
    /// With these parameters for new verifiers.
    #[must_use]
    pub fn new(settings: Argon2Settings) -> Hashing {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Hashing {
            settings,
            cores: Arc::new(Semaphore::new(cores)),
            line: Semaphore::new(LINE_MAX + cores),
            accounts: Arc::default(),
            runs: AtomicU64::new(0),
        }
    }

    /// Those of new verifiers.
    #[must_use]
    pub fn settings(&self) -> Argon2Settings {
        self.settings
    }

    /// How often argon2id was asked for, since the start.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = self.line.try_acquire().map_err(|_| Error::bare(Code::RateLimited))?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let closed = |_| Error::bare(Code::Internal);
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(closed)?;
        // The core stays taken until the work ends, also when the caller has
        // gone meanwhile.
        let work = move || {
            let outcome = work();
            drop(core);
            outcome
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
    }

    /// Both steps of a new verifier, for somebody of an account.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the line is full, `INTERNAL`.
    pub async fn derive(
        &self,
        account: Option<AccountId>,
        token: &Token,
        pepper: &Pepper,
    ) -> Result<Verifier> {
        let _place = account.map(|account| self.place(account)).transpose()?;
        let (token, pepper, settings) = (token.clone(), pepper.clone(), self.settings);
        self.run(move || Verifier::derive(&token, &pepper, settings)).await
    }

    fn place(&self, account: AccountId) -> Result<Place> {
        let mut accounts = self.accounts.lock();
        let count = accounts.entry(account).or_default();
        if *count >= LINE_OF_ACCOUNT_MAX {
            return Err(Code::RateLimited.into());
        }
        *count += 1;
        Ok(Place { account, accounts: Arc::clone(&self.accounts) })
    }

    /// The slow step, for a token of this account.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the line is full, `INTERNAL`.
    pub async fn matches(
        &self,
        account: AccountId,
        token: &Token,
        verifier: &Verifier,
    ) -> Result<bool> {
        self.matches_holding(account, token, verifier, ()).await
    }

    /// Like [`Hashing::matches`]; what is held is let go of when the work ends,
    /// also when the caller has gone before.
    ///
    /// # Errors
    /// As [`Hashing::matches`].
    pub async fn matches_holding(
        &self,
        account: AccountId,
        token: &Token,
        verifier: &Verifier,
        held: impl Send + 'static,
    ) -> Result<bool> {
        let _place = self.place(account)?;
        let (token, verifier) = (token.clone(), verifier.clone());
        let work = move || {
            let outcome = verifier.phc_matches(&token);
            drop(held);
            outcome
        };
        self.run(work).await
    }
}

/// For tests of what happens while the slow step lasts.
#[cfg(test)]
impl Hashing {
    /// Takes every core: whoever comes to the slow step waits before it.
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = u32::try_from(all).unwrap();
        Arc::clone(&self.cores).acquire_many_owned(all).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_leaves_places_for_the_others() {
        let hashing = Hashing::new(Argon2Settings::default());
        let (greedy, other) = (AccountId::random(), AccountId::random());
        let places: Vec<_> = (0..LINE_OF_ACCOUNT_MAX).map(|_| hashing.place(greedy)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(hashing.place(greedy).err().map(|e| e.code()), Some(Code::RateLimited));
        assert!(hashing.place(other).is_ok());
        drop(places);
        assert!(hashing.place(greedy).is_ok());
        assert!(hashing.accounts.lock().is_empty(), "nothing is left behind");
    }
}
