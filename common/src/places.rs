//! Places at a port: how many connections there may be, in all and of one
//! source, so that one source cannot keep all others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::turns::source_key;

/// At most one line about closed connections in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The places of one port.
///
/// A source (an IPv4 address, an IPv6 /64) is given one more while it has
/// fewer than `2 * free * free / all`. So one source alone comes to half of
/// all, which is much for an address translator with many honest hosts behind
/// it; after `n` sources that took all they could, one after the other, about
/// `1/(2n)` of all is free still (with a bound of `free` it would be `1/2^n`).
/// Whoever has few finds a place until a hundred sources or so work together,
/// and nothing has to be taken away from anybody.
#[derive(Debug)]
pub struct Places {
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// A source is here while it has a place: never more of them than
    /// connections.
    sources: HashMap<u128, usize>,
    closed: Closed,
}

/// Connections that got no place, since the last line about them.
#[derive(Debug, Default)]
struct Closed {
    count: u64,
    told: Option<Instant>,
}

impl Closed {
    /// One more: how many there are to tell of now, if any.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < LOG_INTERVAL) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// A place; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    source: u128,
}

impl Places {
    /// So many in all.
    #[must_use]
    pub fn new(all: usize) -> Arc<Places> {
        Arc::new(Places { all, taken: Mutex::default() })
    }

    /// A place for a connection from this address; `None` when there is none
    /// for its source: then the connection is to be closed at once, which costs
    /// neither memory nor a signature. Logs that, not for each.
    #[must_use]
    pub fn take(self: &Arc<Places>, from: IpAddr) -> Option<Place> {
        self.take_at(from, Instant::now())
    }

    /// Is there one more for a source that has so many?
    fn is_open(&self, own: usize, free: usize) -> bool {
        own.saturating_mul(self.all) < free.saturating_mul(free).saturating_mul(2)
    }

    fn take_at(self: &Arc<Places>, from: IpAddr, now: Instant) -> Option<Place> {
        let source = source_key(from);
        let mut taken = self.taken.lock();
        let own = taken.sources.get(&source).copied().unwrap_or(0);
        let all = taken.all;
        if self.is_open(own, self.all.saturating_sub(all)) {
            taken.sources.insert(source, own + 1);
            taken.all += 1;
            let places = Arc::clone(self);
            return Some(Place { places, source });
        }
        let closed = taken.closed.note(now);
        drop(taken);
        if let Some(closed) = closed {
            // The address of the last one: who fills the house is among them.
            tracing::warn!(%from, own, all, closed, "too many connections: closed at once");
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.sources.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    /// All that this source gets.
    fn take_all(places: &Arc<Places>, from: IpAddr) -> Vec<Place> {
        std::iter::from_fn(|| places.take(from)).collect()
    }

    #[test]
    fn one_source_gets_half_and_no_more() {
        let places = Places::new(100);
        let mut taken = take_all(&places, source(1));
        assert_eq!(taken.len(), 50);
        assert!(places.take(source(2)).is_some());
        taken.pop();
        assert!(places.take(source(1)).is_some(), "what it gave back it gets again");
        drop(taken);
        assert!(places.taken.lock().sources.is_empty(), "nothing is left behind");
        assert_eq!(places.taken.lock().all, 0);
    }

    #[test]
    fn whoever_has_few_finds_a_place_however_many_take_all_they_can() {
        let places = Places::new(4096);
        // Again and again: what one leaves, the next one may take.
        let mut taken: Vec<Place> = Vec::new();
        for _ in 0..10 {
            for greedy in 1..=6 {
                taken.extend(take_all(&places, source(greedy)));
            }
        }
        assert!(taken.len() < 4096 - 4096 / 16, "{}", taken.len());
        let few: Vec<_> = (0..40).map(|_| places.take(source(200))).collect();
        assert!(few.iter().all(Option::is_some), "of {} taken", taken.len());
    }

    #[test]
    fn many_sources_that_want_little_have_all_but_a_few_places() {
        let places = Places::new(1000);
        let of = |number: u16| IpAddr::from([10, 0, (number >> 8) as u8, (number & 0xff) as u8]);
        let taken: Vec<_> = (0..1000).map_while(|number| places.take(of(number))).collect();
        assert_eq!(taken.len(), 1000);
        assert!(places.take(source(1)).is_none(), "the house is full");
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() {
        let places = Places::new(4);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = places.take(parse("2001:db8::1"));
        let two = places.take(parse("2001:db8::2"));
        assert!(one.is_some() && two.is_some());
        assert!(places.take(parse("2001:db8::3")).is_none());
        let mapped = places.take(parse("::ffff:192.0.2.1"));
        assert!(mapped.is_some());
        assert!(places.take(source(1)).is_none(), "that address has one");
    }

    #[test]
    fn what_is_closed_is_counted_and_told_now_and_then() {
        let (mut closed, begin) = (Closed::default(), Instant::now());
        assert_eq!(closed.note(begin), Some(1));
        for _ in 0..100 {
            assert_eq!(closed.note(begin + LOG_INTERVAL / 2), None);
        }
        assert_eq!(closed.note(begin + LOG_INTERVAL), Some(101));
        assert_eq!(closed.note(begin + LOG_INTERVAL), None);
    }
}
