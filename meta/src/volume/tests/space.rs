//! A disk below the engine that has little room, and then less.

use std::sync::Arc;

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{FileKind, LockKind};

use super::fixture::{Fixture, answer, extent, lock, make, new_session, rename};
use crate::engine::Room;
use crate::testbench::Narrow;
use crate::volume::{Execution, Which};

const O_RDWR: u32 = 2;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

fn narrow() -> (Fixture, Arc<Narrow>) {
    let engine = Arc::new(Narrow::default());
    (Fixture::new(engine.clone()), engine)
}

fn set_xattr(handle: &[u8]) -> Body {
    Body::SetXattr(v1::SetXattr {
        handle: handle.to_vec(),
        name: b"user.a".to_vec(),
        value: b"1".to_vec(),
        ..Default::default()
    })
}

fn remove_xattr(handle: &[u8]) -> Body {
    Body::RemoveXattr(v1::RemoveXattr { handle: handle.to_vec(), name: b"user.a".to_vec() })
}

fn fallocate(handle: &[u8], open_id: u64, mode: u32) -> Body {
    let (offset, length) = (0, 4096);
    Body::Fallocate(v1::Fallocate { handle: handle.to_vec(), open_id, mode, offset, length })
}

#[test]
fn what_takes_space_is_refused_while_there_is_little() {
    let (fixture, engine) = narrow();
    let client = fixture.client();
    let root = client.root.clone();
    let file = client.create(&root, "file").unwrap().handle;
    let open = client.open(&file, O_RDWR).unwrap().open_id;
    client.write(&file, open, 0, 8192).unwrap();
    client.call(set_xattr(&file)).unwrap();
    let uploaded = client.upload(1, 4096).unwrap().pop().unwrap();
    let small = client.create(&root, "small").unwrap().handle;
    client.create(&root, "old").unwrap();
    engine.leave(Room::Low);
    let full = Some(Code::FsNoSpace);
    assert_eq!(client.create(&root, "new").err(), full);
    assert_eq!(client.mkdir(&root, "new").err(), full);
    assert_eq!(client.symlink(&root, "new", "file").err(), full);
    assert_eq!(client.link(&file, &root, "new").err(), full);
    assert_eq!(client.make_nameless(&root, true).err(), full);
    let Body::Rename(op) = rename((&root, "old"), (&root, "new")) else { unreachable!() };
    let whiteout = Body::Rename(v1::Rename { whiteout: true, ..op });
    assert_eq!(client.call(whiteout).err(), full);
    assert_eq!(client.upload(1, 4096).err(), full);
    assert_eq!(client.write_inline(&small, 0, b"bytes").err(), full);
    assert_eq!(client.truncate(&file, 8193).err(), full);
    assert_eq!(client.call(set_xattr(&small)).err(), full);
    assert_eq!(client.call(fallocate(&file, open, 0)).err(), full);
    // What speaks against it otherwise is said first.
    assert_eq!(client.create(&root, "file").err(), Some(Code::FsExists));
    let names = ["file", "old", "small"];
    assert_eq!(client.names(&root).unwrap(), names, "nothing is left of what was refused");
    // Reads, what frees space and what finishes something go on.
    assert_eq!(client.lookup(&root, "file").unwrap().handle, file);
    let commit = v1::CommitData {
        handle: file.clone(),
        open_id: open,
        extents: vec![extent(uploaded, 0, 4096)],
        stored_lengths: vec![4096],
        ..Default::default()
    };
    client.commit(commit).unwrap();
    client.chmod(&file, 0o600).unwrap();
    client.truncate(&file, 4096).unwrap();
    client.call(fallocate(&file, open, PUNCH_HOLE | KEEP_SIZE)).unwrap();
    client.call(remove_xattr(&file)).unwrap();
    client.rename((&root, "file"), (&root, "small")).unwrap();
    client.unlink(&root, "old").unwrap();
    client.set_lock(&file, lock(LockKind::Write, 1, 0, 10)).unwrap();
    client.release(&file, open).unwrap();
    let other = fixture.client();
    let found = other.lookup(&other.root, "small").unwrap().handle;
    other.open(&found, O_RDWR).unwrap();
    fixture.volume.tick().unwrap();
    engine.leave(Room::Ample);
    client.create(&root, "new").unwrap();
    fixture.verify();
}

#[test]
fn at_the_end_only_what_ends_something_goes_on() {
    let (fixture, engine) = narrow();
    let (client, other) = (fixture.client(), fixture.client());
    let root = client.root.clone();
    let file = client.create(&root, "file").unwrap().handle;
    let open = client.open(&file, O_RDWR).unwrap().open_id;
    client.write(&file, open, 0, 4096).unwrap();
    client.set_lock(&file, lock(LockKind::Write, 1, 0, 10)).unwrap();
    let create = client.op(make(&root, "answered", FileKind::Regular, 0o644));
    let send = || match client.execute(vec![create.clone()]).pop().unwrap() {
        Execution::Done(reply) => answer(reply),
        Execution::Pending(_) => panic!("an answer was expected"),
    };
    let first = send().unwrap();
    engine.leave(Room::Out);
    let full = Some(Code::FsNoSpace);
    assert_eq!(client.create(&root, "new").err(), full);
    assert_eq!(client.unlink(&root, "file").err(), full);
    assert_eq!(client.truncate(&file, 0).err(), full);
    assert_eq!(client.open(&file, 0).err(), full);
    assert_eq!(client.set_lock(&file, lock(LockKind::Read, 2, 20, 30)).err(), full);
    let opened = fixture.volume.open_session(new_session("/", v1::Flags::default()));
    assert_eq!(opened.err().map(|error| error.code()), full);
    // What was carried out before is answered as it was.
    assert_eq!(send().unwrap(), first);
    assert_eq!(client.spans(&file), [(0, 4096, 0)]);
    client.set_lock(&file, lock(LockKind::Unlock, 1, 0, 10)).unwrap();
    client.release(&file, open).unwrap();
    let cut = fixture.volume.cut(Which::Session(other.id), Code::TokenRevoked).unwrap();
    assert_eq!(cut, [other.id]);
    fixture.volume.end_session(client.id).unwrap();
    fixture.volume.tick().unwrap();
    engine.leave(Room::Ample);
    let again = fixture.client();
    again.unlink(&again.root, "file").unwrap();
    fixture.verify();
}
