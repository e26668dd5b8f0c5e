//! What is not yours is not there: in every call, page and count.

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::Code;
use flexfs_proto::v1;

use super::harness::{Site, by_id, code, delete, generate, make_volume, new_volume, revoke};
use crate::store::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_does_not_find_the_other() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let (a, b) = (admin.account("a").await, admin.account("b").await);
    let (mut of_a, mut of_b) = (admin.client(&a.owner), admin.client(&b.owner));
    let (volume, token) = make_volume(&mut of_a, "same").await;
    let (own, _) = make_volume(&mut of_b, "same").await;

    for id in [volume.id.clone(), volume.id[..8].to_owned()] {
        assert_eq!(code(of_b.get_volume(by_id(&id)).await), Code::VolumeNotFound);
        assert_eq!(code(of_b.delete_volume(delete(&id)).await), Code::VolumeNotFound);
    }
    assert_eq!(of_b.get_volume(by_id("same")).await.unwrap().into_inner().id, own.id);
    let get = |kind: &str, id: String, account: &str| v1::GetTokenRequest {
        kind: kind.into(),
        id,
        account_id: account.into(),
    };
    let foreign = token.id().to_string();
    assert_eq!(code(of_b.get_token(get("volume", foreign.clone(), "")).await), Code::TokenNotFound);
    assert_eq!(
        code(of_b.get_token(get("volume", foreign.clone(), &a.id)).await),
        Code::AccountNotFound
    );
    assert_eq!(
        code(of_b.get_token(get("account", a.owner.id().to_string(), "")).await),
        Code::TokenNotFound
    );
    assert_eq!(code(of_b.revoke_token(revoke("volume", &foreign)).await), Code::TokenNotFound);
    let remove = v1::DeleteTokenRequest {
        kind: "volume".into(),
        id: foreign.clone(),
        account_id: String::new(),
    };
    assert_eq!(code(of_b.delete_token(remove).await), Code::TokenNotFound);
    let mint = v1::CreateVolumeTokenRequest {
        token: Some(generate(TokenKind::Volume).to_wire()),
        volume: volume.id.clone(),
        ..Default::default()
    };
    assert_eq!(code(of_b.create_volume_token(mint).await), Code::VolumeNotFound);
    let listed = of_b.list_volumes(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.items, [own]);
    for account in [&a.id, "system", "a", "zzzz"] {
        let request = v1::ListRequest { account_id: account.to_owned(), ..Default::default() };
        assert_eq!(code(of_b.list_volumes(request).await), Code::AccountNotFound, "{account}");
    }
    let accounts = of_b.list_accounts(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(accounts.items.len(), 1);
    assert_eq!(accounts.items[0].id, b.id);
    assert_eq!(code(of_b.get_account(by_id(&a.id)).await), Code::AccountNotFound);
    let request = v1::ListTokensRequest { kind: "volume".into(), ..Default::default() };
    assert_eq!(of_b.list_tokens(request).await.unwrap().into_inner().items.len(), 1);
    // An id that somebody else uses can be told by its refusal alone; it is
    // 122 random bits, which nobody guesses. Nothing of it is shown.
    let copied = v1::CreateVolumeTokenRequest {
        token: Some(token.to_wire()),
        volume: "same".into(),
        ..Default::default()
    };
    assert_eq!(code(of_b.create_volume_token(copied).await), Code::TokenExists);
    // `system` sees both, when it says whose.
    let mut system = admin.system();
    let request = v1::GetRequest { id: "same".into(), account_id: a.id.clone() };
    assert_eq!(system.get_volume(request).await.unwrap().into_inner(), volume);
    assert_eq!(code(system.get_volume(by_id("same")).await), Code::VolumeNotFound);
}

