//! lookup, link, unlink, rmdir.

use flexfs_common::name::DentryName;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use crate::volume::attr::attr;
use crate::volume::confine::{self, Reached};
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::permission::{W, X, need, need_removal};
use crate::volume::view::View;
use crate::volume::{dentry, inodes, session_end};

pub(in crate::volume) fn lookup(
    ctx: &Context<'_>,
    view: View<'_>,
    dir: &Reached,
    op: &v1::Lookup,
) -> Result<Outcome> {
    let name = DentryName::parse(&op.name)?;
    dir.need_dir()?;
    need(dir.inode(), &ctx.who, X)?;
    ctx.keep_names(dir);
    let (_, child) = confine::child(ctx, view, dir, &name)?.ok_or(Code::FsNotFound)?;
    let handle = ctx.session.handles.make(child.ino());
    let attr = Some(attr(child.ino(), child.inode()));
    let entry = v1::Entry { handle: handle.into(), attr, ..v1::Entry::default() };
    Ok(reply::Result::Entry(entry).into())
}

pub(in crate::volume) fn link(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (target, dir): (&Reached, &Reached),
    op: &v1::Link,
) -> Result<Outcome> {
    let name = DentryName::parse(&op.new_name)?;
    dir.need_dir()?;
    need(dir.inode(), &ctx.who, X)?;
    if confine::child(ctx, edit.view(), dir, &name)?.is_some() {
        return Err(Code::FsExists.into());
    }
    ctx.need_writable()?;
    need(dir.inode(), &ctx.who, W)?;
    if target.inode().is_dir() {
        return Err(Code::FsNotPermitted.into());
    }
    let nameless = target.inode().nlink == 0;
    if nameless && !target.inode().linkable {
        return Err(Code::FsNotFound.into());
    }
    if target.inode().nlink >= limits::LINK_MAX {
        return Err(Code::FsTooManyLinks.into());
    }
    let ino = target.ino();
    let inode = edit.update_inode(ino, |inode| {
        inode.nlink += 1;
        inode.linkable = false;
    })?;
    if nameless {
        inodes::no_orphan(edit, ino);
    }
    dentry::insert(edit, &ctx.identity.order, dir.ino(), &name, (ino, inode.kind))?;
    let now = edit.stamp();
    edit.update_inode(dir.ino(), |dir| {
        dir.entries += 1;
        dir.mtime = Some(now);
    })?;
    let handle = ctx.session.handles.make(ino);
    let attr = Some(attr(ino, &inode));
    ctx.keep_names(dir);
    let entry = v1::Entry { handle: handle.into(), attr, ..v1::Entry::default() };
    Ok(reply::Result::Entry(entry).into())
}

pub(in crate::volume) fn unlink(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    dir: &Reached,
    op: &v1::Unlink,
) -> Result<Outcome> {
    let name = DentryName::parse(&op.name)?;
    dir.need_dir()?;
    need(dir.inode(), &ctx.who, X)?;
    let (found, child) = confine::child(ctx, edit.view(), dir, &name)?.ok_or(Code::FsNotFound)?;
    ctx.need_full_rights()?;
    need_removal(dir.inode(), child.inode(), &ctx.who)?;
    match (op.directory, child.inode().is_dir()) {
        (true, false) => return Err(Code::FsNotDirectory.into()),
        (false, true) => return Err(Code::FsIsDirectory.into()),
        (true, true) if child.inode().entries > 0 => return Err(Code::FsNotEmpty.into()),
        _ => {}
    }
    dentry::remove(edit, dir.ino(), &found)?;
    let now = edit.stamp();
    edit.update_inode(dir.ino(), |dir| {
        dir.entries = dir.entries.saturating_sub(1);
        dir.mtime = Some(now);
        if op.directory {
            dir.nlink = dir.nlink.saturating_sub(1);
        }
    })?;
    if op.directory {
        session_end::path_broken(ctx, edit, child.ino())?;
    }
    inodes::drop_link(ctx, edit, child.ino())?;
    Ok(empty())
}
