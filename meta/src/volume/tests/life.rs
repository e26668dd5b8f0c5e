//! What changes on live sessions: the secret they live from, and their flags.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flexfs_common::Code;
use flexfs_common::ids::{SecretId, TokenId};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{FileKind, reply};

use super::fixture::{Client, Fixture, make, new_session, on_each_engine};
use crate::volume::{NewSession, Reflagged, Which};

const O_RDWR: u32 = 2;

fn token_of(client: &Client) -> TokenId {
    client.volume.session_info(client.id).unwrap().token_id
}

fn secret_of(client: &Client) -> SecretId {
    client.volume.session_info(client.id).unwrap().secret_id
}

fn set_flags(fixture: &Fixture, client: &Client, flags: v1::Flags) -> Reflagged {
    fixture.volume.update_token_flags(&HashMap::from([(token_of(client), flags)])).unwrap()
}

fn ro() -> v1::Flags {
    v1::Flags { ro: true, ..v1::Flags::default() }
}

/// The client as it comes back to a volume that was opened again.
fn resumed(client: &Client, again: &Fixture) -> Client {
    let client = client.at(again);
    let attachment = again.volume.attach(client.id).unwrap();
    client.generation.store(attachment.generation, Ordering::Relaxed);
    client
}

#[test]
fn a_session_lives_from_the_secret_it_authenticated_with_last() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let (old, new) = (secret_of(&client), SecretId::random());
        assert!(!fixture.volume.move_to_secret(client.id, new, &|| false).unwrap());
        assert_eq!(secret_of(&client), old, "what holds no longer changes nothing");
        assert!(fixture.volume.move_to_secret(client.id, new, &|| true).unwrap());
        assert!(fixture.volume.move_to_secret(client.id, new, &|| true).unwrap());
        assert_eq!(fixture.volume.secrets(), [(token_of(&client), new)]);
        assert_eq!(fixture.volume.cut(Which::Secret(old), Code::TokenRotated).unwrap(), []);
        client.create(&client.root, "a").unwrap();

        let again = fixture.reopen();
        let resumed = resumed(&client, &again);
        assert_eq!(secret_of(&resumed), new, "also after a restart");
        assert_eq!(again.volume.cut(Which::Secret(old), Code::TokenRotated).unwrap(), []);
        let cut = again.volume.cut(Which::Secret(new), Code::TokenRotated).unwrap();
        assert_eq!(cut, [client.id]);
        let late = again.volume.move_to_secret(client.id, old, &|| true).unwrap_err();
        assert_eq!(late.code(), Code::TokenRotated, "a cut is final");
        assert!(again.volume.secrets().is_empty());
        again.verify();
    });
}

#[test]
fn at_the_end_of_its_old_secret_a_session_is_either_moved_or_cut() {
    on_each_engine(|fixture| {
        for _ in 0..200 {
            let opened = fixture.volume.open_session(new_session("/", ro())).unwrap();
            let old = fixture.volume.session_info(opened.id).unwrap().secret_id;
            let new = SecretId::random();
            let barrier = Arc::new(std::sync::Barrier::new(2));
            let (volume, there) = (Arc::clone(&fixture.volume), Arc::clone(&barrier));
            let mover = std::thread::spawn(move || {
                there.wait();
                volume.move_to_secret(opened.id, new, &|| true)
            });
            barrier.wait();
            let cut = fixture.volume.cut(Which::Secret(old), Code::TokenRotated).unwrap();
            match mover.join().unwrap() {
                Ok(moved) => {
                    assert!(moved && cut.is_empty());
                    assert_eq!(fixture.volume.session_info(opened.id).unwrap().secret_id, new);
                    fixture.volume.end_session(opened.id).unwrap();
                }
                Err(error) => {
                    assert_eq!((error.code(), &cut[..]), (Code::TokenRotated, &[opened.id][..]));
                    assert!(!fixture.volume.session_is_live(opened.id));
                }
            }
        }
    });
}

