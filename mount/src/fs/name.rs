//! Names: lookup, create, mkdir, mknod, symlink, link, unlink, rename,
//! readlink.

use std::time::Instant;

use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::file::Opened;
use super::{Attributes, FileSystem, check_name, reply};
use crate::caller::Requester;

/// renameat2(2) RENAME_NOREPLACE.
const RENAME_NOREPLACE: u32 = 1;
/// renameat2(2) RENAME_EXCHANGE.
const RENAME_EXCHANGE: u32 = 2;

/// What to make.
#[derive(Debug, Clone)]
pub struct MakeRequest {
    /// Which type.
    pub kind: v1::FileKind,
    /// Permission bits before the umask.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Devices: Linux new_encode_dev form.
    pub rdev: u32,
    /// Symbolic links: where to.
    pub target: Vec<u8>,
}

/// A file made and opened.
#[derive(Debug)]
pub struct Created {
    /// Its attributes; counted as told to the kernel.
    pub found: Attributes,
    /// The open.
    pub opened: Opened,
}

impl FileSystem {
    /// Finds a name. The inode counts as told to the kernel: if the reply
    /// cannot be delivered, call [`FileSystem::forget`].
    ///
    /// # Errors
    /// `FS_NOT_FOUND`, and meta's.
    pub async fn lookup(&self, who: Requester, parent: u64, name: &[u8]) -> Result<Attributes> {
        check_name(name)?;
        let sent = Instant::now();
        let body = Body::Lookup(v1::Lookup {
            parent: self.inodes.handle(parent)?.to_vec(),
            name: name.to_vec(),
        });
        let (entry, attr) = reply::entry(self.call(who, 0, body).await?)?;
        Ok(self.tell((parent, name), entry.handle.into(), attr, sent))
    }

    /// Counts an inode as told to the kernel and gives what to tell.
    fn tell(
        &self,
        place: (u64, &[u8]),
        handle: Bytes,
        attr: v1::Attr,
        sent: Instant,
    ) -> Attributes {
        let told = self.told(&handle, attr, sent);
        let place = (place.0, Bytes::copy_from_slice(place.1));
        self.inodes.found(told.attr.ino, handle, told.attr.mode, &place, !told.ttl.is_zero());
        told
    }

    /// mkdir, mknod, symlink.
    ///
    /// # Errors
    /// `FS_EXISTS`, and meta's.
    pub async fn make(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        request: MakeRequest,
    ) -> Result<Attributes> {
        let umask = request.umask;
        let sent = Instant::now();
        let make = self.make_body(parent, name, request)?;
        let (entry, attr) = reply::entry(self.call(who, umask, Body::Make(make)).await?)?;
        Ok(self.tell((parent, name), entry.handle.into(), attr, sent))
    }

    fn make_body(&self, parent: u64, name: &[u8], request: MakeRequest) -> Result<v1::Make> {
        check_name(name)?;
        Ok(v1::Make {
            parent: self.inodes.handle(parent)?.to_vec(),
            name: name.to_vec(),
            kind: request.kind.into(),
            mode: request.mode & 0o7777,
            rdev: request.rdev,
            symlink_target: request.target,
            exclusive: true,
            open: false,
            open_flags: 0,
        })
    }

    /// open(2) with O_CREAT.
    ///
    /// # Errors
    /// `FS_EXISTS` with O_EXCL, and meta's.
    pub async fn create(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        request: MakeRequest,
        open_flags: u32,
    ) -> Result<Created> {
        let umask = request.umask;
        let sent = Instant::now();
        let make = v1::Make {
            exclusive: open_flags & libc::O_EXCL as u32 != 0,
            open: true,
            open_flags,
            ..self.make_body(parent, name, request)?
        };
        let (entry, attr) = reply::entry(self.call(who, umask, Body::Make(make)).await?)?;
        let handle = Bytes::from(entry.handle);
        let ino = self.inodes.kernel_ino(attr.ino);
        let opened = self.register_open(ino, handle.clone(), entry.open_id, open_flags, &attr);
        let found = self.tell((parent, name), handle, attr, sent);
        Ok(Created { found, opened })
    }

    /// link(2).
    ///
    /// # Errors
    /// Meta's.
    pub async fn link(
        &self,
        who: Requester,
        ino: u64,
        new_parent: u64,
        new_name: &[u8],
    ) -> Result<Attributes> {
        check_name(new_name)?;
        let sent = Instant::now();
        let body = Body::Link(v1::Link {
            handle: self.inodes.handle(ino)?.to_vec(),
            new_parent: self.inodes.handle(new_parent)?.to_vec(),
            new_name: new_name.to_vec(),
        });
        let (entry, attr) = reply::entry(self.call(who, 0, body).await?)?;
        Ok(self.tell((new_parent, new_name), entry.handle.into(), attr, sent))
    }

    /// unlink(2), or rmdir(2) of a `directory`.
    ///
    /// # Errors
    /// Meta's.
    pub async fn unlink(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        directory: bool,
    ) -> Result<()> {
        check_name(name)?;
        let parent = self.inodes.handle(parent)?.to_vec();
        let body = Body::Unlink(v1::Unlink { parent, name: name.to_vec(), directory });
        self.call(who, 0, body).await.map(reply::done)
    }

    /// renameat2(2).
    ///
    /// # Errors
    /// `FS_INVALID` for flags that are not known or exclude each other, and
    /// meta's.
    pub async fn rename(
        &self,
        who: Requester,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> Result<()> {
        check_name(from.1)?;
        check_name(to.1)?;
        let both = RENAME_NOREPLACE | RENAME_EXCHANGE;
        if flags & !both != 0 || flags == both {
            return Err(Error::bare(Code::FsInvalid));
        }
        let body = Body::Rename(v1::Rename {
            parent: self.inodes.handle(from.0)?.to_vec(),
            name: from.1.to_vec(),
            new_parent: self.inodes.handle(to.0)?.to_vec(),
            new_name: to.1.to_vec(),
            no_replace: flags & RENAME_NOREPLACE != 0,
            exchange: flags & RENAME_EXCHANGE != 0,
        });
        self.call(who, 0, body).await.map(reply::done)
    }

    /// readlink(2).
    ///
    /// # Errors
    /// `FS_INVALID` when it is not a symbolic link, and meta's.
    pub async fn readlink(&self, who: Requester, ino: u64) -> Result<Bytes> {
        let handle = self.inodes.handle(ino)?.to_vec();
        let got = self.call_open(who, Body::ReadLink(v1::ReadLink { handle })).await?;
        reply::bytes(got)
    }
}
