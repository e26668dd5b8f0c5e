//! Access control lists. Meta decides by them. The kernel checks them as well
//! where it checks permissions at all, and keeps what it was answered, also
//! that there is none, without an end: that has to be dropped when the right
//! to the inode's attributes ends. A recall, and the kernel itself when it
//! asks for the attributes anew, drop it with these.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flexfs_common::{Code, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Attributes, FileSystem};
use crate::caller::Requester;
use crate::inode_table::Lists;

/// linux/xattr.h.
const ACCESS_NAME: &[u8] = b"system.posix_acl_access";
const DEFAULT_NAME: &[u8] = b"system.posix_acl_default";

/// Where a mode shows a list's mask; Linux leaves a list aside where it is empty.
const MASK_BITS: u32 = 0o070;

/// Inodes whose lists the kernel may keep at once.
const KEPT_MAX: usize = 65_536;
/// How often those whose time is over are dropped: well within the second by
/// which the kernel's times end before the lease.
const SWEEP: Duration = Duration::from_millis(250);

/// Is it the name of a list?
pub(super) fn is_list(name: &[u8]) -> bool {
    matches!(name, ACCESS_NAME | DEFAULT_NAME)
}

/// What the kernel may keep, and until when.
#[derive(Debug, Default)]
pub(super) struct KeptLists {
    until: Mutex<HashMap<u64, Instant>>,
    some: Notify,
}

impl KeptLists {
    /// False: it may not, too many are kept.
    fn keep(&self, ino: u64, until: Instant) -> bool {
        let mut kept = self.until.lock();
        if kept.len() >= KEPT_MAX && !kept.contains_key(&ino) {
            return false;
        }
        kept.insert(ino, until);
        drop(kept);
        self.some.notify_one();
        true
    }

    /// Those whose time is over by then.
    fn take_over(&self, by: Instant) -> Vec<u64> {
        self.until.lock().extract_if(|_, until| *until <= by).map(|(ino, _)| ino).collect()
    }

    fn is_empty(&self) -> bool {
        self.until.lock().is_empty()
    }
}

impl FileSystem {
    /// Is the kernel to check access control lists?
    #[must_use]
    pub fn kernel_checks_lists(&self) -> bool {
        self.checks_lists
    }

    /// The kernel is about to be told these attributes of an inode that is in
    /// the table.
    pub(super) fn lists_told(&self, told: &Attributes) {
        if !self.checks_lists {
            return;
        }
        let attr = &told.attr;
        let lists = (!told.kept.ttl.is_zero()).then(|| Lists {
            access: attr.access_acl,
            default: attr.default_acl,
            until: Instant::now() + told.kept.ttl,
            stamp: told.kept.stamp,
        });
        self.inodes.lists_told(attr.ino, lists);
    }

    /// What is known of the lists of an inode, as long as its attributes may
    /// be kept.
    fn known_lists(&self, ino: u64) -> Option<Lists> {
        let lists = self.inodes.lists(ino).filter(|lists| lists.until > Instant::now())?;
        self.freshness.reading().permits(ino, lists.stamp).then_some(lists)
    }

    /// A list, for the kernel's check or a program.
    pub(super) async fn get_list(&self, who: Requester, ino: u64, name: &[u8]) -> Result<Bytes> {
        if !self.checks_lists {
            // Then the kernel keeps none.
            return self.ask_xattr(who, ino, name).await;
        }
        let absent =
            |lists: &Lists| if name == ACCESS_NAME { !lists.access } else { !lists.default };
        let answer = if self.known_lists(ino).as_ref().is_some_and(absent) {
            self.ready().await?;
            Err(Code::FsNoAttribute.into())
        } else {
            self.ask_xattr(who, ino, name).await
        };
        // If no recall comes meanwhile: that takes the answer's place away.
        let kept = self.known_lists(ino).is_some_and(|lists| self.lists.keep(ino, lists.until));
        if !kept && let Some(kernel) = self.kernel() {
            // What is asked for when this comes is not kept.
            kernel.drop_attributes(ino);
        }
        answer.map_err(|error| match error.code() {
            // The volume has none any more: the mode decides. The kernel would
            // refuse everything.
            Code::FsUnsupported => Code::FsNoAttribute.into(),
            _ => error,
        })
    }

    /// A directory has a list with this mode from now on. Where the kernel
    /// does not decide by it, it has to ask for each name; meta knows that of
    /// names asked for later. The caller holds the lock under which the kernel
    /// drops names: they go right after the answer.
    pub(super) fn list_closes_names(&self, ino: u64, mode: u32) {
        if self.checks_lists && mode & MASK_BITS != 0 {
            return;
        }
        let names = self.inodes.give_up_names(ino);
        self.ask_again(names.into_iter().map(|name| (ino, name.to_vec())).collect());
    }

    /// A list was set or removed here, and the mode with it. A kernel that
    /// knows lists sees to it itself.
    pub(super) fn list_changed(&self, ino: u64) {
        self.list_closes_names(ino, 0);
        if !self.checks_lists
            && let Some(kernel) = self.kernel()
        {
            kernel.drop_attributes(ino);
        }
    }
}

/// Lets the kernel forget lists when it may not keep them any more. Runs as
/// long as the mount.
pub async fn forget_lists(fs: Arc<FileSystem>) {
    loop {
        if fs.lists.is_empty() {
            fs.lists.some.notified().await;
        }
        tokio::time::sleep(SWEEP).await;
        let over = fs.lists.take_over(Instant::now() + SWEEP);
        let Some(kernel) = fs.kernel() else { continue };
        for ino in over {
            kernel.drop_attributes(ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_taken_once_and_what_is_told_again_stays() {
        let kept = KeptLists::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(kept.keep(1, at(1)) && kept.keep(2, at(5)) && kept.keep(3, at(1)));
        assert!(kept.keep(3, at(6)));
        assert_eq!(kept.take_over(at(0)), [] as [u64; 0]);
        assert_eq!(kept.take_over(at(2)), [1]);
        assert_eq!(kept.take_over(at(2)), [] as [u64; 0]);
        let mut rest = kept.take_over(at(6));
        rest.sort_unstable();
        assert_eq!(rest, [2, 3]);
        assert!(kept.is_empty());
    }

    #[test]
    fn too_many_are_not_kept() {
        let kept = KeptLists::default();
        let now = Instant::now();
        assert!((0..KEPT_MAX as u64).all(|ino| kept.keep(ino, now)));
        assert!(!kept.keep(u64::MAX, now) && kept.keep(0, now));
        assert_eq!(kept.take_over(now).len(), KEPT_MAX);
        assert!(kept.keep(u64::MAX, now));
    }
}
