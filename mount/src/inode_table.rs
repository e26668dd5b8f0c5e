//! Which inodes the kernel knows: number ↔ handle, how often it was told of
//! each (so that FORGET balances), and which names it may have cached.
//!
//! One lock: every access is a few hash operations, far below the cost of one
//! crossing of the kernel's border.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use flexfs_common::ids::Ino;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use parking_lot::Mutex;

/// What the kernel calls the root of a mount (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// A name in a directory of the kernel's numbering.
pub type Place = (u64, Bytes);

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
    /// The change counter at the last open: pages cached since belong to it.
    opened_change: Option<u64>,
    /// Directories: where it was last seen, for `..`.
    parent: u64,
    /// Names under which the kernel may hold it without asking.
    places: HashSet<Place>,
    /// Directories: names the kernel may hold without asking.
    children: HashSet<Bytes>,
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

    /// The kernel is about to be told of an inode found at `place`: counts
    /// it. `cached` when the kernel may keep the name without asking.
    /// `ino` and `mode` are those told to the kernel.
    pub fn found(&self, ino: u64, handle: Bytes, mode: u32, place: &Place, cached: bool) {
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(ino).or_insert_with(|| Node::new(handle.clone(), mode, place.0));
        node.lookups = node.lookups.saturating_add(1);
        node.handle = handle;
        node.mode = mode;
        if ino != ROOT {
            node.parent = place.0;
        }
        if cached {
            node.places.insert(place.clone());
            if let Some(dir) = nodes.get_mut(&place.0) {
                dir.children.insert(place.1.clone());
            }
        }
    }

    /// The kernel forgot `count` of what it was told, or an answer of ours
    /// did not reach it.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino == ROOT {
            return;
        }
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&ino) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return;
        }
        let Some(gone) = nodes.remove(&ino) else { return };
        for (parent, name) in gone.places {
            if let Some(dir) = nodes.get_mut(&parent) {
                dir.children.remove(&name);
            }
        }
    }

    /// Permission bits last told to the kernel.
    #[must_use]
    pub fn mode(&self, ino: u64) -> u32 {
        self.nodes.lock().get(&ino).map_or(0, |node| node.mode)
    }

    /// New permission bits are told to the kernel.
    pub fn set_mode(&self, ino: u64, mode: u32) {
        if let Some(node) = self.nodes.lock().get_mut(&ino) {
            node.mode = mode;
        }
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

    /// The kernel's caches of an inode are given up. Returns the names (of
    /// the inode and, for a directory, in it) that it may still hold.
    #[must_use]
    pub fn give_up(&self, ino: u64) -> Vec<Place> {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&ino) else { return Vec::new() };
        node.opened_change = None;
        let mut places: Vec<Place> = node.places.drain().collect();
        let children = std::mem::take(&mut node.children);
        for (parent, name) in &places {
            if let Some(dir) = nodes.get_mut(parent) {
                dir.children.remove(name);
            }
        }
        places.extend(children.into_iter().map(|name| (ino, name)));
        places
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
            opened_change: None,
            parent,
            places: HashSet::new(),
            children: HashSet::new(),
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

    fn place(parent: u64, name: &'static str) -> Place {
        (parent, Bytes::from_static(name.as_bytes()))
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
    fn names_are_given_up_with_either_end() {
        let table = table();
        let (dir, file) = (10, 11);
        table.found(dir, Bytes::new(), 0, &place(ROOT, "d"), true);
        table.found(file, Bytes::new(), 0, &place(dir, "f"), true);
        table.found(file, Bytes::new(), 0, &place(dir, "untold"), false);
        assert_eq!(table.parent(file), dir);
        let mut names = table.give_up(dir);
        names.sort();
        assert_eq!(names, [place(ROOT, "d"), place(dir, "f")]);
        assert_eq!(table.give_up(dir), []);
        assert_eq!(table.give_up(file), [place(dir, "f")]);
        assert_eq!(table.give_up(77), []);
    }

    #[test]
    fn a_forgotten_child_is_no_name_of_its_directory() {
        let table = table();
        table.found(10, Bytes::new(), 0, &place(ROOT, "a"), true);
        table.forget(10, 1);
        assert_eq!(table.give_up(ROOT), []);
        assert!(table.handle(10).is_err());
    }

    #[test]
    fn pages_are_kept_only_between_opens_of_the_same_contents() {
        let table = table();
        table.found(10, Bytes::new(), 0, &place(ROOT, "a"), false);
        assert!(!table.keep_cache(10, 5));
        assert!(table.keep_cache(10, 5));
        assert!(!table.keep_cache(10, 6));
        assert!(table.keep_cache(10, 6));
        let _ = table.give_up(10);
        assert!(!table.keep_cache(10, 6));
        assert!(!table.keep_cache(99, 1));
    }

    proptest! {
        /// Whatever order lookups and forgets come in, an inode is known
        /// exactly while it was told of more often than forgotten.
        #[test]
        fn lookups_and_forgets_balance(steps in prop::collection::vec((2_u64..6, 0_u64..4, any::<bool>()), 0..200)) {
            let table = table();
            let mut model: HashMap<u64, u64> = HashMap::new();
            for (ino, count, cached) in steps {
                if count == 0 {
                    table.found(ino, Bytes::new(), 0, &(ROOT, Bytes::from(ino.to_string())), cached);
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
