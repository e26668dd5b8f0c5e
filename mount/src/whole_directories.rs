//! Directories of which this mount knows every name, so that it need not ask
//! whether another one is there: it has made them, they were empty then, and
//! nobody else has changed them while it may keep their names.
//!
//! What is kept is a superset: names that may be there. One is added before
//! the operation that makes it is sent, and none is ever taken away, so that
//! it does not matter which of two operations meta carries out first.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use parking_lot::Mutex;

use crate::freshness::{Reading, Stamp};

/// Names of one directory; beyond, meta is asked.
const NAMES_MAX: usize = 65_536;
/// Directories, some 200 bytes each and their names.
const DIRECTORIES_MAX: usize = 4096;
/// Names of all directories together.
const TOTAL_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Whole {
    names: HashSet<Bytes>,
    /// When its names were granted: no recall has come since.
    stamp: Stamp,
    /// Until when they are.
    until: BootTime,
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
        self.by_ino.retain(|_, whole| whole.until > now);
        self.total = self.by_ino.values().map(|whole| whole.names.len()).sum();
    }
}

/// By the kernel's inode numbers.
#[derive(Debug, Default)]
pub struct WholeDirectories(Mutex<Inner>);

impl WholeDirectories {
    /// This mount has made a directory, which is empty, and may keep its names
    /// until then. To be called while it is sure that no recall has come since
    /// `stamp`, and before the kernel is told of the directory.
    pub fn made(&self, _: &Reading<'_>, ino: u64, stamp: Stamp, until: BootTime) {
        let mut inner = self.0.lock();
        if inner.by_ino.len() >= DIRECTORIES_MAX {
            inner.sweep(BootTime::now());
        }
        if inner.by_ino.len() < DIRECTORIES_MAX {
            inner.remove(ino);
            inner.by_ino.insert(ino, Whole { names: HashSet::new(), stamp, until });
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
        if let Some(whole) = self.0.lock().by_ino.get_mut(&ino)
            && BootTime::now() < whole.until
        {
            whole.until = whole.until.max(until);
        }
    }

    /// Until when it is known that the directory has no such name, if it is.
    #[must_use]
    pub fn is_absent(&self, reading: &Reading<'_>, ino: u64, name: &[u8]) -> Option<BootTime> {
        let mut inner = self.0.lock();
        let whole = inner.by_ino.get(&ino)?;
        if !reading.not_recalled(ino, whole.stamp) || whole.until <= BootTime::now() {
            inner.remove(ino);
            return None;
        }
        (!whole.names.contains(name)).then_some(whole.until)
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
        whole.made(&fresh.reading(), 5, fresh.stamp(), later(10));
        assert!(is_absent(&whole, &fresh, "a") && is_absent(&whole, &fresh, "b"));
        whole.adding(5, b"a");
        assert!(!is_absent(&whole, &fresh, "a") && is_absent(&whole, &fresh, "b"));
        assert!(is_absent(&whole, &fresh, ""));
        // Own changes of the directory change nothing.
        drop(fresh.change(&[5]));
        assert!(is_absent(&whole, &fresh, "b"));
        fresh.recalled([5]);
        assert!(!is_absent(&whole, &fresh, "b"));
        whole.made(&fresh.reading(), 5, fresh.stamp(), later(10));
        assert!(is_absent(&whole, &fresh, "b"));
        fresh.recalled_all();
        assert!(!is_absent(&whole, &fresh, "b"));
    }

    #[test]
    fn what_was_asked_for_before_a_recall_is_not_known() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        let asked = fresh.stamp();
        fresh.recalled([5]);
        whole.made(&fresh.reading(), 5, asked, later(10));
        assert!(!is_absent(&whole, &fresh, "a"));
    }

    #[test]
    fn a_grant_goes_on_only_without_a_gap() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        whole.made(&fresh.reading(), 5, fresh.stamp(), BootTime::now());
        whole.granted(5, later(10));
        assert!(!is_absent(&whole, &fresh, "a"), "somebody may have come between");
        whole.made(&fresh.reading(), 5, fresh.stamp(), later(5));
        whole.granted(5, later(60));
        let until = whole.is_absent(&fresh.reading(), 5, b"a").unwrap();
        assert!(until.left() > Duration::from_secs(50));
    }

    #[test]
    fn more_names_than_are_kept_are_asked_for() {
        let (whole, fresh) = (WholeDirectories::default(), Freshness::default());
        whole.made(&fresh.reading(), 5, fresh.stamp(), later(600));
        for n in 0..NAMES_MAX {
            whole.adding(5, n.to_string().as_bytes());
        }
        assert!(is_absent(&whole, &fresh, "a"));
        whole.adding(5, b"one more");
        assert!(!is_absent(&whole, &fresh, "a"));
        assert_eq!(whole.0.lock().total, 0);
        for ino in 0..DIRECTORIES_MAX as u64 + 9 {
            whole.made(&fresh.reading(), 10 + ino, fresh.stamp(), later(600));
        }
        assert_eq!(whole.0.lock().by_ino.len(), DIRECTORIES_MAX);
    }
}
