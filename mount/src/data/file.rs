//! What is known and buffered of one inode's contents. One lock, held for
//! the time of copying bytes at most.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, limits};
use flexfs_proto::v1;

use super::dirty::{self, Dirty, Segment};
use super::extents::{Told, Windows};
use super::failures::Failures;
use super::held::HeldFile;
use super::prefetch::Pattern;
use super::right::WriteRight;
use super::turns::Turns;

/// How meta keeps the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Not asked yet, or changed by somebody else.
    Unknown,
    /// In the metadata, whole; empty for an empty file.
    Inline(Bytes),
    /// In objects.
    Extents,
}

/// Who wrote last: whose commit it is.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) caller: v1::Caller,
    pub(super) open_id: u64,
}

/// The kernel's pages of the file.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Somebody else changed the contents, or may have, since they were filled.
    stale: bool,
    /// How often that was noticed.
    count: u64,
}

/// They were found to be old so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale(u64);

impl Pages {
    pub(super) fn are_old(&mut self) {
        self.stale = true;
        self.count += 1;
    }

    pub(super) fn stale(&self) -> Option<Stale> {
        self.stale.then_some(Stale(self.count))
    }

    /// All of them that were old then are gone; what has become old since may
    /// still be there.
    pub(super) fn dropped(&mut self, then: Stale) {
        if then.0 == self.count {
            self.stale = false;
        }
    }
}

/// The state behind the lock.
#[derive(Debug)]
pub(super) struct FileState {
    /// Size at meta, as last heard.
    pub(super) size: u64,
    /// Change counter that `size`, `form` and `windows` belong to.
    pub(super) change: u64,
    /// False after a recall: ask before using `size`.
    pub(super) size_known: bool,
    pub(super) form: Form,
    pub(super) windows: Windows,
    /// Rises when what is cached is dropped: an answer asked for before that
    /// is not cached.
    pub(super) era: u64,
    /// Written and not yet on its way.
    pub(super) dirty: Dirty,
    /// On its way to meta; older than `dirty`.
    pub(super) flight: BTreeMap<u64, Bytes>,
    /// What of `flight` is not written but copied from inline contents.
    filled: Vec<Range<u64>>,
    /// Until then the size, form and windows need no asking.
    pub(super) valid_until: Option<BootTime>,
    /// Bytes of the mount's write-back budget that this file holds.
    pub(super) charged: u64,
    pub(super) dirty_since: Option<Instant>,
    pub(super) mtime: Option<v1::Timestamp>,
    pub(super) writer: Option<Writer>,
    pub(super) failures: Failures,
    /// The last flush failed for lack of room: writers are told at once.
    pub(super) full: Option<Error>,
    pub(super) opens: u32,
    /// A flush failed then: the next comes no sooner than the usual age.
    pub(super) failed_at: Option<Instant>,
    /// Every flush, in the background or waited for.
    pub(super) turns: Turns,
    /// A background flush runs.
    pub(super) flushing: bool,
    pub(super) pages: Pages,
    /// The attributes after our last commit, until somebody else's come.
    pub(super) committed: Option<v1::Attr>,
    pub(super) pattern: Pattern,
    pub(super) right: WriteRight,
    /// It was made here, and meta does not know of it yet.
    pub(super) held: Option<Box<HeldFile>>,
}

impl FileState {
    pub(super) fn new(attr: &v1::Attr, block_size: u32) -> FileState {
        let mut state = FileState {
            size: 0,
            change: 0,
            size_known: false,
            form: Form::Unknown,
            windows: Windows::default(),
            era: 0,
            dirty: Dirty::new(u64::from(block_size)),
            flight: BTreeMap::new(),
            filled: Vec::new(),
            valid_until: None,
            charged: 0,
            dirty_since: None,
            mtime: None,
            writer: None,
            failures: Failures::default(),
            full: None,
            opens: 0,
            failed_at: None,
            turns: Turns::default(),
            flushing: false,
            pages: Pages::default(),
            committed: None,
            pattern: Pattern::default(),
            right: WriteRight::default(),
            held: None,
        };
        state.adopt(attr);
        state
    }

