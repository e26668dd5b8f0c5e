//! Extended attributes (xattr(7)).

use std::ops::ControlFlow;

use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::acl::{self, List};
use crate::volume::capability;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::keys::PREFIX_LEN;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::permission::{R, S_ISVTX, W, need, need_owner};
use crate::volume::view::View;

// setxattr(2) flags (linux/xattr.h).
pub(super) const XATTR_CREATE: u32 = 1;
pub(super) const XATTR_REPLACE: u32 = 2;

/// Whose rules a name follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// `user.`: like contents.
    User,
    /// `trusted.`: root alone.
    Trusted,
    /// `security.`: read by everybody, set by root.
    Security,
}

/// # Errors
/// `FS_UNSUPPORTED` for other name spaces (those of access control lists are
/// in [`super::acl`]) and on volumes without xattrs.
fn space_of(ctx: &Context<'_>, name: &[u8]) -> Result<Space> {
    if ctx.flags.no_xattr {
        return Err(Code::FsUnsupported.into());
    }
    if name.len() > limits::XATTR_NAME_MAX_LEN {
        return Err(Code::FsRange.into());
    }
    if name.contains(&0) {
        return Err(Code::FsInvalid.into());
    }
    let spaces = [
        (&b"user."[..], Space::User),
        (b"trusted.", Space::Trusted),
        (b"security.", Space::Security),
    ];
    let (prefix, space) = spaces
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .ok_or(Code::FsUnsupported)?;
    if name.len() == prefix.len() { Err(Code::FsInvalid.into()) } else { Ok(space) }
}

fn may_have_user(target: &Reached) -> bool {
    target.inode().is_dir() || target.inode().is_regular()
}

fn need_change(ctx: &Context<'_>, target: &Reached, space: Space) -> Result<()> {
    match space {
        Space::User if !may_have_user(target) => Err(Code::FsNotPermitted.into()),
        Space::User => {
            let inode = target.inode();
            if inode.is_dir() && inode.mode & S_ISVTX != 0 {
                need_owner(inode, &ctx.who)?;
            }
            need(inode, &ctx.who, W)
        }
        Space::Trusted | Space::Security if ctx.who.is_root() => Ok(()),
        Space::Trusted | Space::Security => Err(Code::FsNotPermitted.into()),
    }
}

fn need_sight(ctx: &Context<'_>, target: &Reached, space: Space) -> Result<()> {
    match space {
        Space::User if !may_have_user(target) => Err(Code::FsNoAttribute.into()),
        Space::User => need(target.inode(), &ctx.who, R),
        Space::Trusted if !ctx.who.is_root() => Err(Code::FsNoAttribute.into()),
        Space::Trusted | Space::Security => Ok(()),
    }
}

pub(in crate::volume) fn get(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
    op: &v1::GetXattr,
) -> Result<Outcome> {
    if let Some(list) = List::named(&op.name) {
        return acl::get(ctx, target, list);
    }
    let space = space_of(ctx, &op.name)?;
    need_sight(ctx, target, space)?;
    if target.inode().xattrs == 0 {
        return Err(Code::FsNoAttribute.into());
    }
    let value = view.raw(&view.keys.xattr(target.ino(), &op.name))?.ok_or(Code::FsNoAttribute)?;
    Ok(reply::Result::BytesValue(v1::BytesValue { value }).into())
}

pub(in crate::volume) fn list(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
) -> Result<Outcome> {
    if ctx.flags.no_xattr && ctx.flags.no_acl {
        return Err(Code::FsUnsupported.into());
    }
    let mut names = Vec::new();
    if !ctx.flags.no_acl {
        names.extend(acl::names(target.inode()).map(|name| name.to_vec()));
    }
    if target.inode().xattrs > 0 && !ctx.flags.no_xattr {
        view.scan(&view.keys.xattrs(target.ino()), &mut |key, _| {
            let name = key.get(PREFIX_LEN + 8..).unwrap_or_default();
            if ctx.who.is_root() || !name.starts_with(b"trusted.") {
                names.push(name.to_vec());
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(reply::Result::Names(v1::NameList { names }).into())
}

pub(in crate::volume) fn set(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::SetXattr,
) -> Result<Outcome> {
    if let Some(list) = List::named(&op.name) {
        return acl::set(ctx, edit, target, list, op);
    }
    let space = space_of(ctx, &op.name)?;
    ctx.need_writable()?;
    need_change(ctx, target, space)?;
    if ctx.flags.no_suid && op.name == capability::NAME {
        // Privilege that lies on a file, as set-ID bits are.
        return Err(Code::FsNotPermitted.into());
    }
    if op.flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
        return Err(Code::FsInvalid.into());
    }
    if op.value.len() > limits::XATTR_VALUE_MAX_LEN {
        return Err(Code::FsRange.into());
    }
    let key = edit.keys().xattr(target.ino(), &op.name);
    let exists = target.inode().xattrs > 0 && edit.view().raw(&key)?.is_some();
    if exists && op.flags & XATTR_CREATE != 0 {
        return Err(Code::FsExists.into());
    }
    if !exists && op.flags & XATTR_REPLACE != 0 {
        return Err(Code::FsNoAttribute.into());
    }
    if exists {
        ctx.need_full_rights()?;
    } else {
        need_room(edit, target, op.name.len())?;
    }
    edit.put_raw(&key, &op.value);
    edit.update_inode(target.ino(), |inode| inode.xattrs += u32::from(!exists))?;
    Ok(empty())
}

/// All names of an inode must fit one listxattr(2), with another one of this
/// length.
///
/// # Errors
/// `FS_NO_SPACE`.
pub(super) fn need_room(edit: &Edit<'_>, target: &Reached, name_len: usize) -> Result<()> {
    if target.inode().xattrs == 0 {
        return Ok(());
    }
    let lists: usize = acl::names(target.inode()).map(|name| name.len() + 1).sum();
    let mut len = lists + name_len + 1;
    edit.view().scan(&edit.keys().xattrs(target.ino()), &mut |key, _| {
        len += key.len().saturating_sub(PREFIX_LEN + 8) + 1;
        Ok(ControlFlow::Continue(()))
    })?;
    if len > limits::XATTR_LIST_MAX_LEN { Err(Code::FsNoSpace.into()) } else { Ok(()) }
}

pub(in crate::volume) fn remove(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::RemoveXattr,
) -> Result<Outcome> {
    if let Some(list) = List::named(&op.name) {
        return acl::remove(ctx, edit, target, list);
    }
    let space = space_of(ctx, &op.name)?;
    if op.name == capability::NAME {
        ctx.need_writable()?;
        capability::need_fall(ctx, edit, target)?;
    } else {
        ctx.need_full_rights()?;
        need_change(ctx, target, space)?;
    }
    let key = edit.keys().xattr(target.ino(), &op.name);
    if target.inode().xattrs == 0 || edit.view().raw(&key)?.is_none() {
        return Err(Code::FsNoAttribute.into());
    }
    edit.delete(&key);
    edit.update_inode(target.ino(), |inode| inode.xattrs = inode.xattrs.saturating_sub(1))?;
    Ok(empty())
}
