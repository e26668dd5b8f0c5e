//! Large files, holes, fallocate, and what collection makes of them.

use std::sync::Arc;

use flexfs_common::ids::{ObjectId, SessionId};
use flexfs_common::{Code, Error, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::fixture::{Client, Fixture, extent, on_each_engine, seal};
use crate::engine::memory::MemoryEngine;
use crate::volume::contents::STEP_EXTENTS;

const PUNCH: u32 = 0x03;
const ZERO: u32 = 0x10;

fn fallocate(
    client: &Client,
    handle: &[u8],
    open_id: u64,
    (mode, offset, length): (u32, u64, u64),
) -> Result<(), Code> {
    let handle = handle.to_vec();
    client
        .call(Body::Fallocate(v1::Fallocate { handle, open_id, mode, offset, length }))
        .map(|_| ())
}

/// A file of `count` extents of 10 bytes each, in as many objects as commits.
fn crumbs(client: &Client, name: &str, count: usize) -> (Vec<u8>, u64) {
    let file = client.create(&client.root, name).unwrap().handle;
    let open = client.open(&file, 2).unwrap().open_id;
    for first in (0..count).step_by(limits::EXTENTS_PER_COMMIT) {
        let object = client.upload(1, 10_000).unwrap()[0];
        let last = count.min(first + limits::EXTENTS_PER_COMMIT);
        let extents: Vec<_> = (first..last)
            .map(|i| v1::Extent {
                object_offset: (i - first) as u64 * 10,
                object_length: 10_000,
                ..extent(object, i as u64 * 10, 10)
            })
            .collect();
        let stored_lengths = vec![10_000; extents.len()];
        let handle = file.clone();
        let open_id = open;
        client
            .commit(v1::CommitData {
                handle,
                open_id,
                extents,
                stored_lengths,
                ..Default::default()
            })
            .unwrap();
    }
    (file, open)
}

#[test]
fn fallocate_extends_punches_and_zeroes() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let (file, open) = crumbs(&client, "f", 10);
        fallocate(&client, &file, open, (0, 0, 200)).unwrap();
        assert_eq!(client.getattr(&file).unwrap().size, 200);
        fallocate(&client, &file, open, (1, 0, 500)).unwrap();
        assert_eq!(client.getattr(&file).unwrap().size, 200);
        fallocate(&client, &file, open, (PUNCH, 15, 50)).unwrap();
        let spans = client.spans(&file);
        assert_eq!(spans[..3], [(0, 10, 0), (10, 5, 10), (65, 5, 65)]);
        assert_eq!(client.getattr(&file).unwrap().size, 200);
        fallocate(&client, &file, open, (ZERO, 95, 300)).unwrap();
        assert_eq!(client.getattr(&file).unwrap().size, 395);
        assert_eq!(client.spans(&file).last(), Some(&(90, 5, 90)));
        for mode in [0x08, 0x20, 0x40, 0x02] {
            let refused = fallocate(&client, &file, open, (mode, 0, 10)).unwrap_err();
            assert_eq!(refused, Code::FsUnsupported, "{mode:#x}");
        }
        assert_eq!(fallocate(&client, &file, open, (0, 0, 0)).unwrap_err(), Code::FsInvalid);
        let far = (0, limits::FILE_SIZE_MAX, 1);
        assert_eq!(fallocate(&client, &file, open, far).unwrap_err(), Code::FsTooBig);
        assert_eq!(fallocate(&client, &file, 99, (0, 0, 1)).unwrap_err(), Code::FsBadHandle);
        let small = client.create(&client.root, "small").unwrap().handle;
        let open = client.open(&small, 2).unwrap().open_id;
        client.write_inline(&small, open, b"abcdef").unwrap();
        fallocate(&client, &small, open, (PUNCH, 2, 2)).unwrap();
        fallocate(&client, &small, open, (PUNCH, 5, 1000)).unwrap();
        let map = client.extents(&small).unwrap();
        assert_eq!(map.inline_data.as_deref(), Some(&b"ab\0\0e\0"[..]));
        fixture.verify();
    });
}

#[test]
fn extents_are_told_in_pages() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let count = limits::EXTENTS_PER_REPLY + 100;
        let (file, _) = crumbs(&client, "f", count);
        let (mut offset, mut seen) = (0, 0);
        loop {
            let op = v1::ReadExtents {
                handle: file.clone(),
                offset,
                length: u64::MAX,
                ..Default::default()
            };
            let v1::reply::Result::Extents(map) = client.call(Body::ReadExtents(op)).unwrap()
            else {
                panic!("extents were expected")
            };
            for extent in &map.extents {
                assert_eq!(extent.file_offset, seen as u64 * 10);
                assert!(extent.url.starts_with("get/"));
                seen += 1;
            }
            offset = map.next_offset;
            if offset == 0 {
                break;
            }
        }
        assert_eq!(seen, count);
        let op = v1::ReadExtents { handle: file, offset: 25, length: 10, ..Default::default() };
        let v1::reply::Result::Extents(map) = client.call(Body::ReadExtents(op)).unwrap() else {
            panic!("extents were expected")
        };
        let spans: Vec<_> = map.extents.iter().map(|e| e.file_offset).collect();
        assert_eq!(spans, [20, 30]);
    });
}

