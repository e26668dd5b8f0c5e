//! Flags hold on the server (P3), and mode bits.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::op::Body;

use super::acl::{ACCESS, acl};
use super::fixture::{Client, caller, make, on_each_engine, rename, unlink};

const O_RDONLY: u32 = 0;
const O_WRONLY: u32 = 1;
const O_RDWR: u32 = 2;
const O_TRUNC: u32 = 0o1000;

fn time() -> Option<v1::SetTime> {
    Some(v1::SetTime { at: Some(v1::Timestamp { seconds: 1, nanos: 0 }) })
}

/// Every mutation there is, as raw operations.
fn mutations(client: &Client, file: &[u8]) -> Vec<Body> {
    let root = client.root.clone();
    let handle = file.to_vec();
    let set = |change: v1::SetAttr| Body::SetAttr(v1::SetAttr { handle: handle.clone(), ..change });
    vec![
        set(v1::SetAttr { mode: Some(0o600), ..Default::default() }),
        set(v1::SetAttr { uid: Some(1), ..Default::default() }),
        set(v1::SetAttr { size: Some(0), ..Default::default() }),
        set(v1::SetAttr { mtime: time(), ..Default::default() }),
        make(&root, "new", FileKind::Regular, 0o644),
        make(&root, "new", FileKind::Directory, 0o755),
        Body::Link(v1::Link {
            handle: handle.clone(),
            new_parent: root.clone(),
            new_name: b"new".to_vec(),
        }),
        unlink(&root, "file", false),
        unlink(&root, "dir", true),
        rename((&root, "file"), (&root, "new")),
        Body::Open(v1::Open { handle: handle.clone(), flags: O_WRONLY }),
        Body::Open(v1::Open { handle: handle.clone(), flags: O_RDWR }),
        Body::Open(v1::Open { handle: handle.clone(), flags: O_RDONLY | O_TRUNC }),
        Body::SetXattr(v1::SetXattr {
            handle: handle.clone(),
            name: b"user.x".to_vec(),
            ..Default::default()
        }),
        Body::RemoveXattr(v1::RemoveXattr { handle: handle.clone(), name: b"user.x".to_vec() }),
        Body::SetXattr(v1::SetXattr {
            handle: handle.clone(),
            name: ACCESS.into(),
            value: acl("u::6,u:10:6,g::4,m::6,o::0"),
            ..Default::default()
        }),
        Body::RemoveXattr(v1::RemoveXattr { handle: handle.clone(), name: ACCESS.into() }),
        Body::MintObjects(v1::MintObjects { count: 1, size_limit: 100 }),
        Body::CommitData(v1::CommitData {
            handle: handle.clone(),
            inline_data: Some(b"x".to_vec().into()),
            ..Default::default()
        }),
        Body::Fallocate(v1::Fallocate { handle, length: 1, ..Default::default() }),
    ]
}

#[test]
fn a_read_only_session_changes_nothing_by_any_operation() {
    on_each_engine(|fixture| {
        let writer = fixture.client();
        let file = writer.create(&writer.root, "file").unwrap();
        writer.mkdir(&writer.root, "dir").unwrap();
        let open = writer.open(&file.handle, O_RDWR).unwrap().open_id;
        writer.write_inline(&file.handle, open, b"contents").unwrap();
        let before = writer.getattr(&file.handle).unwrap();
        let reader = fixture.client_with("/", v1::Flags { ro: true, ..Default::default() });
        let file = reader.walk("file").unwrap();
        for body in mutations(&reader, &file.handle) {
            let name = format!("{body:?}");
            assert_eq!(reader.call(body), Err(Code::FsReadOnly), "{name}");
        }
        assert_eq!(reader.getattr(&file.handle).unwrap(), before);
        // Reading, opening to read, and locking go on.
        let open = reader.open(&file.handle, O_RDONLY).unwrap();
        assert_eq!(reader.extents(&file.handle).unwrap().size, 8);
        let lock = super::fixture::lock(v1::LockKind::Read, 1, 0, 10);
        reader.set_lock(&file.handle, lock).unwrap();
        reader.release(&file.handle, open.open_id).unwrap();
        let existing = make(&reader.root, "file", FileKind::Regular, 0);
        assert_eq!(reader.call(existing), Err(Code::FsExists), "what exists is named as such");
        // The flags of the volume reach live sessions.
        let mut settings = fixture.volume.settings();
        settings.flags.ro = true;
        fixture.volume.update_settings(settings).unwrap();
        assert_eq!(writer.create(&writer.root, "x").unwrap_err(), Code::FsReadOnly);
        fixture.verify();
    });
}

