//! When reading moves an access time: `relatime` of mount(8). Mounts ask it to
//! know whether there is anything to tell, and meta to decide.

use flexfs_proto::v1::Timestamp;

/// An access time older than this moves in any case, in seconds (as Linux,
/// `relatime_need_update`).
const OLD_SECONDS: i64 = 24 * 60 * 60;

/// The times of an inode (stat(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// st_atim.
    pub accessed: Timestamp,
    /// st_mtim.
    pub modified: Timestamp,
    /// st_ctim.
    pub changed: Timestamp,
}

/// For comparing: messages have no order of their own.
#[must_use]
pub fn key(at: &Timestamp) -> (i64, u32) {
    (at.seconds, at.nanos)
}

/// Does a reading at this time move the access time? It does when nobody has
/// read since the last change, or not for a day. It never goes back.
#[must_use]
pub fn is_due(times: &Times, at: &Timestamp) -> bool {
    let accessed = key(&times.accessed);
    let since_change = accessed <= key(&times.modified) || accessed <= key(&times.changed);
    let age = at.seconds.saturating_sub(times.accessed.seconds);
    accessed < key(at) && (since_change || age >= OLD_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(accessed: i64, modified: i64, changed: i64, at: i64) -> bool {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        let times =
            Times { accessed: time(accessed), modified: time(modified), changed: time(changed) };
        is_due(&times, &time(at))
    }

    #[test]
    fn the_first_reading_after_a_change_counts_and_one_a_day() {
        assert!(due(5, 5, 4, 9) && due(5, 4, 5, 9) && due(5, 7, 4, 9));
        assert!(!due(6, 5, 5, 9), "nothing has changed since");
        assert!(!due(6, 5, 5, 6 + OLD_SECONDS - 1) && due(6, 5, 5, 6 + OLD_SECONDS));
        assert!(!due(9, 10, 10, 9) && !due(10, 20, 20, 9), "it does not go back");
        assert!(!due(i64::MAX, 5, 5, 9) && due(i64::MIN, 5, 5, 9));
        assert!(due(-5, -9, -9, OLD_SECONDS));
    }
}
