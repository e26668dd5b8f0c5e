//! Reading directories. Meta gives pages; the kernel takes as much of one as
//! fits its buffer, so a page is kept between its requests.
//!
//! Offsets of the kernel: 0 = start, 1 = after `.`, 2 = after `..`, then
//! meta's cookies plus 2.

use bytes::Bytes;
use flexfs_common::Result;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{Attributes, FileSystem, reply};
use crate::caller::Requester;
use crate::handle_table::{DirStream, OpenDir};

/// Bytes of one page: a few of the kernel's buffers, and the answer to most
/// directories in one round trip.
const PAGE_BYTES: u32 = 128 * 1024;
/// access(2): read.
const R_OK: u32 = 4;
/// Offset after `.`.
const AFTER_DOT: u64 = 1;
/// Offset after `..`; where meta's entries begin.
const AFTER_DOT_DOT: u64 = 2;
/// Largest cookie that still fits the kernel's signed offsets.
const COOKIE_MAX: u64 = i64::MAX as u64 - AFTER_DOT_DOT;

/// One entry for the kernel.
#[derive(Debug)]
pub struct DirItem<'a> {
    /// The kernel's inode number.
    pub ino: u64,
    /// The offset after it.
    pub next: u64,
    /// Its type.
    pub kind: v1::FileKind,
    /// Its name.
    pub name: &'a [u8],
    /// Its attributes; counted as told to the kernel when the entry is taken.
    pub found: Option<&'a Attributes>,
}

/// Takes entries until its buffer is full.
pub trait DirSink: Send {
    /// False when the entry did not fit.
    fn add(&mut self, item: &DirItem<'_>) -> bool;
}

impl FileSystem {
    /// opendir(3). May it be read? Asked here unless the kernel has checked,
    /// because programs expect the refusal here; meta asks itself again at
    /// each page.
    ///
    /// # Errors
    /// `FS_STALE`, `FS_ACCESS`, the cut's.
    pub async fn opendir(&self, who: Requester, ino: u64) -> Result<u64> {
        self.ready().await?;
        let handle = self.inodes.handle(ino)?;
        if !self.kernel_checks() {
            self.access(who, ino, R_OK).await?;
        }
        let stream = tokio::sync::Mutex::default();
        Ok(self.handles.add_dir(OpenDir { ino, handle, stream }))
    }

    /// closedir(3).
    ///
    /// # Errors
    /// `FS_BAD_HANDLE`.
    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.handles.remove_dir(fh)
    }

    /// Gives entries from `offset` on to `sink`; none at the end.
    ///
    /// # Errors
    /// Meta's.
    pub async fn readdir(
        &self,
        who: Requester,
        fh: u64,
        offset: u64,
        plus: bool,
        sink: &mut impl DirSink,
    ) -> Result<()> {
        self.ready().await?;
        let dir = self.handles.dir(fh)?;
        self.give_page(who, &dir, (offset, plus), sink).await?;
        self.was_read(who, dir.ino, &dir.handle);
        Ok(())
    }

    async fn give_page(
        &self,
        who: Requester,
        dir: &OpenDir,
        (offset, plus): (u64, bool),
        sink: &mut impl DirSink,
    ) -> Result<()> {
        let mut stream = dir.stream.lock().await;
        if offset == 0 {
            // rewinddir(3): see what the directory holds now.
            *stream = DirStream::default();
        }
        if !self.add_dots(dir, offset, sink) {
            return Ok(());
        }
        let mut cookie = offset.saturating_sub(AFTER_DOT_DOT);
        loop {
            let index = match stream.position(cookie, plus) {
                Some(index) => index,
                None => {
                    self.fetch_page(who, dir, cookie, plus, &mut stream).await?;
                    0
                }
            };
            let fresh = stream.entries.get(index..).unwrap_or_default();
            for entry in fresh {
                if !self.add_entry(dir, &stream, entry, plus, sink) {
                    return Ok(());
                }
                cookie = entry.cookie;
            }
            if stream.end || !fresh.is_empty() {
                return Ok(());
            }
        }
    }

