//! open(2) with O_TMPFILE: a file without a name.

use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::reply;

use super::create::new_inode;
use super::open::{O_TRUNC, writes};
use crate::volume::attr::attr;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::inodes;
use crate::volume::outcome::Outcome;
use crate::volume::permission::{W, X, need};
use crate::volume::record::Inode;
use crate::volume::rights::Wish;

/// An orphan from the start, which lives by its open. The directory does not
/// change: it merely says who may, and what the file begins with.
pub(in crate::volume) fn make(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    dir: &Reached,
    op: &v1::MakeNameless,
) -> Result<Outcome> {
    dir.need_dir()?;
    need(dir.inode(), &ctx.who, X)?;
    ctx.need_writable()?;
    need(dir.inode(), &ctx.who, W)?;
    // Nobody could do anything with it (open(2)).
    if !writes(op.open_flags) {
        return Err(Code::FsInvalid.into());
    }
    let named = v1::Make { mode: op.mode, ..v1::Make::default() };
    let named = new_inode(ctx, edit, dir, &named, FileKind::Regular)?;
    let inode = Inode { nlink: 0, linkable: op.linkable, ..named };
    let ino = inodes::create(ctx, edit, &inode)?;
    inodes::orphan(edit, ino);
    ctx.wish.set(Wish::Open);
    let open_id = inodes::add_open(ctx, edit, ino, op.open_flags & !O_TRUNC)?;
    let handle = ctx.session.handles.make(ino).into();
    let attr = Some(attr(ino, &inode));
    let entry = v1::Entry { handle, attr, open_id, ..v1::Entry::default() };
    Ok(reply::Result::Entry(entry).into())
}
