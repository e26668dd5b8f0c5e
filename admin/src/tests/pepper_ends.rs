//! What an earlier pepper, and a server that still has one, may no longer do.

use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::{Argon2Settings, Pepper};
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;
use futures::FutureExt;

use super::harness::{CHEAP, Running, Site, again, code, generate, make_volume, new_volume, used};
use super::peppering::{drop_one, redeem, set, stored, switch};
use crate::bootstrap;
use crate::peppers::Peppers;
use crate::store::peppers as stored_peppers;
use crate::store::{Kind, Value};
use crate::verify::{Showing, Verify};

fn extended(account: &str, token: &Token) -> v1::UpdateTokenRequest {
    let at = clock::wall_now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    v1::UpdateTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        account_id: account.to_owned(),
        expires_at: Some(v1::TimeChange { at: Some(wire::timestamp_to_wire(at)) }),
        ..Default::default()
    }
}

/// An expired token may be given a later end: its pepper is still needed.
async fn expired_then_extended(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let token = admin.account_token(&tenant.id, "viewer").await;
    let old = site.pepper().id().to_owned();
    admin.stop().await;
    let switched = switch(&site).await;
    let admin = site.start().await;
    // All others move: the expired one alone lies under the old pepper.
    for moves in [&admin.root, &tenant.owner] {
        used(&admin, moves).await.unwrap();
    }
    admin.service.verifier().flush_renewed().await.unwrap();
    for moved in [&admin.root, &tenant.owner] {
        assert_eq!(stored(&admin, moved).await.0, switched.new);
    }
    let expire = "UPDATE tokens SET expires_at = 1 WHERE id = $1";
    set(&admin, expire, vec![Value::text(token.id())]).await;
    assert_eq!(drop_one(&site, &old).await, Err(Code::PepperInUse));
    admin.system().update_token(extended(&tenant.id, &token)).await.unwrap();
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

/// Somebody else changes the pepper, without knowing of the server that runs.
async fn change_pepper(admin: &Running) -> Pepper {
    let pepper = Pepper::generate().unwrap();
    let mut tx = admin.store.begin().await.unwrap();
    let known = stored_peppers::Known::of(&pepper, clock::wall_now());
    stored_peppers::set(tx.sql(), &known).await.unwrap();
    tx.commit_quietly().await.unwrap();
    pepper
}

async fn count(admin: &Running, sql: &'static str) -> u64 {
    let row = admin.store.reader().query(sql, vec![]).await.unwrap().into_iter().next().unwrap();
    row.cells().number().unwrap()
}

/// A server whose pepper was changed behind its back adds no verifier, in none
/// of the ways there are, and renews none.
async fn superseded_writes_no_verifier(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    let claim = admin.claim(&mut admin.system(), "v").await;
    // One that gathered renewals before.
    let peppers = Peppers::open(&site.home, &admin.store).await.unwrap();
    let stronger = Argon2Settings { memory_kib: 128, passes: 2, lanes: 1 };
    let renewing = Verify::new(admin.store.clone(), peppers, stronger).unwrap();
    renewing.verify(&token, None).await.unwrap();
    let before = stored(&admin, &token).await;
    let rows = "SELECT (SELECT COUNT(*) FROM token_secrets) + (SELECT COUNT(*) FROM token_claims)";
    let verifiers = count(&admin, rows).await;
    change_pepper(&admin).await;

    let mut system = admin.system();
    let account = v1::CreateAccountRequest {
        name: "b".into(),
        owner_token: Some(generate(TokenKind::Account).to_wire()),
        ..Default::default()
    };
    let account_token = v1::CreateAccountTokenRequest {
        token: Some(generate(TokenKind::Account).to_wire()),
        account_id: tenant.id.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    let volume_token = v1::CreateVolumeTokenRequest {
        volume: "v".into(),
        token: Some(generate(TokenKind::Volume).to_wire()),
        ..Default::default()
    };
    let in_an_hour = clock::wall_now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    let code_request = v1::CreateVolumeTokenRequest {
        volume: "v".into(),
        claim: Some(generate(TokenKind::Claim).to_wire()),
        claim_expires_at: Some(wire::timestamp_to_wire(in_an_hour)),
        ..Default::default()
    };
    let meta_store = v1::CreateMetaStoreRequest {
        id: "m2".into(),
        address: "127.0.0.1:7411".into(),
        meta_token: Some(generate(TokenKind::Meta).to_wire()),
    };
    let rotation = v1::RotateTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string(),
        token: Some(again(&token).to_wire()),
        ..Default::default()
    };
    let volume = new_volume("w", Some(&generate(TokenKind::Volume)));
    let refused = [
        code(system.create_account(account).await),
        code(system.create_account_token(account_token).await),
        code(system.create_volume_token(volume_token).await),
        code(system.create_volume_token(code_request).await),
        code(system.create_meta_store(meta_store).await),
        code(system.create_volume(volume).await),
        code(system.rotate_token(rotation).await),
        redeem(&admin, &claim).await.unwrap_err(),
        bootstrap::recover(&site.home, &admin.store, admin.service.verifier())
            .await
            .unwrap_err()
            .code(),
    ];
    assert_eq!(refused, [Code::PepperMismatch; 9]);
    renewing.renewed().await;
    assert_eq!(renewing.flush_renewed().await.unwrap_err().code(), Code::PepperMismatch);
    assert_eq!(count(&admin, rows).await, verifiers);
    assert_eq!(stored(&admin, &token).await, before);
    // What could not be written is not kept for later.
    renewing.flush_renewed().await.unwrap();
    // Whatever was good is good until it ends.
    used(&admin, &tenant.owner).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_server_writes_no_verifier_on_sqlite() {
    superseded_writes_no_verifier(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_server_writes_no_verifier_on_postgres() {
    superseded_writes_no_verifier(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_renewing_forgets_what_it_gathered() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let one = admin.account("a").await.owner;
    let two = admin.account("b").await.owner;
    admin.stop().await;
    switch(&site).await;
    let admin = site.start().await;
    let peppers = Peppers::open(&site.home, &admin.store).await.unwrap();
    let verify = Verify::new(admin.store.clone(), peppers, CHEAP).unwrap();
    let before = (stored(&admin, &one).await, stored(&admin, &two).await);
    verify.verify(&one, None).await.unwrap();
    verify.stop_renewing();
    verify.verify(&two, None).await.unwrap();
    verify.flush_renewed().await.unwrap();
    assert_eq!((stored(&admin, &one).await, stored(&admin, &two).await), before);
}

/// With a limit that only a fault reaches.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("somebody waits for ever")
}

/// Whoever shows a token or a claim code with a weak string waits for argon2id
/// once, not for the new string as well. (One thread: a task that is seen to
/// stand in the line stands there.)
#[tokio::test]
async fn nobody_waits_for_the_renewal_of_his_verifier() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    let claim = admin.claim(&mut admin.system(), "v").await;
    let stronger = Argon2Settings { memory_kib: 128, passes: 2, lanes: 1 };
    for shown in [token, claim] {
        let strong = Arc::new(Verify::new(admin.store.clone(), site.pepper(), stronger).unwrap());
        let ask = || {
            let (strong, shown) = (Arc::clone(&strong), shown.clone());
            async move {
                if shown.kind() == TokenKind::Claim {
                    strong.verify_claim(&shown, &Showing::default()).await.unwrap()
                } else {
                    strong.verify(&shown, None).await.unwrap()
                }
            }
        };
        let held = strong.hashing().hold().await;
        let asking = tokio::spawn(ask());
        while strong.hashing().runs() == 0 {
            tokio::task::yield_now().await;
        }
        // All cores are held again as soon as the secret was compared.
        let mut next = Box::pin(strong.hashing().hold());
        assert!((&mut next).now_or_never().is_none());
        drop(held);
        soon(asking).await.unwrap();
        let held = soon(next).await;
        if shown.kind() != TokenKind::Claim {
            // It is known now, whatever becomes of the renewal.
            soon(ask()).await;
        }
        drop(held);
        soon(strong.renewed()).await;
        assert_eq!(strong.hashing().runs(), 2, "compared, and made anew");
        strong.flush_renewed().await.unwrap();
        let (_, phc) = stored(&admin, &shown).await;
        assert!(phc.starts_with("$argon2id$v=19$m=128,t=2,p=1$"), "{phc}");
    }
}
