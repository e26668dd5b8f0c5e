//! The thread that syncs what nobody asked to sync, at most a second late:
//! what a power loss may take from programs that never call fsync.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use flexfs_common::{Code, Error, Result};
use parking_lot::{Condvar, Mutex};

/// How long a commit may stay unsynced.
pub(super) const SYNC_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    dirty: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Calls its work a while after each commit; ends when dropped.
#[derive(Debug)]
pub(super) struct BackgroundSync {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundSync {
    /// # Errors
    /// `ENGINE_FAILED` when no thread can be made.
    pub(super) fn start(
        after: Duration,
        mut sync: impl FnMut() + Send + 'static,
    ) -> Result<BackgroundSync> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("engine-sync".to_owned())
            .spawn(move || {
                while theirs.wait_for_work(after) {
                    sync();
                }
            })
            .map_err(|e| Error::new(Code::EngineFailed, "no thread for syncing").caused_by(e))?;
        Ok(BackgroundSync { shared, thread: Some(thread) })
    }

    /// Something was committed.
    pub(super) fn wake(&self) {
        let mut state = self.shared.state.lock();
        if !state.dirty {
            state.dirty = true;
            self.shared.changed.notify_all();
        }
    }
}

impl Shared {
    /// Waits for a commit, then until `after` has passed. False at the end.
    fn wait_for_work(&self, after: Duration) -> bool {
        let mut state = self.state.lock();
        while !state.dirty && !state.stop {
            self.changed.wait(&mut state);
        }
        let until = std::time::Instant::now() + after;
        while !state.stop && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.dirty = false;
        !state.stop
    }
}

impl Drop for BackgroundSync {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the runtime; nothing to add.
            let _ = thread.join();
        }
    }
}
