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
