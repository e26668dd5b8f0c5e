//! Access control lists: set, read, changed by chmod, inherited, and heeded by
//! every operation.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::op::Body;

use super::fixture::{
    Client, Fixture, caller, lookup, make, new_session, on_each_engine, rename, unlink,
};
use super::keeping::{chmod, waits_for};
use super::xattrs::{get, list, remove, set};
use crate::volume::edit::Edit;
use crate::volume::record::Inode;
use crate::volume::{NewSession, superblock};

pub(super) const ACCESS: &str = "system.posix_acl_access";
pub(super) const DEFAULT: &str = "system.posix_acl_default";

const O_WRONLY: u32 = 0o1;
const FMODE_EXEC: u32 = 0x20;

/// The text form of setfacl(1), with numbers: `u::7,u:10:6,g::5,m::7,o::4`.
pub(super) fn acl(text: &str) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let fields: Vec<&str> = entry.split(':').collect();
        let named = !fields[1].is_empty();
        let tag: u16 = match (fields[0], named) {
            ("u", false) => 0x01,
            ("u", true) => 0x02,
            ("g", false) => 0x04,
            ("g", true) => 0x08,
            ("m", _) => 0x10,
            _ => 0x20,
        };
        let id = if named { fields[1].parse().unwrap() } else { u32::MAX };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(fields[2].parse::<u16>().unwrap().to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set_acl(client: &Client, handle: &[u8], name: &str, text: &str) -> Result<(), Code> {
    set(client, handle, name, &acl(text), 0)
}

fn mode(client: &Client, handle: &[u8]) -> u32 {
    client.getattr(handle).unwrap().mode
}

fn with_umask(client: &Client, umask: u32) -> Client {
    let mut client = client.as_user(client.caller.uid, client.caller.gid);
    client.caller.umask = umask;
    client
}

fn no_lists(fixture: &Fixture, no_acl: bool) {
    let mut settings = fixture.volume.settings();
    settings.flags.no_acl = no_acl;
    fixture.volume.update_settings(settings).unwrap();
}

#[test]
fn lists_are_set_read_listed_and_removed() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        assert_eq!(get(&client, &file, ACCESS).unwrap_err(), Code::FsNoAttribute);
        assert_eq!(remove(&client, &file, ACCESS).unwrap_err(), Code::FsNoAttribute);
        let before = client.getattr(&file).unwrap();
        assert!(!before.access_acl && !before.default_acl);
        set_acl(&client, &file, ACCESS, "u::6,u:10:6,u:9:4,g::4,m::6,o::0").unwrap();
        let after = client.getattr(&file).unwrap();
        assert_eq!(after.mode, 0o660, "the group's bits show the mask");
        assert!(after.change > before.change && after.ctime != before.ctime && after.access_acl);
        let sorted = acl("u::6,u:9:4,u:10:6,g::4,m::6,o::0");
        assert_eq!(get(&client, &file, ACCESS).unwrap(), sorted);
        assert_eq!(list(&client, &file), [ACCESS]);
        set(&client, &file, "user.a", b"1", 0).unwrap();
        assert_eq!(list(&client, &file), [ACCESS, "user.a"]);
        fixture.verify();
        // The flags of setxattr(2) mean nothing, unknown ones are refused.
        set(&client, &file, ACCESS, &sorted, 1).unwrap();
        assert_eq!(set(&client, &file, ACCESS, &sorted, 4).unwrap_err(), Code::FsInvalid);
        assert_eq!(set(&client, &file, ACCESS, b"nonsense", 0).unwrap_err(), Code::FsUnsupported);
        assert_eq!(set_acl(&client, &file, ACCESS, "u::6,o::0").unwrap_err(), Code::FsInvalid);
        assert_eq!(get(&client, &file, ACCESS).unwrap(), sorted);
        remove(&client, &file, ACCESS).unwrap();
        assert_eq!(mode(&client, &file), 0o660, "the bits stay");
        assert_eq!(list(&client, &file), ["user.a"]);
        // What a mode says is no list; one without entries removes.
        set_acl(&client, &file, ACCESS, "u::6,g::4,m::6,o::0").unwrap();
        set_acl(&client, &file, ACCESS, "u::7,g::5,o::1").unwrap();
        assert_eq!(mode(&client, &file), 0o751);
        assert_eq!(get(&client, &file, ACCESS).unwrap_err(), Code::FsNoAttribute);
        set_acl(&client, &file, ACCESS, "u::6,u:10:6,g::4,m::6,o::0").unwrap();
        set(&client, &file, ACCESS, &2_u32.to_le_bytes(), 0).unwrap();
        assert_eq!(get(&client, &file, ACCESS).unwrap_err(), Code::FsNoAttribute);
        set(&client, &file, ACCESS, b"", 0).unwrap();
        client.unlink(&client.root, "f").unwrap();
        fixture.verify();
    });
}

