//! Reading: what was written here, over what meta's objects hold.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flexfs_common::{Code, Error, Result};
use futures::future::try_join_all;

use super::FileData;
use super::dirty::copy_span;
use super::extents::Piece;
use super::mapping::Source;
use super::prefetch::Advice;
use crate::codec::FRAME_LEN;

/// A read under way.
struct Reading {
    offset: u64,
    out: BytesMut,
    /// What has to come from meta's objects.
    open: Vec<Range<u64>>,
    advice: Advice,
}

impl FileData {
    /// Reads up to `len` bytes at `offset`; short only at the end of file.
    ///
    /// # Errors
    /// `BLOCK_CORRUPT`, `BLOCK_UNAVAILABLE`, and meta's.
    pub async fn read(self: &Arc<Self>, offset: u64, len: u32) -> Result<Bytes> {
        self.core.session.wait_ready().await?;
        if let Some(written) = self.read_written(offset, len) {
            return Ok(written);
        }
        self.revalidate(&(offset..offset.saturating_add(u64::from(len)))).await?;
        let Some(mut reading) = self.begin_read(offset, len) else { return Ok(Bytes::new()) };
        let open = std::mem::take(&mut reading.open);
        for range in open {
            match self.read_base(&mut reading, &range).await {
                // The signed URL has run out early: a new one.
                Err(error) if error.code() == Code::BlockRefused => {
                    self.state.lock().forget_urls();
                    self.read_base(&mut reading, &range).await?;
                }
                other => other?,
            }
        }
        self.prefetch(&reading.advice, offset + u64::from(len));
        // A cut during the read: nothing is answered any more.
        match self.core.session.end_error() {
            Some(error) => Err(error),
            None => Ok(reading.out.freeze()),
        }
    }

    /// The range, when all of it is written here and not committed.
    fn read_written(&self, offset: u64, len: u32) -> Option<Bytes> {
        let state = self.state.lock();
        let end = offset.checked_add(u64::from(len))?;
        if end > state.dirty_end() || !state.not_written(offset..end).is_empty() {
            return None;
        }
        let mut out = BytesMut::zeroed(usize::try_from(len).ok()?);
        state.overlay(offset, &mut out);
        Some(out.freeze())
    }

    /// Takes what is written here; `None` at or beyond the end of file.
    fn begin_read(&self, offset: u64, len: u32) -> Option<Reading> {
        let mut state = self.state.lock();
        let end = offset.checked_add(u64::from(len))?.min(state.size_now());
        let length = usize::try_from(end.checked_sub(offset)?).ok().filter(|len| *len > 0)?;
        let mut out = BytesMut::zeroed(length);
        let open = if state.is_clean() {
            std::iter::once(offset..end).collect()
        } else {
            state.overlay(offset, &mut out);
            state.not_written(offset..end)
        };
        let advice = state.pattern.read(&(offset..end));
        Some(Reading { offset, out, open, advice })
    }

    async fn read_base(&self, reading: &mut Reading, range: &Range<u64>) -> Result<()> {
        let pieces = match self.source(range).await? {
            Source::Inline(inline) => {
                let wanted = inline.get(to_index(range.start)..).unwrap_or_default();
                let length = wanted.len().min(to_index(range.end - range.start));
                let wanted = wanted.get(..length).unwrap_or_default();
                copy_span(range.start, wanted, reading.offset, &mut reading.out);
                return Ok(());
            }
            Source::Pieces(pieces) => pieces,
        };
        let whole = reading.advice.whole && self.core.prefetch_blocks > 0;
        let fetches = pieces
            .iter()
            .map(|piece| self.core.blocks.frames(&piece.object, frames_of(piece), whole));
        let fetched = try_join_all(fetches).await?;
        for (piece, frames) in pieces.iter().zip(fetched) {
            copy_piece(piece, &frames, reading)?;
        }
        Ok(())
    }
}

/// The frames of its object that a piece lies in.
pub(super) fn frames_of(piece: &Piece) -> Range<usize> {
    let first = to_index(piece.object_offset) / FRAME_LEN;
    first..to_index(piece.object_offset + piece.length).div_ceil(FRAME_LEN)
}

fn copy_piece(piece: &Piece, frames: &[Bytes], reading: &mut Reading) -> Result<()> {
    let mut skip = to_index(piece.object_offset) % FRAME_LEN;
    let (mut at, mut left) = (piece.offset, to_index(piece.length));
    for frame in frames {
        let part = frame.get(skip..).unwrap_or_default();
        let part = part.get(..left.min(part.len())).unwrap_or_default();
        copy_span(at, part, reading.offset, &mut reading.out);
        at += u64::try_from(part.len()).unwrap_or(0);
        left -= part.len();
        skip = 0;
    }
    if left == 0 {
        return Ok(());
    }
    // The codec has checked every length, so this is a defect of ours.
    Err(Error::new(Code::Internal, format!("object {}: frames are missing", piece.object.id)))
}

fn to_index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