/// On the memory engine alone: it is the logic above that takes steps.
fn large(test: impl Fn(&Fixture, &Client, &[u8], u64)) {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let (file, open) = crumbs(&client, "f", STEP_EXTENTS * 2 + 500);
    fixture.verify();
    test(&fixture, &client, &file, open);
    for _ in 0..4 {
        fixture.volume.tick().unwrap();
    }
    fixture.verify();
    client.unlink(&client.root, "f").unwrap();
    client.release(&file, open).unwrap();
    for _ in 0..4 {
        fixture.volume.tick().unwrap();
    }
    assert_eq!(fixture.verify().extents, 0);
    assert!(fixture.blocks.objects.lock().is_empty());
}

#[test]
fn a_large_truncation_is_done_in_steps_and_never_shows_old_contents() {
    large(|fixture, client, file, open| {
        client.truncate(file, 45).unwrap();
        assert_eq!(client.spans(file).len(), 5);
        assert!(fixture.verify().extents > 5, "the rest goes in the background");
        // Growing over it first finishes it.
        client.truncate(file, 1_000_000).unwrap();
        assert_eq!(
            client.spans(file),
            [(0, 10, 0), (10, 10, 10), (20, 10, 20), (30, 10, 30), (40, 5, 40)]
        );
        assert_eq!(client.getattr(file).unwrap().blocks, 1);
        client.write(file, open, 60, 10).unwrap();
        assert_eq!(client.spans(file).last(), Some(&(60, 10, 0)));
    });
    large(|_, client, file, open| {
        client.truncate(file, 0).unwrap();
        let attr = client.write(file, open, 100, 10).unwrap();
        assert_eq!((attr.size, client.spans(file)), (110, vec![(100, 10, 0)]));
    });
}

#[test]
fn a_large_truncation_goes_on_after_a_restart() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let (file, _) = crumbs(&client, "f", STEP_EXTENTS * 2 + 500);
    client.truncate(&file, 5).unwrap();
    let again = fixture.reopen();
    assert!(again.verify().extents > 1);
    again.volume.tick().unwrap();
    assert_eq!(again.verify().extents, 1);
    let second = again.client();
    let handle = second.walk("f").unwrap().handle;
    assert_eq!(second.spans(&handle), [(0, 5, 0)]);
}

#[test]
fn a_large_punch_is_done_in_steps() {
    large(|_, client, file, open| {
        let size = client.getattr(file).unwrap().size;
        let neighbours = client.frame(vec![
            super::fixture::make(&client.root, "before", v1::FileKind::Regular, 0o644),
            Body::Fallocate(v1::Fallocate {
                handle: file.to_vec(),
                open_id: open,
                mode: PUNCH,
                offset: 15,
                length: size - 30,
            }),
            super::fixture::make(&client.root, "after", v1::FileKind::Regular, 0o644),
        ]);
        assert!(neighbours.iter().all(Result::is_ok), "{neighbours:?}");
        assert_eq!(client.spans(file).len(), 4);
        client.unlink(&client.root, "before").unwrap();
        client.unlink(&client.root, "after").unwrap();
    });
}

#[test]
fn a_large_file_that_is_unlinked_goes_in_the_background() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let (file, open) = crumbs(&client, "f", STEP_EXTENTS + 500);
    client.unlink(&client.root, "f").unwrap();
    client.release(&file, open).unwrap();
    assert_eq!(client.getattr(&file).unwrap_err(), Code::FsStale);
    assert!(fixture.verify().inodes == 2, "an orphan nobody can reach");
    fixture.volume.tick().unwrap();
    assert_eq!(fixture.verify().inodes, 1);
}

#[test]
fn a_frame_that_writes_much_is_several_transactions() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let file = client.create(&client.root, "f").unwrap().handle;
    let open_id = client.open(&file, 2).unwrap().open_id;
    let objects = client.upload(40, 10_000).unwrap();
    let commit = |(number, object): (usize, &ObjectId)| {
        let extents: Vec<_> = (0..limits::EXTENTS_PER_COMMIT as u64)
            .map(|i| v1::Extent {
                object_offset: i * 10,
                object_length: 10_000,
                ..extent(*object, number as u64 * 20_000 + i * 10, 10)
            })
            .collect();
        Body::CommitData(v1::CommitData {
            handle: file.clone(),
            open_id,
            stored_lengths: vec![10_000; extents.len()],
            extents,
            ..Default::default()
        })
    };
    let before = fixture.engine.head().0;
    let answers = client.frame(objects.iter().enumerate().map(commit).collect());
    assert_eq!(answers.len(), 40);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(fixture.engine.head().0, before + 2);
    assert_eq!(fixture.verify().extents, 40 * limits::EXTENTS_PER_COMMIT as u64);
}

/// A store that cannot delete.
#[derive(Debug, Default)]
struct Failing;

