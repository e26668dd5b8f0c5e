//! Revocation: at once here, and waited for at the metadata servers.

use flexfs_auth::token::TokenKind;
use flexfs_common::Code;
use flexfs_proto::v1::{self, FeedKind};

use super::feeding::Subscriber;
use super::harness::{Site, code, delete, generate, make_volume, revoke};
use crate::store::{Kind, metas};

fn waiting(id: impl ToString, millis: u32) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest { wait_millis: millis, ..revoke("volume", id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_every_server_and_names_laggards() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let mut system = admin.system();
    let (_, token) = make_volume(&mut system, "v").await;
    // Nobody to wait for.
    let (_, early) = make_volume(&mut system, "w").await;
    let reply = system.revoke_token(waiting(early.id(), 30_000)).await.unwrap().into_inner();
    assert!(reply.metas.is_empty());

    let mut quick = Subscriber::new(&admin, &meta).await;
    let slow = Subscriber::new(&admin, &meta).await;
    let quick_id = quick.server.to_string();
    let answering = tokio::spawn(async move {
        let row = quick.row(FeedKind::TokenRevoked).await;
        let cut = v1::CutCount { token_id: row.token_id.clone(), sessions: 2 };
        quick.acknowledge(row.revision, vec![cut]).await;
        quick
    });
    // Long enough for the quick one on a busy machine.
    let reply = system.revoke_token(waiting(token.id(), 5000)).await.unwrap().into_inner();
    let _quick = answering.await.unwrap();
    assert_eq!(reply.metas.len(), 2);
    for answer in &reply.metas {
        assert_eq!(answer.acknowledged, answer.id == quick_id, "{answer:?}");
    }
    assert_eq!(reply.sessions_cut, 2);
    // The laggard answers late: asked again, all have.
    slow.acknowledge(reply.revision, vec![]).await;
    let again = system.revoke_token(waiting(token.id(), 1)).await.unwrap().into_inner();
    assert!(again.revision > reply.revision);
    // The revocation stood all the time.
    let refused = admin.client(&token);
    let mut refused = refused;
    let asked = refused.describe_mount(v1::DescribeMountRequest { volume: "v".into() }).await;
    assert_eq!(code(asked), Code::TokenRevoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_long_gone_is_not_waited_for() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let mut system = admin.system();
    let (_, token) = make_volume(&mut system, "v").await;
    let server = flexfs_common::ids::ServerId::random();
    admin.register(&meta, server).await;
    admin.stop().await;
    // Away for two hours: more than any grace.
    let admin = site.start().await;
    let mut tx = admin.store.begin().await.unwrap();
    let gone = flexfs_common::clock::wall_now() - jiff::SignedDuration::from_hours(2);
    metas::acknowledge(tx.sql(), server, 0, gone).await.unwrap();
    tx.commit_quietly().await.unwrap();
    let reply =
        admin.system().revoke_token(waiting(token.id(), 30_000)).await.unwrap().into_inner();
    assert!(reply.metas.is_empty(), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_and_every_token_may_end_itself() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let own = revoke("account", tenant.owner.id());
    assert_eq!(code(owner.revoke_token(own.clone()).await), Code::LastOwner);
    assert_eq!(
        code(admin.system().revoke_token(revoke("account", admin.root.id())).await),
        Code::LastOwner
    );
    // One limited to addresses or volumes is no second owner.
    let limited = v1::CreateAccountTokenRequest {
        token: Some(generate(TokenKind::Account).to_wire()),
        role: "owner".into(),
        cidrs: vec!["127.0.0.1".into()],
        ..Default::default()
    };
    owner.create_account_token(limited).await.unwrap();
    assert_eq!(code(owner.revoke_token(own.clone()).await), Code::LastOwner);
    let second = admin.account_token(&tenant.id, "owner").await;
    owner.revoke_token(own.clone()).await.unwrap();
    assert_eq!(code(owner.revoke_token(own).await), Code::TokenRevoked, "at once");

    // A viewer may do nothing but end itself.
    let viewer = admin.account_token(&tenant.id, "viewer").await;
    let mut client = admin.client(&viewer);
    let other = client.revoke_token(revoke("account", second.id())).await;
    assert_eq!(code(other), Code::RoleForbidden);
    client.revoke_token(revoke("account", viewer.id())).await.unwrap();
    assert_eq!(code(client.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenRevoked);

    // So may a mount; another token it cannot even find.
    let mut second = admin.client(&second);
    let (_, token) = make_volume(&mut second, "v").await;
    let (_, foreign) = make_volume(&mut second, "w").await;
    let mut mount = admin.client(&token);
    let other = mount.revoke_token(revoke("volume", foreign.id())).await;
    assert_eq!(code(other), Code::TokenNotFound);
    mount.revoke_token(revoke("volume", token.id())).await.unwrap();
    assert_eq!(code(mount.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenRevoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_has_ended_is_deleted() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    let (_, token) = make_volume(&mut system, "v").await;
    let remove = v1::DeleteTokenRequest {
        kind: "volume".into(),
        id: token.id().to_string(),
        account_id: String::new(),
    };
    assert_eq!(code(system.delete_token(remove.clone()).await), Code::NotEnded);
    system.revoke_token(revoke("volume", token.id())).await.unwrap();
    let mut mount = admin.client(&token);
    assert_eq!(code(mount.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenRevoked);
    system.delete_token(remove).await.unwrap();
    // Its verifier is gone: it is unknown now, and was not cached.
    assert_eq!(code(mount.who_am_i(v1::WhoAmIRequest {}).await), Code::TokenUnknown);
    system.delete_volume(delete("v")).await.unwrap();
}
