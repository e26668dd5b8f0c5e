//! Which inodes the kernel knows: number ↔ handle, how often it was told of
//! each (so that FORGET balances), and which names it may have cached.
//!
//! One lock: every access is a few hash operations, far below the cost of one
//! crossing of the kernel's border.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::ids::Ino;
use flexfs_common::relatime::Times;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use parking_lot::Mutex;

use crate::freshness::Stamp;

/// What the kernel calls the root of a mount (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// Names of one directory that the kernel may hold, at most.
const NAMES_MAX: usize = 65_536;
/// Names of a directory that are never looked through.
const NAMES_SWEEP: usize = 1024;

/// The table.
#[derive(Debug)]
pub struct InodeTable {
    /// Meta's number of the scope's root.
    root: u64,
    nodes: Mutex<HashMap<u64, Node>>,
}

#[derive(Debug)]
struct Node {
    handle: Bytes,
    /// How often the kernel was given this inode, less what it forgot.
    lookups: u64,
    /// Type and permission bits last told to the kernel.
    mode: u32,
    /// Size and time of modification last told to the kernel, which looks at
    /// them to know whether its pages are old.
    contents: Option<(u64, v1::Timestamp)>,
    /// Its times as last told to the kernel or answered by meta, and from when
    /// they are.
    times: Option<(Times, Stamp)>,
    /// What the kernel was last told of its access control lists, if it may
    /// keep that.
    lists: Option<Lists>,
    /// The change counter at the last open: pages cached since belong to it.
    opened_change: Option<u64>,
    /// Directories: where it was last seen, for `..`.
    parent: u64,
    /// Directories: names, present or absent, that the kernel may hold without
    /// asking, and until when.
    names: HashMap<Bytes, Instant>,
    /// Number of names at which those that are over are looked for.
    sweep_at: usize,
}

/// Which access control lists an inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    /// More than its mode.
    pub access: bool,
    /// For its new entries.
    pub default: bool,
    /// How long that may be kept.
    pub until: Instant,
    /// If nothing was recalled or changed since.
    pub stamp: Stamp,
}

impl InodeTable {
    /// A table that knows the root, which is never forgotten.
    #[must_use]
    pub fn new(root_handle: Bytes, root_attr: &v1::Attr) -> InodeTable {
        let node = Node::new(root_handle, root_attr.mode, ROOT);
        InodeTable { root: root_attr.ino, nodes: Mutex::new(HashMap::from([(ROOT, node)])) }
    }

    /// Meta's number → the kernel's.
    #[must_use]
    pub fn kernel_ino(&self, ino: u64) -> u64 {
        if ino == self.root { ROOT } else { ino }
    }

    /// The kernel's number → meta's.
    #[must_use]
    pub fn meta_ino(&self, ino: u64) -> Ino {
        Ino(if ino == ROOT { self.root } else { ino })
    }

    /// The handle to name an inode to meta with.
    ///
    /// # Errors
    /// `FS_STALE` when the kernel was never told of it.
    pub fn handle(&self, ino: u64) -> Result<Bytes> {
        let nodes = self.nodes.lock();
        nodes.get(&ino).map(|node| node.handle.clone()).ok_or_else(|| Error::bare(Code::FsStale))
    }

    /// The kernel is about to be told of an inode found in the directory
    /// `parent`: counts it. `attr` is as told to the kernel.
    pub fn found(&self, attr: &v1::Attr, handle: Bytes, parent: u64) {
        let (ino, mode) = (attr.ino, attr.mode);
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(ino).or_insert_with(|| Node::new(handle.clone(), mode, parent));
        node.lookups = node.lookups.saturating_add(1);
        node.handle = handle;
        node.mode = mode;
        node.contents = Some((attr.size, attr.mtime.unwrap_or_default()));
        if ino != ROOT {
            node.parent = parent;
        }
    }

    /// The kernel is about to be told that it may keep a name of the directory
    /// until then, whether it is there or not. False: it may not, because too
    /// many are kept.
    pub fn name_told(&self, dir: u64, name: &[u8], until: Instant) -> bool {
        let mut nodes = self.nodes.lock();
        let Some(dir) = nodes.get_mut(&dir) else { return false };
        if dir.names.len() >= dir.sweep_at {
            let now = Instant::now();
            dir.names.retain(|_, until| *until > now);
            dir.sweep_at = NAMES_SWEEP.max(dir.names.len() * 2);
        }
        if dir.names.len() >= NAMES_MAX {
            return false;
        }
        dir.names.insert(Bytes::copy_from_slice(name), until);
        true
    }

