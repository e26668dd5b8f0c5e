//! Locks across sessions: conflicts, waiting, hand-over, deadlock.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{LockKind, reply};

use super::fixture::{Answer, Client, answer, lock, on_each_engine, runtime, set_lock};
use crate::volume::{Execution, Which};

type Pending = std::pin::Pin<Box<dyn std::future::Future<Output = v1::Reply> + Send>>;

fn waits(client: &Client, handle: &[u8], wanted: v1::LockState) -> Pending {
    let op = client.op(set_lock(handle, wanted, true));
    match client.execute(vec![op]).pop().unwrap() {
        Execution::Pending(future) => future,
        Execution::Done(reply) => panic!("it should wait: {reply:?}"),
    }
}

fn finish(future: Pending) -> Answer {
    answer(runtime().block_on(future))
}

fn is_ready(future: &mut Pending) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut context).is_ready()
}

fn test_lock(client: &Client, handle: &[u8], wanted: v1::LockState) -> v1::LockState {
    let op = v1::GetLock { handle: handle.to_vec(), lock: Some(wanted) };
    match client.call(Body::GetLock(op)).unwrap() {
        reply::Result::Lock(state) => state,
        other => panic!("a lock was expected: {other:?}"),
    }
}

#[test]
fn conflicts_are_seen_across_sessions_and_owners() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let mine = one.create(&one.root, "f").unwrap().handle;
        let theirs = two.walk("f").unwrap().handle;
        one.set_lock(&mine, lock(LockKind::Write, 7, 10, 19)).unwrap();
        let refused = two.set_lock(&theirs, lock(LockKind::Read, 7, 15, 25)).unwrap_err();
        assert_eq!(refused, Code::FsWouldBlock, "the same owner number of another session");
        let refused = one.set_lock(&mine, lock(LockKind::Read, 8, 0, 10)).unwrap_err();
        assert_eq!(refused, Code::FsWouldBlock);
        two.set_lock(&theirs, lock(LockKind::Write, 7, 20, u64::MAX)).unwrap();
        let found = test_lock(&two, &theirs, lock(LockKind::Write, 9, 0, 15));
        assert_eq!((found.start, found.end, found.kind), (10, 19, LockKind::Write as i32));
        assert_eq!(found.owner, 0, "owners of other sessions are not told");
        let found = test_lock(&two, &theirs, lock(LockKind::Write, 9, 0, 9));
        assert_eq!(found.kind, LockKind::Unlock as i32);
        // flock has a name space of its own.
        let whole = v1::LockState { flock: true, ..lock(LockKind::Write, 1, 0, 0) };
        two.set_lock(&theirs, whole).unwrap();
        assert_eq!(one.set_lock(&mine, whole).unwrap_err(), Code::FsWouldBlock);
        let bad = lock(LockKind::Write, 1, 5, 4);
        assert_eq!(one.set_lock(&mine, bad).unwrap_err(), Code::FsInvalid);
        fixture.verify();
    });
}

#[test]
fn a_lock_is_handed_on_in_order() {
    on_each_engine(|fixture| {
        let clients: Vec<_> = (0..3).map(|_| fixture.client()).collect();
        clients[0].create(&clients[0].root, "f").unwrap();
        let handles: Vec<_> = clients.iter().map(|c| c.walk("f").unwrap().handle).collect();
        let write = lock(LockKind::Write, 1, 0, u64::MAX);
        clients[0].set_lock(&handles[0], write).unwrap();
        let mut second = waits(&clients[1], &handles[1], write);
        let mut third = waits(&clients[2], &handles[2], write);
        assert!(!is_ready(&mut second) && !is_ready(&mut third));
        clients[0].set_lock(&handles[0], lock(LockKind::Unlock, 1, 0, u64::MAX)).unwrap();
        // It is the second's before anybody else can take it.
        assert_eq!(clients[0].set_lock(&handles[0], write).unwrap_err(), Code::FsWouldBlock);
        finish(second).unwrap();
        assert!(!is_ready(&mut third));
        // The end of a session hands on as well.
        fixture.volume.end_session(clients[1].id).unwrap();
        finish(third).unwrap();
        fixture.verify();
    });
}

#[test]
fn a_downgrade_and_a_close_let_others_in() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let mine = one.create(&one.root, "f").unwrap().handle;
        let open_id = one.open(&mine, 2).unwrap().open_id;
        let theirs = two.walk("f").unwrap().handle;
        one.set_lock(&mine, lock(LockKind::Write, 1, 0, 99)).unwrap();
        let reader = waits(&two, &theirs, lock(LockKind::Read, 1, 0, 99));
        one.set_lock(&mine, lock(LockKind::Read, 1, 0, 99)).unwrap();
        finish(reader).unwrap();
        let mut writer = waits(&two, &theirs, lock(LockKind::Write, 1, 0, 99));
        assert!(!is_ready(&mut writer));
        let flush = v1::Release {
            open_id,
            handle: mine.clone(),
            lock_owner: 1,
            locks_only: true,
            accessed: None,
        };
        one.call(Body::Release(flush)).unwrap();
        finish(writer).unwrap();
        one.write_inline(&mine, open_id, b"the open stays").unwrap();
    });
}

