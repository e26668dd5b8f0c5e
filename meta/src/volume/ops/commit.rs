//! New contents of a file: uploaded objects become extents, or the whole is
//! set inline.

use std::collections::BTreeMap;

use bytes::Bytes;
use flexfs_common::ids::{Ino, ObjectId};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::attributes::need_write_open;
use crate::volume::attr::attr;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, Step};
use crate::volume::permission::{W, mode_after_write, need};
use crate::volume::record::{Committed, Extent, Inode};
use crate::volume::{capability, contents, objects};

/// Old extents that one commit may replace: a transaction of some 10 MiB,
/// some 0.3 s. Only a client that writes in crumbs comes near.
const REPLACED_MAX: usize = 65_536;

pub(in crate::volume) fn commit_data(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::CommitData,
) -> Result<Outcome> {
    ctx.need_writable()?;
    let (ino, old) = (target.ino(), target.inode());
    if !old.is_regular() {
        return Err(Code::FsInvalid.into());
    }
    if op.open_id == 0 {
        need(old, &ctx.who, W)?;
    } else {
        need_write_open(ctx, edit.view(), target, op.open_id)?;
    }
    if op.write_right != 0 {
        if !ctx.rights.allows_commit(ctx.session.id, ino, op.write_right) {
            return Err(Code::WriteLost.into());
        }
        ctx.holds_right.set(true);
    }
    if op.min_size > limits::FILE_SIZE_MAX {
        return Err(Code::FsTooBig.into());
    }
    if old.trimming {
        return Ok(Outcome::After(Step::Trim(ino)));
    }
    let mut inode = old.clone();
    match &op.inline_data {
        Some(bytes) if op.extents.is_empty() => {
            set_inline(ctx, edit, target, &mut inode, bytes, op)?
        }
        Some(_) => return Err(Code::FsInvalid.into()),
        None => set_extents(ctx, edit, target, &mut inode, op)?,
    }
    need_space(ctx, edit)?;
    inode.size = inode.size.max(op.min_size);
    inode.mode = mode_after_write(&inode, &ctx.who);
    capability::fall(edit, (ino, &mut inode))?;
    inode.mtime = Some(not_later_than_now(edit, op.mtime));
    inode.contents_changed(edit.stamp());
    edit.put_inode(ino, &inode);
    let answer = reply::Result::Attr(attr(ino, &inode));
    Ok(if op.sync { Outcome::AnswerSynced(answer) } else { answer.into() })
}

/// The whole contents of a file that is being made, if they are short.
///
/// # Errors
/// `FS_TOO_BIG`, `FS_QUOTA`.
pub(super) fn first_contents(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &mut Inode),
    (contents, mtime): (&Bytes, Option<v1::Timestamp>),
) -> Result<()> {
    let len = u32::try_from(contents.len()).map_err(|_| Code::FsTooBig)?;
    if len > ctx.settings.inline_max.min(limits::INLINE_MAX) {
        return Err(Code::FsTooBig.into());
    }
    contents::set_inline(edit, (ino, inode), Some(contents))?;
    need_space(ctx, edit)?;
    inode.size = u64::from(len);
    inode.mtime = Some(not_later_than_now(edit, mtime));
    inode.contents_changed(edit.stamp());
    edit.put_inode(ino, inode);
    Ok(())
}

/// The client's time of the write or reading, never later than now.
pub(super) fn not_later_than_now(edit: &Edit<'_>, at: Option<v1::Timestamp>) -> v1::Timestamp {
    let now = edit.stamp();
    match at {
        Some(at)
            if at.nanos < 1_000_000_000 && (at.seconds, at.nanos) < (now.seconds, now.nanos) =>
        {
            at
        }
        _ => now,
    }
}

/// # Errors
/// `FS_QUOTA` when the volume now holds more than it may.
fn need_space(ctx: &Context<'_>, edit: &Edit<'_>) -> Result<()> {
    let settings = ctx.settings;
    if settings.max_blocks == 0 {
        return Ok(());
    }
    let max = settings.max_blocks.saturating_mul(u64::from(settings.block_size));
    if edit.view().counters()?.stored > max { Err(Code::FsQuota.into()) } else { Ok(()) }
}

/// What replaces inline contents as a whole must know them as they are.
///
/// # Errors
/// `FS_BUSY`: somebody wrote in between, the client must look again.
fn need_base(inode: &Inode, op: &v1::CommitData) -> Result<()> {
    let known = inode.data_change..=inode.change;
    if known.contains(&op.base_change) { Ok(()) } else { Err(Code::FsBusy.into()) }
}