#[test]
fn default_lists_are_of_directories_and_symbolic_links_have_none() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let dir = client.mkdir(&client.root, "d").unwrap().handle;
        let file = client.create(&client.root, "f").unwrap().handle;
        let link = client.symlink(&client.root, "l", "f").unwrap().handle;
        let small = "u::7,g::5,o::0";
        assert_eq!(set_acl(&client, &file, DEFAULT, small).unwrap_err(), Code::FsAccess);
        assert_eq!(get(&client, &file, DEFAULT).unwrap_err(), Code::FsNoAttribute);
        for name in [ACCESS, DEFAULT] {
            assert_eq!(set_acl(&client, &link, name, small).unwrap_err(), Code::FsUnsupported);
            assert_eq!(get(&client, &link, name).unwrap_err(), Code::FsUnsupported);
            assert_eq!(remove(&client, &link, name).unwrap_err(), Code::FsUnsupported);
        }
        let before = client.getattr(&dir).unwrap();
        set_acl(&client, &dir, DEFAULT, small).unwrap();
        let after = client.getattr(&dir).unwrap();
        assert_eq!(after.mode, before.mode, "a default list is for others");
        assert!(after.change > before.change && after.default_acl && !after.access_acl);
        assert_eq!(get(&client, &dir, DEFAULT).unwrap(), acl(small));
        set_acl(&client, &dir, ACCESS, "u::7,g:5:5,g::5,m::5,o::0").unwrap_err();
        set_acl(&client, &dir, ACCESS, "u::7,g::5,g:5:5,m::5,o::0").unwrap();
        assert_eq!(list(&client, &dir), [ACCESS, DEFAULT]);
        fixture.verify();
        remove(&client, &dir, DEFAULT).unwrap();
        assert_eq!(get(&client, &dir, DEFAULT).unwrap_err(), Code::FsNoAttribute);
        assert_eq!(list(&client, &dir), [ACCESS]);
        fixture.verify();
    });
}

#[test]
fn only_the_owner_and_root_change_lists_and_everybody_sees_them() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let file = root.create(&root.root, "f").unwrap().handle;
        root.chown(&file, 7, 8).unwrap();
        let (owner, other) = (root.as_user(7, 9), root.as_user(10, 8));
        let text = "u::6,u:10:6,g::4,m::6,o::0";
        assert_eq!(set_acl(&other, &file, ACCESS, text).unwrap_err(), Code::FsNotPermitted);
        set_acl(&owner, &file, ACCESS, text).unwrap();
        assert_eq!(get(&root.as_user(50, 50), &file, ACCESS).unwrap(), acl(text));
        assert_eq!(remove(&other, &file, ACCESS).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(set(&other, &file, ACCESS, b"", 0).unwrap_err(), Code::FsNotPermitted);
        remove(&owner, &file, ACCESS).unwrap();
        set_acl(&root, &file, ACCESS, text).unwrap();
        // Somebody outside the group does not leave its set-group-ID bit.
        for (client, kept) in [(&owner, 0), (&root.as_user(7, 8), 0o2000), (&root, 0o2000)] {
            root.chmod(&file, 0o2770).unwrap();
            set_acl(client, &file, ACCESS, "u::7,u:10:6,g::5,m::7,o::0").unwrap();
            assert_eq!(mode(&root, &file), 0o770 | kept, "{:?}", client.caller);
            root.chmod(&file, 0o2770).unwrap();
            set_acl(client, &file, ACCESS, "u::7,g::5,o::0").unwrap();
            assert_eq!(mode(&root, &file), 0o750 | kept, "{:?}", client.caller);
        }
        fixture.verify();
    });
}

