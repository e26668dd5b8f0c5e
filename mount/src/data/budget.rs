//! The bound on dirty bytes of the whole mount.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flexfs_common::{Code, Error, Result};
use tokio::sync::{Notify, Semaphore};

use crate::session::MetaSession;

/// Below this a mount would write block by block, each waiting for the last.
const MAX_LEAST: u64 = 8 * 1024 * 1024;

/// Bytes that may be dirty; writers wait for them, first come, first served.
#[derive(Debug)]
pub(super) struct Budget {
    permits: Semaphore,
    max: u64,
    /// Bytes given back so far: shows whether anything moves.
    released: AtomicU64,
    waiting: AtomicUsize,
}

impl Budget {
    pub(super) fn new(max: u64) -> Budget {
        let max = max.clamp(MAX_LEAST, u64::from(u32::MAX));
        Budget {
            permits: Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX)),
            max,
            released: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Most bytes of one [`Budget::charge`].
    pub(super) fn chunk_max(&self) -> usize {
        usize::try_from(self.max / 4).unwrap_or(usize::MAX)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        let left = u64::try_from(self.permits.available_permits()).unwrap_or(0);
        self.max.saturating_sub(left)
    }

    /// Somebody waits: everything has to go.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes `bytes`; wakes the flusher and waits when there are not as many.
    ///
    /// # Errors
    /// The session's end; `FS_IO` when nothing was written back for the
    /// session's wait limit.
    pub(super) async fn charge(
        &self,
        bytes: usize,
        session: &MetaSession,
        flusher: &Notify,
    ) -> Result<()> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permits) = self.permits.try_acquire_many(bytes) {
            permits.forget();
            return Ok(());
        }
        let _waiting = Waiting::new(&self.waiting);
        flusher.notify_one();
        let permits = self.permits.acquire_many(bytes);
        tokio::pin!(permits);
        loop {
            let before = self.released.load(Ordering::Acquire);
            tokio::select! {
                biased;
                error = session.ended() => return Err(error),
                permits = &mut permits => {
                    let closed = |_| Error::new(Code::Internal, "the mount has ended");
                    permits.map_err(closed)?.forget();
                    return Ok(());
                }
                () = tokio::time::sleep(session.wait_limit()) => {
                    if self.released.load(Ordering::Acquire) == before {
                        return Err(Error::new(Code::FsIo, "nothing can be written back"));
                    }
                }
            }
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.released.fetch_add(bytes, Ordering::AcqRel);
            self.permits.add_permits(usize::try_from(bytes).unwrap_or(0));
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
