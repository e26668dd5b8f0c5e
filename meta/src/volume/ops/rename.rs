//! rename(2), with RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT.

use flexfs_common::ids::Ino;
use flexfs_common::name::DentryName;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;

use super::create;
use crate::volume::confine::{self, Reached};
use crate::volume::context::Context;
use crate::volume::dentry::{self, Found};
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::permission::{W, X, need, need_removal};
use crate::volume::{inodes, session_end};

/// One end of a rename.
struct End<'r> {
    dir: &'r Reached,
    name: DentryName,
    entry: Option<(Found, Reached)>,
}

pub(in crate::volume) fn rename(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (from_dir, to_dir): (&Reached, &Reached),
    op: &v1::Rename,
) -> Result<Outcome> {
    let (from_name, to_name) = (DentryName::parse(&op.name)?, DentryName::parse(&op.new_name)?);
    if op.exchange && (op.no_replace || op.whiteout) {
        return Err(Code::FsInvalid.into());
    }
    from_dir.need_dir()?;
    to_dir.need_dir()?;
    need(from_dir.inode(), &ctx.who, X)?;
    need(to_dir.inode(), &ctx.who, X)?;
    let (source_found, source) =
        confine::child(ctx, edit.view(), from_dir, &from_name)?.ok_or(Code::FsNotFound)?;
    let to = End {
        dir: to_dir,
        entry: confine::child(ctx, edit.view(), to_dir, &to_name)?,
        name: to_name,
    };
    check_flags(op, &to)?;
    ctx.need_full_rights()?;
    need_rights(ctx, (from_dir, &source), &to, op.exchange)?;
    check_loops(edit, (from_dir, &source), &to, op.exchange)?;
    match &to.entry {
        // Two names of one inode: nothing is done (POSIX rename).
        Some((_, target)) if target.ino() == source.ino() => {}
        Some((found, target)) if op.exchange => {
            let ends = [(from_dir.ino(), &source_found, &source), (to_dir.ino(), found, target)];
            exchange(ctx, edit, ends)?;
        }
        _ => {
            let left = op.whiteout.then(|| create::whiteout(ctx, edit, from_dir)).transpose()?;
            replace(ctx, edit, (from_dir.ino(), &source_found, &source), &to, left)?;
        }
    }
    Ok(empty())
}

fn check_flags(op: &v1::Rename, to: &End<'_>) -> Result<()> {
    match &to.entry {
        Some(_) if op.no_replace => Err(Code::FsExists.into()),
        None if op.exchange => Err(Code::FsNotFound.into()),
        _ => Ok(()),
    }
}

fn need_rights(
    ctx: &Context<'_>,
    (from_dir, source): (&Reached, &Reached),
    to: &End<'_>,
    exchange: bool,
) -> Result<()> {
    need_removal(from_dir.inode(), source.inode(), &ctx.who)?;
    need(to.dir.inode(), &ctx.who, W | X)?;
    let moves = from_dir.ino() != to.dir.ino();
    // The `..` of a directory that moves is written.
    if moves && source.inode().is_dir() {
        need(source.inode(), &ctx.who, W)?;
    }
    let Some((_, target)) = &to.entry else { return Ok(()) };
    need_removal(to.dir.inode(), target.inode(), &ctx.who)?;
    if exchange {
        if moves && target.inode().is_dir() {
            need(target.inode(), &ctx.who, W)?;
        }
        return Ok(());
    }
    match (source.inode().is_dir(), target.inode().is_dir()) {
        (true, false) => Err(Code::FsNotDirectory.into()),
        (false, true) => Err(Code::FsIsDirectory.into()),
        _ => Ok(()),
    }
}

/// No directory may come to lie below itself. Remembers which scopes a
/// directory leaves on the way.
fn check_loops(
    edit: &mut Edit<'_>,
    (from_dir, source): (&Reached, &Reached),
    to: &End<'_>,
    exchange: bool,
) -> Result<()> {
    let target = to.entry.as_ref().map(|(_, target)| target);
    let empty = target.is_none_or(|target| target.inode().entries == 0);
    if from_dir.ino() != to.dir.ino() {
        let above_new = confine::ancestors(edit.view(), to.dir.ino())?;
        if source.inode().is_dir() && above_new.contains(&source.ino()) {
            return Err(Code::FsInvalid.into());
        }
        if let Some(target) = target
            && target.inode().is_dir()
            && confine::ancestors(edit.view(), from_dir.ino())?.contains(&target.ino())
        {
            return Err(if exchange { Code::FsInvalid } else { Code::FsNotEmpty }.into());
        }
    }
    let same = target.is_some_and(|target| target.ino() == source.ino());
    if !exchange && !same && target.is_some_and(|target| target.inode().is_dir()) && !empty {
        return Err(Code::FsNotEmpty.into());
    }
    Ok(())
}