    /// Fresh attributes from meta. Answers overtake each other: an older
    /// change counter says nothing new.
    pub(super) fn learn(&mut self, attr: &v1::Attr) {
        if attr.change > self.change || (!self.size_known && attr.change == self.change) {
            let same = attr.change == self.change;
            if !same {
                self.forget();
                self.pages.are_old();
            }
            self.adopt(attr);
        }
    }

    /// Takes size and change counter; what was cached is gone already.
    pub(super) fn adopt(&mut self, attr: &v1::Attr) {
        self.size = attr.size;
        self.change = attr.change;
        self.size_known = true;
        self.committed = None;
        if attr.size == 0 && attr.blocks == 0 {
            self.form = Form::Inline(Bytes::new());
        }
    }

    /// An operation of this mount has changed the attributes, and nobody else
    /// has changed anything between: what is cached stays good.
    pub(super) fn own_change(&mut self, attr: &v1::Attr) {
        if self.size_known && self.size == attr.size && self.change + 1 == attr.change {
            self.change = attr.change;
            self.committed = None;
        }
    }

    /// Drops what is cached of meta's answers.
    pub(super) fn forget(&mut self) {
        if self.held.is_some() {
            // Meta has told nothing of it.
            return;
        }
        self.era += 1;
        self.valid_until = None;
        self.form = Form::Unknown;
        self.windows.clear();
        self.size_known = false;
        self.committed = None;
    }

    /// Drops the extents with their URLs; size and form stay.
    pub(super) fn forget_urls(&mut self) {
        self.windows.clear();
    }

    /// Takes over what meta told, unless something was dropped since `era`.
    pub(super) fn take_told(&mut self, told: &Told, era: u64) -> bool {
        if era != self.era || told.change < self.change {
            return false;
        }
        if told.change != self.change {
            self.pages.are_old();
            self.windows.clear();
            self.committed = None;
        }
        self.change = told.change;
        self.size = told.size;
        self.size_known = true;
        match &told.inline {
            Some(inline) => self.form = Form::Inline(inline.clone()),
            None if told.size == 0 && told.pieces.is_empty() => {
                self.form = Form::Inline(Bytes::new());
            }
            None => {
                self.form = Form::Extents;
                self.windows.insert(told.window.clone(), told.pieces.clone(), told.until);
            }
        }
        true
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.flight.is_empty() && self.held.is_none()
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        let flying: usize = self.flight.values().map(Bytes::len).sum();
        self.dirty.bytes() + u64::try_from(flying).unwrap_or(u64::MAX)
    }

    /// End of what is written here and not committed.
    pub(super) fn dirty_end(&self) -> u64 {
        let flying = self
            .flight
            .last_key_value()
            .map_or(0, |(at, data)| at + u64::try_from(data.len()).unwrap_or(0));
        self.dirty.end().max(flying)
    }

    pub(super) fn size_now(&self) -> u64 {
        self.size.max(self.dirty_end())
    }

    /// Copies what is written here over `out`, which begins at `offset`.
    pub(super) fn overlay(&self, offset: u64, out: &mut [u8]) {
        let end = offset + u64::try_from(out.len()).unwrap_or(0);
        for (start, data) in self.flight.range(..end) {
            dirty::copy_span(*start, data, offset, out);
        }
        self.dirty.copy_to(offset, out);
    }

