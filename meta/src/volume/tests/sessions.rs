//! Slots, generations, cuts, leases, restarts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flexfs_common::{Code, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{FileKind, LockKind, reply};

use super::fixture::{Client, Fixture, answer, make, new_session, on_each_engine, seal, unlink};
use super::keeping::{begin, chmod, is_answered};
use crate::engine::Engine;
use crate::engine::memory::MemoryEngine;
use crate::volume::edit::Edit;
use crate::volume::record::SessionRow;
use crate::volume::{Execution, Volume, Which, session_end};

fn done(execution: Execution) -> Result<reply::Result, Code> {
    match execution {
        Execution::Done(reply) => answer(reply),
        Execution::Pending(_) => panic!("an answer was expected"),
    }
}

fn send(client: &Client, op: &v1::Op) -> Result<reply::Result, Code> {
    done(client.execute(vec![op.clone()]).pop().unwrap())
}

#[test]
fn a_repeated_mutation_is_answered_and_not_carried_out_again() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let create = client.op(make(&client.root, "a", FileKind::Regular, 0o644));
        let first = send(&client, &create).unwrap();
        assert_eq!(send(&client, &create).unwrap(), first, "not: it exists");
        let remove = client.op(unlink(&client.root, "a", false));
        send(&client, &remove).unwrap();
        client.create(&client.root, "a").unwrap();
        send(&client, &remove).unwrap();
        assert_eq!(client.names(&client.root).unwrap(), ["a"], "the second file is still there");
        // A repeat carries its own request id.
        let again = v1::Op { request_id: 77, ..create.clone() };
        match client.execute(vec![again]).pop().unwrap() {
            Execution::Done(reply) => assert_eq!(reply.request_id, 77),
            Execution::Pending(_) => panic!("an answer was expected"),
        }
        // The same over a restart.
        let again = fixture.reopen();
        let resumed = client.at(&again);
        let attachment = again.volume.attach(client.id).unwrap();
        resumed.generation.store(attachment.generation, Ordering::Relaxed);
        let slot = usize::try_from(remove.slot).unwrap();
        assert_eq!(attachment.slot_sequences[slot], remove.sequence);
        assert_eq!(attachment.slot_sequences.len(), limits::SLOT_COUNT as usize);
        send(&resumed, &remove).unwrap();
        assert_eq!(resumed.names(&resumed.root).unwrap(), ["a"]);
        fixture.verify();
    });
}

#[test]
fn lower_sequences_and_missing_slots_are_refused() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let at = |slot, sequence| v1::Op {
            slot,
            sequence,
            ..client.op(make(&client.root, "a", FileKind::Regular, 0o644))
        };
        assert_eq!(send(&client, &at(0, 0)), Err(Code::ProtocolInvalid));
        assert_eq!(send(&client, &at(limits::SLOT_COUNT, 1)), Err(Code::ProtocolInvalid));
        send(&client, &at(3, 5)).unwrap();
        assert_eq!(send(&client, &at(3, 4)), Err(Code::ProtocolInvalid));
        assert_eq!(send(&client, &at(3, 6)), Err(Code::FsExists));
        let nameless = v1::Op { caller: None, ..at(4, 1) };
        assert_eq!(send(&client, &nameless), Err(Code::ProtocolInvalid));
        let bodyless = v1::Op { body: None, ..at(4, 1) };
        assert_eq!(send(&client, &bodyless), Err(Code::ProtocolInvalid));
        let many = vec![at(0, 0); limits::OPS_PER_FRAME_MAX + 1];
        let refused = client.execute(many);
        assert_eq!(refused.len(), limits::OPS_PER_FRAME_MAX + 1);
        assert!(refused.into_iter().all(|one| done(one) == Err(Code::ProtocolInvalid)));
    });
}

#[test]
fn a_repeated_mint_gives_keys_again_and_open_ids_are_given_once() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let mint = client.op(Body::MintObjects(v1::MintObjects { count: 2, size_limit: 10 }));
        for _ in 0..2 {
            let reply::Result::Minted(minted) = send(&client, &mint).unwrap() else { panic!() };
            assert_eq!(minted.objects.len(), 2);
            assert!(minted.objects.iter().all(|object| object.url.starts_with("put/")));
        }
        let file = client.create(&client.root, "a").unwrap();
        let open = client.op(Body::Open(v1::Open { handle: file.handle.clone(), flags: 0 }));
        let first = send(&client, &open).unwrap();
        assert_eq!(send(&client, &open).unwrap(), first);
    });
}

