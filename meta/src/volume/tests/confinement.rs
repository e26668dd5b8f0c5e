//! What a client of any behaviour can do with a token for a subtree (P2).

use std::sync::atomic::Ordering;

use flexfs_common::Code;
use flexfs_common::ids::Ino;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::acl::{ACCESS, DEFAULT, acl};
use super::fixture::{Client, Fixture, lookup, new_session, on_each_engine, rename};
use crate::volume::handle::HANDLE_LEN;

/// `/a/b` (the scope) with a file and a directory, and `/a/other`, `/c`.
struct Tree {
    root: Client,
    inside: Client,
    a: Vec<u8>,
    b: Vec<u8>,
}

fn tree(fixture: &Fixture) -> Tree {
    let root = fixture.client();
    let a = root.mkdir(&root.root, "a").unwrap().handle;
    let b = root.mkdir(&a, "b").unwrap().handle;
    root.create(&b, "mine").unwrap();
    root.mkdir(&b, "dir").unwrap();
    root.create(&a, "other").unwrap();
    root.mkdir(&root.root, "c").unwrap();
    let inside = fixture.client_at("/a/b");
    Tree { root, inside, a, b }
}

/// Every operation on a handle.
fn every_operation(handle: &[u8], own: &[u8]) -> Vec<Body> {
    let (handle, own) = (handle.to_vec(), own.to_vec());
    let lock = Some(super::fixture::lock(v1::LockKind::Read, 1, 0, 1));
    vec![
        lookup(&handle, "x"),
        Body::GetAttr(v1::GetAttr { handle: handle.clone() }),
        Body::SetAttr(v1::SetAttr { handle: handle.clone(), mode: Some(0), ..Default::default() }),
        super::fixture::make(&handle, "x", v1::FileKind::Regular, 0o644),
        super::fixture::make_nameless(&handle, true),
        Body::Link(v1::Link {
            handle: handle.clone(),
            new_parent: own.clone(),
            new_name: b"x".to_vec(),
        }),
        Body::Link(v1::Link {
            handle: own.clone(),
            new_parent: handle.clone(),
            new_name: b"x".to_vec(),
        }),
        super::fixture::unlink(&handle, "x", false),
        rename((&handle, "x"), (&own, "x")),
        rename((&own, "mine"), (&handle, "x")),
        Body::Open(v1::Open { handle: handle.clone(), flags: 0 }),
        Body::ReadDir(v1::ReadDir { handle: handle.clone(), ..Default::default() }),
        Body::ReadLink(v1::ReadLink { handle: handle.clone() }),
        Body::GetXattr(v1::GetXattr { handle: handle.clone(), name: b"user.x".to_vec() }),
        Body::SetXattr(v1::SetXattr {
            handle: handle.clone(),
            name: b"user.x".to_vec(),
            ..Default::default()
        }),
        Body::GetXattr(v1::GetXattr { handle: handle.clone(), name: ACCESS.into() }),
        Body::SetXattr(v1::SetXattr {
            handle: handle.clone(),
            name: DEFAULT.into(),
            value: acl("u::7,u:10:7,g::7,m::7,o::7"),
            ..Default::default()
        }),
        Body::RemoveXattr(v1::RemoveXattr { handle: handle.clone(), name: ACCESS.into() }),
        Body::ListXattr(v1::ListXattr { handle: handle.clone() }),
        Body::RemoveXattr(v1::RemoveXattr { handle: handle.clone(), name: b"user.x".to_vec() }),
        Body::StatFs(v1::StatFs { handle: handle.clone() }),
        Body::ReadExtents(v1::ReadExtents {
            handle: handle.clone(),
            offset: 0,
            length: 1,
            ..Default::default()
        }),
        Body::CommitData(v1::CommitData { handle: handle.clone(), ..Default::default() }),
        Body::Fallocate(v1::Fallocate { handle: handle.clone(), ..Default::default() }),
        Body::GetLock(v1::GetLock { handle: handle.clone(), lock }),
        Body::SetLock(v1::SetLock { handle: handle.clone(), lock, wait: false }),
        Body::NoteAccess(v1::NoteAccess { handle: handle.clone(), at: None }),
        Body::Access(v1::Access { handle, mask: 0 }),
    ]
}

