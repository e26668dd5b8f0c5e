//! The first start, crashes in it, and the way back in.

use std::os::unix::fs::PermissionsExt;

use flexfs_auth::token::TokenKind;
use flexfs_common::Code;
use flexfs_proto::v1;

use super::harness::{CHEAP, Site, code, generate};
use crate::bootstrap;
use crate::store::Kind;
use crate::verify::Verify;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_written_once_and_opens_everything() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let path = bootstrap::token_path(&site.home);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{}\n", admin.root.reveal()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let who = admin.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.role.as_str(), who.account_name.as_str()), ("system", "system"));
    admin.stop().await;
    // Started again: the same token, the same account; a removed file is not
    // made anew.
    let again = site.start().await;
    let who_again = again.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(who, who_again);
    std::fs::remove_file(&path).unwrap();
    let verify = Verify::new(again.store.clone(), site.pepper(), CHEAP).unwrap();
    assert!(!bootstrap::run(&site.home, &again.store, &verify).await.unwrap());
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_file_and_database_locks_nobody_out() {
    let site = Site::new(Kind::Sqlite);
    // The file was written, then the power went.
    let token = generate(TokenKind::Account);
    assert!(bootstrap::write_token(&site.home, &token, false).unwrap());
    let admin = site.start().await;
    assert_eq!(admin.root.id(), token.id());
    admin.client(&token).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_token_that_others_can_read_is_refused() {
    let site = Site::new(Kind::Sqlite);
    bootstrap::write_token(&site.home, &generate(TokenKind::Account), false).unwrap();
    let path = bootstrap::token_path(&site.home);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = site.db.open().await;
    let verify = Verify::new(store.clone(), site.pepper(), CHEAP).unwrap();
    let error = bootstrap::run(&site.home, &store, &verify).await.unwrap_err();
    assert_eq!(error.code(), Code::CredsInsecure);
    // A token of another kind is no system token either.
    std::fs::remove_file(&path).unwrap();
    bootstrap::write_token(&site.home, &generate(TokenKind::Volume), false).unwrap();
    let error = bootstrap::run(&site.home, &store, &verify).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenWrongKind);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_starting_at_once_make_one_system_token() {
    let site = Site::new(Kind::Postgres);
    let stores = [site.db.open().await, site.db.open().await];
    let verifies: Vec<_> = stores
        .iter()
        .map(|store| Verify::new(store.clone(), site.pepper(), CHEAP).unwrap())
        .collect();
    let (a, b) = tokio::join!(
        bootstrap::run(&site.home, &stores[0], &verifies[0]),
        bootstrap::run(&site.home, &stores[1], &verifies[1]),
    );
    assert_ne!(a.unwrap(), b.unwrap(), "exactly one did it");
    let admin = site.start().await;
    admin.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

async fn recovery_ends_earlier_system_tokens(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let old = admin.root.clone();
    let other = admin.account_token("", "system").await;
    let tenant = admin.account("a").await;
    admin.client(&other).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // Another process, beside the running admin.
    let store = site.db.open().await;
    let verify = Verify::new(store.clone(), site.pepper(), CHEAP).unwrap();
    let id = bootstrap::recover(&site.home, &store, &verify).await.unwrap();
    let new = bootstrap::read_token(&site.home).unwrap().unwrap();
    assert_eq!(new.id(), id);
    // The running admin learns of it by looking at the feed.
    let mut bell = admin.store.applied().bell();
    let revision = crate::store::feed::head(store.reader().as_mut()).await.unwrap().revision;
    bell.wait_for(|latest| *latest >= revision).await.unwrap();
    for ended in [&old, &other] {
        let refused = admin.client(ended).who_am_i(v1::WhoAmIRequest {}).await;
        assert_eq!(code(refused), Code::TokenRevoked);
    }
    admin.client(&new).get_status(v1::GetStatusRequest {}).await.unwrap();
    admin.client(&tenant.owner).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_ends_earlier_system_tokens_on_sqlite() {
    recovery_ends_earlier_system_tokens(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_ends_earlier_system_tokens_on_postgres() {
    recovery_ends_earlier_system_tokens(Kind::Postgres).await;
}
