//! Access times: mounts say when something was read, and what that changes is
//! decided here. A reader never fails because of it, and nobody waits.

use flexfs_common::ids::Ino;
use flexfs_common::relatime::{self, Times, key};
use flexfs_common::{Code, Result};
use flexfs_proto::v1;

use super::commit::not_later_than_now;
use crate::engine::Room;
use crate::volume::confine::{Reached, Touch, admit};
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::permission::{R, need};
use crate::volume::record::Inode;

/// A directory or symbolic link was read.
///
/// # Errors
/// `FS_INVALID` for another kind: files tell it with their opens. `FS_ACCESS`
/// for a directory that the caller may not read.
pub(in crate::volume) fn note(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::NoteAccess,
) -> Result<Outcome> {
    let inode = target.inode();
    if inode.is_dir() {
        need(inode, &ctx.who, R)?;
    } else if !inode.is_symlink() {
        return Err(Code::FsInvalid.into());
    }
    set(ctx, edit, (target.ino(), inode), op.at);
    Ok(empty())
}

/// The file of an open that ends was read through it. Left alone where it is
/// out of reach by now, or the disk below the engine has no room: an end must
/// not fail.
///
/// # Errors
/// The engine's.
pub(super) fn by_release(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    handle: &[u8],
    at: v1::Timestamp,
) -> Result<()> {
    if ctx.room < Room::Low {
        return Ok(());
    }
    let file = match admit(ctx, edit.view(), Touch::One(handle)) {
        Ok(admitted) => admitted.one()?,
        Err(error) if error.code() == Code::FsStale => return Ok(()),
        Err(error) => return Err(error),
    };
    set(ctx, edit, (file.ino(), file.inode()), Some(at));
    Ok(())
}

/// Sets it if this session may and the rule says so.
fn set(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (ino, inode): (Ino, &Inode),
    at: Option<v1::Timestamp>,
) {
    if ctx.flags.ro || ctx.flags.no_atime {
        return;
    }
    let at = not_later_than_now(edit, at);
    let times = Times {
        accessed: inode.atime.unwrap_or_default(),
        modified: inode.mtime.unwrap_or_default(),
        changed: inode.ctime.unwrap_or_default(),
    };
    let is_overtaken = inode.atime_set_at.is_some_and(|set| key(&at) < key(&set));
    if !is_overtaken && relatime::is_due(&times, &at) {
        edit.put_accessed(ino, &Inode { atime: Some(at), ..inode.clone() });
    }
}
