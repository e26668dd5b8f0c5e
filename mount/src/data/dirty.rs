//! Written bytes that are not committed yet: no I/O, no clock.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// A span of written bytes.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

impl Segment {
    pub(super) fn len(&self) -> u64 {
        len64(&self.data)
    }
}

/// Non-overlapping spans by offset; no span crosses a block's border.
#[derive(Debug)]
pub(super) struct Dirty {
    block: u64,
    spans: BTreeMap<u64, BytesMut>,
    /// Bytes per block: full ones can go at once.
    filled: BTreeMap<u64, u64>,
    bytes: u64,
}

fn len64(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Dirty {
    pub(super) fn new(block: u64) -> Dirty {
        Dirty { block: block.max(1), spans: BTreeMap::new(), filled: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// End of the last span; 0 when there is none.
    pub(super) fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(offset, data)| offset + len64(data))
    }

    pub(super) fn has_full_block(&self) -> bool {
        self.filled.values().any(|filled| *filled == self.block)
    }

    /// Newer bytes: they replace what is there. Returns the bytes added.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> u64 {
        self.merge(offset, data, true)
    }

    /// Older bytes: they only fill what is not there. Returns the bytes added.
    pub(super) fn fill(&mut self, offset: u64, data: &[u8]) -> u64 {
        self.merge(offset, data, false)
    }

    fn merge(&mut self, offset: u64, mut data: &[u8], replace: bool) -> u64 {
        let (mut at, before) = (offset, self.bytes);
        while !data.is_empty() {
            let room = self.block - at % self.block;
            let (part, rest) = data.split_at(data.len().min(index(room)));
            self.merge_in_block(at, part, replace);
            at += len64(part);
            data = rest;
        }
        self.bytes - before
    }

    /// Within one block: overlapped parts are replaced in place (or left),
    /// gaps become spans or lengthen the one before.
    fn merge_in_block(&mut self, offset: u64, data: &[u8], replace: bool) {
        let end = offset + len64(data);
        let mut at = offset;
        let mut appendable = None;
        if let Some((start, span)) = self.spans.range_mut(..=offset).next_back() {
            let span_end = *start + len64(span);
            if span_end > offset {
                let stop = span_end.min(end);
                if replace {
                    overwrite(span, offset - *start, data, 0..stop - offset);
                }
                at = stop;
            }
            if span_end == at && *start / self.block == offset / self.block {
                appendable = Some(*start);
            }
        }
        while at < end {
            let next = self.spans.range(at..end).next().map(|(start, span)| (*start, len64(span)));
            let gap_end = next.map_or(end, |(start, _)| start);
            if gap_end > at {
                self.add(at, slice(data, at - offset..gap_end - offset), appendable.take());
                at = gap_end;
            }
            let Some((start, length)) = next else { continue };
            let stop = (start + length).min(end);
            if replace && let Some(span) = self.spans.get_mut(&start) {
                overwrite(span, 0, data, at - offset..stop - offset);
            }
            appendable = (stop == start + length).then_some(start);
            at = stop;
        }
    }

    fn add(&mut self, at: u64, data: &[u8], behind: Option<u64>) {
        match behind.and_then(|start| self.spans.get_mut(&start)) {
            Some(span) => span.extend_from_slice(data),
            None => {
                self.spans.insert(at, BytesMut::from(data));
            }
        }
        self.bytes += len64(data);
        *self.filled.entry(at / self.block).or_default() += len64(data);
    }

    /// Takes everything, or only whole blocks; touching spans of one block
    /// become one.
    pub(super) fn take(&mut self, full_only: bool) -> Vec<Segment> {
        let block = self.block;
        let blocks: Vec<u64> = self
            .filled
            .iter()
            .filter(|(_, filled)| !full_only || **filled == block)
            .map(|(index, _)| *index)
            .collect();
        let mut taken: Vec<Segment> = Vec::with_capacity(blocks.len());
        for number in blocks {
            self.filled.remove(&number);
            let mut rest = self.spans.split_off(&(number * block));
            let mut behind = rest.split_off(&((number + 1) * block));
            self.spans.append(&mut behind);
            coalesce(rest, &mut taken);
        }
        self.bytes -= taken.iter().map(|segment| len64(&segment.data)).sum::<u64>();
        taken
    }

    /// Drops what lies at and beyond `size`. Returns the bytes dropped.
    pub(super) fn clip(&mut self, size: u64) -> u64 {
        let before = self.bytes;
        let mut gone = self.spans.split_off(&size);
        if let Some((start, span)) = self.spans.range_mut(..size).next_back() {
            let keep = index(size - *start);
            if span.len() > keep {
                gone.insert(size, span.split_off(keep));
            }
        }
        for (offset, span) in gone {
            let length = len64(&span);
            self.bytes -= length;
            if let Some(filled) = self.filled.get_mut(&(offset / self.block)) {
                *filled -= length;
                if *filled == 0 {
                    self.filled.remove(&(offset / self.block));
                }
            }
        }
        before - self.bytes
    }

    /// Copies what is here over `out`, which begins at `offset` in the file.
    pub(super) fn copy_to(&self, offset: u64, out: &mut [u8]) {
        let range = offset..offset + len64(out);
        for (start, span) in self.within(&range) {
            copy_span(start, span, offset, out);
        }
    }

    /// What of `range` is not here.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        gaps(range.clone(), self.within(&range).map(|(start, span)| start..start + len64(span)))
    }

    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &BytesMut)> {
        let first = self.spans.range(..=range.start).next_back().map(|(start, _)| *start);
        self.spans
            .range(first.unwrap_or(range.start)..range.end)
            .map(|(start, span)| (*start, span))
    }
}

