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

/// How far meta's clock may have fallen behind between two answers, in
/// nanoseconds: 500 ppm (the most that NTP slews) of a heartbeat.
const DRIFT: i64 = 1_000_000;
/// An answer that is later by this, in nanoseconds, means that its clock was
/// set back.
const SET_BACK: i64 = 1_000_000_000;

/// Meta's wall clock as an offset from our boot clock: a changed local wall
/// clock does not disturb it.
#[derive(Debug, Default)]
pub(super) struct MetaClock {
    offset_nanos: AtomicI64,
}

impl MetaClock {
    /// Meta said `now` before this moment. What is stamped with this clock must
    /// not lie in meta's future, where meta would change it: so it is meta's
    /// time less the way of the quickest answer of late.
    pub(super) fn learn(&self, now: &v1::Timestamp) {
        let wall = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanos);
        let offset = wall - i128::from(BootTime::now().as_nanos());
        let Ok(offset) = i64::try_from(offset) else { return };
        let known = self.offset_nanos.load(Ordering::Acquire);
        let later = known.saturating_sub(offset);
        // A slow answer, not a clock that was set back.
        let offset =
            if (0..SET_BACK).contains(&later) { offset.max(known - DRIFT) } else { offset };
        self.offset_nanos.store(offset, Ordering::Release);
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
        clock.learn(&meta);
        let now = clock.now();
        assert!((1_800_000_000..1_800_000_005).contains(&now.seconds), "{now:?}");
        // An answer that took half a second; a clock that was set back.
        let offset = || clock.offset_nanos.load(Ordering::Acquire);
        let before = offset();
        let behind = |nanos: i64| {
            let wall = before + i64::try_from(BootTime::now().as_nanos()).unwrap() - nanos;
            let (seconds, nanos) = (wall / 1_000_000_000, wall % 1_000_000_000);
            v1::Timestamp { seconds, nanos: u32::try_from(nanos).unwrap() }
        };
        clock.learn(&behind(500_000_000));
        assert_eq!(offset(), before - DRIFT);
        clock.learn(&behind(5_000_000_000));
        assert!((offset() - before + 5_000_000_000).abs() < 1_000_000_000);
    }
}
