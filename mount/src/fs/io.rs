//! read, write, fallocate, lseek.

use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::file::O_DIRECT;
use super::{FileSystem, reply};
use crate::caller::Requester;
use crate::handle_table::OpenFile;

const O_APPEND: u32 = libc::O_APPEND as u32;
/// O_SYNC contains O_DSYNC's bit; data and the metadata to reach it are
/// synced alike here.
const O_DSYNC: u32 = libc::O_DSYNC as u32;
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// One write of the kernel.
#[derive(Debug)]
pub struct WriteRequest {
    /// The open file.
    pub fh: u64,
    /// Byte offset.
    pub offset: u64,
    /// What.
    pub data: Bytes,
    /// Flags of the open file now (fcntl(2) may have changed O_APPEND), with
    /// O_DSYNC for RWF_DSYNC.
    pub flags: u32,
    /// The writer may not keep set-id bits.
    pub kill_set_id: bool,
    /// Written back from a mapping: lies where it lies, also under O_APPEND.
    pub from_mapping: bool,
}

impl FileSystem {
    /// Up to `size` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// The data plane's.
    pub async fn read(&self, fh: u64, offset: u64, size: u32) -> Result<Bytes> {
        self.ready().await?;
        self.check_locks(fh)?;
        let file = self.handles.file(fh)?;
        let data = file.data.read(offset, size).await?;
        if file.flags & O_DIRECT == 0 {
            self.pages.read(file.ino);
        }
        // The answer may come from a cache, and the right to it may have
        // ended meanwhile.
        self.ready().await?;
        if size > 0 {
            self.file_was_read(&file);
        }
        Ok(data)
    }

    /// Bytes written.
    ///
    /// # Errors
    /// The data plane's.
    pub async fn write(&self, who: Requester, request: WriteRequest) -> Result<u32> {
        self.ready().await?;
        let mut losses = None;
        if !request.from_mapping {
            losses = self.lock_losses_of(request.fh);
            self.check_locks(request.fh)?;
        }
        let file = self.handles.file(request.fh)?;
        let caller = who.without_groups();
        let append = request.flags & O_APPEND != 0 && !request.from_mapping;
        let at = (!append).then_some(request.offset);
        let expected_end = request.offset.saturating_add(request.data.len() as u64);
        let written = file.data.write(&caller, file.open_id, at, request.data, losses).await?;
        if append && file.data.local_size().is_some_and(|size| size != expected_end) {
            self.drop_pages(&file);
        }
        let sync = request.flags & O_DSYNC != 0;
        if sync || (request.kill_set_id && has_set_id(self.inodes.mode(file.ino))) {
            file.data.flush(&caller, file.open_id, sync).await?;
        }
        Ok(written)
    }

    /// The kernel put appended bytes where it believed the end to be, and
    /// another mount had moved the end: its pages are wrong. Told from
    /// another thread, because this request holds the inode.
    fn drop_pages(&self, file: &OpenFile) {
        if let Some(kernel) = self.kernel() {
            let (kernel, ino) = (std::sync::Arc::clone(kernel), file.ino);
            tokio::task::spawn_blocking(move || kernel.drop_inode(ino));
        }
    }

    /// fallocate(2); `mode` as there.
    ///
    /// # Errors
    /// Meta's.
    pub async fn fallocate(
        &self,
        who: Requester,
        fh: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        self.ready().await?;
        self.check_locks(fh)?;
        let file = self.handles.file(fh)?;
        let caller = who.without_groups();
        file.data.flush(&caller, file.open_id, false).await?;
        self.check_locks(fh)?;
        let _change = self.freshness.change(&[file.ino]);
        let body = Body::Fallocate(v1::Fallocate {
            handle: file.handle.to_vec(),
            open_id: file.open_id,
            mode,
            offset,
            length,
        });
        let attr = match self.call_open(who, body).await? {
            v1::reply::Result::Attr(attr) => attr,
            _ => {
                let body = Body::GetAttr(v1::GetAttr { handle: file.handle.to_vec() });
                reply::attr(self.call_open(who, body).await?)?
            }
        };
        file.data.truncated(&attr);
        Ok(())
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; the kernel does the others.
    ///
    /// # Errors
    /// `FS_NO_SUCH_DEVICE` beyond the end, `FS_INVALID` for other seeks.
    pub async fn lseek(&self, who: Requester, fh: u64, offset: u64, whence: u32) -> Result<u64> {
        let hole = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => false,
            Ok(libc::SEEK_HOLE) => true,
            _ => return Err(Error::bare(Code::FsInvalid)),
        };
        self.ready().await?;
        let file = self.handles.file(fh)?;
        file.data.seek(&who.without_groups(), offset, hole).await
    }
}

/// Bits that a write by another than a privileged process takes away: setuid,
/// and setgid where the group may execute (else it means mandatory locking).
fn has_set_id(mode: u32) -> bool {
    mode & S_ISUID != 0 || mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_as_the_kernel_counts_them() {
        assert!(has_set_id(0o4644));
        assert!(has_set_id(0o2755));
        assert!(!has_set_id(0o2644));
        assert!(!has_set_id(0o1777));
    }
}
