//! rename(2): what replaces what, counts, times, loops.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::fixture::{Client, on_each_engine, rename};

fn with(client: &Client, from: (&[u8], &str), to: (&[u8], &str), flags: &str) -> Result<(), Code> {
    let Body::Rename(op) = rename(from, to) else { unreachable!() };
    let [no_replace, exchange, whiteout] = ['n', 'x', 'w'].map(|flag| flags.contains(flag));
    client.call(Body::Rename(v1::Rename { no_replace, exchange, whiteout, ..op })).map(|_| ())
}

fn assert_whiteout(client: &Client, dir: &[u8], name: &str) -> v1::Attr {
    let attr = client.lookup(dir, name).unwrap().attr.unwrap();
    let kind = v1::FileKind::CharDevice as i32;
    assert_eq!((attr.kind, attr.rdev, attr.mode, attr.nlink), (kind, 0, 0, 1));
    attr
}

/// Makes `kind` under the name: a file, an empty or a full directory, a
/// symlink, or nothing.
fn put(client: &Client, dir: &[u8], name: &str, kind: &str) {
    match kind {
        "file" => client.create(dir, name).map(|_| ()).unwrap(),
        "link" => client.symlink(dir, name, "x").map(|_| ()).unwrap(),
        "empty" => client.mkdir(dir, name).map(|_| ()).unwrap(),
        "full" => {
            let made = client.mkdir(dir, name).unwrap().handle;
            client.create(&made, "inner").unwrap();
        }
        _ => {}
    }
}

fn clear(client: &Client, dir: &[u8], name: &str) {
    let Ok(entry) = client.lookup(dir, name) else { return };
    if client.unlink(dir, name) == Err(Code::FsIsDirectory) {
        if client.lookup(&entry.handle, "inner").is_ok() {
            client.unlink(&entry.handle, "inner").unwrap();
        }
        client.rmdir(dir, name).unwrap();
    }
}

#[test]
fn what_may_replace_what() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let a = client.mkdir(&client.root, "a").unwrap().handle;
        let b = client.mkdir(&client.root, "b").unwrap().handle;
        let expected = |from: &str, to: &str, flags: &str| match (from, to, flags) {
            ("none", _, _) => Err(Code::FsNotFound),
            (_, "none", "x") => Err(Code::FsNotFound),
            (_, _, "x") | (_, "none", _) => Ok(()),
            (_, _, "n" | "nw") => Err(Code::FsExists),
            ("empty" | "full", "file" | "link", _) => Err(Code::FsNotDirectory),
            ("file" | "link", "empty" | "full", _) => Err(Code::FsIsDirectory),
            ("empty" | "full", "full", _) => Err(Code::FsNotEmpty),
            _ => Ok(()),
        };
        for to_dir in [&a, &b] {
            for flags in ["", "n", "x", "w", "nw"] {
                for from in ["none", "file", "link", "empty", "full"] {
                    for to in ["none", "file", "link", "empty", "full"] {
                        put(&client, &a, "from", from);
                        put(&client, to_dir, "to", to);
                        let moved = client.lookup(&a, "from").ok();
                        let target = client.lookup(to_dir, "to").ok();
                        let result = with(&client, (&a, "from"), (to_dir, "to"), flags);
                        let case = format!("{from} over {to} {flags:?}");
                        assert_eq!(result, expected(from, to, flags), "{case}");
                        let now_from = client.lookup(&a, "from").ok().map(|e| e.handle);
                        let now_to = client.lookup(to_dir, "to").ok().map(|e| e.handle);
                        let (moved, target) = (moved.map(|e| e.handle), target.map(|e| e.handle));
                        match (result.is_ok(), flags) {
                            (true, "x") => assert_eq!((now_from, now_to), (target, moved)),
                            (true, "w" | "nw") => {
                                assert_eq!(now_to, moved);
                                assert_whiteout(&client, &a, "from");
                            }
                            (true, _) => assert_eq!((now_from, now_to), (None, moved)),
                            (false, _) => assert_eq!((now_from, now_to), (moved, target)),
                        }
                        fixture.verify();
                        clear(&client, &a, "from");
                        clear(&client, to_dir, "to");
                    }
                }
            }
        }
        for both in ["nx", "xw", "nxw"] {
            let refused = with(&client, (&a, "x"), (&b, "y"), both).unwrap_err();
            assert_eq!(refused, Code::FsInvalid, "{both}");
        }
    });
}