#[test]
fn an_append_only_session_adds_and_takes_nothing_away() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let victim = owner.create(&owner.root, "file").unwrap();
        owner.mkdir(&owner.root, "dir").unwrap();
        let open = owner.open(&victim.handle, O_RDWR).unwrap().open_id;
        owner.write(&victim.handle, open, 0, 1000).unwrap();
        let client =
            fixture.client_with("/", v1::Flags { append_only: true, ..Default::default() });
        let root = client.root.clone();
        let file = client.walk("file").unwrap().handle;
        for refused in [
            unlink(&root, "file", false),
            unlink(&root, "dir", true),
            rename((&root, "file"), (&root, "other")),
            Body::Open(v1::Open { handle: file.clone(), flags: O_WRONLY | O_TRUNC }),
        ] {
            let name = format!("{refused:?}");
            assert_eq!(client.call(refused), Err(Code::FsNotPermitted), "{name}");
        }
        for size in [0, 999, 2000] {
            assert_eq!(client.truncate(&file, size).unwrap_err(), Code::FsNotPermitted);
        }
        let open = client.open(&file, O_WRONLY).unwrap().open_id;
        for offset in [0, 500, 999] {
            let refused = client.write(&file, open, offset, 100).unwrap_err();
            assert_eq!(refused, Code::FsNotPermitted, "overwrite at {offset}");
        }
        let fallocate = |mode: u32, offset, length| {
            let handle = file.clone();
            Body::Fallocate(v1::Fallocate { handle, open_id: open, mode, offset, length })
        };
        for mode in [0x03, 0x10, 0x11] {
            assert_eq!(client.call(fallocate(mode, 0, 10)), Err(Code::FsNotPermitted));
        }
        assert_eq!(client.write(&file, open, 1000, 100).unwrap().size, 1100);
        client.call(fallocate(0, 0, 2000)).unwrap();
        assert_eq!(client.write(&file, open, 2000, 10).unwrap().size, 2010);
        // A log that begins inline may only grow.
        let log = client.create(&root, "log").unwrap().handle;
        let open = client.open(&log, O_WRONLY).unwrap().open_id;
        client.write_inline(&log, open, b"one").unwrap();
        client.write_inline(&log, open, b"one two").unwrap();
        for refused in [&b"one"[..], b"One two three", b""] {
            let result = client.write_inline(&log, open, refused).unwrap_err();
            assert_eq!(result, Code::FsNotPermitted);
        }
        fixture.verify();
    });
}

#[test]
fn squashing_and_pins_are_applied_by_the_server() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let shared = owner.mkdir(&owner.root, "shared").unwrap().handle;
        owner.chmod(&shared, 0o1777).unwrap();
        owner.create(&shared, "roots").unwrap();
        let squashed =
            fixture.client_with("/", v1::Flags { root_squash: true, ..Default::default() });
        let dir = squashed.walk("shared").unwrap().handle;
        let made = squashed.create(&dir, "made").unwrap().attr.unwrap();
        assert_eq!((made.uid, made.gid), (65534, 65534));
        assert_eq!(squashed.unlink(&dir, "roots").unwrap_err(), Code::FsNotPermitted);
        assert_eq!(squashed.create(&squashed.root, "x").unwrap_err(), Code::FsAccess);
        let pins = v1::Flags { uid: Some(7), gid: Some(8), umask: 0o077, ..Default::default() };
        let pinned = fixture.client_with("/shared", pins);
        let made = pinned.create(&pinned.root, "pinned").unwrap().attr.unwrap();
        assert_eq!((made.uid, made.gid, made.mode), (7, 8, 0o600));
        assert_eq!(pinned.unlink(&pinned.root, "roots").unwrap_err(), Code::FsNotPermitted);
    });
}