fn assert_stale(client: &Client, handle: &[u8], why: &str) {
    for body in every_operation(handle, &client.root) {
        let name = format!("{body:?}");
        assert_eq!(client.call(body), Err(Code::FsStale), "{why}: {name}");
    }
}

#[test]
fn inside_everything_works() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        assert_eq!(tree.inside.names(&tree.inside.root).unwrap(), ["dir", "mine"]);
        let file = tree.inside.create(&tree.inside.root, "new").unwrap();
        let dir = tree.inside.walk("dir").unwrap();
        tree.inside.link(&file.handle, &dir.handle, "linked").unwrap();
        tree.inside.rename((&tree.inside.root, "new"), (&dir.handle, "moved")).unwrap();
        assert_eq!(tree.root.walk("a/b/dir/moved").unwrap().attr.unwrap().nlink, 2);
        fixture.verify();
    });
}

#[test]
fn a_handle_of_another_session_or_a_forged_one_reaches_nothing() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let other = tree.root.walk("a/other").unwrap().handle;
        for handle in [&tree.root.root, &tree.a, &tree.b, &other] {
            assert_stale(&tree.inside, handle, "another session's");
        }
        // The number of an inode outside under one's own MAC, and the reverse.
        let mut mixed = tree.inside.root.clone();
        mixed[..8].copy_from_slice(&tree.a[..8]);
        assert_stale(&tree.inside, &mixed, "a guessed number");
        let mut flipped = tree.inside.root.clone();
        flipped[HANDLE_LEN - 1] ^= 1;
        assert_stale(&tree.inside, &flipped, "a forged MAC");
        assert_stale(&tree.inside, &[], "no handle");
        assert_stale(&tree.inside, &[0; 33], "a long handle");
        let mine = tree.inside.walk("mine").unwrap();
        assert_stale(&tree.root, &mine.handle, "a handle of the confined session");
        fixture.verify();
    });
}

#[test]
fn even_a_genuine_handle_of_something_outside_reaches_nothing() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let session = fixture.volume.sessions.live(tree.inside.id).unwrap();
        // As though a handle had been made for it once: the verdict is not
        // in the handle.
        for path in ["", "a", "a/other", "c"] {
            let ino = tree.root.walk(path).unwrap().attr.unwrap().ino;
            let handle = session.handles.make(Ino(ino));
            assert_stale(&tree.inside, &handle, path);
        }
    });
}

#[test]
fn dots_and_slashes_are_no_names() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let root = tree.inside.root.clone();
        for name in ["..", ".", "", "dir/..", "/", "../b", "a\0"] {
            assert_eq!(tree.inside.lookup(&root, name).unwrap_err(), Code::FsInvalid, "{name:?}");
            assert_eq!(tree.inside.create(&root, name).unwrap_err(), Code::FsInvalid);
            assert_eq!(tree.inside.rmdir(&root, name).unwrap_err(), Code::FsInvalid);
            assert_eq!(
                tree.inside.rename((&root, "mine"), (&root, name)).unwrap_err(),
                Code::FsInvalid
            );
        }
        assert_eq!(tree.inside.create(&root, &"x".repeat(256)).unwrap_err(), Code::FsNameTooLong);
    });
}

