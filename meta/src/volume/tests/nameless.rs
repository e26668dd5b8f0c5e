//! Files without a name (O_TMPFILE): how they live, get a name, and end.

use std::sync::atomic::Ordering;

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply;

use super::acl::{ACCESS, DEFAULT, acl};
use super::fixture::{Client, Fixture, answer, lookup, make_nameless, on_each_engine};
use super::keeping::{begin, give_up, is_answered, recalled, runtime, waits_for};
use super::xattrs::{get, set};
use crate::volume::Execution;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;

fn link(handle: &[u8], dir: &[u8], name: &str) -> Body {
    let (handle, new_parent) = (handle.to_vec(), dir.to_vec());
    Body::Link(v1::Link { handle, new_parent, new_name: name.as_bytes().to_vec() })
}

fn resumed(client: &Client, again: &Fixture) -> Client {
    let client = client.at(again);
    let attachment = again.volume.attach(client.id).unwrap();
    client.generation.store(attachment.generation, Ordering::Relaxed);
    client
}

fn entry(answer: reply::Result) -> v1::Entry {
    let reply::Result::Entry(entry) = answer else { panic!("an entry: {answer:?}") };
    entry
}

#[test]
fn it_lives_by_its_open_and_its_directory_does_not_change() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let dir = client.mkdir(&client.root, "d").unwrap().handle;
        let before = client.getattr(&dir).unwrap();
        let made = client.make_nameless(&dir, true).unwrap();
        let attr = made.attr.unwrap();
        assert_eq!((attr.nlink, attr.size, attr.mode), (0, 0, 0o644));
        assert_eq!(attr.kind, v1::FileKind::Regular as i32);
        assert_ne!(made.open_id, 0);
        assert_eq!(client.getattr(&dir).unwrap(), before);
        assert_eq!(client.names(&dir).unwrap(), [""; 0]);
        assert_eq!(fixture.verify().inodes, 3);
        // Its directory may go.
        client.rmdir(&client.root, "d").unwrap();
        client.write(&made.handle, made.open_id, 0, 5000).unwrap();
        assert_eq!(client.spans(&made.handle), [(0, 5000, 0)]);
        fixture.volume.tick().unwrap();
        assert_eq!(client.getattr(&made.handle).unwrap().size, 5000, "open: not collected");
        client.release(&made.handle, made.open_id).unwrap();
        assert_eq!(client.getattr(&made.handle).unwrap_err(), Code::FsStale);
        fixture.volume.tick().unwrap();
        assert!(fixture.blocks.objects.lock().is_empty(), "its blocks go too");
        assert_eq!(fixture.verify().inodes, 1);
    });
}

#[test]
fn its_first_name_makes_it_a_file_like_any_other() {
    on_each_engine(|fixture| {
        let (client, other) = (fixture.client(), fixture.client());
        let root = client.root.clone();
        let made = client.make_nameless(&root, true).unwrap();
        client.write_inline(&made.handle, made.open_id, b"before").unwrap();
        client.create(&root, "taken").unwrap();
        assert_eq!(client.link(&made.handle, &root, "taken").unwrap_err(), Code::FsExists);
        let named = client.link(&made.handle, &root, "f").unwrap().attr.unwrap();
        assert_eq!((named.nlink, named.size), (1, 6));
        let seen = other.lookup(&other.root, "f").unwrap();
        assert_eq!(seen.attr.unwrap(), named);
        assert_eq!(fixture.verify().inodes, 3);
        client.link(&made.handle, &root, "g").unwrap();
        client.unlink(&root, "f").unwrap();
        client.release(&made.handle, made.open_id).unwrap();
        fixture.volume.tick().unwrap();
        assert_eq!(client.getattr(&made.handle).unwrap().nlink, 1, "it has a name");
        fixture.verify();
        client.unlink(&root, "g").unwrap();
        assert_eq!(fixture.verify().inodes, 2);
    });
}

#[test]
fn what_had_a_name_or_was_to_have_none_gets_none() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let root = client.root.clone();
        let exclusive = client.make_nameless(&root, false).unwrap();
        assert_eq!(client.link(&exclusive.handle, &root, "f").unwrap_err(), Code::FsNotFound);
        let once = client.make_nameless(&root, true).unwrap();
        client.link(&once.handle, &root, "once").unwrap();
        client.unlink(&root, "once").unwrap();
        assert_eq!(client.getattr(&once.handle).unwrap().nlink, 0, "still open");
        assert_eq!(client.link(&once.handle, &root, "again").unwrap_err(), Code::FsNotFound);
        // Refused attempts do not use it up.
        let later = client.make_nameless(&root, true).unwrap();
        let user = client.as_user(5, 5);
        assert_eq!(user.link(&later.handle, &root, "f").unwrap_err(), Code::FsAccess);
        client.link(&later.handle, &root, "f").unwrap();
        assert_eq!(client.names(&root).unwrap(), ["f"]);
        fixture.verify();
    });
}

