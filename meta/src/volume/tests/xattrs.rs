//! Extended attributes.

use flexfs_common::{Code, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply;

use super::fixture::{Client, on_each_engine};

pub(super) fn set(
    client: &Client,
    handle: &[u8],
    name: &str,
    value: &[u8],
    flags: u32,
) -> Result<(), Code> {
    let op = v1::SetXattr {
        handle: handle.to_vec(),
        name: name.as_bytes().to_vec(),
        value: value.to_vec(),
        flags,
    };
    client.call(Body::SetXattr(op)).map(|_| ())
}

pub(super) fn get(client: &Client, handle: &[u8], name: &str) -> Result<Vec<u8>, Code> {
    let op = v1::GetXattr { handle: handle.to_vec(), name: name.as_bytes().to_vec() };
    match client.call(Body::GetXattr(op))? {
        reply::Result::BytesValue(value) => Ok(value.value.into()),
        other => panic!("a value was expected: {other:?}"),
    }
}

pub(super) fn list(client: &Client, handle: &[u8]) -> Vec<String> {
    match client.call(Body::ListXattr(v1::ListXattr { handle: handle.to_vec() })).unwrap() {
        reply::Result::Names(names) => {
            names.names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
        }
        other => panic!("names were expected: {other:?}"),
    }
}

pub(super) fn remove(client: &Client, handle: &[u8], name: &str) -> Result<(), Code> {
    let op = v1::RemoveXattr { handle: handle.to_vec(), name: name.as_bytes().to_vec() };
    client.call(Body::RemoveXattr(op)).map(|_| ())
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        assert_eq!(get(&client, &file, "user.a").unwrap_err(), Code::FsNoAttribute);
        assert_eq!(set(&client, &file, "user.a", b"1", 2).unwrap_err(), Code::FsNoAttribute);
        let change = client.getattr(&file).unwrap().change;
        set(&client, &file, "user.a", b"1", 1).unwrap();
        assert!(client.getattr(&file).unwrap().change > change);
        assert_eq!(set(&client, &file, "user.a", b"2", 1).unwrap_err(), Code::FsExists);
        set(&client, &file, "user.a", b"22", 2).unwrap();
        set(&client, &file, "user.\u{e4}", b"", 0).unwrap();
        set(&client, &file, "trusted.t", b"t", 0).unwrap();
        assert_eq!(get(&client, &file, "user.a").unwrap(), b"22");
        assert_eq!(list(&client, &file), ["trusted.t", "user.a", "user.\u{e4}"]);
        fixture.verify();
        remove(&client, &file, "user.a").unwrap();
        assert_eq!(remove(&client, &file, "user.a").unwrap_err(), Code::FsNoAttribute);
        client.unlink(&client.root, "f").unwrap();
        fixture.verify();
    });
}

#[test]
fn name_spaces_have_their_rules() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        root.chmod(&root.root, 0o777).unwrap();
        let file = root.create(&root.root, "f").unwrap().handle;
        let link = root.symlink(&root.root, "l", "f").unwrap().handle;
        let user = root.as_user(1, 1);
        set(&root, &file, "trusted.t", b"t", 0).unwrap();
        set(&root, &file, "security.s", b"s", 0).unwrap();
        assert_eq!(set(&user, &file, "user.u", b"", 0).unwrap_err(), Code::FsAccess);
        assert_eq!(set(&user, &file, "trusted.u", b"", 0).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(set(&user, &file, "security.u", b"", 0).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(get(&user, &file, "trusted.t").unwrap_err(), Code::FsNoAttribute);
        assert_eq!(get(&user, &file, "security.s").unwrap(), b"s");
        assert_eq!(list(&user, &file), ["security.s"]);
        assert_eq!(set(&root, &link, "user.u", b"", 0).unwrap_err(), Code::FsNotPermitted);
        for name in ["system.other", "other.x", "user"] {
            assert_eq!(set(&root, &file, name, b"", 0).unwrap_err(), Code::FsUnsupported, "{name}");
        }
        assert_eq!(set(&root, &file, "user.", b"", 0).unwrap_err(), Code::FsInvalid);
        assert_eq!(set(&root, &file, "user.x", b"", 4).unwrap_err(), Code::FsInvalid);
    });
}

#[test]
fn limits_of_linux_hold() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let name = format!("user.{}", "n".repeat(limits::XATTR_NAME_MAX_LEN - 5));
        set(&client, &file, &name, &vec![1; limits::XATTR_VALUE_MAX_LEN], 0).unwrap();
        assert_eq!(get(&client, &file, &name).unwrap().len(), limits::XATTR_VALUE_MAX_LEN);
        assert_eq!(set(&client, &file, &format!("{name}x"), b"", 0).unwrap_err(), Code::FsRange);
        let long = vec![1; limits::XATTR_VALUE_MAX_LEN + 1];
        assert_eq!(set(&client, &file, "user.x", &long, 0).unwrap_err(), Code::FsRange);
        let mut set_ok = 1;
        while set(&client, &file, &format!("user.{set_ok:0>250}"), b"", 0).is_ok() {
            set_ok += 1;
        }
        assert_eq!(set_ok, limits::XATTR_LIST_MAX_LEN / (limits::XATTR_NAME_MAX_LEN + 1));
        assert_eq!(
            set(&client, &file, &format!("user.{set_ok:0>250}"), b"", 0).unwrap_err(),
            Code::FsNoSpace
        );
        fixture.verify();
    });
}

