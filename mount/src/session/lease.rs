//! How long what meta granted may be used, and what time it is there.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_proto::v1;

/// What a renewal changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The lease never ended.
    Kept,
    /// It had ended (known already or not) and is valid again.
    Back {
        /// Nobody had noticed its end yet.
        unnoticed: bool,
    },
    /// The renewal was sent too long ago to be worth anything.
    Late,
}

/// The lease, counted from when each renewal was SENT, on the clock that goes
/// on during suspend.
#[derive(Debug)]
pub(super) struct Lease {
    end: AtomicU64,
    lost: AtomicBool,
}

impl Lease {
    pub(super) fn new() -> Lease {
        Lease { end: AtomicU64::new(0), lost: AtomicBool::new(false) }
    }

    pub(super) fn renew(&self, sent: BootTime, millis: u32) -> Renewal {
        let end = sent.after(Duration::from_millis(u64::from(millis)));
        let before = self.end.fetch_max(end.as_nanos(), Ordering::AcqRel);
        if end.passed() {
            return Renewal::Late;
        }
        let noticed = self.lost.swap(false, Ordering::AcqRel);
        if noticed {
            return Renewal::Back { unnoticed: false };
        }
        if before != 0 && BootTime::from_nanos(before).passed() {
            return Renewal::Back { unnoticed: true };
        }
        Renewal::Kept
    }

    pub(super) fn left(&self) -> Duration {
        BootTime::from_nanos(self.end.load(Ordering::Acquire)).left()
    }

    pub(super) fn valid(&self) -> bool {
        !self.lost.load(Ordering::Acquire) && !self.left().is_zero()
    }

    /// Marks it lost if it has ended; true for the first to notice.
    pub(super) fn notice_end(&self) -> bool {
        self.left().is_zero() && !self.lost.swap(true, Ordering::AcqRel)
    }
}

/// Meta's wall clock as an offset from our boot clock: a changed local wall
/// clock does not disturb it.
#[derive(Debug, Default)]
pub(super) struct MetaClock {
    offset_nanos: AtomicI64,
}

impl MetaClock {
    /// Meta said `now` between `sent` and this moment; the middle is the best
    /// guess (RFC 5905 section 8).
    pub(super) fn learn(&self, sent: BootTime, now: &v1::Timestamp) {
        let received = BootTime::now();
        let middle = sent.after(received.since(sent) / 2);
        let wall = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanos);
        let offset = wall - i128::from(middle.as_nanos());
        if let Ok(offset) = i64::try_from(offset) {
            self.offset_nanos.store(offset, Ordering::Release);
        }
    }

    pub(super) fn now(&self) -> v1::Timestamp {
        let boot = i128::from(BootTime::now().as_nanos());
        let nanos = boot + i128::from(self.offset_nanos.load(Ordering::Acquire));
        v1::Timestamp {
            seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0),
            nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_counts_from_the_sending() {
        let lease = Lease::new();
        let sent = BootTime::now();
        assert_eq!(lease.renew(sent, 60_000), Renewal::Kept);
        assert!(lease.valid() && lease.left() <= Duration::from_secs(60));
        let long_ago = BootTime::from_nanos(1);
        assert_eq!(lease.renew(long_ago, 1), Renewal::Late);
        assert!(lease.valid(), "a late renewal does not shorten the lease");
    }

    #[test]
    fn an_end_is_noticed_once_and_comes_back_once() {
        let lease = Lease::new();
        assert!(lease.notice_end());
        assert!(!lease.notice_end());
        assert!(!lease.valid());
        assert_eq!(lease.renew(BootTime::now(), 60_000), Renewal::Back { unnoticed: false });
        assert!(lease.valid() && !lease.notice_end());
    }

    #[test]
    fn the_clock_follows_meta() {
        let clock = MetaClock::default();
        let meta = v1::Timestamp { seconds: 1_800_000_000, nanos: 5 };
        clock.learn(BootTime::now(), &meta);
        let now = clock.now();
        assert!((1_800_000_000..1_800_000_005).contains(&now.seconds), "{now:?}");
    }
}
