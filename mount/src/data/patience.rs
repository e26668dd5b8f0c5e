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

/// How long an upload of `len` bytes goes on while nothing arrives anywhere in
/// the mount: never less than one request may take.
pub(super) fn patience(len: usize) -> Duration {
    limits::STORE_WAIT.max(allowance(len))
}

/// When the last upload of the mount arrived.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    last: Mutex<Option<Instant>>,
}

impl Arrivals {
    /// An upload has arrived.
    pub(super) fn arrived(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// When one who waits since `since` gives up, if nothing else arrives.
    fn until(&self, since: Instant, patience: Duration) -> Instant {
        let last = *self.last.lock();
        last.map_or(since, |last| last.max(since)) + patience
    }

    /// Has nothing arrived for `patience` since `since`?
    pub(super) fn is_silent(&self, since: Instant, patience: Duration) -> bool {
        Instant::now() >= self.until(since, patience)
    }

    /// Ends when nothing has arrived for `patience` since `since`.
    pub(super) async fn silent(&self, since: Instant, patience: Duration) {
        loop {
            let until = self.until(since, patience);
            if Instant::now() >= until {
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
        assert_eq!(patience(70_000), limits::STORE_WAIT);
        assert_eq!(patience(7_000_000), allowance(7_000_000));
    }

    #[test]
    fn silence_counts_from_the_last_arrival_or_from_the_begin_of_the_wait() {
        let arrivals = Arrivals::default();
        let wait = limits::STORE_WAIT;
        let since = Instant::now();
        assert_eq!(arrivals.until(since, wait), since + wait);
        let later = since + Duration::from_secs(50);
        *arrivals.last.lock() = Some(later);
        assert_eq!(arrivals.until(since, wait), later + wait);
        // What arrived before this one began to wait says nothing.
        let begun = later + Duration::from_secs(1000);
        assert_eq!(arrivals.until(begun, wait), begun + wait);
    }

    #[tokio::test]
    async fn silence_ends_a_wait_and_an_arrival_prolongs_it() {
        let arrivals = Arrivals::default();
        let patience = Duration::from_millis(300);
        let since = Instant::now();
        let half = since + Duration::from_millis(150);
        *arrivals.last.lock() = Some(half);
        arrivals.silent(since, patience).await;
        assert!(Instant::now() >= half + patience);
    }
}