#[test]
fn a_grant_that_is_a_downgrade_lets_others_in_too() {
    on_each_engine(|fixture| {
        let clients: Vec<_> = (0..3).map(|_| fixture.client()).collect();
        clients[0].create(&clients[0].root, "f").unwrap();
        let handles: Vec<_> = clients.iter().map(|c| c.walk("f").unwrap().handle).collect();
        clients[0].set_lock(&handles[0], lock(LockKind::Write, 1, 0, 9)).unwrap();
        clients[1].set_lock(&handles[1], lock(LockKind::Write, 1, 10, 19)).unwrap();
        let reader = waits(&clients[2], &handles[2], lock(LockKind::Read, 1, 0, 9));
        let downgrade = waits(&clients[0], &handles[0], lock(LockKind::Read, 1, 0, 19));
        clients[1].set_lock(&handles[1], lock(LockKind::Unlock, 1, 10, 19)).unwrap();
        finish(downgrade).unwrap();
        finish(reader).unwrap();
    });
}

#[test]
fn a_wait_that_closes_a_circle_is_refused() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let a = one.create(&one.root, "a").unwrap().handle;
        let b = one.create(&one.root, "b").unwrap().handle;
        let (a2, b2) = (two.walk("a").unwrap().handle, two.walk("b").unwrap().handle);
        let write = lock(LockKind::Write, 1, 0, 9);
        one.set_lock(&a, write).unwrap();
        two.set_lock(&b2, write).unwrap();
        let waiting = waits(&one, &b, write);
        assert_eq!(two.call(set_lock(&a2, write, true)), Err(Code::FsDeadlock));
        two.set_lock(&b2, lock(LockKind::Unlock, 1, 0, 9)).unwrap();
        finish(waiting).unwrap();
        // Both ends in one frame.
        one.set_lock(&b, lock(LockKind::Unlock, 1, 0, 9)).unwrap();
        let other = lock(LockKind::Write, 2, 0, 9);
        one.set_lock(&b, other).unwrap();
        let ops = vec![one.op(set_lock(&b, write, true)), one.op(set_lock(&a, other, true))];
        let mut executions = one.execute(ops).into_iter();
        assert!(matches!(executions.next(), Some(Execution::Pending(_))));
        match executions.next() {
            Some(Execution::Done(reply)) => assert_eq!(answer(reply), Err(Code::FsDeadlock)),
            other => panic!("a refusal was expected: {other:?}"),
        }
    });
}

#[test]
fn a_wait_that_is_given_up_takes_nothing() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let mine = one.create(&one.root, "f").unwrap().handle;
        let theirs = two.walk("f").unwrap().handle;
        let write = lock(LockKind::Write, 1, 0, 9);
        let unlock = lock(LockKind::Unlock, 1, 0, 9);
        one.set_lock(&mine, write).unwrap();
        drop(waits(&two, &theirs, write));
        one.set_lock(&mine, unlock).unwrap();
        one.set_lock(&mine, write).unwrap();
        // Given up after it was granted, before anybody was told.
        let waiting = waits(&two, &theirs, write);
        one.set_lock(&mine, unlock).unwrap();
        drop(waiting);
        one.set_lock(&mine, write).unwrap();
        fixture.verify();
    });
}

#[test]
fn a_grant_lost_with_its_connection_is_answered_to_the_repeat() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let mine = one.create(&one.root, "f").unwrap().handle;
        let theirs = two.walk("f").unwrap().handle;
        let write = lock(LockKind::Write, 1, 0, 9);
        let unlock = lock(LockKind::Unlock, 1, 0, 9);
        one.set_lock(&mine, write).unwrap();
        let op = two.op(set_lock(&theirs, write, true));
        let Some(Execution::Pending(waiting)) = two.execute(vec![op.clone()]).pop() else {
            panic!("it should wait")
        };
        one.set_lock(&mine, unlock).unwrap();
        // The repeat comes before the old connection's future is dropped.
        let repeated = two.execute(vec![op.clone()]).pop();
        assert!(matches!(repeated, Some(Execution::Done(_))), "{repeated:?}");
        drop(waiting);
        assert_eq!(one.set_lock(&mine, write).unwrap_err(), Code::FsWouldBlock, "it is held");
        two.set_lock(&theirs, unlock).unwrap();
        // And after: then it waits anew, and is granted anew.
        one.set_lock(&mine, write).unwrap();
        let op = two.op(set_lock(&theirs, write, true));
        let waiting = two.execute(vec![op.clone()]);
        one.set_lock(&mine, unlock).unwrap();
        drop(waiting);
        one.set_lock(&mine, write).unwrap();
        let Some(Execution::Pending(waiting)) = two.execute(vec![op]).pop() else {
            panic!("it should wait again")
        };
        one.set_lock(&mine, unlock).unwrap();
        finish(waiting).unwrap();
        fixture.verify();
    });
}

#[test]
fn a_cut_ends_waiting_and_frees_what_is_held() {
    on_each_engine(|fixture| {
        let (one, two) = (fixture.client(), fixture.client());
        let mine = one.create(&one.root, "f").unwrap().handle;
        let theirs = two.walk("f").unwrap().handle;
        let write = lock(LockKind::Write, 1, 0, 9);
        one.set_lock(&mine, write).unwrap();
        let waiting = waits(&two, &theirs, write);
        fixture.volume.cut(Which::Session(two.id), Code::TokenRevoked).unwrap();
        assert_eq!(finish(waiting), Err(Code::TokenRevoked));
        let three = fixture.client();
        let handle = three.walk("f").unwrap().handle;
        let waiting = waits(&three, &handle, write);
        fixture.volume.cut(Which::Session(one.id), Code::TokenRevoked).unwrap();
        finish(waiting).unwrap();
        // Locks outlive a restart of the server.
        let again = fixture.reopen();
        let four = again.client();
        let handle = four.walk("f").unwrap().handle;
        assert_eq!(four.set_lock(&handle, write).unwrap_err(), Code::FsWouldBlock);
    });
}
