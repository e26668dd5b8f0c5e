//! The room on the disk below an engine. A write that fails for want of room
//! ends the engine until a restart, so that it must not come to it: what takes
//! space is refused while there is a reserve left, and what frees space or
//! ends something goes on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::limits;
use parking_lot::Mutex;

/// How often the disk is looked at while it has plenty of room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often when there is less than [`NEAR`]: others may be filling it at
/// some GB/s. A look takes some microseconds.
const LOOK_OFTEN: Duration = Duration::from_millis(20);
/// Reserves that are free and yet near to the end.
const NEAR: u64 = 8;
/// Bytes committed by ourselves after which it is looked at anyway: a part of
/// the smallest reserve that does no harm.
const LOOK_AFTER_LEN: u64 = 4 * 1024 * 1024;
/// The last part of the reserve (one in so many) is for what ends something:
/// releases, ends of sessions, cuts, what admin says.
const LAST_PART: u64 = 4;
/// One part in so many of the reserve that must be free beyond it before all
/// goes on: room that comes and goes is not told each time.
const BEYOND: u64 = 8;

/// What the disk still takes, from nothing to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Only what ends something.
    Out,
    /// Also what frees space, and what readers need.
    Low,
    /// Everything.
    Ample,
}

impl Room {
    /// A word for the operator.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Room::Out => "full",
            Room::Low => "low",
            Room::Ample => "ample",
        }
    }
}

/// The disk below an engine, as it was when last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What it takes.
    pub room: Room,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are kept free.
    pub reserve: u64,
}

/// Bytes to keep free of a disk of `total` bytes.
fn reserve_of(total: u64) -> u64 {
    (total / limits::DISK_RESERVE_PART)
        .clamp(limits::DISK_RESERVE_MIN_LEN, limits::DISK_RESERVE_MAX_LEN)
}

/// What `free` bytes are enough for, given what they were `before`.
fn room_of(before: Room, free: u64, reserve: u64) -> Room {
    let last = reserve / LAST_PART;
    let least = |room: Room, bytes: u64| {
        // Up again only when it is clearly so.
        if before >= room { bytes } else { bytes.saturating_add(bytes / BEYOND) }
    };
    if free >= least(Room::Ample, reserve) {
        Room::Ample
    } else if free >= least(Room::Low, last) {
        Room::Low
    } else {
        Room::Out
    }
}

/// How long what was seen holds.
fn holds_for(free: u64, reserve: u64) -> Duration {
    if free < reserve.saturating_mul(NEAR) { LOOK_OFTEN } else { LOOK_EVERY }
}

#[derive(Debug)]
struct Seen {
    space: Space,
    again: BootTime,
    /// `Disk::written` at that time.
    written: u64,
}

/// The file system that holds an engine's directory.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// What the operator said; else it follows from the size of the disk.
    reserve: Option<u64>,
    written: AtomicU64,
    seen: Mutex<Seen>,
}

impl Disk {
    /// Looks at the disk below `dir`, which exists, for the first time.
    pub(super) fn new(dir: &Path, reserve: Option<u64>) -> Disk {
        let space = Space { room: Room::Ample, free: u64::MAX, reserve: 0 };
        let disk = Disk {
            dir: dir.to_owned(),
            reserve,
            written: AtomicU64::new(0),
            seen: Mutex::new(Seen { space, again: BootTime::now(), written: 0 }),
        };
        disk.space();
        disk
    }

    /// So many bytes were committed.
    pub(super) fn wrote(&self, len: u64) {
        self.written.fetch_add(len, Ordering::Relaxed);
    }

