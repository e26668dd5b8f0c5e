//! Access control lists as extended attributes, and what chmod(2) and
//! creating make of them.

use bytes::Bytes;
use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::reply;

use super::xattr::{XATTR_CREATE, XATTR_REPLACE, need_room};
use crate::volume::acl::{Acl, PERMISSION_BITS};
use crate::volume::caller::Who;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::permission::{S_ISGID, need_owner};
use crate::volume::record::Inode;
use crate::volume::superblock;

const ACCESS_NAME: &[u8] = b"system.posix_acl_access";
const DEFAULT_NAME: &[u8] = b"system.posix_acl_default";

/// Which of an inode's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Who may do what.
    Access,
    /// Directories: what new entries begin with.
    Default,
}

impl List {
    /// The list that an extended attribute of this name is.
    pub(super) fn named(name: &[u8]) -> Option<List> {
        match name {
            ACCESS_NAME => Some(List::Access),
            DEFAULT_NAME => Some(List::Default),
            _ => None,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            List::Access => ACCESS_NAME,
            List::Default => DEFAULT_NAME,
        }
    }

    fn of(self, inode: &Inode) -> &[u8] {
        match self {
            List::Access => inode.access_list(),
            List::Default => inode.default_list(),
        }
    }
}

/// What listxattr(2) shows of an inode's lists.
pub(super) fn names(inode: &Inode) -> impl Iterator<Item = &'static [u8]> {
    let there = |list: List| (!list.of(inode).is_empty()).then_some(list.name());
    [there(List::Access), there(List::Default)].into_iter().flatten()
}

/// # Errors
/// `FS_UNSUPPORTED` on volumes without lists, and for symbolic links, which
/// have none.
fn need_lists(ctx: &Context<'_>, target: &Reached) -> Result<()> {
    if ctx.flags.no_acl || target.inode().is_symlink() {
        return Err(Code::FsUnsupported.into());
    }
    Ok(())
}

/// Whoever reaches the inode may see its lists, as its mode.
pub(super) fn get(ctx: &Context<'_>, target: &Reached, list: List) -> Result<Outcome> {
    need_lists(ctx, target)?;
    let value = Bytes::copy_from_slice(list.of(target.inode()));
    if value.is_empty() {
        return Err(Code::FsNoAttribute.into());
    }
    Ok(reply::Result::BytesValue(v1::BytesValue { value }).into())
}

/// As Linux does, XATTR_CREATE and XATTR_REPLACE mean nothing here, and a
/// list without entries removes.
pub(super) fn set(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    list: List,
    op: &v1::SetXattr,
) -> Result<Outcome> {
    need_lists(ctx, target)?;
    ctx.need_writable()?;
    let inode = target.inode();
    need_owner(inode, &ctx.who)?;
    if op.flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
        return Err(Code::FsInvalid.into());
    }
    let there = !list.of(inode).is_empty();
    let Some(acl) = Acl::parse(&op.value)? else {
        return if there { remove(ctx, edit, target, list) } else { Ok(empty()) };
    };
    if list == List::Default && !inode.is_dir() {
        return Err(Code::FsAccess.into());
    }
    if there {
        ctx.need_full_rights()?;
    }
    let value = match list {
        // What a mode says is said by the mode.
        List::Access if acl.is_mode() => Bytes::new(),
        List::Access | List::Default => acl.encode(),
    };
    if !value.is_empty() {
        superblock::note_lists(edit)?;
        if !there {
            need_room(edit, target, list.name().len())?;
        }
    }
    if list == List::Access {
        names_closed(edit, target, !value.is_empty());
    }
    let keeps_group_id = ctx.who.is_root() || ctx.who.in_group(inode.gid);
    edit.update_inode(target.ino(), |inode| match list {
        List::Access => {
            inode.mode = inode.mode & !PERMISSION_BITS | acl.mode_bits();
            if !keeps_group_id {
                inode.mode &= !S_ISGID;
            }
            inode.set_access_list(value);
        }
        List::Default => inode.set_default_list(value),
    })?;
    Ok(empty())
}

/// The mode stays as it is: where there was a mask, that is what the group
/// has from now on.
pub(super) fn remove(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    list: List,
) -> Result<Outcome> {
    need_lists(ctx, target)?;
    ctx.need_full_rights()?;
    need_owner(target.inode(), &ctx.who)?;
    if list.of(target.inode()).is_empty() {
        return Err(Code::FsNoAttribute.into());
    }
    edit.update_inode(target.ino(), |inode| match list {
        List::Access => inode.set_access_list(Bytes::new()),
        List::Default => inode.set_default_list(Bytes::new()),
    })?;
    Ok(empty())
}

/// The names of a directory are to be asked for anew from now on, when it
/// comes to have a list that not every kernel heeds
/// ([`Context::keep_names`]).
pub(super) fn names_closed(edit: &mut Edit<'_>, target: &Reached, closed: bool) {
    if closed && target.inode().is_dir() {
        edit.effects.renamed.push(target.ino());
    }
}

/// The access list, as it is stored, after chmod(2). On volumes that have no
/// lists for now, too: it never says anything else than the mode.
pub(super) fn after_chmod(access: &[u8], mode: u32) -> Result<Bytes> {
    if access.is_empty() {
        return Ok(Bytes::new());
    }
    Ok(Acl::stored(access)?.with_mode(mode).encode())
}

/// Mode and lists of a new inode.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) mode: u32,
    pub(super) access: Bytes,
    pub(super) default: Bytes,
}

/// What an inode of this kind, asked for with this mode, begins with in a
/// directory: of its default list and the mode no more than both allow. The
/// caller's umask counts where there is no such list; the session's always.
pub(super) fn inherit(who: &Who, dir: &Inode, mode: u32, kind: FileKind) -> Result<Inherited> {
    let mode = mode & !who.session_umask;
    if !who.heeds_acls || dir.default_list().is_empty() {
        return Ok(Inherited { mode: mode & !who.umask, ..Inherited::default() });
    }
    let acl = Acl::stored(dir.default_list())?.inherited(mode);
    let is_dir = kind == FileKind::Directory;
    Ok(Inherited {
        mode: mode & !PERMISSION_BITS | acl.mode_bits(),
        access: if acl.is_mode() { Bytes::new() } else { acl.encode() },
        default: Bytes::copy_from_slice(if is_dir { dir.default_list() } else { &[] }),
    })
}
