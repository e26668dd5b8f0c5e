//! The right to make files in a directory: who sees the directory waits until
//! what was made has arrived, or nobody ever sees it.

use std::sync::atomic::Ordering;

use flexfs_common::ids::Ino;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply;

use super::fixture::{
    Answer, Client, Fixture, answer, lookup, make, on_each_engine, rename, unlink,
};
use super::keeping::{begin, chmod, give_up, is_answered, recalled, runtime};

const O_RDWR: u32 = 2;

fn maker(fixture: &Fixture) -> Client {
    fixture.maker("/", v1::Flags::default())
}

/// A directory in which its maker may make files.
struct Made {
    handle: Vec<u8>,
    ino: u64,
    right: u64,
}

fn mkdir(client: &Client, name: &str) -> Made {
    let entry = client.mkdir(&client.root, name).unwrap();
    assert!(entry.make_right > 0, "nobody else knows the directory");
    assert_eq!(u128::from(entry.make_right_millis), limits::MAKE_RIGHT.as_millis());
    Made { handle: entry.handle, ino: entry.attr.unwrap().ino, right: entry.make_right }
}

fn numbers(client: &Client, count: u32) -> Vec<v1::MintedInode> {
    match client.call(Body::MintInodes(v1::MintInodes { count, returned: Vec::new() })).unwrap() {
        reply::Result::MintedInodes(minted) => minted.inodes,
        other => panic!("numbers were expected: {other:?}"),
    }
}

/// The mount says that it has made a file, and what is in it.
fn held(dir: &Made, name: &str, number: &v1::MintedInode) -> v1::Make {
    let held = v1::HeldMake {
        make_right: dir.right,
        handle: number.handle.clone(),
        open_id: number.ino | 1,
        inline_data: Some(b"contents".to_vec().into()),
        ..v1::HeldMake::default()
    };
    v1::Make {
        parent: dir.handle.clone(),
        name: name.as_bytes().to_vec(),
        kind: FileKind::Regular as i32,
        mode: 0o644,
        exclusive: true,
        open: true,
        open_flags: O_RDWR,
        held: Some(held),
        ..v1::Make::default()
    }
}

/// The recall of the right to this directory.
fn recall_of(client: &Client, ino: u64) -> u64 {
    let recalls = recalled(client);
    let recall = recalls.iter().find(|recall| recall.write_inos == [ino]);
    recall.unwrap_or_else(|| panic!("of {ino}: {recalls:?}")).id
}

/// Of the directory `d` and what it lies in.
type Asking = fn(&[u8], &[u8]) -> Body;

/// Everything that shows the directory, or whether a name is in it, also by an
/// error.
const ASKING: [(&str, Asking, Result<(), Code>); 12] = [
    ("getattr", |_, dir| Body::GetAttr(v1::GetAttr { handle: dir.to_vec() }), Ok(())),
    ("lookup of it", |parent, _| lookup(parent, "d"), Ok(())),
    ("lookup in it", |_, dir| lookup(dir, "new"), Ok(())),
    ("absent", |_, dir| lookup(dir, "none"), Err(Code::FsNotFound)),
    (
        "readdir",
        |_, dir| {
            let handle = dir.to_vec();
            Body::ReadDir(v1::ReadDir { handle, cookie: 0, max_bytes: 4096, plus: false })
        },
        Ok(()),
    ),
    ("chmod", |_, dir| chmod(dir, 0o700), Ok(())),
    ("create", |_, dir| make(dir, "f", FileKind::Regular, 0o600), Ok(())),
    ("exists", |_, dir| make(dir, "new", FileKind::Directory, 0), Err(Code::FsExists)),
    ("unlink", |_, dir| unlink(dir, "new", false), Ok(())),
    ("rename", |parent, dir| rename((dir, "new"), (parent, "x")), Ok(())),
    ("move away", |parent, _| rename((parent, "d"), (parent, "y")), Ok(())),
    ("rmdir", |parent, _| unlink(parent, "d", true), Err(Code::FsNotEmpty)),
];

/// The answer; the other mount gives up at once whatever else is recalled.
fn finish(holder: &Client, asked: impl Future<Output = v1::Reply> + Unpin) -> Answer {
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
            reply = asked => answer(reply),
            () = gives_up => unreachable!("it goes on"),
        }
    })
}

