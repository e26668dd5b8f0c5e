//! Decoded frames of objects: a cache in memory, one download at a time per
//! part of an object, and how much of an object to download.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::extents::ObjectRef;
use super::transfer::Transfer;
use crate::codec::{self, FRAME_LEN, ObjectHead};
use crate::session::clone_error;

/// Heads kept: each some hundred bytes.
const HEADS_MAX: usize = 16 * 1024;
/// An object of so few frames is always downloaded whole.
const SMALL_FRAMES: usize = 4;
/// Without knowing the table: what is worth downloading from the start to
/// save a round trip.
const GUESS_FRAMES: usize = 8;

type FrameKey = (ObjectId, u32);

#[derive(Clone, Debug)]
struct FrameWeight;

impl Weighter<FrameKey, Bytes> for FrameWeight {
    fn weight(&self, _key: &FrameKey, frame: &Bytes) -> u64 {
        // 64: the entry itself. Never 0, which would count as weightless.
        u64::try_from(frame.len()).unwrap_or(u64::MAX).saturating_add(64)
    }
}

/// Consecutive frames of one object.
#[derive(Debug)]
struct Fetched {
    first: usize,
    frames: Vec<Bytes>,
}

type Outcome = Result<Arc<Fetched>, Arc<Error>>;

/// A download that has begun.
#[derive(Clone)]
struct Flight {
    number: u64,
    frames: Range<usize>,
    outcome: Shared<BoxFuture<'static, Outcome>>,
}

#[derive(Default)]
struct Flights {
    next: u64,
    by_object: HashMap<ObjectId, Vec<Flight>>,
}

/// Objects, as readers see them.
pub(super) struct Blocks {
    transfer: Arc<Transfer>,
    frames: Cache<FrameKey, Bytes, FrameWeight>,
    heads: Cache<ObjectId, Arc<ObjectHead>>,
    flights: Mutex<Flights>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("cached", &self.frames.weight()).finish_non_exhaustive()
    }
}

impl Blocks {
    pub(super) fn new(transfer: Arc<Transfer>, capacity: u64) -> Blocks {
        let items = usize::try_from(capacity / (FRAME_LEN as u64)).unwrap_or(usize::MAX);
        Blocks {
            transfer,
            frames: Cache::with_weighter(items.clamp(16, 1 << 20), capacity, FrameWeight),
            heads: Cache::new(HEADS_MAX),
            flights: Mutex::new(Flights::default()),
        }
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.frames.weight()
    }

    pub(super) fn clear(&self) {
        self.frames.clear();
        self.heads.clear();
    }

    fn cached(&self, object: ObjectId, frame: usize) -> Option<Bytes> {
        self.frames.get(&(object, u32::try_from(frame).ok()?))
    }

    /// Are all these frames in memory? (For prefetch: does not count as use.)
    pub(super) fn has(&self, object: ObjectId, frames: Range<usize>) -> bool {
        frames.into_iter().all(|frame| {
            u32::try_from(frame).is_ok_and(|frame| self.frames.contains_key(&(object, frame)))
        })
    }

