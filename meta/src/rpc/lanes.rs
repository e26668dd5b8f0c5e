//! Who may ask admin when many want to: a flood of bad tokens must not keep
//! good mounts waiting.
//!
//! Nothing here refuses a token for what another did. Tokens that were admitted
//! before from their address have permits of their own. All others share the
//! rest: those of one source a part of it, in the order of their coming, so
//! that a flood delays its own source alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use flexfs_common::{Code, Error, Result, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions to admin at one time about tokens that were admitted before.
const KNOWN_MAX: usize = 32;
/// Questions to admin at one time about all others.
const UNKNOWN_MAX: usize = 32;
/// Of these, from one source.
const SOURCE_MAX: usize = 8;
/// Questions of one source that run or wait: at a millisecond each they are
/// through long before the wait is over.
const SOURCE_WAITING_MAX: usize = 512;
/// Questions about unknown tokens that run or wait, some KiB each.
const WAITING_MAX: usize = 4096;
/// And about known ones: those come from honest mounts.
const KNOWN_WAITING_MAX: usize = 4096;

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
    lanes: Arc<Lanes>,
    /// `None`: a known token.
    source: Option<IpAddr>,
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
    unknown: usize,
    known: usize,
}

/// All who ask or wait to.
#[derive(Debug)]
pub struct Lanes {
    inner: Mutex<Inner>,
    known: Arc<Semaphore>,
    unknown: Arc<Semaphore>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            inner: Mutex::default(),
            known: Arc::new(Semaphore::new(KNOWN_MAX)),
            unknown: Arc::new(Semaphore::new(UNKNOWN_MAX)),
        }
    }
}

impl Lanes {
    /// A permit to ask admin; `known` = the very token was admitted before
    /// from this address.
    ///
    /// # Errors
    /// `RATE_LIMITED` when too many wait, or it took too long.
    pub async fn enter(self: &Arc<Self>, peer: IpAddr, known: bool) -> Result<Seat> {
        let source = (!known).then(|| source_of(peer));
        let lanes = self.sit(source)?;
        let mut seat = Seat { lanes: Arc::clone(self), source, _permits: Vec::new() };
        let permits = async {
            let mut permits = Vec::with_capacity(lanes.len());
            for lane in lanes {
                permits.push(lane.acquire_owned().await);
            }
            permits.into_iter().collect::<Result<Vec<_>, _>>()
        };
        seat._permits = tokio::time::timeout(limits::HANDSHAKE, permits)
            .await
            .map_err(|_| Error::bare(Code::RateLimited))?
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
        Ok(seat)
    }

    /// A place among those who wait: the semaphores to go through, the
    /// source's own first.
    fn sit(&self, source: Option<IpAddr>) -> Result<Vec<Arc<Semaphore>>> {
        let full = || Err(Error::bare(Code::RateLimited));
        let mut inner = self.inner.lock();
        let Some(address) = source else {
            if inner.known >= KNOWN_WAITING_MAX {
                return full();
            }
            inner.known += 1;
            return Ok(vec![Arc::clone(&self.known)]);
        };
        if inner.unknown >= WAITING_MAX {
            return full();
        }
        let own = inner
            .sources
            .entry(address)
            .or_insert_with(|| Source { permits: Arc::new(Semaphore::new(SOURCE_MAX)), seats: 0 });
        if own.seats >= SOURCE_WAITING_MAX {
            return full();
        }
        own.seats += 1;
        let permits = Arc::clone(&own.permits);
        inner.unknown += 1;
        Ok(vec![permits, Arc::clone(&self.unknown)])
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.lanes.inner.lock();
        let Some(address) = self.source else {
            inner.known = inner.known.saturating_sub(1);
            return;
        };
        inner.unknown = inner.unknown.saturating_sub(1);
        if let Some(own) = inner.sources.get_mut(&address) {
            own.seats = own.seats.saturating_sub(1);
            if own.seats == 0 {
                inner.sources.remove(&address);
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

    #[tokio::test]
    async fn a_flood_delays_its_own_source_alone() {
        let lanes = Arc::new(Lanes::default());
        let flood = address("10.0.0.1");
        let mut held = Vec::new();
        for _ in 0..SOURCE_MAX {
            held.push(lanes.enter(flood, false).await.unwrap());
        }
        let mut waiting: Vec<_> =
            (SOURCE_MAX..SOURCE_WAITING_MAX).map(|_| Box::pin(lanes.enter(flood, false))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        let refused = lanes.enter(flood, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        // Others, and a token of the same machine that was good before, go on.
        let _other = lanes.enter(address("10.0.0.2"), false).now_or_never().unwrap().unwrap();
        let _known = lanes.enter(flood, true).now_or_never().unwrap().unwrap();
        // In the order of their coming.
        held.pop();
        assert!(waiting[1].as_mut().now_or_never().is_none());
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_was_taken_is_given_back() {
        let lanes = Arc::new(Lanes::default());
        let one = lanes.enter(address("2001:db8::1"), false).await.unwrap();
        let two = lanes.enter(address("2001:db8::2:1"), false).await.unwrap();
        let known = lanes.enter(address("10.0.0.1"), true).await.unwrap();
        assert_eq!(lanes.inner.lock().sources.len(), 1, "one /64 is one source");
        // Somebody who gave up while waiting leaves nothing behind.
        let mut held = Vec::new();
        for n in 0..UNKNOWN_MAX - 2 {
            let source = address(&format!("10.1.0.{n}"));
            held.push(lanes.enter(source, false).await.unwrap());
        }
        assert!(lanes.enter(address("10.2.0.1"), false).now_or_never().is_none());
        drop((one, two, known, held));
        let inner = lanes.inner.lock();
        assert_eq!((inner.sources.len(), inner.unknown, inner.known), (0, 0, 0));
        assert_eq!(lanes.unknown.available_permits(), UNKNOWN_MAX);
    }
}