#[test]
fn whoever_sees_or_changes_the_directory_waits_until_what_was_made_has_arrived() {
    on_each_engine(|fixture| {
        let plain = fixture.client();
        for (name, ..) in ASKING {
            plain.mkdir(&plain.root, name).unwrap();
        }
        let (one, two) = (maker(fixture), maker(fixture));
        for (name, ask, expected) in ASKING {
            let parent = one.walk(name).unwrap();
            let entry = one.mkdir(&parent.handle, "d").unwrap();
            let ino = entry.attr.unwrap().ino;
            let dir = Made { handle: entry.handle, ino, right: entry.make_right };
            let number = numbers(&one, 1).remove(0);
            // Known to the other without a question, which would have to wait.
            let session = fixture.volume.sessions.live(two.id).unwrap();
            let known = |ino| session.handles.make(Ino(ino)).to_vec();
            let body = ask(&known(parent.attr.unwrap().ino), &known(ino));
            let mut asked = Box::pin(begin(&two, body));
            let recall = recall_of(&one, ino);
            assert!(!is_answered(&mut asked), "{name}");
            let entry = one.make(held(&dir, "new", &number)).unwrap();
            assert_eq!(entry.attr.unwrap().size, 8, "{name}: the holder waits for nobody");
            give_up(&one, &[recall]);
            match (finish(&one, asked), expected) {
                (Err(code), Err(expected)) if code == expected => {}
                (Ok(reply::Result::Absent(_)), Err(Code::FsNotFound)) | (Ok(_), Ok(())) => {}
                other => panic!("{name}: {other:?}"),
            }
            let late = one.make(held(&dir, "late", &numbers(&one, 1)[0])).unwrap_err();
            assert_eq!(late, Code::WriteLost, "{name}: it said that it had sent everything");
            let rest: Vec<u64> = recalled(&two).iter().map(|recall| recall.id).collect();
            give_up(&two, &rest);
        }
        fixture.verify();
    });
}

#[test]
fn a_file_that_was_made_is_what_its_mount_says_and_open_there() {
    on_each_engine(|fixture| {
        let one = maker(fixture);
        let dir = mkdir(&one, "d");
        let number = numbers(&one, 1).remove(0);
        let mut op = held(&dir, "f", &number);
        let before = one.getattr(&dir.handle).unwrap();
        let at = v1::Timestamp { seconds: before.btime.unwrap().seconds, nanos: 999_999_999 };
        op.held.as_mut().unwrap().at = Some(v1::Timestamp { seconds: at.seconds - 5, ..at });
        let entry = one.make(op).unwrap();
        let attr = entry.attr.unwrap();
        assert_eq!((attr.ino, attr.size, attr.mode), (number.ino, 8, 0o644));
        assert_eq!(attr.btime.unwrap().seconds, at.seconds - 5);
        assert!(attr.write_right > 0 && entry.open_id == number.ino | 1);
        let after = one.getattr(&dir.handle).unwrap();
        assert!(after.change > before.change);
        assert_eq!(after.mtime, before.mtime, "it was made before: the time does not go back");
        // Open: it lives on without a name.
        one.unlink(&dir.handle, "f").unwrap();
        assert_eq!(one.getattr(&number.handle).unwrap().nlink, 0);
        one.release(&number.handle, entry.open_id).unwrap();
        assert_eq!(one.getattr(&number.handle).unwrap_err(), Code::FsStale);
        // Times that no honest mount names are now.
        let now = one.getattr(&dir.handle).unwrap().mtime.unwrap().seconds;
        for seconds in [0, i64::MAX, now - 3600, now + 3600] {
            let number = numbers(&one, 1).remove(0);
            let mut op = held(&dir, &seconds.to_string(), &number);
            op.held.as_mut().unwrap().at = Some(v1::Timestamp { seconds, nanos: 0 });
            let made = one.make(op).unwrap().attr.unwrap().btime.unwrap();
            assert!((made.seconds - now).abs() < 60, "{seconds}");
        }
        fixture.verify();
    });
}