#[test]
fn set_id_bits_are_refused_where_they_must_not_be() {
    on_each_engine(|fixture| {
        let client = fixture.client_with("/", v1::Flags { no_suid: true, ..Default::default() });
        for mode in [0o4755, 0o2755] {
            let body = make(&client.root, "x", FileKind::Regular, mode);
            assert_eq!(client.call(body), Err(Code::FsNotPermitted));
        }
        let file = client.create(&client.root, "x").unwrap().handle;
        assert_eq!(client.chmod(&file, 0o4755).unwrap_err(), Code::FsNotPermitted);
        let dir = client.mkdir(&client.root, "d").unwrap().handle;
        assert_eq!(client.chmod(&dir, 0o2755).unwrap().mode, 0o2755, "harmless on a directory");
    });
}

#[test]
fn mode_bits_are_checked_for_other_users() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "private").unwrap().handle;
        root.create(&dir, "f").unwrap();
        root.chmod(&dir, 0o700).unwrap();
        let user = root.as_user(1000, 1000);
        assert_eq!(user.lookup(&dir, "f").unwrap_err(), Code::FsAccess);
        assert_eq!(user.create(&dir, "g").unwrap_err(), Code::FsAccess);
        assert_eq!(user.names(&dir).unwrap_err(), Code::FsAccess);
        root.chmod(&dir, 0o711).unwrap();
        let file = user.lookup(&dir, "f").unwrap().handle;
        assert_eq!(user.unlink(&dir, "f").unwrap_err(), Code::FsAccess);
        assert_eq!(user.open(&file, O_RDWR).unwrap_err(), Code::FsAccess);
        let read = user.open(&file, O_RDONLY).unwrap().open_id;
        assert_eq!(user.write(&file, read, 0, 10).unwrap_err(), Code::FsBadHandle);
        assert_eq!(user.truncate(&file, 0).unwrap_err(), Code::FsAccess);
        assert_eq!(user.chmod(&file, 0o777).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(user.chown(&file, 1000, 1000).unwrap_err(), Code::FsNotPermitted);
        let times = |mtime| v1::SetAttr { handle: file.clone(), mtime, ..Default::default() };
        assert_eq!(user.setattr(times(time())).unwrap_err(), Code::FsNotPermitted);
        let now = Some(v1::SetTime { at: None });
        assert_eq!(user.setattr(times(now)).unwrap_err(), Code::FsAccess);
        root.chmod(&file, 0o666).unwrap();
        user.setattr(times(now)).unwrap();
        // Contents of what was opened stay readable after chmod.
        root.chmod(&file, 0o000).unwrap();
        user.extents(&file).unwrap();
        user.release(&file, read).unwrap();
        assert_eq!(user.extents(&file).unwrap_err(), Code::FsAccess);
    });
}

#[test]
fn owners_change_what_posix_lets_them() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let file = root.create(&root.root, "f").unwrap().handle;
        root.chown(&file, 1000, 1000).unwrap();
        root.chmod(&file, 0o6755).unwrap();
        let mut user = root.as_user(1000, 1000);
        user.caller.groups = vec![2000];
        let attr = user.chown(&file, 1000, 2000).unwrap();
        assert_eq!((attr.gid, attr.mode), (2000, 0o755), "set-ID bits fall");
        assert_eq!(user.chown(&file, 1001, 2000).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(user.chown(&file, 1000, 3000).unwrap_err(), Code::FsNotPermitted);
        user.caller = caller(1000, 1000);
        let attr = user.chmod(&file, 0o2755).unwrap();
        assert_eq!(attr.mode, 0o755, "not a member of the file's group any more");
        root.chmod(&file, 0o4777).unwrap();
        let open = user.open(&file, O_RDWR).unwrap().open_id;
        assert_eq!(user.write_inline(&file, open, b"x").unwrap().mode, 0o777);
    });
}

