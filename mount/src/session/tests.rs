use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, Error, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use tokio::sync::mpsc;

use super::mutation::needs_writable;
use super::testing::{LoopbackMeta, Sizes};
use super::{MetaSession, SessionEvent, SessionState};

const LONG: Duration = Duration::from_secs(60);

fn note(name: impl ToString) -> Body {
    let name = name.to_string().into_bytes();
    Body::SetXattr(v1::SetXattr { name, ..v1::SetXattr::default() })
}

fn lock(kind: v1::LockKind, wait: bool) -> Body {
    let state = v1::LockState { kind: kind.into(), owner: 7, ..v1::LockState::default() };
    Body::SetLock(v1::SetLock { handle: Vec::new(), lock: Some(state), wait })
}

async fn call(session: &MetaSession, body: Body) -> flexfs_common::Result<v1::reply::Result> {
    session.call(v1::Caller::default(), body).await
}

async fn event(events: &mut mpsc::Receiver<SessionEvent>) -> SessionEvent {
    tokio::time::timeout(LONG, events.recv()).await.expect("an event").expect("a live session")
}

/// Waits for something that becomes true by itself.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it does not happen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_opened_proven_and_closed_with_and_without_tls() {
    for server in [
        LoopbackMeta::start(Sizes::default()).await,
        LoopbackMeta::start_tls(Sizes::default()).await,
    ] {
        let (session, _events) = server.mount(LONG).await;
        assert!(session.opened().session_key.is_none(), "the key is not kept there");
        assert_eq!(session.state(), SessionState::Live);
        session.check().unwrap();
        assert!(session.lease_left() > Duration::from_secs(5));
        let now = flexfs_common::clock::wall_now().as_second();
        assert!((session.meta_now().seconds - now).abs() <= 2);
        call(&session, note("a")).await.unwrap();
        session.close().await;
        until(|| server.world.lock().goodbyes == 1).await;
        assert_eq!(call(&session, note("b")).await.unwrap_err().code(), Code::SessionUnknown);
        assert_eq!(server.world.lock().journal, [b"a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_run_at_once_and_each_takes_effect_once() {
    let server = LoopbackMeta::start(Sizes { slot_count: 4, ..Sizes::default() }).await;
    let (session, _events) = server.mount(LONG).await;
    // Three times in the middle of the work a connection breaks after meta
    // has carried out an operation whose answer never arrives.
    let breaking = Arc::clone(&server);
    let breaker = tokio::spawn(async move {
        for done in [20, 90, 160] {
            until(|| breaking.world.lock().journal.len() >= done).await;
            breaking.world.lock().break_after = Some(1);
            until(|| breaking.world.lock().break_after.is_none()).await;
        }
    });
    let calls = (0..300).map(|number| {
        let session = Arc::clone(&session);
        tokio::spawn(async move { call(&session, note(number)).await })
    });
    for outcome in futures::future::join_all(calls).await {
        outcome.unwrap().unwrap();
    }
    breaker.await.unwrap();
    let mut journal = server.world.lock().journal.clone();
    assert_eq!(journal.len(), 300);
    journal.sort();
    journal.dedup();
    assert_eq!(journal.len(), 300, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_the_next_began_keeps_its_order() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(LONG).await;
    for number in 0..100 {
        if number % 10 == 3 {
            server.world.lock().break_after = Some(0);
        }
        call(&session, note(number)).await.unwrap();
    }
    let expected: Vec<_> = (0..100).map(|n: u32| n.to_string().into_bytes()).collect();
    assert_eq!(server.world.lock().journal, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_fails_everything_at_once_and_is_acknowledged() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, mut events) = server.mount(LONG).await;
    call(&session, lock(v1::LockKind::Write, false)).await.unwrap();
    let waiter = Arc::clone(&session);
    let waiting = tokio::spawn(async move { call(&waiter, lock(v1::LockKind::Write, true)).await });
    let reason = wire::error_to_detail(&Error::bare(Code::TokenRevoked));
    let cut = v1::Cut { reason: Some(reason) };
    server.told.send(v1::ServerFrame { cut: Some(cut), ..Default::default() }).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::TokenRevoked);
    assert_eq!(session.check().unwrap_err().code(), Code::TokenRevoked);
    assert_eq!(session.state(), SessionState::Cut(Code::TokenRevoked));
    assert_eq!(call(&session, note("x")).await.unwrap_err().code(), Code::TokenRevoked);
    match event(&mut events).await {
        SessionEvent::Cut(error) => assert_eq!(error.code(), Code::TokenRevoked),
        other => panic!("{other:?}"),
    }
    session.cut_done();
    until(|| server.world.lock().cut_acknowledged).await;
    assert!(server.world.lock().journal.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_is_refused_for_good_is_a_cut() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, mut events) = server.mount(LONG).await;
    server.world.lock().refuse_with = Some(Code::SessionUnknown);
    server.break_connections();
    assert!(matches!(event(&mut events).await, SessionEvent::Cut(_)));
    assert_eq!(session.state(), SessionState::Cut(Code::SessionUnknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_is_refused_for_now_is_tried_again() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(LONG).await;
    server.world.lock().refuse_with = Some(Code::AdminUnreachable);
    server.break_connections();
    until(|| session.state() == SessionState::Reconnecting).await;
    session.check().expect("the lease still holds");
    let waiter = Arc::clone(&session);
    let waiting = tokio::spawn(async move { call(&waiter, note("later")).await });
    server.world.lock().refuse_with = None;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_ends_while_meta_is_silent_and_comes_back() {
    let server = LoopbackMeta::start(Sizes { lease_millis: 2500, ..Sizes::default() }).await;
    let (session, mut events) = server.mount(Duration::from_millis(300)).await;
    server.paused.send_replace(true);
    assert!(matches!(event(&mut events).await, SessionEvent::LeaseLost));
    assert_eq!(session.check().unwrap_err().code(), Code::MetaUnreachable);
    assert_eq!(session.lease_left(), Duration::ZERO);
    assert_eq!(session.wait_ready().await.unwrap_err().code(), Code::FsIo);
    server.paused.send_replace(false);
    assert!(matches!(event(&mut events).await, SessionEvent::LeaseBack));
    session.check().unwrap();
    call(&session, note("again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_gives_up_when_meta_is_away_for_the_wait_limit() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(Duration::from_millis(200)).await;
    server.world.lock().refuse_with = Some(Code::MetaUnreachable);
    server.break_connections();
    until(|| session.state() == SessionState::Reconnecting).await;
    assert_eq!(call(&session, note("lost")).await.unwrap_err().code(), Code::FsIo);
    server.world.lock().refuse_with = None;
    until(|| session.state() == SessionState::Live).await;
    call(&session, note("kept")).await.unwrap();
    // What was given up before it was sent is not carried out afterwards, and
    // its slot goes on with the right sequence (the server checks it).
    assert_eq!(server.world.lock().journal, [b"kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_lock_is_given_up_at_meta() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(LONG).await;
    call(&session, lock(v1::LockKind::Write, false)).await.unwrap();
    let interrupted = tokio::time::timeout(
        Duration::from_millis(50),
        call(&session, lock(v1::LockKind::Write, true)),
    );
    assert!(interrupted.await.is_err());
    call(&session, lock(v1::LockKind::Unlock, false)).await.unwrap();
    // Had the interrupted one stayed, it would hold the lock now.
    call(&session, lock(v1::LockKind::Write, false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_locks_leave_a_slot_for_the_unlock() {
    let server = LoopbackMeta::start(Sizes { slot_count: 2, ..Sizes::default() }).await;
    let (session, _events) = server.mount(LONG).await;
    call(&session, lock(v1::LockKind::Write, false)).await.unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move {
                call(&session, lock(v1::LockKind::Write, true)).await.unwrap();
                call(&session, lock(v1::LockKind::Unlock, false)).await.unwrap();
            })
        })
        .collect();
    call(&session, lock(v1::LockKind::Unlock, false)).await.unwrap();
    for waiter in waiting {
        tokio::time::timeout(LONG, waiter).await.expect("a deadlock").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recalls_are_told_and_answered() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, mut events) = server.mount(LONG).await;
    let recall = v1::Recall { id: 5, inos: vec![1, 2], ..v1::Recall::default() };
    let recalls = vec![recall.clone()];
    server.told.send(v1::ServerFrame { recalls, ..Default::default() }).unwrap();
    let SessionEvent::Recall(told) = event(&mut events).await else { panic!("a recall") };
    assert_eq!(told, recall);
    session.recall_done(told.id);
    until(|| server.world.lock().recalls_done == [5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_larger_than_a_frame_is_refused_and_blocks_no_slot() {
    let server = LoopbackMeta::start(Sizes { slot_count: 1, ..Sizes::default() }).await;
    let (session, _events) = server.mount(LONG).await;
    let huge = note("x".repeat(2 << 20));
    assert_eq!(call(&session, huge).await.unwrap_err().code(), Code::FsRange);
    call(&session, note("small")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_takes_another_secret_of_its_token() {
    for server in [
        LoopbackMeta::start(Sizes::default()).await,
        LoopbackMeta::start_tls(Sizes::default()).await,
    ] {
        let (session, _events) = server.mount(LONG).await;
        let rotated = server.rotate();
        session.reauthenticate(rotated.clone()).await.unwrap();
        session.reauthenticate(rotated.clone()).await.expect("a repetition is the same");
        assert_eq!(server.world.lock().offered, [rotated.reveal(), rotated.reveal()]);
        call(&session, note("a")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_refused_changes_nothing() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(LONG).await;
    let unknown = Token::generate_for(TokenKind::Volume, server.token.id()).unwrap();
    let error = session.reauthenticate(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenUnknown);
    let other = Token::generate(TokenKind::Volume).unwrap();
    let error = session.reauthenticate(other).await.unwrap_err();
    assert_eq!(error.code(), Code::CredsMismatch);
    assert_eq!(server.world.lock().offered.len(), 1, "another token is not even sent");
    call(&session, note("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sent_again_when_its_answer_was_lost() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, _events) = server.mount(LONG).await;
    let rotated = server.rotate();
    server.world.lock().lose_offer_answer = true;
    session.reauthenticate(rotated.clone()).await.unwrap();
    assert_eq!(server.world.lock().offered.len(), 2);
    // A cut answers it, too.
    server.paused.send_replace(true);
    let offering = Arc::clone(&session);
    let waiting = tokio::spawn(async move { offering.reauthenticate(rotated).await });
    let cut = v1::Cut { reason: Some(wire::error_to_detail(&Error::bare(Code::TokenRotated))) };
    server.told.send(v1::ServerFrame { cut: Some(cut), ..Default::default() }).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::TokenRotated);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_flags_are_in_force_at_once() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let (session, mut events) = server.mount(LONG).await;
    session.check_writable().unwrap();
    let narrow = v1::Flags { ro: true, umask: 0o027, ..v1::Flags::default() };
    server.change_flags(narrow);
    let SessionEvent::FlagsChanged(told) = event(&mut events).await else { panic!("flags") };
    assert_eq!((told, session.flags()), (narrow, narrow));
    assert_eq!(session.check_writable().unwrap_err().code(), Code::FsReadOnly);
    let error = call(&session, note("refused here")).await.unwrap_err();
    assert_eq!(error.code(), Code::FsReadOnly);
    call(&session, lock(v1::LockKind::Write, false)).await.expect("locks change no file");
    // The same again is no news; wider ones are.
    server.change_flags(narrow);
    server.change_flags(v1::Flags::default());
    let SessionEvent::FlagsChanged(told) = event(&mut events).await else { panic!("flags") };
    assert_eq!(told, v1::Flags::default());
    call(&session, note("a")).await.unwrap();
    assert_eq!(server.world.lock().journal, [b"a"]);
}

#[test]
fn what_a_read_only_mount_refuses_itself() {
    let (read, write) = (libc::O_RDONLY as u32, libc::O_RDWR as u32);
    let open = |flags| Body::Open(v1::Open { flags, ..v1::Open::default() });
    let make = |exclusive, open, open_flags| {
        Body::Make(v1::Make { exclusive, open, open_flags, ..v1::Make::default() })
    };
    for (body, refused) in [
        (open(read), false),
        (open(write), true),
        (open(libc::O_WRONLY as u32), true),
        (open(read | libc::O_TRUNC as u32), true),
        (make(true, false, 0), true),
        (make(true, true, read), true),
        (make(false, true, write), true),
        // It may be there.
        (make(false, true, read), false),
        (Body::MakeNameless(v1::MakeNameless::default()), true),
        (Body::CommitData(v1::CommitData::default()), true),
        (Body::Release(v1::Release::default()), false),
        (Body::NoteAccess(v1::NoteAccess::default()), true),
        (Body::GetAttr(v1::GetAttr::default()), false),
    ] {
        assert_eq!(needs_writable(&body), refused, "{body:?}");
    }
}