    /// As it is, or was a moment ago.
    pub(super) fn space(&self) -> Space {
        let mut seen = self.seen.lock();
        let written = self.written.load(Ordering::Relaxed);
        if written.saturating_sub(seen.written) < LOOK_AFTER_LEN && !seen.again.passed() {
            return seen.space;
        }
        let before = seen.space;
        match rustix::fs::statvfs(&self.dir) {
            Ok(disk) => {
                let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
                let reserve = self.reserve.unwrap_or_else(|| reserve_of(bytes(disk.f_blocks)));
                let free = bytes(disk.f_bavail);
                let room = room_of(before.room, free, reserve);
                seen.space = Space { room, free, reserve };
            }
            // What was seen last holds: the engine itself will fail if it must.
            Err(error) => tracing::debug!(%error, "the free space of the disk is not known"),
        }
        seen.again = BootTime::now().after(holds_for(seen.space.free, seen.space.reserve));
        seen.written = written;
        let now = seen.space;
        if now.room != before.room {
            self.tell(now);
        }
        now
    }

    fn tell(&self, Space { room, free, reserve }: Space) {
        let dir = self.dir.display();
        match room {
            Room::Ample => tracing::info!(%dir, free, reserve, "there is room again: all goes on"),
            Room::Low => tracing::warn!(
                %dir, free, reserve,
                "little space left below the data directory: what takes space is refused (ENOSPC), \
                 make room there"
            ),
            Room::Out => tracing::error!(
                %dir, free, reserve,
                "no space left below the data directory: all changes are refused (ENOSPC), make \
                 room there"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_reserve_is_a_part_of_the_disk_within_bounds() {
        assert_eq!(reserve_of(0), 64 * MIB);
        assert_eq!(reserve_of(1024 * MIB), 64 * MIB);
        assert_eq!(reserve_of(5000 * MIB), 100 * MIB);
        assert_eq!(reserve_of(u64::MAX), 256 * MIB);
    }

    #[test]
    fn what_is_free_is_for_less_and_less() {
        for before in [Room::Out, Room::Low, Room::Ample] {
            assert_eq!(room_of(before, 100 * MIB, 64 * MIB), Room::Ample);
            assert_eq!(room_of(before, 63 * MIB, 64 * MIB), Room::Low);
            assert_eq!(room_of(before, 15 * MIB, 64 * MIB), Room::Out);
            assert_eq!(room_of(before, 0, 64 * MIB), Room::Out);
            assert_eq!(room_of(before, 0, 0), Room::Ample, "without a reserve");
        }
    }

    #[test]
    fn it_goes_up_only_when_it_is_clearly_so() {
        assert_eq!(room_of(Room::Ample, 64 * MIB, 64 * MIB), Room::Ample);
        assert_eq!(room_of(Room::Low, 64 * MIB, 64 * MIB), Room::Low);
        assert_eq!(room_of(Room::Low, 72 * MIB, 64 * MIB), Room::Ample);
        assert_eq!(room_of(Room::Low, 16 * MIB, 64 * MIB), Room::Low);
        assert_eq!(room_of(Room::Out, 17 * MIB, 64 * MIB), Room::Out);
        assert_eq!(room_of(Room::Out, 18 * MIB, 64 * MIB), Room::Low);
        assert_eq!(room_of(Room::Out, 72 * MIB, 64 * MIB), Room::Ample);
    }

    #[test]
    fn it_is_looked_at_by_time_or_by_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path(), Some(u64::MAX));
        assert_eq!(disk.space().room, Room::Out, "no disk has that much");
        // As if there had been plenty: nobody looks for a day.
        let ample = Space { room: Room::Ample, free: u64::MAX, reserve: 1 };
        let day = Duration::from_secs(24 * 3600);
        *disk.seen.lock() = Seen { space: ample, again: BootTime::now().after(day), written: 0 };
        assert_eq!(disk.space(), ample);
        disk.wrote(LOOK_AFTER_LEN - 1);
        assert_eq!(disk.space(), ample);
        disk.wrote(1);
        assert_eq!(disk.space().room, Room::Out);
        *disk.seen.lock() = Seen { space: ample, again: BootTime::now(), written: LOOK_AFTER_LEN };
        assert_eq!(disk.space().room, Room::Out);
        assert!(holds_for(8 * MIB, MIB) > holds_for(8 * MIB - 1, MIB));
    }
}
