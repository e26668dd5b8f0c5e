//! What a POSIX tree does, in memory: every change says what the real one must
//! answer, and leaves here what must be there afterwards. As root sees it.

use std::collections::BTreeMap;

use rustix::io::Errno;

/// A node; not an inode's number.
pub type Id = u64;

/// The directory that everything is in.
pub const ROOT: Id = 1;

/// States that a file may fall back to are kept up to here; a caller that lets
/// more come together has to fsync.
pub const STATES_MAX: usize = 12;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A file with these contents.
    File(Vec<u8>),
    /// A directory with these names.
    Dir(BTreeMap<String, Id>),
    /// A symbolic link to there.
    Link(String),
    /// What RENAME_WHITEOUT leaves.
    Whiteout,
}

/// A node of the tree, or one that is only open any more.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: u32,
    /// Extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// Names, of what is no directory.
    pub links: u64,
    /// It never had a name and may get one.
    pub linkable: bool,
    /// Open descriptors.
    pub opens: u32,
    /// Written through this mount and perhaps not flushed yet, and what the
    /// contents were before and between.
    pub unflushed: Option<(usize, Vec<Vec<u8>>)>,
}

/// How a rename treats what is in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It goes away.
    Yes,
    /// RENAME_NOREPLACE.
    No,
    /// RENAME_EXCHANGE.
    Exchange,
    /// It goes away, and RENAME_WHITEOUT.
    Whiteout,
}

/// A place for a name.
pub type Place<'a> = (Id, &'a str);

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Id, Node>,
    next: Id,
}

impl Default for Tree {
    fn default() -> Tree {
        let mut tree = Tree { nodes: BTreeMap::new(), next: ROOT };
        tree.add(Body::Dir(BTreeMap::new()), 0o755);
        tree
    }
}

impl Tree {
    fn add(&mut self, body: Body, mode: u32) -> Id {
        let id = self.next;
        self.next += 1;
        let node = Node {
            body,
            mode,
            attributes: BTreeMap::new(),
            links: 1,
            linkable: false,
            opens: 0,
            unflushed: None,
        };
        self.nodes.insert(id, node);
        id
    }

