//! Who may ask admin when many want to: a flood must not keep good mounts
//! waiting.
//!
//! There are two lanes: of tokens that were admitted before from their
//! address, and of all others. In each a source has a part of the permits and
//! of the places to wait, in the order of its coming: one source, whatever
//! tokens it has, delays and refuses only what comes from itself in the same
//! lane. Many sources together can fill a lane, never the other one: the lane
//! of known tokens only with tokens that admin has taken from as many sources.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use flexfs_common::{Code, Error, Result, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions to admin at one time, in each lane.
const LANE_MAX: usize = 32;
/// Of these, from one source.
const SOURCE_MAX: usize = 8;
/// Questions of a lane that run or wait, some KiB each.
const WAITING_MAX: usize = 4096;
/// Of these, about unknown tokens of one source: at a millisecond each they
/// are through long before the wait is over.
const UNKNOWN_SOURCE_WAITING_MAX: usize = 512;
/// And about known ones: a source may be a network full of honest mounts,
/// which all come when this server has forgotten what admin said.
const KNOWN_SOURCE_WAITING_MAX: usize = 1024;

/// One machine, as far as an address can tell: who has an IPv6 address has
/// the /64 it lies in.
fn source_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

/// What is taken is given back when this is dropped.
#[derive(Debug)]
pub struct Seat {
    lane: Arc<Lane>,
    source: IpAddr,
    _permits: Vec<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Source {
    permits: Arc<Semaphore>,
    seats: usize,
}

#[derive(Debug, Default)]
struct Inner {
    sources: HashMap<IpAddr, Source>,
    /// Of all sources.
    seats: usize,
}

#[derive(Debug)]
struct Lane {
    inner: Mutex<Inner>,
    permits: Arc<Semaphore>,
    /// Seats of one source.
    source_max: usize,
}

/// All who ask or wait to.
#[derive(Debug)]
pub struct Lanes {
    known: Arc<Lane>,
    unknown: Arc<Lane>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            known: Lane::new(KNOWN_SOURCE_WAITING_MAX),
            unknown: Lane::new(UNKNOWN_SOURCE_WAITING_MAX),
        }
    }
}

impl Lanes {
    /// A permit to ask admin; `known` = the very token was admitted before
    /// from this address.
    ///
    /// # Errors
    /// `RATE_LIMITED` when too many wait, or it took too long.
    pub async fn enter(&self, peer: IpAddr, known: bool) -> Result<Seat> {
        let lane = if known { &self.known } else { &self.unknown };
        let source = source_of(peer);
        let own = lane.sit(source)?;
        let mut seat = Seat { lane: Arc::clone(lane), source, _permits: Vec::new() };
        // Its own part first: who waits there holds nothing of the others'.
        let permits = async {
            let own = own.acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>(vec![
                own,
                Arc::clone(&lane.permits).acquire_owned().await?,
            ])
        };
        seat._permits = tokio::time::timeout(limits::HANDSHAKE, permits)
            .await
            .map_err(|_| Error::bare(Code::RateLimited))?
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
        Ok(seat)
    }
}

impl Lane {
    fn new(source_max: usize) -> Arc<Lane> {
        let permits = Arc::new(Semaphore::new(LANE_MAX));
        Arc::new(Lane { inner: Mutex::default(), permits, source_max })
    }

    /// A place among those who wait: the permits of the source.
    fn sit(&self, source: IpAddr) -> Result<Arc<Semaphore>> {
        let mut inner = self.inner.lock();
        if inner.seats >= WAITING_MAX {
            return Err(Error::bare(Code::RateLimited));
        }
        let own = inner
            .sources
            .entry(source)
            .or_insert_with(|| Source { permits: Arc::new(Semaphore::new(SOURCE_MAX)), seats: 0 });
        if own.seats >= self.source_max {
            return Err(Error::bare(Code::RateLimited));
        }
        own.seats += 1;
        let permits = Arc::clone(&own.permits);
        inner.seats += 1;
        Ok(permits)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.lane.inner.lock();
        inner.seats = inner.seats.saturating_sub(1);
        if let Some(own) = inner.sources.get_mut(&self.source) {
            own.seats = own.seats.saturating_sub(1);
            if own.seats == 0 {
                inner.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Of its kind, all that one source may have; then it alone is refused.
    async fn flooded(known: bool, waiting_max: usize) {
        let lanes = Lanes::default();
        let flood = address("10.0.0.1");
        let mut held = Vec::new();
        for _ in 0..SOURCE_MAX {
            held.push(lanes.enter(flood, known).await.unwrap());
        }
        let mut waiting: Vec<_> =
            (SOURCE_MAX..waiting_max).map(|_| Box::pin(lanes.enter(flood, known))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        let refused = lanes.enter(flood, known).now_or_never().expect("no place left");
        assert_eq!(refused.unwrap_err().code(), Code::RateLimited);
        // Others, and its tokens of the other kind, go on.
        let _other = lanes.enter(address("10.0.0.2"), known).now_or_never().unwrap().unwrap();
        let _lane = lanes.enter(flood, !known).now_or_never().unwrap().unwrap();
        // In the order of their coming.
        held.pop();
        assert!(waiting[1].as_mut().now_or_never().is_none());
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_flood_delays_its_own_source_alone() {
        flooded(false, UNKNOWN_SOURCE_WAITING_MAX).await;
    }

    #[tokio::test]
    async fn a_flood_of_known_tokens_delays_its_own_source_alone() {
        flooded(true, KNOWN_SOURCE_WAITING_MAX).await;
    }

    #[tokio::test]
    async fn what_was_taken_is_given_back() {
        let lanes = Lanes::default();
        for (known, lane) in [(false, &lanes.unknown), (true, &lanes.known)] {
            let one = lanes.enter(address("2001:db8::1"), known).await.unwrap();
            let two = lanes.enter(address("2001:db8::2:1"), known).await.unwrap();
            assert_eq!(lane.inner.lock().sources.len(), 1, "one /64 is one source");
            // Somebody who gave up while waiting leaves nothing behind.
            let mut held = Vec::new();
            for n in 0..LANE_MAX - 2 {
                let source = address(&format!("10.1.0.{n}"));
                held.push(lanes.enter(source, known).await.unwrap());
            }
            assert!(lanes.enter(address("10.2.0.1"), known).now_or_never().is_none());
            drop((one, two, held));
            let inner = lane.inner.lock();
            assert_eq!((inner.sources.len(), inner.seats), (0, 0));
            assert_eq!(lane.permits.available_permits(), LANE_MAX);
        }
    }
}
