//! Attributes: stat, chmod, chown, truncate, utimens, access.

use std::time::Duration;

use bytes::Bytes;
use flexfs_common::Result;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::Ino;
use flexfs_common::wire;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{Asked, Attributes, FileSystem, Kept, reply};
use crate::caller::Requester;
use crate::data::FileData;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeRequest {
    /// Meta's now.
    Now,
    /// Seconds since 1970 and nanoseconds.
    At(i64, u32),
}

/// What setattr changes; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct SetAttrRequest {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeRequest>,
    /// Last modification.
    pub mtime: Option<TimeRequest>,
    /// The open file it came through.
    pub fh: Option<u64>,
}

impl FileSystem {
    /// stat(2).
    ///
    /// # Errors
    /// Meta's.
    pub async fn getattr(&self, who: Requester, ino: u64, fh: Option<u64>) -> Result<Attributes> {
        let handle = match fh.and_then(|fh| self.handles.file(fh).ok()) {
            Some(file) => file.handle.clone(),
            None => self.inodes.handle(ino)?,
        };
        let (attr, asked) = match self.attr_here(ino) {
            Some(known) => {
                self.ready().await?;
                known
            }
            None => self.ask_attr(who, (ino, &handle)).await?,
        };
        let told = self.told(&handle, attr, asked);
        let looks_the_same = self.inodes.attributes_told(ino, &told.attr);
        self.remember_told(&told);
        if let Some(data) = self.data.get(self.inodes.meta_ino(ino))
            && let Some(stale) = data.stale_pages()
        {
            if looks_the_same && fh.is_none() {
                // Nobody is about to read: the kernel checks permissions or
                // somebody asked. It would not take the mode of an answer that
                // it dropped pages before. They go before they are read.
                return Ok(told);
            }
            if looks_the_same {
                self.drop_old_pages(ino).await;
            }
            // Else the kernel drops them itself when it has this answer.
            data.pages_dropped(stale);
        }
        Ok(told)
    }

    /// Asks meta for attributes. Of a directory they may be kept to answer from.
    async fn ask_attr(
        &self,
        who: Requester,
        (ino, handle): (u64, &Bytes),
    ) -> Result<(v1::Attr, Asked)> {
        self.report_made_in(ino).await?;
        let (asked, changes) = (self.ask(), self.whole.changes(ino));
        let body = Body::GetAttr(v1::GetAttr { handle: handle.to_vec() });
        let attr = reply::attr(self.call_open(who, body).await?)?;
        self.whole.learn(&self.freshness.reading(), ino, changes, (attr, asked));
        Ok((attr, asked))
    }