#[test]
fn a_tokens_flags_reach_its_live_sessions_in_both_directions() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let other = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let open = client.open(&file, O_RDWR).unwrap().open_id;
        let object = client.upload(1, 100).unwrap()[0];
        let commit = || v1::CommitData {
            handle: file.clone(),
            open_id: open,
            extents: vec![super::fixture::extent(object, 0, 100)],
            stored_lengths: vec![100],
            ..Default::default()
        };
        let reflagged = set_flags(fixture, &client, ro());
        assert_eq!((&reflagged.changed[..], &reflagged.cut[..]), (&[client.id][..], &[][..]));
        assert!(client.volume.session_flags(client.id).unwrap().ro);
        // What was opened and minted before is of no use now.
        assert_eq!(client.commit(commit()).unwrap_err(), Code::FsReadOnly);
        assert_eq!(client.truncate(&file, 0).unwrap_err(), Code::FsReadOnly);
        assert_eq!(client.create(&client.root, "g").unwrap_err(), Code::FsReadOnly);
        assert_eq!(client.upload(1, 1).unwrap_err(), Code::FsReadOnly);
        client.getattr(&file).unwrap();
        other.create(&other.root, "theirs").unwrap();
        assert!(set_flags(fixture, &client, ro()).changed.is_empty(), "nothing changed");

        let again = fixture.reopen();
        let client = resumed(&client, &again);
        assert!(again.volume.flags_are_untold(client.id));
        assert_eq!(client.create(&client.root, "g").unwrap_err(), Code::FsReadOnly);
        assert_eq!(set_flags(&again, &client, v1::Flags::default()).changed, [client.id]);
        assert_eq!(client.commit(commit()).unwrap().size, 100);
        client.create(&client.root, "g").unwrap();
        again.verify();
    });
}

#[test]
fn what_the_client_asked_for_stays_whatever_volume_and_token_become() {
    on_each_engine(|fixture| {
        let mut new = new_session("/", ro());
        new.requested = v1::Flags { umask: 0o077, no_exec: true, ..v1::Flags::default() };
        let token = new.token_id;
        let id = fixture.volume.open_session(new).unwrap().id;
        let mut settings = fixture.volume.settings();
        settings.flags.no_dev = true;
        assert_eq!(fixture.volume.update_settings(settings.clone()).unwrap().changed, [id]);
        let wide = HashMap::from([(token, v1::Flags::default())]);
        assert_eq!(fixture.volume.update_token_flags(&wide).unwrap().changed, [id]);
        let flags = fixture.volume.session_flags(id).unwrap();
        let expected =
            v1::Flags { umask: 0o077, no_exec: true, no_dev: true, ..Default::default() };
        assert_eq!(flags, expected);
        settings.flags.no_dev = false;
        fixture.volume.update_settings(settings).unwrap();
        assert!(!fixture.volume.session_flags(id).unwrap().no_dev);
        assert!(fixture.volume.flags_are_untold(id));
    });
}

#[test]
fn append_squash_and_umask_hold_from_their_change_on() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let open = client.open(&file, O_RDWR).unwrap().open_id;
        client.write(&file, open, 0, 100).unwrap();
        let object = client.upload(1, 100).unwrap()[0];
        set_flags(fixture, &client, v1::Flags { append_only: true, ..Default::default() });
        let commit = |offset| v1::CommitData {
            handle: file.clone(),
            open_id: open,
            extents: vec![super::fixture::extent(object, offset, 100)],
            stored_lengths: vec![100],
            ..Default::default()
        };
        assert_eq!(client.commit(commit(50)).unwrap_err(), Code::FsNotPermitted);
        assert_eq!(client.unlink(&client.root, "f").unwrap_err(), Code::FsNotPermitted);
        assert_eq!(client.commit(commit(100)).unwrap().size, 200);
        let all = v1::Flags { all_squash: true, squash_uid: Some(7), ..Default::default() };
        set_flags(fixture, &client, all);
        assert_eq!(client.create(&client.root, "g").unwrap_err(), Code::FsAccess, "not root now");
        set_flags(fixture, &client, v1::Flags { umask: 0o077, ..Default::default() });
        let made = client.call(make(&client.root, "h", FileKind::Regular, 0o666)).unwrap();
        let reply::Result::Entry(entry) = made else { panic!("an entry was expected") };
        assert_eq!(entry.attr.unwrap().mode, 0o600);
        fixture.verify();
    });
}

