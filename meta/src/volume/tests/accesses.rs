//! Access times: what mounts say of them, and what becomes of it.

use flexfs_common::Code;
use flexfs_common::relatime::key;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::fixture::{Client, on_each_engine};
use super::keeping::recalled;

const O_RDONLY: u32 = 0;
const O_WRONLY: u32 = 1;
const DAY: i64 = 24 * 60 * 60;

/// Reads a file at this time, and closes it.
fn read_at(client: &Client, handle: &[u8], at: v1::Timestamp) {
    let opened = client.open(handle, O_RDONLY).unwrap();
    release_at(client, handle, opened.open_id, at).unwrap();
}

fn release_at(client: &Client, handle: &[u8], open_id: u64, at: v1::Timestamp) -> Result<(), Code> {
    let handle = handle.to_vec();
    let release = v1::Release { open_id, handle, accessed: Some(at), ..Default::default() };
    client.call(Body::Release(release)).map(drop)
}

fn note_at(client: &Client, handle: &[u8], at: v1::Timestamp) -> Result<(), Code> {
    let note = v1::NoteAccess { handle: handle.to_vec(), at: Some(at) };
    client.call(Body::NoteAccess(note)).map(drop)
}

/// By meta's own clock.
fn now(client: &Client) -> v1::Timestamp {
    client.chmod(&client.root, 0o755).unwrap().ctime.unwrap()
}

fn atime(client: &Client, handle: &[u8]) -> v1::Timestamp {
    client.getattr(handle).unwrap().atime.unwrap()
}

fn set_atime(client: &Client, handle: &[u8], seconds: i64) {
    let atime = Some(v1::SetTime { at: Some(v1::Timestamp { seconds, nanos: 0 }) });
    client.setattr(v1::SetAttr { handle: handle.to_vec(), atime, ..Default::default() }).unwrap();
}

#[test]
fn the_first_reading_after_a_change_moves_the_time_and_nothing_else() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let before = client.getattr(&file).unwrap();
        let first = now(&client);
        read_at(&client, &file, first);
        let after = client.getattr(&file).unwrap();
        assert_eq!(after, v1::Attr { atime: Some(first), ..before });
        read_at(&client, &file, now(&client));
        assert_eq!(atime(&client, &file), first, "nothing has changed since");
        client.chmod(&file, 0o600).unwrap();
        read_at(&client, &file, first);
        assert_eq!(atime(&client, &file), first);
        let second = now(&client);
        read_at(&client, &file, second);
        assert_eq!(atime(&client, &file), second);
        fixture.verify();
    });
}

#[test]
fn a_time_of_the_future_is_now_and_none_goes_back() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let made = atime(&client, &file);
        for bad in [(made.seconds - 5, 0), (i64::MIN, 0)] {
            read_at(&client, &file, v1::Timestamp { seconds: bad.0, nanos: bad.1 });
            assert_eq!(atime(&client, &file), made);
        }
        read_at(&client, &file, v1::Timestamp { seconds: made.seconds + 1000, nanos: 0 });
        let (read, later) = (atime(&client, &file), now(&client));
        assert!(key(&made) < key(&read) && key(&read) < key(&later), "{made:?} {read:?} {later:?}");
        client.chmod(&file, 0o600).unwrap();
        read_at(&client, &file, v1::Timestamp { seconds: i64::MAX, nanos: u32::MAX });
        assert!(key(&atime(&client, &file)) < key(&now(&client)));
    });
}

#[test]
fn what_utimensat_has_set_stays_until_the_next_reading() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let before = now(&client);
        set_atime(&client, &file, 77);
        read_at(&client, &file, before);
        assert_eq!(atime(&client, &file).seconds, 77, "that was before it");
        let after = now(&client);
        read_at(&client, &file, after);
        assert_eq!(atime(&client, &file), after);
        set_atime(&client, &file, after.seconds + 10 * DAY);
        read_at(&client, &file, now(&client));
        assert_eq!(atime(&client, &file).seconds, after.seconds + 10 * DAY);
        // A writing between the reading and its report changes nothing of it.
        set_atime(&client, &file, 78);
        let read = now(&client);
        client.truncate(&file, 100).unwrap();
        read_at(&client, &file, read);
        assert_eq!(atime(&client, &file), read);
        fixture.verify();
    });
}

