//! The keys: volume id, tag, then fields, big-endian, so that the engine's
//! order is ours. No two volumes share a prefix, no two tags one meaning.

use flexfs_common::ids::{Ino, ObjectId, SessionId, VolumeId};
use flexfs_common::limits;

/// What kind of record a key names. The values are the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    /// The superblock.
    Superblock = 0x01,
    /// [`super::record::Counters`].
    Counters = 0x02,
    /// The epoch: 8 bytes, read by every transaction.
    Epoch = 0x03,
    /// ino | parent | cookie: back records.
    Back = b'B',
    /// parent | cookie.
    Dentry = b'D',
    /// ino | file offset.
    Extent = b'E',
    /// due | object: objects to be looked at by collection.
    Queue = b'G',
    /// Reserved: history for reads at an earlier time.
    #[expect(dead_code, reason = "reserved in the format")]
    History = b'H',
    /// ino.
    Inode = b'I',
    /// session | ino: the session holds locks there.
    LockIndex = b'J',
    /// ino.
    Locks = b'K',
    /// session | ino: a number that the session may make a file with.
    Ahead = b'L',
    /// ino: inline contents.
    Inline = b'N',
    /// object.
    Object = b'O',
    /// ino | session | open id.
    OpenOfInode = b'P',
    /// session | open id.
    OpenOfSession = b'Q',
    /// session | slot.
    Slot = b'R',
    /// session.
    Session = b'S',
    /// ino: a symlink's target.
    Target = b'T',
    /// ino: truncation in steps.
    Intent = b'U',
    /// session: cut, rows to be removed.
    Leftover = b'V',
    /// session: what it was cut with.
    Tombstone = b'W',
    /// ino | name.
    Xattr = b'X',
    /// due | object: as [`Tag::Queue`], held back since a restore.
    Held = b'Y',
    /// ino: no link left.
    Orphan = b'Z',
}

/// Makes the keys of one volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    volume: [u8; 16],
}

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

impl Tag {
    /// Bytes of the fields that follow it, from least to most.
    pub(super) fn fields_len(self) -> (usize, usize) {
        const NUMBER: usize = 8;
        const ID: usize = 16;
        let exactly = |len| (len, len);
        match self {
            Tag::Superblock | Tag::Counters | Tag::Epoch => exactly(0),
            Tag::Back => exactly(3 * NUMBER),
            Tag::Dentry | Tag::Extent => exactly(2 * NUMBER),
            Tag::Queue | Tag::Held | Tag::LockIndex => exactly(NUMBER + ID),
            Tag::Inode | Tag::Locks | Tag::Inline | Tag::Target | Tag::Intent | Tag::Orphan => {
                exactly(NUMBER)
            }
            Tag::Object | Tag::Session | Tag::Leftover | Tag::Tombstone => exactly(ID),
            Tag::OpenOfInode => exactly(NUMBER + ID + NUMBER),
            Tag::OpenOfSession | Tag::Ahead => exactly(ID + NUMBER),
            Tag::Slot => exactly(ID + 4),
            Tag::Xattr => (NUMBER + 1, NUMBER + limits::XATTR_NAME_MAX_LEN),
            Tag::History => (0, usize::MAX),
        }
    }
}

/// Bytes of the volume id and the tag.
pub(super) const PREFIX_LEN: usize = 17;

impl Keys {
    pub(super) fn new(volume: VolumeId) -> Keys {
        Keys { volume: *volume.as_bytes() }
    }

    /// A key of these fields.
    fn key(&self, tag: Tag, fields: &[&[u8]]) -> Vec<u8> {
        let len = PREFIX_LEN + fields.iter().map(|field| field.len()).sum::<usize>();
        let mut key = Vec::with_capacity(len);
        key.extend_from_slice(&self.volume);
        key.push(tag as u8);
        for field in fields {
            key.extend_from_slice(field);
        }
        key
    }

