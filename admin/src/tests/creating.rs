//! Things are made, shown and deleted; creations can be repeated.

use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;

use super::harness::{Site, by_id, code, delete, generate, make_volume, new_volume, revoke};
use crate::store::{Kind, audit};

async fn everything_is_made_shown_and_deleted(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let mut system = admin.system();
    let tenant = admin.account("acme").await;
    admin.stores().await;
    let mut owner = admin.client(&tenant.owner);

    let who = owner.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.kind.as_str(), who.role.as_str()), ("account", "owner"));
    assert_eq!((who.account_id.as_str(), who.account_name.as_str()), (&*tenant.id, "acme"));
    assert_eq!(who.token_id, tenant.owner.id().to_string());

    let (volume, token) = make_volume(&mut owner, "v1").await;
    assert_eq!((volume.block_size, volume.compression.as_str()), (4 << 20, "lz4"));
    assert_eq!(volume.state, "active");
    for text in ["v1", &volume.id, &volume.id[..8]] {
        let found = owner.get_volume(by_id(text)).await.unwrap().into_inner();
        assert_eq!(found, volume, "{text}");
    }
    let request = v1::GetTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string()[..6].to_owned(),
        account_id: String::new(),
    };
    let shown = owner.get_token(request).await.unwrap().into_inner();
    assert_eq!((shown.rights.as_str(), shown.mount_path.as_str()), ("rw", "/"));
    assert_eq!((shown.volume_name.as_str(), shown.state.as_str()), ("v1", "active"));
    assert_eq!(shown.last4, token.last4());

    // In use: not deleted.
    let in_use = system.delete_meta_store(delete("m1")).await;
    assert_eq!(code(in_use), Code::MetaStoreInUse);
    assert_eq!(code(system.delete_block_store(delete("b1")).await), Code::BlockStoreInUse);
    assert_eq!(code(system.delete_account(delete(&tenant.id)).await), Code::AccountNotEmpty);

    // The volume goes, and its tokens with it.
    owner.delete_volume(delete("v1")).await.unwrap();
    assert_eq!(code(owner.delete_volume(delete("v1")).await), Code::VolumeNotFound);
    let request = v1::ListTokensRequest { kind: "volume".into(), ..Default::default() };
    let listed = owner.list_tokens(request).await.unwrap().into_inner();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].state, "revoked");
    let mut mount = admin.client(&token);
    let refused = mount.describe_mount(v1::DescribeMountRequest { volume: "v1".into() }).await;
    assert_eq!(code(refused), Code::TokenRevoked);
    // Its name is free again.
    make_volume(&mut owner, "v1").await;
    owner.delete_volume(delete("v1")).await.unwrap();

    system.delete_meta_store(delete("m1")).await.unwrap();
    system.delete_block_store(delete("b1")).await.unwrap();
    let owner_token = v1::RevokeTokenRequest {
        account_id: tenant.id.clone(),
        ..revoke("account", tenant.owner.id())
    };
    system.revoke_token(owner_token).await.unwrap();
    system.delete_account(delete(&tenant.id)).await.unwrap();
    assert_eq!(code(system.get_account(by_id(&tenant.id)).await), Code::AccountNotFound);

    // Every change is in the log, and the chain holds.
    let records = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
    assert_eq!(audit::first_break(&records), None);
    let done = records.iter().filter(|stored| stored.record.outcome == "ok");
    let actions: Vec<_> = done.map(|stored| stored.record.action.as_str()).collect();
    let expected = [
        "bootstrap",
        "account.create",
        "blockStore.create",
        "metaStore.create",
        "volume.create",
        "volume.delete",
        "volume.create",
        "volume.delete",
        "metaStore.delete",
        "blockStore.delete",
        "token.revoke",
        "account.delete",
    ];
    assert_eq!(actions, expected);
    assert!(records[1..].iter().all(|stored| stored.record.source == "127.0.0.1"));
    admin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_made_shown_and_deleted_on_sqlite() {
    everything_is_made_shown_and_deleted(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_made_shown_and_deleted_on_postgres() {
    everything_is_made_shown_and_deleted(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_answer_was_lost_is_repeated() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();

    // The same request, the same answer, nothing made twice.
    let token = generate(TokenKind::Volume);
    let request = new_volume("v", Some(&token));
    let first = system.create_volume(request.clone()).await.unwrap().into_inner();
    let again = system.create_volume(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    // Another token, other settings, or none: the name is taken.
    let other = new_volume("v", Some(&generate(TokenKind::Volume)));
    assert_eq!(code(system.create_volume(other).await), Code::VolumeExists);
    assert_eq!(code(system.create_volume(new_volume("v", None)).await), Code::VolumeExists);
    let mut changed = request.clone();
    changed.volume.as_mut().unwrap().max_inodes = 1;
    assert_eq!(code(system.create_volume(changed).await), Code::VolumeExists);
    // Another caller: taken as well.
    let second = admin.account_token("", "system").await;
    assert_eq!(code(admin.client(&second).create_volume(request).await), Code::VolumeExists);

    let request = v1::CreateVolumeTokenRequest {
        token: Some(generate(TokenKind::Volume).to_wire()),
        volume: "v".into(),
        mount_path: "/a".into(),
        flags: vec!["ro".into()],
        ..Default::default()
    };
    let first = system.create_volume_token(request.clone()).await.unwrap().into_inner();
    let again = system.create_volume_token(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    // The same id for more: refused.
    let wider = v1::CreateVolumeTokenRequest { mount_path: "/".into(), ..request.clone() };
    assert_eq!(code(system.create_volume_token(wider).await), Code::TokenExists);
    // Revoked and deleted: the id stays used for ever.
    system.revoke_token(revoke("volume", &first.id)).await.unwrap();
    let after = system.create_volume_token(request.clone()).await;
    assert_eq!(code(after), Code::TokenExists);
    let gone = v1::DeleteTokenRequest {
        kind: "volume".into(),
        id: first.id.clone(),
        account_id: String::new(),
    };
    system.delete_token(gone.clone()).await.unwrap();
    assert_eq!(code(system.delete_token(gone).await), Code::TokenNotFound);
    assert_eq!(code(system.create_volume_token(request).await), Code::TokenExists);

    let request = v1::CreateAccountRequest {
        name: "acme".into(),
        email: String::new(),
        owner_token: Some(generate(TokenKind::Account).to_wire()),
    };
    let first = system.create_account(request.clone()).await.unwrap().into_inner();
    let again = system.create_account(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    let other = v1::CreateAccountRequest {
        owner_token: Some(generate(TokenKind::Account).to_wire()),
        ..request
    };
    assert_eq!(code(system.create_account(other).await), Code::AccountExists);

    let request = v1::CreateMetaStoreRequest {
        id: "m2".into(),
        address: "h:1".into(),
        meta_token: Some(generate(TokenKind::Meta).to_wire()),
    };
    let first = system.create_meta_store(request.clone()).await.unwrap().into_inner();
    let again = system.create_meta_store(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    let moved = v1::CreateMetaStoreRequest { address: "h:2".into(), ..request };
    assert_eq!(code(system.create_meta_store(moved).await), Code::MetaStoreExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_refused_and_makes_nothing() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    let with = |change: fn(&mut v1::Volume)| {
        let mut request = new_volume("v", Some(&generate(TokenKind::Volume)));
        change(request.volume.as_mut().unwrap());
        request
    };
    let cases: [(fn(&mut v1::Volume), Code); 11] = [
        (|v| v.name = "start".into(), Code::NameInvalid),
        (|v| v.name = "A".into(), Code::NameInvalid),
        (|v| v.block_size = 3 << 20, Code::ArgumentInvalid),
        (|v| v.block_size = 16 << 20, Code::ArgumentInvalid),
        (|v| v.compression = "gzip".into(), Code::ArgumentInvalid),
        (|v| v.flags = vec!["rw".into()], Code::ArgumentInvalid),
        (|v| v.notes = "x".repeat(1025), Code::ArgumentInvalid),
        (|v| v.max_inodes = u64::MAX, Code::ArgumentInvalid),
        (|v| v.meta_store_id = "m9".into(), Code::MetaStoreNotFound),
        (|v| v.block_store_id = "B1".into(), Code::BlockStoreNotFound),
        (|v| v.id = "x".into(), Code::ArgumentInvalid),
    ];
    for (change, expected) in cases {
        assert_eq!(code(system.create_volume(with(change)).await), expected);
    }
    let mut wrong_kind = new_volume("v", None);
    wrong_kind.volume_token = Some(generate(TokenKind::Account).to_wire());
    assert_eq!(code(system.create_volume(wrong_kind).await), Code::TokenWrongKind);
    let listed = system.list_volumes(v1::ListRequest::default()).await.unwrap().into_inner();
    assert!(listed.items.is_empty());

    system.create_volume(new_volume("v", None)).await.unwrap();
    let base = || v1::CreateVolumeTokenRequest {
        token: Some(generate(TokenKind::Volume).to_wire()),
        volume: "v".into(),
        ..Default::default()
    };
    let past = wire::timestamp_to_wire(clock::wall_now() - jiff::SignedDuration::from_secs(1));
    let cases = [
        (v1::CreateVolumeTokenRequest { expires_at: Some(past), ..base() }, Code::ArgumentInvalid),
        (
            v1::CreateVolumeTokenRequest { mount_path: "/a/../b".into(), ..base() },
            Code::PathInvalid,
        ),
        (v1::CreateVolumeTokenRequest { rights: "rwx".into(), ..base() }, Code::ArgumentInvalid),
        (
            v1::CreateVolumeTokenRequest { flags: vec!["noACL".into()], ..base() },
            Code::ArgumentInvalid,
        ),
        (
            v1::CreateVolumeTokenRequest { cidrs: vec!["10.0.0.1/8".into()], ..base() },
            Code::ArgumentInvalid,
        ),
        (v1::CreateVolumeTokenRequest { uid: Some(u32::MAX), ..base() }, Code::ArgumentInvalid),
        (v1::CreateVolumeTokenRequest { token: None, ..base() }, Code::ArgumentInvalid),
        (v1::CreateVolumeTokenRequest { volume: "w".into(), ..base() }, Code::VolumeNotFound),
    ];
    for (request, expected) in cases {
        assert_eq!(code(system.create_volume_token(request).await), expected);
    }
    for (kind, location, expected) in [
        ("dir", "relative", Code::PathInvalid),
        ("dir", "/a/../b", Code::PathInvalid),
        ("dir", "/", Code::PathInvalid),
        ("ftp", "/a", Code::ArgumentInvalid),
        ("s3", "", Code::ArgumentInvalid),
    ] {
        let store = v1::BlockStore {
            id: "b9".into(),
            kind: kind.into(),
            location: location.into(),
            ..Default::default()
        };
        let request = v1::CreateBlockStoreRequest { block_store: Some(store) };
        assert_eq!(code(system.create_block_store(request).await), expected, "{location}");
    }
}
