use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply::Result as Outcome;
use flexfs_proto::v1::{LockKind, LockState};

use super::*;
use crate::authority::acks::{Acks, Applied};
use crate::grants::stamp::Stamp;
use crate::service::Consequences;
use crate::service::sessions::SessionEntry;
use crate::testbench::{Bench, Client, LIMIT, error_code, get_attr, op};
use crate::volume::Which;
use flexfs_common::Code;
use flexfs_common::ids::SessionId;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_works_and_ends() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut client = bench.connect(&session).await;
    client.ops(vec![get_attr(7, &session.root), get_attr(8, b"no handle")]).await;
    let frame = client.next().await;
    assert_eq!(frame.replies.len(), 2);
    assert_eq!(frame.replies[0].request_id, 7);
    assert!(matches!(frame.replies[0].result, Some(Outcome::Attr(_))));
    assert!(error_code(&frame.replies[1]).is_some());
    let heartbeat = Some(v1::Heartbeat { number: 99 });
    client.send(v1::ClientFrame { heartbeat, ..v1::ClientFrame::default() }).await;
    let ack = client.next().await.heartbeat_ack.unwrap();
    assert_eq!((ack.number, ack.lease_millis), (99, 10_000));
    client.send(v1::ClientFrame { goodbye: true, ..v1::ClientFrame::default() }).await;
    client.closed().await;
    assert!(bench.service.sessions.get(session.id).is_none());
    assert!(!bench.served.volume.session_is_live(session.id));
    let mut late = Client::connect(&bench.peer).await;
    late.resume(session.id, &session.key).await;
    assert_eq!(late.refused().await, "SESSION_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_on_this_very_connection_resumes() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut wrong_key = Client::connect(&bench.peer).await;
    wrong_key.resume(session.id, &[0; 32]).await;
    assert_eq!(wrong_key.refused().await, "SESSION_PROOF");
    // A proof made for another connection (its nonce and exporter).
    let other = Client::connect(&bench.peer).await;
    let stolen = other.proof(session.id, &session.key);
    let mut thief = Client::connect(&bench.peer).await;
    thief.resume_with(session.id, stolen).await;
    assert_eq!(thief.refused().await, "SESSION_PROOF");
    // The right nonce, but a man in the middle has another exporter.
    let mut middle = Client::connect(&bench.peer).await;
    middle.exporter = other.exporter;
    middle.resume(session.id, &session.key).await;
    assert_eq!(middle.refused().await, "SESSION_PROOF");
    let mut unknown = Client::connect(&bench.peer).await;
    unknown.resume(SessionId::random(), &session.key).await;
    assert_eq!(unknown.refused().await, "SESSION_UNKNOWN");
    let mut mute = Client::connect(&bench.peer).await;
    mute.ops(vec![get_attr(1, &session.root)]).await;
    assert_eq!(mute.refused().await, "PROTOCOL_INVALID");
    bench.connect(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_connection_takes_over() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut first = bench.connect(&session).await;
    let mut second = bench.connect(&session).await;
    first.closed().await;
    second.ops(vec![get_attr(1, &session.root)]).await;
    assert!(matches!(second.next().await.replies[0].result, Some(Outcome::Attr(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_a_rule_is_refused_and_the_session_stays() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut many = bench.connect(&session).await;
    many.ops(vec![get_attr(1, &session.root); limits::OPS_PER_FRAME_MAX + 1]).await;
    assert_eq!(many.refused().await, "PROTOCOL_INVALID");
    many.closed().await;
    let mut twice = bench.connect(&session).await;
    twice.resume(session.id, &session.key).await;
    assert_eq!(twice.refused().await, "PROTOCOL_INVALID");
    for junk in [&[0xff; 64][..], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 1, 1, 1, 0, 0, 0xff]] {
        let mut client = bench.connect(&session).await;
        client.send_bytes(junk).await;
        assert_eq!(client.refused().await, "PROTOCOL_INVALID");
    }
    assert!(bench.served.volume.session_is_live(session.id));
}

fn lock(request_id: u64, handle: &[u8], owner: u64, kind: LockKind) -> v1::Op {
    let lock =
        LockState { kind: kind.into(), flock: true, end: u64::MAX, owner, ..LockState::default() };
    op(
        request_id,
        Body::SetLock(v1::SetLock { handle: handle.to_vec(), lock: Some(lock), wait: true }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_lock_is_given_up_on_demand_and_with_its_connection() {
    let bench = Bench::start().await;
    let (holder, waiter) = (bench.open(), bench.open());
    let mut first = bench.connect(&holder).await;
    let mut second = bench.connect(&waiter).await;
    let mutation = |mut op: v1::Op, sequence| {
        op.sequence = sequence;
        op
    };
    first.ops(vec![mutation(lock(1, &holder.root, 1, LockKind::Write), 1)]).await;
    assert_eq!(error_code(&first.next().await.replies[0]), None);
    second.ops(vec![mutation(lock(5, &waiter.root, 1, LockKind::Write), 1)]).await;
    // It waits; reads overtake it.
    second.ops(vec![get_attr(6, &waiter.root)]).await;
    assert_eq!(second.next().await.replies[0].request_id, 6);
    // Its id is taken meanwhile.
    let cancel = v1::ClientFrame { cancel_request_ids: vec![5], ..v1::ClientFrame::default() };
    second.send(cancel).await;
    let reply = second.next().await.replies.remove(0);
    assert_eq!((reply.request_id, error_code(&reply)), (5, Some("OPERATION_INTERRUPTED")));
    second.ops(vec![mutation(lock(7, &waiter.root, 1, LockKind::Write), 2)]).await;
    second.ops(vec![get_attr(7, &waiter.root)]).await;
    assert_eq!(second.refused().await, "PROTOCOL_INVALID");
    second.closed().await;
    // Given up with the connection: the lock goes to nobody.
    first.ops(vec![mutation(lock(2, &holder.root, 1, LockKind::Unlock), 2)]).await;
    assert_eq!(error_code(&first.next().await.replies[0]), None);
    first.ops(vec![mutation(lock(3, &holder.root, 2, LockKind::Write), 3)]).await;
    assert_eq!(error_code(&first.next().await.replies[0]), None);
}

fn cut_by(cut: Vec<Arc<SessionEntry>>) -> Consequences {
    Consequences { cut, ..Consequences::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_acknowledged_when_the_client_has_said_so_and_not_before() {
    let bench = Bench::start().await;
    let session = bench.open();
    let other = bench.open();
    let mut client = bench.connect(&session).await;
    let mut bystander = bench.connect(&other).await;
    let mut acks = Acks::start(0);
    let reason = Error::bare(Code::TokenRevoked);
    let cut = tokio::task::block_in_place(|| {
        bench.service.cut(&bench.served, Which::Token(session.token), &reason).unwrap()
    });
    assert_eq!(cut.len(), 1);
    acks.push(Applied { revision: 42, consequences: cut_by(cut) }).await;
    let detail = client.next().await.cut.unwrap().reason.unwrap();
    assert_eq!(detail.code, "TOKEN_REVOKED");
    // What it still asks fails with the reason; nothing is acknowledged yet.
    client.ops(vec![get_attr(1, &session.root)]).await;
    assert_eq!(error_code(&client.next().await.replies[0]), Some("TOKEN_REVOKED"));
    assert_eq!(acks.take().0.revision, 0);
    client.send(v1::ClientFrame { cut_done: true, ..v1::ClientFrame::default() }).await;
    tokio::time::timeout(LIMIT, acks.changed()).await.unwrap();
    let (ack, more) = acks.take();
    assert!(!more);
    assert_eq!(ack.revision, 42);
    assert_eq!(ack.cuts.len(), 1);
    assert_eq!(
        (ack.cuts[0].token_id.clone(), ack.cuts[0].sessions),
        (session.token.to_string(), 1)
    );
    assert!(acks.take().0.cuts.is_empty());
    client.closed().await;
    let mut again = Client::connect(&bench.peer).await;
    again.resume(session.id, &session.key).await;
    assert_eq!(again.refused().await, "TOKEN_REVOKED");
    bystander.ops(vec![get_attr(1, &other.root)]).await;
    assert_eq!(error_code(&bystander.next().await.replies[0]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_a_client_that_is_away_is_acknowledged_after_its_lease() {
    let bench = Bench::start().await;
    let session = bench.open();
    drop(bench.connect(&session).await);
    let renewed = std::time::Instant::now();
    let mut acks = Acks::start(0);
    let reason = Error::bare(Code::TokenRevoked);
    let cut = tokio::task::block_in_place(|| {
        bench.service.cut(&bench.served, Which::Secret(session.secret), &reason).unwrap()
    });
    acks.push(Applied { revision: 1, consequences: cut_by(cut) }).await;
    tokio::time::timeout(LIMIT, acks.changed()).await.unwrap();
    assert_eq!(acks.take().0.revision, 1);
    assert!(renewed.elapsed() > limits::LEASE - std::time::Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_grace_operations_fail_and_then_go_on() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut client = bench.connect(&session).await;
    // As if admin had been heard last long ago.
    let long_ago = Stamp { boot_nanos: 0, wall_millis: 0, boot: String::new() };
    bench.service.grants.contact(long_ago);
    bench.service.review_grace();
    let heartbeat = Some(v1::Heartbeat { number: 1 });
    let ops = vec![get_attr(1, &session.root)];
    client.send(v1::ClientFrame { ops, heartbeat, ..v1::ClientFrame::default() }).await;
    assert_eq!(error_code(&client.next().await.replies[0]), Some("TOKEN_EXPIRED"));
    assert_eq!(client.next().await.heartbeat_ack.unwrap().number, 1);
    bench.service.note_contact();
    client.ops(vec![get_attr(2, &session.root)]).await;
    assert_eq!(error_code(&client.next().await.replies[0]), None);
}
