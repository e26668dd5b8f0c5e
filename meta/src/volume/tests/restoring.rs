//! A volume after a restore: the tree of the backup, nothing of its sessions.

use std::collections::HashSet;
use std::sync::Arc;

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use proptest::prelude::*;

use super::fixture::{Client, Fixture, on_each_engine};
use super::{acl, xattrs};
use crate::backup::dump::dump;
use crate::backup::load::restore;
use crate::engine::Engine;
use crate::engine::memory::MemoryEngine;
use crate::service::placed;
use crate::volume::restored::{Restored, kept_ranges};

const O_RDWR: u32 = 2;

/// The volume as a restore at `now` makes it from what it is at present.
fn restored_at(fixture: &Fixture, now: i64) -> Fixture {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let volume = fixture.volume.settings().id;
    let mut restored = Restored::new(volume, now);
    let snapshot = fixture.engine.snapshot().unwrap();
    for (from, to) in kept_ranges(volume) {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), restored.row(key, value)?));
            Ok(std::ops::ControlFlow::Continue(()))
        };
        snapshot.scan(&from, &to, visit).unwrap();
        let put = &mut |txn: &mut dyn crate::engine::Txn| {
            rows.iter().for_each(|(key, value)| txn.put(key, value));
            Ok(())
        };
        engine.transact(put).unwrap();
    }
    restored.finish().unwrap();
    let blocks = Arc::clone(&fixture.blocks);
    Fixture { volume: Arc::clone(&fixture.volume), blocks, engine }.reopen()
}

/// Every key of a volume, longer, shorter, and of another volume.
#[test]
fn a_key_that_is_none_is_refused() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    let file = client.create(&client.root, "f").unwrap().handle;
    client.symlink(&client.root, "link", "f").unwrap();
    let open = client.open(&file, O_RDWR).unwrap().open_id;
    client.write(&file, open, 0, 10).unwrap();
    let volume = fixture.volume.settings().id;
    let snapshot = fixture.engine.snapshot().unwrap();
    let refused = |key: &[u8], value: &[u8]| {
        let mut restored = Restored::new(volume, NOW);
        let error = restored.row(key, value).unwrap_err();
        assert_eq!(error.code(), Code::BackupInvalid, "{key:?}");
        assert_eq!(restored.finish().unwrap_err().code(), Code::BackupInvalid);
    };
    let mut tags = HashSet::new();
    for (from, to) in kept_ranges(volume) {
        let visit = &mut |key: &[u8], value: &[u8]| {
            tags.insert(key[16]);
            Restored::new(volume, NOW).row(key, value).unwrap();
            refused(&[key, b"junk"].concat(), value);
            refused(&key[..key.len() - 1], value);
            let mut other = key.to_vec();
            other[0] ^= 1;
            refused(&other, value);
            Ok(std::ops::ControlFlow::Continue(()))
        };
        snapshot.scan(&from, &to, visit).unwrap();
    }
    assert!(tags.is_superset(&HashSet::from(*b"\x01\x02\x03BDEIOT")), "{tags:?}");
    // Sessions are in no backup.
    refused(&[volume.as_bytes(), &b"S"[..], &[1; 16]].concat(), b"");
}

const NOW: i64 = 1_800_000_000_000_000_000;

#[test]
fn the_tree_comes_back_and_its_sessions_do_not() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let dir = client.mkdir(&client.root, "d").unwrap().handle;
        let file = client.create(&dir, "f").unwrap().handle;
        let gone = client.create(&dir, "gone").unwrap().handle;
        client.open(&gone, O_RDWR).unwrap();
        client.unlink(&dir, "gone").unwrap();
        let after = restored_at(fixture, NOW);
        // The old mount: neither its session nor its handles.
        assert_eq!(after.volume.attach(client.id).unwrap_err().code(), Code::SessionUnknown);
        let new = after.client();
        assert_eq!(new.getattr(&file).unwrap_err(), Code::FsStale);
        assert_eq!(new.names(&new.walk("d").unwrap().handle).unwrap(), ["f"]);
        assert_eq!(after.verify().inodes, 4, "the open of the unlinked file has ended");
        after.volume.tick().unwrap();
        assert_eq!(after.verify().inodes, 3);
    });
}

