//! How the connection to admin's feed is.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use flexfs_common::Code;
use parking_lot::Mutex;

/// States of the feed, as `status` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// Events or heartbeats arrive.
    Live,
    /// Nothing has arrived for a while; it is being connected again.
    Silent,
    /// Admin could not be reached.
    Unreachable,
}

impl FeedState {
    /// As printed and sent.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FeedState::Live => "live",
            FeedState::Silent => "silent",
            FeedState::Unreachable => "unreachable",
        }
    }
}

/// Shared, changed by the task that follows the feed.
#[derive(Debug, Default)]
pub struct FeedStatus {
    // 0 = silent, 1 = live, 2 = unreachable.
    state: AtomicU8,
    revision: AtomicU64,
    started: AtomicBool,
    suspended: AtomicBool,
    own_refused: Mutex<Option<Code>>,
}

impl FeedStatus {
    /// How it is.
    #[must_use]
    pub fn state(&self) -> FeedState {
        match self.state.load(Ordering::Acquire) {
            1 => FeedState::Live,
            2 => FeedState::Unreachable,
            _ => FeedState::Silent,
        }
    }

    /// An event or heartbeat arrived; everything up to `revision` is applied.
    pub fn set_live(&self, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        self.state.store(1, Ordering::Release);
    }

    /// Nothing arrives any more.
    pub fn set_silent(&self) {
        self.state.store(0, Ordering::Release);
    }

    /// A connection failed.
    pub fn set_unreachable(&self) {
        // A call that failed while the feed lives says nothing about the feed.
        let not_live = |state| (state != 1).then_some(2);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, not_live);
    }

    /// Everything up to here is applied.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Every volume known at the start is in service.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Is it?
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Operations are refused from now on, or no longer; returns how it was.
    pub fn set_suspended(&self, suspended: bool) -> bool {
        self.suspended.swap(suspended, Ordering::AcqRel)
    }

    /// Is admin away beyond the grace?
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Admin refuses this server's own token, or does no longer.
    pub fn set_own_refused(&self, code: Option<Code>) {
        let mut refused = self.own_refused.lock();
        if *refused != code {
            *refused = code;
            if let Some(code) = code {
                tracing::error!(%code, "admin refuses this server's own token: no new sessions");
            }
        }
    }

    /// Why admin refuses this server's own token, if it does.
    #[must_use]
    pub fn own_refused(&self) -> Option<Code> {
        *self.own_refused.lock()
    }
}
