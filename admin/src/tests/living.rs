//! The rest of a token's life: changed, disabled, idle, claimed, purged.

use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;

use super::harness::{Client, Running, Site, again, code, generate, make_volume, revoke, used};
use crate::store::{Kind, Value, tokens};

fn get(token: &Token) -> v1::GetTokenRequest {
    v1::GetTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        ..Default::default()
    }
}

fn disable(token: &Token) -> v1::DisableTokenRequest {
    v1::DisableTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        ..Default::default()
    }
}

fn update(token: &Token) -> v1::UpdateTokenRequest {
    v1::UpdateTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        ..Default::default()
    }
}

async fn tenant(admin: &Running) -> (Client, v1::Volume, Token) {
    admin.stores().await;
    let owner = admin.account("a").await.owner;
    let mut client = admin.client(&owner);
    let (volume, token) = make_volume(&mut client, "v").await;
    (client, volume, token)
}

fn in_seconds(seconds: i64) -> Option<v1::Timestamp> {
    let at = clock::wall_now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    Some(wire::timestamp_to_wire(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_token_comes_back_and_a_revoked_one_does_not() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, _, token) = tenant(&admin).await;
    owner.disable_token(disable(&token)).await.unwrap();
    assert_eq!(used(&admin, &token).await, Err(Code::TokenDisabled));
    owner.disable_token(disable(&token)).await.unwrap();
    let shown = owner.enable_token(get(&token)).await.unwrap().into_inner();
    assert_eq!(shown.state, "active");
    used(&admin, &token).await.unwrap();
    owner.revoke_token(revoke("volume", token.id())).await.unwrap();
    assert_eq!(code(owner.enable_token(get(&token)).await), Code::AlreadyEnded);
    assert_eq!(code(owner.disable_token(disable(&token)).await), Code::AlreadyEnded);
    assert_eq!(code(owner.update_token(update(&token)).await), Code::AlreadyEnded);
    let rotation = v1::RotateTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string(),
        token: Some(again(&token).to_wire()),
        ..Default::default()
    };
    assert_eq!(code(owner.rotate_token(rotation).await), Code::AlreadyEnded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_is_neither_disabled_nor_limited() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    assert_eq!(code(owner.disable_token(disable(&tenant.owner)).await), Code::LastOwner);
    let limits = [
        v1::UpdateTokenRequest { idle_seconds: Some(3600), ..update(&tenant.owner) },
        v1::UpdateTokenRequest {
            cidrs: Some(v1::TextList { items: vec!["127.0.0.1/32".into()] }),
            ..update(&tenant.owner)
        },
        v1::UpdateTokenRequest {
            expires_at: Some(v1::TimeChange { at: in_seconds(3600) }),
            ..update(&tenant.owner)
        },
    ];
    for limit in limits {
        assert_eq!(code(owner.update_token(limit).await), Code::LastOwner);
    }
    let notes = v1::UpdateTokenRequest { notes: Some("mine".into()), ..update(&tenant.owner) };
    assert_eq!(owner.update_token(notes).await.unwrap().into_inner().notes, "mine");
    // With a second one it may go; then the second is the last.
    let second = admin.account_token(&tenant.id, "owner").await;
    owner.disable_token(disable(&tenant.owner)).await.unwrap();
    let mut second_client = admin.client(&second);
    assert_eq!(code(second_client.disable_token(disable(&second)).await), Code::LastOwner);
    let me = revoke("account", second.id());
    assert_eq!(code(second_client.revoke_token(me).await), Code::LastOwner);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_and_what_is_absent_stays() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, _, token) = tenant(&admin).await;
    let request = v1::UpdateTokenRequest {
        notes: Some("n".into()),
        expires_at: Some(v1::TimeChange { at: in_seconds(3600) }),
        idle_seconds: Some(86_400),
        cidrs: Some(v1::TextList { items: vec!["10.0.0.0/8".into()] }),
        flags: Some(v1::TextList { items: vec!["noExec".into()] }),
        rights: Some("ro".into()),
        ..update(&token)
    };
    let changed = owner.update_token(request).await.unwrap().into_inner();
    assert_eq!((changed.rights.as_str(), changed.idle_seconds), ("ro", 86_400));
    assert_eq!(changed.flag_names, ["noExec"]);
    assert_eq!(used(&admin, &token).await, Err(Code::TokenSourceDenied));
    let request = v1::UpdateTokenRequest {
        expires_at: Some(v1::TimeChange { at: None }),
        cidrs: Some(v1::TextList::default()),
        ..update(&token)
    };
    let changed = owner.update_token(request).await.unwrap().into_inner();
    assert_eq!((changed.expires_at, changed.notes.as_str()), (None, "n"));
    assert_eq!((changed.rights.as_str(), changed.idle_seconds), ("ro", 86_400));
    used(&admin, &token).await.unwrap();
    for wrong in [
        v1::UpdateTokenRequest { idle_seconds: Some(1), ..update(&token) },
        v1::UpdateTokenRequest { rights: Some("rwx".into()), ..update(&token) },
        v1::UpdateTokenRequest { volumes: Some(v1::TextList::default()), ..update(&token) },
        v1::UpdateTokenRequest {
            expires_at: Some(v1::TimeChange { at: in_seconds(-1) }),
            ..update(&token)
        },
        v1::UpdateTokenRequest { idle_seconds: Some(u64::MAX), ..update(&token) },
    ] {
        assert_eq!(code(owner.update_token(wrong).await), Code::ArgumentInvalid);
    }
}