#[test]
fn chmod_changes_the_mask_and_the_list_never_differs_from_the_mode() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let file = root.create(&root.root, "f").unwrap().handle;
        set_acl(&root, &file, ACCESS, "u::6,u:10:6,g::4,m::6,o::0").unwrap();
        let named = root.as_user(10, 10);
        let open = |flags| named.open(&file, flags).map(|opened| opened.open_id);
        named.release(&file, open(O_WRONLY).unwrap()).unwrap();
        let changed = root.chmod(&file, 0o740).unwrap();
        assert_eq!((changed.mode, changed.access_acl), (0o740, true));
        assert_eq!(get(&root, &file, ACCESS).unwrap(), acl("u::7,u:10:6,g::4,m::4,o::0"));
        assert_eq!(open(O_WRONLY).unwrap_err(), Code::FsAccess);
        named.release(&file, open(0).unwrap()).unwrap();
        root.chmod(&file, 0o600).unwrap();
        assert_eq!(open(0).unwrap_err(), Code::FsAccess);
        fixture.verify();
        // Also through a change of owner, and by a write that drops bits.
        root.setattr(v1::SetAttr {
            handle: file.clone(),
            mode: Some(0o4664),
            uid: Some(7),
            gid: Some(7),
            ..Default::default()
        })
        .unwrap();
        fixture.verify();
        let id = open(O_WRONLY).unwrap();
        named.write(&file, id, 0, 10).unwrap();
        assert_eq!(mode(&root, &file), 0o664);
        assert_eq!(get(&root, &file, ACCESS).unwrap(), acl("u::6,u:10:6,g::4,m::6,o::4"));
        fixture.verify();
    });
}

#[test]
fn new_entries_inherit_the_default_list_and_the_umask_is_left_aside() {
    on_each_engine(|fixture| {
        let client = with_umask(&fixture.client(), 0o077);
        let dir = client.mkdir(&client.root, "d").unwrap().handle;
        let text = "u::7,u:10:6,g::5,m::7,o::1";
        set_acl(&client, &dir, DEFAULT, text).unwrap();
        let make = |name: &str, kind, mode| match client.call(make(&dir, name, kind, mode)) {
            Ok(v1::reply::Result::Entry(entry)) => entry,
            other => panic!("an entry was expected: {other:?}"),
        };
        let file = make("f", FileKind::Regular, 0o666);
        assert_eq!(file.attr.unwrap().mode, 0o660, "list and mode, whatever the umask");
        assert!(file.attr.unwrap().access_acl);
        let got = get(&client, &file.handle, ACCESS).unwrap();
        assert_eq!(got, acl("u::6,u:10:6,g::5,m::6,o::0"));
        assert_eq!(get(&client, &file.handle, DEFAULT).unwrap_err(), Code::FsNoAttribute);
        let sub = make("s", FileKind::Directory, 0o750);
        assert_eq!(sub.attr.unwrap().mode, 0o750);
        assert_eq!(get(&client, &sub.handle, DEFAULT).unwrap(), acl(text));
        let got = get(&client, &sub.handle, ACCESS).unwrap();
        assert_eq!(got, acl("u::7,u:10:6,g::5,m::5,o::0"));
        let fifo = make("p", FileKind::Fifo, 0o622);
        assert!(fifo.attr.unwrap().access_acl);
        let link = client.symlink(&dir, "l", "f").unwrap();
        let attr = link.attr.unwrap();
        assert_eq!((attr.mode, attr.access_acl, attr.default_acl), (0o777, false, false));
        // Below, too; and a list that is no more than a mode makes a mode.
        let deeper = client.create(&sub.handle, "f").unwrap();
        assert!(deeper.attr.unwrap().access_acl);
        set_acl(&client, &dir, DEFAULT, "u::7,g::5,o::5").unwrap();
        let plain = make("plain", FileKind::Regular, 0o666).attr.unwrap();
        assert_eq!((plain.mode, plain.access_acl), (0o644, false));
        remove(&client, &dir, DEFAULT).unwrap();
        let masked = make("masked", FileKind::Regular, 0o666).attr.unwrap();
        assert_eq!(masked.mode, 0o600);
        fixture.verify();
    });
}

