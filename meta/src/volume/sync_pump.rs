//! Waiting for stable storage without holding a thread per waiter: one
//! blocking task syncs for all who wait, as long as any does.

use std::sync::Arc;

use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::engine::{CommitVersion, Engine};

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(CommitVersion, oneshot::Sender<bool>)>,
    running: bool,
}

/// The waiters of one volume. Their number is bounded by the operations in
/// flight of its sessions.
#[derive(Debug)]
pub(super) struct SyncPump {
    engine: Arc<dyn Engine>,
    state: Mutex<State>,
}

impl SyncPump {
    pub(super) fn new(engine: Arc<dyn Engine>) -> SyncPump {
        SyncPump { engine, state: Mutex::default() }
    }

    /// Everything up to `version` survives power loss when this returns. Must
    /// be polled in a tokio runtime.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub(super) async fn wait(self: Arc<SyncPump>, version: CommitVersion) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut state = self.state.lock();
            state.waiting.push((version, sender));
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            let pump = Arc::clone(&self);
            tokio::task::spawn_blocking(move || pump.run());
        }
        match receiver.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Error::bare(Code::EngineFailed)),
        }
    }

    fn run(&self) {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let latest = waiting.iter().map(|(version, _)| *version).max().unwrap_or_default();
            flexfs_common::failpoint!("meta-sync-before");
            let done = match self.engine.sync(latest) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(error = error.with_causes(), "sync failed");
                    false
                }
            };
            flexfs_common::failpoint!("meta-sync-after");
            for (_, sender) in waiting {
                // A waiter that went away needs no answer.
                let _ = sender.send(done);
            }
        }
    }
}
