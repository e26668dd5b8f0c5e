//! The right to buffer writes: who sees a file waits until what was written
//! has arrived, or nobody ever sees it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flexfs_common::ids::TokenId;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply;

use super::fixture::{Client, Fixture, answer, lookup, on_each_engine, rename, unlink};
use super::keeping::{begin, chmod, give_up, is_answered, recalled, runtime};

const O_RDWR: u32 = 2;

fn writer(fixture: &Fixture) -> Client {
    fixture.writer("/", v1::Flags::default())
}

/// A file that its maker may buffer writes to.
struct Written {
    handle: Vec<u8>,
    open_id: u64,
    ino: u64,
    right: u64,
}

fn create(client: &Client, name: &str) -> Written {
    create_in(client, &client.root, name)
}

fn create_in(client: &Client, dir: &[u8], name: &str) -> Written {
    let entry = client
        .make(v1::Make {
            parent: dir.to_vec(),
            name: name.as_bytes().to_vec(),
            kind: v1::FileKind::Regular as i32,
            mode: 0o644,
            exclusive: true,
            open: true,
            open_flags: O_RDWR,
            ..Default::default()
        })
        .unwrap();
    let attr = entry.attr.unwrap();
    assert!(attr.write_right > 0, "nobody else knows the file");
    Written { handle: entry.handle, open_id: entry.open_id, ino: attr.ino, right: attr.write_right }
}

/// What was buffered under the right arrives.
fn arrive(client: &Client, file: &Written, bytes: &[u8]) -> Result<v1::Attr, Code> {
    client.commit(v1::CommitData {
        handle: file.handle.clone(),
        open_id: file.open_id,
        inline_data: Some(bytes.to_vec().into()),
        base_change: client.getattr(&file.handle)?.change,
        write_right: file.right,
        ..Default::default()
    })
}

fn acquire(handle: &[u8], open_id: u64) -> Body {
    Body::AcquireWrite(v1::AcquireWrite { handle: handle.to_vec(), open_id })
}

fn get_attr(handle: &[u8]) -> Body {
    Body::GetAttr(v1::GetAttr { handle: handle.to_vec() })
}

/// The recall of the right to this file, and no other.
fn recall_of(client: &Client, ino: u64) -> u64 {
    let recalls = recalled(client);
    let [recall] = &recalls[..] else { panic!("one recall was expected: {recalls:?}") };
    assert_eq!(recall.write_inos, [ino], "{recall:?}");
    assert!(recall.inos.is_empty() && recall.name_inos.is_empty() && !recall.all, "{recall:?}");
    recall.id
}

/// As though the lease of the holder had ended unheard.
fn lease_ends(client: &Client, ino: u64) {
    client.volume.rights.pretend_lapsed(flexfs_common::ids::Ino(ino));
}

/// The answer; the other mount gives up at once whatever else is recalled.
fn finish(holder: &Client, asked: impl Future<Output = v1::Reply> + Unpin) -> v1::Reply {
    let queue = holder.volume.recalls(holder.id).unwrap();
    let generation = holder.generation.load(Ordering::Relaxed);
    let gives_up = async {
        loop {
            let recall = queue.next(generation).await;
            queue.answered(&[recall.id]);
        }
    };
    runtime().block_on(async {
        tokio::select! {
            reply = asked => reply,
            () = gives_up => unreachable!("it goes on"),
        }
    })
}

type Asking = fn(&Client, &v1::Entry) -> Body;

