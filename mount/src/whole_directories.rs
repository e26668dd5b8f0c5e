//! Directories of which this mount knows every name, so that it need not ask
//! whether another one is there: it has made them, they were empty then, and
//! nobody else has changed them while it may keep their names, or has the right
//! to make files in them. With that right it also knows their attributes.
//!
//! What is kept is a superset: names that may be there. One is added before
//! the operation that makes it is sent, and none is ever taken away, so that
//! it does not matter which of two operations meta carries out first.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_proto::v1;
use parking_lot::Mutex;

use crate::freshness::{Reading, Stamp};
use crate::fs::Asked;

/// Names of one directory; beyond, meta is asked.
const NAMES_MAX: usize = 65_536;
/// Directories, some 500 bytes each and their names.
const DIRECTORIES_MAX: usize = 4096;
/// Names of all directories together.
const TOTAL_MAX: usize = 1 << 20;

/// The right to make files in a directory and tell meta later.
#[derive(Debug, Clone)]
pub struct Making {
    /// Its number.
    pub number: u64,
    /// When it ends by itself.
    pub until: BootTime,
    /// The directory's attributes, while nothing has changed them but this.
    pub attr: Option<(v1::Attr, Asked)>,
}

#[derive(Debug)]
struct Whole {
    names: HashSet<Bytes>,
    /// When its names were granted: no recall has come since.
    stamp: Stamp,
    /// Until when the kernel may keep them.
    until: BootTime,
    making: Option<Making>,
    /// Rises with every change made here.
    changes: u64,
}

impl Whole {
    fn making(&mut self, now: BootTime) -> Option<&mut Making> {
        self.making.as_mut().filter(|making| making.until > now)
    }

    fn is_over(&mut self, now: BootTime) -> bool {
        self.until <= now && self.making(now).is_none()
    }
}

#[derive(Debug, Default)]
struct Inner {
    by_ino: HashMap<u64, Whole>,
    /// Names in all of them.
    total: usize,
}

impl Inner {
    fn remove(&mut self, ino: u64) {
        if let Some(whole) = self.by_ino.remove(&ino) {
            self.total = self.total.saturating_sub(whole.names.len());
        }
    }

    /// Forgets what is over.
    fn sweep(&mut self, now: BootTime) {
        self.by_ino.retain(|_, whole| !whole.is_over(now));
        self.total = self.by_ino.values().map(|whole| whole.names.len()).sum();
    }

    /// What is known of a directory, if it is still.
    fn known(&mut self, reading: &Reading<'_>, ino: u64, now: BootTime) -> Option<&mut Whole> {
        let whole = self.by_ino.get_mut(&ino)?;
        if !reading.not_recalled(ino, whole.stamp) || whole.is_over(now) {
            self.remove(ino);
            return None;
        }
        self.by_ino.get_mut(&ino)
    }
}

/// By the kernel's inode numbers.
#[derive(Debug, Default)]
pub struct WholeDirectories(Mutex<Inner>);

impl WholeDirectories {
    /// This mount has made a directory, which is empty, and may keep its names
    /// until then. To be called while it is sure that no recall has come since
    /// `stamp`, and before the kernel is told of the directory.
    pub fn made(
        &self,
        _: &Reading<'_>,
        ino: u64,
        (stamp, until): (Stamp, BootTime),
        making: Option<Making>,
    ) {
        let mut inner = self.0.lock();
        if inner.by_ino.len() >= DIRECTORIES_MAX {
            inner.sweep(BootTime::now());
        }
        if inner.by_ino.len() < DIRECTORIES_MAX {
            inner.remove(ino);
            let names = HashSet::new();
            inner.by_ino.insert(ino, Whole { names, stamp, until, making, changes: 0 });
        }
    }

    /// An operation that may bring this name to the directory is about to be
    /// sent.
    pub fn adding(&self, ino: u64, name: &[u8]) {
        let mut inner = self.0.lock();
        let full = inner.total >= TOTAL_MAX;
        let Some(whole) = inner.by_ino.get_mut(&ino) else { return };
        if full || whole.names.len() >= NAMES_MAX {
            inner.remove(ino);
        } else if whole.names.insert(Bytes::copy_from_slice(name)) {
            inner.total += 1;
        }
    }

