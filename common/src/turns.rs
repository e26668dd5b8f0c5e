//! Turns of strangers: how many may be at the door at once, in all and of one
//! source, so that one source cannot keep all others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Sources = Arc<Mutex<HashMap<u128, Arc<Semaphore>>>>;

/// A source as it is counted: an address; an IPv6 host has a whole /64.
#[must_use]
pub fn source_key(from: IpAddr) -> u128 {
    match from.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

/// Hands out turns.
#[derive(Debug)]
pub struct Turns {
    all: Arc<Semaphore>,
    of_source: usize,
    // An entry lives while somebody of its source waits or has a turn: never
    // more of them than connections.
    sources: Sources,
}

/// A turn; dropped, it is over.
#[derive(Debug)]
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _own: Place,
}

#[derive(Debug)]
struct Place {
    key: u128,
    line: Option<Arc<Semaphore>>,
    turn: Option<OwnedSemaphorePermit>,
    sources: Sources,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.sources.lock();
        self.turn = None;
        self.line = None;
        // The last one of a source takes its entry away.
        if sources.get(&self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            sources.remove(&self.key);
        }
    }
}

impl Turns {
    /// So many at once, and so many of them of one source.
    #[must_use]
    pub fn new(all: usize, of_source: usize) -> Turns {
        Turns { all: Arc::new(Semaphore::new(all)), of_source, sources: Sources::default() }
    }

    /// Waits for a turn: first among those of the same source. `None` never
    /// happens; there is no end of turns.
    pub async fn next(&self, from: IpAddr) -> Option<Turn> {
        let key = source_key(from);
        let line = {
            let mut sources = self.sources.lock();
            let line = || Arc::new(Semaphore::new(self.of_source));
            Arc::clone(sources.entry(key).or_insert_with(line))
        };
        let sources = Arc::clone(&self.sources);
        let mut own = Place { key, line: Some(Arc::clone(&line)), turn: None, sources };
        own.turn = Some(line.acquire_owned().await.ok()?);
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The turn, if it is there without waiting.
    fn take(turns: &Turns, from: IpAddr) -> Option<Turn> {
        match pin!(turns.next(from)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => turn,
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_source_leaves_turns_for_the_others() {
        let turns = Turns::new(4, 2);
        let (one, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let take = |from| take(&turns, from);
        let (first, second) = (take(one), take(one));
        assert!(first.is_some() && second.is_some());
        assert!(take(one).is_none(), "its share is taken");
        let third = take(other);
        assert!(third.is_some(), "another source is not concerned");
        drop(first);
        assert!(take(one).is_some());
        drop((second, third));
        assert!(turns.sources.lock().is_empty(), "nothing is left behind");
        assert_eq!(turns.all.available_permits(), 4);
    }
}