#[test]
fn it_survives_a_restart_and_ends_with_its_session() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let kept = client.make_nameless(&client.root, true).unwrap();
        client.write(&kept.handle, kept.open_id, 0, 100).unwrap();
        let lost = client.make_nameless(&client.root, true).unwrap();
        client.write(&lost.handle, lost.open_id, 0, 100).unwrap();
        let again = fixture.reopen();
        again.volume.tick().unwrap();
        assert_eq!(again.verify().inodes, 3);
        let client = resumed(&client, &again);
        client.link(&kept.handle, &client.root, "f").unwrap();
        assert_eq!(client.getattr(&kept.handle).unwrap().size, 100);
        again.volume.end_session(client.id).unwrap();
        again.volume.tick().unwrap();
        again.volume.tick().unwrap();
        assert_eq!(again.verify().inodes, 2, "the one with a name");
        assert_eq!(again.blocks.objects.lock().len(), 1);
    });
}

#[test]
fn lost_answers_are_given_again() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let send =
            |client: &Client, op: &v1::Op| match client.execute(vec![op.clone()]).pop().unwrap() {
                Execution::Done(reply) => entry(answer(reply).unwrap()),
                Execution::Pending(_) => panic!("nobody is to be waited for"),
            };
        let make = client.op(make_nameless(&client.root, true));
        let made = send(&client, &make);
        assert_eq!(send(&client, &make), made);
        assert_eq!(fixture.verify().inodes, 2, "one file, one open");
        let name = client.op(link(&made.handle, &client.root, "f"));
        let named = send(&client, &name);
        let again = fixture.reopen();
        let client = resumed(&client, &again);
        assert_eq!(send(&client, &name), named, "not: it exists");
        assert_eq!(client.getattr(&made.handle).unwrap().nlink, 1);
        again.verify();
    });
}

#[test]
fn rights_flags_and_quota_are_those_of_making_a_file() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let user = root.as_user(5, 6);
        for (mode, allowed) in [(0o773, true), (0o771, false), (0o772, false), (0o774, false)] {
            root.chmod(&root.root, mode).unwrap();
            let made = user.make_nameless(&root.root, true).map(drop);
            let expected = if allowed { Ok(()) } else { Err(Code::FsAccess) };
            assert_eq!(made, expected, "{mode:o}");
        }
        let read = v1::MakeNameless {
            open_flags: O_RDONLY,
            parent: root.root.clone(),
            ..Default::default()
        };
        assert_eq!(root.call(Body::MakeNameless(read)).unwrap_err(), Code::FsInvalid);
        let file = root.create(&root.root, "f").unwrap().handle;
        assert_eq!(root.make_nameless(&file, true).unwrap_err(), Code::FsNotDirectory);
        let gone = root.mkdir(&root.root, "gone").unwrap().handle;
        root.open(&gone, O_RDONLY).unwrap();
        root.rmdir(&root.root, "gone").unwrap();
        assert_eq!(root.make_nameless(&gone, true).unwrap_err(), Code::FsNotFound);
        let reader = fixture.client_with("/", v1::Flags { ro: true, ..v1::Flags::default() });
        assert_eq!(reader.make_nameless(&reader.root, true).unwrap_err(), Code::FsReadOnly);
        let append = v1::Flags { append_only: true, ..v1::Flags::default() };
        let adder = fixture.client_with("/", append);
        let made = adder.make_nameless(&adder.root, true).unwrap();
        adder.write(&made.handle, made.open_id, 0, 10).unwrap();
        adder.link(&made.handle, &adder.root, "added").unwrap();
        assert_eq!(adder.truncate(&made.handle, 0).unwrap_err(), Code::FsNotPermitted);
        let inodes = fixture.verify().inodes;
        let mut settings = fixture.volume.settings();
        settings.max_inodes = inodes + 1;
        fixture.volume.update_settings(settings).unwrap();
        let last = root.make_nameless(&root.root, true).unwrap();
        assert_eq!(root.make_nameless(&root.root, true).unwrap_err(), Code::FsQuota);
        root.release(&last.handle, last.open_id).unwrap();
        root.make_nameless(&root.root, true).unwrap();
        fixture.verify();
    });
}

