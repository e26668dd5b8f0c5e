//! The persisted records: prost messages, so that fields can be added; what
//! a reader must not misunderstand raises the superblock's features instead.

use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::{FileKind, Flags, Timestamp};
use prost::Message;

/// Identity, format and keys of a volume.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct Superblock {
    /// [`super::superblock::MAGIC`].
    #[prost(fixed64, tag = "1")]
    pub(super) magic: u64,
    #[prost(uint32, tag = "2")]
    pub(super) format: u32,
    /// A reader that does not know these may go on.
    #[prost(uint64, tag = "3")]
    pub(super) compat: u64,
    /// A reader that does not know these may only read.
    #[prost(uint64, tag = "4")]
    pub(super) ro_compat: u64,
    /// A reader that does not know these must refuse.
    #[prost(uint64, tag = "5")]
    pub(super) incompat: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) uuid: Bytes,
    /// Random, new after a restore; part of handles.
    #[prost(fixed64, tag = "7")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "9")]
    pub(super) root_ino: u64,
    /// 32 bytes: part of the key of handles' MACs, see
    /// [`super::seal::SessionSeal::handle_key`].
    #[prost(bytes = "bytes", tag = "10")]
    pub(super) handle_key: Bytes,
    /// 32 bytes: inode numbers.
    #[prost(bytes = "bytes", tag = "11")]
    pub(super) number_key: Bytes,
    /// 32 bytes: directory order.
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) order_key: Bytes,
    /// Nanoseconds since 1970 of the latest restore; 0 = never.
    #[prost(int64, tag = "13")]
    pub(super) restored_at: i64,
}

impl std::fmt::Debug for Superblock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Superblock").field("format", &self.format).finish_non_exhaustive()
    }
}

/// What the volume holds.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Counters {
    /// Position in the sequence that inode numbers are a permutation of.
    #[prost(uint64, tag = "1")]
    pub(super) next_inode: u64,
    /// Inodes that exist, orphans too.
    #[prost(uint64, tag = "2")]
    pub(super) inodes: u64,
    /// Stored bytes: committed objects, and inline contents.
    #[prost(uint64, tag = "3")]
    pub(super) stored: u64,
    /// Numbers that sessions have ahead: each may become an inode.
    #[prost(uint64, tag = "4")]
    pub(super) ahead: u64,
}

impl Counters {
    /// What counts against the quota of inodes.
    pub(super) fn inodes_taken(&self) -> u64 {
        self.inodes.saturating_add(self.ahead)
    }
}

/// An inode. Times are absent only in damaged records.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Inode {
    #[prost(enumeration = "FileKind", tag = "1")]
    pub(super) kind: i32,
    #[prost(uint32, tag = "2")]
    pub(super) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(super) nlink: u32,
    #[prost(uint32, tag = "4")]
    pub(super) uid: u32,
    #[prost(uint32, tag = "5")]
    pub(super) gid: u32,
    #[prost(uint32, tag = "6")]
    pub(super) rdev: u32,
    #[prost(uint64, tag = "7")]
    pub(super) size: u64,
    /// Bytes of contents that are not holes.
    #[prost(uint64, tag = "8")]
    pub(super) allocated: u64,
    #[prost(message, optional, tag = "9")]
    pub(super) atime: Option<Timestamp>,
    #[prost(message, optional, tag = "10")]
    pub(super) mtime: Option<Timestamp>,
    #[prost(message, optional, tag = "11")]
    pub(super) ctime: Option<Timestamp>,
    #[prost(message, optional, tag = "12")]
    pub(super) btime: Option<Timestamp>,
    /// Rises with every change.
    #[prost(uint64, tag = "13")]
    pub(super) change: u64,
    /// A directory's parent; the root is its own. 0 for other kinds.
    #[prost(uint64, tag = "14")]
    pub(super) parent: u64,
    /// A directory's entries.
    #[prost(uint64, tag = "15")]
    pub(super) entries: u64,
    /// Its extended attributes.
    #[prost(uint32, tag = "16")]
    pub(super) xattrs: u32,
    /// Bytes of its inline contents; absent = none.
    #[prost(uint32, optional, tag = "17")]
    pub(super) inline_len: Option<u32>,
    /// An intent to remove the extents beyond its size is under way.
    #[prost(bool, tag = "18")]
    pub(super) trimming: bool,
    /// `change` at the latest change of its contents.
    #[prost(uint64, tag = "19")]
    pub(super) data_change: u64,
    /// Its access control lists; `None` for almost every inode.
    #[prost(message, optional, boxed, tag = "20")]
    pub(super) lists: Option<Box<Lists>>,
    /// It was made without a name (O_TMPFILE without O_EXCL) and never had one:
    /// link(2) may give it one, as to no other inode without links.
    #[prost(bool, tag = "21")]
    pub(super) linkable: bool,
    /// When utimensat(2) has set `atime`: readings of before count no more,
    /// whenever meta hears of them.
    #[prost(message, optional, tag = "22")]
    pub(super) atime_set_at: Option<Timestamp>,
}

