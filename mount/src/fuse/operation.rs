//! What the kernel asks, parsed: one variant per opcode that is served.

use bytes::Bytes;
use flexfs_proto::v1::{FileKind, LockKind};

use super::abi::{self, fattr, op};
use super::parse::{Fields, Malformed};
use crate::fs::{LockRequest, MakeRequest, SetAttrRequest, TimeRequest, WriteRequest};

/// A request, by what it is about. The inode it names is in the header.
#[derive(Debug)]
pub(super) enum Operation {
    Name(NameOp),
    Attr(AttrOp),
    File(FileOp),
    Dir(DirOp),
    Xattr(XattrOp),
    Lock(LockOp),
    /// (inode, count) each; nobody waits for an answer.
    Forget(Vec<(u64, u64)>),
    /// The request that shall end early.
    Interrupt(u64),
    /// The connection ends.
    Destroy,
    /// ioctl(2), none of which means anything here.
    Ioctl,
    /// Not served; the kernel does without.
    Unknown,
}

#[derive(Debug)]
pub(super) enum NameOp {
    Lookup(Vec<u8>),
    Make(Vec<u8>, MakeRequest),
    Create(Vec<u8>, MakeRequest, u32),
    /// O_TMPFILE.
    CreateNameless(MakeRequest, u32),
    Unlink(Vec<u8>, bool),
    Link(u64, Vec<u8>),
    Rename {
        name: Vec<u8>,
        new_parent: u64,
        new_name: Vec<u8>,
        flags: u32,
    },
    ReadLink,
}

#[derive(Debug)]
pub(super) enum AttrOp {
    Get(Option<u64>),
    Statx(Option<u64>),
    Set(SetAttrRequest),
    Access(u32),
    StatFs,
}

#[derive(Debug)]
pub(super) enum FileOp {
    Open(u32),
    Read { fh: u64, offset: u64, size: u32 },
    Write(WriteRequest),
    Flush { fh: u64, lock_owner: u64 },
    Release { fh: u64, flock_owner: u64 },
    Fsync(u64),
    Fallocate { fh: u64, mode: u32, offset: u64, length: u64 },
    Lseek { fh: u64, offset: u64, whence: u32 },
}

#[derive(Debug)]
pub(super) enum DirOp {
    Open,
    Read { fh: u64, offset: u64, size: u32, plus: bool },
    Release(u64),
    Fsync,
}

#[derive(Debug)]
pub(super) enum XattrOp {
    Get { name: Vec<u8>, size: u32 },
    Set { name: Vec<u8>, value: Vec<u8>, flags: u32 },
    List { size: u32 },
    Remove(Vec<u8>),
}

#[derive(Debug)]
pub(super) enum LockOp {
    Get { fh: u64, lock: LockRequest },
    Set { fh: u64, lock: LockRequest, wait: bool },
}

/// What follows the header of a request.
pub(super) fn parse(opcode: u32, mut f: Fields<'_>) -> Result<Operation, Malformed> {
    Ok(match opcode {
        op::LOOKUP
        | op::SYMLINK..=op::LINK
        | op::READLINK
        | op::CREATE
        | op::TMPFILE
        | op::RENAME2 => Operation::Name(name_op(opcode, &mut f)?),
        op::GETATTR | op::SETATTR | op::ACCESS | op::STATFS | op::STATX => {
            Operation::Attr(attr_op(opcode, &mut f)?)
        }
        op::OPEN
        | op::READ
        | op::WRITE
        | op::FLUSH
        | op::RELEASE
        | op::FSYNC
        | op::FALLOCATE
        | op::LSEEK => Operation::File(file_op(opcode, &mut f)?),
        op::OPENDIR | op::READDIR | op::READDIRPLUS | op::RELEASEDIR | op::FSYNCDIR => {
            Operation::Dir(dir_op(opcode, &mut f)?)
        }
        op::GETXATTR | op::SETXATTR | op::LISTXATTR | op::REMOVEXATTR => {
            Operation::Xattr(xattr_op(opcode, &mut f)?)
        }
        op::GETLK | op::SETLK | op::SETLKW => Operation::Lock(lock_op(opcode, &mut f)?),
        op::BATCH_FORGET => batch_forget(&mut f)?,
        op::INTERRUPT => Operation::Interrupt(f.u64()?),
        op::DESTROY => Operation::Destroy,
        op::IOCTL => Operation::Ioctl,
        _ => Operation::Unknown,
    })
}