#[test]
fn no_directory_moves_below_itself() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let root = client.root.clone();
        let a = client.mkdir(&root, "a").unwrap().handle;
        let b = client.mkdir(&a, "b").unwrap().handle;
        let c = client.mkdir(&b, "c").unwrap().handle;
        for (dir, name) in [(&a, "x"), (&b, "x"), (&c, "x"), (&b, "c")] {
            assert_eq!(client.rename((&root, "a"), (dir, name)).unwrap_err(), Code::FsInvalid);
        }
        // What lies above cannot be replaced or exchanged by what lies below.
        assert_eq!(client.rename((&b, "c"), (&root, "a")).unwrap_err(), Code::FsNotEmpty);
        assert_eq!(with(&client, (&b, "c"), (&root, "a"), "x").unwrap_err(), Code::FsInvalid);
        assert_eq!(with(&client, (&root, "a"), (&b, "c"), "x").unwrap_err(), Code::FsInvalid);
        // The other way is no loop.
        client.rename((&b, "c"), (&root, "c")).unwrap();
        client.rename((&root, "a"), (&c, "a")).unwrap();
        assert_eq!(client.walk("c/a/b").unwrap().handle, b);
        fixture.verify();
    });
}

#[test]
fn link_counts_and_times_follow_a_move() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let root = client.root.clone();
        let a = client.mkdir(&root, "a").unwrap().handle;
        let b = client.mkdir(&root, "b").unwrap().handle;
        let moved = client.mkdir(&a, "d").unwrap();
        let before = moved.attr.unwrap();
        client.rename((&a, "d"), (&b, "d")).unwrap();
        let nlink = |handle: &[u8]| client.getattr(handle).unwrap().nlink;
        assert_eq!((nlink(&a), nlink(&b)), (2, 3));
        let after = client.getattr(&moved.handle).unwrap();
        assert!(after.change > before.change);
        assert_eq!(after.mtime, before.mtime, "its own contents did not change");
        assert!(after.ctime.unwrap().seconds >= before.ctime.unwrap().seconds);
        assert_eq!(client.getattr(&b).unwrap().mtime, after.ctime);
        client.mkdir(&a, "d").unwrap();
        client.rename((&a, "d"), (&b, "d")).unwrap();
        assert_eq!((nlink(&a), nlink(&b)), (2, 3));
        client.create(&a, "f").unwrap();
        with(&client, (&a, "f"), (&b, "d"), "x").unwrap();
        assert_eq!((nlink(&a), nlink(&b)), (3, 2));
        fixture.verify();
    });
}

#[test]
fn two_names_of_one_file_stay_and_a_replaced_open_file_lives_on() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let root = client.root.clone();
        let file = client.create(&root, "one").unwrap().handle;
        client.link(&file, &root, "two").unwrap();
        client.rename((&root, "one"), (&root, "two")).unwrap();
        client.rename((&root, "one"), (&root, "one")).unwrap();
        assert_eq!(client.names(&root).unwrap(), ["one", "two"]);
        let victim = client.create(&root, "victim").unwrap().handle;
        let open = client.open(&victim, 2).unwrap().open_id;
        client.rename((&root, "two"), (&root, "victim")).unwrap();
        assert_eq!(client.getattr(&victim).unwrap().nlink, 0);
        assert_eq!(client.lookup(&root, "victim").unwrap().handle, file);
        assert_eq!(client.getattr(&file).unwrap().nlink, 2);
        fixture.verify();
        client.release(&victim, open).unwrap();
        assert_eq!(fixture.verify().inodes, 2);
    });
}

#[test]
fn rights_at_both_ends() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        root.chmod(&root.root, 0o777).unwrap();
        let shared = root.mkdir(&root.root, "shared").unwrap().handle;
        root.chmod(&shared, 0o1777).unwrap();
        let (one, two) = (root.as_user(1, 1), root.as_user(2, 2));
        let mine = one.mkdir(&root.root, "mine").unwrap().handle;
        one.create(&shared, "f").unwrap();
        two.create(&shared, "g").unwrap();
        let refused = two.rename((&shared, "f"), (&shared, "h")).unwrap_err();
        assert_eq!(refused, Code::FsNotPermitted, "sticky source");
        let refused = two.rename((&shared, "g"), (&shared, "f")).unwrap_err();
        assert_eq!(refused, Code::FsNotPermitted, "sticky target");
        assert_eq!(two.rename((&shared, "g"), (&mine, "g")).unwrap_err(), Code::FsAccess);
        // The `..` of somebody else's directory is not ours to write.
        let theirs = one.mkdir(&root.root, "theirs").unwrap().handle;
        assert_eq!(
            two.rename((&root.root, "theirs"), (&shared, "theirs")).unwrap_err(),
            Code::FsAccess
        );
        two.rename((&root.root, "theirs"), (&root.root, "renamed")).unwrap();
        one.rename((&root.root, "renamed"), (&shared, "theirs")).unwrap();
        assert_eq!(one.lookup(&shared, "theirs").unwrap().handle, theirs);
        fixture.verify();
    });
}