#[test]
fn object_keys_are_for_one_session_one_commit_and_a_time() {
    on_each_engine(|fixture| {
        let (mine, other) = (fixture.client(), fixture.client());
        let file = mine.create(&mine.root, "f").unwrap().handle;
        let open = mine.open(&file, 2).unwrap().open_id;
        let commit = |object, handle: &[u8], stored: u64| v1::CommitData {
            handle: handle.to_vec(),
            open_id: open,
            extents: vec![super::fixture::extent(object, 0, 100)],
            stored_lengths: vec![stored],
            ..Default::default()
        };
        let foreign = other.upload(1, 100).unwrap()[0];
        assert_eq!(mine.commit(commit(foreign, &file, 100)).unwrap_err(), Code::BlockRefused);
        let guessed = flexfs_common::ids::ObjectId([9; 16]);
        assert_eq!(mine.commit(commit(guessed, &file, 100)).unwrap_err(), Code::BlockRefused);
        let object = mine.upload(1, 100).unwrap()[0];
        for stored in [0, 101] {
            let refused = mine.commit(commit(object, &file, stored)).unwrap_err();
            assert_eq!(refused, Code::BlockRefused, "{stored} bytes");
        }
        mine.commit(commit(object, &file, 100)).unwrap();
        assert_eq!(mine.commit(commit(object, &file, 100)).unwrap_err(), Code::BlockRefused);
        // Not even into another file of the same session.
        let second = mine.create(&mine.root, "g").unwrap().handle;
        let second_open = mine.open(&second, 2).unwrap().open_id;
        let shared = v1::CommitData { open_id: second_open, ..commit(object, &second, 100) };
        assert_eq!(mine.commit(shared).unwrap_err(), Code::BlockRefused);
        let late = mine.upload(1, 100).unwrap()[0];
        pass_deadline(fixture, late);
        assert_eq!(mine.commit(commit(late, &file, 100)).unwrap_err(), Code::BlockRefused);
        let many = mine.upload(limits::MINT_MAX + 1, 100);
        assert_eq!(many.unwrap_err(), Code::FsInvalid);
        for _ in 0..limits::MINTED_PER_SESSION_MAX / limits::MINT_MAX as usize - 1 {
            mine.upload(limits::MINT_MAX, 100).unwrap();
        }
        mine.upload(limits::MINT_MAX - 2, 100).unwrap();
        assert_eq!(mine.upload(limits::MINT_MAX, 100).unwrap_err(), Code::RateLimited);
        fixture.verify();
    });
}

/// As though the key had been minted long ago.
fn pass_deadline(fixture: &Fixture, object: flexfs_common::ids::ObjectId) {
    use crate::volume::record::{Object, ObjectState};
    fixture
        .volume
        .change_alone(&mut |edit| {
            let Some(ObjectState::Minted(mut minted)) =
                crate::volume::objects::state(edit, object)?
            else {
                panic!("it was minted")
            };
            minted.deadline = edit.now() - 1;
            let key = edit.keys().object(object);
            edit.put(&key, &Object { state: Some(ObjectState::Minted(minted)) });
            Ok(())
        })
        .unwrap();
}

#[test]
fn malformed_commits_are_refused() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let open_id = client.open(&file, 2).unwrap().open_id;
        let objects = client.upload(2, 100).unwrap();
        let commit = |extents: Vec<v1::Extent>| {
            let stored_lengths = vec![100; extents.len()];
            let handle = file.clone();
            client.commit(v1::CommitData {
                handle,
                open_id,
                extents,
                stored_lengths,
                ..Default::default()
            })
        };
        let extent = super::fixture::extent;
        let overlapping = vec![extent(objects[0], 0, 100), extent(objects[1], 99, 100)];
        assert_eq!(commit(overlapping).unwrap_err(), Code::ProtocolInvalid);
        let reversed = vec![extent(objects[0], 100, 100), extent(objects[1], 0, 100)];
        assert_eq!(commit(reversed).unwrap_err(), Code::ProtocolInvalid);
        let empty = vec![extent(objects[0], 0, 0)];
        assert_eq!(commit(empty).unwrap_err(), Code::ProtocolInvalid);
        let beyond = v1::Extent { object_offset: u64::MAX, ..extent(objects[0], 0, 100) };
        assert_eq!(commit(vec![beyond]).unwrap_err(), Code::ProtocolInvalid);
        let far = extent(objects[0], limits::FILE_SIZE_MAX, 100);
        assert_eq!(commit(vec![far]).unwrap_err(), Code::FsTooBig);
        let wrapping = extent(objects[0], u64::MAX, 100);
        assert_eq!(commit(vec![wrapping]).unwrap_err(), Code::FsTooBig);
        let huge = extent(objects[0], 0, 5 << 20);
        assert_eq!(commit(vec![huge]).unwrap_err(), Code::ProtocolInvalid);
        let id = v1::Extent { object_id: vec![1], ..extent(objects[0], 0, 100) };
        assert_eq!(commit(vec![id]).unwrap_err(), Code::ProtocolInvalid);
        // Two extents in one object are fine.
        let packed = v1::Extent {
            object_offset: 40,
            object_length: 100,
            length: 60,
            ..extent(objects[0], 500, 60)
        };
        let first = v1::Extent { object_length: 100, ..extent(objects[0], 0, 40) };
        assert_eq!(commit(vec![first, packed]).unwrap().size, 560);
        fixture.verify();
    });
}

