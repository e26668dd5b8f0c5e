//! The file system: POSIX operations on meta's namespace and the data plane.
//! Knows no kernel interface; [`crate::fuse`] unpacks requests and packs
//! replies.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Result, flags, limits, protocol};
use flexfs_proto::v1;

use crate::access_times::AccessTimes;
use crate::caller::Requester;
use crate::data::DataPlane;
use crate::freshness::{Freshness, Stamp};
use crate::handle_table::HandleTable;
use crate::inode_table::InodeTable;
use crate::session::MetaSession;
use crate::whole_directories::WholeDirectories;

mod accessed;
mod acl;
mod attr;
mod dir;
mod file;
mod held;
mod io;
mod lock;
mod name;
mod nameless;
mod pages;
mod reply;
mod space;
mod xattr;

pub use acl::forget_lists;
pub use attr::{SetAttrRequest, TimeRequest};
pub use dir::{DirItem, DirSink};
pub use file::{OpenMode, Opened};
pub use io::WriteRequest;
pub use lock::LockRequest;
pub use name::{Created, MakeRequest};
pub use pages::watch as watch_pages;

/// The kernel's caches, which can be told to forget. May block; never called
/// while a request on the same inode is being answered by the same thread.
pub trait KernelCaches: Send + Sync + std::fmt::Debug {
    /// Attributes and pages of an inode. Waits while the pages are being read
    /// or written. An inode that the kernel does not know is no error.
    fn drop_inode(&self, ino: u64);
    /// Attributes of an inode. Waits for nothing. False when the kernel does
    /// not know it (yet, or any more).
    fn drop_attributes(&self, ino: u64) -> bool;
    /// A name. Waits while something is under way in the directory.
    fn drop_entry(&self, parent: u64, name: &[u8]);
}

/// One mounted scope.
#[derive(Debug)]
pub struct FileSystem {
    session: Arc<MetaSession>,
    data: Arc<DataPlane>,
    inodes: InodeTable,
    handles: HandleTable,
    locks: lock::LockTable,
    kernel: OnceLock<Arc<dyn KernelCaches>>,
    freshness: Freshness,
    whole: WholeDirectories,
    numbers: Arc<held::Numbers>,
    /// It was mounted so that the kernel checks permissions.
    mounted_with_checks: bool,
    /// And access control lists.
    checks_lists: bool,
    lists: acl::KeptLists,
    pages: pages::ReadPages,
    accesses: Arc<AccessTimes>,
    /// Meta knows of access times.
    tells_accesses: bool,
}

/// How long the kernel may keep something: to be checked again when it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Zero: not at all.
    pub ttl: Duration,
    /// The kernel's number of the inode (of a name: the directory) that it
    /// depends on.
    pub ino: u64,
    /// From when it is.
    pub stamp: Stamp,
}

/// Attributes as the kernel is told: `attr.ino` is the kernel's number.
#[derive(Debug, Clone)]
pub struct Attributes {
    /// With dirty data merged in.
    pub attr: v1::Attr,
    /// The attributes.
    pub kept: Kept,
    /// The name they were found by, if any.
    pub name_kept: Kept,
}

/// What a lookup found.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per lookup, handed on at once")]
pub enum Found {
    /// The inode; counted as told to the kernel.
    There(Attributes),
    /// Nothing has the name, and the kernel may keep that.
    Absent(Kept),
}

/// When something was asked for, on both scales.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// On the clock that goes on during suspend, as leases do.
    pub at: BootTime,
    /// In the order of recalls and changes.
    pub stamp: Stamp,
}

impl FileSystem {
    /// A file system on an open session.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID` when meta told no root.
    pub fn new(session: Arc<MetaSession>, data: Arc<DataPlane>) -> Result<FileSystem> {
        let opened = session.opened();
        let root_attr = opened.root_attr.as_ref().ok_or_else(reply::unexpected)?;
        let inodes = InodeTable::new(Bytes::from(opened.root_handle.clone()), root_attr);
        let mounted_with_checks = flags::identity_is_true(&opened.flags.unwrap_or_default());
        let checks_lists = opened.features.iter().any(|feature| feature == protocol::ACL);
        let tells_accesses =
            opened.features.iter().any(|feature| feature == protocol::ACCESS_TIMES);
        Ok(FileSystem {
            inodes,
            data,
            session,
            handles: HandleTable::default(),
            locks: lock::LockTable::default(),
            kernel: OnceLock::new(),
            freshness: Freshness::default(),
            whole: WholeDirectories::default(),
            numbers: Arc::default(),
            mounted_with_checks,
            checks_lists,
            lists: acl::KeptLists::default(),
            pages: pages::ReadPages::default(),
            accesses: Arc::default(),
            tells_accesses,
        })
    }