    /// A node that is there.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    /// A node that is there, to be changed.
    ///
    /// # Panics
    /// When it is not.
    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node")
    }

    /// All nodes, those without a name among them.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        self.nodes.keys().copied()
    }

    fn names(&self, dir: Id) -> &BTreeMap<String, Id> {
        match &self.node(dir).body {
            Body::Dir(names) => names,
            other => panic!("{dir} is {other:?}"),
        }
    }

    fn names_mut(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.node_mut(dir).body {
            Body::Dir(names) => names,
            other => panic!("{dir} is {other:?}"),
        }
    }

    /// What has this name.
    #[must_use]
    pub fn child(&self, (dir, name): Place<'_>) -> Option<Id> {
        self.names(dir).get(name).copied()
    }

    /// Everything that has a name, by path; the root has the empty one.
    #[must_use]
    pub fn walk(&self) -> Vec<(String, Id)> {
        let mut found = vec![(String::new(), ROOT)];
        let mut index = 0;
        while let Some((path, id)) = found.get(index).cloned() {
            if let Body::Dir(names) = &self.node(id).body {
                let slash = if path.is_empty() { "" } else { "/" };
                let below = names.iter().map(|(name, id)| (format!("{path}{slash}{name}"), *id));
                found.extend(below.collect::<Vec<_>>());
            }
            index += 1;
        }
        found
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.node(id).body, Body::Dir(_))
    }

    fn is_empty(&self, id: Id) -> bool {
        matches!(&self.node(id).body, Body::Dir(names) if names.is_empty())
    }

    /// Is `inner` that directory or below it?
    fn contains(&self, outer: Id, inner: Id) -> bool {
        outer == inner
            || match &self.node(outer).body {
                Body::Dir(names) => names.values().any(|id| self.contains(*id, inner)),
                _ => false,
            }
    }

    /// creat(2) with O_EXCL, mkdir(2), symlink(2).
    ///
    /// # Errors
    /// What it must fail with.
    pub fn make(&mut self, place: Place<'_>, body: Body, mode: u32) -> Result<Id, Errno> {
        if self.child(place).is_some() {
            return Err(Errno::EXIST);
        }
        let id = self.add(body, mode);
        self.names_mut(place.0).insert(place.1.to_owned(), id);
        Ok(id)
    }

    /// open(2) with O_TMPFILE, and O_EXCL unless it is `linkable`: the caller
    /// counts its descriptor.
    pub fn make_nameless(&mut self, mode: u32, linkable: bool) -> Id {
        let id = self.add(Body::File(Vec::new()), mode);
        let node = self.node_mut(id);
        (node.links, node.linkable) = (0, linkable);
        id
    }

    /// linkat(2) of an open file, which need not have a name.
    ///
    /// # Errors
    /// What it must fail with.
    pub fn name(&mut self, id: Id, to: Place<'_>) -> Result<(), Errno> {
        if self.child(to).is_some() {
            return Err(Errno::EXIST);
        }
        let node = self.node_mut(id);
        if node.links == 0 && !node.linkable {
            return Err(Errno::NOENT);
        }
        node.links += 1;
        node.linkable = false;
        self.names_mut(to.0).insert(to.1.to_owned(), id);
        Ok(())
    }

    /// open(2) for reading and writing, with O_NOFOLLOW.
    ///
    /// # Errors
    /// What it must fail with.
    pub fn file(&self, place: Place<'_>) -> Result<Id, Errno> {
        let id = self.child(place).ok_or(Errno::NOENT)?;
        match self.node(id).body {
            Body::File(_) => Ok(id),
            Body::Dir(_) => Err(Errno::ISDIR),
            Body::Link(_) => Err(Errno::LOOP),
            Body::Whiteout => Err(Errno::NXIO),
        }
    }

    /// Takes a name away, and what has none any more and is not open.
    fn unname(&mut self, (dir, name): Place<'_>) {
        if let Some(id) = self.names_mut(dir).remove(name) {
            self.node_mut(id).links -= 1;
            self.reap(id);
        }
    }

    fn reap(&mut self, id: Id) {
        let node = self.node(id);
        if node.links == 0 && node.opens == 0 {
            self.nodes.remove(&id);
        }
    }

    /// A descriptor of it was closed.
    pub fn closed(&mut self, id: Id) {
        self.node_mut(id).opens -= 1;
        self.reap(id);
    }

    /// unlink(2).
    ///
    /// # Errors
    /// What it must fail with.
    pub fn unlink(&mut self, place: Place<'_>) -> Result<(), Errno> {
        let id = self.child(place).ok_or(Errno::NOENT)?;
        if self.is_dir(id) {
            return Err(Errno::ISDIR);
        }
        self.unname(place);
        Ok(())
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// What it must fail with.
    pub fn rmdir(&mut self, place: Place<'_>) -> Result<(), Errno> {
        let id = self.child(place).ok_or(Errno::NOENT)?;
        if !self.is_dir(id) {
            return Err(Errno::NOTDIR);
        }
        if !self.is_empty(id) {
            return Err(Errno::NOTEMPTY);
        }
        self.unname(place);
        Ok(())
    }

    /// link(2).
    ///
    /// # Errors
    /// What it must fail with.
    pub fn link(&mut self, from: Place<'_>, to: Place<'_>) -> Result<(), Errno> {
        let id = self.child(from).ok_or(Errno::NOENT)?;
        if self.child(to).is_some() {
            return Err(Errno::EXIST);
        }
        if self.is_dir(id) {
            return Err(Errno::PERM);
        }
        self.node_mut(id).links += 1;
        self.names_mut(to.0).insert(to.1.to_owned(), id);
        Ok(())
    }

    /// renameat2(2), with Linux's order of checks.
    ///
    /// # Errors
    /// What it must fail with.
    pub fn rename(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        replace: Replace,
    ) -> Result<(), Errno> {
        let moved = self.child(from).ok_or(Errno::NOENT)?;
        let target = self.child(to);
        match (replace, target) {
            (Replace::No, Some(_)) => return Err(Errno::EXIST),
            (Replace::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if self.contains(moved, to.0) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target {
            let exchange = replace == Replace::Exchange;
            if self.contains(target, from.0) {
                return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            if target == moved {
                return Ok(());
            }
            if exchange {
                self.names_mut(from.0).insert(from.1.to_owned(), target);
                self.names_mut(to.0).insert(to.1.to_owned(), moved);
                return Ok(());
            }
            match (self.is_dir(moved), self.is_dir(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.is_empty(target) => return Err(Errno::NOTEMPTY),
                _ => self.unname(to),
            }
        }
        self.names_mut(from.0).remove(from.1);
        if replace == Replace::Whiteout {
            let left = self.add(Body::Whiteout, 0);
            self.names_mut(from.0).insert(from.1.to_owned(), left);
        }
        self.names_mut(to.0).insert(to.1.to_owned(), moved);
        Ok(())
    }

    /// What a file holds.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn contents(&self, id: Id) -> &Vec<u8> {
        match &self.node(id).body {
            Body::File(contents) => contents,
            other => panic!("{id} is {other:?}"),
        }
    }

    /// A mount changes contents; until they are flushed the old ones may come
    /// back with its death.
    ///
    /// # Panics
    /// When it is no file.
    pub fn change(&mut self, id: Id, mount: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let node = self.node_mut(id);
        let Body::File(contents) = &mut node.body else { panic!("{id} is no file") };
        let before = contents.clone();
        change(contents);
        // Another mount's buffered writes went before this one's.
        match &mut node.unflushed {
            Some((by, states)) if *by == mount => states.push(before),
            unflushed => *unflushed = Some((mount, vec![before])),
        }
    }

    /// What this mount may have buffered of it is at meta now.
    pub fn flushed(&mut self, id: Id, mount: usize) {
        let node = self.node_mut(id);
        if node.unflushed.as_ref().is_some_and(|(by, _)| *by == mount) {
            node.unflushed = None;
        }
    }

    /// The mount died: what is found must be one of the states, or of a mixture
    /// of them by byte, and is what holds from now on. False: it is neither.
    ///
    /// # Panics
    /// When it is no file.
    pub fn settle(&mut self, id: Id, found: Vec<u8>) -> bool {
        let node = self.node_mut(id);
        let Body::File(contents) = &mut node.body else { panic!("{id} is no file") };
        let (_, mut states) = node.unflushed.take().unwrap_or_default();
        states.push(contents.clone());
        let sized = states.iter().any(|state| state.len() == found.len());
        let byte = |state: &Vec<u8>, at: usize| state.get(at).copied().unwrap_or(0);
        let mut bytes = found.iter().enumerate();
        let mixed = bytes.all(|(at, found)| states.iter().any(|state| byte(state, at) == *found));
        *contents = found;
        sized && mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        let dir = tree.make((ROOT, "d"), Body::Dir(BTreeMap::new()), 0o755).unwrap();
        tree.make((dir, "f"), Body::File(Vec::new()), 0o644).unwrap();
        tree
    }

    #[test]
    fn renames_are_refused_as_linux_does() {
        let mut tree = tree();
        let dir = tree.child((ROOT, "d")).unwrap();
        assert_eq!(tree.rename((ROOT, "d"), (dir, "x"), Replace::Yes), Err(Errno::INVAL));
        assert_eq!(tree.rename((dir, "f"), (ROOT, "d"), Replace::Yes), Err(Errno::NOTEMPTY));
        assert_eq!(tree.rename((dir, "f"), (ROOT, "g"), Replace::Exchange), Err(Errno::NOENT));
        assert_eq!(tree.rename((dir, "f"), (ROOT, "f"), Replace::Yes), Ok(()));
        assert_eq!(tree.rename((ROOT, "f"), (ROOT, "d"), Replace::Yes), Err(Errno::ISDIR));
        assert_eq!(tree.rename((ROOT, "d"), (ROOT, "f"), Replace::Yes), Err(Errno::NOTDIR));
        assert_eq!(tree.rename((ROOT, "d"), (ROOT, "f"), Replace::No), Err(Errno::EXIST));
    }

    #[test]
    fn what_has_no_name_gets_one_once() {
        let mut tree = tree();
        let file = tree.make_nameless(0o644, true);
        tree.node_mut(file).opens += 1;
        assert_eq!(tree.name(file, (ROOT, "d")), Err(Errno::EXIST));
        tree.name(file, (ROOT, "f")).unwrap();
        tree.rename((ROOT, "f"), (ROOT, "g"), Replace::Whiteout).unwrap();
        let left = tree.child((ROOT, "f")).unwrap();
        assert_eq!(tree.node(left).body, Body::Whiteout);
        tree.unlink((ROOT, "g")).unwrap();
        assert_eq!(tree.name(file, (ROOT, "g")), Err(Errno::NOENT));
        tree.closed(file);
        assert!(tree.ids().all(|id| id != file));
    }

    #[test]
    fn only_what_was_written_may_be_found_after_a_death() {
        let mut tree = tree();
        let file = tree.child((tree.child((ROOT, "d")).unwrap(), "f")).unwrap();
        tree.change(file, 0, |contents| contents.extend(b"one"));
        tree.flushed(file, 1);
        assert!(tree.settle(file, Vec::new()));
        tree.change(file, 0, |contents| contents.extend(b"one"));
        assert!(!tree.settle(file, b"two".to_vec()));
        tree.change(file, 0, |contents| contents.extend(b"!"));
        tree.flushed(file, 0);
        assert!(!tree.settle(file, b"two".to_vec()), "that was flushed");
    }
}