    /// The kernel is about to move a name, and the time for which it may keep
    /// it: a recall finds it where it is then. True when it may keep it.
    pub fn name_moves(&self, old: (u64, &[u8]), new: (u64, &[u8])) -> bool {
        let mut nodes = self.nodes.lock();
        let kept = nodes.get(&old.0).and_then(|dir| dir.names.get(old.1)).copied();
        let Some(until) = kept.filter(|until| *until > Instant::now()) else { return false };
        if let Some(dir) = nodes.get_mut(&new.0) {
            dir.names.insert(Bytes::copy_from_slice(new.1), until);
        }
        true
    }

    /// The kernel forgot `count` of what it was told, or an answer of ours
    /// did not reach it. True when it does not know the inode any more.
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        if ino == ROOT {
            return false;
        }
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&ino) else { return true };
        node.lookups = node.lookups.saturating_sub(count);
        let forgotten = node.lookups == 0;
        if forgotten {
            nodes.remove(&ino);
        }
        forgotten
    }

    /// Permission bits last told to the kernel.
    #[must_use]
    pub fn mode(&self, ino: u64) -> u32 {
        self.nodes.lock().get(&ino).map_or(0, |node| node.mode)
    }

    /// New attributes are told to the kernel. True when they let its pages
    /// look the same as those told before.
    pub fn attributes_told(&self, ino: u64, attr: &v1::Attr) -> bool {
        let contents = (attr.size, attr.mtime.unwrap_or_default());
        match self.nodes.lock().get_mut(&ino) {
            Some(node) => {
                node.mode = attr.mode;
                node.contents.replace(contents) == Some(contents)
            }
            None => false,
        }
    }

    /// The same of its access control lists; `None`: it may keep nothing.
    pub fn lists_told(&self, ino: u64, lists: Option<Lists>) {
        if let Some(node) = self.nodes.lock().get_mut(&ino) {
            node.lists = lists;
        }
    }

    /// The times of an inode are known anew.
    pub fn times_known(&self, ino: u64, times: Times, stamp: Stamp) {
        if let Some(node) = self.nodes.lock().get_mut(&ino) {
            node.times = Some((times, stamp));
        }
    }

    /// Its times as far as they are known, and from when they are.
    #[must_use]
    pub fn times(&self, ino: u64) -> Option<(Times, Stamp)> {
        self.nodes.lock().get(&ino)?.times
    }

    /// What the kernel was last told of an inode's access control lists.
    #[must_use]
    pub fn lists(&self, ino: u64) -> Option<Lists> {
        self.nodes.lock().get(&ino)?.lists
    }

    /// Where a directory was last seen; the root is its own parent.
    #[must_use]
    pub fn parent(&self, ino: u64) -> u64 {
        self.nodes.lock().get(&ino).map_or(ROOT, |node| node.parent)
    }

    /// An open saw this change counter: may the kernel keep the pages it has?
    /// Only when the open before saw the same.
    #[must_use]
    pub fn keep_cache(&self, ino: u64, change: u64) -> bool {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&ino) else { return false };
        node.opened_change.replace(change) == Some(change)
    }

    /// The kernel's pages of an inode are given up.
    pub fn forget_contents(&self, ino: u64) {
        if let Some(node) = self.nodes.lock().get_mut(&ino) {
            node.opened_change = None;
        }
    }

    /// The names of a directory are given up. Returns those that the kernel
    /// may still hold.
    #[must_use]
    pub fn give_up_names(&self, dir: u64) -> Vec<Bytes> {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        let Some(dir) = nodes.get_mut(&dir) else { return Vec::new() };
        let names = std::mem::take(&mut dir.names);
        names.into_iter().filter_map(|(name, until)| (until > now).then_some(name)).collect()
    }

    /// Every inode the kernel knows.
    #[must_use]
    pub fn all(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }
}

