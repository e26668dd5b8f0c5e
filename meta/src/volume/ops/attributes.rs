//! getattr, setattr, access, statfs.

use flexfs_common::{Code, Result, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::acl::{after_chmod, names_closed};
use super::create::need_suid_allowed;
use super::open::{truncate_to, writes};
use crate::volume::attr::attr;
use crate::volume::capability;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::{Outcome, Step, empty};
use crate::volume::permission::{
    MODE_BITS, R, S_ISGID, W, X, allows, need, need_owner, without_set_ids,
};
use crate::volume::record::Inode;
use crate::volume::view::View;

/// Unit of statfs in bytes: finer than the volume's blocks.
const STATFS_UNIT: u32 = 4096;
/// What statfs shows where there is no limit, or where the limit is not the
/// session's business: 1 PiB, and as many inodes as nobody makes.
const STATFS_BLOCKS: u64 = 1 << 38;
const STATFS_INODES: u64 = 1 << 32;

pub(in crate::volume) fn get_attr(target: &Reached) -> Outcome {
    reply::Result::Attr(attr(target.ino(), target.inode())).into()
}

pub(in crate::volume) fn access(
    ctx: &Context<'_>,
    target: &Reached,
    op: &v1::Access,
) -> Result<Outcome> {
    if op.mask & !(R | W | X) != 0 {
        return Err(Code::FsInvalid.into());
    }
    let kind_is_written = target.inode().is_dir() || target.inode().is_regular();
    if op.mask & W != 0 && kind_is_written {
        ctx.need_writable()?;
    }
    need(target.inode(), &ctx.who, op.mask)?;
    Ok(empty())
}

pub(in crate::volume) fn set_attr(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    target: &Reached,
    op: &v1::SetAttr,
) -> Result<Outcome> {
    ctx.need_writable()?;
    let (ino, old) = (target.ino(), target.inode());
    let times = Times::parse(op)?;
    check_owner_changes(ctx, old, op)?;
    times.check(ctx, old)?;
    if let Some(size) = op.size {
        if let Some(step) = check_size(ctx, edit, target, op, size)? {
            return Ok(Outcome::After(step));
        }
        truncate_to(ctx, edit, ino, size)?;
    }
    if (op.uid.is_some() || op.gid.is_some()) && !old.is_dir() && old.xattrs > 0 {
        let mut inode = edit.view().inode_named(ino)?;
        capability::fall(edit, (ino, &mut inode))?;
        edit.put_inode(ino, &inode);
    }
    let mode = op.mode.map(|mode| chmod_mode(ctx, old, op.gid.unwrap_or(old.gid), mode));
    let masks_all = mode.is_some_and(|mode| mode & 0o070 == 0);
    names_closed(edit, target, masks_all && !old.access_list().is_empty());
    let access = mode.map(|mode| after_chmod(old.access_list(), mode)).transpose()?;
    let now = edit.stamp();
    let inode = edit.update_inode(ino, |inode| {
        let is_dir = inode.is_dir();
        if op.uid.is_some() || op.gid.is_some() {
            inode.uid = op.uid.unwrap_or(inode.uid);
            inode.gid = op.gid.unwrap_or(inode.gid);
            if !is_dir {
                inode.mode = without_set_ids(inode.mode);
            }
        }
        inode.mode = mode.unwrap_or(inode.mode);
        if let Some(access) = access {
            inode.set_access_list(access);
        }
        if let Some(time) = times.atime {
            inode.atime = Some(time.unwrap_or(now));
            inode.atime_set_at = Some(now);
        }
        if let Some(time) = times.mtime {
            inode.mtime = Some(time.unwrap_or(now));
        }
    })?;
    Ok(reply::Result::Attr(attr(ino, &inode)).into())
}

/// The mode after chmod(2): a set-group-ID of a group that the caller is not
/// in falls.
fn chmod_mode(ctx: &Context<'_>, old: &Inode, gid: u32, mode: u32) -> u32 {
    let mode = mode & MODE_BITS;
    if ctx.who.is_root() || ctx.who.in_group(gid) || old.is_dir() { mode } else { mode & !S_ISGID }
}

fn check_owner_changes(ctx: &Context<'_>, old: &Inode, op: &v1::SetAttr) -> Result<()> {
    if let Some(mode) = op.mode {
        need_owner(old, &ctx.who)?;
        // What is already set may stay: tools write the mode back.
        need_suid_allowed(ctx, mode & !old.mode, old.is_dir())?;
    }
    if op.uid.is_none() && op.gid.is_none() {
        return Ok(());
    }
    if op.uid == Some(u32::MAX) || op.gid == Some(u32::MAX) {
        return Err(Code::FsInvalid.into());
    }
    if ctx.who.is_root() {
        return Ok(());
    }
    need_owner(old, &ctx.who)?;
    let keeps_owner = op.uid.is_none_or(|uid| uid == old.uid);
    let own_group = op.gid.is_none_or(|gid| gid == old.gid || ctx.who.in_group(gid));
    if keeps_owner && own_group { Ok(()) } else { Err(Code::FsNotPermitted.into()) }
}

/// May the size be set? `Some`: something has to be done first.
fn check_size(
    ctx: &Context<'_>,
    edit: &Edit<'_>,
    target: &Reached,
    op: &v1::SetAttr,
    size: u64,
) -> Result<Option<Step>> {
    let inode = target.inode();
    if inode.is_dir() {
        return Err(Code::FsIsDirectory.into());
    }
    if !inode.is_regular() {
        return Err(Code::FsInvalid.into());
    }
    if size > limits::FILE_SIZE_MAX {
        return Err(Code::FsTooBig.into());
    }
    if op.open_id == 0 {
        need(inode, &ctx.who, W)?;
    } else {
        need_write_open(ctx, edit.view(), target, op.open_id)?;
    }
    if size != inode.size {
        ctx.need_full_rights()?;
    }
    Ok(inode.trimming.then_some(Step::Trim(target.ino())))
}

/// # Errors
/// `FS_BAD_HANDLE` unless it is this session's open of this inode, for writing.
pub(in crate::volume) fn need_write_open(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
    open_id: u64,
) -> Result<()> {
    let row = view.open_row(ctx.session.id, open_id)?.ok_or(Code::FsBadHandle)?;
    if row.ino == target.ino().0 && writes(row.flags) {
        Ok(())
    } else {
        Err(Code::FsBadHandle.into())
    }
}

/// Times to be set; the inner `None` is now.
struct Times {
    atime: Option<Option<v1::Timestamp>>,
    mtime: Option<Option<v1::Timestamp>>,
}

impl Times {
    fn parse(op: &v1::SetAttr) -> Result<Times> {
        for at in [&op.atime, &op.mtime].into_iter().flatten().filter_map(|time| time.at) {
            wire::timestamp_from_wire(&at)?;
        }
        Ok(Times { atime: op.atime.map(|time| time.at), mtime: op.mtime.map(|time| time.at) })
    }

    /// utimensat(2): any time needs the owner, now is granted to writers too.
    fn check(&self, ctx: &Context<'_>, inode: &Inode) -> Result<()> {
        let explicit = self.atime.flatten().is_some() || self.mtime.flatten().is_some();
        if explicit {
            return need_owner(inode, &ctx.who);
        }
        let any = self.atime.is_some() || self.mtime.is_some();
        if any && need_owner(inode, &ctx.who).is_err() && !allows(inode, &ctx.who, W) {
            return Err(Code::FsAccess.into());
        }
        Ok(())
    }
}

/// The volume's numbers for those who may see the whole volume, constants for
/// the others.
pub(in crate::volume) fn stat_fs(ctx: &Context<'_>, view: View<'_>) -> Result<Outcome> {
    let mut result = v1::StatFsResult {
        block_size: STATFS_UNIT,
        blocks: STATFS_BLOCKS,
        blocks_free: STATFS_BLOCKS,
        inodes: STATFS_INODES,
        inodes_free: STATFS_INODES,
        name_max: u32::try_from(limits::NAME_MAX_LEN).unwrap_or(u32::MAX),
    };
    if ctx.session.confined.is_none() {
        let counters = view.counters()?;
        let settings = ctx.settings;
        let used = counters.stored.div_ceil(u64::from(STATFS_UNIT));
        if settings.max_blocks > 0 {
            let bytes = settings.max_blocks.saturating_mul(u64::from(settings.block_size));
            result.blocks = bytes / u64::from(STATFS_UNIT);
        }
        if settings.max_inodes > 0 {
            result.inodes = settings.max_inodes;
        }
        result.blocks_free = result.blocks.saturating_sub(used);
        result.inodes_free = result.inodes.saturating_sub(counters.inodes_taken());
    }
    Ok(reply::Result::StatFs(result).into())
}
