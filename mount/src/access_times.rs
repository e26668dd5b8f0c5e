//! What this mount has read lately, as far as it moves access times and meta
//! has not answered that it knows: shown to its own programs at once.

use std::collections::HashMap;

use flexfs_common::clock::BootTime;
use flexfs_common::relatime::key;
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Inodes; some 100 bytes each. What is read beyond moves no time.
const ACCESSES_MAX: usize = 16_384;
/// Operations under way that tell of directories and symbolic links.
const NOTES_PARALLEL: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It goes with the end of an open.
    NotYet,
    /// On its way.
    Sent,
    /// Meta has decided, before this moment: what it says later is so.
    Until(BootTime),
}

#[derive(Debug, Clone, Copy)]
struct Access {
    at: v1::Timestamp,
    /// The access time that was known then.
    before: v1::Timestamp,
    told: Told,
}

/// By the kernel's inode numbers.
#[derive(Debug)]
pub struct AccessTimes {
    inner: Mutex<HashMap<u64, Access>>,
    /// Turns of the operations that tell meta.
    pub notes: Semaphore,
}

impl Default for AccessTimes {
    fn default() -> AccessTimes {
        let notes = Semaphore::new(NOTES_PARALLEL);
        AccessTimes { inner: Mutex::default(), notes }
    }
}

impl AccessTimes {
    /// An inode was read, whose access time was this `before`. False when too
    /// many are remembered.
    pub fn note(&self, ino: u64, at: v1::Timestamp, before: v1::Timestamp) -> bool {
        let mut inner = self.inner.lock();
        if inner.len() >= ACCESSES_MAX {
            inner.retain(|_, access| !matches!(access.told, Told::Until(_)));
        }
        if inner.len() >= ACCESSES_MAX && !inner.contains_key(&ino) {
            return false;
        }
        inner.insert(ino, Access { at, before, told: Told::NotYet });
        true
    }

    /// What is to be told of an inode with the operation that is sent now.
    pub fn take(&self, ino: u64) -> Option<v1::Timestamp> {
        let mut inner = self.inner.lock();
        let access = inner.get_mut(&ino).filter(|access| access.told == Told::NotYet)?;
        access.told = Told::Sent;
        Some(access.at)
    }

    /// That operation was answered, or never will be.
    pub fn told(&self, ino: u64, at: Option<v1::Timestamp>) {
        if let Some(access) = self.inner.lock().get_mut(&ino)
            && at == Some(access.at)
        {
            access.told = Told::Until(BootTime::now());
        }
    }

    /// The access time of an inode was set.
    pub fn forget(&self, ino: u64) {
        self.inner.lock().remove(&ino);
    }

    /// Attributes that meta was asked for at that moment, with what was read
    /// here. utimensat(2) elsewhere since wins: it changes both times.
    pub fn show(&self, ino: u64, attr: &mut v1::Attr, asked: BootTime) {
        let Some(access) = self.inner.lock().get(&ino).copied() else { return };
        if matches!(access.told, Told::Until(until) if until < asked) {
            return;
        }
        let (atime, ctime) = (attr.atime.unwrap_or_default(), attr.ctime.unwrap_or_default());
        let was_set = atime != access.before && key(&ctime) > key(&access.at);
        if !was_set && key(&atime) < key(&access.at) {
            attr.atime = Some(access.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: i64) -> v1::Timestamp {
        v1::Timestamp { seconds, nanos: 0 }
    }

    fn shown(times: &AccessTimes, (atime, ctime): (i64, i64), asked: BootTime) -> i64 {
        let mut attr =
            v1::Attr { atime: Some(at(atime)), ctime: Some(at(ctime)), ..v1::Attr::default() };
        times.show(5, &mut attr, asked);
        attr.atime.unwrap().seconds
    }

    #[test]
    fn what_was_read_is_shown_until_meta_has_decided() {
        let times = AccessTimes::default();
        let now = BootTime::now();
        assert_eq!(shown(&times, (1, 2), now), 1);
        assert!(times.note(5, at(10), at(1)));
        assert_eq!(shown(&times, (1, 2), now), 10);
        assert_eq!(shown(&times, (1, 12), now), 10, "written since");
        assert_eq!(shown(&times, (3, 12), now), 3, "set since, elsewhere");
        assert_eq!(shown(&times, (11, 2), now), 11, "read since, elsewhere");
        assert_eq!(times.take(5), Some(at(10)));
        assert_eq!(times.take(5), None, "it is told once");
        assert_eq!(shown(&times, (1, 2), BootTime::now()), 10);
        times.told(5, Some(at(10)));
        assert_eq!(shown(&times, (1, 2), now), 10, "asked for before");
        let later = BootTime::now().after(Duration::from_secs(1));
        assert_eq!(shown(&times, (1, 2), later), 1, "meta has refused it");
    }

    #[test]
    fn a_reading_after_the_telling_is_told_again() {
        let times = AccessTimes::default();
        assert!(times.note(5, at(10), at(1)));
        let first = times.take(5);
        assert!(times.note(5, at(20), at(10)));
        times.told(5, first);
        let later = BootTime::now().after(Duration::from_secs(1));
        assert_eq!(shown(&times, (10, 15), later), 20);
        assert_eq!(times.take(5), Some(at(20)));
        times.forget(5);
        assert_eq!(shown(&times, (7, 15), later), 7);
    }

    #[test]
    fn too_many_are_not_remembered_and_decided_ones_make_room() {
        let times = AccessTimes::default();
        let last = ACCESSES_MAX as u64;
        assert!((0..last).all(|ino| times.note(ino, at(10), at(1))));
        assert!(!times.note(last, at(10), at(1)));
        assert!(times.note(3, at(11), at(1)), "known already");
        let told = times.take(7);
        times.told(7, told);
        assert!(times.note(last, at(10), at(1)));
    }
}
