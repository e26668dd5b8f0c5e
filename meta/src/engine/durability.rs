//! Which commits survive power loss: concurrent callers share one sync, one
//! of them (the leader) does it, the others wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flexfs_common::{Code, Error, Result};
use parking_lot::{Condvar, Mutex};

use super::CommitVersion;

#[derive(Debug, Default)]
struct State {
    synced: u64,
    leader: bool,
}

/// The latest commit, the latest synced one, and whether the engine still
/// lives.
#[derive(Debug, Default)]
pub(super) struct Durability {
    committed: AtomicU64,
    poisoned: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Durability {
    /// Everything up to `head` is on disk.
    pub(super) fn new(head: CommitVersion) -> Durability {
        let durability = Durability::default();
        durability.committed.store(head.0, Ordering::Release);
        durability.state.lock().synced = head.0;
        durability
    }

    pub(super) fn committed(&self, version: CommitVersion) {
        self.committed.store(version.0, Ordering::Release);
    }

    pub(super) fn head(&self) -> CommitVersion {
        CommitVersion(self.committed.load(Ordering::Acquire))
    }

    /// After a failed commit or sync nobody knows what is on disk: the engine
    /// refuses everything until it is opened again.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// # Errors
    /// `ENGINE_FAILED` once poisoned.
    pub(super) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(
                Code::EngineFailed,
                "the engine failed before and refuses everything until restart",
            ));
        }
        Ok(())
    }

    /// Blocks until `version` is synced, by this caller's `sync` or another's.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub(super) fn wait(
        &self,
        version: CommitVersion,
        sync: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if version > self.head() {
            return Err(Error::new(Code::EngineFailed, "sync of a version not yet committed"));
        }
        let mut state = self.state.lock();
        loop {
            self.check()?;
            if state.synced >= version.0 {
                return Ok(());
            }
            if state.leader {
                self.changed.wait(&mut state);
                continue;
            }
            state.leader = true;
            // Commits up to here are in the file; later ones may be too.
            let reach = self.head();
            let result = parking_lot::MutexGuard::unlocked(&mut state, &mut *sync);
            match &result {
                Ok(()) => state.synced = state.synced.max(reach.0),
                Err(_) => self.poison(),
            }
            state.leader = false;
            self.changed.notify_all();
            result?;
        }
    }
}
