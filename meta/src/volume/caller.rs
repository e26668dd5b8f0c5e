//! Who acts: the caller as the client names it, under the session's squashing
//! and pins (P3).

use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;

/// Who a squashed caller becomes when no id is set: the kernel's overflow id.
const NOBODY: u32 = 65_534;

/// The identity that permissions are checked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) gid: u32,
    groups: Vec<u32>,
    /// Bits cleared on create, unless the directory says otherwise.
    pub(super) umask: u32,
    /// Bits cleared on create, whatever the directory says: the session's.
    pub(super) session_umask: u32,
    /// Access control lists count (the volume is not without).
    pub(super) heeds_acls: bool,
}

impl Who {
    /// The caller of an operation.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID` when it is missing or has too many groups.
    pub(super) fn of(caller: Option<&v1::Caller>, flags: &v1::Flags) -> Result<Who> {
        let caller = caller
            .ok_or_else(|| Error::new(Code::ProtocolInvalid, "an operation without a caller"))?;
        if caller.groups.len() > limits::GROUPS_MAX {
            return Err(Error::new(Code::ProtocolInvalid, "too many groups"));
        }
        let mut who = Who {
            uid: caller.uid,
            gid: caller.gid,
            groups: caller.groups.clone(),
            umask: caller.umask & 0o777,
            session_umask: flags.umask & 0o777,
            heeds_acls: !flags.no_acl,
        };
        let nobody_uid = flags.squash_uid.unwrap_or(NOBODY);
        let nobody_gid = flags.squash_gid.unwrap_or(NOBODY);
        if flags.all_squash {
            who.uid = nobody_uid;
            who.gid = nobody_gid;
            who.groups.clear();
        } else if flags.root_squash {
            if who.uid == 0 {
                who.uid = nobody_uid;
            }
            if who.gid == 0 {
                who.gid = nobody_gid;
            }
            who.groups.retain(|group| *group != 0);
        }
        if let Some(uid) = flags.uid {
            who.uid = uid;
        }
        if let Some(gid) = flags.gid {
            who.gid = gid;
            who.groups.clear();
        }
        Ok(who)
    }

    /// Is it root, after squashing?
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Is it a member of the group?
    pub(super) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> v1::Caller {
        v1::Caller { uid, gid, groups: groups.to_vec(), umask: 0o002 }
    }

    #[test]
    fn squashing_and_pins() {
        let flags = v1::Flags { root_squash: true, umask: 0o020, ..v1::Flags::default() };
        let who = Who::of(Some(&caller(0, 0, &[0, 5])), &flags).unwrap();
        assert_eq!((who.uid, who.gid), (NOBODY, NOBODY));
        assert_eq!((who.umask, who.session_umask), (0o002, 0o020));
        assert!(!who.in_group(0) && who.in_group(5));
        let who = Who::of(Some(&caller(7, 0, &[])), &flags).unwrap();
        assert_eq!((who.uid, who.gid), (7, NOBODY));

        let flags = v1::Flags { all_squash: true, squash_uid: Some(9), ..v1::Flags::default() };
        let who = Who::of(Some(&caller(7, 7, &[7])), &flags).unwrap();
        assert_eq!((who.uid, who.gid, who.in_group(7)), (9, NOBODY, false));

        let flags = v1::Flags { uid: Some(1), gid: Some(2), ..v1::Flags::default() };
        let who = Who::of(Some(&caller(0, 0, &[0])), &flags).unwrap();
        assert_eq!((who.uid, who.gid, who.in_group(0)), (1, 2, false));
    }

    #[test]
    fn a_caller_is_demanded_and_bounded() {
        let flags = v1::Flags::default();
        assert!(Who::of(None, &flags).is_err());
        let many = vec![1; limits::GROUPS_MAX + 1];
        assert!(Who::of(Some(&caller(1, 1, &many)), &flags).is_err());
    }
}
