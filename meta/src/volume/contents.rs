//! The contents of files: extents over objects, or inline bytes. A file has
//! one or the other; what neither covers below its size is a hole.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use flexfs_common::ids::{Ino, ObjectId};
use flexfs_common::{Code, Error, Result};

use super::edit::Edit;
use super::keys::{Range, u64_at};
use super::objects;
use super::record::{Extent, Inode, Intent, decode};
use super::view::View;

/// Extents removed in one transaction: each costs about 200 bytes of engine
/// data, and a transaction should stay below 1 MiB.
pub(super) const STEP_EXTENTS: usize = 4096;

/// An extent and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) offset: u64,
    pub(super) extent: Extent,
}

impl Placed {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.extent.length)
    }

    pub(super) fn object(&self) -> Result<ObjectId> {
        object_of(&self.extent)
    }
}

fn object_of(extent: &Extent) -> Result<ObjectId> {
    ObjectId::from_slice(&extent.object)
        .map_err(|e| Error::new(Code::EngineFailed, "a damaged extent record").caused_by(e))
}

fn placed(key: &[u8], value: &[u8]) -> Result<Placed> {
    let offset =
        u64_at(key, 8).ok_or_else(|| Error::new(Code::EngineFailed, "a damaged extent key"))?;
    Ok(Placed { offset, extent: decode("extent", value)? })
}

/// Extents that overlap `from..to`, in order, at most `limit`.
pub(super) fn overlapping(
    view: View<'_>,
    ino: Ino,
    (from, to): (u64, u64),
    limit: usize,
) -> Result<Vec<Placed>> {
    let mut out = Vec::new();
    if from >= to || limit == 0 {
        return Ok(out);
    }
    let before = Range { from: view.keys.extent(ino, 0), to: view.keys.extent(ino, from) };
    if let Some((key, value)) = view.last(&before)? {
        let last = placed(&key, &value)?;
        if last.end() > from {
            out.push(last);
        }
    }
    let range = Range { from: view.keys.extent(ino, from), to: view.keys.extent(ino, to) };
    if out.len() < limit {
        view.scan(&range, &mut |key, value| {
            out.push(placed(key, value)?);
            Ok(if out.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    Ok(out)
}

/// Takes `from..to` out of the file's extents, at most `limit` of them;
/// objects that are left without any are condemned. The counters of the inode
/// follow; writing it back is the caller's. False: there are more.
pub(super) fn carve(
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &mut Inode),
    (from, to): (u64, u64),
    retention: Duration,
    limit: usize,
) -> Result<bool> {
    let found = overlapping(edit.view(), ino, (from, to), limit.saturating_add(1))?;
    let complete = found.len() <= limit;
    let mut changes: BTreeMap<ObjectId, i32> = BTreeMap::new();
    let keys = edit.keys();
    for old in found.into_iter().take(limit) {
        let (cut_from, cut_to) = (old.offset.max(from), old.end().min(to));
        let mut pieces = -1;
        if old.offset < from {
            let left = Extent { length: from - old.offset, ..old.extent.clone() };
            edit.put(&keys.extent(ino, old.offset), &left);
            pieces += 1;
        } else {
            edit.delete(&keys.extent(ino, old.offset));
        }
        if old.end() > to {
            let right = Extent {
                length: old.end() - to,
                object_offset: old.extent.object_offset + (to - old.offset),
                ..old.extent.clone()
            };
            edit.put(&keys.extent(ino, to), &right);
            pieces += 1;
        }
        inode.allocated = inode.allocated.saturating_sub(cut_to - cut_from);
        *changes.entry(old.object()?).or_default() += pieces;
    }
    let mut freed = 0;
    for (object, change) in changes {
        freed += objects::adjust(edit, ino, object, change, retention)?;
    }
    if freed > 0 {
        edit.update_counters(|counters| counters.stored = counters.stored.saturating_sub(freed))?;
    }
    Ok(complete)
}

/// Has the file any extent?
pub(super) fn has_extents(view: View<'_>, ino: Ino) -> Result<bool> {
    view.any(&view.keys.extents_from(ino, 0))
}

/// Sets or drops inline contents; the inode's fields and the counters follow.
pub(super) fn set_inline(
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &mut Inode),
    contents: Option<&[u8]>,
) -> Result<()> {
    let before = u64::from(inode.inline_len.unwrap_or(0));
    let key = edit.keys().inline(ino);
    match contents {
        Some(bytes) => edit.put_raw(&key, bytes),
        None if inode.inline_len.is_some() => edit.delete(&key),
        None => return Ok(()),
    }
    inode.inline_len = contents
        .map(|bytes| u32::try_from(bytes.len()))
        .transpose()
        .map_err(|_| Error::bare(Code::FsTooBig))?;
    let after = u64::from(inode.inline_len.unwrap_or(0));
    inode.allocated = inode.allocated.saturating_sub(before) + after;
    edit.update_counters(|counters| {
        counters.stored = counters.stored.saturating_sub(before) + after;
    })
}

/// Sets the size. What lies beyond a smaller one goes: at once, or when it is
/// much, by an intent that is carried out before the file grows again.
/// Writing the inode back is the caller's.
pub(super) fn set_size(
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &mut Inode),
    size: u64,
    retention: Duration,
) -> Result<()> {
    if size < inode.size {
        if let Some(len) = inode.inline_len
            && size < u64::from(len)
        {
            let bytes = edit.view().raw(&edit.keys().inline(ino))?.unwrap_or_default();
            let keep = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
            set_inline(edit, (ino, inode), Some(bytes.get(..keep).unwrap_or_default()))?;
        }
        let complete = carve(edit, (ino, inode), (size, u64::MAX), retention, STEP_EXTENTS)?;
        if !complete {
            inode.trimming = true;
            let intent = Intent { truncate_to: size };
            let key = edit.keys().intent(ino);
            edit.put(&key, &intent);
        }
    }
    inode.size = size;
    Ok(())
}

/// One step of a truncation; true when it is complete.
pub(super) fn trim_step(edit: &mut Edit<'_>, ino: Ino, retention: Duration) -> Result<bool> {
    let key = edit.keys().intent(ino);
    let Some(mut inode) = edit.view().inode(ino)? else {
        edit.delete(&key);
        return Ok(true);
    };
    let from = inode.size;
    let complete = carve(edit, (ino, &mut inode), (from, u64::MAX), retention, STEP_EXTENTS)?;
    if complete {
        inode.trimming = false;
        edit.delete(&key);
    }
    edit.put_inode(ino, &inode);
    Ok(complete)
}

/// One step of a punch; true when what is left fits one transaction.
pub(super) fn punch_step(
    edit: &mut Edit<'_>,
    ino: Ino,
    span: (u64, u64),
    retention: Duration,
) -> Result<bool> {
    let Some(mut inode) = edit.view().inode(ino)? else { return Ok(true) };
    let complete = carve(edit, (ino, &mut inode), span, retention, STEP_EXTENTS)?;
    inode.contents_changed(edit.stamp());
    edit.put_inode(ino, &inode);
    Ok(complete)
}
