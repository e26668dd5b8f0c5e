//! Names: lookup, create, mkdir, mknod, symlink, link, unlink, rename,
//! readlink.

use std::time::Duration;

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Result, protocol};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::file::{Grant, Opened};
use super::{Asked, Attributes, FileSystem, Found, Kept, check_name, reply};
use crate::caller::Requester;

/// renameat2(2) RENAME_NOREPLACE.
const RENAME_NOREPLACE: u32 = 1;
/// renameat2(2) RENAME_EXCHANGE.
const RENAME_EXCHANGE: u32 = 2;
/// renameat2(2) RENAME_WHITEOUT.
const RENAME_WHITEOUT: u32 = 4;

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

/// A name and its inode, as meta has just answered them.
struct Told<'n> {
    place: (u64, &'n [u8]),
    of_name: Asked,
    of_inode: Asked,
}

impl FileSystem {
    /// Finds a name. The inode counts as told to the kernel: if the reply
    /// cannot be delivered, call [`FileSystem::forget`].
    ///
    /// # Errors
    /// `FS_NOT_FOUND`, and meta's.
    pub async fn lookup(&self, who: Requester, parent: u64, name: &[u8]) -> Result<Found> {
        check_name(name)?;
        match self.known_absent(parent, name) {
            Some(kept) if kept.ttl.is_zero() => return Err(Code::FsNotFound.into()),
            Some(kept) => return Ok(Found::Absent(kept)),
            None => {}
        }
        self.report_made_in(parent).await?;
        let asked = self.ask();
        let body = Body::Lookup(v1::Lookup {
            parent: self.inodes.handle(parent)?.to_vec(),
            name: name.to_vec(),
        });
        match self.call(who, 0, body).await? {
            v1::reply::Result::Absent(absent) => {
                let kept = self.name_kept(absent.cache_millis, (parent, name), asked);
                if kept.ttl.is_zero() {
                    Err(Code::FsNotFound.into())
                } else {
                    Ok(Found::Absent(kept))
                }
            }
            got => {
                let told = Told { place: (parent, name), of_name: asked, of_inode: asked };
                self.tell(told, reply::entry(got)?).map(Found::There)
            }
        }
    }

    /// A name that is not in a directory of which this mount knows all names;
    /// and that the kernel may keep this. (It has checked who may search it.)
    fn known_absent(&self, parent: u64, name: &[u8]) -> Option<Kept> {
        if !self.kernel_checks() || self.session.check().is_err() {
            return None;
        }
        let (until, stamp) = {
            let reading = self.freshness.reading();
            (self.whole.is_absent(&reading, parent, name)?, reading.stamp())
        };
        let millis = u32::try_from(until.left().as_millis()).unwrap_or(u32::MAX);
        let asked = Asked { at: BootTime::now(), stamp };
        Some(self.keep_name(millis, (parent, name), asked))
    }

    /// A directory was made here: it is empty.
    fn made_empty(&self, (entry, attr): &(v1::Entry, v1::Attr), asked: Asked) {
        if entry.own_names_cache_millis == 0 {
            return;
        }
        let ino = self.inodes.kernel_ino(attr.ino);
        let until = asked.at.after(Duration::from_millis(entry.own_names_cache_millis.into()));
        let making = self.making(entry, attr, asked);
        self.whole.made(&self.freshness.reading(), ino, (asked.stamp, until), making);
    }

    /// Counts an inode as told to the kernel and gives what to tell.
    fn tell(&self, told: Told<'_>, (entry, attr): (v1::Entry, v1::Attr)) -> Result<Attributes> {
        let handle = Bytes::from(entry.handle);
        let mut found = self.told(&handle, attr, told.of_inode);
        found.name_kept = self.name_kept(entry.name_cache_millis, told.place, told.of_name);
        self.inodes.found(&found.attr, handle, told.place.0);
        self.remember_told(&found);
        Ok(found)
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
        let make = self.make_body(parent, name, &request)?;
        let (got, told) = self.make_it(who, request.umask, (parent, name), make).await?;
        self.made_empty(&got, told.of_inode);
        self.tell(told, got)
    }

    async fn make_it<'n>(
        &self,
        who: Requester,
        umask: u32,
        place: (u64, &'n [u8]),
        make: v1::Make,
    ) -> Result<((v1::Entry, v1::Attr), Told<'n>)> {
        self.report_made_in(place.0).await?;
        let at = BootTime::now();
        self.whole.adding(place.0, place.1);
        self.whole.changing(place.0);
        let change = self.freshness.change(&[place.0]);
        let got = reply::entry(self.call(who, umask, Body::Make(make)).await?)?;
        let of_inode = Asked { at, stamp: change.sent() };
        let of_name = Asked { at, stamp: change.answered() };
        Ok((got, Told { place, of_name, of_inode }))
    }

