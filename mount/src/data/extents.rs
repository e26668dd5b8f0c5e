//! Where the bytes of a file lie, as far as meta has told: windows of the
//! file with their extents, until the signed URLs run out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use crate::codec;

/// Windows kept per file; beyond, those far from where it is read go.
pub(super) const WINDOWS_MAX: usize = 1024;
/// A URL is not used in the last part of its life: the request has to get
/// there, and clocks differ.
const URL_MARGIN_SHIFT: u32 = 3;

/// How long a window without extents is believed; recalls end it before.
const HOLES_MILLIS: u32 = 60_000;

/// One object, as meta names it.
#[derive(Clone, Debug)]
pub(super) struct ObjectRef {
    pub(super) id: ObjectId,
    /// Plain bytes of the whole object.
    pub(super) plain_len: u32,
    /// Signed GET URL.
    pub(super) url: Arc<str>,
}

/// A span of the file that lies in one object.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) object: ObjectRef,
    /// Where the span begins in the object's plain bytes.
    pub(super) object_offset: u64,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length
    }

    fn clipped(&self, range: &Range<u64>) -> Option<Piece> {
        let (start, end) = (self.offset.max(range.start), self.end().min(range.end));
        (start < end).then(|| Piece {
            offset: start,
            length: end - start,
            object: self.object.clone(),
            object_offset: self.object_offset + (start - self.offset),
        })
    }
}

#[derive(Debug)]
struct Window {
    end: u64,
    pieces: Vec<Piece>,
    until: Instant,
}

/// What is known of a file's extents.
#[derive(Debug, Default)]
pub(super) struct Windows(BTreeMap<u64, Window>);

impl Windows {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The pieces of `range`, in order, when all of it is known and usable
    /// at `now`; else the first offset that is not.
    pub(super) fn find(&self, range: &Range<u64>, now: Instant) -> Result<Vec<Piece>, u64> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let window = self.0.range(..=at).next_back().map(|(_, window)| window);
            let Some(window) = window.filter(|w| w.end > at && w.until > now) else {
                return Err(at);
            };
            let wanted = at..range.end.min(window.end);
            let first = window.pieces.partition_point(|piece| piece.end() <= wanted.start);
            let candidates = window.pieces.iter().skip(first);
            pieces.extend(
                candidates
                    .take_while(|piece| piece.offset < wanted.end)
                    .filter_map(|piece| piece.clipped(&wanted)),
            );
            at = wanted.end;
        }
        Ok(pieces)
    }

    /// Adds what meta told about `window`; what was known of it is replaced.
    pub(super) fn insert(&mut self, window: Range<u64>, pieces: Vec<Piece>, until: Instant) {
        if self.0.len() >= WINDOWS_MAX {
            let first = self.0.first_key_value().map_or(0, |(start, _)| *start);
            let last = self.0.last_key_value().map_or(0, |(start, _)| *start);
            if window.start.abs_diff(first) >= window.start.abs_diff(last) {
                self.0.pop_first();
            } else {
                self.0.pop_last();
            }
        }
        let overlapping: Vec<u64> = self
            .0
            .range(..window.end)
            .filter(|(_, known)| known.end > window.start)
            .map(|(start, _)| *start)
            .collect();
        for start in overlapping {
            self.0.remove(&start);
        }
        let pieces = pieces.iter().filter_map(|piece| piece.clipped(&window)).collect();
        self.0.insert(window.start, Window { end: window.end, pieces, until });
    }
}

/// A reply to ReadExtents, checked.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) window: Range<u64>,
    pub(super) pieces: Vec<Piece>,
    pub(super) inline: Option<bytes::Bytes>,
    pub(super) size: u64,
    pub(super) change: u64,
    pub(super) until: Instant,
}

impl Told {
    /// The pieces of `range`, when this answer covers it.
    pub(super) fn covering(&self, range: &Range<u64>) -> Option<Vec<Piece>> {
        let covers = self.window.start <= range.start && self.window.end >= range.end;
        covers.then(|| self.pieces.iter().filter_map(|piece| piece.clipped(range)).collect())
    }
}