/// A directory changes its place: scopes it leaves forget it, sessions whose
/// scope's path led through it end.
fn dir_moves(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    dir: Ino,
    (old_parent, new_parent): (Ino, Ino),
) -> Result<()> {
    session_end::path_broken(ctx, edit, dir)?;
    if old_parent == new_parent {
        return Ok(());
    }
    let above_new = confine::ancestors(edit.view(), new_parent)?;
    let mut left = confine::ancestors(edit.view(), old_parent)?;
    left.retain(|dir| !above_new.contains(dir));
    edit.effects.left_scopes.extend(ctx.scopes.roots_among(&left));
    Ok(())
}

/// `left`: what the old name names from now on, if anything.
fn replace(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (from_dir, found, source): (Ino, &Found, &Reached),
    to: &End<'_>,
    left: Option<(Ino, i32)>,
) -> Result<()> {
    let is_dir = source.inode().is_dir();
    let to_dir = to.dir.ino();
    let replaced_dir = to.entry.as_ref().is_some_and(|(_, target)| target.inode().is_dir());
    let gains_subdir = is_dir && !replaced_dir && from_dir != to_dir;
    if gains_subdir && to.dir.inode().nlink >= limits::LINK_MAX {
        return Err(Code::FsTooManyLinks.into());
    }
    if is_dir {
        dir_moves(ctx, edit, source.ino(), (from_dir, to_dir))?;
    }
    match left {
        None => dentry::remove(edit, from_dir, found)?,
        Some(left) => dentry::repoint(edit, from_dir, found, left)?,
    }
    let named = (source.ino(), source.inode().kind);
    match &to.entry {
        None => dentry::insert(edit, &ctx.identity.order, to_dir, &to.name, named)?,
        Some((found, target)) => {
            dentry::repoint(edit, to_dir, found, named)?;
            if replaced_dir {
                session_end::path_broken(ctx, edit, target.ino())?;
            }
            inodes::drop_link(ctx, edit, target.ino())?;
        }
    }
    let now = edit.stamp();
    edit.update_inode(from_dir, |dir| {
        dir.entries = dir.entries.saturating_sub(u64::from(left.is_none()));
        dir.mtime = Some(now);
        if is_dir {
            dir.nlink = dir.nlink.saturating_sub(1);
        }
    })?;
    let adds_entry = to.entry.is_none();
    edit.update_inode(to_dir, |dir| {
        dir.mtime = Some(now);
        if adds_entry {
            dir.entries += 1;
        }
        if replaced_dir {
            dir.nlink = dir.nlink.saturating_sub(1);
        }
        if is_dir {
            dir.nlink += 1;
        }
    })?;
    edit.update_inode(source.ino(), |inode| {
        if is_dir {
            inode.parent = to_dir.0;
        }
    })?;
    Ok(())
}

fn exchange(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    [a, b]: [(Ino, &Found, &Reached); 2],
) -> Result<()> {
    for ((old, _, moved), (new, _, _)) in [(a, b), (b, a)] {
        if moved.inode().is_dir() {
            dir_moves(ctx, edit, moved.ino(), (old, new))?;
        }
    }
    for ((_, _, moved), (new, found, _)) in [(a, b), (b, a)] {
        dentry::repoint(edit, new, found, (moved.ino(), moved.inode().kind))?;
    }
    let now = edit.stamp();
    for ((old, _, moved), (new, _, other)) in [(a, b), (b, a)] {
        let (goes, comes) = (moved.inode().is_dir(), other.inode().is_dir());
        edit.update_inode(old, |dir| {
            dir.mtime = Some(now);
            if old != new {
                dir.nlink = dir.nlink + u32::from(comes) - u32::from(goes);
            }
        })?;
        edit.update_inode(moved.ino(), |inode| {
            if goes {
                inode.parent = new.0;
            }
        })?;
    }
    Ok(())
}