fn numbers(client: &Client, prefix: &str) -> HashSet<u64> {
    (0..50)
        .map(|n| client.create(&client.root, &format!("{prefix}{n}")).unwrap())
        .map(|entry| entry.attr.unwrap().ino)
        .collect()
}

#[test]
fn no_inode_number_is_given_out_again() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let client = fixture.client();
    client.create(&client.root, "before").unwrap();
    let first = restored_at(&fixture, NOW);
    // The same backup again, a second later; and one whose clock is wrong.
    let second = restored_at(&fixture, NOW + 1_000_000_000);
    let wrong = restored_at(&fixture, 0);
    let lost = numbers(&client, "x");
    let all = [first, second, wrong].map(|after| numbers(&after.client(), "x"));
    let mut seen = lost;
    for numbers in all {
        assert!(seen.is_disjoint(&numbers));
        seen.extend(numbers);
    }
    assert_eq!(seen.len(), 200);
}

#[test]
fn nothing_is_collected_until_that_is_confirmed() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let open = client.open(&file, O_RDWR).unwrap().open_id;
        for n in 0..100 {
            client.write(&file, open, n * 10, 10).unwrap();
        }
        assert_eq!(fixture.volume.held_since().unwrap(), None);
        let after = restored_at(fixture, NOW);
        let new = after.client();
        new.unlink(&new.root, "f").unwrap();
        for _ in 0..5 {
            after.volume.tick().unwrap();
        }
        assert_eq!(after.volume.held_since().unwrap(), Some(NOW));
        assert_eq!(after.blocks.objects.lock().len(), 100);
        after.verify();
        // It outlives a restart, and another restore.
        let again = restored_at(&after.reopen(), NOW + 1);
        again.volume.tick().unwrap();
        assert_eq!(again.blocks.objects.lock().len(), 100);
        assert!(again.volume.confirm_restore().unwrap());
        assert!(!again.volume.confirm_restore().unwrap());
        again.volume.tick().unwrap();
        assert_eq!(again.blocks.objects.lock().len(), 0);
        again.verify();
    });
}

/// A file of a backup, restored into a new engine.
fn through_a_file(fixture: &Fixture) -> Fixture {
    let settings = fixture.volume.settings();
    let placed = v1::PlacedVolume {
        id: settings.id.to_string(),
        account_id: settings.account_id.to_string(),
        name: settings.name,
        block_size: settings.block_size,
        ..v1::PlacedVolume::default()
    };
    let (key, value) = placed::row(settings.id, &placed);
    let put = &mut |txn: &mut dyn crate::engine::Txn| {
        txn.put(&key, &value);
        Ok(())
    };
    fixture.engine.transact(put).unwrap();
    let mut file = Vec::new();
    dump(&*fixture.engine, &mut file).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    restore(&*engine, &mut &file[..]).unwrap();
    let blocks = Arc::clone(&fixture.blocks);
    Fixture { volume: Arc::clone(&fixture.volume), blocks, engine }.reopen()
}

/// What a client sees of a file beside its attributes: attributes by name,
/// inline contents, and extents without their URLs.
fn all_of(client: &Client, handle: &[u8]) -> (Vec<(String, Vec<u8>)>, v1::ExtentMap) {
    let mut names = xattrs::list(client, handle);
    names.sort();
    let named = names.into_iter().map(|name| {
        let value = xattrs::get(client, handle, &name).unwrap();
        (name, value)
    });
    let mut map = client.extents(handle).unwrap_or_default();
    map.extents.iter_mut().for_each(|extent| extent.url = String::new());
    (named.collect(), map)
}

