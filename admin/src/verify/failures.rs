//! A token bucket per source address, for failures alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flexfs_common::limits;
use parking_lot::Mutex;

use super::source_key;

/// Sources remembered at once; one that is forgotten starts with a full burst.
const SOURCES: usize = 16_384;
/// For how long after a failure beyond its rate a source counts as flooding: so
/// that the failures which its rate allows are not each looked up either.
const FLOOD: Duration = Duration::from_secs(2);

struct Bucket {
    left: f64,
    at: Instant,
    floods_until: Instant,
    /// Tokens of this source that are being looked for.
    looks: u32,
}

/// What is known of a source when it shows the next token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    Calm,
    /// If all that it shows now fail, it floods.
    Busy,
    /// It has failures beyond its rate, now or within the last seconds.
    Flooding,
}

impl Bucket {
    fn full(now: Instant) -> Bucket {
        let left = f64::from(limits::FAILURE_BURST);
        Bucket { left, at: now, floods_until: now, looks: 0 }
    }

    fn manner(&mut self, now: Instant) -> Manner {
        self.refill(now);
        if self.left < 1.0 || now < self.floods_until {
            return Manner::Flooding;
        }
        if f64::from(self.looks) > self.left { Manner::Busy } else { Manner::Calm }
    }

    fn refill(&mut self, now: Instant) {
        let gained =
            now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limits::FAILURE_RATE);
        self.left = (self.left + gained).min(f64::from(limits::FAILURE_BURST));
        self.at = now;
    }
}

pub(super) struct FailureLimiter(quick_cache::sync::Cache<u128, Arc<Mutex<Bucket>>>);

impl std::fmt::Debug for FailureLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailureLimiter")
    }
}

impl FailureLimiter {
    pub(super) fn new() -> FailureLimiter {
        FailureLimiter(quick_cache::sync::Cache::new(SOURCES))
    }

    #[cfg(test)]
    pub(super) fn exhaust(&self, from: Option<IpAddr>) {
        let at = Instant::now();
        let bucket = Bucket { left: -1e6, ..Bucket::full(at) };
        self.0.insert(source_key(from), Arc::new(Mutex::new(bucket)));
    }

    #[cfg(test)]
    fn is_exhausted(&self, from: Option<IpAddr>) -> bool {
        let Some(bucket) = self.0.get(&source_key(from)) else { return false };
        let mut bucket = bucket.lock();
        bucket.refill(Instant::now());
        bucket.left < 1.0
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.len()
    }

    /// Counts one failure; false when the source had too many.
    pub(super) fn admit(&self, from: Option<IpAddr>) -> bool {
        self.admit_at(from, Instant::now())
    }

    /// How does this source behave?
    pub(super) fn manner(&self, from: Option<IpAddr>) -> Manner {
        self.manner_at(from, Instant::now())
    }

    fn manner_at(&self, from: Option<IpAddr>, now: Instant) -> Manner {
        let bucket = self.0.get(&source_key(from));
        bucket.map_or(Manner::Calm, |bucket| bucket.lock().manner(now))
    }

    /// A token of this source is being looked for, until this is dropped.
    pub(super) fn look(&self, from: Option<IpAddr>) -> Look {
        let bucket = self.bucket(from, Instant::now());
        let mut inner = bucket.lock();
        inner.looks = inner.looks.saturating_add(1);
        drop(inner);
        Look(bucket)
    }

