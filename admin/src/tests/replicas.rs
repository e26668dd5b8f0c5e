//! Several admins over one Postgres: who answers from memory, and who waits
//! for whom.

use std::time::{Duration, Instant};

use flexfs_auth::token::{Token, TokenKind};
use flexfs_proto::v1;
use uuid::Uuid;

use super::harness::{Running, Site, code, generate, make_volume, revoke, used};
use crate::store::lease::LEASE;
use crate::store::{Kind, Value, feed};
use flexfs_common::Code;

async fn until_current(admin: &Running) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !admin.store.is_current() {
        assert!(Instant::now() < deadline, "no lease");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_admin_ended_no_other_accepts() {
    let site = Site::new(Kind::Postgres);
    let (one, two) = (site.start().await, site.start().await);
    one.stores().await;
    let mut system = one.system();
    for round in 0..10 {
        let (_, token) = make_volume(&mut system, &format!("v{round}")).await;
        // Hot at the other one, which holds a lease.
        until_current(&two).await;
        used(&two, &token).await.unwrap();
        used(&two, &token).await.unwrap();
        system.revoke_token(revoke("volume", token.id())).await.unwrap();
        assert_eq!(used(&two, &token).await, Err(Code::TokenRevoked), "at once");
        assert_eq!(used(&one, &token).await, Err(Code::TokenRevoked));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_pruned_history_knows_that_it_knows_nothing() {
    let site = Site::new(Kind::Postgres);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    let (_, token) = make_volume(&mut system, "v").await;
    // An admin that hears of nothing until the history is gone.
    let behind = site.db.open().await;
    behind.load_known().await.unwrap();
    let read_at = behind.applied().latest();
    assert!(!behind.applied().changed_since(&token.id(), read_at));
    system.revoke_token(revoke("volume", token.id())).await.unwrap();
    let (_, new) = make_volume(&mut system, "w").await;
    let head = feed::head(admin.store.reader().as_mut()).await.unwrap().revision;
    let mut tx = admin.store.begin().await.unwrap();
    feed::prune(tx.sql(), head - 1).await.unwrap();
    tx.commit_quietly().await.unwrap();
    behind.catch_up().await.unwrap();
    behind.renew_lease().await.unwrap();
    assert!(behind.is_current() && behind.knows_tokens());
    assert!(behind.applied().changed_since(&token.id(), read_at), "what it read is void");
    assert!(behind.applied().latest() >= head);
    assert!(behind.may_exist(new.id()), "a token made meanwhile");
    assert!(!behind.may_exist(generate(TokenKind::Volume).id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_admins_over_the_database() {
    let site = Site::new(Kind::Postgres);
    let one = site.start().await;
    let status = async |admin: &Running, token: &Token| {
        let reply = admin.client(token).get_status(v1::GetStatusRequest {}).await;
        reply.unwrap().into_inner().replicas
    };
    let alone = status(&one, &one.root).await;
    assert_eq!(alone.len(), 1);
    let two = site.start().await;
    until_current(&two).await;
    let [first, second] = &status(&one, &one.root).await[..] else { panic!("not two") };
    assert_eq!((first.id.as_str(), second.id.is_empty()), (alone[0].id.as_str(), false));
    assert_eq!(second.version, env!("CARGO_PKG_VERSION"));
    // Each names itself first.
    assert_eq!(status(&two, &two.root).await[0].id, second.id);
    // To a tenant they are nothing.
    let tenant = one.account("a").await;
    assert_eq!(status(&one, &tenant.owner).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_a_lease_that_is_not_given_back() {
    let site = Site::new(Kind::Postgres);
    let admin = site.start().await;
    admin.stores().await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    // Another admin, as it is in the database: it renewed its lease just now
    // and does not look at the feed any more.
    let mut tx = admin.store.begin().await.unwrap();
    tx.sql()
        .execute(
            "INSERT INTO replicas (id, version, seen, renewed_at) VALUES ($1, '', 0, \
             (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)",
            vec![Value::text(Uuid::new_v4())],
        )
        .await
        .unwrap();
    tx.commit_quietly().await.unwrap();
    let before = Instant::now();
    admin.system().revoke_token(revoke("volume", token.id())).await.unwrap();
    let waited = before.elapsed();
    assert!(waited >= LEASE, "answered after {waited:?}, while the other may still accept it");
    assert!(waited < LEASE * 5, "{waited:?}: not for ever");
    // Its lease is over: nobody waits for it again.
    let (_, token) = make_volume(&mut admin.system(), "w").await;
    let before = Instant::now();
    admin.system().revoke_token(revoke("volume", token.id())).await.unwrap();
    assert!(before.elapsed() < LEASE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_token_needs_no_database_while_the_lease_holds() {
    let site = Site::new(Kind::Postgres);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    let mut client = admin.meta(&meta);
    let ask =
        || v1::ValidateVolumeTokenRequest { token: Some(token.to_wire()), ..Default::default() };
    client.validate_volume_token(ask()).await.unwrap();
    // Nobody reads a locked table: an answer comes from memory or not at all.
    let mut tx = admin.store.begin().await.unwrap();
    tx.sql()
        .execute("LOCK TABLE tokens, token_secrets IN ACCESS EXCLUSIVE MODE", vec![])
        .await
        .unwrap();
    let mut answered = 0;
    for _ in 0..50 {
        let asked = tokio::time::timeout(LEASE / 4, client.validate_volume_token(ask())).await;
        match asked {
            Ok(answer) => {
                answer.unwrap();
                answered += 1;
            }
            // The lease ended between two renewals.
            Err(_) => until_current(&admin).await,
        }
    }
    assert!(answered >= 40, "{answered} of 50 were answered from memory");
    drop(tx);
    // And what changed is seen.
    admin.system().revoke_token(revoke("volume", token.id())).await.unwrap();
    assert_eq!(code(client.validate_volume_token(ask()).await), Code::TokenRevoked);
}