/// Everything that shows or changes the file: whoever asks sees what was
/// written before he asked.
#[test]
fn whoever_sees_or_changes_the_file_waits_until_what_was_written_has_arrived() {
    let all: [(&str, Asking); 10] = [
        ("getattr", |_, entry| get_attr(&entry.handle)),
        ("lookup", |client, _| lookup(&client.root, "f")),
        ("readdirplus", |client, _| {
            let handle = client.root.clone();
            Body::ReadDir(v1::ReadDir { handle, cookie: 0, max_bytes: 4096, plus: true })
        }),
        ("read", |_, entry| {
            let handle = entry.handle.clone();
            Body::ReadExtents(v1::ReadExtents {
                handle,
                offset: 0,
                length: 4096,
                ..Default::default()
            })
        }),
        ("open", |_, entry| Body::Open(v1::Open { handle: entry.handle.clone(), flags: 0 })),
        ("chmod", |_, entry| chmod(&entry.handle, 0o600)),
        ("truncate", |_, entry| {
            let handle = entry.handle.clone();
            Body::SetAttr(v1::SetAttr { handle, size: Some(0), ..Default::default() })
        }),
        ("link", |client, entry| {
            let (handle, new_parent) = (entry.handle.clone(), client.root.clone());
            Body::Link(v1::Link { handle, new_parent, new_name: b"l".to_vec() })
        }),
        ("unlink", |client, _| unlink(&client.root, "f", false)),
        ("rename", |client, _| rename((&client.root, "f"), (&client.root, "g"))),
    ];
    on_each_engine(|fixture| {
        for (what, body) in &all {
            let (one, two) = (writer(fixture), writer(fixture));
            let file = create(&one, "f");
            // The other's handle, got before anything was written.
            let theirs = v1::Entry {
                handle: two
                    .volume
                    .sessions
                    .live(two.id)
                    .unwrap()
                    .handles
                    .make(flexfs_common::ids::Ino(file.ino))
                    .into(),
                ..v1::Entry::default()
            };
            let mut asked = Box::pin(begin(&two, body(&two, &theirs)));
            let recall = recall_of(&one, file.ino);
            assert!(!is_answered(&mut asked), "{what}: before it has arrived");
            let size = arrive(&one, &file, b"written").unwrap().size;
            assert_eq!(size, 7);
            give_up(&one, &[recall]);
            let reply = answer(finish(&one, asked)).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let seen = match reply {
                reply::Result::Attr(attr) => Some(attr.size),
                reply::Result::Entry(entry) => entry.attr.map(|attr| attr.size),
                reply::Result::Opened(opened) => opened.attr.map(|attr| attr.size),
                reply::Result::Extents(map) => Some(map.size),
                reply::Result::DirPage(page) => page
                    .entries
                    .iter()
                    .find(|entry| entry.name == b"f")
                    .and_then(|entry| entry.attr.map(|attr| attr.size)),
                _ => None,
            };
            let expected = if *what == "truncate" { 0 } else { 7 };
            assert!(seen.is_none_or(|size| size == expected), "{what} shows {seen:?}");
            assert_eq!(seen.is_some(), !matches!(*what, "unlink" | "rename"), "{what}");
            two.volume.end_session(two.id).unwrap();
            // Gone from the volume, whatever its name is now.
            for name in ["f", "g", "l"] {
                let _ = one.unlink(&one.root, name);
            }
            one.volume.end_session(one.id).unwrap();
        }
    });
}

#[test]
fn a_holder_that_is_silent_loses_the_right_and_what_it_still_has() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        recall_of(&one, file.ino);
        assert!(!is_answered(&mut asked));
        lease_ends(&one, file.ino);
        let Ok(reply::Result::Entry(seen)) = answer(runtime().block_on(asked)) else {
            panic!("an entry")
        };
        assert_eq!(seen.attr.unwrap().size, 0);
        assert_eq!(arrive(&one, &file, b"late").unwrap_err(), Code::WriteLost);
        assert_eq!(two.getattr(&seen.handle).unwrap().size, 0, "nobody ever sees it");
        // What its programs write now, they wait for.
        let now = Written { right: 0, ..file };
        assert_eq!(arrive(&one, &now, b"now").unwrap().size, 3);
    });
}

