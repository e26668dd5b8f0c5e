//! Tokens at the door.

use std::io::{Read, Write};
use std::sync::Arc;

use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;

use super::harness::{CHEAP, Site, again, code, error, generate, make_volume, revoke};
use crate::store::{Kind, Value, audit, tokens};
use crate::verify::{Shown, Verify};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_token_and_a_wrong_secret_look_the_same() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let wrong = again(&admin.root);
    assert_eq!(wrong.id(), admin.root.id());
    let wrong = admin.client(&wrong).who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    let unknown = generate(TokenKind::Account);
    let unknown = admin.client(&unknown).who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(wrong.details(), unknown.details());
    assert_eq!((wrong.code(), wrong.message()), (unknown.code(), unknown.message()));
    assert_eq!(code(Err::<(), _>(unknown)), Code::TokenUnknown);
    // The good one is none the worse for it.
    admin.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_limited_and_a_good_token_never_is() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let mut seen = Vec::new();
    // Without the network between: faster than the allowed rate on any machine.
    let here = Some(admin.address.ip());
    for _ in 0..limits::FAILURE_BURST * 2 {
        let bad = generate(TokenKind::Account);
        seen.push(admin.service.verifier().verify(&bad, here).await.unwrap_err().code());
    }
    assert_eq!(seen[0], Code::TokenUnknown);
    assert!(seen.contains(&Code::RateLimited), "{seen:?}");
    // Never used before, from the very same address.
    admin.client(&tenant.owner).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // The same bad one again and again is limited, too, and one that is then
    // imported is good at once.
    let late = generate(TokenKind::Account);
    for _ in 0..3 {
        let refused = admin.client(&late).who_am_i(v1::WhoAmIRequest {}).await;
        assert!(matches!(code(refused), Code::TokenUnknown | Code::RateLimited));
    }
    let request = v1::CreateAccountTokenRequest {
        token: Some(late.to_wire()),
        account_id: tenant.id,
        role: "viewer".into(),
        ..Default::default()
    };
    admin.system().create_account_token(request).await.unwrap();
    admin.client(&late).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_told_after_the_secret_is_right_and_takes_effect_at_once() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let viewer = admin.account_token(&tenant.id, "viewer").await;
    let mut client = admin.client(&viewer);
    client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let set = |sql: &'static str| {
        let (store, id) = (admin.store.clone(), viewer.id());
        async move {
            let mut tx = store.begin().await.unwrap();
            tx.sql().execute(sql, vec![Value::text(id)]).await.unwrap();
            let change = crate::store::changes::Change {
                token: Some(id),
                ..crate::store::changes::Change::of(v1::FeedKind::TokenChanged)
            };
            let entry = crate::audit::Entry {
                who: crate::audit::Who::Bootstrap,
                account: None,
                action: "test",
                target: String::new(),
                source: None,
                outcome: crate::audit::OK,
                detail: String::new(),
                request: None,
            };
            tx.commit(entry, &[change]).await.unwrap();
        }
    };
    let cases = [
        ("UPDATE tokens SET disabled_at = 1 WHERE id = $1", Code::TokenDisabled),
        ("UPDATE tokens SET expires_at = 1 WHERE id = $1", Code::TokenExpired),
        ("UPDATE tokens SET revoked_at = 1 WHERE id = $1", Code::TokenRevoked),
    ];
    for (sql, expected) in cases {
        set(sql).await;
        assert_eq!(code(client.who_am_i(v1::WhoAmIRequest {}).await), expected);
        // Only to him who holds it.
        let wrong = again(&viewer);
        let refused = admin.client(&wrong).who_am_i(v1::WhoAmIRequest {}).await;
        assert_eq!(code(refused), Code::TokenUnknown);
    }
    set("UPDATE tokens SET disabled_at = NULL, expires_at = NULL, revoked_at = NULL, \
         not_before = 9000000000000000 WHERE id = $1")
    .await;
    assert_eq!(code(client.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenNotYetValid);
    set("UPDATE accounts SET state = 'suspended' WHERE id = \
         (SELECT account_id FROM tokens WHERE id = $1)")
    .await;
    set("UPDATE tokens SET not_before = NULL WHERE id = $1").await;
    assert_eq!(code(client.who_am_i(v1::WhoAmIRequest {}).await), Code::AccountSuspended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_races_a_verification_wins() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    for round in 0..10 {
        let (_, token) = make_volume(&mut system, &format!("v{round}")).await;
        // Many cold verifications at once, and the revocation among them.
        let verify = Arc::new(Verify::new(admin.store.clone(), site.pepper(), CHEAP).unwrap());
        let racing: Vec<_> = (0..8)
            .map(|_| {
                let (verify, token) = (Arc::clone(&verify), token.clone());
                tokio::spawn(async move { verify.verify(&token, None).await })
            })
            .collect();
        system.revoke_token(revoke("volume", token.id())).await.unwrap();
        // Answered: from now on nobody gets in, whatever was cached meanwhile.
        let after = verify.verify(&token, None).await.unwrap_err();
        assert_eq!(after.code(), Code::TokenRevoked);
        for task in racing {
            if let Err(error) = task.await.unwrap() {
                assert_eq!(error.code(), Code::TokenRevoked);
            }
        }
        assert_eq!(verify.verify(&token, None).await.unwrap_err().code(), Code::TokenRevoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_in_the_audit_log() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let viewer = admin.account_token(&tenant.id, "viewer").await;
    let bad = generate(TokenKind::Account);
    for _ in 0..3 {
        assert!(admin.client(&bad).who_am_i(v1::WhoAmIRequest {}).await.is_err());
    }
    let denied = admin.client(&viewer).create_account(v1::CreateAccountRequest::default()).await;
    assert_eq!(code(denied), Code::RoleForbidden);
    let of = |id: flexfs_common::ids::TokenId| {
        let admin = &admin;
        async move {
            admin.service.verifier().flush_refused().await.unwrap();
            let records = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
            assert_eq!(audit::first_break(&records), None);
            let target = id.to_string();
            let mut count = 0;
            let mut outcome = String::new();
            for stored in records.into_iter().filter(|s| s.record.action == "token.use") {
                if stored.record.target == target {
                    let times = stored.record.detail.split(' ').next().unwrap();
                    count += times.parse::<u32>().unwrap();
                    outcome = stored.record.outcome;
                    assert_eq!(stored.record.source, "127.0.0.1");
                }
            }
            (count, outcome)
        }
    };
    assert_eq!(of(bad.id()).await, (3, "TOKEN_UNKNOWN".to_owned()));
    assert_eq!(of(viewer.id()).await, (1, "ROLE_FORBIDDEN".to_owned()));
    // A flood makes a hundred rows and one that counts the rest.
    let before = audit::after(admin.store.reader().as_mut(), 0).await.unwrap().len();
    for _ in 0..150 {
        let id = flexfs_common::ids::TokenId::random();
        admin.service.verifier().note_refusal(None, Shown::Unproven(id), Code::TokenUnknown);
    }
    admin.service.verifier().flush_refused().await.unwrap();
    let after = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
    // Two batches at most: a tick of the server may have come in between.
    assert!((101..=150).contains(&(after.len() - before)), "{}", after.len() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_used_is_written_back() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    admin.client(&tenant.owner).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    admin.service.verifier().flush_used().await.unwrap();
    let record = tokens::by_id(admin.store.reader().as_mut(), tenant.owner.id()).await.unwrap();
    assert!(record.unwrap().used.last_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_speaks_tls_and_without_it_only_when_told() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start_with(false).await;
    admin.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // HTTP/1.1, without a token, and nothing but "ok".
    let address = admin.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        tcp.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("ok\n") && !answer.contains("0.1"), "{answer}");
    // With TLS, a client that does not trust the CA sends no token.
    let secured = site.start().await;
    let elsewhere = Site::new(Kind::Sqlite);
    let stranger = elsewhere.start().await;
    let mut peer = secured.peer.clone();
    peer.trust = stranger.peer.trust.clone();
    let mut client = v1::admin_service_client::AdminServiceClient::new(peer.channel().unwrap());
    let refused = error(client.who_am_i(v1::WhoAmIRequest {}).await);
    assert_ne!(refused.code(), Code::TokenMissing, "it never came that far");
}