#[test]
fn a_cut_is_final_and_says_why() {
    on_each_engine(|fixture| {
        let new = new_session("/", v1::Flags::default());
        let opened = fixture.volume.open_session(new.clone()).unwrap();
        let same_token = fixture.volume.open_session(new.clone()).unwrap();
        let other = fixture.client();
        let mut cut = fixture.volume.cut(Which::Token(new.token_id), Code::TokenRevoked).unwrap();
        cut.sort();
        let mut expected = vec![opened.id, same_token.id];
        expected.sort();
        assert_eq!(cut, expected);
        for id in cut {
            assert!(!fixture.volume.session_is_live(id));
            let error = fixture.volume.session_key(id).unwrap_err();
            assert_eq!(error.code(), Code::TokenRevoked);
            assert_eq!(fixture.volume.attach(id).unwrap_err().code(), Code::TokenRevoked);
            assert_eq!(fixture.volume.renew(id, 1).unwrap_err().code(), Code::TokenRevoked);
        }
        assert_eq!(
            fixture.volume.cut(Which::Token(new.token_id), Code::TokenDisabled).unwrap(),
            []
        );
        other.create(&other.root, "alive").unwrap();
        assert_eq!(fixture.volume.sessions().len(), 1);
        let again = fixture.reopen();
        let error = again.volume.session_key(opened.id).unwrap_err();
        assert_eq!(error.code(), Code::TokenRevoked, "also after a restart");
        assert_eq!(again.volume.cut(Which::All, Code::VolumeRetired).unwrap(), [other.id]);
    });
}

#[test]
fn after_a_cut_returned_nothing_of_the_session_commits() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let volume = Arc::clone(&fixture.volume);
        let (id, generation) = (client.id, client.generation.load(Ordering::Relaxed));
        let (begun, seen) = std::sync::mpsc::channel();
        let root = client.root.clone();
        let ops: Vec<Vec<v1::Op>> = (0..200)
            .map(|frame| {
                (0..8)
                    .map(|i| client.op(make(&root, &format!("{frame}-{i}"), FileKind::Regular, 0)))
                    .collect()
            })
            .collect();
        let worker = std::thread::spawn(move || {
            for frame in ops {
                volume.execute(id, generation, frame);
                // The test may be over.
                let _ = begun.send(());
            }
        });
        for _ in 0..5 {
            seen.recv().unwrap();
        }
        assert_eq!(fixture.volume.cut(Which::Session(id), Code::TokenRevoked).unwrap(), [id]);
        let at_cut = fixture.engine.head();
        let watcher = fixture.client();
        let names = watcher.names(&watcher.root).unwrap();
        worker.join().unwrap();
        assert_eq!(watcher.names(&watcher.root).unwrap(), names);
        assert!(names.len() % 8 == 0 && names.len() >= 40, "whole frames only: {}", names.len());
        // Only the watcher's session was committed after it.
        assert_eq!(fixture.engine.head().0, at_cut.0 + 1);
        fixture.verify();
    });
}

#[test]
fn frames_of_an_older_connection_are_dropped() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let newer = fixture.volume.attach(client.id).unwrap().generation;
        assert_eq!(client.create(&client.root, "a").unwrap_err(), Code::SessionUnknown);
        let old = client.generation.swap(newer, Ordering::Relaxed);
        assert!(newer > old);
        client.create(&client.root, "a").unwrap();
        assert!(fixture.volume.renew(client.id, old).is_err());
        fixture.volume.renew(client.id, newer).unwrap();
    });
}

fn silence(fixture: &Fixture, client: &Client, span: Duration) {
    fixture.volume.sessions.live(client.id).unwrap().pretend_silence(span);
}

