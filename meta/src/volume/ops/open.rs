//! open, release.

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::access;
use super::attributes::need_write_open;
use crate::volume::attr::attr;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::keys::open_of_inode_at;
use crate::volume::outcome::{Outcome, Step, empty};
use crate::volume::permission::{R, W, X, mode_after_write, need};
use crate::volume::record::Inode;
use crate::volume::rights::Wish;
use crate::volume::view::View;
use crate::volume::{capability, contents, inodes, locks};

// Linux open(2) flags, as FUSE passes them.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
/// Truncate.
pub(in crate::volume) const O_TRUNC: u32 = 0o1000;
/// Opened by execve(2).
const FMODE_EXEC: u32 = 0x20;

/// Opens of one file by one session that are looked through.
const OPENS_MAX: usize = 4096;

/// May this open write?
pub(in crate::volume) fn writes(flags: u32) -> bool {
    matches!(flags & O_ACCMODE, O_WRONLY | O_RDWR)
}

/// May this open read?
fn reads(flags: u32) -> bool {
    flags & O_ACCMODE != O_WRONLY
}

pub(in crate::volume) fn open(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::Open,
) -> Result<Outcome> {
    match open_inode(ctx, edit, target, op.flags)? {
        Ok((open_id, inode)) => {
            let attr = Some(attr(target.ino(), &inode));
            Ok(reply::Result::Opened(v1::Opened { open_id, attr }).into())
        }
        Err(step) => Ok(Outcome::After(step)),
    }
}

/// Opens an inode that was reached, and truncates it if asked to. `Err`
/// inside: what has to be done first.
pub(in crate::volume) fn open_inode(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    flags: u32,
) -> Result<Result<(u64, Inode), Step>> {
    let inode = target.inode();
    let truncate = flags & O_TRUNC != 0;
    let write = writes(flags) || truncate;
    if inode.is_symlink() {
        return Err(Code::FsSymlinkLoop.into());
    }
    if inode.is_dir() && write {
        return Err(Code::FsIsDirectory.into());
    }
    if write {
        ctx.need_writable()?;
    }
    let mut want = if write { W } else { 0 };
    if flags & FMODE_EXEC != 0 && !inode.is_dir() {
        want |= X;
    } else if flags & O_ACCMODE != O_WRONLY {
        want |= R;
    }
    need(inode, &ctx.who, want)?;
    let open_id = inodes::add_open(ctx, edit, target.ino(), flags & !O_TRUNC)?;
    if writes(flags) {
        ctx.wish.set(Wish::Open);
    }
    if !truncate || !inode.is_regular() {
        return Ok(Ok((open_id, inode.clone())));
    }
    if inode.size > 0 {
        ctx.need_full_rights()?;
    }
    if inode.trimming {
        return Ok(Err(Step::Trim(target.ino())));
    }
    let inode = truncate_to(ctx, edit, target.ino(), 0)?;
    Ok(Ok((open_id, inode)))
}

/// Has this session the file open for writing?
pub(in crate::volume) fn opened_for_writing(
    view: View<'_>,
    ino: Ino,
    session: SessionId,
) -> Result<bool> {
    for key in view.keys_of(&view.keys.opens_of_inode_by(ino, session), OPENS_MAX)? {
        if let Some(open) = open_of_inode_at(&key)
            && view.open_row(session, open)?.is_some_and(|row| writes(row.flags))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The right to buffer writes to a file that this session has open for writing.
pub(in crate::volume) fn acquire_write(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
    op: &v1::AcquireWrite,
) -> Result<Outcome> {
    ctx.need_writable()?;
    need_write_open(ctx, view, target, op.open_id)?;
    if !target.inode().is_regular() {
        return Err(Code::FsInvalid.into());
    }
    ctx.wish.set(Wish::Acquire);
    Ok(reply::Result::Attr(attr(target.ino(), target.inode())).into())
}

/// Sets the size of a file by somebody who may.
pub(in crate::volume) fn truncate_to(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    ino: Ino,
    size: u64,
) -> Result<Inode> {
    let mut inode = edit.view().inode_named(ino)?;
    contents::set_size(edit, (ino, &mut inode), size, ctx.settings.retention)?;
    inode.mode = mode_after_write(&inode, &ctx.who);
    capability::fall(edit, (ino, &mut inode))?;
    inode.mtime = Some(edit.stamp());
    inode.contents_changed(edit.stamp());
    edit.put_inode(ino, &inode);
    Ok(inode)
}

/// Ends an open and the locks that end with it. What is not there has ended
/// already.
pub(in crate::volume) fn release(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    ino: Ino,
    op: &v1::Release,
) -> Result<Outcome> {
    let session = ctx.session.id;
    if op.lock_owner != 0 {
        locks::release_owner(edit, ino, session, op.lock_owner, !op.locks_only)?;
    }
    if !op.locks_only
        && let Some(row) = edit.view().open_row(session, op.open_id)?
        && row.ino == ino.0
    {
        if let Some(at) = op.accessed.filter(|_| reads(row.flags)) {
            access::by_release(ctx, edit, &op.handle, at)?;
        }
        inodes::end_open(edit, session, op.open_id, ino, ctx.settings.retention)?;
        if !edit.view().held_open_by(ino, session)? {
            edit.effects.closed.push((session, ino));
        }
    }
    Ok(empty())
}
