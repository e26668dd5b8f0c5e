//! Session keys at rest: not to be found in the engine, and a row that cannot
//! be opened costs its session and nothing else.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::Code;
use flexfs_common::ids::SessionId;
use flexfs_proto::v1;
use flexfs_proto::v1::LockKind;
use prost::Message;

use super::fixture::{Fixture, lock, new_session, on_each_engine, settings};
use super::keeping::{begin, chmod, is_answered};
use crate::engine::Engine;
use crate::engine::fjall::FjallEngine;
use crate::volume::record::{SessionRow, decode};
use crate::volume::{Execution, SessionSeal, VolumeSettings};

/// How often these bytes stand in the files of a directory.
fn count(dir: &Path, needle: &[u8]) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let in_each = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => count(&entry.path(), needle),
        false => {
            let bytes = std::fs::read(entry.path()).unwrap();
            bytes.windows(needle.len()).filter(|window| *window == needle).count()
        }
    });
    in_each.sum()
}

fn put(engine: &dyn Engine, key: &[u8], value: &[u8]) {
    let version = engine.transact(&mut |txn| {
        txn.put(key, value);
        Ok(())
    });
    engine.sync(version.unwrap()).unwrap();
}

fn row(fixture: &Fixture, session: SessionId) -> SessionRow {
    let key = fixture.volume.keys.session(session);
    decode("session", &fixture.engine.snapshot().unwrap().get(&key).unwrap().unwrap()).unwrap()
}

fn set_row(fixture: &Fixture, session: SessionId, row: &[u8]) {
    put(&*fixture.engine, &fixture.volume.keys.session(session), row);
}

#[test]
fn the_key_of_a_live_session_is_nowhere_in_the_engines_files() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(Arc::new(FjallEngine::open(dir.path()).unwrap()));
    let opened = fixture.volume.open_session(new_session("/", v1::Flags::default())).unwrap();
    // Whatever writes the row anew.
    let token = fixture.volume.session_info(opened.id).unwrap().token_id;
    let flags = [(token, v1::Flags { no_exec: true, ..Default::default() })].into();
    fixture.volume.update_token_flags(&flags).unwrap();
    let secret = flexfs_common::ids::SecretId::random();
    assert!(fixture.volume.move_to_secret(opened.id, secret, &|| true).unwrap());
    fixture.engine.sync(fixture.engine.head()).unwrap();
    // The row is there: its secret's id, which is none, is found.
    assert!(count(dir.path(), secret.as_bytes()) > 0);
    assert_eq!(count(dir.path(), &opened.key[..]), 0);
    let again = fixture.reopen();
    assert_eq!(again.volume.session_key(opened.id).unwrap(), opened.key);
    assert_eq!(count(dir.path(), &opened.key[..]), 0);
    // The control: lying there as it is, it would have been found.
    put(&*fixture.engine, b"control", &opened.key[..]);
    assert_eq!(count(dir.path(), &opened.key[..]), 1);
}

#[test]
fn under_another_seal_sessions_are_over_and_the_volume_is_served() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        client.set_lock(&file, lock(LockKind::Write, 1, 0, 9)).unwrap();
        let other = Arc::new(SessionSeal::new(&[6; 32]).unwrap());
        let again = fixture.reopen_under(Arc::clone(&other));
        assert_eq!(again.volume.session_key(client.id).unwrap_err().code(), Code::SessionUnknown);
        assert_eq!(again.volume.attach(client.id).unwrap_err().code(), Code::SessionUnknown);
        assert!(again.volume.sessions().is_empty());
        // Its handles open nothing, and what it held is free when its lease
        // is over: until then its mount may not know.
        let next = again.client();
        let theirs = next.lookup(&next.root, "f").unwrap().handle;
        assert_eq!(next.getattr(&file).unwrap_err(), Code::FsStale);
        let wanted = lock(LockKind::Write, 1, 0, 9);
        again.volume.tick().unwrap();
        assert_eq!(next.set_lock(&theirs, wanted).unwrap_err(), Code::FsWouldBlock);
        again.volume.lost.pretend_over();
        again.volume.tick().unwrap();
        next.set_lock(&theirs, wanted).unwrap();
        again.verify();
        // The end is written: the seal of before does not bring it back.
        let back = again.reopen();
        assert_eq!(back.volume.session_key(client.id).unwrap_err().code(), Code::SessionUnknown);
    });
}

