//! What a file consists of, and keys for what it will consist of.

use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use crate::volume::confine::Reached;
use crate::volume::contents::{self, Placed};
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::outcome::Outcome;
use crate::volume::permission::{R, allows};
use crate::volume::view::View;
use crate::volume::{objects, random};

/// What header, table and seals add to a block at most: 64 bytes per frame
/// and a page.
fn stored_max(block_size: u32) -> u32 {
    let frames = block_size.div_ceil(limits::FRAME_SIZE);
    block_size.saturating_add(frames.saturating_mul(64)).saturating_add(4096)
}

pub(in crate::volume) fn read_extents(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
    op: &v1::ReadExtents,
) -> Result<Outcome> {
    let (ino, inode) = (target.ino(), target.inode());
    if inode.is_dir() {
        return Err(Code::FsIsDirectory.into());
    }
    if !inode.is_regular() {
        return Err(Code::FsInvalid.into());
    }
    // Permission is a matter of open(2); who has opened it reads on.
    if !allows(inode, &ctx.who, R) && !view.held_open_by(ino, ctx.session.id)? {
        return Err(Code::FsAccess.into());
    }
    ctx.reads.set(Some(ino));
    let right = op.write_right;
    ctx.holds_right.set(right != 0 && ctx.rights.has_right(ctx.session.id, ino, right));
    let mut map = v1::ExtentMap {
        size: inode.size,
        change: inode.change,
        url_millis: u32::try_from(limits::SIGNED_URL.as_millis()).unwrap_or(u32::MAX),
        ..v1::ExtentMap::default()
    };
    if inode.inline_len.is_some() {
        map.inline_data = Some(view.raw(&view.keys.inline(ino))?.unwrap_or_default());
        return Ok(reply::Result::Extents(map).into());
    }
    let to = op.offset.saturating_add(op.length).min(inode.size);
    let limit = limits::EXTENTS_PER_REPLY;
    let mut found = contents::overlapping(view, ino, (op.offset, to), limit + 1)?;
    if let Some(next) = found.get(limit) {
        map.next_offset = next.offset;
        found.truncate(limit);
    }
    map.extents = signed(ctx, inode.size, found)?;
    Ok(reply::Result::Extents(map).into())
}

fn signed(ctx: &Context<'_>, size: u64, found: Vec<Placed>) -> Result<Vec<v1::Extent>> {
    let mut out: Vec<v1::Extent> = Vec::with_capacity(found.len());
    for placed in found {
        let object = placed.object()?;
        // Neighbours often lie in one object: one URL serves both.
        let url = match out.last() {
            Some(before) if before.object_id == object.0 => before.url.clone(),
            _ => ctx.blocks.sign_get(ctx.session.id, object)?,
        };
        out.push(v1::Extent {
            file_offset: placed.offset,
            length: placed.end().min(size).saturating_sub(placed.offset),
            object_id: object.0.to_vec(),
            object_offset: placed.extent.object_offset,
            object_length: placed.extent.object_length,
            url,
        });
    }
    Ok(out)
}

pub(in crate::volume) fn mint(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    op: &v1::MintObjects,
) -> Result<Outcome> {
    ctx.need_writable()?;
    if op.count == 0 || op.count > limits::MINT_MAX {
        return Err(Code::FsInvalid.into());
    }
    if op.size_limit == 0 || op.size_limit > stored_max(ctx.settings.block_size) {
        return Err(Code::FsTooBig.into());
    }
    let given = ctx.session.minted.load(std::sync::atomic::Ordering::Acquire);
    let given = usize::try_from(given).unwrap_or(0);
    let wanted = usize::try_from(op.count).unwrap_or(usize::MAX);
    if given.saturating_add(wanted) > limits::MINTED_PER_SESSION_MAX {
        return Err(Code::RateLimited.into());
    }
    let mut minted = Vec::with_capacity(wanted);
    for _ in 0..op.count {
        let object = ObjectId(random::fill()?);
        objects::mint(edit, ctx.session.id, object, op.size_limit);
        minted.push(object);
    }
    edit.effects.minted.push((ctx.session.id, i64::from(op.count)));
    Ok(Outcome::Minted { objects: minted, size_limit: op.size_limit })
}