/// Checks what meta says about `asked`; `sent` is when it was asked.
///
/// # Errors
/// `PROTOCOL_INVALID`.
pub(super) fn parse(map: v1::ExtentMap, asked: Range<u64>, sent: Instant) -> Result<Told> {
    let invalid = |what: &str| Error::new(Code::ProtocolInvalid, format!("extents {what}"));
    let end = match map.next_offset {
        0 => asked.end,
        next if next > asked.start => next.min(asked.end),
        _ => return Err(invalid("that lead backwards")),
    };
    let mut pieces = Vec::with_capacity(map.extents.len());
    let mut last_end = 0;
    for extent in map.extents {
        let end = extent.file_offset.checked_add(extent.length);
        let object_end = extent.object_offset.checked_add(extent.length);
        let plain_len = u32::try_from(extent.object_length).ok().filter(|l| *l <= codec::PLAIN_MAX);
        let (Some(end), Some(object_end), Some(plain_len)) = (end, object_end, plain_len) else {
            return Err(invalid("out of range"));
        };
        if extent.length == 0 || extent.file_offset < last_end || object_end > plain_len.into() {
            return Err(invalid("that overlap or reach beyond their objects"));
        }
        last_end = end;
        pieces.push(Piece {
            offset: extent.file_offset,
            length: extent.length,
            object: ObjectRef {
                id: ObjectId::from_slice(&extent.object_id)?,
                plain_len,
                url: extent.url.into(),
            },
            object_offset: extent.object_offset,
        });
    }
    // A window of holes has nothing that could run out; the bound is that of
    // any cached answer.
    let life = match pieces.is_empty() {
        true => HOLES_MILLIS,
        false => map.url_millis - (map.url_millis >> URL_MARGIN_SHIFT),
    };
    Ok(Told {
        window: asked.start..end,
        pieces,
        inline: map.inline_data,
        size: map.size,
        change: map.change,
        until: sent + Duration::from_millis(u64::from(life)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(file_offset: u64, length: u64, object: u8) -> v1::Extent {
        v1::Extent {
            file_offset,
            length,
            object_id: vec![object; 16],
            object_offset: 0,
            object_length: length,
            url: format!("/{object}"),
        }
    }

    fn told(extents: Vec<v1::Extent>, asked: Range<u64>, next_offset: u64) -> Result<Told> {
        let map = v1::ExtentMap { extents, next_offset, url_millis: 8000, ..Default::default() };
        parse(map, asked, Instant::now())
    }

    #[test]
    fn pieces_are_clipped_and_gaps_of_knowledge_are_named() {
        let now = Instant::now();
        let mut windows = Windows::default();
        let first = told(vec![extent(0, 10, 1), extent(20, 10, 2)], 0..100, 25).unwrap();
        assert_eq!(first.window, 0..25);
        windows.insert(first.window, first.pieces, first.until);
        let pieces = windows.find(&(5..25), now).unwrap();
        let spans: Vec<_> = pieces.iter().map(|p| (p.offset, p.length, p.object_offset)).collect();
        assert_eq!(spans, [(5, 5, 5), (20, 5, 0)]);
        assert_eq!(windows.find(&(5..26), now).unwrap_err(), 25);
        let second = told(vec![extent(20, 10, 2)], 25..100, 0).unwrap();
        windows.insert(second.window, second.pieces, second.until);
        let pieces = windows.find(&(24..40), now).unwrap();
        let spans: Vec<_> = pieces.iter().map(|p| (p.offset, p.length, p.object_offset)).collect();
        assert_eq!(spans, [(24, 1, 4), (25, 5, 5)]);
        assert_eq!(windows.find(&(0..1), now + Duration::from_millis(7500)).unwrap_err(), 0);
    }

    #[test]
    fn hostile_maps_are_refused() {
        let overlap = vec![extent(0, 10, 1), extent(9, 10, 2)];
        let beyond = v1::Extent { object_offset: 1, ..extent(0, 10, 1) };
        let huge = v1::Extent { object_length: u64::MAX, ..extent(0, 10, 1) };
        let wraps = extent(u64::MAX, 10, 1);
        let empty = extent(5, 0, 1);
        let short_id = v1::Extent { object_id: vec![1], ..extent(0, 10, 1) };
        for bad in [overlap, vec![beyond], vec![huge], vec![wraps], vec![empty], vec![short_id]] {
            assert_eq!(told(bad, 0..100, 0).unwrap_err().code(), Code::ProtocolInvalid);
        }
        assert!(told(vec![], 50..100, 50).is_err(), "no progress");
    }
}
