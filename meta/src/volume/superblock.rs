//! The superblock: who the volume is, in which format, with which keys.

use bytes::Bytes;
use flexfs_common::ids::{Ino, VolumeId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::FileKind;
use zeroize::Zeroizing;

use super::edit::Edit;
use super::handle::HandleKey;
use super::inode_number::InodeNumbers;
use super::name_order::NameOrder;
use super::random;
use super::record::{Counters, Inode, Superblock, decode};
use super::seal::SessionSeal;
use super::view::View;

/// First field of every superblock ("flexfs" and a version of this layout).
pub(super) const MAGIC: u64 = 0x666c_6578_6673_0001;
/// The format this build writes.
const FORMAT: u32 = 1;
/// Incompatible: inodes have access control lists. Who does not know them
/// would let in whom they keep out.
pub(super) const INCOMPAT_ACL: u64 = 1 << 0;
/// Incompatible: nothing is collected until the operator confirms a restore.
/// Who does not know it would delete objects that are still needed.
pub(super) const INCOMPAT_HELD: u64 = 1 << 1;
/// Features this build knows.
const KNOWN_RO_COMPAT: u64 = 0;
const KNOWN_INCOMPAT: u64 = INCOMPAT_ACL | INCOMPAT_HELD;

/// What every operation needs of the superblock.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) root: Ino,
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
    pub(super) handles: HandleKey,
    pub(super) numbers: InodeNumbers,
    pub(super) order: NameOrder,
}

/// Reads the superblock, or makes the volume; raises the epoch.
///
/// # Errors
/// `FORMAT_UNSUPPORTED`, `ENGINE_FAILED`.
pub(super) fn take_into_service(
    edit: &mut Edit<'_>,
    volume: VolumeId,
    seal: &SessionSeal,
) -> Result<Identity> {
    let key = edit.keys().superblock();
    let superblock = match edit.view().raw(&key)? {
        Some(bytes) => check(decode("superblock", &bytes)?, volume)?,
        None => {
            let superblock = create(edit, volume)?;
            edit.put(&key, &superblock);
            superblock
        }
    };
    let epoch = epoch(edit.view())? + 1;
    edit.put_raw(&edit.keys().epoch(), &epoch.to_be_bytes());
    identity(&superblock, epoch, seal)
}

/// The epoch of whoever serves the volume; 0 before the first.
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn epoch(view: View<'_>) -> Result<u64> {
    let Some(bytes) = view.raw(&view.keys.epoch())? else { return Ok(0) };
    <[u8; 8]>::try_from(&bytes[..])
        .map(u64::from_be_bytes)
        .map_err(|_| Error::new(Code::EngineFailed, "a damaged epoch record"))
}

/// Since when nothing is collected, in nanoseconds since 1970; `None` when
/// collection goes on.
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn held_since(view: View<'_>) -> Result<Option<i64>> {
    let superblock = read(view)?;
    Ok((superblock.incompat & INCOMPAT_HELD != 0).then_some(superblock.restored_at))
}

/// Collection goes on; true when it was held.
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn end_hold(edit: &mut Edit<'_>) -> Result<bool> {
    let key = edit.keys().superblock();
    let mut superblock = read(edit.view())?;
    let held = superblock.incompat & INCOMPAT_HELD != 0;
    if held {
        superblock.incompat &= !INCOMPAT_HELD;
        edit.put(&key, &superblock);
    }
    Ok(held)
}

pub(super) fn check(superblock: Superblock, volume: VolumeId) -> Result<Superblock> {
    let unsupported = |what: &str| Err(Error::new(Code::FormatUnsupported, what));
    if superblock.magic != MAGIC {
        return unsupported("this is not the metadata of a volume");
    }
    if superblock.format != FORMAT {
        return unsupported("the volume has another format version");
    }
    if superblock.incompat & !KNOWN_INCOMPAT != 0 || superblock.ro_compat & !KNOWN_RO_COMPAT != 0 {
        return unsupported("the volume uses features that this version does not know");
    }
    if superblock.uuid != volume.as_bytes()[..] {
        return unsupported("the metadata is of another volume");
    }
    Ok(superblock)
}

fn read(view: View<'_>) -> Result<Superblock> {
    view.record("superblock", &view.keys.superblock())?
        .ok_or_else(|| Error::new(Code::EngineFailed, "the superblock is missing"))
}

/// May the volume hold access control lists?
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn has_lists(view: View<'_>) -> Result<bool> {
    Ok(read(view)?.incompat & INCOMPAT_ACL != 0)
}

/// The volume holds an access control list from now on.
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn note_lists(edit: &mut Edit<'_>) -> Result<()> {
    let key = edit.keys().superblock();
    let mut superblock = read(edit.view())?;
    if superblock.incompat & INCOMPAT_ACL == 0 {
        superblock.incompat |= INCOMPAT_ACL;
        edit.put(&key, &superblock);
    }
    Ok(())
}

fn create(edit: &mut Edit<'_>, volume: VolumeId) -> Result<Superblock> {
    let secret = || random::fill::<32>().map(|key| Bytes::copy_from_slice(&key));
    let number_key = random::fill::<32>()?;
    let numbers = InodeNumbers::new(&number_key);
    let (root, next_inode) = numbers.next(0);
    let now = edit.stamp();
    let inode = Inode {
        kind: FileKind::Directory as i32,
        mode: 0o755,
        nlink: 2,
        atime: Some(now),
        mtime: Some(now),
        ctime: Some(now),
        btime: Some(now),
        change: 1,
        parent: root.0,
        ..Inode::default()
    };
    edit.put_inode(root, &inode);
    edit.set_counters(Counters { next_inode, inodes: 1, stored: 0, ahead: 0 });
    Ok(Superblock {
        magic: MAGIC,
        format: FORMAT,
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        uuid: Bytes::copy_from_slice(volume.as_bytes()),
        incarnation: u64::from_be_bytes(random::fill()?),
        root_ino: root.0,
        handle_key: secret()?,
        number_key: Bytes::copy_from_slice(&number_key),
        order_key: secret()?,
        restored_at: 0,
    })
}

fn identity(superblock: &Superblock, epoch: u64, seal: &SessionSeal) -> Result<Identity> {
    let key = |bytes: &Bytes| {
        <[u8; 32]>::try_from(&bytes[..])
            .map(Zeroizing::new)
            .map_err(|_| Error::new(Code::EngineFailed, "a damaged superblock"))
    };
    let handle_key = seal.handle_key(&*key(&superblock.handle_key)?);
    Ok(Identity {
        root: Ino(superblock.root_ino),
        epoch,
        incarnation: superblock.incarnation,
        handles: HandleKey::new(handle_key, superblock.incarnation),
        numbers: InodeNumbers::new(&*key(&superblock.number_key)?),
        order: NameOrder::new(&*key(&superblock.order_key)?),
    })
}