/// A modified client: numbers of others, used ones, ones it made up; without a
/// right, under that to another directory, over a name that is there, where it
/// may not write.
#[test]
fn nothing_is_made_that_could_not_be_made_otherwise() {
    on_each_engine(|fixture| {
        let (one, two) = (maker(fixture), maker(fixture));
        let (dir, other) = (mkdir(&one, "d"), mkdir(&one, "e"));
        let [first, second] = &numbers(&one, 2)[..] else { panic!("two numbers") };
        let theirs = numbers(&two, 1).remove(0);
        let refused = |op: v1::Make| one.make(op).unwrap_err();
        let stolen = one.getattr(&dir.handle).unwrap();
        assert_eq!(refused(held(&dir, "x", &theirs)), Code::FsStale, "another session's handle");
        let own = v1::MintedInode { ino: stolen.ino, handle: dir.handle.clone().into() };
        assert_eq!(refused(held(&dir, "x", &own)), Code::WriteLost, "the handle of a directory");
        let forged = v1::MintedInode { handle: vec![7; 32].into(), ..first.clone() };
        assert_eq!(refused(held(&dir, "x", &forged)), Code::FsStale);
        one.make(held(&dir, "f", first)).unwrap();
        let again = one.make(held(&other, "x", first)).unwrap();
        assert!(again.made_before, "it is what it was");
        let mut op = held(&dir, "x", first);
        op.held.as_mut().unwrap().open_id += 2;
        assert_eq!(refused(op), Code::WriteLost, "used");
        one.unlink(&dir.handle, "f").unwrap();
        one.release(&first.handle, first.ino | 1).unwrap();
        assert_eq!(refused(held(&dir, "x", first)), Code::WriteLost, "never again");
        one.create(&dir.handle, "there").unwrap();
        assert_eq!(refused(held(&dir, "there", second)), Code::FsExists);
        let crossed = Made { handle: other.handle.clone(), ..mkdir(&one, "g") };
        assert_eq!(refused(held(&crossed, "x", second)), Code::WriteLost);
        let root = Made { handle: one.root.clone(), ino: 0, right: dir.right };
        assert_eq!(refused(held(&root, "x", second)), Code::WriteLost);
        let mut op = held(&dir, "x", second);
        op.held.as_mut().unwrap().make_right = 0;
        assert_eq!(refused(op), Code::WriteLost);
        let user = one.as_user(1000, 1000);
        assert_eq!(user.make(held(&dir, "x", second)).unwrap_err(), Code::FsAccess);
        let bad: [fn(&mut v1::Make); 4] = [
            |op| op.exclusive = false,
            |op| op.open = false,
            |op| op.kind = FileKind::Directory as i32,
            |op| op.held.as_mut().unwrap().open_id = 0,
        ];
        for change in bad {
            let mut op = held(&dir, "x", second);
            change(&mut op);
            assert_eq!(refused(op), Code::ProtocolInvalid);
        }
        let mut op = held(&dir, "x", second);
        op.held.as_mut().unwrap().inline_data =
            Some(vec![0; limits::INLINE_MAX as usize + 1].into());
        assert_eq!(refused(op), Code::FsTooBig);
        assert_eq!(one.names(&dir.handle).unwrap(), ["there"], "nothing is half done");
        // An open that is in use is not taken over.
        let opened = one.open(&one.lookup(&dir.handle, "there").unwrap().handle, O_RDWR).unwrap();
        let mut op = held(&dir, "x", second);
        op.held.as_mut().unwrap().open_id = opened.open_id;
        assert_eq!(refused(op), Code::ProtocolInvalid);
        one.make(held(&dir, "y", second)).unwrap();
        fixture.verify();
    });
}

#[test]
fn who_does_not_know_the_right_or_may_not_write_gets_nothing() {
    on_each_engine(|fixture| {
        let plain = fixture.client();
        for name in ["one", "two"] {
            let made = plain.mkdir(&plain.root, name).unwrap();
            plain.chmod(&made.handle, 0o777).unwrap();
        }
        let old = fixture.writer("/one", v1::Flags::default());
        assert_eq!(old.mkdir(&old.root, "d").unwrap().make_right, 0);
        let flags = v1::Flags { root_squash: true, ..Default::default() };
        let squashed = fixture.maker("/two", flags);
        assert_eq!(squashed.mkdir(&squashed.root, "e").unwrap().make_right, 0);
        let ro = fixture.maker("/", v1::Flags { ro: true, ..Default::default() });
        let asked = ro
            .call(Body::MintInodes(v1::MintInodes { count: 1, returned: Vec::new() }))
            .unwrap_err();
        assert_eq!(asked, Code::FsReadOnly);
    });
}