#[test]
fn what_is_moved_out_is_out_and_what_is_moved_in_is_in() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let dir = tree.inside.walk("dir").unwrap();
        let deep = tree.inside.mkdir(&dir.handle, "deep").unwrap();
        let file = tree.inside.create(&deep.handle, "file").unwrap();
        let open = tree.inside.open(&file.handle, 2).unwrap();
        tree.inside.write_inline(&file.handle, open.open_id, b"x").unwrap();
        // Remembered verdicts must not survive the move.
        tree.inside.getattr(&deep.handle).unwrap();
        tree.root.rename((&tree.b, "dir"), (&tree.a, "dir")).unwrap();
        for handle in [&dir.handle, &deep.handle, &file.handle] {
            assert_stale(&tree.inside, handle, "moved out");
        }
        // An open ends all the same.
        tree.inside.release(&file.handle, open.open_id).unwrap();
        tree.root.rename((&tree.a, "dir"), (&tree.b, "back")).unwrap();
        assert_eq!(tree.inside.getattr(&file.handle).unwrap().size, 1);
        assert_eq!(tree.inside.walk("back/deep/file").unwrap().handle, file.handle);
        // A single file, out and in.
        let mine = tree.inside.walk("mine").unwrap();
        tree.root.rename((&tree.b, "mine"), (&tree.a, "mine")).unwrap();
        assert_stale(&tree.inside, &mine.handle, "a file moved out");
        tree.root.rename((&tree.a, "mine"), (&tree.b, "mine")).unwrap();
        tree.inside.getattr(&mine.handle).unwrap();
        fixture.verify();
    });
}

#[test]
fn a_hard_link_inside_is_the_edge() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let other = tree.root.walk("a/other").unwrap();
        tree.root.link(&other.handle, &tree.b, "shared").unwrap();
        let shared = tree.inside.walk("shared").unwrap();
        assert_eq!(shared.attr.unwrap().nlink, 2);
        tree.root.unlink(&tree.b, "shared").unwrap();
        assert_stale(&tree.inside, &shared.handle, "the last link inside is gone");
        tree.root.getattr(&other.handle).unwrap();
        fixture.verify();
    });
}

#[test]
fn an_unlinked_file_is_there_for_those_who_hold_it_open() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let second = fixture.client_at("/a/b");
        let mine = tree.inside.walk("mine").unwrap();
        let theirs = second.walk("mine").unwrap();
        let open = tree.inside.open(&mine.handle, 2).unwrap();
        tree.inside.unlink(&tree.inside.root, "mine").unwrap();
        assert_eq!(tree.inside.getattr(&mine.handle).unwrap().nlink, 0);
        tree.inside.write_inline(&mine.handle, open.open_id, b"still").unwrap();
        assert_stale(&second, &theirs.handle, "not held by this session");
        let relink = tree.inside.link(&mine.handle, &tree.inside.root, "again");
        assert_eq!(relink.unwrap_err(), Code::FsNotFound);
        fixture.verify();
        tree.inside.release(&mine.handle, open.open_id).unwrap();
        assert_stale(&tree.inside, &mine.handle, "nobody holds it");
        fixture.verify();
    });
}

#[test]
fn a_session_whose_scope_moves_or_goes_ends() {
    for case in ["moved", "ancestor moved", "exchanged", "removed", "replaced"] {
        on_each_engine(|fixture| scope_breaks(fixture, case));
    }
}