    pub(super) fn make_body(
        &self,
        parent: u64,
        name: &[u8],
        request: &MakeRequest,
    ) -> Result<v1::Make> {
        check_name(name)?;
        Ok(v1::Make {
            parent: self.inodes.handle(parent)?.to_vec(),
            name: name.to_vec(),
            kind: request.kind.into(),
            mode: request.mode & 0o7777,
            rdev: request.rdev,
            symlink_target: request.target.clone(),
            exclusive: true,
            ..v1::Make::default()
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
        if let Some(created) = self.make_here(who, (parent, name), &request, open_flags) {
            return Ok(created);
        }
        let make = v1::Make {
            exclusive: open_flags & libc::O_EXCL as u32 != 0,
            open: true,
            open_flags,
            ..self.make_body(parent, name, &request)?
        };
        let (got, told) = self.make_it(who, request.umask, (parent, name), make).await?;
        let (entry, attr) = &got;
        let ino = self.inodes.kernel_ino(attr.ino);
        let grant = Grant {
            handle: Bytes::copy_from_slice(&entry.handle),
            open_id: entry.open_id,
            flags: open_flags,
            asked: told.of_inode,
        };
        let opened = self.register_open(ino, grant, attr);
        let found = self.tell(told, got)?;
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
        self.report_made(ino).await?;
        self.report_made_in(new_parent).await?;
        let at = BootTime::now();
        self.whole.adding(new_parent, new_name);
        self.whole.changing(new_parent);
        let change = self.freshness.change(&[ino, new_parent]);
        let body = Body::Link(v1::Link {
            handle: self.inodes.handle(ino)?.to_vec(),
            new_parent: self.inodes.handle(new_parent)?.to_vec(),
            new_name: new_name.to_vec(),
        });
        let got = reply::entry(self.call(who, 0, body).await?)?;
        let asked = Asked { at, stamp: change.answered() };
        let told = Told { place: (new_parent, new_name), of_name: asked, of_inode: asked };
        self.tell(told, got)
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
        if directory {
            // Which one it is only the kernel knows.
            // Others than those it is about: kept for who has them open.
            let _ = self.report_all_made().await;
            self.whole.changing_any();
        }
        self.report_made_in(parent).await?;
        self.whole.changing(parent);
        let _change = self.freshness.change(&[parent]);
        let parent = self.inodes.handle(parent)?.to_vec();
        let body = Body::Unlink(v1::Unlink { parent, name: name.to_vec(), directory });
        self.call(who, 0, body).await.map(reply::done)
    }

    /// Flags of renameat2(2) that are known here and to meta, and go together.
    fn check_rename(&self, flags: u32) -> Result<()> {
        let not_exchanging = RENAME_NOREPLACE | RENAME_WHITEOUT;
        let unknown = flags & !(not_exchanging | RENAME_EXCHANGE) != 0;
        let apart = flags & RENAME_EXCHANGE != 0 && flags & not_exchanging != 0;
        let too_new = flags & RENAME_WHITEOUT != 0 && !self.session.has_feature(protocol::WHITEOUT);
        if unknown || apart || too_new {
            return Err(Error::bare(Code::FsInvalid));
        }
        Ok(())
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
        self.check_rename(flags)?;
        // Others than those it is about: kept for who has them open.
        let _ = self.report_all_made().await;
        self.report_made_in(from.0).await?;
        self.report_made_in(to.0).await?;
        self.whole.adding(to.0, to.1);
        self.whole.adding(from.0, from.1);
        self.whole.changing_any();
        // The inode that moves is not named.
        let _change = self.freshness.change_any(&[from.0, to.0]);
        // The kernel takes the time for which it may keep a name along when it
        // moves the name: a recall has to find it where it is then.
        let exchange = flags & RENAME_EXCHANGE != 0;
        let moves = [(from, to), (to, from)];
        let moved: Vec<_> = moves
            .into_iter()
            .take(1 + usize::from(exchange))
            .filter(|(old, new)| self.inodes.name_moves(*old, *new))
            .map(|(_, (dir, name))| (dir, name.to_vec()))
            .collect();
        let body = Body::Rename(v1::Rename {
            parent: self.inodes.handle(from.0)?.to_vec(),
            name: from.1.to_vec(),
            new_parent: self.inodes.handle(to.0)?.to_vec(),
            new_name: to.1.to_vec(),
            no_replace: flags & RENAME_NOREPLACE != 0,
            exchange,
            whiteout: flags & RENAME_WHITEOUT != 0,
        });
        self.call(who, 0, body).await?;
        self.ask_again(moved);
        Ok(())
    }

    /// Names came to directories in which this mount may not keep any: the
    /// kernel drops them as soon as the operation that moved them is over.
    pub(super) fn ask_again(&self, moved: Vec<(u64, Vec<u8>)>) {
        let Some(kernel) = self.kernel().map(std::sync::Arc::clone) else { return };
        if moved.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            moved.iter().for_each(|(dir, name)| kernel.drop_entry(*dir, name));
        });
    }

    /// readlink(2).
    ///
    /// # Errors
    /// `FS_INVALID` when it is not a symbolic link, and meta's.
    pub async fn readlink(&self, who: Requester, ino: u64) -> Result<Bytes> {
        let handle = self.inodes.handle(ino)?;
        let read = v1::ReadLink { handle: handle.to_vec() };
        let target = reply::bytes(self.call_open(who, Body::ReadLink(read)).await?)?;
        self.was_read(who, ino, &handle);
        Ok(target)
    }
}
