//! create, mkdir, mknod, symlink.

use flexfs_common::ids::Ino;
use flexfs_common::name::DentryName;
use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::reply;

use super::acl::{self, Inherited};
use super::commit;
use super::open::{O_TRUNC, open_inode, writes};
use crate::volume::attr::attr;
use crate::volume::confine::{self, Reached, Touch};
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::Outcome;
use crate::volume::permission::{MODE_BITS, S_ISGID, S_ISUID, W, X, need};
use crate::volume::record::Inode;
use crate::volume::rights::Wish;
use crate::volume::{dentry, inodes, numbers_ahead};

/// The character device 0/0: what overlayfs takes for a name that was removed.
const WHITEOUT_DEVICE: u32 = 0;

/// Makes the whiteout that a rename leaves under the old name, without any
/// permission, as file systems of Linux do (`WHITEOUT_MODE`). It has a link and
/// no name yet.
///
/// # Errors
/// `FS_QUOTA`.
pub(super) fn whiteout(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    dir: &Reached,
) -> Result<(Ino, i32)> {
    let (kind, op) =
        (FileKind::CharDevice, v1::Make { rdev: WHITEOUT_DEVICE, ..v1::Make::default() });
    let inode = new_inode(ctx, edit, dir, &op, kind)?;
    Ok((inodes::create(ctx, edit, &inode)?, inode.kind))
}

pub(in crate::volume) fn make(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    dir: &Reached,
    op: &v1::Make,
) -> Result<Outcome> {
    let kind = FileKind::try_from(op.kind).unwrap_or(FileKind::Unspecified);
    let name = DentryName::parse(&op.name)?;
    dir.need_dir()?;
    need(dir.inode(), &ctx.who, X)?;
    ctx.keep_names(dir);
    if let Some(held) = &op.held {
        if let Some(made) = made_before(ctx, edit, dir, held)? {
            return Ok(made);
        }
        need_make_right(ctx, dir, op, (kind, held))?;
    }
    if let Some((_, existing)) = confine::child(ctx, edit.view(), dir, &name)? {
        return open_existing(ctx, edit, existing, op, kind);
    }
    ctx.need_writable()?;
    need(dir.inode(), &ctx.who, W)?;
    if let Some(held) = &op.held {
        return make_held(ctx, edit, (dir, &name), (op, held));
    }
    let mut inode = new_inode(ctx, edit, dir, op, kind)?;
    if kind == FileKind::Symlink {
        inode.size = op.symlink_target.len() as u64;
    }
    let ino = inodes::create(ctx, edit, &inode)?;
    if kind == FileKind::Symlink {
        let key = edit.keys().target(ino);
        edit.put_raw(&key, &op.symlink_target);
    }
    dentry::insert(edit, &ctx.identity.order, dir.ino(), &name, (ino, inode.kind))?;
    let now = edit.stamp();
    edit.update_inode(dir.ino(), |dir| {
        dir.entries += 1;
        dir.mtime = Some(now);
        if kind == FileKind::Directory {
            dir.nlink += 1;
        }
    })?;
    ctx.keep_own_names(&inode);
    let open_id = if op.open && kind == FileKind::Regular {
        if writes(op.open_flags) {
            ctx.wish.set(Wish::Open);
        }
        // Its maker may use it whatever the mode says (POSIX open(2)).
        inodes::add_open(ctx, edit, ino, op.open_flags & !O_TRUNC)?
    } else {
        0
    };
    let handle = ctx.session.handles.make(ino);
    let attr = Some(attr(ino, &inode));
    let entry = v1::Entry { handle: handle.into(), attr, open_id, ..v1::Entry::default() };
    Ok(reply::Result::Entry(entry).into())
}

/// A file that its mount has made already: under a right to the directory, as
/// nobody else could have made it meanwhile.
///
/// # Errors
/// `WRITE_LOST` when the right has passed on, `PROTOCOL_INVALID` for what no
/// honest client sends.
fn need_make_right(
    ctx: &Context<'_>,
    dir: &Reached,
    op: &v1::Make,
    (kind, held): (FileKind, &v1::HeldMake),
) -> Result<()> {
    if kind != FileKind::Regular || !op.exclusive || !op.open || held.open_id == 0 {
        return Err(Error::new(
            Code::ProtocolInvalid,
            "not a file that a mount has made by itself",
        ));
    }
    if !ctx.rights.allows_commit(ctx.session.id, dir.ino(), held.make_right) {
        return Err(Code::WriteLost.into());
    }
    ctx.holds_right.set(true);
    Ok(())
}