#[test]
fn a_live_session_that_would_be_refused_now_is_cut() {
    on_each_engine(|fixture| {
        let open = |honours| {
            let new = NewSession { honours, ..new_session("/", v1::Flags::default()) };
            (new.token_id, fixture.volume.open_session(new).unwrap().id)
        };
        let (simple, simple_id) = open(v1::Flags::default());
        let (able, able_id) = open(v1::Flags { no_exec: true, ..Default::default() });
        let no_exec = v1::Flags { no_exec: true, ..Default::default() };
        let both = HashMap::from([(simple, no_exec), (able, no_exec)]);
        let reflagged = fixture.volume.update_token_flags(&both).unwrap();
        assert_eq!(reflagged.cut, [(simple_id, Code::FlagUnsupported)]);
        assert_eq!(reflagged.changed, [able_id]);
        let refused = fixture.volume.session_info(simple_id).unwrap_err();
        assert_eq!(refused.code(), Code::FlagUnsupported);
        let new = NewSession { honours: v1::Flags::default(), ..new_session("/", no_exec) };
        let refused = fixture.volume.open_session(new).unwrap_err();
        assert_eq!(refused.code(), Code::FlagUnsupported);

        let mut settings = fixture.volume.settings();
        settings.flags.uid = Some(1);
        fixture.volume.update_settings(settings).unwrap();
        let two = v1::Flags { uid: Some(2), ..Default::default() };
        let reflagged = fixture.volume.update_token_flags(&HashMap::from([(able, two)])).unwrap();
        assert_eq!(reflagged.cut, [(able_id, Code::FlagConflict)]);
        let again = fixture.reopen();
        assert!(again.volume.sessions().is_empty());
        let ended = again.volume.session_key(able_id).unwrap_err();
        assert_eq!(ended.code(), Code::FlagConflict, "also after a restart");
    });
}

#[test]
fn changed_flags_of_a_token_end_what_was_granted_under_the_old_ones() {
    on_each_engine(|fixture| {
        let client = fixture.keeper("/", v1::Flags::default());
        let keeps = || client.getattr(&client.root).unwrap().cache_millis > 0;
        assert!(keeps());
        let squash = v1::Flags { root_squash: true, ..Default::default() };
        let reflagged = set_flags(fixture, &client, squash);
        assert!(!reflagged.recalls.is_over());
        let queue = client.volume.recalls(client.id).unwrap();
        let generation = client.generation.load(Ordering::Relaxed);
        let runtime = super::fixture::runtime();
        let recall = runtime.block_on(queue.next(generation));
        assert!(recall.all);
        queue.answered(&[recall.id]);
        assert!(reflagged.recalls.is_over());
        runtime.block_on(reflagged.recalls.over());
        assert!(keeps(), "granted anew, under the new ones");
    });
}

#[test]
fn a_frame_is_under_one_set_of_flags() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let token = token_of(&client);
        let (id, generation) = (client.id, client.generation.load(Ordering::Relaxed));
        let frames: Vec<Vec<v1::Op>> = (0..50)
            .map(|frame| {
                let name = |i| format!("{frame}-{i}");
                let body = |i| make(&client.root, &name(i), FileKind::Regular, 0o600);
                (0..8).map(|i| client.op(body(i))).collect()
            })
            .collect();
        let volume = Arc::clone(&fixture.volume);
        let (begun, seen) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            for frame in frames {
                volume.execute(id, generation, frame);
                // The test may be over.
                let _ = begun.send(());
            }
        });
        for _ in 0..5 {
            seen.recv().unwrap();
        }
        fixture.volume.update_token_flags(&HashMap::from([(token, ro())])).unwrap();
        let watcher = fixture.client();
        let names = watcher.names(&watcher.root).unwrap();
        worker.join().unwrap();
        assert_eq!(watcher.names(&watcher.root).unwrap(), names, "nothing commits after it");
        assert!(names.len() % 8 == 0 && names.len() >= 40, "whole frames only: {}", names.len());
        let open = Body::Open(v1::Open { handle: client.root.clone(), flags: 0 });
        client.call(open).unwrap();
    });
}