/// FORGET of one inode, which is in the header.
pub(super) fn forget(node: u64, mut f: Fields<'_>) -> Result<Operation, Malformed> {
    Ok(Operation::Forget(vec![(node, f.u64()?)]))
}

fn batch_forget(f: &mut Fields<'_>) -> Result<Operation, Malformed> {
    let count = f.u32()?;
    f.skip(4)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push((f.u64()?, f.u64()?));
    }
    Ok(Operation::Forget(all))
}

fn name_op(opcode: u32, f: &mut Fields<'_>) -> Result<NameOp, Malformed> {
    let make = |kind, mode, umask, rdev, target| MakeRequest { kind, mode, umask, rdev, target };
    Ok(match opcode {
        op::LOOKUP => NameOp::Lookup(f.name()?),
        op::SYMLINK => {
            let (name, target) = (f.name()?, f.name()?);
            NameOp::Make(name, make(FileKind::Symlink, 0o777, 0, 0, target))
        }
        op::MKNOD => {
            let (mode, rdev, umask) = (f.u32()?, f.u32()?, f.u32()?);
            f.skip(4)?;
            NameOp::Make(f.name()?, make(kind_of(mode)?, mode, umask, rdev, Vec::new()))
        }
        op::MKDIR => {
            let (mode, umask) = (f.u32()?, f.u32()?);
            NameOp::Make(f.name()?, make(FileKind::Directory, mode, umask, 0, Vec::new()))
        }
        op::CREATE | op::TMPFILE => {
            let (flags, mode, umask) = (f.u32()?, f.u32()?, f.u32()?);
            f.skip(4)?;
            let request = make(FileKind::Regular, mode, umask, 0, Vec::new());
            let name = f.name()?;
            if opcode == op::CREATE {
                NameOp::Create(name, request, flags)
            } else {
                // The name is one that no file can have.
                NameOp::CreateNameless(request, flags)
            }
        }
        op::UNLINK | op::RMDIR => NameOp::Unlink(f.name()?, opcode == op::RMDIR),
        op::LINK => NameOp::Link(f.u64()?, f.name()?),
        op::RENAME | op::RENAME2 => {
            let new_parent = f.u64()?;
            let mut flags = 0;
            if opcode == op::RENAME2 {
                flags = f.u32()?;
                f.skip(4)?;
            }
            NameOp::Rename { name: f.name()?, new_parent, new_name: f.name()?, flags }
        }
        op::READLINK => NameOp::ReadLink,
        _ => return Err(Malformed),
    })
}

fn attr_op(opcode: u32, f: &mut Fields<'_>) -> Result<AttrOp, Malformed> {
    let fh = |f: &mut Fields<'_>| -> Result<Option<u64>, Malformed> {
        let flags = f.u32()?;
        f.skip(4)?;
        let fh = f.u64()?;
        Ok((flags & abi::GETATTR_FH != 0).then_some(fh))
    };
    Ok(match opcode {
        op::GETATTR => AttrOp::Get(fh(f)?),
        op::STATX => AttrOp::Statx(fh(f)?),
        op::SETATTR => AttrOp::Set(set_attr(f)?),
        op::ACCESS => AttrOp::Access(f.u32()?),
        op::STATFS => AttrOp::StatFs,
        _ => return Err(Malformed),
    })
}

fn set_attr(f: &mut Fields<'_>) -> Result<SetAttrRequest, Malformed> {
    let valid = f.u32()?;
    f.skip(4)?;
    let (fh, size, _lock_owner) = (f.u64()?, f.u64()?, f.u64()?);
    let (atime, mtime, _ctime) = (f.u64()?, f.u64()?, f.u64()?);
    let (atime_nanos, mtime_nanos, _ctime_nanos) = (f.u32()?, f.u32()?, f.u32()?);
    let mode = f.u32()?;
    f.skip(4)?;
    let (uid, gid) = (f.u32()?, f.u32()?);
    let set = |bit: u32| valid & bit != 0;
    let time = |bit: u32, now: u32, seconds: u64, nanos: u32| {
        let at = TimeRequest::At(seconds.cast_signed(), nanos);
        set(bit).then_some(if set(now) { TimeRequest::Now } else { at })
    };
    Ok(SetAttrRequest {
        mode: set(fattr::MODE).then_some(mode),
        uid: set(fattr::UID).then_some(uid),
        gid: set(fattr::GID).then_some(gid),
        size: set(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_nanos),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_nanos),
        fh: set(fattr::FH).then_some(fh),
    })
}