#[test]
fn the_umask_of_a_session_holds_under_a_default_list_too() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        set_acl(&root, &dir, DEFAULT, "u::7,u:10:7,g::7,m::7,o::7").unwrap();
        let flags = v1::Flags { umask: 0o027, ..Default::default() };
        let client = with_umask(&fixture.client_with("/", flags), 0o400);
        let dir = client.walk("d").unwrap().handle;
        let made = client.call(make(&dir, "f", FileKind::Regular, 0o777)).unwrap();
        let v1::reply::Result::Entry(made) = made else { panic!("an entry") };
        assert_eq!(made.attr.unwrap().mode, 0o750);
        assert_eq!(get(&client, &made.handle, ACCESS).unwrap(), acl("u::7,u:10:7,g::7,m::5,o::0"));
        // Without a list both are cleared.
        let made = client.call(make(&client.root, "f", FileKind::Regular, 0o777)).unwrap();
        let v1::reply::Result::Entry(made) = made else { panic!("an entry") };
        assert_eq!(made.attr.unwrap().mode, 0o350);
    });
}

/// Whether each operation that needs a permission is granted to user 10:
/// name, the list's permissions it needs on the directory and on the file.
fn attempts(root: &Client, user: &Client) -> Vec<(&'static str, u32, u32, Result<(), Code>)> {
    let dir = root.walk("d").unwrap().handle;
    let file = root.walk("d/f").unwrap().handle;
    let call = |body: Body| user.call(body).map(|_| ());
    let open = |flags| {
        let opened = user.open(&file, flags).map(|opened| opened.open_id);
        opened.map(|id| user.release(&file, id).unwrap())
    };
    let access = |mask| Body::Access(v1::Access { handle: file.clone(), mask });
    let set_time = v1::SetAttr {
        handle: file.clone(),
        mtime: Some(v1::SetTime { at: None }),
        ..Default::default()
    };
    let inline = v1::CommitData {
        handle: file.clone(),
        inline_data: Some(b"x".to_vec().into()),
        base_change: user.getattr(&file).unwrap().change,
        ..Default::default()
    };
    let link = Body::Link(v1::Link {
        handle: file.clone(),
        new_parent: dir.clone(),
        new_name: b"linked".to_vec(),
    });
    let extents =
        v1::ReadExtents { handle: file.clone(), offset: 0, length: 1, ..Default::default() };
    vec![
        ("lookup", 1, 0, user.lookup(&dir, "f").map(|_| ())),
        ("readdir", 4, 0, user.names(&dir).map(|_| ())),
        ("access read", 0, 4, call(access(4))),
        ("access write", 0, 2, call(access(2))),
        ("access execute", 0, 1, call(access(1))),
        ("open to read", 0, 4, open(0)),
        ("open to write", 0, 2, open(O_WRONLY)),
        ("open to read and write", 0, 6, open(2)),
        ("execute", 0, 1, open(FMODE_EXEC)),
        ("read extents", 0, 4, call(Body::ReadExtents(extents))),
        ("commit", 0, 2, call(Body::CommitData(inline))),
        ("set the time to now", 0, 2, user.setattr(set_time).map(|_| ())),
        ("truncate", 0, 2, user.truncate(&file, 0).map(|_| ())),
        ("setxattr", 0, 2, set(user, &file, "user.new", b"", 0)),
        ("getxattr", 0, 4, get(user, &file, "user.a").map(|_| ())),
        ("create", 3, 0, user.create(&dir, "new").map(|_| ())),
        ("open by create", 1, 6, open_by_create(user, &dir)),
        ("link", 3, 0, call(link)),
        ("rename", 3, 0, call(rename((&dir, "g"), (&dir, "h")))),
        ("unlink", 3, 0, call(unlink(&dir, "victim", false))),
        ("rmdir", 3, 0, call(unlink(&dir, "sub", true))),
    ]
}

