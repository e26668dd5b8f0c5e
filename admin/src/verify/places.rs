//! A line in which accounts take turns: of each no more stand at its head than
//! can work at once, the others wait behind their own; and each account has a
//! bounded share of the places.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An entry lives while somebody of the account stands in the line or works.
type Accounts = Arc<Mutex<HashMap<AccountId, Waiting>>>;

/// Those of one account.
#[derive(Debug)]
struct Waiting {
    places: usize,
    /// Who of them may stand at the head of the line, in the order of coming.
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
pub(super) struct Places {
    of_account_max: usize,
    turn_count: usize,
    accounts: Accounts,
}

impl Places {
    /// So many places for each account, and so many of its turns at once.
    pub(super) fn new(of_account_max: usize, turn_count: usize) -> Places {
        Places { of_account_max, turn_count, accounts: Arc::default() }
    }

    /// # Errors
    /// `RATE_LIMITED` when the account has all of its places.
    pub(super) fn take(&self, account: AccountId) -> Result<Place> {
        let mut accounts = self.accounts.lock();
        let waiting = accounts.entry(account).or_insert_with(|| Waiting {
            places: 0,
            turns: Arc::new(Semaphore::new(self.turn_count)),
        });
        if waiting.places >= self.of_account_max {
            return Err(Code::RateLimited.into());
        }
        waiting.places += 1;
        let turns = Arc::clone(&waiting.turns);
        Ok(Place { account, turns, accounts: Arc::clone(&self.accounts) })
    }

    /// Takes every turn of an account of which nobody is there.
    #[cfg(test)]
    pub(super) fn hold_turns(&self, account: AccountId) -> (OwnedSemaphorePermit, Place) {
        let place = self.take(account).unwrap();
        let all = u32::try_from(self.turn_count).unwrap();
        (Arc::clone(&place.turns).try_acquire_many_owned(all).unwrap(), place)
    }

    #[cfg(test)]
    pub(super) fn turn_count(&self) -> usize {
        self.turn_count
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.accounts.lock().is_empty()
    }
}

/// A place of an account in the line.
pub(super) struct Place {
    account: AccountId,
    turns: Arc<Semaphore>,
    accounts: Accounts,
}

impl Place {
    /// Waits for those of the account that came before.
    ///
    /// # Errors
    /// None in fact: turns are never closed.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        turn.map_err(|_| Error::bare(Code::Internal))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock();
        if let Some(waiting) = accounts.get_mut(&self.account) {
            waiting.places -= 1;
            if waiting.places == 0 {
                accounts.remove(&self.account);
            }
        }
    }
}
