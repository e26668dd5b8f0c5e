//! The operations of the server: the rules of the real one for contents,
//! slots and locks; names and permissions are not its business.

use std::sync::Arc;

use flexfs_common::ids::{ObjectId, SessionId};
use flexfs_common::{Code, Error, Result, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply::Result as Done;

use super::super::mutation::is_mutation;
use super::{File, LoopbackMeta, WRITE_RIGHT, World};

pub(super) enum Carried {
    Answered(Box<v1::Reply>),
    Waits,
    Broken,
}

pub(super) fn carry_out(server: &Arc<LoopbackMeta>, id: SessionId, op: &v1::Op) -> Carried {
    let mut world = server.world.lock();
    let body = op.body.as_ref().unwrap();
    assert_eq!(is_mutation(body), op.sequence != 0, "slots are for mutations: {body:?}");
    if op.sequence != 0 {
        match world.slots[&id].get(&op.slot) {
            Some((sequence, reply)) if *sequence == op.sequence => {
                let reply = v1::Reply { request_id: op.request_id, ..reply.clone() };
                return Carried::Answered(Box::new(reply));
            }
            known => {
                let last = known.map_or(0, |(sequence, _)| *sequence);
                assert_eq!(op.sequence, last + 1, "slot {} skips or goes back", op.slot);
            }
        }
    }
    if let Body::SetLock(lock) = body
        && lock.wait
        && world.lock_holder.is_some()
    {
        return Carried::Waits;
    }
    let result = perform(&mut world, server, body).unwrap_or_else(|error| failed(&error));
    let reply = v1::Reply { request_id: op.request_id, result: Some(result) };
    remember(&mut world, id, op, &reply);
    if let Some(left) = &mut world.break_after {
        if *left == 0 {
            world.break_after = None;
            return Carried::Broken;
        }
        *left -= 1;
    }
    Carried::Answered(Box::new(reply))
}

fn remember(world: &mut World, id: SessionId, op: &v1::Op, reply: &v1::Reply) {
    if op.sequence != 0 {
        world.slots.get_mut(&id).unwrap().insert(op.slot, (op.sequence, reply.clone()));
    }
}

fn failed(error: &Error) -> Done {
    Done::Error(wire::error_to_detail(error))
}

/// Waits for the lock, or for the cancellation of the request.
pub(super) async fn wait_for_lock(server: &LoopbackMeta, id: SessionId, op: &v1::Op) -> v1::Reply {
    loop {
        let changed = server.unlocked.notified();
        {
            let mut world = server.world.lock();
            let result = if world.cancelled.contains(&op.request_id) {
                Some(failed(&Error::bare(Code::OperationInterrupted)))
            } else if world.lock_holder.is_none() {
                world.lock_holder = Some(1);
                Some(Done::Empty(v1::Empty {}))
            } else {
                None
            };
            if result.is_some() {
                let reply = v1::Reply { request_id: op.request_id, result };
                remember(&mut world, id, op, &reply);
                return reply;
            }
        }
        changed.await;
    }
}

fn perform(world: &mut World, server: &LoopbackMeta, body: &Body) -> Result<Done> {
    match body {
        Body::GetAttr(op) => {
            world.count("GetAttr");
            Ok(Done::Attr(file(world, &op.handle)?.attr))
        }
        Body::SetAttr(op) => {
            world.count("SetAttr");
            let file = file(world, &op.handle)?;
            if let Some(size) = op.size {
                truncate(file, size);
                file.data_change = file.attr.change + 1;
            }
            file.attr.change += 1;
            Ok(Done::Attr(file.attr))
        }
        Body::SetXattr(op) => {
            world.journal.push(op.name.clone());
            Ok(Done::Empty(v1::Empty {}))
        }
        Body::ReadExtents(op) => {
            world.count("ReadExtents");
            read_extents(world, op).map(Done::Extents)
        }
        Body::MintObjects(op) => {
            world.count("MintObjects");
            Ok(Done::Minted(mint(world, op)))
        }
        Body::CommitData(op) => {
            world.count("CommitData");
            commit(world, server, op).map(Done::Attr)
        }
        Body::AcquireWrite(op) => {
            world.count("AcquireWrite");
            let write_right = if world.keeps_write_rights { 0 } else { WRITE_RIGHT };
            let attr = file(world, &op.handle)?.attr;
            Ok(Done::Attr(v1::Attr { write_right, ..attr }))
        }
        Body::SetLock(op) => {
            let wanted = op.lock.unwrap_or_default();
            if wanted.kind() == v1::LockKind::Unlock {
                world.lock_holder = None;
                server.unlocked.notify_waiters();
                return Ok(Done::Empty(v1::Empty {}));
            }
            if world.lock_holder.is_some() {
                return Err(Code::FsWouldBlock.into());
            }
            world.lock_holder = Some(wanted.owner);
            Ok(Done::Empty(v1::Empty {}))
        }
        Body::Sync(_) => {
            world.count("Sync");
            Ok(Done::Empty(v1::Empty {}))
        }
        other => panic!("not an operation of this server: {other:?}"),
    }
}

fn file<'a>(world: &'a mut World, handle: &[u8]) -> Result<&'a mut File> {
    let ino = u64::from_be_bytes(handle.try_into().unwrap());
    world.files.get_mut(&ino).ok_or_else(|| Code::FsStale.into())
}