fn open_by_create(user: &Client, dir: &[u8]) -> Result<(), Code> {
    let Body::Make(op) = make(dir, "f", FileKind::Regular, 0o644) else { unreachable!() };
    let op = v1::Make { exclusive: false, open: true, open_flags: 2, ..op };
    user.make(op).map(|_| ())
}

/// A directory `d` with what the attempts need.
fn stage(fixture: &Fixture) -> Client {
    let root = fixture.client();
    let dir = root.mkdir(&root.root, "d").unwrap().handle;
    for name in ["f", "g", "victim"] {
        root.create(&dir, name).unwrap();
    }
    root.mkdir(&dir, "sub").unwrap();
    set(&root, &root.walk("d/f").unwrap().handle, "user.a", b"1", 0).unwrap();
    root
}

#[test]
fn every_operation_heeds_the_list_where_it_grants_and_where_it_refuses() {
    // What the list gives user 10 by name, by group, or as one of the others;
    // the mode says the opposite as far as it can.
    let lists: [fn(u32) -> String; 3] = [
        |perm| format!("u::0,u:10:{perm},g::0,m::7,o::{}", 7 - perm),
        |perm| format!("u::0,g::0,g:10:{perm},m::7,o::{}", 7 - perm),
        |perm| format!("u::0,u:11:7,g::7,m::7,o::{perm}"),
    ];
    for list in lists {
        for (dir_perm, file_perm) in
            [(0, 7), (1, 6), (3, 4), (4, 1), (5, 2), (7, 0), (2, 3), (6, 5)]
        {
            let engine = std::sync::Arc::new(crate::engine::memory::MemoryEngine::new());
            let fixture = Fixture::new(engine);
            let root = stage(&fixture);
            let dir = root.walk("d").unwrap().handle;
            let file = root.walk("d/f").unwrap().handle;
            set_acl(&root, &dir, ACCESS, &list(dir_perm)).unwrap();
            set_acl(&root, &file, ACCESS, &list(file_perm)).unwrap();
            let user = root.as_user(10, 10);
            for (name, on_dir, on_file, done) in attempts(&root, &user) {
                let granted = dir_perm & on_dir == on_dir && file_perm & on_file == on_file;
                let expected = if granted { Ok(()) } else { Err(Code::FsAccess) };
                assert_eq!(done, expected, "{name} {} {}", list(dir_perm), list(file_perm));
            }
            fixture.verify();
        }
    }
}

