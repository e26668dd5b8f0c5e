//! Who the calling process is. The kernel tells uid, gid and pid with each
//! request, but not the supplementary groups: those are read from
//! `/proc/<pid>/status` (proc(5)).
//!
//! Each time, some 30 µs: meta alone decides what a caller may (there is no
//! check of the kernel beside it), so groups given up must be gone at once.

use flexfs_common::limits::GROUPS_MAX;
use flexfs_proto::v1;

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

impl Requester {
    /// For operations that meta permits by the caller's identity. `umask`
    /// matters for those that create.
    #[must_use]
    pub fn caller(self, umask: u32) -> v1::Caller {
        // Groups change nothing for root, and pid 0 cannot be looked up.
        let groups = if self.uid == 0 || self.pid == 0 {
            Vec::new()
        } else {
            std::fs::read_to_string(format!("/proc/{}/status", self.pid))
                .map(|status| parse_groups(&status))
                // It has ended; nobody sees the answer.
                .unwrap_or_default()
        };
        v1::Caller { groups, umask, ..self.without_groups() }
    }

    /// For operations that an open permits, whoever carries them out.
    #[must_use]
    pub fn without_groups(self) -> v1::Caller {
        v1::Caller { uid: self.uid, gid: self.gid, groups: Vec::new(), umask: 0 }
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
        let who = Requester { uid: 1, gid: 2, pid: std::process::id() };
        let mut caller = who.caller(0o22);
        assert_eq!((caller.uid, caller.gid, caller.umask), (1, 2, 0o22));
        expected.sort_unstable();
        caller.groups.sort_unstable();
        assert_eq!(caller.groups, expected);
        assert!(Requester { pid: 0, ..who }.caller(0).groups.is_empty());
        assert!(who.without_groups().groups.is_empty());
    }
}
