//! Access control lists (POSIX.1e draft 17, as acl(5) describes it): the form
//! in which Linux passes them, what makes one valid, and whom it lets do what.
//! Pure: who may set one, and where it is kept, is in [`super::ops`].

use bytes::{BufMut, Bytes, BytesMut};
use flexfs_common::{Code, Error, Result, limits};

use super::caller::Who;
use super::permission::{R, W, X};

/// `struct posix_acl_xattr_header` (linux/posix_acl_xattr.h).
const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
/// `struct posix_acl_xattr_entry`: tag and permissions of 16 bits, id of 32.
const ENTRY_LEN: usize = 8;

// Tags (linux/posix_acl.h).
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;

/// The bits of a mode that an access list stands for.
pub(super) const PERMISSION_BITS: u32 = 0o777;

/// A user or group by number, and what it may.
type Named = (u32, u32);

/// A valid list. Permissions are sums of [`R`], [`W`], [`X`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    owner: u32,
    /// In the order of ids, each once.
    users: Vec<Named>,
    group: u32,
    /// In the order of ids, each once.
    groups: Vec<Named>,
    /// The most that named users and all groups get; there whenever somebody
    /// is named.
    mask: Option<u32>,
    other: u32,
}

/// One entry as it travels.
#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    perm: u32,
    id: u32,
}