#[test]
fn rights_of_sessions_bound_lists_too() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let file = root.create(&root.root, "f").unwrap().handle;
        let new = root.create(&root.root, "new").unwrap().handle;
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        let text = "u::6,u:10:6,g::4,m::6,o::0";
        set_acl(&root, &file, ACCESS, text).unwrap();
        set_acl(&root, &dir, DEFAULT, text).unwrap();
        let here = |client: &Client, name: &str| client.walk(name).unwrap().handle;
        let reader = fixture.client_with("/", v1::Flags { ro: true, ..Default::default() });
        let refused = Err(Code::FsReadOnly);
        assert_eq!(set_acl(&reader, &here(&reader, "new"), ACCESS, text), refused);
        assert_eq!(set_acl(&reader, &here(&reader, "d"), DEFAULT, text), refused);
        assert_eq!(remove(&reader, &here(&reader, "f"), ACCESS), refused);
        assert_eq!(get(&reader, &here(&reader, "f"), ACCESS).unwrap(), acl(text));
        // Adding is appending; replacing and removing take something away.
        let flags = v1::Flags { append_only: true, ..Default::default() };
        let appender = fixture.client_with("/", flags);
        let refused = Err(Code::FsNotPermitted);
        let (theirs, d) = (here(&appender, "f"), here(&appender, "d"));
        set_acl(&appender, &here(&appender, "new"), ACCESS, text).unwrap();
        assert_eq!(set_acl(&appender, &theirs, ACCESS, "u::6,u:11:6,g::4,m::6,o::0"), refused);
        assert_eq!(set_acl(&appender, &theirs, ACCESS, "u::6,g::4,o::0"), refused);
        assert_eq!(set(&appender, &theirs, ACCESS, b"", 0), refused);
        assert_eq!(remove(&appender, &theirs, ACCESS), refused);
        assert_eq!(remove(&appender, &d, DEFAULT), refused);
        assert_eq!(set_acl(&appender, &d, DEFAULT, text), refused);
        assert_eq!(get(&root, &new, ACCESS).unwrap(), acl(text));
        // Whoever root is squashed to owns nothing of root's.
        let flags = v1::Flags { root_squash: true, squash_uid: Some(10), ..Default::default() };
        let squashed = fixture.client_with("/", flags);
        let theirs = here(&squashed, "f");
        assert_eq!(set_acl(&squashed, &theirs, ACCESS, text), refused);
        let id = squashed.open(&theirs, 2).unwrap().open_id;
        squashed.release(&theirs, id).unwrap();
        set_acl(&root, &file, ACCESS, "u::6,u:10:0,g::4,m::6,o::6").unwrap();
        assert_eq!(squashed.open(&theirs, 0).unwrap_err(), Code::FsAccess);
        fixture.verify();
    });
}

#[test]
fn a_volume_without_lists_goes_by_modes_alone() {
    on_each_engine(|fixture| {
        let root = with_umask(&fixture.client(), 0o022);
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        let file = root.create(&dir, "f").unwrap().handle;
        set_acl(&root, &file, ACCESS, "u::6,u:10:0,g::0,m::6,o::4").unwrap();
        set_acl(&root, &dir, DEFAULT, "u::7,u:10:7,g::7,m::7,o::7").unwrap();
        let named = root.as_user(10, 10);
        assert_eq!(named.open(&file, 0).unwrap_err(), Code::FsAccess);
        no_lists(fixture, true);
        let id = named.open(&file, 0).unwrap().open_id;
        named.release(&file, id).unwrap();
        for name in [ACCESS, DEFAULT] {
            assert_eq!(get(&root, &dir, name).unwrap_err(), Code::FsUnsupported);
            assert_eq!(set_acl(&root, &dir, name, "u::7,g::7,o::7"), Err(Code::FsUnsupported));
            assert_eq!(remove(&root, &dir, name).unwrap_err(), Code::FsUnsupported);
        }
        assert_eq!(list(&root, &dir), [] as [&str; 0]);
        let made = root.create(&dir, "made").unwrap().attr.unwrap();
        assert_eq!((made.mode, made.access_acl), (0o644, false));
        root.chmod(&file, 0o640).unwrap();
        fixture.verify();
        no_lists(fixture, false);
        assert_eq!(get(&root, &file, ACCESS).unwrap(), acl("u::6,u:10:0,g::0,m::4,o::0"));
        assert_eq!(named.open(&file, 0).unwrap_err(), Code::FsAccess);
        // Without other attributes there are lists all the same.
        let mut settings = fixture.volume.settings();
        settings.flags.no_xattr = true;
        fixture.volume.update_settings(settings).unwrap();
        assert_eq!(list(&root, &file), [ACCESS]);
        assert!(get(&root, &file, ACCESS).is_ok());
        assert_eq!(get(&root, &file, "user.a").unwrap_err(), Code::FsUnsupported);
        fixture.verify();
    });
}