    /// The frames `wanted` of an object, in order; `whole` downloads all of
    /// it when anything is missing.
    ///
    /// # Errors
    /// `BLOCK_REFUSED` (the URL has run out), `BLOCK_CORRUPT`,
    /// `BLOCK_UNAVAILABLE`, the session's.
    pub(super) async fn frames(
        self: &Arc<Self>,
        object: &ObjectRef,
        wanted: Range<usize>,
        whole: bool,
    ) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> =
            wanted.clone().map(|frame| self.cached(object.id, frame)).collect();
        loop {
            let missing = |slot: &Option<Bytes>| slot.is_none();
            let (Some(first), Some(last)) =
                (found.iter().position(missing), found.iter().rposition(missing))
            else {
                return Ok(found.into_iter().flatten().collect());
            };
            let missing = wanted.start + first..wanted.start + last + 1;
            let outcome = self.flight(object, missing.clone(), whole);
            let fetched = outcome.await.map_err(|error| clone_error(&error))?;
            let mut progress = false;
            for (frame, bytes) in (fetched.first..).zip(&fetched.frames) {
                let place = frame.checked_sub(wanted.start).and_then(|at| found.get_mut(at));
                if let Some(place @ None) = place {
                    *place = Some(bytes.clone());
                    progress = true;
                }
            }
            if !progress {
                // A flight always covers the first missing frame.
                return Err(Error::new(Code::Internal, "a download without the frames asked for"));
            }
        }
    }

    /// The running download that covers the first missing frame, or a new one.
    fn flight(
        self: &Arc<Self>,
        object: &ObjectRef,
        missing: Range<usize>,
        whole: bool,
    ) -> Shared<BoxFuture<'static, Outcome>> {
        let count = codec::frame_count(object.plain_len);
        let half = missing.len().saturating_mul(2) >= count;
        let frames =
            if whole || count <= SMALL_FRAMES || half { 0..count } else { missing.clone() };
        let mut flights = self.flights.lock();
        let running = flights.by_object.get(&object.id).and_then(|running| {
            running.iter().find(|flight| flight.frames.contains(&missing.start))
        });
        if let Some(flight) = running {
            return flight.outcome.clone();
        }
        flights.next += 1;
        let number = flights.next;
        let (blocks, object, range) = (Arc::clone(self), object.clone(), frames.clone());
        let id = object.id;
        // A task of its own: a reader that is interrupted does not take the
        // download from the others.
        let task = tokio::spawn(async move {
            let outcome = blocks.fetch(&object, range).await;
            blocks.landed(object.id, number);
            outcome.map(Arc::new).map_err(Arc::new)
        });
        let outcome = async move {
            task.await.unwrap_or_else(|e| Err(Arc::new(Error::bare(Code::Internal).caused_by(e))))
        };
        let flight = Flight { number, frames, outcome: outcome.boxed().shared() };
        flights.by_object.entry(id).or_default().push(flight.clone());
        flight.outcome
    }

    fn landed(&self, object: ObjectId, number: u64) {
        let mut flights = self.flights.lock();
        if let Some(running) = flights.by_object.get_mut(&object) {
            running.retain(|flight| flight.number != number);
            if running.is_empty() {
                flights.by_object.remove(&object);
            }
        }
    }

    async fn fetch(&self, object: &ObjectRef, wanted: Range<usize>) -> Result<Fetched> {
        let count = codec::frame_count(object.plain_len);
        let fetched = if wanted == (0..count) {
            self.fetch_whole(object).await?
        } else {
            self.fetch_part(object, wanted).await?
        };
        for (frame, bytes) in (fetched.first..).zip(&fetched.frames) {
            if let Ok(frame) = u32::try_from(frame) {
                self.frames.insert((object.id, frame), bytes.clone());
            }
        }
        Ok(fetched)
    }

    async fn fetch_whole(&self, object: &ObjectRef) -> Result<Fetched> {
        let max = codec::stored_max(object.plain_len);
        let stored = self.transfer.get(object.id, &object.url, None, max).await?;
        let head = self.learn(object, &stored)?;
        let frames = decode(Arc::clone(&head), 0..head.frames().len(), stored, true).await?;
        Ok(Fetched { first: 0, frames })
    }

    async fn fetch_part(&self, object: &ObjectRef, wanted: Range<usize>) -> Result<Fetched> {
        let head = match self.heads.get(&object.id) {
            Some(head) => head,
            None if wanted.end <= GUESS_FRAMES => {
                return self.fetch_start(object, wanted.end).await;
            }
            None => {
                let length = codec::head_len(object.plain_len);
                let range = 0..u64::try_from(length).unwrap_or(u64::MAX);
                let stored = self.transfer.get(object.id, &object.url, Some(range), length).await?;
                self.learn(object, &stored)?
            }
        };
        let range = head.stored_range(wanted.clone())?;
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let stored = self.transfer.get(object.id, &object.url, Some(range), length).await?;
        let frames = decode(head, wanted.clone(), stored, false).await?;
        Ok(Fetched { first: wanted.start, frames })
    }

    /// Head and the first frames in one request: as many bytes as they can
    /// have at most, which may bring more frames than asked for.
    async fn fetch_start(&self, object: &ObjectRef, end: usize) -> Result<Fetched> {
        let length = codec::head_len(object.plain_len) + end * FRAME_LEN;
        let range = 0..u64::try_from(length).unwrap_or(u64::MAX);
        let stored = self.transfer.get(object.id, &object.url, Some(range), length).await?;
        let head = self.learn(object, &stored)?;
        let arrived = stored.len() as u64;
        let complete = head
            .frames()
            .iter()
            .take_while(|frame| frame.offset + u64::from(frame.stored_len) <= arrived)
            .count();
        let frames = decode(head, 0..complete.max(end), stored, true).await?;
        Ok(Fetched { first: 0, frames })
    }

    fn learn(&self, object: &ObjectRef, stored: &[u8]) -> Result<Arc<ObjectHead>> {
        let head = Arc::new(ObjectHead::parse(object.id, stored, object.plain_len)?);
        self.heads.insert(object.id, Arc::clone(&head));
        Ok(head)
    }
}

/// Decodes off the async workers when it is more than a few frames.
/// `from_start`: `stored` begins with the object's head; bytes behind the
/// frames asked for are allowed only when the object goes on there.
async fn decode(
    head: Arc<ObjectHead>,
    frames: Range<usize>,
    stored: Bytes,
    from_start: bool,
) -> Result<Vec<Bytes>> {
    let cpu_bound = frames.len() > SMALL_FRAMES;
    let work = move || {
        if !from_start {
            return head.decode_frames(frames, stored);
        }
        let whole = frames.end == head.frames().len();
        if whole && stored.len() as u64 != head.stored_len() {
            return Err(head.wrong_length());
        }
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let range = head.stored_range(frames.clone())?;
        let bounds = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        if bounds(range.end) > stored.len() {
            return Err(head.wrong_length());
        }
        head.decode_frames(frames, stored.slice(bounds(range.start)..bounds(range.end)))
    };
    if !cpu_bound {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::bare(Code::Internal).caused_by(e))?
}