/// Its mount does not know that it was told of already: the answer was given
/// up. Such a file is open by this very number and id. It is reached like any
/// other: it may have left the scope since.
///
/// # Errors
/// `FS_STALE`.
fn made_before(
    ctx: &Context<'_>,
    edit: &Edit<'_>,
    dir: &Reached,
    held: &v1::HeldMake,
) -> Result<Option<Outcome>> {
    let ino = ctx.session.handles.check(&held.handle)?;
    let open = edit.view().open_row(ctx.session.id, held.open_id)?;
    let Some(open) = open.filter(|open| open.ino == ino.0) else { return Ok(None) };
    let made = confine::admit(ctx, edit.view(), Touch::One(&held.handle))?.one()?;
    // Else others may have looked, and written.
    ctx.holds_right.set(ctx.rights.has_right(ctx.session.id, dir.ino(), held.make_right));
    if writes(open.flags) {
        ctx.wish.set(Wish::Open);
    }
    let entry = v1::Entry {
        handle: ctx.session.handles.make(ino).into(),
        attr: Some(attr(ino, made.inode())),
        open_id: held.open_id,
        made_before: true,
        ..v1::Entry::default()
    };
    let answer = reply::Result::Entry(entry);
    Ok(Some(if held.sync { Outcome::AnswerSynced(answer) } else { answer.into() }))
}

/// Its number, open and contents are what the mount says; who may make it, and
/// all else, is decided as though it were made now.
fn make_held(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (dir, name): (&Reached, &DentryName),
    (op, held): (&v1::Make, &v1::HeldMake),
) -> Result<Outcome> {
    let mut inode = new_inode(ctx, edit, dir, op, FileKind::Regular)?;
    let at = Some(made_at(edit, held.at));
    (inode.atime, inode.mtime, inode.ctime, inode.btime) = (at, at, at, at);
    let ino = numbers_ahead::create(ctx, edit, &held.handle, &inode)?;
    if let Some(contents) = &held.inline_data {
        commit::first_contents(ctx, edit, (ino, &mut inode), (contents, held.mtime))?;
    }
    if held.set_atime.is_some() || held.set_mtime.is_some() {
        set_times(edit, &mut inode, held)?;
        edit.put_inode(ino, &inode);
    }
    dentry::insert(edit, &ctx.identity.order, dir.ino(), name, (ino, inode.kind))?;
    let before = dir.inode().ctime;
    edit.update_inode(dir.ino(), |dir| {
        dir.entries += 1;
        // Files that were made one after another may come in another order.
        dir.mtime = later(dir.mtime, at);
        // As the mount has told it already.
        dir.ctime = later(before, at);
    })?;
    if writes(op.open_flags) {
        ctx.wish.set(Wish::Open);
    }
    inodes::add_open_as(ctx, edit, (ino, op.open_flags & !O_TRUNC), held.open_id)?;
    let handle = ctx.session.handles.make(ino).into();
    let attr = Some(attr(ino, &inode));
    let entry = v1::Entry { handle, attr, open_id: held.open_id, ..v1::Entry::default() };
    let answer = reply::Result::Entry(entry);
    Ok(if held.sync { Outcome::AnswerSynced(answer) } else { answer.into() })
}

/// utimensat(2) by who has made it.
fn set_times(edit: &Edit<'_>, inode: &mut Inode, held: &v1::HeldMake) -> Result<()> {
    for (time, set) in [(&mut inode.atime, held.set_atime), (&mut inode.mtime, held.set_mtime)] {
        if let Some(set) = set {
            wire::timestamp_from_wire(&set)?;
            *time = Some(set);
        }
    }
    inode.ctime = Some(edit.stamp());
    inode.change += 1;
    Ok(())
}

fn later(a: Option<v1::Timestamp>, b: Option<v1::Timestamp>) -> Option<v1::Timestamp> {
    let key = |at: &v1::Timestamp| (at.seconds, at.nanos);
    if a.as_ref().map(key) < b.as_ref().map(key) { b } else { a }
}

/// The client's time of the making: not later than now, and not earlier than
/// an honest one has held anything back.
fn made_at(edit: &Edit<'_>, at: Option<v1::Timestamp>) -> v1::Timestamp {
    let (now, margin) = (edit.stamp(), limits::MAKE_RIGHT_MARGIN.as_secs());
    let earliest = now.seconds.saturating_sub(i64::try_from(margin).unwrap_or(0));
    let honest = |at: &v1::Timestamp| {
        at.seconds >= earliest && (at.seconds, at.nanos) <= (now.seconds, now.nanos)
    };
    at.filter(|at| wire::timestamp_from_wire(at).is_ok()).filter(honest).unwrap_or(now)
}