    /// Every key that begins with these fields.
    fn prefixed(&self, tag: Tag, fields: &[&[u8]]) -> Range {
        let from = self.key(tag, fields);
        let mut to = from.clone();
        // The next string of the same or a shorter length; the tag is never
        // 0xff, so there is one.
        while let Some(last) = to.pop() {
            if last < u8::MAX {
                to.push(last + 1);
                break;
            }
        }
        Range { from, to }
    }

    pub(super) fn all(&self, tag: Tag) -> Range {
        self.prefixed(tag, &[])
    }

    pub(super) fn superblock(&self) -> Vec<u8> {
        self.key(Tag::Superblock, &[])
    }

    pub(super) fn epoch(&self) -> Vec<u8> {
        self.key(Tag::Epoch, &[])
    }

    pub(super) fn counters(&self) -> Vec<u8> {
        self.key(Tag::Counters, &[])
    }

    pub(super) fn inode(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Inode, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn dentry(&self, parent: Ino, cookie: u64) -> Vec<u8> {
        self.key(Tag::Dentry, &[&parent.0.to_be_bytes(), &cookie.to_be_bytes()])
    }

    /// Dentries of a directory after a cookie.
    pub(super) fn dentries_after(&self, parent: Ino, cookie: u64) -> Range {
        let Range { to, .. } = self.prefixed(Tag::Dentry, &[&parent.0.to_be_bytes()]);
        Range { from: self.dentry(parent, cookie.saturating_add(1)), to }
    }

    pub(super) fn back(&self, ino: Ino, parent: Ino, cookie: u64) -> Vec<u8> {
        let fields = [ino.0.to_be_bytes(), parent.0.to_be_bytes(), cookie.to_be_bytes()];
        self.key(Tag::Back, &[fields.as_flattened()])
    }

    pub(super) fn backs(&self, ino: Ino) -> Range {
        self.prefixed(Tag::Back, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn extent(&self, ino: Ino, offset: u64) -> Vec<u8> {
        self.key(Tag::Extent, &[&ino.0.to_be_bytes(), &offset.to_be_bytes()])
    }

    /// Extents that begin at `from` or later.
    pub(super) fn extents_from(&self, ino: Ino, from: u64) -> Range {
        let Range { to, .. } = self.prefixed(Tag::Extent, &[&ino.0.to_be_bytes()]);
        Range { from: self.extent(ino, from), to }
    }

    pub(super) fn object(&self, object: ObjectId) -> Vec<u8> {
        self.key(Tag::Object, &[&object.0])
    }

    /// `due` in nanoseconds since 1970; earlier ones count as 0.
    pub(super) fn queue(&self, due: i64, object: ObjectId) -> Vec<u8> {
        self.key(Tag::Queue, &[&due.max(0).to_be_bytes(), &object.0])
    }

    /// Everything in the queue that is due.
    pub(super) fn queue_until(&self, now: i64) -> Range {
        let Range { from, .. } = self.all(Tag::Queue);
        let to = self.key(Tag::Queue, &[&now.max(0).saturating_add(1).to_be_bytes()]);
        Range { from, to }
    }

    /// Where a key of the queue waits while nothing is collected.
    pub(super) fn held(queued: &[u8]) -> Vec<u8> {
        let mut key = queued.to_vec();
        if let Some(tag) = key.get_mut(PREFIX_LEN - 1) {
            *tag = Tag::Held as u8;
        }
        key
    }

    pub(super) fn inline(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Inline, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn target(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Target, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn intent(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Intent, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn xattr(&self, ino: Ino, name: &[u8]) -> Vec<u8> {
        self.key(Tag::Xattr, &[&ino.0.to_be_bytes(), name])
    }

    pub(super) fn xattrs(&self, ino: Ino) -> Range {
        self.prefixed(Tag::Xattr, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn orphan(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Orphan, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn session(&self, session: SessionId) -> Vec<u8> {
        self.key(Tag::Session, &[session.as_bytes()])
    }

    pub(super) fn tombstone(&self, session: SessionId) -> Vec<u8> {
        self.key(Tag::Tombstone, &[session.as_bytes()])
    }

    pub(super) fn leftover(&self, session: SessionId) -> Vec<u8> {
        self.key(Tag::Leftover, &[session.as_bytes()])
    }

    pub(super) fn slot(&self, session: SessionId, slot: u32) -> Vec<u8> {
        self.key(Tag::Slot, &[session.as_bytes(), &slot.to_be_bytes()])
    }

    pub(super) fn slots(&self, session: SessionId) -> Range {
        self.prefixed(Tag::Slot, &[session.as_bytes()])
    }

    pub(super) fn ahead(&self, session: SessionId, ino: Ino) -> Vec<u8> {
        self.key(Tag::Ahead, &[session.as_bytes(), &ino.0.to_be_bytes()])
    }

    pub(super) fn ahead_of_session(&self, session: SessionId) -> Range {
        self.prefixed(Tag::Ahead, &[session.as_bytes()])
    }

    pub(super) fn open_of_inode(&self, ino: Ino, session: SessionId, open: u64) -> Vec<u8> {
        let (ino, open) = (ino.0.to_be_bytes(), open.to_be_bytes());
        self.key(Tag::OpenOfInode, &[&ino, session.as_bytes(), &open])
    }

    pub(super) fn opens_of_inode(&self, ino: Ino) -> Range {
        self.prefixed(Tag::OpenOfInode, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn opens_of_inode_by(&self, ino: Ino, session: SessionId) -> Range {
        self.prefixed(Tag::OpenOfInode, &[&ino.0.to_be_bytes(), session.as_bytes()])
    }

    pub(super) fn open_of_session(&self, session: SessionId, open: u64) -> Vec<u8> {
        self.key(Tag::OpenOfSession, &[session.as_bytes(), &open.to_be_bytes()])
    }

    pub(super) fn opens_of_session(&self, session: SessionId) -> Range {
        self.prefixed(Tag::OpenOfSession, &[session.as_bytes()])
    }

    pub(super) fn locks(&self, ino: Ino) -> Vec<u8> {
        self.key(Tag::Locks, &[&ino.0.to_be_bytes()])
    }

    pub(super) fn lock_index(&self, session: SessionId, ino: Ino) -> Vec<u8> {
        self.key(Tag::LockIndex, &[session.as_bytes(), &ino.0.to_be_bytes()])
    }

    pub(super) fn locks_of_session(&self, session: SessionId) -> Range {
        self.prefixed(Tag::LockIndex, &[session.as_bytes()])
    }
}

/// The `index`th big-endian 64-bit field after `skip` bytes of fields.
pub(super) fn u64_at(key: &[u8], skip: usize) -> Option<u64> {
    let at = PREFIX_LEN + skip;
    key.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// The open that a key of [`Keys::open_of_inode`] names.
pub(super) fn open_of_inode_at(key: &[u8]) -> Option<u64> {
    u64_at(key, 8 + 16)
}

/// The 16 bytes after `skip` bytes of fields.
pub(super) fn id_at(key: &[u8], skip: usize) -> Option<[u8; 16]> {
    let at = PREFIX_LEN + skip;
    key.get(at..at + 16)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_exactly_their_prefix() {
        let keys = Keys::new(VolumeId::from_bytes([0xff; 16]));
        let ino = Ino(u64::MAX);
        let range = keys.backs(ino);
        assert!(range.from <= keys.back(ino, Ino(0), 0));
        assert!(range.to > keys.back(ino, ino, u64::MAX));
        assert!(range.to <= keys.dentry(Ino(0), 0));
        assert_eq!(u64_at(&keys.back(ino, Ino(7), 9), 8), Some(7));
        let after = keys.dentries_after(Ino(5), 8);
        assert!(after.from > keys.dentry(Ino(5), 8) && after.to > keys.dentry(Ino(5), u64::MAX));
        assert!(after.to <= keys.dentry(Ino(6), 0));
    }

    #[test]
    fn the_queue_is_ordered_by_time() {
        let keys = Keys::new(VolumeId::from_bytes([1; 16]));
        let object = ObjectId([0xff; 16]);
        let range = keys.queue_until(10);
        assert!(range.to > keys.queue(10, object) && range.to <= keys.queue(11, ObjectId([0; 16])));
    }
}
