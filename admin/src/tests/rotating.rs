//! Rotation: secrets overlap, end, and are told apart.

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;

use super::harness::{Client, Running, Site, again, code, generate, make_volume, revoke, used};
use crate::service::{Caller, methods};
use crate::store::{Kind, Value, audit};

fn rotate(token: &Token, new: &Token) -> v1::RotateTokenRequest {
    v1::RotateTokenRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        token: Some(new.to_wire()),
        ..Default::default()
    }
}

fn finish(token: &Token, force: bool) -> v1::FinishRotationRequest {
    v1::FinishRotationRequest {
        kind: token.kind().name().to_owned(),
        id: token.id().to_string(),
        force,
        ..Default::default()
    }
}

async fn tenant(admin: &Running) -> (Client, Token) {
    admin.stores().await;
    let owner = admin.account("a").await.owner;
    let mut client = admin.client(&owner);
    let (_, token) = make_volume(&mut client, "v").await;
    (client, token)
}

/// Sets the clock of a token's stored times back: nothing else can make time
/// pass here.
async fn sql(admin: &Running, text: &'static str, id: &Token) {
    let mut tx = admin.store.begin().await.unwrap();
    tx.sql().execute(text, vec![Value::text(id.id())]).await.unwrap();
    let change = crate::store::changes::Change {
        token: Some(id.id()),
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

async fn overlap_then_finish(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let (mut owner, old) = tenant(&admin).await;
    let new = again(&old);
    let reply = owner.rotate_token(rotate(&old, &new)).await.unwrap().into_inner();
    let secrets = reply.rotation.unwrap().secrets;
    let states: Vec<_> = secrets.iter().map(|s| s.state.as_str()).collect();
    assert_eq!(states, ["ending", "live"]);
    assert!(secrets[0].expires_at.is_some(), "a day from now");
    // Both are good, and the same again changes nothing.
    used(&admin, &old).await.unwrap();
    used(&admin, &new).await.unwrap();
    let repeated = owner.rotate_token(rotate(&old, &new)).await.unwrap().into_inner();
    assert_eq!(repeated.rotation.unwrap().secrets.len(), 2);
    // The old one was used a moment ago: its user is named.
    let refused = owner.finish_rotation(finish(&old, false)).await.unwrap_err();
    assert!(refused.message().contains("127.0.0.1"), "{}", refused.message());
    assert_eq!(code(Err::<(), _>(refused)), Code::RotationInUse);
    used(&admin, &old).await.unwrap();
    owner.finish_rotation(finish(&old, true)).await.unwrap();
    assert_eq!(used(&admin, &old).await, Err(Code::TokenRotated), "at once");
    used(&admin, &new).await.unwrap();
    // Nothing is left to finish; an ended secret never comes back.
    owner.finish_rotation(finish(&old, false)).await.unwrap();
    let refused = owner.rotate_token(rotate(&old, &old)).await;
    assert_eq!(code(refused), Code::TokenExists);
    // What happened to the ended one is in the log, and whose it is.
    admin.service.verifier().flush_refused().await.unwrap();
    let records = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
    let reuse: Vec<_> = records.iter().filter(|r| r.record.action == "token.reuse").collect();
    assert_eq!(reuse.len(), 1);
    assert_eq!(reuse[0].record.who, old.id().to_string());
    assert!(!reuse[0].record.account.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_and_end_on_sqlite() {
    overlap_then_finish(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_and_end_on_postgres() {
    overlap_then_finish(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_secrets_live_and_an_emergency_leaves_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, first) = tenant(&admin).await;
    let mut all = vec![first.clone()];
    for _ in 0..4 {
        let next = again(&first);
        owner.rotate_token(rotate(&first, &next)).await.unwrap();
        all.push(next);
    }
    for token in &all {
        used(&admin, token).await.unwrap();
    }
    let sixth = again(&first);
    let refused = owner.rotate_token(rotate(&first, &sixth)).await;
    assert_eq!(code(refused), Code::RotationFull);
    assert_eq!(used(&admin, &sixth).await, Err(Code::TokenUnknown), "nothing was written");
    let request = v1::RotateTokenRequest { emergency: true, ..rotate(&first, &sixth) };
    owner.rotate_token(request).await.unwrap();
    for token in &all {
        assert_eq!(used(&admin, token).await, Err(Code::TokenRotated));
    }
    used(&admin, &sixth).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_ends_by_time_and_never_later_than_before() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, old) = tenant(&admin).await;
    let (second, third) = (again(&old), again(&old));
    let short = v1::RotateTokenRequest { overlap_seconds: 60, ..rotate(&old, &second) };
    let first_end = owner.rotate_token(short).await.unwrap().into_inner();
    let first_end = first_end.rotation.unwrap().secrets[0].expires_at.unwrap();
    // A later rotation with a longer overlap does not prolong the first.
    let reply = owner.rotate_token(rotate(&old, &third)).await.unwrap().into_inner();
    assert_eq!(reply.rotation.unwrap().secrets[0].expires_at, Some(first_end));
    for token in [&old, &second, &third] {
        used(&admin, token).await.unwrap();
    }
    sql(
        &admin,
        "UPDATE token_secrets SET expires_at = 1 WHERE expires_at IS NOT NULL AND token_id = $1",
        &old,
    )
    .await;
    assert_eq!(used(&admin, &old).await, Err(Code::TokenRotated));
    assert_eq!(used(&admin, &second).await, Err(Code::TokenRotated));
    used(&admin, &third).await.unwrap();
    let too_long =
        v1::RotateTokenRequest { overlap_seconds: 91 * 86_400, ..rotate(&old, &again(&old)) };
    assert_eq!(code(owner.rotate_token(too_long).await), Code::ArgumentInvalid);
    let both = v1::RotateTokenRequest {
        overlap_seconds: 1,
        emergency: true,
        ..rotate(&old, &again(&old))
    };
    assert_eq!(code(owner.rotate_token(both).await), Code::ArgumentInvalid);
    let foreign = rotate(&old, &generate(TokenKind::Volume));
    assert_eq!(code(owner.rotate_token(foreign).await), Code::ArgumentInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_rotates_itself_and_no_other() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let tenant = admin.account("a").await;
    let (_, volume) = make_volume(&mut admin.client(&tenant.owner), "v").await;
    let mut own = vec![meta, volume.clone(), tenant.owner.clone()];
    for role in ["operator", "viewer", "auditor", "metrics", "provisioner"] {
        own.push(admin.account_token(&tenant.id, role).await);
    }
    for token in &own {
        let new = again(token);
        admin.client(token).rotate_token(rotate(token, &new)).await.unwrap();
        used(&admin, &new).await.unwrap();
        admin.client(&new).finish_rotation(finish(token, true)).await.unwrap();
        assert_eq!(used(&admin, token).await, Err(Code::TokenRotated));
        if token.id() != volume.id() && token.id() != tenant.owner.id() {
            let other = again(&volume);
            let answer = admin.client(&new).rotate_token(rotate(&volume, &other)).await;
            // An operator may; a provisioner did not make this volume.
            let role = admin.client(&new).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
            let role = role.into_inner().role;
            assert_eq!(answer.is_ok(), role == "operator", "{role}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_owner_cannot_rotate_its_way_out() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let now = wire::timestamp_from_wire(&v1::Timestamp {
        seconds: clock::wall_now().as_second(),
        nanos: 0,
    })
    .unwrap();
    let hour =
        wire::timestamp_to_wire(now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap());
    let limited = generate(TokenKind::Account);
    let request = v1::CreateAccountTokenRequest {
        token: Some(limited.to_wire()),
        role: "owner".into(),
        cidrs: vec!["127.0.0.0/8".into()],
        expires_at: Some(hour),
        ..Default::default()
    };
    owner.create_account_token(request.clone()).await.unwrap();
    let mut client = admin.client(&limited);
    // Neither another owner's secret, nor a token without its limits, nor
    // without its own.
    let answer = client.rotate_token(rotate(&tenant.owner, &again(&tenant.owner))).await;
    assert_eq!(code(answer), Code::RoleForbidden);
    let free = |cidrs: Vec<String>, expires_at| v1::CreateAccountTokenRequest {
        token: Some(generate(TokenKind::Account).to_wire()),
        role: "viewer".into(),
        cidrs,
        expires_at,
        ..Default::default()
    };
    let later =
        wire::timestamp_to_wire(now.checked_add(jiff::SignedDuration::from_hours(2)).unwrap());
    let inside = || vec!["127.0.0.1/32".to_owned()];
    assert_eq!(
        code(client.create_account_token(free(vec![], Some(hour))).await),
        Code::RoleForbidden
    );
    assert_eq!(
        code(client.create_account_token(free(inside(), Some(later))).await),
        Code::RoleForbidden
    );
    let made = client.create_account_token(free(inside(), None)).await.unwrap().into_inner();
    assert_eq!(made.expires_at, Some(hour), "it expires with its maker");
    let update = |change| v1::UpdateTokenRequest {
        kind: "account".into(),
        id: limited.id().to_string(),
        ..change
    };
    let change = v1::UpdateTokenRequest {
        expires_at: Some(v1::TimeChange { at: None }),
        ..Default::default()
    };
    assert_eq!(code(client.update_token(update(change)).await), Code::RoleForbidden);
    let change =
        v1::UpdateTokenRequest { cidrs: Some(v1::TextList::default()), ..Default::default() };
    assert_eq!(code(client.update_token(update(change)).await), Code::RoleForbidden);
    // Itself it may rotate; the new secret has the same end and limits.
    let new = again(&limited);
    client.rotate_token(rotate(&limited, &new)).await.unwrap();
    let me = admin.client(&new).who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.expires_at, Some(hour));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_about_to_end_neither_prolongs_itself_nor_ends_the_good_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, old) = tenant(&admin).await;
    let new = again(&old);
    owner.rotate_token(rotate(&old, &new)).await.unwrap();
    let thief = again(&old);
    let mut client = admin.client(&old);
    let answer = client.rotate_token(rotate(&old, &thief)).await;
    assert_eq!(code(answer), Code::TokenRotated);
    let now = v1::RotateTokenRequest { emergency: true, ..rotate(&old, &thief) };
    assert_eq!(code(client.rotate_token(now).await), Code::TokenRotated);
    assert_eq!(code(client.finish_rotation(finish(&old, true)).await), Code::TokenRotated);
    assert_eq!(used(&admin, &thief).await, Err(Code::TokenUnknown));
    used(&admin, &new).await.unwrap();
    // An answer that was lost is repeated all the same.
    client.rotate_token(rotate(&old, &new)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_ends_the_others_also_when_its_secret_is_there() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, old) = tenant(&admin).await;
    let new = again(&old);
    owner.rotate_token(rotate(&old, &new)).await.unwrap();
    let now = v1::RotateTokenRequest { emergency: true, ..rotate(&old, &new) };
    owner.rotate_token(now).await.unwrap();
    assert_eq!(used(&admin, &old).await, Err(Code::TokenRotated));
    used(&admin, &new).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passed_the_door_does_not_commit_after_its_secret_ended() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let second = admin.account_token(&tenant.id, "owner").await;
    // A call that has passed the door, as it waits in the line before argon2.
    let verified = admin.service.verifier().verify(&second, None).await.unwrap();
    let method = |name: &str| methods::find(&format!("/flexfs.v1.AdminService/{name}")).unwrap();
    let at_the_door = |name: &str| Caller::new(verified.clone(), None, method(name));
    owner.revoke_token(revoke("account", second.id())).await.unwrap();
    let made = generate(TokenKind::Account);
    let request = v1::CreateAccountTokenRequest {
        token: Some(made.to_wire()),
        role: "owner".into(),
        ..Default::default()
    };
    let caller = at_the_door("CreateAccountToken");
    let late = admin.service.create_account_token(&caller, request).await;
    assert_eq!(late.unwrap_err().code(), Code::TokenRevoked);
    assert_eq!(used(&admin, &made).await, Err(Code::TokenUnknown));
    let own = again(&second);
    let caller = at_the_door("RotateToken");
    let late = admin.service.rotate_token(&caller, rotate(&second, &own)).await;
    assert_eq!(late.unwrap_err().code(), Code::TokenRevoked);
    let caller = at_the_door("RevokeTokens");
    let late = admin.service.revoke_tokens(&caller, v1::RevokeTokensRequest::default()).await;
    assert_eq!(late.unwrap_err().code(), Code::TokenRevoked);
    owner.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_secrets_do_not_pile_up() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let (mut owner, token) = tenant(&admin).await;
    for _ in 0..40 {
        let request = v1::RotateTokenRequest { emergency: true, ..rotate(&token, &again(&token)) };
        owner.rotate_token(request).await.unwrap();
    }
    let get = v1::GetTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string(),
        ..Default::default()
    };
    let rotation = owner.get_rotation(get).await.unwrap().into_inner();
    assert!(rotation.secrets.len() <= 18, "{} rows", rotation.secrets.len());
}