    /// Where to drop the kernel's caches; set once, when mounted.
    pub fn set_kernel(&self, kernel: Arc<dyn KernelCaches>) {
        // A second kernel would be a defect of the caller; the first stays.
        let _ = self.kernel.set(kernel);
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Arc<MetaSession> {
        &self.session
    }

    /// The data plane.
    #[must_use]
    pub fn data(&self) -> &Arc<DataPlane> {
        &self.data
    }

    /// The inodes the kernel knows.
    #[must_use]
    pub fn inodes(&self) -> &InodeTable {
        &self.inodes
    }

    /// What is open.
    #[must_use]
    pub fn handles(&self) -> &HandleTable {
        &self.handles
    }

    /// The kernel's caches, once mounted.
    #[must_use]
    pub fn kernel(&self) -> Option<&Arc<dyn KernelCaches>> {
        self.kernel.get()
    }

    /// What the kernel may still keep.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Does the kernel check permissions beside meta, for the ids that meta
    /// acts for? What it checks is settled when it mounts; for whom meta acts
    /// may change.
    #[must_use]
    pub fn kernel_checks(&self) -> bool {
        self.mounted_with_checks && flags::identity_is_true(&self.session.flags())
    }

    /// The kernel forgot an inode, or a reply that named it never arrived.
    pub fn forget(&self, ino: u64, count: u64) {
        if self.inodes.forget(ino, count) {
            self.whole.forget(ino);
        }
    }

    /// Must precede every answer: fails when the session was cut; waits when
    /// the lease has ended, because nothing cached may be used then.
    ///
    /// # Errors
    /// The cut's; `FS_IO` when meta stays out of reach.
    pub async fn ready(&self) -> Result<()> {
        match self.session.check() {
            Ok(()) => Ok(()),
            Err(_) => self.session.wait_ready().await,
        }
    }

    /// Asks meta for what the caller's identity must permit.
    async fn call(
        &self,
        who: Requester,
        umask: u32,
        body: v1::op::Body,
    ) -> Result<v1::reply::Result> {
        self.session.call(who.caller(umask), body).await
    }

    /// Asks meta for what everybody or an open permits.
    async fn call_open(&self, who: Requester, body: v1::op::Body) -> Result<v1::reply::Result> {
        self.session.call(who.without_groups(), body).await
    }

    /// Something is about to be asked for.
    fn ask(&self) -> Asked {
        Asked { at: BootTime::now(), stamp: self.freshness.stamp() }
    }

    /// What meta allowed to keep about an inode, in `millis` from the asking.
    fn kept(&self, millis: u32, ino: u64, asked: Asked) -> Kept {
        let ttl = kernel_ttl(millis, BootTime::now().since(asked.at), self.session.lease_left());
        Kept { ttl, ino, stamp: asked.stamp }
    }

    /// The same about a name in a directory. Dropped at a recall if the kernel
    /// keeps it.
    fn name_kept(&self, millis: u32, (dir, name): (u64, &[u8]), asked: Asked) -> Kept {
        if millis > 0 {
            self.whole.granted(dir, asked.at.after(Duration::from_millis(millis.into())));
        }
        self.keep_name(millis, (dir, name), asked)
    }

    fn keep_name(&self, millis: u32, (dir, name): (u64, &[u8]), asked: Asked) -> Kept {
        let kept = self.kept(millis, dir, asked);
        // The kernel counts from when it takes the answer.
        let until = Instant::now() + kept.ttl + Duration::from_secs(1);
        if kept.ttl.is_zero() || !self.kernel_checks() || !self.inodes.name_told(dir, name, until) {
            return Kept::default();
        }
        kept
    }
}

/// How long the kernel may keep an entry or attributes without asking: what
/// meta said, counted from when the request was sent, and never beyond the
/// lease less one second (the kernel's clock ticks are coarse, and what it
/// keeps must be gone when the lease is).
#[must_use]
pub fn kernel_ttl(cache_millis: u32, since_sent: Duration, lease_left: Duration) -> Duration {
    if cache_millis == 0 {
        return Duration::ZERO;
    }
    let told = Duration::from_millis(u64::from(cache_millis)).saturating_sub(since_sent);
    told.min(lease_left.saturating_sub(Duration::from_secs(1)))
}

/// Names longer than any directory holds are refused without asking.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > limits::NAME_MAX_LEN {
        return Err(Error::bare(Code::FsNameTooLong));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_keeps_nothing_beyond_lease_or_word() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        assert_eq!(kernel_ttl(0, s(0), s(10)), s(0));
        assert_eq!(kernel_ttl(5000, s(0), s(10)), s(5));
        assert_eq!(kernel_ttl(5000, ms(200), s(10)), ms(4800));
        assert_eq!(kernel_ttl(60_000, s(0), s(10)), s(9));
        assert_eq!(kernel_ttl(5000, s(0), ms(900)), s(0));
        assert_eq!(kernel_ttl(5000, s(6), s(10)), s(0));
    }
}