    /// Meta has granted the names of the directory anew, until then. Only good
    /// while they were still granted: else somebody may have changed it between.
    pub fn granted(&self, ino: u64, until: BootTime) {
        let now = BootTime::now();
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino)
            && !whole.is_over(now)
        {
            whole.until = whole.until.max(until);
        }
    }

    /// That the directory has no such name, if it is known, and until when the
    /// kernel may keep that.
    #[must_use]
    pub fn is_absent(&self, reading: &Reading<'_>, ino: u64, name: &[u8]) -> Option<BootTime> {
        let mut inner = self.0.lock();
        let whole = inner.known(reading, ino, BootTime::now())?;
        (!whole.names.contains(name)).then_some(whole.until)
    }

    /// Is there a right to make files in the directory? It may have been taken
    /// back: [`WholeDirectories::make_here`] finds out.
    #[must_use]
    pub fn may_make(&self, ino: u64) -> bool {
        self.0.lock().by_ino.get_mut(&ino).is_some_and(|w| w.making(BootTime::now()).is_some())
    }

    /// Makes a file of this name in the directory, if that may be done here:
    /// `make` is called with the number of the right. Returns what it has
    /// returned, and until when the kernel may keep the name.
    pub fn make_here<M>(
        &self,
        reading: &Reading<'_>,
        (ino, name): (u64, &[u8]),
        at: v1::Timestamp,
        make: impl FnOnce(u64) -> Option<M>,
    ) -> Option<(M, BootTime)> {
        let (now, mut inner) = (BootTime::now(), self.0.lock());
        let full = inner.total >= TOTAL_MAX;
        let whole = inner.known(reading, ino, now)?;
        if full || whole.names.len() >= NAMES_MAX || whole.names.contains(name) {
            return None;
        }
        let making = whole.making(now)?;
        let made = make(making.number)?;
        if let Some((attr, _)) = &mut making.attr {
            let key = |at: &v1::Timestamp| (at.seconds, at.nanos);
            for time in [&mut attr.mtime, &mut attr.ctime] {
                if time.as_ref().map(key) < Some(key(&at)) {
                    *time = Some(at);
                }
            }
        }
        whole.changes += 1;
        whole.names.insert(Bytes::copy_from_slice(name));
        let until = whole.until;
        inner.total += 1;
        Some((made, until))
    }

    /// The attributes of the directory with what was made here, if they are
    /// known, and from when they are.
    #[must_use]
    pub fn attr(&self, reading: &Reading<'_>, ino: u64) -> Option<(v1::Attr, Asked)> {
        let (now, mut inner) = (BootTime::now(), self.0.lock());
        inner.known(reading, ino, now)?.making(now)?.attr
    }

    /// To be taken before the attributes are asked for.
    #[must_use]
    pub fn changes(&self, ino: u64) -> u64 {
        self.0.lock().by_ino.get(&ino).map_or(0, |whole| whole.changes)
    }

    /// Meta has answered the attributes of the directory.
    pub fn learn(&self, reading: &Reading<'_>, ino: u64, changes: u64, answer: (v1::Attr, Asked)) {
        let (now, mut inner) = (BootTime::now(), self.0.lock());
        let Some(whole) = inner.known(reading, ino, now) else { return };
        if whole.changes == changes
            && reading.permits(ino, answer.1.stamp)
            && let Some(making) = whole.making(now)
        {
            making.attr = Some(answer);
        }
    }

    /// The directory was read.
    pub fn accessed(&self, ino: u64, at: v1::Timestamp) {
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino)
            && let Some((attr, _)) = whole.making.as_mut().and_then(|making| making.attr.as_mut())
        {
            attr.atime = Some(at);
        }
    }

    /// Nothing has changed the directory but what was made here, up to this
    /// change.
    pub fn unchanged_but_here(&self, ino: u64, stamp: Stamp) {
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino)
            && let Some((_, asked)) = whole.making.as_mut().and_then(|making| making.attr.as_mut())
        {
            asked.stamp = asked.stamp.after_own(stamp);
        }
    }

    /// An operation that changes the directory is about to be sent.
    pub fn changing(&self, ino: u64) {
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino) {
            whole.changes += 1;
            if let Some(making) = &mut whole.making {
                making.attr = None;
            }
        }
    }

    /// The same of one that only the kernel knows.
    pub fn changing_any(&self) {
        for whole in self.0.lock().by_ino.values_mut() {
            whole.changes += 1;
            if let Some(making) = &mut whole.making {
                making.attr = None;
            }
        }
    }

    /// Nothing is made here any more: whose files are in it, or who may make
    /// some, changes.
    pub fn stop_making(&self, ino: u64) {
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino) {
            whole.making = None;
        }
    }

    /// The kernel has forgotten the directory.
    pub fn forget(&self, ino: u64) {
        self.0.lock().remove(ino);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::freshness::Freshness;

    fn later(seconds: u64) -> BootTime {
        BootTime::now().after(Duration::from_secs(seconds))
    }

    fn is_absent(whole: &WholeDirectories, fresh: &Freshness, name: &str) -> bool {
        whole.is_absent(&fresh.reading(), 5, name.as_bytes()).is_some()
    }

    #[test]
    fn a_name_is_absent_until_somebody_may_have_made_it() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        assert!(!is_absent(&whole, &fresh, "a"), "not made here");
        whole.made(&fresh.reading(), 5, (fresh.stamp(), later(10)), None);
        assert!(is_absent(&whole, &fresh, "a") && is_absent(&whole, &fresh, "b"));
        whole.adding(5, b"a");
        assert!(!is_absent(&whole, &fresh, "a") && is_absent(&whole, &fresh, "b"));
        assert!(is_absent(&whole, &fresh, ""));
        // Own changes of the directory change nothing.
        drop(fresh.change(&[5]));
        assert!(is_absent(&whole, &fresh, "b"));
        fresh.recalled([5]);
        assert!(!is_absent(&whole, &fresh, "b"));
        whole.made(&fresh.reading(), 5, (fresh.stamp(), later(10)), None);
        assert!(is_absent(&whole, &fresh, "b"));
        fresh.recalled_all();
        assert!(!is_absent(&whole, &fresh, "b"));
    }

    #[test]
    fn what_was_asked_for_before_a_recall_is_not_known() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        let asked = fresh.stamp();
        fresh.recalled([5]);
        whole.made(&fresh.reading(), 5, (asked, later(10)), None);
        assert!(!is_absent(&whole, &fresh, "a"));
    }

    #[test]
    fn a_grant_goes_on_only_without_a_gap() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        whole.made(&fresh.reading(), 5, (fresh.stamp(), BootTime::now()), None);
        whole.granted(5, later(10));
        assert!(!is_absent(&whole, &fresh, "a"), "somebody may have come between");
        whole.made(&fresh.reading(), 5, (fresh.stamp(), later(5)), None);
        whole.granted(5, later(60));
        let until = whole.is_absent(&fresh.reading(), 5, b"a").unwrap();
        assert!(until.left() > Duration::from_secs(50));
    }

    #[test]
    fn more_names_than_are_kept_are_asked_for() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        whole.made(&fresh.reading(), 5, (fresh.stamp(), later(600)), None);
        for n in 0..NAMES_MAX {
            whole.adding(5, n.to_string().as_bytes());
        }
        assert!(is_absent(&whole, &fresh, "a"));
        whole.adding(5, b"one more");
        assert!(!is_absent(&whole, &fresh, "a"));
        assert_eq!(whole.0.lock().total, 0);
        for ino in 0..DIRECTORIES_MAX as u64 + 9 {
            whole.made(&fresh.reading(), 10 + ino, (fresh.stamp(), later(600)), None);
        }
        assert_eq!(whole.0.lock().by_ino.len(), DIRECTORIES_MAX);
    }
}
