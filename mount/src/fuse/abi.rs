//! Numbers of `include/uapi/linux/fuse.h`, protocol 7.

/// Major version of the protocol.
pub(super) const MAJOR: u32 = 7;
/// The minor version spoken here.
pub(super) const MINOR: u32 = 40;
/// The oldest minor version understood (Linux 5.4).
pub(super) const MINOR_MIN: u32 = 31;

/// Bytes of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Bytes of `fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;
/// Bytes of one write or read at most.
pub(super) const MAX_WRITE: u32 = 1024 * 1024;
/// `MAX_WRITE` in pages of 4 KiB.
pub(super) const MAX_PAGES: u16 = 256;
/// What a read of the device must have room for.
pub(super) const BUFFER: usize = MAX_WRITE as usize + 4096;
/// Requests that the kernel sends ahead (read-ahead, direct I/O, release).
pub(super) const MAX_BACKGROUND: u16 = 128;
/// From here on the kernel thinks us busy: 3/4 of the above, as libfuse.
pub(super) const CONGESTION: u16 = 96;

/// Opcodes.
pub(super) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
}

/// Flags of FUSE_INIT.
pub(super) mod init {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub(crate) const NO_EXPORT_SUPPORT: u64 = 1 << 38;

    /// What is asked for where the kernel has it. Not among them: the
    /// kernel's write-back cache and passthrough (our own buffer does that
    /// work), and export support (handles are opaque and die with the session).
    pub(crate) const WANTED: u64 = ASYNC_READ
        | POSIX_LOCKS
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | DONT_MASK
        | FLOCK_LOCKS
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | PARALLEL_DIROPS
        | MAX_PAGES
        | CACHE_SYMLINKS
        | HANDLE_KILLPRIV_V2
        | INIT_EXT
        | DIRECT_IO_ALLOW_MMAP
        | NO_EXPORT_SUPPORT;
}

/// `fuse_setattr_in.valid`.
pub(super) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
}

/// `fuse_open_out.open_flags`.
pub(super) const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// See above.
pub(super) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// See above.
pub(super) const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

/// `fuse_getattr_in.getattr_flags`: fh is valid.
pub(super) const GETATTR_FH: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: written back from the page cache.
pub(super) const WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: set-id bits are to be taken away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_release_in.release_flags`: flock(2) locks of the owner end.
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `fuse_lk_in.lk_flags`: flock(2).
pub(super) const LK_FLOCK: u32 = 1 << 0;

/// Notification: attributes and pages of an inode are void.
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
/// Notification: a name is void.
pub(super) const NOTIFY_INVAL_ENTRY: i32 = 3;

/// `fuse_notify_inval_entry_out.flags`: the name is to be asked for again.
pub(super) const EXPIRE_ONLY: u32 = 1 << 0;
/// The minor version that has it (Linux 6.2).
pub(super) const MINOR_EXPIRE_ONLY: u32 = 38;

/// STATX_BASIC_STATS | STATX_BTIME (statx(2)).
pub(super) const STATX_MASK: u32 = 0x0fff;
