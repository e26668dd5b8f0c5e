//! Who the calling process is. The kernel tells uid, gid and pid with each
//! request, but not the supplementary groups: those are read from
//! `/proc/<pid>/status` (proc(5)) and kept for a moment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flexfs_common::limits::GROUPS_MAX;
use flexfs_proto::v1;
use parking_lot::Mutex;

/// How long groups are kept. A process that gives groups up is still checked
/// by the kernel with what it has now; one that gains some is asked for again
/// when meta denies (see [`CallerCache::refreshed`]).
const KEEP: Duration = Duration::from_secs(1);
/// Processes remembered; more than run at once on one machine's mount.
const KEPT_MAX: usize = 4096;

/// Who asks, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requester {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Thread id in the daemon's pid namespace; 0 when it lies outside.
    pub pid: u32,
}

/// The groups of processes seen lately.
#[derive(Debug, Default)]
pub struct CallerCache {
    kept: Mutex<HashMap<Requester, (Instant, Vec<u32>)>>,
}

impl CallerCache {
    /// The caller as meta wants it; groups may be up to a second old.
    /// `umask` matters for operations that create.
    #[must_use]
    pub fn caller(&self, who: Requester, umask: u32) -> v1::Caller {
        let cached = self
            .kept
            .lock()
            .get(&who)
            .filter(|(at, _)| at.elapsed() < KEEP)
            .map(|(_, groups)| groups.clone());
        let groups = cached.unwrap_or_else(|| self.read(who));
        v1::Caller { uid: who.uid, gid: who.gid, groups, umask }
    }

    /// The caller with groups read now, when they differ from `before`.
    #[must_use]
    pub fn refreshed(&self, who: Requester, before: &v1::Caller) -> Option<v1::Caller> {
        let groups = self.read(who);
        (groups != before.groups).then(|| v1::Caller { groups, ..before.clone() })
    }

    /// The caller with groups read now.
    #[must_use]
    pub fn exact(&self, who: Requester, umask: u32) -> v1::Caller {
        v1::Caller { uid: who.uid, gid: who.gid, groups: self.read(who), umask }
    }

    fn read(&self, who: Requester) -> Vec<u32> {
        // Groups change nothing for root, and pid 0 cannot be looked up.
        if who.uid == 0 || who.pid == 0 {
            return Vec::new();
        }
        let groups = std::fs::read_to_string(format!("/proc/{}/status", who.pid))
            .map(|status| parse_groups(&status))
            .unwrap_or_default();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (at, _)| at.elapsed() < KEEP);
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
        }
        kept.insert(who, (Instant::now(), groups.clone()));
        groups
    }
}

/// The `Groups:` line of `/proc/<pid>/status`: decimal ids between spaces.
fn parse_groups(status: &str) -> Vec<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .map(|ids| ids.split_ascii_whitespace().filter_map(|id| id.parse().ok()))
        .into_iter()
        .flatten()
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_among_the_other_lines() {
        let status = "Name:\tcat\nUid:\t1000\t1000\t1000\t1000\nGroups:\t4 24 1000 4294967295 \n\
                      NStgid:\t7\n";
        assert_eq!(parse_groups(status), [4, 24, 1000, u32::MAX]);
        assert_eq!(parse_groups("Groups:\t \n"), [] as [u32; 0]);
        assert_eq!(parse_groups("Name:\tx\n"), [] as [u32; 0]);
        let many = (0..5000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_groups(&format!("Groups:\t{many}\n")).len(), GROUPS_MAX);
    }

    #[test]
    fn our_own_groups_are_those_the_system_says() {
        let mut expected: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(|g| g.as_raw()).collect();
        let who = Requester { uid: 1, gid: 1, pid: std::process::id() };
        let cache = CallerCache::default();
        let mut groups = cache.caller(who, 0o22).groups;
        expected.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, expected);
        assert!(cache.refreshed(who, &cache.caller(who, 0)).is_none());
        assert!(
            cache.refreshed(who, &v1::Caller { groups: vec![77], ..Default::default() }).is_some()
        );
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = CallerCache::default();
        for uid in 1..=(KEPT_MAX as u32 + 10) {
            let _ = cache.caller(Requester { uid, gid: 0, pid: u32::MAX }, 0);
        }
        assert!(cache.kept.lock().len() <= KEPT_MAX);
    }
}