    fn bucket(&self, from: Option<IpAddr>, now: Instant) -> Arc<Mutex<Bucket>> {
        let full = || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Bucket::full(now))));
        let Ok(bucket) = self.0.get_or_insert_with(&source_key(from), full);
        bucket
    }

    /// One more of a flood was refused; the rate is not asked.
    pub(super) fn goes_on(&self, from: Option<IpAddr>) {
        self.goes_on_at(from, Instant::now());
    }

    fn goes_on_at(&self, from: Option<IpAddr>, now: Instant) {
        if let Some(bucket) = self.0.get(&source_key(from)) {
            bucket.lock().floods_until = now + FLOOD;
        }
    }

    /// Counts a failure before work that may end in one; `None` when the source
    /// had too many.
    pub(super) fn charge(self: &Arc<Self>, from: Option<IpAddr>) -> Option<Charge> {
        let failures = Arc::clone(self);
        self.admit(from).then(|| Charge { failures, from, is_spent: Arc::default() })
    }

    /// Takes back what was counted before it was known to be no failure.
    fn refund(&self, from: Option<IpAddr>) {
        let Some(bucket) = self.0.get(&source_key(from)) else { return };
        let mut bucket = bucket.lock();
        bucket.left = (bucket.left + 1.0).min(f64::from(limits::FAILURE_BURST));
    }

    fn admit_at(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let bucket = self.bucket(from, now);
        let mut bucket = bucket.lock();
        bucket.refill(now);
        if bucket.left < 1.0 {
            bucket.floods_until = now + FLOOD;
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

/// See [`FailureLimiter::look`].
pub(super) struct Look(Arc<Mutex<Bucket>>);

impl Drop for Look {
    fn drop(&mut self) {
        let mut bucket = self.0.lock();
        bucket.looks = bucket.looks.saturating_sub(1);
    }
}

/// A failure that was counted before it is known to be one. Dropped, it is taken
/// back, unless work was done for it and nobody waited for the outcome.
pub(super) struct Charge {
    failures: Arc<FailureLimiter>,
    from: Option<IpAddr>,
    is_spent: Arc<AtomicBool>,
}

impl Charge {
    /// To be called when the work begins, wherever that is.
    pub(super) fn work_begins(&self) -> impl FnOnce() + Send + 'static {
        let is_spent = Arc::clone(&self.is_spent);
        move || is_spent.store(true, Ordering::SeqCst)
    }

    /// The outcome is known: a failure is counted where it is told.
    pub(super) fn settle(self) {
        self.is_spent.store(false, Ordering::SeqCst);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.is_spent.load(Ordering::SeqCst) {
            self.failures.refund(self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_rate_per_source() {
        let limiter = FailureLimiter::new();
        let now = Instant::now();
        let a: Option<IpAddr> = Some("192.0.2.1".parse().unwrap());
        let b: Option<IpAddr> = Some("192.0.2.2".parse().unwrap());
        let burst = (0..1000).filter(|_| limiter.admit_at(a, now)).count();
        assert_eq!(burst, limits::FAILURE_BURST as usize);
        assert!(limiter.admit_at(b, now), "another source is not concerned");
        let later = now + Duration::from_secs(1);
        let second = (0..1000).filter(|_| limiter.admit_at(a, later)).count();
        assert_eq!(second, limits::FAILURE_RATE as usize);
    }

    #[test]
    fn what_is_taken_back_was_never_counted() {
        let limiter = FailureLimiter::new();
        let now = Instant::now();
        let a: Option<IpAddr> = Some("192.0.2.1".parse().unwrap());
        for _ in 0..10 * limits::FAILURE_BURST {
            assert!(limiter.admit_at(a, now));
            limiter.refund(a);
        }
        let burst = (0..1000).filter(|_| limiter.admit_at(a, now)).count();
        assert_eq!(burst, limits::FAILURE_BURST as usize);
    }

    #[test]
    fn only_work_for_nobody_stays_charged() {
        let limiter = Arc::new(FailureLimiter::new());
        // One is left, and none comes back while the test runs.
        let begin = |left| {
            let at = Instant::now() + Duration::from_secs(3600);
            let bucket = Bucket { left, ..Bucket::full(at) };
            limiter.0.insert(source_key(None), Arc::new(Mutex::new(bucket)));
        };
        begin(1.0);
        drop(limiter.charge(None).unwrap());
        assert!(!limiter.is_exhausted(None), "dropped before the work began");
        let charge = limiter.charge(None).unwrap();
        assert!(limiter.charge(None).is_none(), "it is counted meanwhile");
        charge.work_begins()();
        charge.settle();
        assert!(!limiter.is_exhausted(None), "the outcome is known");
        begin(1.0);
        let charge = limiter.charge(None).unwrap();
        charge.work_begins()();
        drop(charge);
        assert!(limiter.is_exhausted(None), "dropped after the work began");
    }

    #[test]
    fn a_flood_is_one_until_it_pauses() {
        let limiter = FailureLimiter::new();
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let from: Option<IpAddr> = Some("192.0.2.1".parse().unwrap());
        while limiter.admit_at(from, now) {}
        assert_eq!(limiter.manner_at(from, at(0)), Manner::Flooding);
        // Its rate would allow some failures by now.
        assert_eq!(limiter.manner_at(from, at(1999)), Manner::Flooding);
        limiter.goes_on_at(from, at(1999));
        assert_eq!(limiter.manner_at(from, at(3998)), Manner::Flooding);
        assert_eq!(limiter.manner_at(from, at(3999)), Manner::Calm, "it paused");
        assert_eq!(limiter.manner_at(None, now), Manner::Calm, "another source is not concerned");
    }

    #[test]
    fn a_source_is_busy_while_more_is_looked_for_than_may_fail() {
        let limiter = FailureLimiter::new();
        let looks: Vec<_> = (0..limits::FAILURE_BURST).map(|_| limiter.look(None)).collect();
        assert_eq!(limiter.manner(None), Manner::Calm);
        let one_more = limiter.look(None);
        assert_eq!(limiter.manner(None), Manner::Busy);
        drop(one_more);
        assert_eq!(limiter.manner(None), Manner::Calm);
        drop(looks);
        assert!(limiter.admit(None), "looking is not failing");
    }

    #[test]
    fn spellings_of_one_source_share_a_bucket() {
        let key = |text: &str| source_key(Some(text.parse().unwrap()));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
