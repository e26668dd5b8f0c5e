//! Open files: open, flush (close), release, fsync.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::Result;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{Asked, FileSystem, reply};
use crate::caller::Requester;
use crate::handle_table::OpenFile;
use crate::session::MetaSession;

const O_TRUNC: u32 = libc::O_TRUNC as u32;
/// Past the kernel's page cache.
pub(super) const O_DIRECT: u32 = libc::O_DIRECT as u32;

/// How the kernel shall treat an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Through the page cache, which is emptied first.
    Fresh,
    /// Through the page cache as it is: the contents are those of last time.
    KeepCache,
    /// Around the page cache.
    Direct,
}

/// A file was opened.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Its file handle.
    pub fh: u64,
    /// What the kernel does with it.
    pub mode: OpenMode,
}

/// An open as meta granted it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) handle: Bytes,
    pub(super) open_id: u64,
    pub(super) flags: u32,
    pub(super) asked: Asked,
}

impl FileSystem {
    /// open(2) of an existing file; O_TRUNC is carried out.
    ///
    /// # Errors
    /// Meta's.
    pub async fn open(&self, who: Requester, ino: u64, flags: u32) -> Result<Opened> {
        self.report_made(ino).await?;
        let handle = self.inodes.handle(ino)?;
        if flags & O_TRUNC != 0
            && let Some(data) = self.data.get(self.inodes.meta_ino(ino))
        {
            // What was written before the truncation must not arrive after it.
            data.flush(&who.without_groups(), 0, false).await?;
        }
        let mut asked = self.ask();
        let change = (flags & O_TRUNC != 0).then(|| self.freshness.change(&[ino]));
        let body = Body::Open(v1::Open { handle: handle.to_vec(), flags });
        let (open_id, attr) = reply::opened(self.call(who, 0, body).await?)?;
        if let Some(change) = change {
            asked.stamp = change.answered();
        }
        Ok(self.register_open(ino, Grant { handle, open_id, flags, asked }, &attr))
    }

    /// Enters an open that meta granted. `attr` is meta's, fresh.
    pub(super) fn register_open(&self, ino: u64, grant: Grant, attr: &v1::Attr) -> Opened {
        let Grant { handle, open_id, flags, asked } = grant;
        let data = self.data.file(handle.clone(), attr);
        self.data.opened_as(self.inodes.meta_ino(ino), open_id);
        if flags & O_TRUNC != 0 {
            data.truncated(attr);
        }
        self.trust(&data, ino, attr, asked);
        self.may_buffer(&data, ino, attr, asked);
        self.times_answered(ino, attr, asked);
        let stale = data.stale_pages();
        let keep = self.inodes.keep_cache(ino, attr.change);
        let mode = match (flags & O_DIRECT != 0, keep) {
            (true, _) => OpenMode::Direct,
            (false, true) => OpenMode::KeepCache,
            (false, false) => OpenMode::Fresh,
        };
        if matches!(mode, OpenMode::Fresh | OpenMode::KeepCache) {
            // Dropped by this open, or those of the same contents.
            if let Some(stale) = stale {
                data.pages_dropped(stale);
            }
        }
        let fh = self.handles.add_file(OpenFile { ino, handle, open_id, flags, data });
        Opened { fh, mode }
    }

    /// close(2) of one descriptor: what was written leaves the client; POSIX
    /// locks of the owner end, whatever becomes of the data.
    ///
    /// # Errors
    /// What this or an earlier background flush failed with.
    pub async fn flush(&self, who: Requester, fh: u64, lock_owner: u64) -> Result<()> {
        let file = self.handles.file(fh)?;
        let caller = who.without_groups();
        let flushed = file.data.flush(&caller, file.open_id, false).await;
        if self.locks.take_posix(file.ino, lock_owner) {
            let release = v1::Release {
                open_id: file.open_id,
                handle: file.handle.to_vec(),
                lock_owner,
                locks_only: true,
                accessed: None,
            };
            self.session.call(caller, Body::Release(release)).await?;
        }
        flushed
    }

    /// The last descriptor is gone. `flock_owner` is the owner of flock(2)
    /// locks that end with it, 0 for none. Nobody waits for an answer, so
    /// failures are logged.
    pub async fn release(&self, fh: u64, flock_owner: u64) {
        let Ok(file) = self.handles.remove_file(fh) else { return };
        // Locks and opens belong to the session; who closed does not matter.
        let caller = v1::Caller::default();
        // Pages of a mapping may have been written after the last close.
        if let Err(error) = file.data.flush(&caller, file.open_id, false).await {
            tracing::warn!(code = %error.code(), "data lost at the end of an open: {error}");
        }
        for lock_owner in self.locks.take_posix_of(fh) {
            let (open_id, handle) = (file.open_id, file.handle.to_vec());
            let release =
                v1::Release { open_id, handle, lock_owner, locks_only: true, accessed: None };
            release_open(&self.session, release).await;
        }
        let had_flock = flock_owner != 0 && self.locks.take_flock(file.ino, flock_owner);
        let release = v1::Release {
            open_id: file.open_id,
            handle: file.handle.to_vec(),
            lock_owner: if had_flock { flock_owner } else { 0 },
            locks_only: false,
            accessed: self.access_to_tell(&file),
        };
        let (accesses, ino) = (Arc::clone(&self.accesses), file.ino);
        self.data.closed(self.inodes.meta_ino(file.ino));
        if file.data.is_left_dirty() {
            // Meta takes the right to what is still here with the open, which
            // therefore stays until it has arrived or is lost. A lock does not.
            let unlock = had_flock.then(|| unlock(&file.handle, flock_owner));
            let session = Arc::clone(&self.session);
            tokio::spawn(async move {
                if let Some(unlock) = unlock
                    && let Err(error) = session.call(v1::Caller::default(), unlock).await
                {
                    tracing::debug!(code = %error.code(), "unlock was not answered: {error}");
                }
                file.data.until_clean().await;
                let accessed = release.accessed;
                release_open(&session, release).await;
                accesses.told(ino, accessed);
            });
            return;
        }
        let accessed = release.accessed;
        release_open(&self.session, release).await;
        accesses.told(ino, accessed);
    }

    /// fsync(2), fdatasync(2).
    ///
    /// # Errors
    /// What the flush failed with.
    pub async fn fsync(&self, who: Requester, fh: u64) -> Result<()> {
        let file = self.handles.file(fh)?;
        self.ready().await?;
        self.check_locks(fh)?;
        file.data.flush(&who.without_groups(), file.open_id, true).await
    }

    /// fsync(2) of a directory: all operations answered so far are on stable
    /// storage.
    ///
    /// # Errors
    /// Meta's.
    pub async fn fsyncdir(&self, who: Requester) -> Result<()> {
        self.report_all_made().await?;
        self.call_open(who, Body::Sync(v1::Sync {})).await.map(reply::done)
    }
}

/// flock(2) LOCK_UN.
fn unlock(handle: &Bytes, owner: u64) -> Body {
    let kind = v1::LockKind::Unlock.into();
    let lock = v1::LockState { kind, flock: true, start: 0, end: u64::MAX, owner, pid: 0 };
    Body::SetLock(v1::SetLock { handle: handle.to_vec(), lock: Some(lock), wait: false })
}

/// Locks and opens belong to the session; who closed does not matter.
async fn release_open(session: &MetaSession, release: v1::Release) {
    if let Err(error) = session.call(v1::Caller::default(), Body::Release(release)).await {
        // The open ends with the session at the latest.
        tracing::debug!(code = %error.code(), "release was not answered: {error}");
    }
}
