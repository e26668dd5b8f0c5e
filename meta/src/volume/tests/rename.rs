//! rename(2): what replaces what, counts, times, loops.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::fixture::{Client, on_each_engine, rename};

fn with(client: &Client, from: (&[u8], &str), to: (&[u8], &str), flags: &str) -> Result<(), Code> {
    let Body::Rename(op) = rename(from, to) else { unreachable!() };
    let (no_replace, exchange) = (flags.contains('n'), flags.contains('x'));
    client.call(Body::Rename(v1::Rename { no_replace, exchange, ..op })).map(|_| ())
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
            (_, _, "n") => Err(Code::FsExists),
            ("empty" | "full", "file" | "link", _) => Err(Code::FsNotDirectory),
            ("file" | "link", "empty" | "full", _) => Err(Code::FsIsDirectory),
            ("empty" | "full", "full", _) => Err(Code::FsNotEmpty),
            _ => Ok(()),
        };
        for to_dir in [&a, &b] {
            for flags in ["", "n", "x"] {
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
        let both = with(&client, (&a, "x"), (&b, "y"), "nx").unwrap_err();
        assert_eq!(both, Code::FsInvalid);
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
