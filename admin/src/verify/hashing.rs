//! The bounded pool for argon2id: as many at once as there are cores, a
//! bounded line before it, and never the runtime's own unbounded pool (512
//! threads of 19 MiB each are 9.5 GiB).
//!
//! Accounts take turns: of each no more stand at the head of the line than
//! there are cores, the others wait behind their own. So an account with a few
//! cold tokens waits for a few of another one's, not for all of them, and one
//! that is alone has all cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flexfs_auth::token::Token;
use flexfs_auth::verifier::{Argon2Settings, Pepper, Verifier};
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::places::{Place, Places};

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
    // First come, first served: the head of the line.
    cores: Arc<Semaphore>,
    line: Semaphore,
    places: Places,
    // How often argon2id was asked for, since the start.
    runs: AtomicU64,
}

/// What somebody holds from the head of the line until the work is done.
/// Fields are dropped in this order: who comes next in the account may need the
/// core that this one had.
struct Turn {
    _core: OwnedSemaphorePermit,
    _gate: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
    _place: Option<Place>,
}

impl Hashing {
    /// With these parameters for new verifiers.
    #[must_use]
    pub fn new(settings: Argon2Settings) -> Hashing {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Hashing::with_cores(settings, cores)
    }

    fn with_cores(settings: Argon2Settings, core_count: usize) -> Hashing {
        Hashing {
            settings,
            cores: Arc::new(Semaphore::new(core_count)),
            line: Semaphore::new(LINE_MAX + core_count),
            places: Places::new(LINE_OF_ACCOUNT_MAX, core_count),
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

    /// Does the work on a core, when it is this place's turn (`None` = the
    /// server's own, which waits behind no account) and then the gate's, if
    /// there is one: nobody holds a turn of the gate who waits for his own.
    async fn run<T: Send + 'static>(
        &self,
        place: Option<Place>,
        gate: Option<&Arc<Semaphore>>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _line = self.line.try_acquire().map_err(|_| Error::bare(Code::RateLimited))?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let closed = |_| Error::bare(Code::Internal);
        let own = match &place {
            Some(place) => Some(place.turn().await?),
            None => None,
        };
        let gate = match gate {
            Some(gate) => Some(Arc::clone(gate).acquire_owned().await.map_err(closed)?),
            None => None,
        };
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(closed)?;
        let turn = Turn { _core: core, _gate: gate, _own: own, _place: place };
        // The turn lasts until the work ends, also when the caller has gone
        // meanwhile.
        let work = move || {
            let outcome = work();
            drop(turn);
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
        let place = account.map(|account| self.places.take(account)).transpose()?;
        let (token, pepper, settings) = (token.clone(), pepper.clone(), self.settings);
        self.run(place, None, move || Verifier::derive(&token, &pepper, settings)).await
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
        let place = self.places.take(account)?;
        let (token, verifier) = (token.clone(), verifier.clone());
        self.run(Some(place), None, move || verifier.phc_matches(&token)).await
    }

    /// Like [`Hashing::matches`], when it is also the gate's turn. What `begin`
    /// gives when the work begins is let go of when it ends, also when the
    /// caller has gone before.
    ///
    /// # Errors
    /// As [`Hashing::matches`].
    pub(super) async fn matches_behind<H>(
        &self,
        account: AccountId,
        token: &Token,
        verifier: &Verifier,
        gate: &Arc<Semaphore>,
        begin: impl FnOnce() -> H + Send + 'static,
    ) -> Result<bool> {
        let place = self.places.take(account)?;
        let (token, verifier) = (token.clone(), verifier.clone());
        let work = move || {
            let held = begin();
            let outcome = verifier.phc_matches(&token);
            drop(held);
            outcome
        };
        self.run(Some(place), Some(gate), work).await
    }
}

/// For tests of what happens while the slow step lasts.
#[cfg(test)]
impl Hashing {
    /// Takes every core: whoever comes to the slow step waits before it.
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(self.places.turn_count()).unwrap();
        Arc::clone(&self.cores).acquire_many_owned(all).await.unwrap()
    }

    /// Takes every turn of an account: its others wait behind these.
    pub(crate) fn hold_turns_of(&self, account: AccountId) -> impl Send + use<> {
        self.places.hold_turns(account)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn one_account_leaves_places_for_the_others() {
        let hashing = Hashing::new(Argon2Settings::default());
        let (greedy, other) = (AccountId::random(), AccountId::random());
        let places: Vec<_> =
            (0..LINE_OF_ACCOUNT_MAX).map(|_| hashing.places.take(greedy)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(hashing.places.take(greedy).err().map(|e| e.code()), Some(Code::RateLimited));
        assert!(hashing.places.take(other).is_ok());
        drop(places);
        assert!(hashing.places.take(greedy).is_ok());
        assert!(hashing.places.is_empty(), "nothing is left behind");
    }

    /// Who got a core, in the order of getting it, when these came one after
    /// the other while all cores were busy.
    async fn served(hashing: &Arc<Hashing>, coming: &[AccountId]) -> Vec<(AccountId, usize)> {
        let order = Arc::new(Mutex::new(Vec::new()));
        let held = hashing.hold().await;
        let mut waiting = Vec::new();
        for (number, account) in coming.iter().enumerate() {
            let (hashing, order, account) = (Arc::clone(hashing), Arc::clone(&order), *account);
            let place = hashing.places.take(account).unwrap();
            // A task of its own, as a caller has.
            waiting.push(tokio::spawn(async move {
                let work = move || {
                    order.lock().push((account, number));
                    // Like argon2id it takes longer than to stand in line.
                    let begun = std::time::Instant::now();
                    while begun.elapsed() < std::time::Duration::from_millis(3) {
                        std::hint::spin_loop();
                    }
                    Ok(())
                };
                hashing.run(Some(place), None, work).await
            }));
            // It stands in the line before the next one comes.
            tokio::task::yield_now().await;
        }
        assert!(order.lock().is_empty() && waiting.iter().all(|one| !one.is_finished()));
        drop(held);
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert!(hashing.places.is_empty(), "nothing is left behind");
        Arc::into_inner(order).unwrap().into_inner()
    }

    #[tokio::test]
    async fn accounts_take_turns_and_each_keeps_the_order_of_coming() {
        let (many, few) = (AccountId::random(), AccountId::random());
        // With one core the order of getting it is the order of the work.
        let hashing = Arc::new(Hashing::with_cores(Argon2Settings::default(), 1));
        let coming = [[many; 40].as_slice(), &[few; 5]].concat();
        let order = served(&hashing, &coming).await;
        let place = |account, n: usize| {
            let own = order.iter().enumerate().filter(|(_, served)| served.0 == account);
            own.map(|(place, _)| place).nth(n).unwrap()
        };
        // In turn it is some tenth; without turns it comes after all 40.
        assert!(place(few, 4) < 25, "the last of the few came {}th", place(few, 4));
        for account in [many, few] {
            let own: Vec<_> = order.iter().filter(|served| served.0 == account).collect();
            assert!(own.is_sorted_by_key(|served| served.1), "in the order of coming");
        }
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_turn_to_the_next() {
        let account = AccountId::random();
        let hashing = Hashing::with_cores(Argon2Settings::default(), 1);
        let held = hashing.hold().await;
        let wait =
            || Box::pin(hashing.run(Some(hashing.places.take(account).unwrap()), None, || Ok(())));
        let (mut first, mut second, mut third) = (wait(), wait(), wait());
        for one in [&mut first, &mut second, &mut third] {
            assert!(one.now_or_never().is_none());
        }
        drop(first);
        drop(second);
        drop(held);
        third.await.unwrap();
        assert!(hashing.places.is_empty(), "nothing is left behind");
        assert_eq!(hashing.cores.available_permits(), 1);
    }
}
