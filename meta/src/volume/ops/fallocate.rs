//! fallocate(2): allocate, punch, zero. Nothing is reserved: an object store
//! has no blocks to hold back, and the quota is charged when data is stored.

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::attributes::need_write_open;
use crate::volume::attr::attr;
use crate::volume::capability;
use crate::volume::confine::Reached;
use crate::volume::contents::{self, STEP_EXTENTS};
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, Step};
use crate::volume::permission::mode_after_write;
use crate::volume::record::Inode;

// fallocate(2) modes (linux/falloc.h).
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// Does this mode make nothing longer and take something away?
pub(in crate::volume) fn frees(mode: u32) -> bool {
    mode == PUNCH_HOLE | KEEP_SIZE
}

pub(in crate::volume) fn fallocate(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::Fallocate,
) -> Result<Outcome> {
    ctx.need_writable()?;
    let (ino, old) = (target.ino(), target.inode());
    if !old.is_regular() {
        return Err(Code::FsNoSuchDevice.into());
    }
    need_write_open(ctx, edit.view(), target, op.open_id)?;
    let end = op.offset.checked_add(op.length).ok_or(Code::FsTooBig)?;
    if op.length == 0 {
        return Err(Code::FsInvalid.into());
    }
    if end > limits::FILE_SIZE_MAX {
        return Err(Code::FsTooBig.into());
    }
    let (zeroes, keeps_size) = match op.mode {
        0 => (false, false),
        KEEP_SIZE => (false, true),
        mode if mode == PUNCH_HOLE | KEEP_SIZE => (true, true),
        ZERO_RANGE => (true, false),
        mode if mode == ZERO_RANGE | KEEP_SIZE => (true, true),
        _ => return Err(Code::FsUnsupported.into()),
    };
    if zeroes {
        ctx.need_full_rights()?;
    }
    if old.trimming {
        return Ok(Outcome::After(Step::Trim(ino)));
    }
    let mut inode = old.clone();
    if zeroes && !punch(edit, (ino, &mut inode), (op.offset, end), ctx)? {
        return Ok(Outcome::After(Step::Punch { ino, from: op.offset, to: end }));
    }
    if !keeps_size {
        inode.size = inode.size.max(end);
    }
    inode.mode = mode_after_write(&inode, &ctx.who);
    capability::fall(edit, (ino, &mut inode))?;
    inode.mtime = Some(edit.stamp());
    inode.contents_changed(edit.stamp());
    edit.put_inode(ino, &inode);
    Ok(reply::Result::Attr(attr(ino, &inode)).into())
}

/// Makes a range read as zeros; false when it is too much at once (nothing
/// is to be kept then).
fn punch(
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &mut Inode),
    (from, to): (u64, u64),
    ctx: &Context<'_>,
) -> Result<bool> {
    if inode.inline_len.is_some() {
        let mut bytes = edit.view().raw(&edit.keys().inline(ino))?.unwrap_or_default().to_vec();
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (from, to) = (index(from), index(to));
        bytes.get_mut(from..to).unwrap_or_default().fill(0);
        contents::set_inline(edit, (ino, inode), Some(&bytes))?;
    }
    contents::carve(edit, (ino, inode), (from, to), ctx.settings.retention, STEP_EXTENTS)
}