#[test]
fn numbers_ahead_end_with_their_session_and_are_never_too_many() {
    on_each_engine(|fixture| {
        let one = maker(fixture);
        assert_eq!(numbers(&one, 1000).len(), 1000);
        assert_eq!(numbers(&one, 1000).len(), limits::INODES_AHEAD_MAX - 1000);
        assert!(numbers(&one, 1).is_empty());
        fixture.verify();
        fixture.volume.end_session(one.id).unwrap();
        fixture.volume.tick().unwrap();
        assert_eq!(fixture.verify().findings, 0);
        let counters = fixture.volume.with_view(|view| view.counters()).unwrap();
        assert_eq!(counters.ahead, 0);
    });
}

/// Numbers are lent in small parts, and called back before anybody is told
/// that the quota is reached.
#[test]
fn nobody_is_told_of_a_quota_that_only_numbers_ahead_have_reached() {
    on_each_engine(|fixture| {
        let mut settings = fixture.volume.settings();
        settings.max_inodes = 205;
        fixture.volume.update_settings(settings).unwrap();
        let plain = fixture.client();
        plain.mkdir(&plain.root, "one").unwrap();
        plain.mkdir(&plain.root, "two").unwrap();
        let (one, two) = (fixture.maker("/one", v1::Flags::default()), maker(fixture));
        let dir = mkdir(&one, "d");
        assert!(numbers(&one, 3).is_empty(), "one in a hundred of what is free, or none");
        let lent = numbers(&one, 2);
        assert_eq!(lent.len(), 2);
        let theirs = two.walk("two").unwrap().handle;
        let file = |name: &str| make(&theirs, name, FileKind::Regular, 0);
        let all = (0..199).map(|n| file(&n.to_string())).collect();
        assert!(two.frame(all).iter().all(Result::is_ok));
        let mut asked = Box::pin(begin(&two, file("last")));
        let recalls = recalled(&one);
        let recall = recalls.iter().find(|recall| recall.numbers).expect("of numbers");
        assert!(!is_answered(&mut asked));
        // One was in use: it counts.
        one.make(held(&dir, "f", &lent[0])).unwrap();
        give_up(&one, &[recall.id]);
        assert!(answer(runtime().block_on(asked)).is_ok());
        assert_eq!(two.create(&theirs, "more").unwrap_err(), Code::FsQuota);
        assert_eq!(one.make(held(&dir, "g", &lent[1])).unwrap_err(), Code::WriteLost);
        assert_eq!(fixture.verify().inodes, 205);
    });
}

#[test]
fn after_a_restart_what_was_made_before_still_arrives_first() {
    on_each_engine(|fixture| {
        let (one, two) = (maker(fixture), maker(fixture));
        let dir = mkdir(&one, "d");
        let number = numbers(&one, 1).remove(0);
        let again = fixture.reopen();
        let (one, two) = (one.at(&again), two.at(&again));
        for client in [&one, &two] {
            let generation = again.volume.attach(client.id).unwrap().generation;
            client.generation.store(generation, Ordering::Relaxed);
        }
        let ids = |client: &Client, writes: bool| -> Vec<u64> {
            let recalls = recalled(client);
            recalls.iter().filter(|r| r.all_writes == writes).map(|r| r.id).collect()
        };
        give_up(&two, &recalled(&two).iter().map(|recall| recall.id).collect::<Vec<_>>());
        let mut asked = Box::pin(begin(&two, lookup(&two.root, "d")));
        assert!(!is_answered(&mut asked));
        one.make(held(&dir, "f", &number)).unwrap();
        give_up(&one, &ids(&one, true));
        let Ok(reply::Result::Entry(theirs)) = answer(runtime().block_on(asked)) else {
            panic!("an entry")
        };
        assert_eq!(two.names(&theirs.handle).unwrap(), ["f"]);
        let late = numbers(&one, 1).remove(0);
        assert_eq!(one.make(held(&dir, "late", &late)).unwrap_err(), Code::WriteLost);
        again.verify();
    });
}