impl Acl {
    /// The value of an extended attribute; `None` for one without entries,
    /// which stands for no list.
    ///
    /// # Errors
    /// `FS_UNSUPPORTED` for another version of the form, `FS_RANGE` for too
    /// many entries, `FS_INVALID` for everything else that is no list.
    pub(super) fn parse(value: &[u8]) -> Result<Option<Acl>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (header, entries) = value.split_first_chunk::<HEADER_LEN>().ok_or(Code::FsInvalid)?;
        if u32::from_le_bytes(*header) != VERSION {
            return Err(Code::FsUnsupported.into());
        }
        if entries.is_empty() {
            return Ok(None);
        }
        if entries.len() / ENTRY_LEN > limits::ACL_ENTRIES_MAX {
            return Err(Code::FsRange.into());
        }
        let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() {
            return Err(Code::FsInvalid.into());
        }
        let entries = entries.iter().map(Entry::parse).collect::<Result<Vec<_>>>()?;
        Acl::build(&entries).map(Some)
    }

    /// A list that this program has stored.
    ///
    /// # Errors
    /// `ENGINE_FAILED`: it is damaged.
    pub(super) fn stored(value: &[u8]) -> Result<Acl> {
        let damaged = || Error::new(Code::EngineFailed, "a damaged access control list");
        Acl::parse(value).map_err(|e| damaged().caused_by(e))?.ok_or_else(damaged)
    }

    /// Entries come class by class, as Linux demands; within a class in any
    /// order.
    fn build(entries: &[Entry]) -> Result<Acl> {
        let mut rest = entries.iter().peekable();
        let mut next = |tag: u16| rest.next_if(|entry| entry.tag == tag);
        let owner = next(USER_OBJ).ok_or(Code::FsInvalid)?.perm;
        let users = named(std::iter::from_fn(|| next(USER)))?;
        let group = next(GROUP_OBJ).ok_or(Code::FsInvalid)?.perm;
        let groups = named(std::iter::from_fn(|| next(GROUP)))?;
        let mask = next(MASK).map(|entry| entry.perm);
        let other = next(OTHER).ok_or(Code::FsInvalid)?.perm;
        let names_somebody = !users.is_empty() || !groups.is_empty();
        if rest.next().is_some() || (names_somebody && mask.is_none()) {
            return Err(Code::FsInvalid.into());
        }
        Ok(Acl { owner, users, group, groups, mask, other })
    }

    /// As an extended attribute; what is stored, too.
    pub(super) fn encode(&self) -> Bytes {
        let count = 4 + self.users.len() + self.groups.len();
        let mut out = BytesMut::with_capacity(HEADER_LEN + count * ENTRY_LEN);
        out.put_u32_le(VERSION);
        let mut put = |tag: u16, perm: u32, id: u32| {
            out.put_u16_le(tag);
            // Three bits.
            out.put_u16_le(u16::try_from(perm).unwrap_or(0));
            out.put_u32_le(id);
        };
        put(USER_OBJ, self.owner, NO_ID);
        self.users.iter().for_each(|(id, perm)| put(USER, *perm, *id));
        put(GROUP_OBJ, self.group, NO_ID);
        self.groups.iter().for_each(|(id, perm)| put(GROUP, *perm, *id));
        if let Some(mask) = self.mask {
            put(MASK, mask, NO_ID);
        }
        put(OTHER, self.other, NO_ID);
        out.freeze()
    }

    /// The permission bits of a file with this list: the group's show the mask
    /// if there is one.
    pub(super) fn mode_bits(&self) -> u32 {
        self.owner << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    /// Do [`Acl::mode_bits`] say all of it?
    pub(super) fn is_mode(&self) -> bool {
        self.mask.is_none()
    }

    /// The list after chmod(2).
    pub(super) fn with_mode(mut self, mode: u32) -> Acl {
        let [owner, group, other] = classes(mode);
        self.owner = owner;
        *self.group_class() = group;
        self.other = other;
        self
    }

    /// What a new file gets of its directory's default list, and of the mode
    /// it was asked for with: no more than both allow.
    pub(super) fn inherited(mut self, mode: u32) -> Acl {
        let [owner, group, other] = classes(mode);
        self.owner &= owner;
        *self.group_class() &= group;
        self.other &= other;
        self
    }

    /// What the mode's group bits stand for.
    fn group_class(&mut self) -> &mut u32 {
        self.mask.as_mut().unwrap_or(&mut self.group)
    }

    /// Does the list of a file of this owner and group let `who` do all of
    /// `want`? The first class that fits decides: the owner, a named user,
    /// all groups together, the others.
    pub(super) fn permits(&self, (uid, gid): (u32, u32), who: &Who, want: u32) -> bool {
        let has = |perm: u32| perm & want == want;
        if who.uid == uid {
            return has(self.owner);
        }
        let mask = self.mask.unwrap_or(R | W | X);
        if let Ok(at) = self.users.binary_search_by_key(&who.uid, |(id, _)| *id) {
            return self.users.get(at).is_some_and(|(_, perm)| has(perm & mask));
        }
        let own = who.in_group(gid).then_some(self.group);
        let named = self.groups.iter().filter(|(id, _)| who.in_group(*id)).map(|(_, perm)| *perm);
        let mut groups = own.into_iter().chain(named).peekable();
        if groups.peek().is_none() {
            return has(self.other);
        }
        // One of them has to allow all of it.
        groups.any(|perm| has(perm & mask))
    }
}

impl Entry {
    fn parse(&[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; ENTRY_LEN]) -> Result<Entry> {
        let perm = u32::from(u16::from_le_bytes([p0, p1]));
        if perm & !(R | W | X) != 0 {
            return Err(Code::FsInvalid.into());
        }
        let (tag, id) = (u16::from_le_bytes([t0, t1]), u32::from_le_bytes([i0, i1, i2, i3]));
        Ok(Entry { tag, perm, id })
    }
}

/// The named entries of one class.
fn named<'e>(entries: impl Iterator<Item = &'e Entry>) -> Result<Vec<Named>> {
    let mut named: Vec<Named> = entries.map(|entry| (entry.id, entry.perm)).collect();
    named.sort_unstable();
    let twice = named.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
    if twice || named.last().is_some_and(|(id, _)| *id == NO_ID) {
        return Err(Code::FsInvalid.into());
    }
    Ok(named)
}

/// Owner, group and others of a mode.
fn classes(mode: u32) -> [u32; 3] {
    [mode >> 6 & 7, mode >> 3 & 7, mode & 7]
}

#[cfg(test)]
mod tests;