/// A mount that has died does not slow down those of its token; who makes
/// others wait with session after session is stopped.
#[test]
fn who_is_silent_is_granted_nothing_and_its_like_only_when_it_happens_often() {
    on_each_engine(|fixture| {
        // A directory each: nobody keeps what another changes.
        let plain = fixture.client();
        let dirs = ["like", "1", "2", "3", "4"];
        dirs.iter().for_each(|dir| drop(plain.mkdir(&plain.root, dir).unwrap()));
        let token = TokenId::random();
        let (like, other) = (fixture.writer_of(token), writer(fixture));
        let own = |client: &Client, dir: &str| {
            let dir = client.walk(dir).unwrap().handle;
            client.create(&dir, "own").unwrap().handle
        };
        let is_granted =
            |client: &Client, file: &[u8]| client.getattr(file).unwrap().cache_millis > 0;
        let of_like = own(&like, "like");
        for round in 1..=4 {
            let silent = fixture.writer_of(token);
            let dir = round.to_string();
            let of_silent = own(&silent, &dir);
            assert!(is_granted(&silent, &of_silent), "round {round}");
            let file = create_in(&silent, &silent.walk(&dir).unwrap().handle, "f");
            let theirs = other.walk(&dir).unwrap().handle;
            let asked = Box::pin(begin(&other, lookup(&theirs, "f")));
            recall_of(&silent, file.ino);
            lease_ends(&silent, file.ino);
            drop(runtime().block_on(asked));
            fixture.volume.tick().unwrap();
            assert!(!is_granted(&silent, &of_silent), "round {round}");
            assert_eq!(is_granted(&like, &of_like), round < 4, "round {round}");
        }
    });
}

#[test]
fn a_holder_that_is_still_sending_is_waited_for() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        let recall = recall_of(&one, file.ino);
        let left = || one.volume.rights.waited_for(flexfs_common::ids::Ino(file.ino));
        let before = left();
        arrive(&one, &file, b"some").unwrap();
        assert!(left() > before, "each commit gives it another lease");
        arrive(&one, &file, b"more").unwrap();
        assert!(!is_answered(&mut asked));
        give_up(&one, &[recall]);
        let reply = answer(runtime().block_on(asked)).unwrap();
        let reply::Result::Entry(seen) = reply else { panic!("an entry") };
        assert_eq!(seen.attr.unwrap().size, 4);
    });
}

#[test]
fn the_right_is_not_granted_while_others_keep_the_attributes_and_ends_with_the_open() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let made = one.create(&one.root, "f").unwrap();
        let seen = two.lookup(&two.root, "f").unwrap();
        assert!(seen.attr.unwrap().cache_millis > 0);
        let opened = one.open(&made.handle, O_RDWR).unwrap();
        let ino = opened.attr.unwrap().ino;
        assert_eq!(opened.attr.unwrap().write_right, 0, "the other keeps the attributes");
        let mut asked = Box::pin(begin(&one, acquire(&made.handle, opened.open_id)));
        let recalls = recalled(&two);
        assert!(matches!(&recalls[..], [recall] if recall.inos == [ino]), "{recalls:?}");
        assert!(!is_answered(&mut asked));
        give_up(&two, &[recalls[0].id]);
        let Ok(reply::Result::Attr(attr)) = answer(runtime().block_on(asked)) else {
            panic!("attributes")
        };
        assert!(attr.write_right > 0);
        // Two opens: the right ends with the last.
        let again = one.open(&made.handle, O_RDWR).unwrap();
        assert_eq!(again.attr.unwrap().write_right, attr.write_right);
        one.release(&made.handle, again.open_id).unwrap();
        let mut asked = Box::pin(begin(&two, get_attr(&seen.handle)));
        assert!(!is_answered(&mut asked), "one that was asked for is held a moment");
        let recall = recall_of(&one, ino);
        give_up(&one, &[recall]);
        assert!(is_answered(&mut asked));
        let once_more = one.call(acquire(&made.handle, opened.open_id)).unwrap();
        assert!(matches!(once_more, reply::Result::Attr(attr) if attr.write_right > 0));
        one.release(&made.handle, opened.open_id).unwrap();
        assert_eq!(two.getattr(&seen.handle).unwrap().size, 0, "nobody is asked");
        assert!(recalled(&one).is_empty());
    });
}