#[test]
fn a_whiteout_is_the_callers_and_takes_the_place_of_the_name() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        root.chmod(&dir, 0o2777).unwrap();
        root.chown(&dir, 9, 9).unwrap();
        let user = root.as_user(5, 6);
        let file = user.create(&dir, "f").unwrap().handle;
        let before = root.getattr(&dir).unwrap();
        with(&user, (&dir, "f"), (&dir, "g"), "w").unwrap();
        let left = assert_whiteout(&root, &dir, "f");
        assert_eq!((left.uid, left.gid), (5, 9), "the directory hands its group down");
        assert_eq!(root.names(&dir).unwrap(), ["f", "g"]);
        assert_eq!(root.lookup(&dir, "g").unwrap().handle, file);
        let after = root.getattr(&dir).unwrap();
        assert_eq!(after.mtime, after.ctime);
        assert!(after.change > before.change);
        // A directory too; and the whiteout is a file like any other.
        let moved = root.mkdir(&dir, "sub").unwrap().handle;
        with(&root, (&dir, "sub"), (&root.root, "sub"), "w").unwrap();
        assert_whiteout(&root, &dir, "sub");
        let nlink = |handle: &[u8]| root.getattr(handle).unwrap().nlink;
        assert_eq!((nlink(&dir), nlink(&root.root), nlink(&moved)), (2, 4, 2));
        root.rename((&dir, "sub"), (&dir, "f")).unwrap();
        // Two names of one file: nothing is done.
        root.link(&file, &dir, "h").unwrap();
        with(&root, (&dir, "g"), (&dir, "h"), "w").unwrap();
        assert_eq!(root.lookup(&dir, "g").unwrap().handle, file);
        root.unlink(&dir, "f").unwrap();
        assert_eq!(fixture.verify().inodes, 4);
    });
}

#[test]
fn a_whiteout_counts_and_needs_what_a_rename_needs() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let root = client.root.clone();
        let file = client.create(&root, "f").unwrap().handle;
        let mut settings = fixture.volume.settings();
        settings.max_inodes = 2;
        fixture.volume.update_settings(settings.clone()).unwrap();
        let whiteout = |client: &Client| with(client, (&root, "f"), (&root, "g"), "w");
        assert_eq!(whiteout(&client), Err(Code::FsQuota));
        assert_eq!(client.names(&root).unwrap(), ["f"], "all of it or nothing");
        settings.max_inodes = 3;
        fixture.volume.update_settings(settings).unwrap();
        for (flags, refused) in [
            (v1::Flags { ro: true, ..v1::Flags::default() }, Code::FsReadOnly),
            (v1::Flags { append_only: true, ..v1::Flags::default() }, Code::FsNotPermitted),
        ] {
            let other = fixture.client_with("/", flags);
            let theirs = other.root.clone();
            let outcome = with(&other, (&theirs, "f"), (&theirs, "g"), "w");
            assert_eq!(outcome, Err(refused));
        }
        assert_eq!(whiteout(&client.as_user(5, 5)), Err(Code::FsAccess));
        // A lost answer: it is left once.
        let Body::Rename(op) = rename((&root, "f"), (&root, "g")) else { unreachable!() };
        let op = client.op(Body::Rename(v1::Rename { whiteout: true, ..op }));
        for _ in 0..2 {
            let crate::volume::Execution::Done(reply) =
                client.execute(vec![op.clone()]).pop().unwrap()
            else {
                panic!("nobody is to be waited for")
            };
            super::fixture::answer(reply).unwrap();
            assert_whiteout(&client, &root, "f");
            assert_eq!(client.lookup(&root, "g").unwrap().handle, file);
        }
        assert_eq!(fixture.verify().inodes, 3);
    });
}