/// Access control lists, see [`super::acl::Acl::encode`]; empty = none.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Lists {
    #[prost(bytes = "bytes", tag = "1")]
    access: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    default: Bytes,
}

impl Inode {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory as i32
    }

    pub(super) fn is_regular(&self) -> bool {
        self.kind == FileKind::Regular as i32
    }

    /// Its access control list, where it says more than the mode; its
    /// permissions are those of the mode. Empty: none.
    pub(super) fn access_list(&self) -> &[u8] {
        self.lists.as_ref().map_or(&[], |lists| &lists.access)
    }

    /// The list that new entries of a directory inherit. Empty: none.
    pub(super) fn default_list(&self) -> &[u8] {
        self.lists.as_ref().map_or(&[], |lists| &lists.default)
    }

    pub(super) fn set_access_list(&mut self, list: Bytes) {
        self.change_lists(|lists| lists.access = list);
    }

    pub(super) fn set_default_list(&mut self, list: Bytes) {
        self.change_lists(|lists| lists.default = list);
    }

    fn change_lists(&mut self, change: impl FnOnce(&mut Lists)) {
        let mut lists = self.lists.take().unwrap_or_default();
        change(&mut lists);
        self.lists = (*lists != Lists::default()).then_some(lists);
    }

    /// Its contents changed.
    pub(super) fn contents_changed(&mut self, now: Timestamp) {
        self.ctime = Some(now);
        self.change += 1;
        self.data_change = self.change;
    }

    pub(super) fn is_symlink(&self) -> bool {
        self.kind == FileKind::Symlink as i32
    }
}

/// A name in a directory.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dentry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
    /// 0: no entry any more, kept because entries of the same hash follow.
    #[prost(uint64, tag = "2")]
    pub(super) ino: u64,
    #[prost(enumeration = "FileKind", tag = "3")]
    pub(super) kind: i32,
    /// In the entry of digit 0: entries of the same hash may follow.
    #[prost(bool, tag = "4")]
    pub(super) chained: bool,
}

/// A span of a file in an object; its offset in the file is in its key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Extent {
    #[prost(uint64, tag = "1")]
    pub(super) length: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) object: Bytes,
    #[prost(uint64, tag = "3")]
    pub(super) object_offset: u64,
    /// Plain length of the whole object.
    #[prost(uint64, tag = "4")]
    pub(super) object_length: u64,
}

/// Where an object is in its life: minted → committed → condemned → gone, or
/// minted → condemned → gone.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Object {
    #[prost(oneof = "ObjectState", tags = "1, 2, 3")]
    pub(super) state: Option<ObjectState>,
}

/// See [`Object`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ObjectState {
    #[prost(message, tag = "1")]
    Minted(Minted),
    #[prost(message, tag = "2")]
    Committed(Committed),
    #[prost(message, tag = "3")]
    Condemned(Condemned),
}

/// A key given to one session, not yet named by a commit.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Minted {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) session: Bytes,
    /// Nanoseconds of commit time.
    #[prost(int64, tag = "2")]
    pub(super) deadline: i64,
    #[prost(uint32, tag = "3")]
    pub(super) size_limit: u32,
    /// When collection looks at it: part of the queue's key.
    #[prost(int64, tag = "4")]
    pub(super) due: i64,
}

