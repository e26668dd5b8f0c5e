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