fn truncate(file: &mut File, size: u64) {
    if let Some(inline) = &mut file.inline {
        inline.truncate(usize::try_from(size).unwrap());
    }
    carve(file, size, u64::MAX);
    file.attr.size = size;
}

/// Takes a range out of the extents.
fn carve(file: &mut File, from: u64, to: u64) {
    let old = std::mem::take(&mut file.extents);
    for (at, extent) in old {
        let end = at + extent.length;
        if at < from {
            let length = end.min(from) - at;
            file.extents.insert(at, v1::Extent { length, ..extent.clone() });
        }
        if end > to {
            let start = at.max(to);
            let right = v1::Extent {
                file_offset: start,
                length: end - start,
                object_offset: extent.object_offset + (start - at),
                ..extent
            };
            file.extents.insert(start, right);
        }
    }
}

fn read_extents(world: &mut World, op: &v1::ReadExtents) -> Result<v1::ExtentMap> {
    world.urls += 1;
    let number = world.urls;
    let file = file(world, &op.handle)?;
    let end = op.offset.saturating_add(op.length);
    // Few at a time, so that readers have to ask again.
    let mut extents: Vec<v1::Extent> = file
        .extents
        .values()
        .filter(|e| e.file_offset + e.length > op.offset && e.file_offset < end)
        .take(9)
        .cloned()
        .collect();
    let mut next_offset = 0;
    if extents.len() == 9 {
        next_offset = extents.pop().unwrap().file_offset;
    }
    for extent in &mut extents {
        let id = ObjectId::from_slice(&extent.object_id).unwrap();
        extent.url = format!("/objects/{id}?n={number}");
    }
    Ok(v1::ExtentMap {
        extents,
        inline_data: file.inline.clone().map(Into::into),
        size: file.attr.size,
        change: file.attr.change,
        url_millis: 60_000,
        next_offset,
    })
}

fn mint(world: &mut World, op: &v1::MintObjects) -> v1::MintedObjects {
    world.urls += 1;
    let number = world.urls;
    let objects = (0..op.count)
        .map(|_| {
            let mut id = [0; 16];
            getrandom::fill(&mut id).unwrap();
            world.minted.insert(ObjectId(id));
            let url = format!("/objects/{}?n={number}", ObjectId(id));
            v1::MintedObject { object_id: id.to_vec(), url }
        })
        .collect();
    v1::MintedObjects {
        objects,
        size_limit: op.size_limit,
        url_millis: 60_000,
        commit_millis: 600_000,
    }
}

fn commit(world: &mut World, server: &LoopbackMeta, op: &v1::CommitData) -> Result<v1::Attr> {
    if let Some(code) = world.commit_failures.pop() {
        return Err(code.into());
    }
    assert!(op.write_right == 0 || op.write_right == WRITE_RIGHT, "a right of nobody");
    if world.passed_on && op.write_right != 0 {
        return Err(Code::WriteLost.into());
    }
    for extent in &op.extents {
        let id = ObjectId::from_slice(&extent.object_id)?;
        assert!(world.objects.contains_key(&id), "a commit of what was not uploaded");
        if !world.minted.contains(&id) {
            return Err(Code::BlockRefused.into());
        }
    }
    for extent in &op.extents {
        world.minted.remove(&ObjectId::from_slice(&extent.object_id)?);
    }
    let file = file(world, &op.handle)?;
    let known = (file.data_change..=file.attr.change).contains(&op.base_change);
    if let Some(inline) = &op.inline_data {
        if inline.len() > server.sizes.inline_max as usize || !file.extents.is_empty() {
            return Err(Code::FsInvalid.into());
        }
        if !known {
            return Err(Code::FsBusy.into());
        }
        file.inline = Some(inline.to_vec());
        file.attr.size = file.attr.size.max(inline.len() as u64);
    } else if let Some(inline) = file.inline.as_ref().filter(|_| !op.extents.is_empty()) {
        let mut covered = 0;
        for extent in &op.extents {
            if extent.file_offset <= covered {
                covered = extent.file_offset + extent.length;
            }
        }
        if covered < inline.len() as u64 {
            return Err(Code::FsInvalid.into());
        }
        if !known {
            return Err(Code::FsBusy.into());
        }
        file.inline = None;
    }
    let mut reached = 0;
    for extent in &op.extents {
        assert!(extent.file_offset >= reached && extent.length > 0, "in order, not overlapping");
        assert!(extent.object_offset + extent.length <= extent.object_length);
        reached = extent.file_offset + extent.length;
        carve(file, extent.file_offset, reached);
        file.extents.insert(extent.file_offset, extent.clone());
        file.attr.size = file.attr.size.max(reached);
    }
    file.attr.size = file.attr.size.max(op.min_size);
    file.attr.blocks = file.extents.values().map(|e| e.length).sum::<u64>().div_ceil(512)
        + u64::from(file.inline.is_some());
    file.attr.change += 1;
    file.data_change = file.attr.change;
    Ok(file.attr)
}