#[test]
fn two_that_want_to_write_take_turns() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let theirs = two.volume.sessions.live(two.id).unwrap();
        let handle: Vec<u8> = theirs.handles.make(flexfs_common::ids::Ino(file.ino)).into();
        let mut opening = Box::pin(begin(&two, {
            Body::Open(v1::Open { handle: handle.clone(), flags: O_RDWR })
        }));
        let recall = recall_of(&one, file.ino);
        assert!(!is_answered(&mut opening));
        give_up(&one, &[recall]);
        let Ok(reply::Result::Opened(opened)) = answer(runtime().block_on(opening)) else {
            panic!("an open")
        };
        let open_id = opened.open_id;
        assert_eq!(opened.attr.unwrap().write_right, 0, "the other still keeps the attributes");
        let asked = Box::pin(begin(&two, acquire(&handle, open_id)));
        let Ok(reply::Result::Attr(attr)) = answer(finish(&one, asked)) else {
            panic!("attributes")
        };
        assert!(attr.write_right > file.right);
        let mut back = Box::pin(begin(&one, acquire(&file.handle, file.open_id)));
        assert!(!is_answered(&mut back));
        let Ok(reply::Result::Attr(attr)) = answer(finish(&two, back)) else {
            panic!("attributes")
        };
        assert!(attr.write_right > 0);
        // Looks at nothing before: that would take the right back.
        let number_of_another = v1::CommitData {
            handle,
            open_id,
            inline_data: Some(b"late".to_vec().into()),
            write_right: attr.write_right,
            ..Default::default()
        };
        assert_eq!(two.commit(number_of_another).unwrap_err(), Code::WriteLost);
    });
}

#[test]
fn after_a_restart_what_was_written_before_still_arrives_first() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        one.create(&one.root, "other").unwrap();
        let again = fixture.reopen();
        let (one, two) = (one.at(&again), two.at(&again));
        for client in [&one, &two] {
            let generation = again.volume.attach(client.id).unwrap().generation;
            client.generation.store(generation, Ordering::Relaxed);
        }
        let recalls = recalled(&two);
        give_up(&two, &recalls.iter().map(|recall| recall.id).collect::<Vec<_>>());
        two.lookup(&two.root, "other").unwrap();
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        assert!(!is_answered(&mut asked), "it is open elsewhere and may have been written");
        assert_eq!(arrive(&one, &file, b"before").unwrap().size, 6);
        let recalls = recalled(&one);
        let (writes, rest): (Vec<_>, Vec<_>) = recalls.iter().partition(|r| r.all_writes);
        assert!(matches!(&writes[..], [recall] if !recall.all), "{recalls:?}");
        give_up(&one, &rest.iter().map(|recall| recall.id).collect::<Vec<_>>());
        assert!(!is_answered(&mut asked), "caches are not what it waits for");
        give_up(&one, &[writes[0].id]);
        let reply = answer(runtime().block_on(asked)).unwrap();
        let reply::Result::Entry(seen) = reply else { panic!("an entry") };
        assert_eq!(seen.attr.unwrap().size, 6);
        let late = arrive(&one, &file, b"after").unwrap_err();
        assert_eq!(late, Code::WriteLost, "it said that it had sent everything");
    });
}

#[test]
fn who_does_not_know_the_right_or_may_not_write_is_not_granted_it() {
    on_each_engine(|fixture| {
        let old = fixture.keeper("/", v1::Flags::default());
        let made = old.create(&old.root, "f").unwrap();
        let opened = old.open(&made.handle, O_RDWR).unwrap();
        assert_eq!(opened.attr.unwrap().write_right, 0);
        let one = writer(fixture);
        let seen = one.lookup(&one.root, "f").unwrap();
        let reading = one.open(&seen.handle, 0).unwrap();
        let asked = one.call(acquire(&seen.handle, reading.open_id));
        assert_eq!(asked.unwrap_err(), Code::FsBadHandle);
        let asked = one.call(acquire(&seen.handle, opened.open_id));
        assert_eq!(asked.unwrap_err(), Code::FsBadHandle, "an open of another session");
        let ro = fixture.writer("/", v1::Flags { ro: true, ..v1::Flags::default() });
        let seen = ro.lookup(&ro.root, "f").unwrap();
        let asked = ro.call(acquire(&seen.handle, 1));
        assert_eq!(asked.unwrap_err(), Code::FsReadOnly);
    });
}

