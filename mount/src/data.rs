//! The data plane: contents of files over immutable objects, read cache,
//! write-back buffer. Knows inodes and handles, not names.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::Result;
use flexfs_common::ids::Ino;
use flexfs_proto::v1;

use crate::session::MetaSession;

/// Settings of the data plane.
#[derive(Debug, Clone)]
pub struct DataSettings {
    /// Bytes of the memory read cache.
    pub mem_capacity: u64,
    /// Bytes of dirty data before writers wait.
    pub write_back_max: u64,
}

/// Makes and finds the per-inode data state.
#[derive(Debug)]
pub struct DataPlane {}

/// The contents of one inode, shared by all its opens in this mount. Reads
/// see this mount's own dirty writes.
#[derive(Debug)]
pub struct FileData {}

/// What the cache and buffers hold now.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataUsage {
    /// Dirty bytes not yet committed.
    pub dirty_bytes: u64,
    /// Bytes in the read cache.
    pub cache_bytes: u64,
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl DataPlane {
    /// A data plane on this session.
    ///
    /// # Errors
    /// `INTERNAL` when the HTTP client cannot be made.
    pub fn new(session: Arc<MetaSession>, settings: DataSettings) -> Result<Arc<DataPlane>> {
        unimplemented!()
    }

    /// The data of an inode, made when first asked for. `attr` is fresh from
    /// meta: when its change counter differs from what is cached and nothing
    /// is dirty, the cached extents are dropped.
    pub fn file(&self, handle: Bytes, attr: &v1::Attr) -> Arc<FileData> {
        unimplemented!()
    }

    /// The data of an inode if this mount has some.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Arc<FileData>> {
        unimplemented!()
    }

    /// An open of the inode began (+) in this mount.
    pub fn opened(&self, ino: Ino) {
        unimplemented!()
    }

    /// An open of the inode ended; the last one lets the state go once clean.
    pub fn closed(&self, ino: Ino) {
        unimplemented!()
    }

    /// Flushes everything dirty of the mount; with `sync` until it survives
    /// power loss of the servers.
    ///
    /// # Errors
    /// The first failure; the others are logged.
    pub async fn flush_all(&self, sync: bool) -> Result<()> {
        unimplemented!()
    }

    /// Drops everything (the session was cut). Returns lost dirty bytes.
    pub fn discard_all(&self) -> u64 {
        unimplemented!()
    }

    /// Drops the cached extents and blocks of an inode, flushing dirty data
    /// first (recall).
    ///
    /// # Errors
    /// What the flush failed with.
    pub async fn recall(&self, ino: Ino) -> Result<()> {
        unimplemented!()
    }

    /// For `status`.
    #[must_use]
    pub fn usage(&self) -> DataUsage {
        unimplemented!()
    }
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl FileData {
    /// Reads up to `len` bytes at `offset`; short only at the end of file.
    ///
    /// # Errors
    /// `BLOCK_CORRUPT`, `BLOCK_UNAVAILABLE`, and meta's.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        unimplemented!()
    }

    /// Buffers a write; waits when too much is dirty. `append` writes at the
    /// present end of file and ignores `offset`. Returns the bytes written.
    ///
    /// # Errors
    /// `FS_TOO_BIG`, a kept failure of an earlier flush, the session's.
    pub async fn write(
        &self,
        caller: &v1::Caller,
        open_id: u64,
        offset: u64,
        data: Bytes,
        append: bool,
    ) -> Result<u32> {
        unimplemented!()
    }

    /// Uploads and commits what is dirty; with `sync` until it survives power
    /// loss. Reports each failure once per open that has not seen it.
    ///
    /// # Errors
    /// The failure of this or an earlier background flush.
    pub async fn flush(&self, caller: &v1::Caller, open_id: u64, sync: bool) -> Result<()> {
        unimplemented!()
    }

    /// Size with dirty writes; `None` when it equals what meta says.
    #[must_use]
    pub fn local_size(&self) -> Option<u64> {
        unimplemented!()
    }

    /// Time of the last buffered write, when dirty (for getattr).
    #[must_use]
    pub fn local_mtime(&self) -> Option<v1::Timestamp> {
        unimplemented!()
    }

    /// The size was set through meta (truncate): drop what lies beyond and
    /// what is cached. The caller has flushed before.
    pub fn truncated(&self, attr: &v1::Attr) {
        unimplemented!()
    }

    /// First offset at or after `offset` that holds data (`hole` false) or a
    /// hole (`hole` true), as lseek(2) SEEK_DATA/SEEK_HOLE; flushes first.
    ///
    /// # Errors
    /// `FS_NO_SUCH_DEVICE` beyond the end.
    pub async fn seek(&self, caller: &v1::Caller, offset: u64, hole: bool) -> Result<u64> {
        unimplemented!()
    }
}