#[test]
fn a_set_group_id_directory_hands_its_group_down() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        root.chown(&dir, 0, 500).unwrap();
        root.chmod(&dir, 0o2777).unwrap();
        let user = root.as_user(1000, 1000);
        let file = user.make(v1::Make {
            parent: dir.clone(),
            name: b"f".to_vec(),
            kind: FileKind::Regular as i32,
            mode: 0o2755,
            exclusive: true,
            ..Default::default()
        });
        let attr = file.unwrap().attr.unwrap();
        assert_eq!((attr.gid, attr.mode), (500, 0o755), "no program of a foreign group");
        let sub = user.mkdir(&dir, "sub").unwrap().attr.unwrap();
        assert_eq!((sub.gid, sub.mode), (500, 0o2755));
        assert_eq!(user.symlink(&dir, "s", "x").unwrap().attr.unwrap().gid, 500);
    });
}

#[test]
fn an_existing_file_is_opened_by_a_create_that_is_not_exclusive() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        root.chmod(&root.root, 0o777).unwrap();
        let user = root.as_user(1000, 1000);
        let open = |client: &Client, name: &str, mode, open_flags, exclusive| {
            client.make(v1::Make {
                parent: client.root.clone(),
                name: name.as_bytes().to_vec(),
                kind: FileKind::Regular as i32,
                mode,
                exclusive,
                open: true,
                open_flags,
                ..Default::default()
            })
        };
        // Made without any permission, and still written by its maker.
        let made = open(&user, "f", 0o000, O_RDWR, true).unwrap();
        assert_ne!(made.open_id, 0);
        user.write_inline(&made.handle, made.open_id, b"abc").unwrap();
        assert_eq!(open(&user, "f", 0, O_RDWR, false).unwrap_err(), Code::FsAccess);
        assert_eq!(open(&user, "f", 0, O_RDWR, true).unwrap_err(), Code::FsExists);
        root.chmod(&made.handle, 0o666).unwrap();
        let again = open(&user, "f", 0, O_RDWR | O_TRUNC, false).unwrap();
        assert_eq!((again.handle, again.attr.unwrap().size), (made.handle, 0));
        root.mkdir(&root.root, "d").unwrap();
        assert_eq!(open(&user, "d", 0, O_RDWR, false).unwrap_err(), Code::FsIsDirectory);
        for (kind, rdev, refused) in [
            (FileKind::CharDevice, 0x103, true),
            (FileKind::BlockDevice, 0, true),
            // A whiteout is no device (Linux mknod(2)).
            (FileKind::CharDevice, 0, false),
        ] {
            let Body::Make(op) = make(&user.root, "n", kind, 0o600) else { unreachable!() };
            let made = user.make(v1::Make { rdev, ..op }).map(drop);
            let expected = if refused { Err(Code::FsNotPermitted) } else { Ok(()) };
            assert_eq!(made, expected, "{kind:?} {rdev:x}");
        }
        let refused = root.as_user(5, 5).make(v1::Make {
            parent: root.root.clone(),
            name: b"k".to_vec(),
            kind: 99,
            ..Default::default()
        });
        assert_eq!(refused.unwrap_err(), Code::ProtocolInvalid);
        fixture.verify();
    });
}

#[test]
fn quotas_hold() {
    on_each_engine(|fixture| {
        let mut settings = fixture.volume.settings();
        settings.max_inodes = 3;
        settings.max_blocks = 1;
        settings.block_size = 1 << 20;
        fixture.volume.update_settings(settings).unwrap();
        let client = fixture.client();
        let file = client.create(&client.root, "a").unwrap().handle;
        client.create(&client.root, "b").unwrap();
        assert_eq!(client.create(&client.root, "c").unwrap_err(), Code::FsQuota);
        client.unlink(&client.root, "b").unwrap();
        client.create(&client.root, "c").unwrap();
        let open = client.open(&file, O_RDWR).unwrap().open_id;
        client.write(&file, open, 0, 1 << 20).unwrap();
        assert_eq!(client.write(&file, open, 1 << 20, 1).unwrap_err(), Code::FsQuota);
        assert_eq!(client.getattr(&file).unwrap().size, 1 << 20, "a refused write left nothing");
        client.truncate(&file, 0).unwrap();
        client.write(&file, open, 0, 1000).unwrap();
        fixture.verify();
    });
}
