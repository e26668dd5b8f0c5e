//! Permission by mode bits (POSIX.1-2017, 4.5 File Access Permissions) and
//! access control lists.

use flexfs_common::{Code, Result};

use super::acl::Acl;
use super::caller::Who;
use super::record::Inode;

/// Read.
pub(super) const R: u32 = 4;
/// Write.
pub(super) const W: u32 = 2;
/// Execute or search.
pub(super) const X: u32 = 1;

/// Set-user-ID on execution.
pub(super) const S_ISUID: u32 = 0o4000;
/// Set-group-ID on execution; on directories: entries inherit the group.
pub(super) const S_ISGID: u32 = 0o2000;
/// On directories: only owners remove entries.
pub(super) const S_ISVTX: u32 = 0o1000;
/// All permission bits.
pub(super) const MODE_BITS: u32 = 0o7777;

/// May `who` do all of `want` (of [`R`], [`W`], [`X`])?
pub(super) fn allows(inode: &Inode, who: &Who, want: u32) -> bool {
    if who.is_root() {
        // Root lacks only what nobody has: execution of a file without any x.
        return want & X == 0 || inode.is_dir() || inode.mode & 0o111 != 0;
    }
    let class = if who.uid == inode.uid {
        inode.mode >> 6
    } else if who.heeds_acls && !inode.access_list().is_empty() {
        // Whom a damaged list lets in is not known: nobody.
        return Acl::stored(inode.access_list())
            .is_ok_and(|acl| acl.permits((inode.uid, inode.gid), who, want));
    } else if who.in_group(inode.gid) {
        inode.mode >> 3
    } else {
        inode.mode
    };
    class & want == want
}

/// # Errors
/// `FS_ACCESS` unless `who` may do all of `want`.
pub(super) fn need(inode: &Inode, who: &Who, want: u32) -> Result<()> {
    if allows(inode, who, want) { Ok(()) } else { Err(Code::FsAccess.into()) }
}

/// # Errors
/// `FS_NOT_PERMITTED` unless `who` owns the inode or is root.
pub(super) fn need_owner(inode: &Inode, who: &Who) -> Result<()> {
    if who.is_root() || who.uid == inode.uid { Ok(()) } else { Err(Code::FsNotPermitted.into()) }
}

/// May `who` take the entry of `inode` out of `dir`? Write and search on the
/// directory; in a sticky one only for the owners of either.
///
/// # Errors
/// `FS_ACCESS`, `FS_NOT_PERMITTED`.
pub(super) fn need_removal(dir: &Inode, inode: &Inode, who: &Who) -> Result<()> {
    need(dir, who, W | X)?;
    let sticky = dir.mode & S_ISVTX != 0;
    if sticky && !who.is_root() && who.uid != inode.uid && who.uid != dir.uid {
        return Err(Code::FsNotPermitted.into());
    }
    Ok(())
}

/// The mode after a write or truncation by `who`: set-ID bits do not survive
/// a change by somebody without privilege (POSIX write(2), ftruncate(2)). A
/// set-group-ID without group execution once meant mandatory locking and
/// stays, as in Linux.
pub(super) fn mode_after_write(inode: &Inode, who: &Who) -> u32 {
    if who.is_root() { inode.mode } else { without_set_ids(inode.mode) }
}

/// The mode without the set-ID bits that give privilege.
pub(super) fn without_set_ids(mode: u32) -> u32 {
    let group_exec = mode & 0o010 != 0;
    mode & !(S_ISUID | if group_exec { S_ISGID } else { 0 })
}

#[cfg(test)]
mod tests {
    use flexfs_proto::v1::{Caller, FileKind, Flags};

    use super::*;

    fn who(uid: u32, gid: u32) -> Who {
        let caller = Caller { uid, gid, groups: vec![], umask: 0 };
        Who::of(Some(&caller), &Flags::default()).unwrap()
    }

    fn inode(kind: FileKind, mode: u32) -> Inode {
        Inode { kind: kind as i32, mode, uid: 1, gid: 2, ..Inode::default() }
    }

    #[test]
    fn the_first_matching_class_decides_alone() {
        let file = inode(FileKind::Regular, 0o074);
        assert!(!allows(&file, &who(1, 2), R), "the owner has nothing, though the group has");
        assert!(allows(&file, &who(3, 2), R | W | X));
        assert!(allows(&file, &who(3, 3), R) && !allows(&file, &who(3, 3), W));
    }

    #[test]
    fn root_reads_everything_but_executes_only_what_somebody_can() {
        assert!(allows(&inode(FileKind::Regular, 0), &who(0, 0), R | W));
        assert!(!allows(&inode(FileKind::Regular, 0o666), &who(0, 0), X));
        assert!(allows(&inode(FileKind::Regular, 0o001), &who(0, 0), X));
        assert!(allows(&inode(FileKind::Directory, 0), &who(0, 0), R | W | X));
    }

    #[test]
    fn a_sticky_directory_protects_the_files_of_others() {
        let dir = Inode { uid: 9, ..inode(FileKind::Directory, 0o1777) };
        let file = inode(FileKind::Regular, 0o666);
        assert!(need_removal(&dir, &file, &who(1, 1)).is_ok());
        assert!(need_removal(&dir, &file, &who(9, 9)).is_ok());
        assert!(need_removal(&dir, &file, &who(0, 0)).is_ok());
        let refused = need_removal(&dir, &file, &who(5, 5)).unwrap_err();
        assert_eq!(refused.code(), Code::FsNotPermitted);
    }

    #[test]
    fn set_ids_fall_on_write() {
        assert_eq!(mode_after_write(&inode(FileKind::Regular, 0o6755), &who(1, 2)), 0o755);
        assert_eq!(mode_after_write(&inode(FileKind::Regular, 0o2745), &who(1, 2)), 0o2745);
        assert_eq!(mode_after_write(&inode(FileKind::Regular, 0o6755), &who(0, 0)), 0o6755);
    }
}