impl Node {
    fn new(handle: Bytes, mode: u32, parent: u64) -> Node {
        Node {
            handle,
            lookups: 0,
            mode,
            contents: None,
            times: None,
            lists: None,
            opened_change: None,
            parent,
            names: HashMap::new(),
            sweep_at: NAMES_SWEEP,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> InodeTable {
        let root = v1::Attr { ino: 900, mode: 0o755, ..Default::default() };
        InodeTable::new(Bytes::from_static(b"root"), &root)
    }

    fn attr(ino: u64) -> v1::Attr {
        v1::Attr { ino, size: 5, ..Default::default() }
    }

    #[test]
    fn the_kernel_sees_new_contents_by_size_or_time() {
        let table = table();
        assert!(!table.attributes_told(10, &attr(10)), "not known at all");
        table.found(&attr(10), Bytes::new(), ROOT);
        assert!(table.attributes_told(10, &attr(10)));
        let mtime = Some(v1::Timestamp { seconds: 1, nanos: 2 });
        assert!(!table.attributes_told(10, &v1::Attr { mtime, ..attr(10) }));
        assert!(table.attributes_told(10, &v1::Attr { mtime, mode: 0o600, ..attr(10) }));
        assert!(!table.attributes_told(10, &v1::Attr { mtime, size: 6, ..attr(10) }));
        assert_eq!(table.mode(10), 0);
    }

    #[test]
    fn the_root_has_two_numbers_and_stays() {
        let table = table();
        assert_eq!(table.kernel_ino(900), ROOT);
        assert_eq!(table.kernel_ino(901), 901);
        assert_eq!(table.meta_ino(ROOT), Ino(900));
        table.forget(ROOT, 5);
        assert_eq!(table.handle(ROOT).unwrap(), "root");
        assert_eq!(table.parent(ROOT), ROOT);
        assert_eq!(table.handle(901).unwrap_err().code(), Code::FsStale);
    }

    #[test]
    fn names_are_given_up_with_their_directory_while_they_count() {
        let table = table();
        let later = Instant::now() + std::time::Duration::from_secs(60);
        table.found(&attr(10), Bytes::new(), ROOT);
        assert!(table.name_told(10, b"there", later));
        assert!(table.name_told(10, b"over", Instant::now()));
        assert!(!table.name_told(11, b"nowhere", later), "a directory the kernel does not know");
        assert_eq!(table.parent(10), ROOT);
        assert_eq!(table.give_up_names(10), ["there"]);
        assert!(table.give_up_names(10).is_empty());
        assert!(table.give_up_names(77).is_empty());
    }

    #[test]
    fn a_name_that_moves_takes_its_time_along() {
        let table = table();
        let later = Instant::now() + std::time::Duration::from_secs(60);
        table.found(&attr(10), Bytes::new(), ROOT);
        assert!(!table.name_moves((ROOT, b"a"), (10, b"b")), "it was not kept");
        assert!(table.name_told(ROOT, b"a", later));
        assert!(table.name_moves((ROOT, b"a"), (10, b"b")));
        assert_eq!(table.give_up_names(10), ["b"]);
    }

    #[test]
    fn names_that_are_over_make_room_and_too_many_are_not_kept() {
        let table = table();
        let later = Instant::now() + std::time::Duration::from_secs(60);
        let tell = |n: usize, until| table.name_told(ROOT, n.to_string().as_bytes(), until);
        assert!((0..NAMES_MAX).all(|n| tell(n, Instant::now())));
        assert!((0..NAMES_MAX).all(|n| tell(n, later)));
        assert!(!tell(NAMES_MAX, later));
        assert_eq!(table.give_up_names(ROOT).len(), NAMES_MAX);
        assert!(tell(0, later));
    }

    #[test]
    fn pages_are_kept_only_between_opens_of_the_same_contents() {
        let table = table();
        table.found(&attr(10), Bytes::new(), ROOT);
        assert!(!table.keep_cache(10, 5));
        assert!(table.keep_cache(10, 5));
        assert!(!table.keep_cache(10, 6));
        assert!(table.keep_cache(10, 6));
        table.forget_contents(10);
        assert!(!table.keep_cache(10, 6));
        assert!(!table.keep_cache(99, 1));
    }

    proptest! {
        /// Whatever order lookups and forgets come in, an inode is known
        /// exactly while it was told of more often than forgotten.
        #[test]
        fn lookups_and_forgets_balance(steps in prop::collection::vec((2_u64..6, 0_u64..4), 0..200)) {
            let table = table();
            let mut model: HashMap<u64, u64> = HashMap::new();
            for (ino, count) in steps {
                if count == 0 {
                    table.found(&attr(ino), Bytes::new(), ROOT);
                    *model.entry(ino).or_default() += 1;
                } else {
                    table.forget(ino, count);
                    if let Some(left) = model.get_mut(&ino) {
                        *left = left.saturating_sub(count);
                    }
                    model.retain(|_, left| *left > 0);
                }
                let mut known = table.all();
                known.sort_unstable();
                let mut expected: Vec<u64> = model.keys().copied().chain([ROOT]).collect();
                expected.sort_unstable();
                prop_assert_eq!(known, expected);
            }
        }
    }
}
