//! Access times: what was read here, noted when it moves them and told to meta
//! without making anybody wait. The kernel leaves them to the file system
//! (S_NOATIME) and asks for attributes anew after it has read.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::relatime::{self, Times, key};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{Asked, Attributes, FileSystem};
use crate::caller::Requester;
use crate::handle_table::OpenFile;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;
const O_WRONLY: u32 = libc::O_WRONLY as u32;
const O_NOATIME: u32 = libc::O_NOATIME as u32;

fn times_of(attr: &v1::Attr) -> Times {
    Times {
        accessed: attr.atime.unwrap_or_default(),
        modified: attr.mtime.unwrap_or_default(),
        changed: attr.ctime.unwrap_or_default(),
    }
}

impl FileSystem {
    /// The kernel is being told of attributes: what later requests are decided
    /// by. To be called when the inode is known.
    pub(super) fn remember_told(&self, told: &Attributes) {
        self.inodes.times_known(told.attr.ino, times_of(&told.attr), told.kept.stamp);
        self.lists_told(told);
    }

    /// Meta has answered attributes of an inode that the kernel knows.
    pub(super) fn times_answered(&self, ino: u64, attr: &v1::Attr, asked: Asked) {
        let mut attr = *attr;
        self.accesses.show(ino, &mut attr, asked.at);
        self.inodes.times_known(ino, times_of(&attr), asked.stamp);
    }

    /// read(2) has come past the kernel's cache. What that changes goes with
    /// the end of the open.
    pub(super) fn file_was_read(&self, file: &OpenFile) {
        if file.flags & O_NOATIME != 0 || !self.moves_access_times() {
            return;
        }
        let Some((mut times, is_latest)) = self.known_times(file.ino) else { return };
        let own = file.data.committed_attr();
        let written = [
            (file.data.local_mtime(), file.data.local_mtime()),
            (own.and_then(|own| own.mtime), own.and_then(|own| own.ctime)),
        ];
        for (mtime, ctime) in written {
            times.modified = later(times.modified, mtime);
            times.changed = later(times.changed, ctime);
        }
        self.note(file.ino, times, is_latest);
    }

    /// What goes with the end of an open. Meta heeds it of those that could
    /// read.
    pub(super) fn access_to_tell(&self, file: &OpenFile) -> Option<v1::Timestamp> {
        if file.flags & O_ACCMODE == O_WRONLY { None } else { self.accesses.take(file.ino) }
    }

    /// A directory or symbolic link was read. Nobody waits for meta's word.
    pub(super) fn was_read(&self, who: Requester, ino: u64, handle: &Bytes) {
        if !self.moves_access_times() {
            return;
        }
        let Some((times, is_latest)) = self.known_times(ino) else { return };
        if !self.note(ino, times, is_latest) {
            return;
        }
        let Some(at) = self.accesses.take(ino) else { return };
        self.whole.accessed(ino, at);
        let (session, accesses) = (Arc::clone(&self.session), Arc::clone(&self.accesses));
        let note = v1::NoteAccess { handle: handle.to_vec(), at: Some(at) };
        let caller = who.caller(0);
        tokio::spawn(async move {
            // Never closed.
            let _turn = accesses.notes.acquire().await;
            if let Err(error) = session.call(caller, Body::NoteAccess(note)).await {
                tracing::debug!(code = %error.code(), "an access time is not kept: {error}");
            }
            accesses.told(ino, Some(at));
        });
    }

    fn moves_access_times(&self) -> bool {
        let flags = self.session.flags();
        self.tells_accesses && !flags.ro && !flags.no_atime
    }

    /// The times of an inode, and whether nothing has changed it since they
    /// were told.
    fn known_times(&self, ino: u64) -> Option<(Times, bool)> {
        let (times, stamp) = self.inodes.times(ino)?;
        Some((times, self.freshness.reading().is_unchanged(ino, stamp)))
    }

    /// Notes that it is read now, if that moves its access time: what has
    /// changed in a way that is not known yet was not read since.
    fn note(&self, ino: u64, times: Times, is_latest: bool) -> bool {
        // Our idea of meta's clock lags a little behind what it has stamped.
        let at = after(self.session.meta_now(), times.changed);
        let is_due =
            relatime::is_due(&times, &at) || (!is_latest && key(&times.accessed) < key(&at));
        let noted = is_due && self.accesses.note(ino, at, times.accessed);
        if noted {
            let times = Times { accessed: at, ..times };
            self.inodes.times_known(ino, times, self.freshness.stamp());
        }
        noted
    }
}

fn later(a: v1::Timestamp, b: Option<v1::Timestamp>) -> v1::Timestamp {
    b.filter(|b| key(b) > key(&a)).unwrap_or(a)
}

/// `now`, but later than a change that has been seen.
fn after(now: v1::Timestamp, change: v1::Timestamp) -> v1::Timestamp {
    let v1::Timestamp { seconds, nanos } = change;
    let next = if nanos < 999_999_999 {
        v1::Timestamp { seconds, nanos: nanos + 1 }
    } else {
        v1::Timestamp { seconds: seconds.saturating_add(1), nanos: 0 }
    };
    later(now, Some(next))
}
