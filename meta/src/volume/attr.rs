//! Attributes as clients see them.

use flexfs_common::ids::Ino;
use flexfs_proto::v1;

use super::record::Inode;

/// What stat shows as the size of a directory: one page, whatever it holds.
const DIR_SIZE: u64 = 4096;
/// st_blocks counts in these (stat(2)).
const STAT_BLOCK: u64 = 512;

/// The attributes of an inode. What may be kept is said when the answer is
/// complete ([`super::rights`]).
pub(super) fn attr(ino: Ino, inode: &Inode) -> v1::Attr {
    let (size, allocated) =
        if inode.is_dir() { (DIR_SIZE, DIR_SIZE) } else { (inode.size, inode.allocated) };
    v1::Attr {
        ino: ino.0,
        kind: inode.kind,
        mode: inode.mode,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        size,
        blocks: allocated.div_ceil(STAT_BLOCK),
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
        change: inode.change,
        cache_millis: 0,
        write_right: 0,
        access_acl: !inode.access_list().is_empty(),
        default_acl: !inode.default_list().is_empty(),
    }
}
