//! Floods of bad tokens: refused from memory, without a look into the
//! database; and what is good is found behind them.

use std::net::IpAddr;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::harness::{Running, Site, again, generate, make_volume};
use crate::store::Kind;
use crate::verify::Showing;

/// Until admin knows which tokens there are.
async fn ready(admin: &Running) {
    let loaded = async {
        while !admin.store.knows_tokens() || !admin.store.is_current() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), loaded).await.expect("the ids are not read");
}

fn here() -> Option<IpAddr> {
    Some("192.0.2.9".parse().unwrap())
}

async fn shown(admin: &Running, token: &Token) -> Code {
    let verifier = admin.service.verifier();
    if token.kind() == TokenKind::Claim {
        let showing = Showing { from: here(), ..Showing::default() };
        return verifier.verify_claim(token, &showing).await.unwrap_err().code();
    }
    verifier.verify(token, here()).await.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_without_the_database() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let (volume, token) = make_volume(&mut owner, "v").await;
    let claim = admin.claim(&mut owner, &volume.id).await;
    let other = admin.account_token(&tenant.id, "viewer").await;
    ready(&admin).await;
    // Wrong ones of ids that there are are looked for once.
    for wrong in [&token, &claim] {
        admin.service.verifier().exhaust(here());
        assert_eq!(shown(&admin, &again(wrong)).await, Code::RateLimited);
    }
    admin.store.close().await;
    let bad = [
        generate(TokenKind::Volume),
        generate(TokenKind::Account),
        generate(TokenKind::Claim),
        again(&token),
        again(&claim),
    ];
    for bad in &bad {
        assert_eq!(shown(&admin, bad).await, Code::RateLimited, "{bad:?}");
    }
    // The controls: who is not known to flood, and what memory cannot refuse,
    // is looked for.
    let elsewhere = admin.service.verifier().verify(&bad[0], None).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::DatabaseFailed);
    for good in [&other, &token] {
        assert_eq!(shown(&admin, good).await, Code::DatabaseFailed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_good_is_found_behind_a_flood() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let site = Site::new(kind);
        let admin = site.start().await;
        admin.stores().await;
        let tenant = admin.account("a").await;
        let mut owner = admin.client(&tenant.owner);
        let (_, token) = make_volume(&mut owner, "v").await;
        ready(&admin).await;
        let verifier = admin.service.verifier();
        // Known from when it is made, by whichever replica.
        let replica = if kind == Kind::Postgres { &site.start().await } else { &admin };
        ready(replica).await;
        let new = admin.account_token(&tenant.id, "viewer").await;
        replica.service.verifier().exhaust(here());
        replica.service.verifier().verify(&new, here()).await.unwrap();
        // Shown too early, a new secret is wrong; and good once it is made.
        let next = again(&token);
        verifier.exhaust(here());
        assert_eq!(shown(&admin, &again(&token)).await, Code::RateLimited);
        assert_eq!(shown(&admin, &next).await, Code::RateLimited);
        let request = v1::RotateTokenRequest {
            kind: "volume".into(),
            id: token.id().to_string(),
            token: Some(next.to_wire()),
            ..Default::default()
        };
        owner.rotate_token(request).await.unwrap();
        verifier.exhaust(here());
        verifier.verify(&next, here()).await.unwrap();
        verifier.verify(&token, here()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_place_says_nothing_about_its_own() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let (_, token) = make_volume(&mut admin.client(&tenant.owner), "v").await;
    ready(&admin).await;
    let verifier = admin.service.verifier();
    let (own, other): (StoreId, StoreId) = ("m1".parse().unwrap(), "m2".parse().unwrap());
    let at = |store| Showing { from: here(), host: "", store: Some(store) };
    verifier.exhaust(here());
    let refused = verifier.verify_shown(&token, &at(&other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::RateLimited);
    let refused = verifier.verify_shown(&token, &at(&other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::RateLimited);
    verifier.verify_shown(&token, &at(&own)).await.unwrap();
}

/// Before the first of many bad tokens is found to be bad, all of them are
/// there: what is read for them is no more than the source may fail.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_flood_is_not_looked_up_either() {
    const TOKENS: usize = 400;
    // Two reads each, and what a running server reads besides.
    let most = 2 * u64::from(limits::FAILURE_BURST) + 50;
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let site = Site::new(kind);
        let admin = site.start().await;
        admin.stores().await;
        let tenant = admin.account("a").await;
        let mut owner = admin.client(&tenant.owner);
        let (volume, token) = make_volume(&mut owner, "v").await;
        let claim = admin.claim(&mut owner, &volume.id).await;
        let cold = admin.account_token(&tenant.id, "viewer").await;
        ready(&admin).await;
        let wrong_of = |id: &Token| (0..TOKENS).map(|_| again(id)).collect();
        let unknown = (0..TOKENS).map(|_| generate(TokenKind::Volume)).collect();
        let floods: [Vec<Token>; 3] = [unknown, wrong_of(&token), wrong_of(&claim)];
        for bad in &floods {
            admin.service.verifier().forget_failures();
            let before = admin.store.reads();
            let mut all = FuturesUnordered::new();
            all.extend(bad.iter().map(|bad| shown(&admin, bad)));
            // A good one among them is found.
            let good = admin.service.verifier().verify(&cold, here());
            let (codes, good) = tokio::join!(all.collect::<Vec<_>>(), good);
            good.unwrap();
            let known = codes.iter().filter(|code| **code == Code::TokenUnknown).count();
            assert!(known >= limits::FAILURE_BURST as usize, "{known} were told");
            let limited = codes.iter().filter(|code| **code == Code::RateLimited).count();
            assert_eq!(known + limited, TOKENS);
            let read = admin.store.reads() - before;
            assert!(read <= most, "{read} reads on {kind:?} for {:?}", bad[0].kind());
            admin.service.verifier().forget_successes();
        }
    }
}