    /// `.` and `..`; false when the sink is full.
    fn add_dots(&self, dir: &OpenDir, offset: u64, sink: &mut impl DirSink) -> bool {
        let parent = self.inodes.parent(dir.ino);
        let dots: [(u64, u64, &[u8]); 2] =
            [(AFTER_DOT, dir.ino, b"."), (AFTER_DOT_DOT, parent, b"..")];
        dots.into_iter().filter(|(next, ..)| offset < *next).all(|(next, ino, name)| {
            let kind = v1::FileKind::Directory;
            sink.add(&DirItem { ino, next, kind, name, found: None })
        })
    }

    async fn fetch_page(
        &self,
        who: Requester,
        dir: &OpenDir,
        cookie: u64,
        plus: bool,
        stream: &mut DirStream,
    ) -> Result<()> {
        self.report_made_in(dir.ino).await?;
        let asked = self.ask();
        let handle = dir.handle.to_vec();
        let body = Body::ReadDir(v1::ReadDir { handle, cookie, max_bytes: PAGE_BYTES, plus });
        let page = reply::dir_page(self.call(who, 0, body).await?)?;
        let cookies_good = page.entries.iter().all(|e| (1..=COOKIE_MAX).contains(&e.cookie));
        let stuck = page.entries.is_empty() && !page.end;
        if !cookies_good || stuck {
            return Err(reply::unexpected());
        }
        *stream = DirStream {
            entries: page.entries,
            end: page.end,
            after: Some(cookie),
            plus,
            asked: Some(asked),
            name_cache_millis: page.name_cache_millis,
        };
        Ok(())
    }

    fn add_entry(
        &self,
        dir: &OpenDir,
        stream: &DirStream,
        entry: &v1::DirEntry,
        plus: bool,
        sink: &mut impl DirSink,
    ) -> bool {
        let handle = Bytes::copy_from_slice(&entry.handle);
        let found = match (&entry.attr, stream.asked) {
            (Some(attr), Some(asked)) if plus && reply::check_attr(attr).is_ok() => {
                let mut found = self.told(&handle, *attr, asked);
                let place = (dir.ino, &entry.name[..]);
                found.name_kept = self.name_kept(stream.name_cache_millis, place, asked);
                Some(found)
            }
            _ => None,
        };
        let ino = self.inodes.kernel_ino(entry.ino);
        let item = DirItem {
            ino,
            next: entry.cookie + AFTER_DOT_DOT,
            kind: entry.kind(),
            name: &entry.name,
            found: found.as_ref(),
        };
        let taken = sink.add(&item);
        if taken && let Some(told) = &found {
            self.inodes.found(&told.attr, handle, dir.ino);
            self.remember_told(told);
        }
        taken
    }
}

impl DirStream {
    /// Where in the page the entries after `cookie` begin; `None` when the
    /// page does not have them.
    fn position(&self, cookie: u64, plus: bool) -> Option<usize> {
        if plus && !self.plus {
            return None;
        }
        let index = if self.after == Some(cookie) {
            0
        } else {
            self.entries.iter().position(|entry| entry.cookie == cookie)? + 1
        };
        (index < self.entries.len() || self.end).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(end: bool) -> DirStream {
        let entry = |cookie| v1::DirEntry { cookie, ..Default::default() };
        DirStream {
            entries: vec![entry(7), entry(3), entry(9)],
            end,
            after: Some(5),
            plus: true,
            asked: None,
            name_cache_millis: 0,
        }
    }

    #[test]
    fn pages_are_continued_where_the_kernel_stopped() {
        let page = stream(false);
        assert_eq!(page.position(5, true), Some(0));
        assert_eq!(page.position(7, false), Some(1));
        assert_eq!(page.position(3, true), Some(2));
        assert_eq!(page.position(9, true), None, "the next page is to be asked for");
        assert_eq!(page.position(8, true), None);
        assert_eq!(stream(true).position(9, true), Some(3), "the end is known");
        let plain = DirStream { plus: false, ..stream(false) };
        assert_eq!(plain.position(5, true), None, "attributes are to be asked for");
        assert_eq!(DirStream::default().position(0, false), None);
    }
}
