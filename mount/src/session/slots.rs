//! The mutation slots of a session: each holds one unanswered mutation and
//! counts its own sequence.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A slot in use: dropping the permit lets the next mutation have one.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: u32,
    pub(super) sequence: u64,
    _permit: OwnedSemaphorePermit,
}

/// All slots of the session.
#[derive(Debug)]
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A stack, so that a quiet mount stays in few slots.
    free: Vec<u32>,
    /// Last sequence given out per slot.
    sequences: Vec<u64>,
}

impl Slots {
    pub(super) fn new(count: u32) -> Slots {
        let length = usize::try_from(count).unwrap_or(1);
        Slots {
            permits: Arc::new(Semaphore::new(length)),
            inner: Mutex::new(Inner {
                free: (0..count).rev().collect(),
                sequences: vec![0; length],
            }),
        }
    }

    /// Waits for the right to a slot; first come, first served. `None` never
    /// happens while the session lives: the semaphore is not closed.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Turns the right into a slot with its next sequence.
    pub(super) fn take(&self, permit: OwnedSemaphorePermit) -> Option<Slot> {
        let mut inner = self.inner.lock();
        let index = inner.free.pop()?;
        let last = inner.sequences.get_mut(usize::try_from(index).ok()?)?;
        *last += 1;
        Some(Slot { index, sequence: *last, _permit: permit })
    }

    /// The mutation of this slot was answered.
    pub(super) fn give_back(&self, slot: Slot) {
        self.inner.lock().free.push(slot.index);
        drop(slot);
    }

    /// The mutation of this slot will not be sent (again); the next one
    /// follows `last`.
    pub(super) fn give_back_at(&self, slot: Slot, last: u64) {
        let mut inner = self.inner.lock();
        let index = usize::try_from(slot.index).unwrap_or(usize::MAX);
        if let Some(sequence) = inner.sequences.get_mut(index) {
            *sequence = last;
        }
        inner.free.push(slot.index);
        drop(inner);
        drop(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sequences_rise_per_slot_and_a_full_house_waits() {
        let slots = Slots::new(2);
        let first = slots.take(slots.permit().await.unwrap()).unwrap();
        let second = slots.take(slots.permit().await.unwrap()).unwrap();
        assert_eq!((first.index, first.sequence), (0, 1));
        assert_eq!((second.index, second.sequence), (1, 1));
        assert_eq!(slots.permits.available_permits(), 0);
        slots.give_back(first);
        let again = slots.take(slots.permit().await.unwrap()).unwrap();
        assert_eq!((again.index, again.sequence), (0, 2));
        slots.give_back_at(again, 1);
        let third = slots.take(slots.permit().await.unwrap()).unwrap();
        assert_eq!((third.index, third.sequence), (0, 2), "the unsent sequence is used again");
    }
}
