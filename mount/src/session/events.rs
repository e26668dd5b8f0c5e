//! Events for the file system: handed over without ever holding up the
//! connection, because handling one may need answers from it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::SessionEvent;

/// Recalls that wait for the file system. One beyond is dropped: meta then
/// waits until our lease on these inodes has ended, which is slow and right.
const QUEUE_MAX: usize = 4096;
/// Other events: few, and of few kinds.
const QUEUE_HARD_MAX: usize = QUEUE_MAX + 256;

#[derive(Debug, Default)]
pub(super) struct Events {
    queue: Mutex<VecDeque<SessionEvent>>,
    wake: Notify,
}

impl Events {
    pub(super) fn push(&self, event: SessionEvent) {
        let mut queue = self.queue.lock();
        let max = match event {
            SessionEvent::Recall(_) => QUEUE_MAX,
            SessionEvent::Cut(_)
            | SessionEvent::LeaseLost
            | SessionEvent::LeaseBack
            | SessionEvent::FlagsChanged(_) => QUEUE_HARD_MAX,
        };
        // A cut is the last event and must arrive.
        if queue.len() >= max && !matches!(event, SessionEvent::Cut(_)) {
            tracing::warn!(?event, "too many events wait; dropped");
            return;
        }
        queue.push_back(event);
        drop(queue);
        self.wake.notify_one();
    }

    /// Moves events to the receiver until it is gone.
    pub(super) async fn pump(self: Arc<Self>, sender: mpsc::Sender<SessionEvent>) {
        loop {
            let next = self.queue.lock().pop_front();
            match next {
                Some(event) => {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                None => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = sender.closed() => return,
                    }
                }
            }
        }
    }
}
