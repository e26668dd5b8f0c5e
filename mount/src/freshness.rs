//! May the kernel keep an answer? Not when the right to it was recalled while
//! it was on its way, nor when an operation of this mount has changed the
//! inode meanwhile: the kernel would keep something old for the whole time it
//! is told.
//!
//! An answer is checked and handed to the kernel under a shared lock, and a
//! recall takes it exclusively for a moment before it drops the kernel's
//! caches: so whatever was checked before is in those caches by then.

use parking_lot::{RwLock, RwLockReadGuard};

/// Inodes share marks by this many classes; a collision costs an answer its
/// time in the cache, no more.
const CLASSES: u64 = 4096;

/// A moment in the order of recalls and changes, taken before a question is
/// sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    recalls: u64,
    changes: u64,
}

impl Stamp {
    /// As this, though an operation of this mount has changed the inode since,
    /// by what its answer or its maker knows.
    #[must_use]
    pub fn after_own(self, own: Stamp) -> Stamp {
        Stamp { recalls: self.recalls, changes: own.changes }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    recalled: u64,
    changed: u64,
    /// Changes under way.
    busy: u32,
}

impl Mark {
    fn permits(&self, stamp: Stamp) -> bool {
        self.busy == 0 && self.recalled <= stamp.recalls && self.changed <= stamp.changes
    }
}

#[derive(Debug)]
struct Marks {
    now: u64,
    /// Of every inode.
    all: Mark,
    by_class: Vec<Mark>,
}

impl Marks {
    fn next(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn of(&mut self, ino: u64) -> &mut Mark {
        match self.by_class.get_mut(class(ino)) {
            Some(mark) => mark,
            None => &mut self.all,
        }
    }
}

fn class(ino: u64) -> usize {
    usize::try_from(ino % CLASSES).unwrap_or(0)
}

/// What was recalled and changed, by the kernel's inode numbers.
#[derive(Debug)]
pub struct Freshness(RwLock<Marks>);

impl Default for Freshness {
    fn default() -> Freshness {
        let by_class = vec![Mark::default(); class(CLASSES - 1) + 1];
        Freshness(RwLock::new(Marks { now: 0, all: Mark::default(), by_class }))
    }
}

impl Freshness {
    /// To be taken before a question is sent.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let now = self.0.read().now;
        Stamp { recalls: now, changes: now }
    }

    /// The rights to these inodes are recalled.
    pub fn recalled(&self, inos: impl IntoIterator<Item = u64>) {
        let mut marks = self.0.write();
        let now = marks.next();
        inos.into_iter().for_each(|ino| marks.of(ino).recalled = now);
    }

    /// All rights are.
    pub fn recalled_all(&self) {
        let mut marks = self.0.write();
        marks.all.recalled = marks.next();
    }

    /// An operation that changes these inodes is about to be sent; it is
    /// under way until the guard is dropped.
    pub fn change(&self, inos: &[u64]) -> Change<'_> {
        self.begin(inos.to_vec(), false)
    }

    /// As [`Freshness::change`], of these and of inodes that are not known here.
    pub fn change_any(&self, known: &[u64]) -> Change<'_> {
        self.begin(known.to_vec(), true)
    }

    fn begin(&self, inos: Vec<u64>, any: bool) -> Change<'_> {
        let mut marks = self.0.write();
        let began = marks.next();
        let mark = |mark: &mut Mark| {
            mark.changed = began;
            mark.busy = mark.busy.saturating_add(1);
        };
        inos.iter().for_each(|ino| mark(marks.of(*ino)));
        if any {
            mark(&mut marks.all);
        }
        Change { freshness: self, inos, any, began, ended: false }
    }

    /// To check answers, and to hand them to the kernel while this is held.
    pub fn reading(&self) -> Reading<'_> {
        Reading(self.0.read())
    }
}

/// A change under way.
#[derive(Debug)]
pub struct Change<'f> {
    freshness: &'f Freshness,
    inos: Vec<u64>,
    any: bool,
    began: u64,
    ended: bool,
}