#[test]
fn the_superblock_tells_of_the_first_list_and_restarts_keep_all() {
    on_each_engine(|fixture| {
        let noted = |fixture: &Fixture| fixture.volume.with_view(superblock::has_lists).unwrap();
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        set_acl(&root, &dir, ACCESS, "u::7,g::5,o::5").unwrap();
        assert!(!noted(fixture), "a mode is no list");
        set_acl(&root, &dir, DEFAULT, "u::7,g::5,o::5").unwrap();
        assert!(noted(fixture));
        set_acl(&root, &dir, ACCESS, "u::7,u:10:7,g::5,m::7,o::0").unwrap();
        let again = fixture.reopen();
        assert!(noted(&again));
        let root = again.client();
        let dir = root.walk("d").unwrap().handle;
        assert_eq!(list(&root, &dir), [ACCESS, DEFAULT]);
        root.as_user(10, 10).create(&dir, "f").unwrap();
        assert_eq!(root.as_user(11, 11).lookup(&dir, "f").unwrap_err(), Code::FsAccess);
        again.verify();
    });
}

#[test]
fn names_are_kept_where_the_kernel_decides_as_meta_does() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        root.create(&dir, "f").unwrap();
        let open = |acls| {
            let new = NewSession { recalls: true, acls, ..new_session("/", v1::Flags::default()) };
            fixture.client_of(new)
        };
        let kept = |client: &Client| client.walk("d/f").unwrap().name_cache_millis > 0;
        for acls in [false, true] {
            let client = open(acls);
            assert!(kept(&client), "no list");
            set_acl(&client, &dir_of(&client), ACCESS, "u::7,u:10:0,g::5,m::5,o::5").unwrap();
            assert_eq!(kept(&client), acls, "an old kernel would let user 10 in");
            let page = v1::ReadDir { handle: dir_of(&client), plus: true, ..Default::default() };
            assert_eq!(client.page(page).unwrap().name_cache_millis > 0, acls);
            // Linux goes by the mode when the mask is empty.
            client.chmod(&dir_of(&client), 0o705).unwrap();
            assert!(!kept(&client));
            assert_eq!(client.as_user(10, 1).lookup(&dir_of(&client), "f"), Err(Code::FsAccess));
            remove(&client, &dir_of(&client), ACCESS).unwrap();
            assert!(kept(&client));
            fixture.volume.end_session(client.id).unwrap();
        }
    });
}

fn dir_of(client: &Client) -> Vec<u8> {
    client.walk("d").unwrap().handle
}

#[test]
fn a_session_has_lists_where_volume_client_and_identity_have_them() {
    on_each_engine(|fixture| {
        let opened = |acls, flags| {
            fixture
                .volume
                .open_session(NewSession { acls, ..new_session("/", flags) })
                .unwrap()
                .acls
        };
        let pinned = v1::Flags { uid: Some(1), ..Default::default() };
        assert!(opened(true, v1::Flags::default()));
        assert!(!opened(false, v1::Flags::default()) && !opened(true, pinned));
        no_lists(fixture, true);
        assert!(!opened(true, v1::Flags::default()));
    });
}

#[test]
fn a_list_is_recalled_from_others_before_its_change_returns() {
    on_each_engine(|fixture| {
        let (one, two) =
            (fixture.keeper("/", v1::Flags::default()), fixture.keeper("/", v1::Flags::default()));
        // Whoever makes a directory keeps its names: this one keeps nothing.
        let plain = fixture.client();
        for name in ["listed", "masked"] {
            plain.mkdir(&plain.root, name).unwrap();
        }
        let [listed, masked] = ["listed", "masked"].map(|name| one.walk(name).unwrap());
        let made = one.create(&one.root, "f").unwrap();
        let text = "u::7,u:10:0,g::5,m::5,o::5";
        set_acl(&one, &masked.handle, ACCESS, text).unwrap();
        let list = |handle: &[u8]| {
            let name = ACCESS.as_bytes().to_vec();
            let value = acl(text);
            Body::SetXattr(v1::SetXattr { handle: handle.to_vec(), name, value, flags: 0 })
        };
        two.walk("f").unwrap();
        let (recall, _) = waits_for(&two, &one, list(&made.handle));
        assert_eq!(recall.inos, [made.attr.unwrap().ino]);
        // Names, where a kernel may not answer them any more.
        for (name, dir, change) in [
            ("listed", &listed, list(&listed.handle)),
            ("masked", &masked, chmod(&masked.handle, 0o705)),
        ] {
            let theirs = two.walk(name).unwrap().handle;
            let absent = two.call(lookup(&theirs, "x"));
            assert!(matches!(absent, Ok(v1::reply::Result::Absent(_))), "{name}: {absent:?}");
            let (recall, _) = waits_for(&two, &one, change);
            assert_eq!(recall.name_inos, [dir.attr.unwrap().ino]);
        }
    });
}