fn set_inline(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    inode: &mut Inode,
    bytes: &[u8],
    op: &v1::CommitData,
) -> Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| Code::FsTooBig)?;
    if len > ctx.settings.inline_max.min(limits::INLINE_MAX) {
        return Err(Code::FsTooBig.into());
    }
    if contents::has_extents(edit.view(), target.ino())? {
        return Err(Code::FsInvalid.into());
    }
    need_base(inode, op)?;
    if ctx.flags.append_only {
        let before = edit.view().raw(&edit.keys().inline(target.ino()))?.unwrap_or_default();
        // Holes read as zeros and are committed contents too.
        let size = usize::try_from(inode.size).map_err(|_| Code::FsNotPermitted)?;
        let keeps = bytes.len() >= size
            && bytes.starts_with(&before)
            && bytes.get(before.len()..size).is_some_and(|hole| hole.iter().all(|b| *b == 0));
        if !keeps {
            return Err(Code::FsNotPermitted.into());
        }
    }
    contents::set_inline(edit, (target.ino(), inode), Some(bytes))?;
    inode.size = inode.size.max(u64::from(len));
    Ok(())
}

fn set_extents(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    inode: &mut Inode,
    op: &v1::CommitData,
) -> Result<()> {
    let (ino, size) = (target.ino(), inode.size);
    let new = parse(ctx, op)?;
    if ctx.flags.append_only && new.extents.iter().any(|(offset, _)| *offset < size) {
        return Err(Code::FsNotPermitted.into());
    }
    if let Some(len) = inode.inline_len
        && !new.extents.is_empty()
    {
        need_covered(u64::from(len), &new)?;
        need_base(inode, op)?;
        contents::set_inline(edit, (ino, inode), None)?;
    }
    let mut stored = 0;
    for (object, (extents, bytes)) in &new.objects {
        let committed = Committed { ino: ino.0, extents: *extents, stored: *bytes };
        objects::commit(edit, ctx.session.id, *object, committed)?;
        stored += bytes;
    }
    if stored > 0 {
        edit.update_counters(|counters| counters.stored += stored)?;
    }
    let keys = edit.keys();
    let mut replaceable = REPLACED_MAX;
    for (offset, extent) in &new.extents {
        let end = offset + extent.length;
        let before =
            contents::overlapping(edit.view(), ino, (*offset, end), replaceable + 1)?.len();
        replaceable = replaceable.checked_sub(before).ok_or(Code::FsBusy)?;
        let retention = ctx.settings.retention;
        contents::carve(edit, (ino, inode), (*offset, end), retention, REPLACED_MAX)?;
        edit.put(&keys.extent(ino, *offset), extent);
        inode.allocated += extent.length;
        inode.size = inode.size.max(end);
    }
    Ok(())
}

/// Inline contents may only be replaced by extents that cover all of them.
fn need_covered(len: u64, new: &New) -> Result<()> {
    let mut reached = 0;
    for (offset, extent) in &new.extents {
        if *offset > reached {
            break;
        }
        reached = offset + extent.length;
    }
    if reached >= len { Ok(()) } else { Err(Code::FsInvalid.into()) }
}

/// A commit that was looked through.
struct New {
    extents: Vec<(u64, Extent)>,
    /// How many extents lie in an object, and its stored bytes.
    objects: BTreeMap<ObjectId, (u32, u64)>,
}

/// # Errors
/// `PROTOCOL_INVALID` for what no honest client sends, `FS_TOO_BIG`.
fn parse(ctx: &Context<'_>, op: &v1::CommitData) -> Result<New> {
    let bad = |why: &'static str| Error::new(Code::ProtocolInvalid, why);
    if op.extents.len() > limits::EXTENTS_PER_COMMIT {
        return Err(bad("too many extents in one commit"));
    }
    if op.extents.len() != op.stored_lengths.len() {
        return Err(bad("each extent needs a stored length"));
    }
    let mut new = New { extents: Vec::with_capacity(op.extents.len()), objects: BTreeMap::new() };
    let mut reached = 0;
    for (extent, stored) in op.extents.iter().zip(&op.stored_lengths) {
        let object = ObjectId::from_slice(&extent.object_id)?;
        let end = extent.file_offset.checked_add(extent.length).ok_or(Code::FsTooBig)?;
        if end > limits::FILE_SIZE_MAX {
            return Err(Code::FsTooBig.into());
        }
        if extent.length == 0 || extent.file_offset < reached {
            return Err(bad("extents must be in order and not overlap"));
        }
        let object_end = extent.object_offset.checked_add(extent.length);
        let in_object = object_end.is_some_and(|end| end <= extent.object_length);
        if !in_object || extent.object_length > u64::from(ctx.settings.block_size) {
            return Err(bad("an extent beyond its object"));
        }
        reached = end;
        let (count, bytes) = new.objects.entry(object).or_insert((0, *stored));
        if *bytes != *stored {
            return Err(bad("one object with two lengths"));
        }
        *count += 1;
        let record = Extent {
            length: extent.length,
            object: Bytes::copy_from_slice(&object.0),
            object_offset: extent.object_offset,
            object_length: extent.object_length,
        };
        new.extents.push((extent.file_offset, record));
    }
    Ok(new)
}