#[test]
fn attributes_lists_and_contents_come_back_from_a_file() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let dir = client.mkdir(&client.root, "dir").unwrap().handle;
        xattrs::set(&client, &dir, acl::DEFAULT, &acl::acl("u::7,u:10:5,g::5,m::7,o::0"), 0)
            .unwrap();
        let small = client.create(&dir, "small").unwrap().handle;
        client.write_inline(&small, 0, b"in the metadata").unwrap();
        xattrs::set(&client, &small, acl::ACCESS, &acl::acl("u::6,u:10:6,g::4,m::6,o::0"), 0)
            .unwrap();
        xattrs::set(&client, &small, "user.long", &[7; 60_000], 0).unwrap();
        xattrs::set(&client, &small, "user.empty", b"", 0).unwrap();
        let big = client.create(&dir, "big").unwrap().handle;
        let open = client.open(&big, O_RDWR).unwrap().open_id;
        client.write(&big, open, 0, 10_000).unwrap();
        client.write(&big, open, 5_000, 10_000).unwrap();
        client.write(&big, open, 1 << 30, 1).unwrap();
        client.release(&big, open).unwrap();
        client.symlink(&dir, "link", "../small").unwrap();
        let after = through_a_file(fixture);
        let new = after.client();
        for path in ["dir", "dir/small", "dir/big", "dir/link"] {
            let (then, now) = (client.walk(path).unwrap(), new.walk(path).unwrap());
            assert_eq!(now.attr, then.attr, "{path}");
            assert_eq!(all_of(&new, &now.handle), all_of(&client, &then.handle), "{path}");
        }
        let (named, map) = all_of(&new, &new.walk("dir/small").unwrap().handle);
        let names = [acl::ACCESS, "user.empty", "user.long"];
        assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(map.inline_data.as_deref(), Some(&b"in the metadata"[..]));
        let (_, map) = all_of(&new, &new.walk("dir/big").unwrap().handle);
        assert_eq!(map.extents.len(), 3);
        let link = v1::ReadLink { handle: new.walk("dir/link").unwrap().handle };
        let target = new.call(Body::ReadLink(link)).unwrap();
        assert!(format!("{target:?}").contains("../small"), "{target:?}");
        // The lists are heeded, and inherited by what is new.
        let other = new.as_user(10, 10);
        other.open(&new.walk("dir/small").unwrap().handle, O_RDWR).unwrap();
        let dir = new.walk("dir").unwrap().handle;
        let inherits = new.create(&dir, "new").unwrap().handle;
        assert_eq!(xattrs::list(&new, &inherits), [acl::ACCESS]);
        after.verify();
    });
}

#[test]
fn rows_that_no_backup_holds_are_refused() {
    let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
    let volume = fixture.volume.settings().id;
    let mut restored = Restored::new(volume, NOW);
    let key = |tag: u8| [volume.as_bytes(), &[tag][..], b"8 bytes."].concat();
    assert!(restored.row(&key(b'I'), b"").is_ok());
    for tag in *b"SPQRJKVWa\0\xff" {
        let code = restored.row(&key(tag), b"").unwrap_err().code();
        assert_eq!(code, Code::BackupInvalid, "{tag}");
    }
    assert_eq!(restored.row(b"short", b"").unwrap_err().code(), Code::BackupInvalid);
    let other = [&[8; 16][..], b"I"].concat();
    assert_eq!(restored.row(&other, b"").unwrap_err().code(), Code::BackupInvalid);
    assert_eq!(restored.finish().unwrap_err().code(), Code::BackupInvalid);
}

/// Every name below a directory, with its kind and mode.
fn tree(client: &Client, handle: &[u8], at: &str, into: &mut Vec<(String, i32, u32)>) {
    for name in client.names(handle).unwrap() {
        let entry = client.lookup(handle, &name).unwrap();
        let attr = entry.attr.unwrap();
        let path = format!("{at}/{name}");
        into.push((path.clone(), attr.kind, attr.mode));
        if attr.kind == flexfs_proto::v1::FileKind::Directory as i32 {
            tree(client, &entry.handle, &path, into);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_tree_comes_back(
        steps in prop::collection::vec((0..4_u8, 0..12_usize, 0..12_usize), 1..60),
    ) {
        let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
        let client = fixture.client();
        let mut dirs = vec![client.root.clone()];
        for (what, dir, name) in steps {
            let (at, to) = (dirs[dir % dirs.len()].clone(), dirs[name % dirs.len()].clone());
            let name = format!("n{name}");
            // What the tree does not allow is refused, and changes nothing.
            match what {
                0 => dirs.extend(client.mkdir(&at, &name).map(|entry| entry.handle)),
                1 => drop(client.create(&at, &name)),
                2 => drop(client.unlink(&at, &name)),
                _ => drop(client.rename((&at, &name), (&to, "moved"))),
            }
        }
        let after = restored_at(&fixture, NOW);
        let new = after.client();
        let (mut before, mut then) = (Vec::new(), Vec::new());
        tree(&client, &client.root, "", &mut before);
        tree(&new, &new.root, "", &mut then);
        prop_assert_eq!(before, then);
        after.verify();
    }
}
