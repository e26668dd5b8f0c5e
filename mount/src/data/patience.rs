//! How long a block store is waited for: by the request, and by the mount as
//! a whole, so that a store that is slow but moves is not given up.

use std::time::Duration;

use flexfs_common::limits;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A transfer without progress for this long is given up.
pub(super) const STALL: Duration = Duration::from_secs(20);
/// Bytes per second of the slowest link that one transfer is made for.
const SLOWEST: u64 = 70_000;

/// Time for one request that moves `len` bytes.
pub(super) fn allowance(len: usize) -> Duration {
    let millis = u64::try_from(len).unwrap_or(u64::MAX).saturating_mul(1000) / SLOWEST;
    STALL + Duration::from_millis(millis)
}

/// How long a transfer goes on while nothing moves anywhere in the mount, the
/// same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    first: Duration,
    /// When others have given the store up and nothing has moved since.
    again: Duration,
}

/// Of an upload of `len` bytes: never less than one request may take. Always
/// the same: a small one may have to wait for large ones that move, and only
/// what has arrived whole tells that they do.
pub(super) fn of_upload(len: usize) -> Patience {
    let wait = limits::STORE_WAIT.max(allowance(len));
    Patience { first: wait, again: wait }
}

/// Of a download. The kernel asks anew, page by page, for what it was not given
/// ahead: that its program hears of it in time, the second question is short.
pub(super) const OF_DOWNLOAD: Patience = Patience { first: limits::STORE_WAIT, again: STALL };

#[derive(Debug, Default)]
struct Last {
    arrival: Option<Instant>,
    given_up: bool,
}

/// When something moved last in the mount, one way.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<Last>);

impl Arrivals {
    /// An upload, or a part of a download, has arrived.
    pub(super) fn arrived(&self) {
        *self.0.lock() = Last { arrival: Some(Instant::now()), given_up: false };
    }

    /// When one who waits since `since` gives up, if nothing else arrives.
    fn until(&self, since: Instant, patience: Patience) -> Instant {
        let last = self.0.lock();
        let wait = if last.given_up { patience.again } else { patience.first };
        last.arrival.map_or(since, |last| last.max(since)) + wait
    }

    /// Has nothing arrived for so long since `since`?
    pub(super) fn is_silent(&self, since: Instant, patience: Patience) -> bool {
        Instant::now() >= self.until(since, patience)
    }

    /// Ends when nothing has arrived for so long since `since`: the store is
    /// given up.
    pub(super) async fn silent(&self, since: Instant, patience: Patience) {
        loop {
            let until = self.until(since, patience);
            if Instant::now() >= until {
                self.0.lock().given_up = true;
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_time_for_its_bytes_at_the_slowest_rate() {
        assert_eq!(allowance(0), STALL);
        assert_eq!(allowance(70_000), STALL + Duration::from_secs(1));
        assert_eq!(allowance(7_000_000), STALL + Duration::from_secs(100));
        assert_eq!(of_upload(70_000).first, limits::STORE_WAIT);
        assert_eq!(of_upload(7_000_000).first, allowance(7_000_000));
    }

    #[test]
    fn silence_counts_from_the_last_arrival_or_from_the_begin_of_the_wait() {
        let arrivals = Arrivals::default();
        let (wait, patience) = (limits::STORE_WAIT, OF_DOWNLOAD);
        let since = Instant::now();
        assert_eq!(arrivals.until(since, patience), since + wait);
        let later = since + Duration::from_secs(50);
        arrivals.0.lock().arrival = Some(later);
        assert_eq!(arrivals.until(since, patience), later + wait);
        // What arrived before this one began to wait says nothing.
        let begun = later + Duration::from_secs(1000);
        assert_eq!(arrivals.until(begun, patience), begun + wait);
    }

    #[tokio::test]
    async fn a_store_given_up_is_given_up_sooner_until_something_arrives() {
        let arrivals = Arrivals::default();
        let short = Duration::from_millis(1);
        let since = Instant::now();
        arrivals.silent(since, Patience { first: short, again: short }).await;
        assert_eq!(arrivals.until(since, OF_DOWNLOAD), since + STALL);
        assert_eq!(arrivals.until(since, of_upload(0)), since + limits::STORE_WAIT);
        arrivals.arrived();
        assert!(arrivals.until(since, OF_DOWNLOAD) >= since + limits::STORE_WAIT);
    }

    #[tokio::test]
    async fn silence_ends_a_wait_and_an_arrival_prolongs_it() {
        let arrivals = Arrivals::default();
        let wait = Duration::from_millis(300);
        let since = Instant::now();
        let half = since + Duration::from_millis(150);
        arrivals.0.lock().arrival = Some(half);
        arrivals.silent(since, Patience { first: wait, again: wait }).await;
        assert!(Instant::now() >= half + wait);
    }
}