/// Before a directory leaves a scope, what sessions of that scope have made in
/// it arrives.
#[test]
fn a_directory_leaves_a_scope_after_what_was_made_in_it() {
    on_each_engine(|fixture| {
        let plain = fixture.client();
        plain.mkdir(&plain.root, "scope").unwrap();
        plain.mkdir(&plain.walk("scope").unwrap().handle, "above").unwrap();
        let one = fixture.maker("/scope", v1::Flags::default());
        let two = maker(fixture);
        let entry = one.mkdir(&one.walk("above").unwrap().handle, "d").unwrap();
        assert!(entry.make_right > 0);
        let dir =
            Made { handle: entry.handle, ino: entry.attr.unwrap().ino, right: entry.make_right };
        let number = numbers(&one, 1).remove(0);
        let scope = two.walk("scope").unwrap().handle;
        let moving = rename((&scope, "above"), (&two.root, "away"));
        let mut asked = Box::pin(begin(&two, moving));
        let recall = recall_of(&one, dir.ino);
        assert!(!is_answered(&mut asked));
        one.make(held(&dir, "f", &number)).unwrap();
        give_up(&one, &[recall]);
        finish(&one, asked).unwrap();
        assert_eq!(two.names(&two.walk("away/d").unwrap().handle).unwrap(), ["f"]);
        assert_eq!(one.getattr(&number.handle).unwrap_err(), Code::FsStale, "it is outside now");
        fixture.verify();
    });
}

/// Inside a scope nothing is told of the rest of the volume.
#[test]
fn numbers_ahead_tell_nothing_of_how_many_inodes_others_have() {
    on_each_engine(|fixture| {
        let mut settings = fixture.volume.settings();
        settings.max_inodes = 10_000;
        fixture.volume.update_settings(settings).unwrap();
        let plain = fixture.client();
        plain.mkdir(&plain.root, "one").unwrap();
        let inside = fixture.maker("/one", v1::Flags::default());
        let first = [1000, 50].map(|count| numbers(&inside, count).len());
        assert_eq!(first, [0, 50]);
        // Outside: 3000 files.
        for part in 0..30 {
            let all = (0..100)
                .map(|n| make(&plain.root, &format!("{part}-{n}"), FileKind::Regular, 0))
                .collect();
            assert!(plain.frame(all).iter().all(Result::is_ok));
        }
        let again = fixture.maker("/one", v1::Flags::default());
        let second = [1000, 50].map(|count| numbers(&again, count).len());
        assert_eq!(first, second, "a confined session learns how many inodes there are outside");
    });
}

/// A mount that drops its numbers says so with the next question.
#[test]
fn numbers_that_are_given_back_are_lent_again() {
    on_each_engine(|fixture| {
        let (one, two) = (maker(fixture), maker(fixture));
        let theirs = numbers(&two, 1).remove(0);
        let mut dropped = vec![theirs.handle.to_vec(), vec![1, 2, 3]];
        for _ in 0..9 {
            let body = Body::MintInodes(v1::MintInodes { count: 256, returned: dropped });
            let Ok(reply::Result::MintedInodes(minted)) = one.call(body) else { panic!() };
            assert_eq!(minted.inodes.len(), 256);
            dropped = minted.inodes.into_iter().map(|number| number.handle.into()).collect();
            fixture.verify();
        }
        let dir = mkdir(&two, "d");
        two.make(held(&dir, "f", &theirs)).expect("nobody else gives a number back");
    });
}

#[test]
fn a_file_that_meta_was_told_of_is_not_made_again() {
    on_each_engine(|fixture| {
        let one = maker(fixture);
        let dir = mkdir(&one, "d");
        let number = numbers(&one, 1).remove(0);
        one.make(held(&dir, "f", &number)).unwrap();
        // The answer got lost, and who asked gave up waiting for it: once more.
        let again = one.make(held(&dir, "f", &number)).unwrap();
        assert!(again.made_before && again.attr.unwrap().write_right > 0);
        one.unlink(&dir.handle, "f").unwrap();
        assert!(one.make(held(&dir, "f", &number)).unwrap().made_before, "it is open");
        assert!(one.names(&dir.handle).unwrap().is_empty());
        fixture.verify();
    });
}

#[test]
fn a_repeated_making_is_granted_the_right_to_write() {
    on_each_engine(|fixture| {
        let one = maker(fixture);
        let dir = mkdir(&one, "d");
        let number = numbers(&one, 1).remove(0);
        let op = one.op(Body::Make(held(&dir, "f", &number)));
        let ask = || {
            let reply = match one.execute(vec![op.clone()]).pop().unwrap() {
                crate::volume::types::Execution::Done(reply) => reply,
                crate::volume::types::Execution::Pending(later) => runtime().block_on(later),
            };
            match answer(reply).unwrap() {
                reply::Result::Entry(entry) => entry.attr.unwrap().write_right,
                other => panic!("{other:?}"),
            }
        };
        assert!(ask() > 0);
        // The connection broke before the answer: sent again.
        assert!(ask() > 0, "bytes are buffered under it");
    });
}

