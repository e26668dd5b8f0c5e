//! What every operation knows of where and for whom it runs.

use std::cell::{Cell, RefCell};

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Result, flags};
use flexfs_proto::v1;

use super::caller::Who;
use super::confine::Reached;
use super::lock_wait::LockWaiters;
use super::record::Inode;
use super::rights::{Keep, Rights, Wish};
use super::scope::Scopes;
use super::session::Session;
use super::superblock::Identity;
use super::types::{BlockAccess, VolumeSettings};
use crate::engine::Room;

/// One operation's surroundings.
pub(super) struct Context<'a> {
    pub(super) identity: &'a Identity,
    pub(super) settings: &'a VolumeSettings,
    pub(super) scopes: &'a Scopes,
    pub(super) waiters: &'a LockWaiters,
    pub(super) blocks: &'a dyn BlockAccess,
    pub(super) session: &'a Session,
    /// Effective flags of the session.
    pub(super) flags: &'a v1::Flags,
    pub(super) who: Who,
    /// Epoch of the session's scope, taken before the view in use.
    pub(super) scope_epoch: u64,
    /// What the answer lets the mount keep.
    pub(super) keep: Cell<Keep>,
    /// Whether the answer may come with the right to buffer writes.
    pub(super) wish: Cell<Wish>,
    /// The file whose contents the answer tells; its attributes are seen in
    /// the answer itself.
    pub(super) reads: Cell<Option<Ino>>,
    /// A right to buffer writes was shown, and is one.
    pub(super) holds_right: Cell<bool>,
    /// Directories of which the answer tells whether they have a name, also
    /// when it is an error.
    pub(super) searched: RefCell<Vec<Ino>>,
    /// The quota is reached only because of numbers that nobody has used yet.
    pub(super) short_of_inodes: Cell<bool>,
    pub(super) rights: &'a Rights,
    /// What the disk below the engine takes.
    pub(super) room: Room,
}

impl Context<'_> {
    /// The answer says something about a name in this directory, which every
    /// caller of this session is told alike if he may search it. Squashed and
    /// pinned identities are not those that the client's kernel checks, so
    /// that it has to ask for each name; and where it does not know the
    /// directory's access control list.
    pub(super) fn keep_names(&self, dir: &Reached) {
        if flags::identity_is_true(self.flags) && self.kernel_sees_list(dir.inode()) {
            self.keep.set(Keep::Names(dir.ino()));
        }
    }

    /// The answer tells whether this directory has a name, or which it has.
    pub(super) fn searches(&self, dir: Ino) {
        self.searched.borrow_mut().push(dir);
    }

    /// The answer tells of a directory that is new, and therefore empty: its
    /// maker may keep its names as far as it may those beside it.
    pub(super) fn keep_own_names(&self, new: &Inode) {
        if new.is_dir() && matches!(self.keep.get(), Keep::Names(_)) && self.kernel_sees_list(new) {
            self.wish.set(Wish::OwnNames);
        }
    }

    /// Does the client's kernel decide as [`super::permission`] does? Linux
    /// leaves a list aside whose mask is empty, and gives those it names what
    /// others have.
    fn kernel_sees_list(&self, inode: &Inode) -> bool {
        let has_list = self.who.heeds_acls && !inode.access_list().is_empty();
        !has_list || (self.session.knows_acls() && inode.mode & 0o070 != 0)
    }

    /// # Errors
    /// `FS_READ_ONLY` on a read-only session.
    pub(super) fn need_writable(&self) -> Result<()> {
        if self.flags.ro { Err(Code::FsReadOnly.into()) } else { Ok(()) }
    }

    /// For what takes something away or replaces it.
    ///
    /// # Errors
    /// `FS_READ_ONLY`; `FS_NOT_PERMITTED` on an append-only session.
    pub(super) fn need_full_rights(&self) -> Result<()> {
        self.need_writable()?;
        if self.flags.append_only { Err(Code::FsNotPermitted.into()) } else { Ok(()) }
    }
}
