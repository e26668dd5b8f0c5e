//! `security.capability` (capabilities(7)): privilege that lies on a file, and
//! falls when its contents or owner change, whoever changes them (Linux
//! file_remove_privs, chown_common). The set-ID bits fall by rules of their
//! own ([`super::permission`]).

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Result};

use super::confine::Reached;
use super::context::Context;
use super::edit::Edit;
use super::ops::open::opened_for_writing;
use super::permission::{W, allows, need_owner};
use super::record::Inode;

/// The attribute's name.
pub(super) const NAME: &[u8] = b"security.capability";
/// Takes the attribute away; writing the inode back is the caller's.
pub(super) fn fall(edit: &mut Edit<'_>, (ino, inode): (Ino, &mut Inode)) -> Result<()> {
    if inode.xattrs == 0 {
        return Ok(());
    }
    let key = edit.keys().xattr(ino, NAME);
    if edit.view().raw(&key)?.is_some() {
        edit.delete(&key);
        inode.xattrs = inode.xattrs.saturating_sub(1);
    }
    Ok(())
}

/// May it be taken away alone? A kernel does so in the name of whoever is
/// about to write or chown (security_inode_killpriv), so whoever may do
/// either may do this; removexattr(2) itself asks for CAP_SETFCAP before.
///
/// # Errors
/// `FS_NOT_PERMITTED`.
pub(super) fn need_fall(ctx: &Context<'_>, edit: &Edit<'_>, target: &Reached) -> Result<()> {
    let inode = target.inode();
    if need_owner(inode, &ctx.who).is_ok() || allows(inode, &ctx.who, W) {
        return Ok(());
    }
    // Opened for writing when that was allowed.
    if opened_for_writing(edit.view(), target.ino(), ctx.session.id)? {
        return Ok(());
    }
    Err(Code::FsNotPermitted.into())
}
