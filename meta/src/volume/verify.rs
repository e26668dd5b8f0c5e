//! The invariants of a volume, checked on one snapshot.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use flexfs_common::Result;
use flexfs_common::ids::{Ino, ObjectId};
use flexfs_proto::v1;

use super::Volume;
use super::acl::{Acl, PERMISSION_BITS};
use super::contents::Placed;
use super::keys::{Tag, id_at, u64_at};
use super::name_order::DIGITS;
use super::record::{Counters, Dentry, Extent, Inode, Object, ObjectState, decode};
use super::superblock;
use super::view::View;

/// What one pass over the records found out.
struct Checker<'v> {
    volume: &'v Volume,
    view: View<'v>,
    report: &'v mut dyn FnMut(&str, String),
    summary: v1::VerifySummary,
    /// Extents per object and the file they are in, as the files have them.
    extents: HashMap<ObjectId, (u32, Ino)>,
    /// Directories known to hang below the root.
    rooted: HashSet<Ino>,
    stored: u64,
    /// The superblock says that there are access control lists.
    lists_noted: bool,
}

impl Volume {
    /// Checks every invariant of the volume on one snapshot; `report` gets
    /// (invariant, message) per finding. Returns what was counted.
    ///
    /// # Errors
    /// `ENGINE_FAILED`, `BLOCK_UNAVAILABLE`.
    pub fn verify(&self, report: &mut dyn FnMut(&str, String)) -> Result<v1::VerifySummary> {
        self.with_view(|view| {
            let summary = v1::VerifySummary { volumes: 1, ..v1::VerifySummary::default() };
            let mut checker = Checker {
                volume: self,
                view,
                report,
                summary,
                extents: HashMap::new(),
                rooted: HashSet::from([self.identity.root]),
                stored: 0,
                lists_noted: superblock::has_lists(view)?,
            };
            checker.inodes()?;
            checker.dentries()?;
            checker.strays()?;
            checker.objects()?;
            checker.counters()?;
            Ok(checker.summary)
        })
    }
}