/// The name is there: only a regular file that need not be new is opened.
fn open_existing(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    existing: Reached,
    op: &v1::Make,
    kind: FileKind,
) -> Result<Outcome> {
    if op.exclusive || kind != FileKind::Regular {
        return Err(Code::FsExists.into());
    }
    if existing.inode().is_dir() {
        return Err(Code::FsIsDirectory.into());
    }
    if !existing.inode().is_regular() {
        return Err(Code::FsExists.into());
    }
    let ino = existing.ino();
    let (open_id, inode) = if op.open {
        match open_inode(ctx, edit, &existing, op.open_flags)? {
            Ok(opened) => opened,
            Err(step) => return Ok(Outcome::After(step)),
        }
    } else {
        (0, existing.inode().clone())
    };
    let handle = ctx.session.handles.make(ino);
    let attr = Some(attr(ino, &inode));
    let entry = v1::Entry { handle: handle.into(), attr, open_id, ..v1::Entry::default() };
    Ok(reply::Result::Entry(entry).into())
}

/// The inode of what is made in a directory, as it begins; named once.
///
/// # Errors
/// `FS_NOT_PERMITTED` for a device unless by root, and what the kind is
/// refused with.
pub(super) fn new_inode(
    ctx: &Context<'_>,
    edit: &Edit<'_>,
    dir: &Reached,
    op: &v1::Make,
    kind: FileKind,
) -> Result<Inode> {
    let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    match kind {
        FileKind::Unspecified => {
            return Err(Error::new(Code::ProtocolInvalid, "an unknown kind of file"));
        }
        FileKind::Symlink => check_target(&op.symlink_target)?,
        FileKind::Directory if dir.inode().nlink >= limits::LINK_MAX => {
            return Err(Code::FsTooManyLinks.into());
        }
        // Linux mknod(2): the whiteout is no device, anybody may make one.
        FileKind::CharDevice if op.rdev == WHITEOUT_DEVICE => {}
        FileKind::CharDevice | FileKind::BlockDevice if !ctx.who.is_root() => {
            return Err(Code::FsNotPermitted.into());
        }
        _ => {}
    }
    let now = Some(edit.stamp());
    let (gid, Inherited { mode, access, default }) = permissions(ctx, dir.inode(), op, kind)?;
    let mut inode = Inode {
        kind: kind as i32,
        mode,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        uid: ctx.who.uid,
        gid,
        rdev: if device { op.rdev } else { 0 },
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        change: 1,
        parent: if kind == FileKind::Directory { dir.ino().0 } else { 0 },
        ..Inode::default()
    };
    inode.set_access_list(access);
    inode.set_default_list(default);
    Ok(inode)
}

fn check_target(target: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Code::FsNotFound.into());
    }
    // PATH_MAX counts the terminating NUL.
    if target.len() >= limits::PATH_MAX_LEN {
        return Err(Code::FsNameTooLong.into());
    }
    if target.contains(&0) { Err(Code::FsInvalid.into()) } else { Ok(()) }
}

/// Group, mode and lists of a new inode: a set-group-ID directory hands its
/// group down, and to directories the bit as well (as Linux does).
fn permissions(
    ctx: &Context<'_>,
    dir: &Inode,
    op: &v1::Make,
    kind: FileKind,
) -> Result<(u32, Inherited)> {
    if kind == FileKind::Symlink {
        let gid = if dir.mode & S_ISGID != 0 { dir.gid } else { ctx.who.gid };
        return Ok((gid, Inherited { mode: 0o777, ..Inherited::default() }));
    }
    let mut inherited = acl::inherit(&ctx.who, dir, op.mode & MODE_BITS, kind)?;
    let mode = inherited.mode;
    let is_dir = kind == FileKind::Directory;
    need_suid_allowed(ctx, mode, is_dir)?;
    if dir.mode & S_ISGID == 0 {
        return Ok((ctx.who.gid, inherited));
    }
    if is_dir {
        inherited.mode |= S_ISGID;
    } else if mode & 0o010 != 0 && !ctx.who.is_root() && !ctx.who.in_group(dir.gid) {
        // Nobody makes a program that runs with a group that is not theirs.
        inherited.mode &= !S_ISGID;
    }
    Ok((dir.gid, inherited))
}

/// # Errors
/// `FS_NOT_PERMITTED` when the mode would give privilege on a session that
/// must not (on a directory the set-group-ID bit gives none).
pub(in crate::volume) fn need_suid_allowed(
    ctx: &Context<'_>,
    mode: u32,
    is_dir: bool,
) -> Result<()> {
    let bits = if is_dir { S_ISUID } else { S_ISUID | S_ISGID };
    if ctx.flags.no_suid && mode & bits != 0 {
        return Err(Code::FsNotPermitted.into());
    }
    Ok(())
}