#[test]
fn who_may_change_nothing_or_has_not_read_moves_no_time() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let file = owner.create(&owner.root, "f").unwrap().handle;
        let dir = owner.mkdir(&owner.root, "d").unwrap().handle;
        let before = (atime(&owner, &file), atime(&owner, &dir));
        for flags in [
            v1::Flags { ro: true, ..Default::default() },
            v1::Flags { no_atime: true, ..Default::default() },
        ] {
            let client = fixture.client_with("/", flags);
            let (file, dir) = (client.walk("f").unwrap().handle, client.walk("d").unwrap().handle);
            read_at(&client, &file, now(&owner));
            note_at(&client, &dir, now(&owner)).unwrap();
        }
        // Through an open that cannot read, or that is another's or none.
        let at = now(&owner);
        let other = owner.create(&owner.root, "other").unwrap().handle;
        let theirs = owner.open(&other, O_RDONLY).unwrap().open_id;
        let writes = owner.open(&file, O_WRONLY).unwrap().open_id;
        for open_id in [writes, theirs, 12345] {
            release_at(&owner, &file, open_id, at).unwrap();
        }
        assert_eq!(note_at(&owner, &file, at), Err(Code::FsInvalid), "a file needs an open");
        owner.chmod(&dir, 0o700).unwrap();
        let stranger = owner.as_user(1000, 1000);
        assert_eq!(note_at(&stranger, &dir, at), Err(Code::FsAccess));
        assert_eq!((atime(&owner, &file), atime(&owner, &dir)), before);
        let at = now(&owner);
        note_at(&owner, &dir, at).unwrap();
        assert_eq!(atime(&owner, &dir), at);
        let link = owner.symlink(&owner.root, "link", "f").unwrap().handle;
        let at = now(&owner);
        note_at(&owner, &link, at).unwrap();
        assert_eq!(atime(&owner, &link), at);
        fixture.verify();
    });
}

#[test]
fn what_has_left_the_scope_keeps_its_time_and_its_end_is_no_error() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let dir = owner.mkdir(&owner.root, "d").unwrap().handle;
        let file = owner.create(&dir, "f").unwrap().handle;
        let inside = fixture.client_at("/d");
        let theirs = inside.walk("f").unwrap().handle;
        let opened = inside.open(&theirs, O_RDONLY).unwrap();
        let before = atime(&owner, &file);
        owner.rename((&dir, "f"), (&owner.root, "f")).unwrap();
        release_at(&inside, &theirs, opened.open_id, now(&owner)).unwrap();
        assert_eq!(atime(&owner, &file), before);
        fixture.verify();
    });
}

#[test]
fn others_are_not_told_and_keep_what_they_have() {
    on_each_engine(|fixture| {
        let (one, two) =
            (fixture.keeper("/", v1::Flags::default()), fixture.keeper("/", v1::Flags::default()));
        let file = one.create(&one.root, "f").unwrap().handle;
        let dir = one.mkdir(&one.root, "d").unwrap().handle;
        let seen = [two.lookup(&two.root, "f").unwrap(), two.lookup(&two.root, "d").unwrap()];
        assert!(seen.iter().all(|seen| seen.attr.unwrap().cache_millis > 0));
        let opened = one.open(&file, O_RDONLY).unwrap();
        let at = now(&fixture.client());
        // Answered at once: `call` takes no answer that waits.
        release_at(&one, &file, opened.open_id, at).unwrap();
        note_at(&one, &dir, at).unwrap();
        assert!(recalled(&two).iter().all(|recall| {
            seen.iter().all(|seen| !recall.inos.contains(&seen.attr.unwrap().ino))
        }));
        for seen in seen {
            let again = two.getattr(&seen.handle).unwrap();
            assert_eq!(again.atime, Some(at), "who asks is told");
            assert!(again.cache_millis > 0, "no quiet time");
        }
    });
}
