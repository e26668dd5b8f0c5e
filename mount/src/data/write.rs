//! Writing into the buffer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;

use super::FileData;
use super::file::Writer;
use crate::session::clone_error;

/// How often the right to buffer may be gone again before a write that was
/// granted it does without.
const RIGHT_ATTEMPTS: usize = 8;
/// How long an append waits for the right: as long as meta grants none to a
/// mount that has left a recall unanswered, and a bit more.
const APPEND_WAIT: Duration = Duration::from_secs(65);
/// How often it asks.
const APPEND_PAUSE: Duration = Duration::from_millis(20);

impl FileData {
    /// Buffers a write; waits when too much is dirty, and for the commit when
    /// meta does not let this mount buffer. Without an offset (`at`) it writes
    /// at the present end of file. `lock_losses`: who writes under a lock does not
    /// after all locks were lost once more. Returns the bytes written.
    ///
    /// # Errors
    /// `LOCK_LOST`, `FS_READ_ONLY`, `FS_TOO_BIG`, `FS_NO_SPACE` or `FS_QUOTA` while what is buffered finds
    /// no room, the session's, `FS_IO` when nothing can be written back.
    pub async fn write(
        self: &Arc<Self>,
        caller: &v1::Caller,
        open_id: u64,
        at: Option<u64>,
        data: Bytes,
        lock_losses: Option<u64>,
    ) -> Result<u32> {
        let length = u32::try_from(data.len())
            .map_err(|_| Error::new(Code::FsInvalid, "a write of 4 GiB or more"))?;
        self.core.session.wait_ready().await?;
        self.core.session.check_writable()?;
        let writer = Writer { caller: caller.clone(), open_id };
        let (mut at, mut rest, mut waits) = (at, data, false);
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.core.budget.chunk_max()));
            self.core.budget.charge(part.len(), &self.core.session, &self.core.flusher).await?;
            let charge = Charge { file: self, bytes: part.len() };
            let buffered =
                self.buffer_with_right(charge, (&writer, lock_losses), at, &part).await?;
            at = Some(buffered.end);
            waits |= buffered.waits;
        }
        if waits {
            self.flush(caller, open_id, false).await?;
        }
        Ok(length)
    }

    /// Buffers under the right to do so; without, after some attempts, so that
    /// the writer has to wait for the commit. An append waits for the right.
    async fn buffer_with_right(
        self: &Arc<Self>,
        mut charge: Charge<'_>,
        (writer, lock_losses): (&Writer, Option<u64>),
        at: Option<u64>,
        part: &[u8],
    ) -> Result<Buffered> {
        let (mut attempts, began) = (0, Instant::now());
        loop {
            {
                let _writing = self.writing.read().await;
                let granted = self.want_right(&writer.caller, writer.open_id).await?;
                // A right that was waited for across a loss is a new one.
                let losses = self.core.session.lock_losses();
                if lock_losses.is_some_and(|before| before < losses) {
                    return Err(Error::bare(Code::LockLost));
                }
                if at.is_none() && !self.size_is_sure() {
                    self.revalidate(&(0..0)).await?;
                }
                attempts += 1;
                // Without the right two mounts might append at the same place.
                let insists = at.is_none() || granted && attempts < RIGHT_ATTEMPTS;
                if let Some(buffered) = self.buffer(&mut charge, writer, at, (part, insists))? {
                    return Ok(buffered);
                }
            }
            if began.elapsed() > APPEND_WAIT {
                return Err(Error::new(Code::FsIo, "meta does not let this mount append now"));
            }
            if attempts >= RIGHT_ATTEMPTS {
                tokio::time::sleep(APPEND_PAUSE).await;
            }
        }
    }

    /// Does nobody else move the end of the file, and is it known?
    fn size_is_sure(&self) -> bool {
        let state = self.state.lock();
        state.right.is_held() && state.size_known
    }

    /// Copies into the buffer what the budget was charged for, at `at` or at
    /// the end of file. `None`: it `insists` on the right to buffer, which is
    /// not there.
    fn buffer(
        self: &Arc<Self>,
        charge: &mut Charge<'_>,
        writer: &Writer,
        at: Option<u64>,
        (part, insists): (&[u8], bool),
    ) -> Result<Option<Buffered>> {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        let is_sure = state.right.is_held() && (at.is_some() || state.size_known);
        if insists && self.core.write_rights && !is_sure {
            return Ok(None);
        }
        charge.bytes = 0;
        state.charged += length;
        let start = at.unwrap_or_else(|| state.size_now());
        let end = start.checked_add(length).filter(|end| *end <= limits::FILE_SIZE_MAX);
        let refused = match (end, &state.full) {
            (None, _) => Some(Error::bare(Code::FsTooBig)),
            (Some(_), Some(error)) => Some(clone_error(error)),
            (Some(_), None) => None,
        };
        let mut waits = false;
        if refused.is_none() {
            state.dirty.write(start, part);
            state.dirty_since.get_or_insert_with(Instant::now);
            state.mtime = Some(self.core.session.meta_now());
            state.writer = Some(writer.clone());
            waits = !state.right.wrote() && self.core.write_rights;
        }
        let due = state.dirty.has_full_block() && !state.flushing;
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
        if let Some(error) = refused {
            return Err(error);
        }
        self.core.mark_dirty(self, due);
        Ok(Some(Buffered { end: end.unwrap_or(start), waits }))
    }
}

/// Bytes that are in the buffer.
struct Buffered {
    /// Where they end in the file.
    end: u64,
    /// Their writer has to wait for the commit.
    waits: bool,
}

/// Bytes of the budget, until the file holds them.
struct Charge<'f> {
    file: &'f FileData,
    bytes: usize,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        self.file.core.budget.release(bytes);
    }
}