impl crate::volume::BlockAccess for Failing {
    fn sign_get(&self, _: SessionId, _: ObjectId) -> Result<String, Error> {
        Ok(String::new())
    }
    fn sign_put(&self, _: SessionId, _: ObjectId, _: u32) -> Result<String, Error> {
        Ok(String::new())
    }
    fn delete(&self, _: ObjectId) -> Result<(), Error> {
        Err(Code::BlockUnavailable.into())
    }
    fn stored_len(&self, _: ObjectId) -> Result<Option<u64>, Error> {
        Ok(Some(u64::MAX))
    }
}

#[test]
fn a_failing_store_stops_nothing_else_and_loses_no_deletion() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let (file, open) = crumbs(&client, "f", 10);
    client.unlink(&client.root, "f").unwrap();
    client.release(&file, open).unwrap();
    let settings = fixture.volume.settings();
    let engine = Arc::clone(&fixture.engine);
    let broken = crate::volume::Volume::open(engine, settings, Arc::new(Failing), seal()).unwrap();
    broken.tick().unwrap();
    broken.tick().unwrap();
    assert_eq!(fixture.blocks.objects.lock().len(), 1);
    let mended = fixture.reopen();
    mended.volume.tick().unwrap();
    assert!(fixture.blocks.objects.lock().is_empty());
}

#[test]
fn unused_keys_lapse_and_their_objects_go() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let unused = client.upload(3, 100).unwrap();
    fixture.volume.tick().unwrap();
    assert_eq!(fixture.blocks.objects.lock().len(), 3, "they may still be committed");
    // As though they had been minted long ago.
    fixture
        .volume
        .change_alone(&mut |edit| {
            for object in &unused {
                let Some(crate::volume::record::ObjectState::Minted(minted)) =
                    crate::volume::objects::state(edit, *object)?
                else {
                    panic!("it was minted")
                };
                let keys = edit.keys();
                edit.delete(&keys.queue(minted.due, *object));
                edit.put_raw(&keys.queue(1, *object), &[]);
            }
            Ok(())
        })
        .unwrap();
    fixture.volume.tick().unwrap();
    assert!(fixture.blocks.objects.lock().is_empty());
    let file = client.create(&client.root, "f").unwrap().handle;
    let open_id = client.open(&file, 2).unwrap().open_id;
    let late = v1::CommitData {
        handle: file,
        open_id,
        extents: vec![extent(unused[0], 0, 100)],
        stored_lengths: vec![100],
        ..Default::default()
    };
    assert_eq!(client.commit(late).unwrap_err(), Code::BlockRefused);
    fixture.verify();
}

#[test]
fn deleted_contents_are_kept_for_the_retention() {
    let mut settings = super::fixture::settings();
    settings.retention = std::time::Duration::from_secs(3600);
    let fixture = Fixture::with(Arc::new(MemoryEngine::new()), settings);
    let client = fixture.client();
    let (_, _) = crumbs(&client, "f", 10);
    client.unlink(&client.root, "f").unwrap();
    fixture.volume.end_session(client.id).unwrap();
    fixture.volume.tick().unwrap();
    assert_eq!(fixture.verify().inodes, 1);
    assert_eq!(fixture.blocks.objects.lock().len(), 1);
}

#[test]
fn verify_finds_what_is_wrong() {
    type Damage = fn(&Fixture, &Client);
    let damages: [(&str, Damage); 5] = [
        ("missing-object", |fixture, _| fixture.blocks.objects.lock().clear()),
        ("missing-object", |fixture, _| {
            fixture.blocks.objects.lock().values_mut().for_each(|len| *len -= 1);
        }),
        ("usage", |fixture, _| {
            let damage = |edit: &mut crate::volume::edit::Edit<'_>| {
                edit.update_counters(|counters| counters.inodes += 1)
            };
            fixture.volume.change_alone(&mut { damage }).unwrap();
        }),
        ("link-count", |fixture, client| {
            let ino = client.walk("f").unwrap().attr.unwrap().ino;
            let damage = |edit: &mut crate::volume::edit::Edit<'_>| {
                let ino = flexfs_common::ids::Ino(ino);
                edit.update_inode(ino, |inode| inode.nlink = 5).map(|_| ())
            };
            fixture.volume.change_alone(&mut { damage }).unwrap();
        }),
        ("extents", |fixture, client| {
            let ino = client.walk("f").unwrap().attr.unwrap().ino;
            let damage = |edit: &mut crate::volume::edit::Edit<'_>| {
                let ino = flexfs_common::ids::Ino(ino);
                edit.update_inode(ino, |inode| inode.size = 1).map(|_| ())
            };
            fixture.volume.change_alone(&mut { damage }).unwrap();
        }),
    ];
    for (invariant, damage) in damages {
        let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
        let client = fixture.client();
        crumbs(&client, "f", 10);
        fixture.verify();
        damage(&fixture, &client);
        let mut found = Vec::new();
        let summary =
            fixture.volume.verify(&mut |invariant, _| found.push(invariant.to_owned())).unwrap();
        assert!(found.iter().any(|one| one == invariant), "{invariant}: {found:?}");
        assert_eq!(summary.findings, found.len() as u64);
    }
}