fn account_token(
    role: &str,
    volumes: &[&str],
    cidrs: &[&str],
) -> (Token, v1::CreateAccountTokenRequest) {
    let token = generate(TokenKind::Account);
    let request = v1::CreateAccountTokenRequest {
        token: Some(token.to_wire()),
        role: role.into(),
        volumes: volumes.iter().map(|v| (*v).to_owned()).collect(),
        cidrs: cidrs.iter().map(|c| (*c).to_owned()).collect(),
        ..Default::default()
    };
    (token, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_token_sees_its_volumes_alone() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let (mine, _) = make_volume(&mut owner, "mine").await;
    let (other, other_token) = make_volume(&mut owner, "other").await;
    let (token, request) = account_token("operator", &["mine"], &[]);
    owner.create_account_token(request).await.unwrap();
    let mut limited = admin.client(&token);
    let listed = limited.list_volumes(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.items, std::slice::from_ref(&mine));
    for text in ["other", &other.id, &other.id[..8]] {
        assert_eq!(code(limited.get_volume(by_id(text)).await), Code::VolumeNotFound, "{text}");
    }
    let request = v1::ListTokensRequest { kind: "volume".into(), ..Default::default() };
    let tokens = limited.list_tokens(request).await.unwrap().into_inner().items;
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].volume_id, mine.id);
    let foreign = limited.revoke_token(revoke("volume", other_token.id())).await;
    assert_eq!(code(foreign), Code::TokenNotFound);
    limited.revoke_token(revoke("volume", &tokens[0].id)).await.unwrap();
    let new = limited.create_volume(new_volume("new", None)).await;
    assert_eq!(code(new), Code::RoleForbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisioner_has_what_it_made() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let (theirs, their_token) = make_volume(&mut owner, "theirs").await;
    let (token, request) = account_token("provisioner", &[], &[]);
    owner.create_account_token(request).await.unwrap();
    let mut csi = admin.client(&token);
    let (made, _) = make_volume(&mut csi, "made").await;
    let listed = csi.list_volumes(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.items, [made]);
    assert_eq!(code(csi.delete_volume(delete("theirs")).await), Code::VolumeNotFound);
    assert_eq!(code(csi.get_volume(by_id(&theirs.id)).await), Code::VolumeNotFound);
    let foreign = csi.revoke_token(revoke("volume", their_token.id())).await;
    assert_eq!(code(foreign), Code::TokenNotFound);
    let mint = v1::CreateVolumeTokenRequest {
        token: Some(generate(TokenKind::Volume).to_wire()),
        volume: "theirs".into(),
        ..Default::default()
    };
    assert_eq!(code(csi.create_volume_token(mint).await), Code::VolumeNotFound);
    csi.delete_volume(delete("made")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_makes_a_stronger_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    make_volume(&mut owner, "v").await;
    make_volume(&mut owner, "w").await;
    let refused = [
        account_token("system", &[], &[]).1,
        v1::CreateAccountTokenRequest {
            account_id: "system".into(),
            ..account_token("owner", &[], &[]).1
        },
    ];
    let codes = [Code::RoleForbidden, Code::AccountNotFound];
    for (request, expected) in refused.into_iter().zip(codes) {
        assert_eq!(code(owner.create_account_token(request).await), expected);
    }
    let operator = admin.account_token(&tenant.id, "operator").await;
    let (_, request) = account_token("viewer", &[], &[]);
    let minted = admin.client(&operator).create_account_token(request).await;
    assert_eq!(code(minted), Code::RoleForbidden);
    // Limited to volumes: only tokens with these limits or fewer.
    let (limited, request) = account_token("owner", &["v"], &[]);
    owner.create_account_token(request).await.unwrap();
    let mut limited = admin.client(&limited);
    for (volumes, expected) in [(&[][..], Code::RoleForbidden), (&["w"], Code::VolumeNotFound)] {
        let (_, request) = account_token("viewer", volumes, &[]);
        assert_eq!(code(limited.create_account_token(request).await), expected);
    }
    limited.create_account_token(account_token("viewer", &["v"], &[]).1).await.unwrap();
    // Limited to addresses: likewise.
    let (local, request) = account_token("owner", &[], &["127.0.0.0/8"]);
    owner.create_account_token(request).await.unwrap();
    let mut local = admin.client(&local);
    for cidrs in [&[][..], &["0.0.0.0/0"], &["127.0.0.1/32", "10.0.0.0/8"]] {
        let (_, request) = account_token("viewer", &[], cidrs);
        assert_eq!(code(local.create_account_token(request).await), Code::RoleForbidden);
    }
    local.create_account_token(account_token("viewer", &[], &["127.0.0.1"]).1).await.unwrap();
    // Used from elsewhere than its addresses: not at all.
    let (elsewhere, request) = account_token("owner", &[], &["10.0.0.0/8"]);
    owner.create_account_token(request).await.unwrap();
    let refused = admin.client(&elsewhere).who_am_i(v1::WhoAmIRequest {}).await;
    assert_eq!(code(refused), Code::TokenSourceDenied);
}
