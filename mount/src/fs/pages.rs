//! Pages that the kernel was given of open files. Who reads asks for
//! attributes first, but who has a page mapped asks nobody: as long as a file
//! is open, meta has to tell before another changes it. Its rights last a
//! lease, and it grants none while others change the file often. So each file
//! is looked at again, in time: then its right goes on, or its pages go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::Code;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::FileSystem;

/// How often files are looked at that nobody would tell us about. A little
/// longer than meta grants nothing after a change (`QUIET` in
/// `meta/src/volume/rights.rs`).
const LOOK: Duration = Duration::from_millis(1050);
/// A right is asked for anew when no more than this is left of it.
const AHEAD: Duration = Duration::from_secs(3);
/// Files looked at, so that a mount with very many open asks meta no more than
/// some hundred times a second. Mappings of others follow when they are opened
/// again, and within a lease of having been read.
const FILES_MAX: usize = 4096;
/// Looks at once. One may take long: the file's writer was killed, or its pages
/// are being read from a store that does not answer.
const PARALLEL: usize = 256;

/// The open files whose pages the kernel may have.
#[derive(Debug, Default)]
pub(super) struct ReadPages {
    /// The kernel's numbers, and whether a look is under way.
    inos: Mutex<HashMap<u64, bool>>,
    wake: Notify,
}

impl ReadPages {
    /// The kernel is about to be given pages of an open file.
    pub(super) fn read(&self, ino: u64) {
        let mut inos = self.inos.lock();
        if inos.contains_key(&ino) || inos.len() >= FILES_MAX {
            return;
        }
        let first = inos.is_empty();
        inos.insert(ino, false);
        drop(inos);
        if first {
            self.wake.notify_one();
        }
    }

    /// The kernel is about to drop its pages of a file: what it is given from
    /// now on counts again.
    fn forget(&self, ino: u64) {
        self.inos.lock().remove(&ino);
    }

    /// Those to look at now: looks at them are under way from here.
    fn due(&self) -> Vec<u64> {
        let mut inos = self.inos.lock();
        let due = inos.iter_mut().filter(|(_, looking)| !**looking);
        due.map(|(ino, looking)| {
            *looking = true;
            *ino
        })
        .collect()
    }

    fn looked_at(&self, ino: u64) {
        if let Some(looking) = self.inos.lock().get_mut(&ino) {
            *looking = false;
        }
    }

    fn is_empty(&self) -> bool {
        self.inos.lock().is_empty()
    }
}

/// Looks at what was read and is still open, for as long as there is a mount.
pub async fn watch(fs: Arc<FileSystem>) {
    let places = Arc::new(Semaphore::new(PARALLEL));
    loop {
        if fs.pages.is_empty() {
            fs.pages.wake.notified().await;
        }
        let open: Arc<[u64]> = fs.handles.open_inodes().into();
        for ino in fs.pages.due() {
            let (fs, places, open) = (Arc::clone(&fs), Arc::clone(&places), Arc::clone(&open));
            // By itself: the others do not wait for a slow one.
            tokio::spawn(async move {
                // Never closed.
                let _place = places.acquire_owned().await;
                fs.look_at_pages(ino, &open).await;
                fs.pages.looked_at(ino);
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl FileSystem {
    /// A recall has made these pages old, and the kernel is about to drop them:
    /// what it is given from now on counts again.
    pub fn pages_recalled(&self, inos: &[u64]) {
        inos.iter().for_each(|ino| self.pages.forget(*ino));
    }

    /// They were in use, and some may be left.
    pub fn pages_in_use(&self, inos: &[u64]) {
        inos.iter().for_each(|ino| self.pages.read(*ino));
    }

    /// Looks at one of the files, if nobody would tell us of a change before
    /// the next look. `open` are those that are open, in order.
    async fn look_at_pages(&self, ino: u64, open: &[u64]) {
        let data = match self.data.get(self.inodes.meta_ino(ino)) {
            // A mapping keeps its file open.
            Some(data) if open.binary_search(&ino).is_ok() => data,
            _ => return self.pages.forget(ino),
        };
        match data.look_again(AHEAD).await {
            Ok(()) => {}
            // It is gone, or no longer in the scope.
            Err(error) if error.code() == Code::FsStale => return self.pages.forget(ino),
            // No lease, no pages: they were dropped with it. Else it is tried
            // again.
            Err(error) => {
                tracing::debug!(ino, "an open file could not be looked at: {error}");
                return;
            }
        }
        if let Some(stale) = data.stale_pages() {
            self.pages.forget(ino);
            self.drop_old_pages(ino).await;
            data.pages_dropped(stale);
        }
    }
}
