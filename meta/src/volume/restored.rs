//! What of a volume goes into a backup, and what a restore makes of it.

use bytes::Bytes;
use flexfs_common::ids::VolumeId;
use flexfs_common::{Code, Error, Result};
use prost::Message;

use super::keys::{Keys, PREFIX_LEN, Range, Tag};
use super::record::{Counters, Superblock, decode};
use super::{Volume, random, superblock};

/// The records that a backup holds. Sessions and what they hold (opens,
/// locks, slots) end with the incarnation and are not among them.
const KEPT: [Tag; 15] = [
    Tag::Superblock,
    Tag::Counters,
    Tag::Epoch,
    Tag::Back,
    Tag::Dentry,
    Tag::Extent,
    Tag::Queue,
    Tag::Inode,
    Tag::Inline,
    Tag::Object,
    Tag::Target,
    Tag::Intent,
    Tag::Xattr,
    Tag::Held,
    Tag::Orphan,
];
/// Epochs that the lost server may have come to since the backup.
const EPOCHS: u64 = 1 << 20;
/// Inode numbers that it may have given out since the backup.
const NUMBERS: u64 = 1 << 40;
/// Numbers given out in a second are fewer than 2^30: a restore begins at a
/// place of its own, also when one backup is restored twice.
const SECOND_BITS: u32 = 30;
const SECOND: i64 = 1_000_000_000;

/// The ranges of keys of a volume that a backup holds.
pub(crate) fn kept_ranges(volume: VolumeId) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let keys = Keys::new(volume);
    KEPT.into_iter().map(move |tag| {
        let Range { from, to } = keys.all(tag);
        (from, to)
    })
}

/// A volume as it comes out of a backup: the same tree, another incarnation.
#[derive(Debug)]
pub(crate) struct Restored {
    volume: VolumeId,
    /// Nanoseconds since 1970.
    now: i64,
    superblock: bool,
    counters: bool,
    epoch: bool,
}

impl Restored {
    pub(crate) fn new(volume: VolumeId, now: i64) -> Restored {
        Restored { volume, now, superblock: false, counters: false, epoch: false }
    }

    /// The row to write for a row of the backup.
    ///
    /// # Errors
    /// `BACKUP_INVALID` for a row that no backup of this volume holds,
    /// `FORMAT_UNSUPPORTED`, `ENGINE_FAILED`.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) -> Result<Bytes> {
        let strange = || Error::new(Code::BackupInvalid, "the backup holds a row that is none");
        let (prefix, fields) = key.split_at_checked(PREFIX_LEN).ok_or_else(strange)?;
        let (volume, tag) = prefix.split_at(PREFIX_LEN - 1);
        let kept = KEPT.into_iter().find(|kept| tag == [*kept as u8]).ok_or_else(strange)?;
        // A longer one would be taken for what it begins with, here alone.
        let (least, most) = kept.fields_len();
        if volume != self.volume.as_bytes() || !(least..=most).contains(&fields.len()) {
            return Err(strange());
        }
        match kept {
            Tag::Superblock => {
                self.superblock = true;
                self.reborn(decode("superblock", value)?)
            }
            Tag::Counters => {
                self.counters = true;
                let mut counters: Counters = decode("counters", value)?;
                let by_time = u64::try_from(self.now / SECOND).unwrap_or(0) << SECOND_BITS;
                // With the sessions that had them.
                counters.ahead = 0;
                counters.next_inode = counters.next_inode.saturating_add(NUMBERS).max(by_time);
                Ok(counters.encode_to_vec().into())
            }
            Tag::Epoch => {
                self.epoch = true;
                let epoch = value.try_into().map(u64::from_be_bytes).map_err(|_| strange())?;
                Ok(Bytes::copy_from_slice(&epoch.saturating_add(EPOCHS).to_be_bytes()))
            }
            _ => Ok(Bytes::copy_from_slice(value)),
        }
    }

    /// New identity, new key of handles, nothing collected.
    fn reborn(&self, superblock: Superblock) -> Result<Bytes> {
        let mut superblock = superblock::check(superblock, self.volume)?;
        superblock.incarnation = u64::from_be_bytes(random::fill()?);
        superblock.handle_key = Bytes::copy_from_slice(&random::fill::<32>()?);
        superblock.incompat |= superblock::INCOMPAT_HELD;
        superblock.restored_at = self.now;
        Ok(superblock.encode_to_vec().into())
    }

    /// All rows have come.
    ///
    /// # Errors
    /// `BACKUP_INVALID` when one is missing without which there is no volume.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.superblock && self.counters && self.epoch {
            return Ok(());
        }
        Err(Error::new(Code::BackupInvalid, "the backup lacks the superblock of a volume"))
    }
}

impl Volume {
    /// Since when nothing is collected because the volume was restored and
    /// nobody has confirmed it, in nanoseconds since 1970.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn held_since(&self) -> Result<Option<i64>> {
        self.with_view(superblock::held_since)
    }

    /// The operator is content with the restored volume: collection goes on.
    /// True when it was held.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn confirm_restore(&self) -> Result<bool> {
        let mut held = false;
        let version = self.change_alone(&mut |edit| {
            held = superblock::end_hold(edit)?;
            Ok(())
        })?;
        self.engine.sync(version)?;
        Ok(held)
    }
}