#[test]
fn what_a_lost_session_may_keep_changes_when_its_lease_is_over() {
    on_each_engine(|fixture| {
        let kept = fixture.keeper("/", v1::Flags::default());
        let file = kept.create(&kept.root, "f").unwrap().handle;
        kept.set_lock(&file, lock(LockKind::Write, 1, 0, 9)).unwrap();
        let other = Arc::new(SessionSeal::new(&[6; 32]).unwrap());
        let mut now = fixture.reopen_under(Arc::clone(&other));
        // The second start finds no row, and must wait all the same.
        for start in ["the one that lost it", "the next"] {
            let next = now.client();
            let theirs = next.lookup(&next.root, "f").unwrap().handle;
            let mut change = Box::pin(begin(&next, chmod(&theirs, 0o600)));
            assert!(!is_answered(&mut change), "{start}: its mount may answer with the old mode");
            let wanted = lock(LockKind::Write, 1, 0, 9);
            now.volume.tick().unwrap();
            assert_eq!(next.set_lock(&theirs, wanted).unwrap_err(), Code::FsWouldBlock, "{start}");
            let again = now.reopen_under(Arc::clone(&other));
            // (Of the volume that is served no more.)
            now.volume.lost.pretend_over();
            assert!(is_answered(&mut change), "{start}");
            now = again;
        }
        now.volume.lost.pretend_over();
        now.volume.tick().unwrap();
        let next = now.client();
        let theirs = next.lookup(&next.root, "f").unwrap().handle;
        next.chmod(&theirs, 0o640).unwrap();
        next.set_lock(&theirs, lock(LockKind::Write, 1, 0, 9)).unwrap();
        now.verify();
        // Let go of: later starts wait for nothing.
        let last = now.reopen_under(other);
        let next = last.client();
        let theirs = next.lookup(&next.root, "f").unwrap().handle;
        let op = next.op(chmod(&theirs, 0o644));
        assert!(matches!(next.execute(vec![op]).pop(), Some(Execution::Done(_))));
    });
}

#[test]
fn a_damaged_row_costs_its_own_session_alone() {
    on_each_engine(|fixture| {
        let kept = fixture.client();
        let sealed = row(fixture, kept.id).sealed_key;
        type Damage<'a> = &'a dyn Fn(SessionRow) -> Vec<u8>;
        let damages: [Damage<'_>; 7] = [
            // No record at all.
            &|_| vec![0xff; 40],
            // Of before keys were sealed, and cut off.
            &|row| SessionRow { sealed_key: Bytes::new(), ..row }.encode_to_vec(),
            &|row| SessionRow { sealed_key: row.sealed_key.slice(1..), ..row }.encode_to_vec(),
            // Another session's.
            &|row| SessionRow { sealed_key: sealed.clone(), ..row }.encode_to_vec(),
            // Well sealed, and otherwise of no use.
            &|row| SessionRow { token: Bytes::from_static(&[1; 15]), ..row }.encode_to_vec(),
            &|row| SessionRow { scope: "..".into(), ..row }.encode_to_vec(),
            &|row| SessionRow { scope_inos: Vec::new(), ..row }.encode_to_vec(),
        ];
        let dir = kept.mkdir(&kept.root, "d").unwrap().attr.unwrap().ino;
        let mut now = fixture.reopen();
        for damage in damages {
            let lost = now.client_at("/d");
            set_row(&now, lost.id, &damage(row(&now, lost.id)));
            let again = now.reopen();
            assert_eq!(again.volume.session_key(lost.id).unwrap_err().code(), Code::SessionUnknown);
            assert_eq!(again.volume.sessions().len(), 1);
            again.volume.session_key(kept.id).unwrap();
            assert_eq!(again.volume.scopes.through(flexfs_common::ids::Ino(dir)), []);
            again.verify();
            now = again;
        }
    });
}

#[test]
fn a_row_opens_for_no_other_volume() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let id = flexfs_common::ids::VolumeId::from_bytes([8; 16]);
        let other = VolumeSettings { id, ..settings() };
        let there = Fixture::with(Arc::clone(&fixture.engine), other.clone());
        let copy = row(fixture, client.id).encode_to_vec();
        set_row(&there, client.id, &copy);
        let again = Fixture::with(Arc::clone(&fixture.engine), other);
        assert!(again.volume.session_key(client.id).is_err());
        assert!(fixture.reopen().volume.session_key(client.id).is_ok());
    });
}