fn scope_breaks(fixture: &Fixture, case: &str) {
    let client = fixture.client();
    let top = client.mkdir(&client.root, "top").unwrap().handle;
    client.mkdir(&top, "scope").unwrap();
    client.mkdir(&top, "sibling").unwrap();
    let inside = fixture.client_at("/top/scope");
    let beside = fixture.client_at("/top/sibling");
    match case {
        "moved" => client.rename((&top, "scope"), (&client.root, "scope")).unwrap(),
        "ancestor moved" => client.rename((&client.root, "top"), (&client.root, "t")).unwrap(),
        "exchanged" => {
            let Body::Rename(op) = rename((&top, "scope"), (&top, "sibling")) else {
                unreachable!()
            };
            let op = v1::Rename { exchange: true, ..op };
            client.call(Body::Rename(op)).map(|_| ()).unwrap();
        }
        "removed" => client.rmdir(&top, "scope").unwrap(),
        _ => client.rename((&top, "sibling"), (&top, "scope")).unwrap(),
    }
    assert_eq!(inside.getattr(&inside.root).unwrap_err(), Code::FsStale, "{case}");
    assert!(!fixture.volume.session_is_live(inside.id));
    let key = fixture.volume.session_key(inside.id).unwrap_err();
    assert_eq!(key.code(), Code::FsStale);
    let ended = fixture.volume.tick().unwrap();
    assert!(ended.contains(&inside.id), "{case}: the transport is told");
    let beside_lives = matches!(case, "moved" | "removed");
    assert_eq!(fixture.volume.session_is_live(beside.id), beside_lives, "{case}");
    fixture.verify();
    // It stays ended over a restart.
    let again = fixture.reopen();
    let key = again.volume.session_key(inside.id).unwrap_err();
    assert_eq!(key.code(), Code::FsStale);
    assert_eq!(again.volume.session_is_live(beside.id), beside_lives, "{case}");
}

#[test]
fn a_scope_must_be_a_directory_and_is_not_followed() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        client.mkdir(&client.root, "real").unwrap();
        client.symlink(&client.root, "link", "real").unwrap();
        client.create(&client.root, "file").unwrap();
        for scope in ["/nothing", "/link", "/file", "/real/nothing", "/file/x"] {
            let refused = fixture.volume.open_session(new_session(scope, v1::Flags::default()));
            assert_eq!(refused.unwrap_err().code(), Code::ScopeMissing, "{scope}");
        }
        assert_eq!(fixture.volume.sessions().len(), 1);
    });
}

#[test]
fn statfs_inside_a_scope_tells_nothing_of_the_volume() {
    on_each_engine(|fixture| {
        let mut settings = fixture.volume.settings();
        settings.max_blocks = 10;
        settings.max_inodes = 100;
        fixture.volume.update_settings(settings).unwrap();
        let tree = tree(fixture);
        let before = tree.inside.stat_fs().unwrap();
        let whole = tree.root.stat_fs().unwrap();
        assert_eq!((whole.inodes, whole.blocks), (100, 10 * 1024));
        let file = tree.root.create(&tree.root.root, "big").unwrap();
        let open = tree.root.open(&file.handle, 2).unwrap().open_id;
        tree.root.write(&file.handle, open, 0, 1 << 20).unwrap();
        assert_eq!(tree.inside.stat_fs().unwrap(), before);
        let now = tree.root.stat_fs().unwrap();
        assert_eq!(now.inodes_free, whole.inodes_free - 1);
        assert_eq!(now.blocks_free, whole.blocks_free - 256);
    });
}

#[test]
fn handles_outlive_a_restart_and_die_with_their_session() {
    on_each_engine(|fixture| {
        let tree = tree(fixture);
        let mine = tree.inside.walk("mine").unwrap().handle;
        let again = fixture.reopen();
        let resumed = tree.inside.at(&again);
        let stale = resumed.call(Body::GetAttr(v1::GetAttr { handle: mine.clone() }));
        assert_eq!(stale, Err(Code::SessionUnknown), "a generation of before the restart");
        let generation = again.volume.attach(resumed.id).unwrap().generation;
        assert!(generation > resumed.generation.load(Ordering::Relaxed));
        resumed.generation.store(generation, Ordering::Relaxed);
        resumed.getattr(&mine).unwrap();
        assert_eq!(resumed.names(&resumed.root).unwrap(), ["dir", "mine"]);
        again.volume.end_session(resumed.id).unwrap();
        assert_eq!(resumed.getattr(&mine).unwrap_err(), Code::SessionUnknown);
        let next = again.client_at("/a/b");
        assert_eq!(next.getattr(&mine).unwrap_err(), Code::FsStale);
    });
}