fn file_op(opcode: u32, f: &mut Fields<'_>) -> Result<FileOp, Malformed> {
    Ok(match opcode {
        op::OPEN => FileOp::Open(f.u32()?),
        op::READ => FileOp::Read { fh: f.u64()?, offset: f.u64()?, size: f.u32()? },
        op::WRITE => {
            let (fh, offset, size, write_flags) = (f.u64()?, f.u64()?, f.u32()?, f.u32()?);
            let (_lock_owner, flags) = (f.u64()?, f.u32()?);
            f.skip(4)?;
            let size = usize::try_from(size).map_err(|_| Malformed)?;
            FileOp::Write(WriteRequest {
                fh,
                offset,
                data: Bytes::copy_from_slice(f.bytes(size)?),
                flags,
                kill_set_id: write_flags & abi::WRITE_KILL_SUIDGID != 0,
                from_mapping: write_flags & abi::WRITE_CACHE != 0,
            })
        }
        op::FLUSH => {
            let fh = f.u64()?;
            f.skip(8)?;
            FileOp::Flush { fh, lock_owner: f.u64()? }
        }
        op::RELEASE => {
            let (fh, _flags, release_flags, owner) = (f.u64()?, f.u32()?, f.u32()?, f.u64()?);
            let flock = release_flags & abi::RELEASE_FLOCK_UNLOCK != 0;
            FileOp::Release { fh, flock_owner: if flock { owner } else { 0 } }
        }
        op::FSYNC => FileOp::Fsync(f.u64()?),
        op::FALLOCATE => {
            let (fh, offset, length) = (f.u64()?, f.u64()?, f.u64()?);
            FileOp::Fallocate { fh, mode: f.u32()?, offset, length }
        }
        op::LSEEK => FileOp::Lseek { fh: f.u64()?, offset: f.u64()?, whence: f.u32()? },
        _ => return Err(Malformed),
    })
}

fn dir_op(opcode: u32, f: &mut Fields<'_>) -> Result<DirOp, Malformed> {
    Ok(match opcode {
        op::OPENDIR => DirOp::Open,
        op::READDIR | op::READDIRPLUS => {
            let plus = opcode == op::READDIRPLUS;
            DirOp::Read { fh: f.u64()?, offset: f.u64()?, size: f.u32()?, plus }
        }
        op::RELEASEDIR => DirOp::Release(f.u64()?),
        op::FSYNCDIR => DirOp::Fsync,
        _ => return Err(Malformed),
    })
}

fn xattr_op(opcode: u32, f: &mut Fields<'_>) -> Result<XattrOp, Malformed> {
    let size = |f: &mut Fields<'_>| -> Result<u32, Malformed> {
        let size = f.u32()?;
        f.skip(4).map(|()| size)
    };
    Ok(match opcode {
        op::GETXATTR => XattrOp::Get { size: size(f)?, name: f.name()? },
        op::LISTXATTR => XattrOp::List { size: size(f)? },
        op::REMOVEXATTR => XattrOp::Remove(f.name()?),
        op::SETXATTR => {
            let (size, flags) = (f.u32()?, f.u32()?);
            let name = f.name()?;
            let size = usize::try_from(size).map_err(|_| Malformed)?;
            XattrOp::Set { name, value: f.bytes(size)?.to_vec(), flags }
        }
        _ => return Err(Malformed),
    })
}

fn lock_op(opcode: u32, f: &mut Fields<'_>) -> Result<LockOp, Malformed> {
    let (fh, owner, start, end) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?);
    let (kind, pid, flags) = (f.u32()?, f.u32()?, f.u32()?);
    let kind = match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => LockKind::Read,
        Ok(libc::F_WRLCK) => LockKind::Write,
        Ok(libc::F_UNLCK) => LockKind::Unlock,
        _ => return Err(Malformed),
    };
    // The kernel's "to the end" is its largest offset.
    let end = if end >= i64::MAX.cast_unsigned() { u64::MAX } else { end };
    let flock = flags & abi::LK_FLOCK != 0;
    let lock = LockRequest { kind, flock, start, end, owner, pid };
    Ok(match opcode {
        op::GETLK => LockOp::Get { fh, lock },
        _ => LockOp::Set { fh, lock, wait: opcode == op::SETLKW },
    })
}

fn kind_of(mode: u32) -> Result<FileKind, Malformed> {
    Ok(match mode & libc::S_IFMT {
        // mknod(2): zero means a regular file.
        0 | libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return Err(Malformed),
    })
}

#[cfg(test)]
mod tests;