#[test]
fn after_a_restart_a_directory_leaves_a_scope_after_what_was_made_in_it() {
    on_each_engine(|fixture| {
        let plain = fixture.client();
        plain.mkdir(&plain.root, "scope").unwrap();
        plain.mkdir(&plain.walk("scope").unwrap().handle, "above").unwrap();
        let one = fixture.maker("/scope", v1::Flags::default());
        let two = maker(fixture);
        let entry = one.mkdir(&one.walk("above").unwrap().handle, "d").unwrap();
        let dir =
            Made { handle: entry.handle, ino: entry.attr.unwrap().ino, right: entry.make_right };
        let number = numbers(&one, 1).remove(0);
        let old = [two.walk("scope").unwrap(), two.walk("scope/above").unwrap()];
        fixture
            .volume
            .change_alone(&mut |edit| {
                for entry in &old {
                    edit.update_inode(Ino(entry.attr.unwrap().ino), |inode| {
                        inode.btime = Some(v1::Timestamp { seconds: 1_000_000_000, nanos: 0 });
                    })?;
                }
                Ok(())
            })
            .unwrap();
        let again = fixture.reopen();
        let (one, two) = (one.at(&again), two.at(&again));
        for client in [&one, &two] {
            let generation = again.volume.attach(client.id).unwrap().generation;
            client.generation.store(generation, Ordering::Relaxed);
        }
        // Long after the making of the directory that moves (not of the one in it).
        let all: Vec<u64> = recalled(&two).iter().map(|recall| recall.id).collect();
        give_up(&two, &all);
        let caches: Vec<u64> =
            recalled(&one).iter().filter(|r| !r.all_writes).map(|r| r.id).collect();
        give_up(&one, &caches);
        let began = std::time::Instant::now();
        let scope = two.walk("scope").unwrap().handle;
        assert!(began.elapsed().as_secs() < 2, "the lookup waited");
        let mut moving = Box::pin(begin(&two, rename((&scope, "above"), (&two.root, "away"))));
        let at_once = is_answered(&mut moving);
        let told = one.make(held(&dir, "f", &number)).map(drop);
        assert!(!at_once, "the move did not wait");
        assert_eq!(told, Ok(()));
    });
}

/// A modified client may not learn of a file by saying that it has made it.
#[test]
fn a_file_that_has_left_the_scope_is_not_told_of_again() {
    on_each_engine(|fixture| {
        let plain = fixture.client();
        let scope = plain.mkdir(&plain.root, "scope").unwrap().handle;
        let one = fixture.maker("/scope", v1::Flags::default());
        let dir = mkdir(&one, "d");
        let number = numbers(&one, 1).remove(0);
        let op = one.op(Body::Make(held(&dir, "f", &number)));
        let told = |op: &v1::Op| match one.execute(vec![op.clone()]).remove(0) {
            crate::volume::types::Execution::Done(reply) => answer(reply).unwrap(),
            crate::volume::types::Execution::Pending(_) => panic!("it waits for nobody"),
        };
        told(&op);
        let d = finish(&one, Box::pin(begin(&plain, lookup(&scope, "d")))).unwrap();
        let reply::Result::Entry(d) = d else { panic!("an entry") };
        let moving = rename((&d.handle, "f"), (&plain.root, "secret"));
        let mut ops = plain.execute(vec![plain.op(moving)]);
        if let crate::volume::types::Execution::Pending(later) = ops.remove(0) {
            finish(&one, Box::pin(later)).unwrap();
        }
        assert_eq!(one.getattr(&number.handle).unwrap_err(), Code::FsStale);
        assert_eq!(one.make(held(&dir, "f", &number)).unwrap_err(), Code::FsStale);
        // Also when it is not being fought over any more.
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 100 {
            let reply::Result::Entry(again) = told(&op) else { panic!("an entry") };
            assert_eq!(again.attr.unwrap().write_right, 0, "nobody waits for who cannot write it");
        }
        fixture.verify();
    });
}