    /// What of `range` is not written here.
    pub(super) fn not_written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let flying = || {
            self.flight.iter().map(|(at, data)| *at..at + u64::try_from(data.len()).unwrap_or(0))
        };
        self.dirty.gaps(range).into_iter().flat_map(|gap| dirty::gaps(gap, flying())).collect()
    }

    /// Moves written bytes on their way. What is left of a flush that was given
    /// up comes back before.
    pub(super) fn take_off(&mut self, full_only: bool) -> Vec<Segment> {
        if !self.flight.is_empty() {
            self.turn_back();
        }
        let segments = self.dirty.take(full_only);
        self.flight = segments.iter().map(|s| (s.offset, s.data.clone())).collect();
        if self.dirty.is_empty() && self.held.is_none() {
            self.dirty_since = None;
        }
        segments
    }

    /// A commit of ours has changed the file to `attr` (`None`: meta did not
    /// say) and left its contents in this form.
    pub(super) fn committed(&mut self, attr: Option<v1::Attr>, form: Form) {
        self.windows.clear();
        match attr {
            Some(attr) if attr.change >= self.change => {
                // Ours is one; more than one is others'.
                if attr.change > self.change + 1 {
                    self.pages.are_old();
                }
                self.adopt(&attr);
                self.form = form;
                self.committed = Some(attr);
            }
            // Somebody else's change is newer than ours.
            Some(_) | None => {
                self.forget();
                self.pages.are_old();
            }
        }
    }

    /// How much of a segment is still wanted: less when the file was
    /// truncated meanwhile, nothing when it was discarded.
    pub(super) fn still_flying(&self, segment: &Segment) -> u64 {
        let data = self.flight.get(&segment.offset);
        data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(0))
    }

    /// Makes the inline contents part of what is written, where nothing is.
    pub(super) fn fill_inline(&mut self, inline: &[u8]) {
        self.filled = self.dirty.gaps(0..u64::try_from(inline.len()).unwrap_or(0));
        self.dirty.fill(0, inline);
    }

    /// Everything that was on its way has arrived.
    pub(super) fn all_landed(&mut self) {
        self.flight.clear();
        self.filled.clear();
    }

    /// What did not arrive is dirty again, under what was written since.
    /// Copies of inline contents are dropped: they may be old by now.
    pub(super) fn turn_back(&mut self) {
        let filled = std::mem::take(&mut self.filled);
        for (offset, data) in std::mem::take(&mut self.flight) {
            let end = offset + u64::try_from(data.len()).unwrap_or(0);
            for written in dirty::gaps(offset..end, filled.iter().cloned()) {
                let at = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
                let part = data.get(at(written.start)..at(written.end)).unwrap_or_default();
                self.dirty.fill(written.start, part);
            }
        }
        if !self.dirty.is_empty() || self.held.is_some() {
            // From now: the next attempt comes after the usual age.
            self.dirty_since = Some(Instant::now());
        }
    }

    pub(super) fn backing_off(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < limits::WRITE_BACK_AGE)
    }

    /// Drops everything written. Returns its bytes.
    pub(super) fn discard(&mut self) -> u64 {
        let lost = self.dirty_bytes();
        if self.held.take().is_some() {
            // Nobody will ever know of it.
            self.right.give_up();
        }
        self.right.nothing_left();
        self.clip(0);
        self.mtime = None;
        self.full = None;
        lost
    }

    /// Drops what is written at and beyond `size`.
    pub(super) fn clip(&mut self, size: u64) {
        self.dirty.clip(size);
        drop(self.flight.split_off(&size));
        if let Some((start, data)) = self.flight.range_mut(..size).next_back() {
            data.truncate(usize::try_from(size - *start).unwrap_or(usize::MAX));
        }
        if self.dirty.is_empty() && self.held.is_none() {
            self.dirty_since = None;
        }
    }

    /// Bytes of the budget that are held for nothing any more.
    pub(super) fn settle(&mut self) -> u64 {
        let excess = self.charged.saturating_sub(self.dirty_bytes());
        self.charged -= excess;
        excess
    }
}

/// Lack of room: told to writers at once, because more would not fit either.
pub(super) fn is_lack_of_room(error: &Error) -> bool {
    matches!(error.code(), Code::FsNoSpace | Code::FsQuota)
}