#[test]
fn silence_costs_the_locks_first_and_the_session_later() {
    on_each_engine(|fixture| {
        let (client, other) = (fixture.client(), fixture.client());
        let file = client.create(&client.root, "f").unwrap().handle;
        let open = client.open(&file, 2).unwrap().open_id;
        let theirs = other.walk("f").unwrap().handle;
        client.unlink(&client.root, "f").unwrap();
        let lock = super::fixture::lock(LockKind::Write, 1, 0, 10);
        client.set_lock(&file, lock).unwrap();
        silence(fixture, &client, limits::LEASE);
        assert_eq!(fixture.volume.tick().unwrap(), []);
        let held = |client: &Client| {
            let row = fixture.volume.with_view(|view| {
                crate::volume::locks::row(
                    view,
                    flexfs_common::ids::Ino(client.getattr(&file).unwrap().ino),
                )
            });
            row.unwrap().locks.len()
        };
        assert_eq!(held(&client), 1, "the margin is not over");
        silence(fixture, &client, limits::LEASE + limits::LEASE_MARGIN + Duration::from_millis(1));
        assert_eq!(fixture.volume.tick().unwrap(), []);
        assert_eq!(held(&client), 0);
        let generation = client.generation.load(Ordering::Relaxed);
        let losses = || fixture.volume.renew(client.id, generation).unwrap();
        assert_eq!(losses(), 1, "it is told");
        // Silence without a lock costs none.
        silence(fixture, &client, limits::LEASE + limits::LEASE_MARGIN + Duration::from_millis(1));
        assert_eq!(fixture.volume.tick().unwrap(), []);
        assert_eq!(losses(), 1);
        client.write_inline(&file, open, b"still open").unwrap();
        assert_eq!(other.getattr(&theirs).unwrap_err(), Code::FsStale);
        silence(fixture, &client, limits::SESSION);
        assert_eq!(fixture.volume.tick().unwrap(), [client.id]);
        assert_eq!(client.getattr(&file).unwrap_err(), Code::SessionUnknown);
        assert_eq!(fixture.verify().inodes, 1, "what only it held open is gone");
    });
}

/// The look for silent sessions and a cut may be under way at once: the row of
/// one that was cut must not come back, or a restart would revive it.
#[test]
fn a_session_that_was_cut_is_not_written_again_with_its_lost_locks() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        client.set_lock(&file, super::fixture::lock(LockKind::Write, 1, 0, 10)).unwrap();
        silence(fixture, &client, limits::LEASE * 2);
        let session = fixture.volume.sessions.live(client.id).unwrap();
        let cut = &mut |edit: &mut Edit<'_>| {
            session_end::end(edit, client.id, Code::TokenRevoked);
            Ok(())
        };
        fixture.volume.change_alone(cut).unwrap();
        fixture.volume.lose_locks(&session).unwrap();
        let key = fixture.volume.keys.session(client.id);
        let row: Option<SessionRow> =
            fixture.volume.with_view(|view| view.record("session", &key)).unwrap();
        assert!(row.is_none(), "it is back");
        let again = fixture.reopen();
        assert_eq!(again.volume.attach(client.id).unwrap_err().code(), Code::TokenRevoked);
    });
}

#[test]
fn what_an_ended_session_held_is_let_go_of() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let watcher = fixture.client();
        for i in 0..600 {
            let name = format!("f{i}");
            let op = v1::Make {
                parent: client.root.clone(),
                name: name.clone().into_bytes(),
                kind: FileKind::Regular as i32,
                exclusive: true,
                open: true,
                open_flags: 2,
                ..Default::default()
            };
            client.make(op).unwrap();
            client.unlink(&client.root, &name).unwrap();
        }
        assert_eq!(fixture.verify().inodes, 601);
        fixture.volume.cut(Which::Session(client.id), Code::TokenRevoked).unwrap();
        for _ in 0..3 {
            fixture.volume.tick().unwrap();
        }
        assert_eq!(fixture.verify().inodes, 1);
        watcher.getattr(&watcher.root).unwrap();
    });
}

