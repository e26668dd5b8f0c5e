//! Recognises sequential reading, and fetches ahead of it.

use std::ops::Range;
use std::sync::Arc;

use flexfs_common::Result;
use futures::future::try_join_all;

use super::FileData;
use super::mapping::Source;
use crate::codec;

/// The kernel's readahead comes on several threads, out of order by this much.
const SLACK: u64 = 1024 * 1024;
/// Reads in sequence before whole blocks are fetched.
const SEQUENTIAL: u32 = 2;
/// Blocks ahead, at most.
const AHEAD_MAX: u32 = 3;

/// How a file is read.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// End of the furthest read of the run.
    furthest: u64,
    /// Reads of the run.
    run: u32,
    /// A prefetch runs.
    pub(super) busy: bool,
    /// Up to here it is fetched or has been tried.
    fetched_to: u64,
}

/// What to do besides the read itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advice {
    /// Fetch whole objects.
    pub(super) whole: bool,
    /// Blocks to fetch ahead.
    pub(super) ahead: u32,
}

impl Pattern {
    pub(super) fn read(&mut self, range: &Range<u64>) -> Advice {
        let near = range.start <= self.furthest.saturating_add(SLACK)
            && range.end.saturating_add(SLACK) >= self.furthest;
        // A file read from its start is most often read to its end.
        if near && (self.run > 0 || range.start == 0) {
            self.run = self.run.saturating_add(1);
            self.furthest = self.furthest.max(range.end);
        } else {
            self.run = 1;
            self.furthest = range.end;
            self.fetched_to = 0;
        }
        let ahead = self.run.saturating_sub(SEQUENTIAL).div_ceil(4).min(AHEAD_MAX);
        Advice { whole: self.run >= SEQUENTIAL, ahead }
    }
}

impl FileData {
    /// Begins to fetch what a sequential reader is going to want from `from`
    /// on, if nothing of the kind runs. Failures are left to the reader.
    pub(super) fn prefetch(self: &Arc<Self>, advice: &Advice, from: u64) {
        let block = self.core.block_size;
        let ahead = u64::from(advice.ahead).min(self.core.prefetch_blocks);
        let range = {
            let mut state = self.state.lock();
            let end = (from + ahead * block).next_multiple_of(block).min(state.size);
            let start = from.max(state.pattern.fetched_to);
            // Nothing to do, or too little to do it now.
            if ahead == 0 || state.pattern.busy || start >= end {
                return;
            }
            state.pattern.busy = true;
            state.pattern.fetched_to = end;
            start..end
        };
        let file = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = file.fetch_ahead(&range).await {
                tracing::debug!(error = %error.with_causes(), "nothing fetched ahead");
            }
            file.state.lock().pattern.busy = false;
        });
    }

    async fn fetch_ahead(&self, range: &Range<u64>) -> Result<()> {
        let Source::Pieces(pieces) = self.source(range).await? else { return Ok(()) };
        let wanted = pieces.iter().filter_map(|piece| {
            let all = 0..codec::frame_count(piece.object.plain_len);
            let present = self.core.blocks.has(piece.object.id, all.clone());
            (!present).then(|| self.core.blocks.frames(&piece.object, all, true))
        });
        try_join_all(wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[test]
    fn sequential_reads_are_recognised_and_random_ones_are_not() {
        let mut pattern = Pattern::default();
        let step = 128 * KIB;
        assert!(!pattern.read(&(0..step)).whole);
        assert!(pattern.read(&(step..2 * step)).whole);
        let advice = (2..30).map(|n| pattern.read(&(n * step..(n + 1) * step))).last().unwrap();
        assert_eq!(advice, Advice { whole: true, ahead: AHEAD_MAX });
        let far = 100 * SLACK;
        for n in [7, 3, 9, 1, 5_u64] {
            let at = n * far;
            let advice = pattern.read(&(at..at + step));
            assert_eq!(advice, Advice { whole: false, ahead: 0 });
        }
    }
}
