//! Secrets under a pepper that is lost: who pays for the work of a look at
//! them, and who waits for whom.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;

use super::harness::{CHEAP, Running, Site, again};
use super::peppering::{from, lose, open, switch, with_lost_pepper};
use crate::store::{Kind, tokens};
use crate::verify::{Showing, Verify};

async fn verify_of(site: &Site, admin: &Running) -> Arc<Verify> {
    let peppers = open(site).await.unwrap();
    Arc::new(Verify::new(admin.store.clone(), peppers, CHEAP).unwrap())
}

/// With a limit that only a fault reaches.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("somebody waits for ever")
}

async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn rotate(token: &Token, new: &Token) -> v1::RotateTokenRequest {
    v1::RotateTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        token: Some(new.to_wire()),
        overlap_seconds: 3600,
        ..Default::default()
    }
}

fn shown(
    verify: &Arc<Verify>,
    token: &Token,
    from: Option<IpAddr>,
) -> tokio::task::JoinHandle<Result<(), Code>> {
    let (verify, token) = (Arc::clone(verify), token.clone());
    tokio::spawn(async move {
        verify.verify(&token, from).await.map(drop).map_err(|error| error.code())
    })
}

async fn account_of(admin: &Running, token: &Token) -> AccountId {
    let standing = tokens::standing(admin.store.reader().as_mut(), token.id()).await.unwrap();
    standing.unwrap().token.account_id
}

/// A secret that is compared while it is being made the token's is not refused
/// once it is: what was read before the change says nothing after it.
#[tokio::test]
async fn a_failure_from_before_a_change_is_not_remembered_after_it() {
    let site = Site::new(Kind::Sqlite);
    let (admin, old, _, _) = with_lost_pepper(&site).await;
    let verify = verify_of(&site, &admin).await;
    let new = again(&old);
    let held = verify.hashing().hold().await;
    let early = shown(&verify, &new, from(1));
    until(|| verify.hashing().runs() > 0).await;
    // The row was read; the rotation is committed before it was compared.
    let mut system = admin.system();
    let rotation = v1::RotateTokenRequest {
        account_id: account_of(&admin, &old).await.to_string(),
        ..rotate(&old, &new)
    };
    system.rotate_token(rotation).await.unwrap();
    drop(held);
    assert_eq!(soon(early).await.unwrap(), Err(Code::TokenUnknown));
    verify.verify(&new, from(1)).await.unwrap();
}

/// What a good secret costs its source: nothing, also when it is not the first
/// that is tried, and when nobody waits for it any more.
#[tokio::test]
async fn good_secrets_under_a_lost_pepper_use_up_no_failures() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let older = admin.account("a").await.owner;
    let newer = again(&older);
    admin.client(&older).rotate_token(rotate(&older, &newer)).await.unwrap();
    admin.stop().await;
    lose(&site.home);
    switch(&site).await;
    let admin = site.start().await;
    let verify = verify_of(&site, &admin).await;
    for round in 0..2 * limits::FAILURE_BURST {
        verify.verify(&older, from(1)).await.unwrap_or_else(|e| panic!("{round}: {e}"));
        verify.forget_successes();
    }
    assert!(verify.hashing().runs() >= u64::from(4 * limits::FAILURE_BURST), "two tries each");
    let held = verify.hashing().hold().await;
    for _ in 0..2 * limits::FAILURE_BURST {
        let runs = verify.hashing().runs();
        let asking = shown(&verify, &older, from(2));
        until(|| verify.hashing().runs() > runs).await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
    }
    drop(held);
    verify.verify(&older, from(2)).await.unwrap();
}

/// A tenant all of whose turns are taken holds nothing that another one needs,
/// and no more than its share of the line.
#[tokio::test(flavor = "multi_thread")]
async fn no_account_has_the_line_of_a_lost_pepper_for_itself() {
    let site = Site::new(Kind::Sqlite);
    let (admin, old, claim, _) = with_lost_pepper(&site).await;
    let verify = verify_of(&site, &admin).await;
    let account = account_of(&admin, &old).await;
    assert_ne!(account, account_of(&admin, &claim).await);
    let busy = verify.hashing().hold_turns_of(account);
    // From many sources, so that no bucket of theirs is what stops them.
    let flood: Vec<_> = (0..200).map(|n| shown(&verify, &again(&old), from(n))).collect();
    until(|| flood.iter().filter(|task| task.is_finished()).count() >= 200 - 32).await;
    let showing = Showing { from: from(250), ..Showing::default() };
    soon(verify.verify_claim(&claim, &showing)).await.unwrap();
    drop(busy);
    let mut unknown = 0;
    for task in flood {
        match soon(task).await.unwrap() {
            Err(Code::TokenUnknown) => unknown += 1,
            other => assert_eq!(other, Err(Code::RateLimited)),
        }
    }
    assert_eq!(unknown, 32, "half of the line");
    soon(verify.verify(&old, from(251))).await.unwrap();
}