#[test]
fn flags_that_conflict_refuse_or_cut() {
    on_each_engine(|fixture| {
        let pinned = fixture.client_with("/", v1::Flags { uid: Some(1), ..Default::default() });
        let free = fixture.client();
        let mut settings = fixture.volume.settings();
        settings.flags.uid = Some(2);
        let reflagged = fixture.volume.update_settings(settings).unwrap();
        assert_eq!(reflagged.cut, [(pinned.id, Code::FlagConflict)]);
        assert_eq!(reflagged.changed, [free.id]);
        assert_eq!(pinned.getattr(&pinned.root).unwrap_err(), Code::FlagConflict);
        assert_eq!(fixture.volume.tick().unwrap(), []);
        free.getattr(&free.root).unwrap();
        let refused = new_session("/", v1::Flags { uid: Some(1), ..Default::default() });
        let refused = fixture.volume.open_session(refused).unwrap_err();
        assert_eq!(refused.code(), Code::FlagConflict);
        assert_eq!(fixture.volume.sessions()[0].flags.uid, Some(2));
    });
}

#[test]
fn a_session_whose_flags_conflict_at_a_start_lets_go_when_its_lease_is_over() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let file = owner.create(&owner.root, "f").unwrap().handle;
        owner.chmod(&file, 0o666).unwrap();
        owner.chown(&file, 2, 2).unwrap();
        let pinned = fixture.keeper("/", v1::Flags { uid: Some(1), ..Default::default() });
        let theirs = pinned.walk("f").unwrap().handle;
        let lock = super::fixture::lock(LockKind::Write, 1, 0, 9);
        pinned.set_lock(&theirs, lock).unwrap();
        // Changed while no server ran.
        let mut settings = fixture.volume.settings();
        settings.flags.uid = Some(2);
        let again = Fixture::with(Arc::clone(&fixture.engine), settings);
        assert_eq!(again.volume.session_key(pinned.id).unwrap_err().code(), Code::FlagConflict);
        let next = again.client();
        let mine = next.walk("f").unwrap().handle;
        let mut change = Box::pin(begin(&next, chmod(&mine, 0o660)));
        assert!(!is_answered(&mut change), "its mount may answer with the old mode");
        again.volume.tick().unwrap();
        assert_eq!(next.set_lock(&mine, lock).unwrap_err(), Code::FsWouldBlock);
        again.volume.lost.pretend_over();
        assert!(is_answered(&mut change));
        again.volume.tick().unwrap();
        next.set_lock(&mine, lock).unwrap();
        assert_eq!(again.volume.session_key(pinned.id).unwrap_err().code(), Code::FlagConflict);
        again.verify();
    });
}

#[test]
fn metadata_of_another_format_or_volume_is_refused() {
    let engine = Arc::new(MemoryEngine::new());
    let fixture = Fixture::new(engine.clone());
    let open = |engine: MemoryEngine, settings| {
        Volume::open(Arc::new(engine), settings, fixture.blocks.clone(), seal())
    };
    open(engine.fork(), fixture.volume.settings()).unwrap();
    let key = fixture.volume.keys.superblock();
    let changes: [fn(&mut crate::volume::record::Superblock); 5] = [
        |block| block.magic += 1,
        |block| block.format += 1,
        |block| block.incompat = 1 << 63,
        |block| block.ro_compat = 1,
        |block| block.uuid = bytes::Bytes::from_static(&[9; 16]),
    ];
    for change in changes {
        let fork = engine.fork();
        fork.transact(&mut |txn| {
            let bytes = txn.get(&key)?.unwrap();
            let mut block = crate::volume::record::decode("superblock", &bytes)?;
            change(&mut block);
            txn.put(&key, &prost::Message::encode_to_vec(&block));
            Ok(())
        })
        .unwrap();
        let refused = open(fork, fixture.volume.settings()).unwrap_err();
        assert_eq!(refused.code(), Code::FormatUnsupported);
    }
}

#[test]
fn every_opening_raises_the_epoch() {
    on_each_engine(|fixture| {
        let again = fixture.reopen();
        assert_eq!(again.volume.identity.epoch, fixture.volume.identity.epoch + 1);
        assert_eq!(again.volume.identity.root, fixture.volume.identity.root);
    });
}

#[test]
fn a_server_whose_volume_was_taken_over_changes_nothing() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let again = fixture.reopen();
        let head = fixture.engine.head();
        assert_eq!(client.create(&client.root, "f").unwrap_err(), Code::MetaMoved);
        let new = new_session("/", v1::Flags::default());
        let refused = fixture.volume.open_session(new).unwrap_err();
        assert_eq!(refused.code(), Code::MetaMoved);
        assert!(fixture.volume.cut(Which::All, Code::TokenRevoked).is_err());
        assert_eq!(fixture.engine.head(), head);
        let next = again.client();
        assert_eq!(next.names(&next.root).unwrap(), Vec::<String>::new());
    });
}