#[test]
fn a_volume_without_xattrs_has_none() {
    on_each_engine(|fixture| {
        let mut settings = fixture.volume.settings();
        settings.flags.no_xattr = true;
        fixture.volume.update_settings(settings).unwrap();
        let client = fixture.client();
        let handle = client.root.clone();
        assert_eq!(set(&client, &handle, "user.a", b"", 0).unwrap_err(), Code::FsUnsupported);
        assert_eq!(get(&client, &handle, "user.a").unwrap_err(), Code::FsUnsupported);
        assert_eq!(list(&client, &handle), [] as [&str; 0], "it may have access control lists");
        let mut settings = fixture.volume.settings();
        settings.flags.no_acl = true;
        fixture.volume.update_settings(settings).unwrap();
        let list = client.call(Body::ListXattr(v1::ListXattr { handle }));
        assert_eq!(list, Err(Code::FsUnsupported));
    });
}

const CAPABILITY: &str = "security.capability";

/// Whoever changes contents or owner takes the capability away, root too.
#[test]
fn a_capability_falls_with_every_change_of_contents_or_owner() {
    const O_RDWR_TRUNC: u32 = 0o1002;
    type Change = fn(&Client, &[u8]);
    let changes: [(&str, Change); 7] = [
        ("commit of extents", |client, file| {
            client.write(file, 0, 1 << 20, 100_000).unwrap();
        }),
        ("truncation", |client, file| {
            client.truncate(file, 5).unwrap();
        }),
        ("extension", |client, file| {
            client.truncate(file, 1 << 30).unwrap();
        }),
        ("open with O_TRUNC", |client, file| {
            client.open(file, O_RDWR_TRUNC).unwrap();
        }),
        ("fallocate", |client, file| {
            let open_id = client.open(file, 2).unwrap().open_id;
            let handle = file.to_vec();
            let op = v1::Fallocate { handle, open_id, mode: 0, offset: 0, length: 2 << 20 };
            client.call(Body::Fallocate(op)).unwrap();
        }),
        ("chown", |client, file| {
            client.chown(file, 3, 4).unwrap();
        }),
        ("chown to the same", |client, file| {
            client.chown(file, 0, 0).unwrap();
        }),
    ];
    on_each_engine(|fixture| {
        let client = fixture.client();
        for (what, change) in changes {
            let file = client.create(&client.root, what).unwrap().handle;
            client.write(&file, 0, 0, 100_000).unwrap();
            set(&client, &file, CAPABILITY, b"caps", 0).unwrap();
            set(&client, &file, "user.a", b"1", 0).unwrap();
            client.chmod(&file, 0o755).unwrap();
            assert_eq!(get(&client, &file, CAPABILITY).unwrap(), b"caps");
            change(&client, &file);
            assert_eq!(get(&client, &file, CAPABILITY), Err(Code::FsNoAttribute), "{what}");
            assert_eq!(list(&client, &file), ["user.a"], "{what}");
        }
        let inline = client.create(&client.root, "inline").unwrap().handle;
        set(&client, &inline, CAPABILITY, b"caps", 0).unwrap();
        client.write_inline(&inline, 0, b"new").unwrap();
        assert_eq!(list(&client, &inline), Vec::<String>::new());
        fixture.verify();
    });
}

/// A kernel takes it away by removexattr in the name of who writes or chowns.
#[test]
fn whoever_may_write_or_chown_may_take_a_capability_away_and_nobody_else() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        root.chmod(&root.root, 0o755).unwrap();
        let (owner, member, other) = (root.as_user(1, 1), root.as_user(2, 5), root.as_user(3, 3));
        let file = root.create(&root.root, "f").unwrap().handle;
        root.chown(&file, 1, 5).unwrap();
        let give = |mode| {
            set(&root, &file, CAPABILITY, b"caps", 0).unwrap();
            root.chmod(&file, mode).unwrap();
        };
        give(0o564);
        assert_eq!(remove(&other, &file, CAPABILITY), Err(Code::FsNotPermitted));
        remove(&member, &file, CAPABILITY).unwrap();
        give(0o444);
        assert_eq!(remove(&member, &file, CAPABILITY), Err(Code::FsNotPermitted));
        remove(&owner, &file, CAPABILITY).unwrap();
        assert_eq!(remove(&owner, &file, CAPABILITY), Err(Code::FsNoAttribute));
        // Open for writing since before the mode changed.
        give(0o464);
        let reading = member.open(&file, 0).unwrap().open_id;
        root.chmod(&file, 0o444).unwrap();
        assert_eq!(remove(&member, &file, CAPABILITY), Err(Code::FsNotPermitted));
        root.chmod(&file, 0o464).unwrap();
        let writing = member.open(&file, 1).unwrap().open_id;
        root.chmod(&file, 0o444).unwrap();
        remove(&member, &file, CAPABILITY).unwrap();
        for open in [reading, writing] {
            root.release(&file, open).unwrap();
        }
        // It is given by root alone, and nothing else of its name space is
        // anybody's to take.
        assert_eq!(set(&owner, &file, CAPABILITY, b"caps", 0), Err(Code::FsNotPermitted));
        set(&root, &file, "security.other", b"", 0).unwrap();
        assert_eq!(remove(&owner, &file, "security.other"), Err(Code::FsNotPermitted));
    });
}