/// Moves all that is known of a token's uses into the past.
async fn age(admin: &Running, token: &Token, seconds: i64) {
    admin.service.verifier().flush_used().await.unwrap();
    let mut tx = admin.store.begin().await.unwrap();
    let args = || vec![Value::text(token.id()), Value::from(seconds * 1_000_000)];
    for text in [
        "UPDATE tokens SET created_at = created_at - $2 WHERE id = $1",
        "UPDATE tokens SET rotated_at = rotated_at - $2 WHERE id = $1",
        "UPDATE tokens SET last_used_at = last_used_at - $2 WHERE id = $1",
    ] {
        tx.sql().execute(text, args()).await.unwrap();
    }
    tx.commit_quietly().await.unwrap();
}

async fn idle(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let (mut owner, _, token) = tenant(&admin).await;
    let request = v1::UpdateTokenRequest { idle_seconds: Some(100), ..update(&token) };
    owner.update_token(request).await.unwrap();
    used(&admin, &token).await.unwrap();
    age(&admin, &token, 90).await;
    used(&admin, &token).await.unwrap();
    // The use before counts from then, not from the making.
    age(&admin, &token, 90).await;
    used(&admin, &token).await.unwrap();
    age(&admin, &token, 101).await;
    // Another process, which knows nothing of uses.
    let other = site.start().await;
    assert_eq!(used(&other, &token).await, Err(Code::TokenExpired));
    let shown = owner.get_token(get(&token)).await.unwrap().into_inner();
    assert_eq!(shown.state, "expired");
    let listed = v1::ListTokensRequest {
        kind: "volume".into(),
        state: "expired".into(),
        ..Default::default()
    };
    let listed = owner.list_tokens(listed).await.unwrap().into_inner().items;
    assert_eq!(listed.len(), 1);
    // Without the limit it lives again: nobody revoked it.
    let request = v1::UpdateTokenRequest { idle_seconds: Some(0), ..update(&token) };
    owner.update_token(request).await.unwrap();
    used(&admin, &token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_ends_on_sqlite() {
    idle(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_ends_on_postgres() {
    idle(Kind::Postgres).await;
}

fn redeem(token: &Token) -> v1::RedeemClaimRequest {
    v1::RedeemClaimRequest { kind: token.kind().name().to_owned(), token: Some(token.to_wire()) }
}

async fn claims(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let (mut owner, volume, _) = tenant(&admin).await;
    let claim = admin.claim(&mut owner, &volume.id).await;
    let mine = Token::generate_for(TokenKind::Volume, claim.id()).unwrap();
    assert_eq!(used(&admin, &mine).await, Err(Code::TokenUnknown));
    let shown = owner.get_token(get(&mine)).await.unwrap().into_inner();
    assert_eq!((shown.live_secrets, shown.claim_expires_at.is_some()), (0, true));
    let mut machine = admin.client(&claim);
    // For nothing but that, and only for what it is.
    assert_eq!(code(machine.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenWrongKind);
    let account = Token::generate_for(TokenKind::Account, claim.id()).unwrap();
    assert_eq!(code(machine.redeem_claim(redeem(&account)).await), Code::TokenWrongKind);
    let other = generate(TokenKind::Volume);
    assert_eq!(code(machine.redeem_claim(redeem(&other)).await), Code::ArgumentInvalid);
    let wrong = admin.client(&again(&claim)).redeem_claim(redeem(&mine)).await;
    assert_eq!(code(wrong), Code::TokenUnknown);
    machine.redeem_claim(redeem(&mine)).await.unwrap();
    used(&admin, &mine).await.unwrap();
    // The answer was lost: the same again. Somebody else: refused and told.
    machine.redeem_claim(redeem(&mine)).await.unwrap();
    let thief = Token::generate_for(TokenKind::Volume, claim.id()).unwrap();
    assert_eq!(code(machine.redeem_claim(redeem(&thief)).await), Code::ClaimUsed);
    assert_eq!(used(&admin, &thief).await, Err(Code::TokenUnknown));
    used(&admin, &mine).await.unwrap();
    let shown = owner.get_token(get(&mine)).await.unwrap().into_inner();
    assert_eq!((shown.live_secrets, shown.claim_expires_at), (1, None));
    assert_eq!(shown.last4, mine.last4());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_code_is_traded_once_on_sqlite() {
    claims(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_code_is_traded_once_on_postgres() {
    claims(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_code_ends_with_its_time_and_with_its_token() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, volume, _) = tenant(&admin).await;
    let late = admin.claim(&mut owner, &volume.id).await;
    let mut tx = admin.store.begin().await.unwrap();
    let args = vec![Value::text(late.id())];
    tx.sql()
        .execute("UPDATE token_claims SET expires_at = 1 WHERE token_id = $1", args)
        .await
        .unwrap();
    tx.commit_quietly().await.unwrap();
    let token = Token::generate_for(TokenKind::Volume, late.id()).unwrap();
    let answer = admin.client(&late).redeem_claim(redeem(&token)).await;
    assert_eq!(code(answer), Code::TokenExpired);
    let revoked = admin.claim(&mut owner, &volume.id).await;
    owner.revoke_token(revoke("volume", revoked.id())).await.unwrap();
    let token = Token::generate_for(TokenKind::Volume, revoked.id()).unwrap();
    let answer = admin.client(&revoked).redeem_claim(redeem(&token)).await;
    assert_eq!(code(answer), Code::TokenRevoked);
    // A rotation gives the token a secret: the code is void.
    let void = admin.claim(&mut owner, &volume.id).await;
    let rotated = Token::generate_for(TokenKind::Volume, void.id()).unwrap();
    let rotation = v1::RotateTokenRequest {
        kind: "volume".into(),
        id: void.id().to_string(),
        token: Some(rotated.to_wire()),
        ..Default::default()
    };
    owner.rotate_token(rotation).await.unwrap();
    let answer = admin.client(&void).redeem_claim(redeem(&again(&rotated))).await;
    assert_eq!(code(answer), Code::TokenUnknown);
    let forever = v1::CreateVolumeTokenRequest {
        volume: volume.id.clone(),
        claim: Some(generate(TokenKind::Claim).to_wire()),
        claim_expires_at: in_seconds(8 * 86_400),
        ..Default::default()
    };
    assert_eq!(code(owner.create_volume_token(forever).await), Code::ArgumentInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_shut_out_and_comes_back() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (_, _, token) = tenant(&admin).await;
    let mut system = admin.system();
    let account = v1::DisableAccountRequest { id: "a".into(), ..Default::default() };
    system.disable_account(account.clone()).await.unwrap();
    assert_eq!(used(&admin, &token).await, Err(Code::AccountSuspended));
    system.disable_account(account).await.unwrap();
    let get = v1::GetRequest { id: "a".into(), ..Default::default() };
    let shown = system.enable_account(get).await.unwrap().into_inner();
    assert_eq!(shown.state, "active");
    used(&admin, &token).await.unwrap();
    let own = v1::DisableAccountRequest { id: "system".into(), ..Default::default() };
    assert_eq!(code(system.disable_account(own).await), Code::LastOwner);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_revoked_at_once_and_a_dry_run_changes_nothing() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, volume, first) = tenant(&admin).await;
    let (_, elsewhere) = make_volume(&mut owner, "w").await;
    let mut all = vec![first];
    for _ in 0..3 {
        let token = generate(TokenKind::Volume);
        let request = v1::CreateVolumeTokenRequest {
            token: Some(token.to_wire()),
            volume: volume.id.clone(),
            ..Default::default()
        };
        owner.create_volume_token(request).await.unwrap();
        all.push(token);
    }
    let request =
        v1::RevokeTokensRequest { volume: "v".into(), dry_run: true, ..Default::default() };
    let reply = owner.revoke_tokens(request.clone()).await.unwrap().into_inner();
    assert_eq!((reply.items.len(), reply.revision), (4, 0));
    for token in &all {
        used(&admin, token).await.unwrap();
    }
    let request = v1::RevokeTokensRequest { dry_run: false, ..request };
    let reply = owner.revoke_tokens(request).await.unwrap().into_inner();
    assert_eq!(reply.items.len(), 4);
    for token in &all {
        assert_eq!(used(&admin, token).await, Err(Code::TokenRevoked));
    }
    used(&admin, &elsewhere).await.unwrap();
    // The whole account: the caller's own token is kept, and named.
    let reply = owner.revoke_tokens(v1::RevokeTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!((reply.items.len(), reply.kept.len()), (1, 1));
    assert_eq!(used(&admin, &elsewhere).await, Err(Code::TokenRevoked));
    owner.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // Of another account nothing is found by its id.
    let other = admin.account("b").await;
    let request =
        v1::RevokeTokensRequest { ids: vec![other.owner.id().to_string()], ..Default::default() };
    let reply = owner.revoke_tokens(request).await.unwrap().into_inner();
    assert_eq!((reply.items.len(), reply.kept.len()), (0, 0));
    used(&admin, &other.owner).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_is_purged_and_its_id_never_comes_back() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, _, token) = tenant(&admin).await;
    owner.revoke_token(revoke("volume", token.id())).await.unwrap();
    assert_eq!(admin.service.purge(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(used(&admin, &token).await, Err(Code::TokenRevoked), "still told why");
    assert_eq!(admin.service.purge(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(used(&admin, &token).await, Err(Code::TokenUnknown));
    assert_eq!(code(owner.get_token(get(&token)).await), Code::TokenNotFound);
    let record = tokens::by_id(admin.store.reader().as_mut(), token.id()).await.unwrap();
    assert!(record.unwrap().deleted_at.is_some());
    let import = v1::CreateVolumeTokenRequest {
        token: Some(token.to_wire()),
        volume: "v".into(),
        ..Default::default()
    };
    assert_eq!(code(owner.create_volume_token(import).await), Code::TokenExists);
    let verify = admin.service.verifier();
    assert_eq!(verify.verify(&token, None).await.unwrap_err().code(), Code::TokenUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_age_policy_names_what_is_past_it() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, _, token) = tenant(&admin).await;
    let policy =
        v1::UpdateAccountRequest { max_token_age_seconds: Some(30 * 86_400), ..Default::default() };
    let account = owner.update_account(policy).await.unwrap().into_inner();
    assert_eq!(account.max_token_age_seconds, 30 * 86_400);
    let overdue =
        || v1::ListTokensRequest { kind: "volume".into(), overdue: true, ..Default::default() };
    assert!(owner.list_tokens(overdue()).await.unwrap().into_inner().items.is_empty());
    age(&admin, &token, 31 * 86_400).await;
    let items = owner.list_tokens(overdue()).await.unwrap().into_inner().items;
    assert_eq!(items.len(), 1);
    assert!(items[0].overdue);
    // Rotation is the cure.
    let rotation = v1::RotateTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string(),
        token: Some(again(&token).to_wire()),
        ..Default::default()
    };
    owner.rotate_token(rotation).await.unwrap();
    assert!(owner.list_tokens(overdue()).await.unwrap().into_inner().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_makes_a_deletion_repeatable() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, volume, _) = tenant(&admin).await;
    let id = "7f9c24e8-3b12-4f6a-9d2e-0123456789ab";
    let with_id = |id: &str| {
        let delete = v1::DeleteRequest { id: volume.id.clone(), ..Default::default() };
        let mut request = tonic::Request::new(delete);
        request.metadata_mut().insert("flexfs-request-id", id.parse().unwrap());
        request
    };
    let first = owner.delete_volume(with_id(id)).await.unwrap().into_inner();
    let again = owner.delete_volume(with_id(id)).await.unwrap().into_inner();
    assert_eq!(first, again);
    let other = "8f9c24e8-3b12-4f6a-9d2e-0123456789ab";
    assert_eq!(code(owner.delete_volume(with_id(other)).await), Code::VolumeNotFound);
    // Another request under the same id is a mistake of the caller.
    let mut request = tonic::Request::new(v1::UpdateAccountRequest::default());
    request.metadata_mut().insert("flexfs-request-id", id.parse().unwrap());
    assert_eq!(code(owner.update_account(request).await), Code::RequestReused);
    assert_eq!(code(owner.delete_volume(with_id("x")).await), Code::ArgumentInvalid);
    // Another caller's ids are his own.
    let second = admin.account("b").await;
    let mut request = tonic::Request::new(v1::UpdateAccountRequest::default());
    request.metadata_mut().insert("flexfs-request-id", id.parse().unwrap());
    admin.client(&second.owner).update_account(request).await.unwrap();
}
