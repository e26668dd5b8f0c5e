//! readdir, readlink.

use std::ops::ControlFlow;

use bytes::Bytes;
use flexfs_common::ids::Ino;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;
use prost::Message;

use crate::volume::attr::attr;
use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::keys::u64_at;
use crate::volume::outcome::Outcome;
use crate::volume::permission::{R, X, allows};
use crate::volume::record::{Dentry, decode};
use crate::volume::view::View;

/// Bytes of a page when the client names none.
const PAGE_DEFAULT: u32 = 32 * 1024;

pub(in crate::volume) fn read_dir(
    ctx: &Context<'_>,
    view: View<'_>,
    dir: &Reached,
    op: &v1::ReadDir,
) -> Result<Outcome> {
    if !dir.inode().is_dir() {
        return Err(Code::FsNotDirectory.into());
    }
    // Permission is a matter of opendir(3); who has opened it reads on.
    let may_list =
        allows(dir.inode(), &ctx.who, R) || view.held_open_by(dir.ino(), ctx.session.id)?;
    if !may_list {
        return Err(Code::FsAccess.into());
    }
    ctx.searches(dir.ino());
    // Attributes need search permission, names do not.
    let plus = op.plus && allows(dir.inode(), &ctx.who, X);
    let max = if op.max_bytes == 0 { PAGE_DEFAULT } else { op.max_bytes };
    let max = usize::try_from(max.min(limits::DIR_PAGE_MAX_LEN)).unwrap_or(usize::MAX);
    let (mut entries, mut len, mut end) = (Vec::new(), 0, true);
    view.scan(&view.keys.dentries_after(dir.ino(), op.cookie), &mut |key, value| {
        let dentry: Dentry = decode("dentry", value)?;
        if dentry.ino == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let entry = entry(ctx, view, u64_at(key, 8).unwrap_or(0), dentry, plus)?;
        // Tag and length of the field in the page: at most 1 and 3 bytes.
        len += entry.encoded_len() + 4;
        // One entry always fits: else the directory could not be read at all.
        if len > max && !entries.is_empty() {
            end = false;
            return Ok(ControlFlow::Break(()));
        }
        entries.push(entry);
        Ok(ControlFlow::Continue(()))
    })?;
    // Only who may search it was told what the names name.
    if plus {
        ctx.keep_names(dir);
    }
    Ok(reply::Result::DirPage(v1::DirPage { entries, end, name_cache_millis: 0 }).into())
}

fn entry(
    ctx: &Context<'_>,
    view: View<'_>,
    cookie: u64,
    dentry: Dentry,
    plus: bool,
) -> Result<v1::DirEntry> {
    let ino = Ino(dentry.ino);
    let mut entry = v1::DirEntry {
        name: dentry.name.into(),
        cookie,
        ino: ino.0,
        kind: dentry.kind,
        ..v1::DirEntry::default()
    };
    if plus {
        entry.handle = ctx.session.handles.make(ino).into();
        entry.attr = Some(attr(ino, &view.inode_named(ino)?));
    }
    Ok(entry)
}

pub(in crate::volume) fn read_link(view: View<'_>, target: &Reached) -> Result<Outcome> {
    if !target.inode().is_symlink() {
        return Err(Code::FsInvalid.into());
    }
    let value: Bytes = view.raw(&view.keys.target(target.ino()))?.unwrap_or_default();
    Ok(reply::Result::BytesValue(v1::BytesValue { value }).into())
}