/// What of `range` the sorted `spans` leave open.
pub(super) fn gaps(range: Range<u64>, spans: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut open = Vec::new();
    let mut at = range.start;
    for span in spans {
        if span.start > at && at < range.end {
            open.push(at..span.start.min(range.end));
        }
        at = at.max(span.end);
    }
    if at < range.end {
        open.push(at..range.end);
    }
    open
}

/// Copies the part of a span at `start` that falls into `out` at `offset`.
pub(super) fn copy_span(start: u64, span: &[u8], offset: u64, out: &mut [u8]) {
    let (from, to) = (start.max(offset), (start + len64(span)).min(offset + len64(out)));
    if from >= to {
        return;
    }
    let source = slice(span, from - start..to - start);
    if let Some(place) = out.get_mut(index(from - offset)..index(to - offset)) {
        place.copy_from_slice(source);
    }
}

fn slice(data: &[u8], range: Range<u64>) -> &[u8] {
    data.get(index(range.start)..index(range.end)).unwrap_or_default()
}

fn overwrite(span: &mut BytesMut, at: u64, data: &[u8], part: Range<u64>) {
    let source = slice(data, part);
    if let Some(place) = span.get_mut(index(at)..index(at) + source.len()) {
        place.copy_from_slice(source);
    }
}

fn coalesce(spans: BTreeMap<u64, BytesMut>, out: &mut Vec<Segment>) {
    let mut run: Option<(u64, BytesMut)> = None;
    for (offset, span) in spans {
        match &mut run {
            Some((start, data)) if *start + len64(data) == offset => data.extend_from_slice(&span),
            _ => {
                out.extend(run.take().map(segment));
                run = Some((offset, span));
            }
        }
    }
    out.extend(run.map(segment));
}

fn segment((offset, data): (u64, BytesMut)) -> Segment {
    Segment { offset, data: data.freeze() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 16;
    const SIZE: usize = 100;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Fill(u64, Vec<u8>),
        Clip(u64),
        Take(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = prop::collection::vec(any::<u8>(), 1..40);
        let step = prop_oneof![
            6 => (0_u64..60, data.clone()).prop_map(|(at, data)| Step::Write(at, data)),
            2 => (0_u64..60, data).prop_map(|(at, data)| Step::Fill(at, data)),
            1 => (0_u64..100).prop_map(Step::Clip),
            1 => any::<bool>().prop_map(Step::Take),
        ];
        prop::collection::vec(step, 1..30)
    }

    fn check(dirty: &Dirty, model: &[Option<u8>]) {
        let present = model.iter().flatten().count();
        assert_eq!(dirty.bytes(), present as u64);
        assert_eq!(
            dirty.end(),
            model.iter().rposition(Option::is_some).map_or(0, |i| i as u64 + 1)
        );
        let full = model.chunks(16).any(|b| b.len() == 16 && b.iter().all(Option::is_some));
        assert_eq!(dirty.has_full_block(), full);
        let mut out = vec![0xee; SIZE];
        dirty.copy_to(0, &mut out);
        for (at, byte) in model.iter().enumerate() {
            assert_eq!(out[at], byte.unwrap_or(0xee), "at {at}");
        }
        for gap in dirty.gaps(0..SIZE as u64) {
            assert!(gap.clone().all(|at| model[at as usize].is_none()));
        }
        let open: u64 = dirty.gaps(0..SIZE as u64).iter().map(|g| g.end - g.start).sum();
        assert_eq!(open, (SIZE - present) as u64);
        let part = &out[10..50];
        let mut again = vec![0xee; 40];
        dirty.copy_to(10, &mut again);
        assert_eq!(again, part);
    }

    proptest! {
        #[test]
        fn spans_behave_like_an_array(steps in steps()) {
            let mut dirty = Dirty::new(BLOCK);
            let mut model: Vec<Option<u8>> = vec![None; SIZE];
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let before = dirty.bytes();
                        let added = dirty.write(at, &data);
                        prop_assert_eq!(dirty.bytes(), before + added);
                        for (place, byte) in model[at as usize..].iter_mut().zip(data) {
                            *place = Some(byte);
                        }
                    }
                    Step::Fill(at, data) => {
                        dirty.fill(at, &data);
                        for (place, byte) in model[at as usize..].iter_mut().zip(data) {
                            place.get_or_insert(byte);
                        }
                    }
                    Step::Clip(size) => {
                        dirty.clip(size);
                        model[size as usize..].fill(None);
                    }
                    Step::Take(full_only) => {
                        for segment in dirty.take(full_only) {
                            let block = segment.offset / BLOCK;
                            prop_assert!(segment.offset + segment.len() <= (block + 1) * BLOCK);
                            if full_only {
                                prop_assert_eq!(segment.data.len() as u64, BLOCK);
                            }
                            for (at, byte) in (segment.offset..).zip(segment.data) {
                                prop_assert_eq!(model[at as usize].take(), Some(byte));
                            }
                        }
                    }
                }
                check(&dirty, &model);
            }
            let rest = dirty.take(false);
            prop_assert!(rest.windows(2).all(|w| w[0].offset + w[0].len() <= w[1].offset));
            prop_assert_eq!(rest.iter().map(|s| s.data.len()).sum::<usize>(),
                model.iter().flatten().count());
            prop_assert!(dirty.is_empty());
        }
    }
}