/// In use by one inode.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Committed {
    #[prost(uint64, tag = "1")]
    pub(super) ino: u64,
    /// Extents that lie in it.
    #[prost(uint32, tag = "2")]
    pub(super) extents: u32,
    /// Bytes in the block store.
    #[prost(uint64, tag = "3")]
    pub(super) stored: u64,
}

/// To be deleted from the block store.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Condemned {
    #[prost(int64, tag = "1")]
    pub(super) due: i64,
}

/// A live session.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct SessionRow {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) token: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) secret: Bytes,
    // 3 was the key as it is: of a row that has it the session is lost.
    #[prost(string, tag = "4")]
    pub(super) scope: String,
    /// Inodes of the scope's components, the scope's root last.
    #[prost(uint64, repeated, tag = "5")]
    pub(super) scope_inos: Vec<u64>,
    #[prost(message, optional, tag = "6")]
    pub(super) token_flags: Option<Flags>,
    #[prost(message, optional, tag = "7")]
    pub(super) requested: Option<Flags>,
    #[prost(string, tag = "8")]
    pub(super) host_name: String,
    #[prost(string, tag = "9")]
    pub(super) dir: String,
    #[prost(string, tag = "10")]
    pub(super) peer: String,
    #[prost(message, optional, tag = "11")]
    pub(super) opened_at: Option<Timestamp>,
    /// The mount knows recalls: it may be granted rights.
    #[prost(bool, tag = "12")]
    pub(super) recalls: bool,
    /// Restrictions that the client can honour in its kernel; absent in rows
    /// of before: none is known.
    #[prost(message, optional, tag = "13")]
    pub(super) honours: Option<Flags>,
    /// Its key, see [`super::seal::SessionSeal`].
    #[prost(bytes = "bytes", tag = "14")]
    pub(super) sealed_key: Bytes,
    /// The mount knows the right to buffer writes.
    #[prost(bool, tag = "15")]
    pub(super) write_rights: bool,
    /// The mount's kernel checks access control lists.
    #[prost(bool, tag = "16")]
    pub(super) acls: bool,
    /// The mount knows the right to make files.
    #[prost(bool, tag = "17")]
    pub(super) make_rights: bool,
    /// How often it lost its locks by silence.
    #[prost(uint64, tag = "18")]
    pub(super) lock_losses: u64,
}

impl std::fmt::Debug for SessionRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionRow").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// What a session was cut with, kept for those who come back.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tombstone {
    #[prost(string, tag = "1")]
    pub(super) code: String,
    #[prost(int64, tag = "2")]
    pub(super) at: i64,
}

/// An open file of a session.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct OpenRow {
    #[prost(uint64, tag = "1")]
    pub(super) ino: u64,
    /// Linux open(2) flags.
    #[prost(uint32, tag = "2")]
    pub(super) flags: u32,
}

/// The latest mutation of a slot.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SlotRow {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    /// The encoded `v1::Reply`; empty when a repeat is carried out again.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) reply: Bytes,
}

/// All locks of an inode.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LockRow {
    #[prost(message, repeated, tag = "1")]
    pub(super) locks: Vec<Lock>,
}

/// One lock held.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Lock {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) session: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) owner: u64,
    #[prost(bool, tag = "3")]
    pub(super) flock: bool,
    #[prost(bool, tag = "4")]
    pub(super) write: bool,
    #[prost(uint64, tag = "5")]
    pub(super) start: u64,
    /// Inclusive.
    #[prost(uint64, tag = "6")]
    pub(super) end: u64,
    #[prost(uint32, tag = "7")]
    pub(super) pid: u32,
}

/// A truncation that is done in steps.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Intent {
    /// The size it is to end with.
    #[prost(uint64, tag = "1")]
    pub(super) truncate_to: u64,
}

/// Decodes a record that this program wrote.
///
/// # Errors
/// `ENGINE_FAILED`: it is damaged.
pub(super) fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|e| {
        Error::new(Code::EngineFailed, format!("a damaged {what} record")).caused_by(e)
    })
}
