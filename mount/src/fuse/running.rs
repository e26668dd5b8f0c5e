//! Requests being worked on, so that an interrupt finds its own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// unique → told when the caller got a signal. Bounded by the kernel: each
/// entry is a thread that waits, or one of `MAX_BACKGROUND`.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<u64, Arc<Notify>>>);

impl Running {
    /// A request begins.
    pub(super) fn enter(&self, unique: u64) -> Arc<Notify> {
        let interrupted = Arc::new(Notify::new());
        self.0.lock().insert(unique, Arc::clone(&interrupted));
        interrupted
    }

    /// It is answered.
    pub(super) fn leave(&self, unique: u64) {
        self.0.lock().remove(&unique);
    }

    /// Its caller got a signal. False when it is not known (yet, or any more).
    pub(super) fn interrupt(&self, unique: u64) -> bool {
        match self.0.lock().get(&unique) {
            Some(interrupted) => {
                // Kept until somebody waits: the signal may be first.
                interrupted.notify_one();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupt_reaches_its_request_even_when_it_is_first() {
        let running = Running::default();
        assert!(!running.interrupt(4));
        let interrupted = running.enter(4);
        assert!(running.interrupt(4));
        interrupted.notified().await;
        running.leave(4);
        assert!(!running.interrupt(4));
    }
}
