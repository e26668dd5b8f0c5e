//! Attributes: stat, chmod, chown, truncate, utimens, access.

use std::time::Instant;

use bytes::Bytes;
use flexfs_common::Result;
use flexfs_common::ids::Ino;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{Attributes, FileSystem, reply};
use crate::caller::Requester;

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
        let sent = Instant::now();
        let body = Body::GetAttr(v1::GetAttr { handle: handle.to_vec() });
        let attr = reply::attr(self.call_open(who, body).await?)?;
        let told = self.told(&handle, attr, sent);
        self.inodes.set_mode(ino, told.attr.mode);
        Ok(told)
    }

    /// What the kernel is told of attributes that meta just answered: its own
    /// inode number, what this mount has written since, and how long it may
    /// keep it.
    pub(super) fn told(&self, handle: &Bytes, mut attr: v1::Attr, sent: Instant) -> Attributes {
        let ttl = self.ttl(&attr, sent);
        if attr.kind() == v1::FileKind::Regular && self.data.get(Ino(attr.ino)).is_some() {
            let data = self.data.file(handle.clone(), &attr);
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
        }
        attr.ino = self.inodes.kernel_ino(attr.ino);
        Attributes { attr, ttl }
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
        let file = request.fh.and_then(|fh| self.handles.file(fh).ok());
        let handle = match &file {
            Some(file) => file.handle.clone(),
            None => self.inodes.handle(ino)?,
        };
        let open_id = file.as_ref().map_or(0, |file| file.open_id);
        let caller = who.caller(0);
        let data = self.data.get(self.inodes.meta_ino(ino));
        if let Some(data) = &data {
            data.flush(&caller, open_id, false).await?;
        }
        let sent = Instant::now();
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
        let told = self.told(&handle, attr, sent);
        self.inodes.set_mode(ino, told.attr.mode);
        Ok(told)
    }

    /// access(2), chdir(2).
    ///
    /// # Errors
    /// `FS_ACCESS`, and meta's.
    pub async fn access(&self, who: Requester, ino: u64, mask: u32) -> Result<()> {
        let handle = self.inodes.handle(ino)?.to_vec();
        self.call(who, 0, Body::Access(v1::Access { handle, mask })).await.map(reply::done)
    }
}

fn set_time(time: TimeRequest) -> v1::SetTime {
    match time {
        TimeRequest::Now => v1::SetTime { at: None },
        TimeRequest::At(seconds, nanos) => {
            v1::SetTime { at: Some(v1::Timestamp { seconds, nanos }) }
        }
    }
}
