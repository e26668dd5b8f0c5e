//! What an earlier pepper, and a server that still has one, may no longer do.

use flexfs_auth::token::Token;
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;

use super::harness::{Site, again, used};
use super::peppering::{drop_one, set, stored, switch};
use crate::store::{Kind, Value};

fn extended(token: &Token) -> v1::UpdateTokenRequest {
    let at = clock::wall_now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    v1::UpdateTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        expires_at: Some(v1::TimeChange { at: Some(wire::timestamp_to_wire(at)) }),
        ..Default::default()
    }
}

/// An expired token may be given a later end: its pepper is still needed.
async fn expired_then_extended(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let token = admin.account("a").await.owner;
    let old = site.pepper().id().to_owned();
    admin.stop().await;
    let switched = switch(&site).await;
    let admin = site.start().await;
    // All others move: the expired one alone lies under the old pepper.
    used(&admin, &admin.root).await.unwrap();
    admin.service.verifier().flush_renewed().await.unwrap();
    assert_eq!(stored(&admin, &admin.root).await.0, switched.new);
    let expire = "UPDATE tokens SET expires_at = 1 WHERE id = $1";
    set(&admin, expire, vec![Value::text(token.id())]).await;
    assert_eq!(drop_one(&site, &old).await, Err(Code::PepperInUse));
    admin.system().update_token(extended(&token)).await.unwrap();
    admin.stop().await;
    let admin = site.start().await;
    used(&admin, &token).await.unwrap();
    assert_eq!(used(&admin, &again(&token)).await, Err(Code::TokenUnknown));
    admin.service.verifier().flush_renewed().await.unwrap();
    assert_eq!(stored(&admin, &token).await.0, switched.new);
    drop_one(&site, &old).await.unwrap();
    admin.stop().await;
    let admin = site.start().await;
    used(&admin, &token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_keeps_its_pepper_on_sqlite() {
    expired_then_extended(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_keeps_its_pepper_on_postgres() {
    expired_then_extended(Kind::Postgres).await;
}
