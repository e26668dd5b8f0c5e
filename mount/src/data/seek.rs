//! SEEK_DATA and SEEK_HOLE.

use std::sync::Arc;

use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use super::FileData;
use super::flush::How;
use super::mapping::Source;

/// Blocks looked at in the first step. Each one of holes alone doubles it: a
/// file may have 2^60 bytes and nothing in them.
const STEP_BLOCKS: u64 = 64;

impl FileData {
    /// First offset at or after `offset` that holds data (`hole` false) or a
    /// hole (`hole` true), as lseek(2) SEEK_DATA/SEEK_HOLE; flushes first.
    ///
    /// # Errors
    /// `FS_NO_SUCH_DEVICE` beyond the end.
    pub async fn seek(
        self: &Arc<Self>,
        caller: &v1::Caller,
        offset: u64,
        hole: bool,
    ) -> Result<u64> {
        if !self.state.lock().is_clean() {
            let file = Arc::clone(self);
            let task = tokio::spawn(async move { file.flush_now(How::ALL).await });
            task.await.map_err(|e| Error::bare(Code::Internal).caused_by(e)).flatten()?;
        }
        let _ = caller;
        self.revalidate(&(offset..offset.saturating_add(1))).await?;
        let size = self.state.lock().size_now();
        let beyond = || Error::bare(Code::FsNoSuchDevice);
        if offset >= size {
            return Err(beyond());
        }
        let mut at = offset;
        let mut step = STEP_BLOCKS * self.core.block_size;
        while at < size {
            let asked = at..size.min(at.saturating_add(step));
            let (source, end) = self.source_of_beginning(&asked).await?;
            match source {
                Source::Inline(_) => return if hole { Ok(size) } else { Ok(at) },
                Source::Pieces(pieces) => {
                    for piece in pieces {
                        if hole && piece.offset > at {
                            return Ok(at);
                        }
                        if !hole {
                            return Ok(piece.offset.max(at));
                        }
                        at = piece.end();
                    }
                    if hole && at < end {
                        return Ok(at);
                    }
                    at = end;
                    step = step.saturating_mul(2);
                }
            }
        }
        // Every file ends with a hole (lseek(2)).
        if hole { Ok(size) } else { Err(beyond()) }
    }
}