#[test]
fn it_begins_as_a_file_made_in_its_directory() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let dir = root.mkdir(&root.root, "d").unwrap().handle;
        root.chmod(&dir, 0o2777).unwrap();
        root.chown(&dir, 9, 9).unwrap();
        let user = root.as_user(5, 6);
        let make = |mode: u32| {
            let parent = dir.clone();
            let op = v1::MakeNameless { parent, mode, open_flags: O_RDWR, linkable: true };
            user.entry(Body::MakeNameless(op)).unwrap()
        };
        let attr = make(0o666).attr.unwrap();
        assert_eq!((attr.uid, attr.gid, attr.mode), (5, 9, 0o644), "the umask of the caller");
        set(&root, &dir, DEFAULT, &acl("u::7,u:10:6,g::5,m::7,o::4"), 0).unwrap();
        let made = make(0o640);
        assert_eq!(made.attr.unwrap().mode, 0o640, "a default list, and no umask");
        assert!(made.attr.unwrap().access_acl);
        let list = acl("u::6,u:10:6,g::5,m::4,o::0");
        assert_eq!(get(&root, &made.handle, ACCESS).unwrap(), list);
        // Its maker writes it whatever the mode says, and names it.
        let none = make(0);
        user.write_inline(&none.handle, none.open_id, b"x").unwrap();
        user.link(&none.handle, &dir, "none").unwrap();
        let pinned =
            v1::Flags { all_squash: true, uid: Some(77), gid: Some(78), ..Default::default() };
        let other = fixture.client_with("/", pinned);
        let dir = other.walk("d").unwrap().handle;
        let attr = other.make_nameless(&dir, true).unwrap().attr.unwrap();
        assert_eq!((attr.uid, attr.gid), (77, 9));
        fixture.verify();
    });
}

#[test]
fn only_the_session_that_has_it_open_reaches_it() {
    on_each_engine(|fixture| {
        let root = fixture.client();
        let scope = root.mkdir(&root.root, "a").unwrap().handle;
        let outside = root.mkdir(&root.root, "b").unwrap().handle;
        let (inside, second) = (fixture.client_at("/a"), fixture.client_at("/a"));
        let made = inside.make_nameless(&inside.root, true).unwrap();
        let ino = flexfs_common::ids::Ino(made.attr.unwrap().ino);
        for other in [&second, &root] {
            // A genuine handle, as though it had been shown.
            let session = fixture.volume.sessions.live(other.id).unwrap();
            let theirs = session.handles.make(ino).to_vec();
            assert_eq!(other.getattr(&theirs).unwrap_err(), Code::FsStale);
            assert_eq!(other.link(&theirs, &other.root, "f").unwrap_err(), Code::FsStale);
            assert_eq!(other.open(&theirs, O_RDWR).unwrap_err(), Code::FsStale);
        }
        let session = fixture.volume.sessions.live(inside.id).unwrap();
        for far in [&outside, &root.root] {
            let ino = root.getattr(far).unwrap().ino;
            let far = session.handles.make(flexfs_common::ids::Ino(ino)).to_vec();
            assert_eq!(inside.link(&made.handle, &far, "f").unwrap_err(), Code::FsStale);
            assert_eq!(inside.make_nameless(&far, true).unwrap_err(), Code::FsStale);
        }
        inside.link(&made.handle, &inside.root, "f").unwrap();
        assert_eq!(root.lookup(&scope, "f").unwrap().attr.unwrap().ino, ino.0);
        second.walk("f").unwrap();
        fixture.verify();
    });
}

#[test]
fn who_keeps_the_names_of_the_directory_hears_of_the_name_first() {
    on_each_engine(|fixture| {
        let (one, two) =
            (fixture.keeper("/", v1::Flags::default()), fixture.keeper("/", v1::Flags::default()));
        let dir = one.mkdir(&one.root, "d").unwrap();
        let theirs = two.walk("d").unwrap();
        let reply::Result::Absent(absent) = one.call(lookup(&dir.handle, "f")).unwrap() else {
            panic!("one keeps the names")
        };
        assert!(absent.cache_millis > 0);
        let made = two.make_nameless(&theirs.handle, true).unwrap();
        assert!(recalled(&one).is_empty(), "no name, nothing to be told");
        let (recall, reply) = waits_for(&one, &two, link(&made.handle, &theirs.handle, "f"));
        assert_eq!(recall.name_inos, [dir.attr.unwrap().ino]);
        assert_eq!(entry(answer(reply).unwrap()).attr.unwrap().nlink, 1);
        one.lookup(&dir.handle, "f").unwrap();
    });
}

#[test]
fn what_was_buffered_before_the_name_arrives_before_others_see_it() {
    on_each_engine(|fixture| {
        let (one, two) =
            (fixture.writer("/", v1::Flags::default()), fixture.writer("/", v1::Flags::default()));
        let made = one.make_nameless(&one.root, true).unwrap();
        let (attr, open_id) = (made.attr.unwrap(), made.open_id);
        assert!(attr.write_right > 0, "nobody else knows the file");
        one.link(&made.handle, &one.root, "f").unwrap();
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        let recalls = recalled(&one);
        let recall = recalls.iter().find(|recall| recall.write_inos == [attr.ino]).unwrap();
        assert!(!is_answered(&mut asked));
        one.commit(v1::CommitData {
            handle: made.handle.clone(),
            open_id,
            inline_data: Some(b"buffered".to_vec().into()),
            base_change: one.getattr(&made.handle).unwrap().change,
            write_right: attr.write_right,
            ..Default::default()
        })
        .unwrap();
        give_up(&one, &[recall.id]);
        let seen = entry(answer(runtime().block_on(asked)).unwrap());
        assert_eq!(seen.attr.unwrap().size, 8);
    });
}