impl Change<'_> {
    /// The moment of the sending, for what the answer says of other inodes.
    #[must_use]
    pub fn sent(&self) -> Stamp {
        Stamp { recalls: self.began, changes: self.began }
    }

    /// It was answered. The stamp is for what the answer says of the inodes
    /// changed: good if nothing else changed them meanwhile.
    #[must_use]
    pub fn answered(mut self) -> Stamp {
        self.end()
    }

    fn end(&mut self) -> Stamp {
        self.ended = true;
        let mut marks = self.freshness.0.write();
        let now = marks.next();
        let (began, mut alone) = (self.began, true);
        let mut mark = |mark: &mut Mark| {
            alone &= mark.busy == 1 && mark.changed == began;
            mark.busy = mark.busy.saturating_sub(1);
            mark.changed = now;
        };
        self.inos.iter().for_each(|ino| mark(marks.of(*ino)));
        if self.any {
            mark(&mut marks.all);
        }
        Stamp { recalls: began, changes: if alone { now } else { 0 } }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// No recall comes between what is checked here and what is done before this
/// is dropped.
#[derive(Debug)]
pub struct Reading<'f>(RwLockReadGuard<'f, Marks>);

impl Reading<'_> {
    /// May what was asked for at `stamp` about this inode be kept?
    #[must_use]
    pub fn permits(&self, ino: u64, stamp: Stamp) -> bool {
        let of_ino = self.0.by_class.get(class(ino));
        self.0.all.permits(stamp) && of_ino.is_some_and(|mark| mark.permits(stamp))
    }

    /// Has no recall of it come since? (Own changes do not matter.)
    #[must_use]
    pub fn not_recalled(&self, ino: u64, stamp: Stamp) -> bool {
        let of_ino = self.0.by_class.get(class(ino));
        let before = |mark: &Mark| mark.recalled <= stamp.recalls;
        before(&self.0.all) && of_ino.is_some_and(before)
    }

    /// Has nobody changed this very inode since, here or elsewhere, that is
    /// known of?
    #[must_use]
    pub fn is_unchanged(&self, ino: u64, stamp: Stamp) -> bool {
        self.0.by_class.get(class(ino)).is_some_and(|mark| mark.permits(stamp))
    }

    /// This moment: whatever is recalled after it finds what is told under it.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { recalls: self.0.now, changes: self.0.now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_overtaken_by_a_recall_is_not_kept() {
        let fresh = Freshness::default();
        let before = fresh.stamp();
        assert!(fresh.reading().permits(5, before));
        fresh.recalled([5]);
        assert!(!fresh.reading().permits(5, before));
        assert!(fresh.reading().permits(6, before));
        let after = fresh.stamp();
        assert!(fresh.reading().permits(5, after));
        fresh.recalled_all();
        assert!(!fresh.reading().permits(5, after));
        assert!(!fresh.reading().permits(6, after));
        let after = fresh.stamp();
        assert!(fresh.reading().permits(6, after));
    }

    #[test]
    fn an_answer_from_during_a_change_is_not_kept_but_that_of_the_change_is() {
        let fresh = Freshness::default();
        let before = fresh.stamp();
        let change = fresh.change(&[5, 6]);
        let during = fresh.stamp();
        assert!(!fresh.reading().permits(5, before) && !fresh.reading().permits(5, during));
        assert!(fresh.reading().permits(7, change.sent()));
        let own = change.answered();
        assert!(fresh.reading().permits(5, own) && fresh.reading().permits(6, own));
        assert!(!fresh.reading().permits(5, before) && !fresh.reading().permits(5, during));
        fresh.recalled([6]);
        assert!(fresh.reading().permits(5, own) && !fresh.reading().permits(6, own));
    }

    #[test]
    fn of_two_changes_at_once_neither_answer_is_kept() {
        let fresh = Freshness::default();
        let (one, two) = (fresh.change(&[5]), fresh.change(&[5]));
        let one = one.answered();
        assert!(!fresh.reading().permits(5, one), "the other is under way");
        let two = two.answered();
        assert!(!fresh.reading().permits(5, one) && !fresh.reading().permits(5, two));
    }

    #[test]
    fn a_recall_during_a_change_takes_its_answer_too() {
        let fresh = Freshness::default();
        let change = fresh.change(&[5]);
        fresh.recalled([5]);
        let own = change.answered();
        assert!(!fresh.reading().permits(5, own));
        let stamp = fresh.stamp();
        drop(fresh.change_any(&[]));
        assert!(!fresh.reading().permits(9, stamp), "given up is changed as well");
        let after = fresh.stamp();
        assert!(fresh.reading().permits(9, after));
    }
}