impl Checker<'_> {
    fn find(&mut self, invariant: &str, message: String) {
        self.summary.findings += 1;
        (self.report)(invariant, message);
    }

    fn inodes(&mut self) -> Result<()> {
        let view = self.view;
        view.scan(&view.keys.all(Tag::Inode), &mut |key, value| {
            let ino = Ino(u64_at(key, 0).unwrap_or(0));
            let inode: Inode = decode("inode", value)?;
            self.summary.inodes += 1;
            self.links(ino, &inode)?;
            if inode.is_dir() {
                self.directory(ino, &inode)?;
            } else if inode.is_regular() {
                self.contents(ino, &inode)?;
            } else if inode.is_symlink() {
                let target = view.raw(&view.keys.target(ino))?.unwrap_or_default();
                if target.len() as u64 != inode.size {
                    self.find(
                        "symlink",
                        format!("the target of {ino} is not {} bytes", inode.size),
                    );
                }
            }
            self.lists(ino, &inode);
            let xattrs = view.keys_of(&view.keys.xattrs(ino), usize::MAX)?.len();
            if xattrs != inode.xattrs as usize {
                self.find("xattrs", format!("{ino} has {xattrs} xattrs, not {}", inode.xattrs));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Access control lists are valid and where they may be, and the access
    /// list says what the mode says, and more.
    fn lists(&mut self, ino: Ino, inode: &Inode) {
        let (access, default) = (inode.access_list(), inode.default_list());
        if access.is_empty() && default.is_empty() {
            return;
        }
        if !self.lists_noted {
            self.find("acl", format!("{ino} has a list, and the superblock knows of none"));
        }
        if inode.is_symlink() || (!default.is_empty() && !inode.is_dir()) {
            self.find("acl", format!("{ino} is of a kind that has no such list"));
        }
        if !default.is_empty() && Acl::stored(default).is_err() {
            self.find("acl", format!("the default list of {ino} is damaged"));
        }
        if access.is_empty() {
            return;
        }
        match Acl::stored(access) {
            Err(_) => self.find("acl", format!("the access list of {ino} is damaged")),
            Ok(acl) if acl.is_mode() => {
                self.find("acl", format!("the access list of {ino} is no more than its mode"));
            }
            Ok(acl) if acl.mode_bits() != inode.mode & PERMISSION_BITS => {
                self.find("acl", format!("the mode of {ino} is not that of its access list"));
            }
            Ok(_) => {}
        }
    }

    /// Links are the back records, and each has its dentry.
    fn links(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        let view = self.view;
        let mut links = 0;
        let mut parent = None;
        view.scan(&view.keys.backs(ino), &mut |key, _| {
            links += 1;
            let (dir, cookie) = (u64_at(key, 8).unwrap_or(0), u64_at(key, 16).unwrap_or(0));
            parent = Some(Ino(dir));
            let dentry: Option<Dentry> =
                view.record("dentry", &view.keys.dentry(Ino(dir), cookie))?;
            if dentry.is_none_or(|dentry| dentry.ino != ino.0) {
                self.find("back-record", format!("{ino} has no entry in {} as it says", Ino(dir)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let root = ino == self.volume.identity.root;
        let expected = if root || inode.nlink == 0 { 0 } else { 1 };
        if inode.is_dir() && links != expected {
            self.find("link-count", format!("directory {ino} has {links} entries"));
        } else if !inode.is_dir() && links != inode.nlink {
            self.find("link-count", format!("{ino} has {links} links, not {}", inode.nlink));
        }
        if inode.is_dir() && !root && parent.is_some_and(|parent| parent.0 != inode.parent) {
            self.find("parent", format!("directory {ino} does not lie where it says"));
        }
        let orphan = view.raw(&view.keys.orphan(ino))?.is_some();
        if orphan != (inode.nlink == 0) {
            self.find("orphan", format!("{ino} has {} links, orphan: {orphan}", inode.nlink));
        }
        if inode.linkable && (inode.nlink > 0 || !inode.is_regular()) {
            self.find("orphan", format!("{ino} has or had a name and may be given its first"));
        }
        Ok(())
    }

    fn directory(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        let view = self.view;
        let (mut entries, mut subdirs) = (0, 0);
        view.scan(&view.keys.dentries_after(ino, 0), &mut |_, value| {
            let dentry: Dentry = decode("dentry", value)?;
            entries += u64::from(dentry.ino != 0);
            subdirs += u32::from(dentry.kind == v1::FileKind::Directory as i32);
            Ok(ControlFlow::Continue(()))
        })?;
        if entries != inode.entries {
            self.find("entries", format!("{ino} has {entries} entries, not {}", inode.entries));
        }
        if inode.nlink != 0 && inode.nlink != subdirs + 2 {
            let expected = subdirs + 2;
            self.find("link-count", format!("{ino} has {} links, not {expected}", inode.nlink));
        }
        if inode.nlink != 0 {
            self.reachable(ino, inode)?;
        }
        Ok(())
    }

    /// A directory hangs below the root.
    fn reachable(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        let mut walked = HashSet::new();
        let (mut at, mut parent) = (ino, Ino(inode.parent));
        while !self.rooted.contains(&at) {
            if !walked.insert(at) || at == parent {
                self.find("reachable", format!("directory {ino} does not hang below the root"));
                return Ok(());
            }
            at = parent;
            let Some(above) = self.view.inode(at)? else {
                self.find("reachable", format!("directory {ino} hangs below {at}, which is gone"));
                return Ok(());
            };
            parent = Ino(above.parent);
        }
        self.rooted.extend(walked);
        Ok(())
    }

    /// Extents are in order and within the size; what is allocated is counted.
    fn contents(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        let view = self.view;
        let (mut allocated, mut reached) = (0, 0);
        view.scan(&view.keys.extents_from(ino, 0), &mut |key, value| {
            let extent: Extent = decode("extent", value)?;
            let placed = Placed { offset: u64_at(key, 8).unwrap_or(0), extent };
            self.summary.extents += 1;
            let (used, owner) = self.extents.entry(placed.object()?).or_insert((0, ino));
            *used += 1;
            if *owner != ino {
                self.find("object", format!("{ino} uses an object of another inode"));
            }
            allocated += placed.extent.length;
            if placed.offset < reached {
                self.find("extents", format!("extents of {ino} overlap at {}", placed.offset));
            }
            reached = placed.end();
            let in_object = placed.extent.object_offset.saturating_add(placed.extent.length);
            if in_object > placed.extent.object_length {
                self.find(
                    "extents",
                    format!("{ino} reaches beyond an object at {}", placed.offset),
                );
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if reached > inode.size && !inode.trimming {
            self.find("extents", format!("{ino} has extents beyond its size {}", inode.size));
        }
        if let Some(len) = inode.inline_len {
            let inline = view.raw(&view.keys.inline(ino))?.map_or(0, |bytes| bytes.len() as u64);
            if inline != u64::from(len) || inline > inode.size || reached > 0 {
                self.find("inline", format!("{ino} has {inline} inline bytes, not {len}"));
            }
            allocated += inline;
            self.stored += inline;
        }
        if allocated != inode.allocated {
            let message = format!("{ino} has {allocated} bytes, not {}", inode.allocated);
            self.find("allocated", message);
        }
        Ok(())
    }

    /// Every dentry names an inode of its kind that knows of it.
    fn dentries(&mut self) -> Result<()> {
        let view = self.view;
        view.scan(&view.keys.all(Tag::Dentry), &mut |key, value| {
            let (dir, cookie) = (Ino(u64_at(key, 0).unwrap_or(0)), u64_at(key, 8).unwrap_or(0));
            let dentry: Dentry = decode("dentry", value)?;
            if dentry.ino == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            self.summary.dentries += 1;
            let ino = Ino(dentry.ino);
            match view.inode(ino)? {
                None => self.find("dentry", format!("{dir} names {ino}, which is gone")),
                Some(inode) if inode.kind != dentry.kind => {
                    self.find("dentry", format!("{dir} calls {ino} another kind of file"));
                }
                Some(_) => {}
            }
            if view.raw(&view.keys.back(ino, dir, cookie))?.is_none() {
                self.find("back-record", format!("{ino} does not know of its entry in {dir}"));
            }
            if view.inode(dir)?.is_none_or(|dir| !dir.is_dir()) {
                self.find("dentry", format!("{dir} has an entry and is no directory"));
            }
            let first = self.volume.identity.order.first_cookie(&dentry.name);
            if cookie.checked_sub(first).is_none_or(|digit| digit >= DIGITS) {
                self.find("dentry", format!("an entry of {dir} does not stand at its hash"));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Rows of inodes that are gone.
    fn strays(&mut self) -> Result<()> {
        let view = self.view;
        let by_inode = [
            Tag::Extent,
            Tag::Inline,
            Tag::Target,
            Tag::Xattr,
            Tag::Back,
            Tag::OpenOfInode,
            Tag::Locks,
            Tag::Orphan,
            Tag::Intent,
        ];
        for tag in by_inode {
            let mut last = None;
            view.scan(&view.keys.all(tag), &mut |key, _| {
                let ino = Ino(u64_at(key, 0).unwrap_or(0));
                if last.replace(ino) != Some(ino) && view.inode(ino)?.is_none() {
                    self.find("stray", format!("a {tag:?} row of {ino}, which is gone"));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        view.scan(&view.keys.all(Tag::OpenOfInode), &mut |key, _| {
            let (ino, session, open) = (u64_at(key, 0), id_at(key, 8), u64_at(key, 24));
            let row = match (session, open) {
                (Some(session), Some(open)) => {
                    view.open_row(flexfs_common::ids::SessionId::from_bytes(session), open)?
                }
                _ => None,
            };
            if row.is_none_or(|row| Some(row.ino) != ino) {
                let ino = Ino(ino.unwrap_or(0));
                self.find("opens", format!("an open of {ino} that its session does not know"));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Objects have as many extents as files say, and lie in the store.
    fn objects(&mut self) -> Result<()> {
        let view = self.view;
        let mut extents = std::mem::take(&mut self.extents);
        view.scan(&view.keys.all(Tag::Object), &mut |key, value| {
            let object = ObjectId(id_at(key, 0).unwrap_or_default());
            let record: Object = decode("object", value)?;
            let (used, owner) = extents.remove(&object).unwrap_or((0, Ino(0)));
            let Some(ObjectState::Committed(committed)) = record.state else {
                if used > 0 {
                    self.find("object", format!("{object} is in use and not committed"));
                }
                return Ok(ControlFlow::Continue(()));
            };
            self.stored += committed.stored;
            if used != committed.extents {
                let counted = committed.extents;
                self.find("object", format!("{object} has {used} extents, not {counted}"));
            }
            if used > 0 && owner.0 != committed.ino {
                self.find("object", format!("{object} is not of {owner}, which uses it"));
            }
            match self.volume.blocks.stored_len(object)? {
                None => self.find("missing-object", format!("{object} is not in the store")),
                Some(len) if len < committed.stored => {
                    self.find("missing-object", format!("{object} is cut short in the store"));
                }
                Some(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for object in extents.into_keys() {
            self.find("object", format!("{object} is in use and not known"));
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<()> {
        let counters: Counters = self.view.counters()?;
        if counters.inodes != self.summary.inodes {
            let counted = self.summary.inodes;
            self.find("usage", format!("{counted} inodes, not {}", counters.inodes));
        }
        let ahead = self.view.keys_of(&self.view.keys.all(Tag::Ahead), usize::MAX)?.len() as u64;
        if counters.ahead != ahead {
            self.find("usage", format!("{ahead} numbers ahead, not {}", counters.ahead));
        }
        if counters.stored != self.stored {
            let counted = self.stored;
            self.find("usage", format!("{counted} stored bytes, not {}", counters.stored));
        }
        Ok(())
    }
}