#[test]
fn verify_finds_lists_that_are_not_as_they_should() {
    let damages: [fn(&mut Inode); 5] = [
        |inode| inode.mode = 0o600,
        |inode| inode.set_access_list(acl("u::7,g::7,o::7").into()),
        |inode| inode.set_access_list(b"damaged".as_slice().into()),
        |inode| inode.set_default_list(acl("u::7,g::7,o::7").into()),
        |inode| inode.kind = FileKind::Fifo as i32,
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let fixture = Fixture::new(std::sync::Arc::new(crate::engine::memory::MemoryEngine::new()));
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap();
        set_acl(&client, &file.handle, ACCESS, "u::6,u:10:6,g::4,m::6,o::4").unwrap();
        fixture.verify();
        let ino = flexfs_common::ids::Ino(file.attr.unwrap().ino);
        let change = &mut |edit: &mut Edit<'_>| edit.update_inode(ino, damage).map(|_| ());
        fixture.volume.change_alone(change).unwrap();
        let mut found = Vec::new();
        fixture.volume.verify(&mut |invariant, _| found.push(invariant.to_owned())).unwrap();
        let expected = if number == 4 { "dentry" } else { "acl" };
        assert!(found.iter().any(|one| one == expected), "{number}: {found:?}");
        if number == 2 {
            let stranger = client.as_user(10, 10);
            assert_eq!(stranger.open(&file.handle, 0).unwrap_err(), Code::FsAccess);
            assert_eq!(client.chmod(&file.handle, 0o600).unwrap_err(), Code::EngineFailed);
            remove(&client, &file.handle, ACCESS).unwrap();
            fixture.verify();
        }
    }
}

#[test]
fn lists_count_among_the_names_that_fit_one_answer() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let mut count = 0;
        while set(&client, &file, &format!("user.{count:0>250}"), b"", 0).is_ok() {
            count += 1;
        }
        let text = "u::6,u:10:6,g::4,m::6,o::0";
        assert_eq!(set_acl(&client, &file, ACCESS, text).unwrap_err(), Code::FsNoSpace);
        set_acl(&client, &file, ACCESS, "u::6,g::4,o::0").unwrap();
        remove(&client, &file, &format!("user.{:0>250}", 0)).unwrap();
        set_acl(&client, &file, ACCESS, text).unwrap();
        set_acl(&client, &file, ACCESS, text).unwrap();
        let again = set(&client, &file, &format!("user.{:0>250}", 0), b"", 0);
        assert_eq!(again.unwrap_err(), Code::FsNoSpace);
        fixture.verify();
    });
}

#[test]
fn a_group_of_the_caller_counts_as_much_as_the_first() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let file = root.create(&root.root, "f").unwrap().handle;
        set_acl(&root, &file, ACCESS, "u::6,g::0,g:20:6,m::4,o::0").unwrap();
        let mut user = root.as_user(10, 10);
        assert_eq!(user.open(&file, 0).unwrap_err(), Code::FsAccess);
        user.caller = v1::Caller { groups: vec![5, 20], ..caller(10, 10) };
        let id = user.open(&file, 0).unwrap().open_id;
        user.release(&file, id).unwrap();
        assert_eq!(user.open(&file, O_WRONLY).unwrap_err(), Code::FsAccess, "the mask");
    });
}