#[test]
fn a_cut_session_keeps_nobody_waiting() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        recall_of(&one, file.ino);
        assert!(!is_answered(&mut asked));
        let which = crate::volume::types::Which::Session(one.id);
        one.volume.cut(which, Code::TokenRevoked).unwrap();
        assert!(is_answered(&mut asked));
        assert_eq!(arrive(&one, &file, b"late").unwrap_err(), Code::TokenRevoked);
    });
}

/// The wait for a holder ends with its lease, whether or not it heard of the
/// recall; a heartbeat after the recall does not lengthen it.
#[test]
fn a_heartbeat_after_the_recall_renews_nothing() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let asked = Box::pin(begin(&two, lookup(&two.root, "f")));
        let left = || one.volume.rights.waited_for(flexfs_common::ids::Ino(file.ino));
        let before = left();
        assert!(before <= limits::LEASE + limits::LEASE_MARGIN);
        one.volume.renew(one.id, one.generation.load(Ordering::Relaxed)).unwrap();
        assert!(left() <= before + Duration::from_millis(1));
        drop(asked);
    });
}

/// Both have unsent bytes, and each has the other's file open.
#[test]
fn after_a_restart_two_writers_do_not_wait_for_one_another() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let (x, y) = (create(&one, "x"), create(&two, "y"));
        for (client, holder, name, flags) in [(&two, &one, "x", 0), (&one, &two, "y", O_RDWR)] {
            let asked = Box::pin(begin(client, lookup(&client.root, name)));
            let Ok(reply::Result::Entry(entry)) = answer(finish(holder, asked)) else {
                panic!("an entry")
            };
            client.open(&entry.handle, flags).unwrap();
        }
        let again = fixture.reopen();
        let (one, two) = (one.at(&again), two.at(&again));
        for client in [&one, &two] {
            let generation = again.volume.attach(client.id).unwrap().generation;
            client.generation.store(generation, Ordering::Relaxed);
        }
        let began = std::time::Instant::now();
        let commit = |file: &Written, client: &Client| {
            client.commit(v1::CommitData {
                handle: file.handle.clone(),
                open_id: file.open_id,
                inline_data: Some(b"unsent".to_vec().into()),
                base_change: 1,
                write_right: file.right,
                ..Default::default()
            })
        };
        assert_eq!(commit(&x, &one).unwrap().size, 6);
        assert_eq!(commit(&y, &two).unwrap().size, 6);
        assert!(began.elapsed() < Duration::from_secs(5), "they waited for one another");
    });
}

/// Whoever asks again and again for a right that he has does not keep it so.
#[test]
fn asking_again_does_not_lengthen_the_hold() {
    on_each_engine(|fixture| {
        let (one, two) = (writer(fixture), writer(fixture));
        let file = create(&one, "f");
        let asks = || one.call(acquire(&file.handle, file.open_id)).is_ok();
        assert!(asks());
        let mut asked = Box::pin(runtime().spawn({
            let op = two.op(lookup(&two.root, "f"));
            let executed = two.execute(vec![op]).pop().unwrap();
            async move {
                match executed {
                    crate::volume::Execution::Done(reply) => reply,
                    crate::volume::Execution::Pending(later) => later.await,
                }
            }
        }));
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while recalled(&one).is_empty() {
            assert!(std::time::Instant::now() < until, "it is never recalled");
            // Asks in the name of nobody who would wait for the answer.
            drop(one.execute(vec![one.op(acquire(&file.handle, file.open_id))]));
        }
        assert!(runtime().block_on(async {
            tokio::time::timeout(Duration::from_millis(30), &mut asked).await.is_err()
        }));
        one.volume.end_session(one.id).unwrap();
        runtime().block_on(asked).unwrap();
    });
}
