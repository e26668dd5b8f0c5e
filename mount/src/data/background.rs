//! The flusher: full blocks at once, everything else when it is old enough
//! or when writers wait.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flexfs_common::limits;

use super::flush::How;
use super::{Core, FileData};

/// Files flushed at once.
const PARALLEL: usize = 32;

/// Runs until the data plane is gone.
pub(super) async fn run(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let next = strong.start_due();
        let stop = strong.stop.clone();
        let flusher = Arc::clone(&strong.flusher);
        drop(strong);
        tokio::select! {
            () = stop.cancelled() => return,
            () = flusher.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

impl Core {
    /// Starts a flush of every file that is due; when to look again.
    fn start_due(self: &Arc<Self>) -> Duration {
        let files: Vec<Arc<FileData>> = self.dirty_files.lock().values().cloned().collect();
        let (now, short) = (Instant::now(), self.budget.is_short());
        let mut next = limits::WRITE_BACK_AGE;
        for file in files {
            let Ok(permit) = Arc::clone(&self.flushes).try_acquire_owned() else {
                // The one that ends first wakes us.
                return next;
            };
            let Some(full_only) = file.due(now, short, &mut next) else { continue };
            let flusher = Arc::clone(&self.flusher);
            tokio::spawn(async move {
                // Kept for the opens, and logged.
                let _ = file.flush_now(How { full_only, ..How::ALL }).await;
                file.state.lock().flushing = false;
                drop(permit);
                flusher.notify_one();
            });
        }
        next
    }

    pub(super) const fn parallel_flushes() -> usize {
        PARALLEL
    }
}

impl FileData {
    /// Is it time? Then whether only its full blocks go. Shortens `next` to
    /// when it will be.
    fn due(&self, now: Instant, short: bool, next: &mut Duration) -> Option<bool> {
        let mut state = self.state.lock();
        let since = state.dirty_since?;
        if state.flushing {
            return None;
        }
        let age = now.saturating_duration_since(since);
        let old = age >= limits::WRITE_BACK_AGE;
        // A file that finds no room is tried again at its age, not at once.
        let early = state.dirty.has_full_block() || short;
        let may_be_early = state.full.is_none() && !state.backing_off(now);
        if !(old || early && may_be_early) {
            *next = (*next).min(limits::WRITE_BACK_AGE.saturating_sub(age));
            return None;
        }
        state.flushing = true;
        Some(!old && !short)
    }
}