    /// Drops the kernel's pages of an inode before an answer about it, which
    /// would not show that they are old. The kernel then takes the attributes
    /// of that answer for the caller alone; they are no news to it.
    pub(super) async fn drop_old_pages(&self, ino: u64) {
        let Some(kernel) = self.kernel().map(std::sync::Arc::clone) else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || kernel.drop_inode(ino)).await {
            tracing::error!("the kernel's pages could not be dropped: {error}");
        }
    }

    /// What the kernel is told of attributes that meta just answered: its own
    /// inode number, what this mount has written since, and how long it may
    /// keep it.
    pub(super) fn told(&self, handle: &Bytes, mut attr: v1::Attr, asked: Asked) -> Attributes {
        let ino = self.inodes.kernel_ino(attr.ino);
        let mut kept = self.kept(attr.cache_millis, ino, asked);
        if attr.kind() == v1::FileKind::Regular && self.data.get(Ino(attr.ino)).is_some() {
            let data = self.data.file(handle.clone(), &attr);
            self.trust(&data, ino, &attr, asked);
            // A commit of ours may have overtaken this answer.
            if let Some(newer) = data.committed_attr().filter(|own| own.change > attr.change) {
                attr = newer;
            }
            if let Some(size) = data.local_size() {
                if size > attr.size {
                    attr.blocks = attr.blocks.max(size.div_ceil(512));
                }
                attr.size = size;
            }
            if let Some(mtime) = data.local_mtime() {
                attr.mtime = Some(mtime);
                attr.ctime = Some(mtime);
            }
            if !data.is_clean() || data.stale_pages().is_some() {
                // They change once more when the data is committed; and while
                // the kernel asks before it reads, its old pages can go first.
                kept.ttl = Duration::ZERO;
            }
        }
        self.accesses.show(ino, &mut attr, asked.at);
        attr.ino = ino;
        Attributes { attr, kept, name_kept: Kept::default() }
    }

    /// Contents need no asking either while the attributes may be kept.
    pub(super) fn trust(&self, data: &FileData, ino: u64, attr: &v1::Attr, asked: Asked) {
        if attr.cache_millis == 0 {
            return;
        }
        let until = asked.at.after(Duration::from_millis(attr.cache_millis.into()));
        // Held meanwhile: a recall that comes now finds it and takes it back.
        let reading = self.freshness.reading();
        if reading.permits(ino, asked.stamp) {
            data.trust(attr.change, until);
        }
    }

    /// The right to buffer writes that came with an answer.
    pub(super) fn may_buffer(&self, data: &FileData, ino: u64, attr: &v1::Attr, asked: Asked) {
        // Held meanwhile: a recall that comes now finds it and takes it back.
        let reading = self.freshness.reading();
        if attr.write_right != 0 && reading.permits(ino, asked.stamp) {
            data.may_buffer(attr.write_right);
        }
    }

    /// chmod, chown, truncate, utimens. What is dirty goes first, so that the
    /// times and the size set here are not overtaken by it.
    ///
    /// # Errors
    /// Meta's, and what the flush fails with.
    pub async fn setattr(
        &self,
        who: Requester,
        ino: u64,
        request: SetAttrRequest,
    ) -> Result<Attributes> {
        self.ready().await?;
        if let Some(told) = self.set_here(who, ino, &request) {
            return Ok(told);
        }
        if let Some(fh) = request.fh {
            self.check_locks(fh)?;
        }
        let file = request.fh.and_then(|fh| self.handles.file(fh).ok());
        let handle = match &file {
            Some(file) => file.handle.clone(),
            None => self.inodes.handle(ino)?,
        };
        let open_id = file.as_ref().map_or(0, |file| file.open_id);
        let caller = who.caller(0);
        self.report_made_in(ino).await?;
        self.whole.changing(ino);
        if request.mode.is_some() || request.uid.is_some() || request.gid.is_some() {
            self.whole.stop_making(ino);
        }
        let data = self.data.get(self.inodes.meta_ino(ino));
        if let Some(data) = &data {
            data.flush(&caller, open_id, false).await?;
            if let Some(fh) = request.fh {
                self.check_locks(fh)?;
            }
        }
        let at = BootTime::now();
        let change = self.freshness.change(&[ino]);
        let body = Body::SetAttr(v1::SetAttr {
            handle: handle.to_vec(),
            mode: request.mode.map(|mode| mode & 0o7777),
            uid: request.uid,
            gid: request.gid,
            size: request.size,
            atime: request.atime.map(set_time),
            mtime: request.mtime.map(set_time),
            open_id,
        });
        let attr = reply::attr(self.session.call(caller, body).await?)?;
        if request.size.is_some()
            && let Some(data) = &data
        {
            data.truncated(&attr);
        }
        if let Some(data) = &data {
            data.own_change(&attr);
        }
        if request.atime.is_some() {
            self.accesses.forget(ino);
        }
        let told = self.told(&handle, attr, Asked { at, stamp: change.answered() });
        self.inodes.attributes_told(ino, &told.attr);
        self.remember_told(&told);
        if request.mode.is_some() && told.attr.access_acl {
            self.list_closes_names(ino, told.attr.mode);
        }
        Ok(told)
    }

    /// access(2), chdir(2).
    ///
    /// # Errors
    /// `FS_ACCESS`, and meta's.
    pub async fn access(&self, who: Requester, ino: u64, mask: u32) -> Result<()> {
        self.report_made(ino).await?;
        let handle = self.inodes.handle(ino)?.to_vec();
        self.call(who, 0, Body::Access(v1::Access { handle, mask })).await.map(reply::done)
    }
}

pub(super) fn set_time(time: TimeRequest) -> v1::SetTime {
    match time {
        TimeRequest::Now => v1::SetTime { at: None },
        TimeRequest::At(seconds, nanos) => {
            v1::SetTime { at: Some(kept_time(v1::Timestamp { seconds, nanos })) }
        }
    }
}

/// The nearest time that is kept (the years -9999 to 9999), as Linux clamps to
/// what a file system can keep (timestamp_truncate).
fn kept_time(at: v1::Timestamp) -> v1::Timestamp {
    let (min, max) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    match at.seconds {
        seconds if seconds < min.as_second() => wire::timestamp_to_wire(min),
        seconds if seconds >= max.as_second() => wire::timestamp_to_wire(max),
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_kept_become_the_nearest_that_can() {
        for seconds in [i64::MIN, -(1 << 40), -1, 0, 1 << 33, 253_402_300_799, i64::MAX] {
            let at = v1::Timestamp { seconds, nanos: 5 };
            let kept = kept_time(at);
            wire::timestamp_from_wire(&kept).unwrap();
            let in_range = (-377_705_023_201..253_402_207_200).contains(&seconds);
            assert_eq!(kept == at, in_range, "{seconds} became {kept:?}");
            assert_eq!(kept.seconds.signum(), seconds.signum());
        }
    }
}
