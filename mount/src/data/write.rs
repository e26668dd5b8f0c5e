//! Writing into the buffer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;

use super::FileData;
use super::file::Writer;
use crate::session::clone_error;

impl FileData {
    /// Buffers a write; waits when too much is dirty. `append` writes at the
    /// present end of file and ignores `offset`. Returns the bytes written.
    ///
    /// # Errors
    /// `FS_READ_ONLY`, `FS_TOO_BIG`, `FS_NO_SPACE` or `FS_QUOTA` while what is buffered finds
    /// no room, the session's, `FS_IO` when nothing can be written back.
    pub async fn write(
        self: &Arc<Self>,
        caller: &v1::Caller,
        open_id: u64,
        offset: u64,
        data: Bytes,
        append: bool,
    ) -> Result<u32> {
        let length = u32::try_from(data.len())
            .map_err(|_| Error::new(Code::FsInvalid, "a write of 4 GiB or more"))?;
        self.core.session.wait_ready().await?;
        self.core.session.check_writable()?;
        if append {
            self.revalidate(&(0..0)).await?;
        }
        let writer = Writer { caller: caller.clone(), open_id };
        let mut at = (!append).then_some(offset);
        let mut rest = data;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.core.budget.chunk_max()));
            self.core.budget.charge(part.len(), &self.core.session, &self.core.flusher).await?;
            at = Some(self.buffer(&writer, at, &part)?);
        }
        Ok(length)
    }

    /// Copies into the buffer what the budget was charged for, at `at` or at
    /// the end of file. Returns where it ends.
    fn buffer(self: &Arc<Self>, writer: &Writer, at: Option<u64>, part: &[u8]) -> Result<u64> {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        state.charged += length;
        let start = at.unwrap_or_else(|| state.size_now());
        let end = start.checked_add(length).filter(|end| *end <= limits::FILE_SIZE_MAX);
        let refused = match (end, &state.full) {
            (None, _) => Some(Error::bare(Code::FsTooBig)),
            (Some(_), Some(error)) => Some(clone_error(error)),
            (Some(_), None) => None,
        };
        if refused.is_none() {
            state.dirty.write(start, part);
            state.dirty_since.get_or_insert_with(Instant::now);
            state.mtime = Some(self.core.session.meta_now());
            state.writer = Some(writer.clone());
        }
        let due = state.dirty.has_full_block() && !state.flushing;
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
        if let Some(error) = refused {
            return Err(error);
        }
        self.core.mark_dirty(self, due);
        Ok(end.unwrap_or(start))
    }
}
