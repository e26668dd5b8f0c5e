//! What metadata servers and mounts ask.

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::{SecretId, ServerId, TokenId};
use flexfs_common::{Code, clock, tls, wire};
use flexfs_proto::v1;

use super::harness::{Site, code, delete, generate, make_volume, new_volume, registration, revoke};
use crate::store::Kind;

fn ask(token: &Token, volume: &str, peer: &str) -> v1::ValidateVolumeTokenRequest {
    v1::ValidateVolumeTokenRequest {
        token: Some(token.to_wire()),
        volume: volume.into(),
        peer_address: peer.into(),
        host_name: "h".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_registers_and_is_found() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let other = admin.meta_store("m2").await;
    let (volume, token) = make_volume(&mut admin.system(), "v").await;
    let mut mount = admin.client(&token);
    let request = v1::DescribeMountRequest { volume: "v".into() };
    let before = mount.describe_mount(request.clone()).await.unwrap().into_inner();
    assert_eq!(before.meta_server_id, "", "none registered yet");
    assert_eq!(before.meta_address, "127.0.0.1:7410");
    let server = ServerId::random();
    let reply = admin.register(&meta, server).await;
    assert_eq!((reply.meta_store_id.as_str(), reply.address.as_str()), ("m1", "127.0.0.1:7410"));
    let leaf = tls::certificate_from_pem(&reply.certificate_chain).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let names = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value);
    assert!(names.contains(&tls::meta_name(server)), "{names}");
    // Again with another address; everywhere is nowhere.
    for (listen, expected) in
        [("meta.example:1", "meta.example:1"), ("0.0.0.0:1", "127.0.0.1:7410")]
    {
        let again =
            v1::RegisterServerRequest { listen_address: listen.into(), ..registration(server) };
        let reply = admin.meta(&meta).register_server(again).await.unwrap().into_inner();
        assert_eq!(reply.address, expected);
        let after = mount.describe_mount(request.clone()).await.unwrap().into_inner();
        assert_eq!(after.meta_server_id, server.to_string());
        assert_eq!(after.meta_address, expected);
        assert_eq!((after.volume_id, after.mount_path.as_str()), (volume.id.clone(), "/"));
    }
    // The id is this store's.
    let stolen = admin.meta(&other).register_server(registration(server)).await;
    assert_eq!(code(stolen), Code::ScopeMissing);
    let described =
        admin.client(&meta).describe_server(v1::DescribeServerRequest {}).await.unwrap();
    assert_eq!(described.into_inner().token_id, meta.id().to_string());
    // By id it is the same volume; any other text is another one.
    let by_id = v1::DescribeMountRequest { volume: volume.id };
    mount.describe_mount(by_id).await.unwrap();
    let wrong = v1::DescribeMountRequest { volume: "w".into() };
    assert_eq!(code(mount.describe_mount(wrong).await), Code::CredsMismatch);
    let status = admin.system().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.servers.len(), 1);
    assert_eq!((status.database.as_str(), status.servers[0].connected), ("sqlite", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_token_is_validated_for_its_own_store_alone() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let other = admin.meta_store("m2").await;
    let mut system = admin.system();
    let (volume, _) = make_volume(&mut system, "v").await;
    let token = generate(TokenKind::Volume);
    let end = clock::wall_now() + jiff::SignedDuration::from_secs(60);
    let request = v1::CreateVolumeTokenRequest {
        token: Some(token.to_wire()),
        volume: "v".into(),
        mount_path: "/a/b/".into(),
        flags: vec!["noExec".into()],
        rights: "append".into(),
        uid: Some(1000),
        expires_at: Some(wire::timestamp_to_wire(end)),
        cidrs: vec!["192.0.2.0/24".into()],
        ..Default::default()
    };
    system.create_volume_token(request).await.unwrap();
    let (mut here, mut there) = (admin.meta(&meta), admin.meta(&other));
    let good =
        here.validate_volume_token(ask(&token, "v", "192.0.2.7:9")).await.unwrap().into_inner();
    assert_eq!(good.token_id, token.id().to_string());
    assert_eq!(good.mount_path, "/a/b");
    let flags = good.flags.unwrap();
    assert!(flags.append_only && flags.no_exec && !flags.ro);
    assert_eq!(flags.uid, Some(1000));
    assert!((50_000..=60_000).contains(&good.valid_millis), "{}", good.valid_millis);
    let placed = good.volume.unwrap();
    assert_eq!(placed.id, volume.id);
    assert_eq!(placed.block_store.unwrap().location, "/srv/blocks");
    // The mount's address counts, not meta's.
    for peer in ["198.51.100.1", "", "x"] {
        let refused = here.validate_volume_token(ask(&token, "v", peer)).await;
        assert_eq!(code(refused), Code::TokenSourceDenied, "{peer}");
    }
    let wrong = here.validate_volume_token(ask(&token, "w", "192.0.2.7")).await;
    assert_eq!(code(wrong), Code::CredsMismatch);
    // Another store's server learns nothing: as an unknown token.
    let unknown = there.validate_volume_token(ask(&generate(TokenKind::Volume), "", "")).await;
    let foreign = there.validate_volume_token(ask(&token, "v", "192.0.2.7")).await;
    let (unknown, foreign) = (unknown.unwrap_err(), foreign.unwrap_err());
    assert_eq!(unknown.details(), foreign.details());
    assert_eq!(code(Err::<(), _>(foreign)), Code::TokenUnknown);
    // And has spoilt nothing for the right one.
    here.validate_volume_token(ask(&token, "v", "192.0.2.7")).await.unwrap();
    let kind = here.validate_volume_token(ask(&meta, "v", "")).await;
    assert_eq!(code(kind), Code::TokenWrongKind);
    let none = v1::ValidateVolumeTokenRequest { token: None, ..ask(&token, "", "") };
    assert_eq!(code(here.validate_volume_token(none).await), Code::TokenMissing);

    let list =
        here.list_placed_volumes(v1::ListPlacedVolumesRequest {}).await.unwrap().into_inner();
    assert_eq!(list.volumes.len(), 1);
    assert!(list.revision >= good.revision);
    let list = there.list_placed_volumes(v1::ListPlacedVolumesRequest {}).await.unwrap();
    assert!(list.into_inner().volumes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_live_sessions_are_checked_by_id() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let other = admin.meta_store("m2").await;
    let mut system = admin.system();
    let (_, live) = make_volume(&mut system, "live").await;
    let (_, ended) = make_volume(&mut system, "ended").await;
    let (_, retired) = make_volume(&mut system, "retired").await;
    let (mut here, mut there) = (admin.meta(&meta), admin.meta(&other));
    let mut tokens = Vec::new();
    for token in [&live, &ended, &retired] {
        let good = here.validate_volume_token(ask(token, "", "")).await.unwrap().into_inner();
        tokens.push(v1::TokenCheck { token_id: good.token_id, secret_id: good.secret_id });
    }
    // A secret that is not the token's; ids of nothing; no ids.
    let stranger = v1::TokenCheck {
        token_id: tokens[0].token_id.clone(),
        secret_id: SecretId::random().to_string(),
    };
    let nothing = v1::TokenCheck {
        token_id: TokenId::random().to_string(),
        secret_id: SecretId::random().to_string(),
    };
    let broken = v1::TokenCheck { token_id: "x".into(), secret_id: String::new() };
    tokens.extend([stranger, nothing, broken]);
    system.revoke_token(revoke("volume", ended.id())).await.unwrap();
    system.delete_volume(delete("retired")).await.unwrap();
    let request = v1::CheckTokensRequest { tokens: tokens.clone() };
    let reply = here.check_tokens(request.clone()).await.unwrap().into_inner();
    let codes: Vec<_> = reply
        .states
        .iter()
        .map(|state| state.refused.as_ref().map_or("", |refused| refused.code.as_str()))
        .collect();
    let unknown = "TOKEN_UNKNOWN";
    assert_eq!(codes, ["", "TOKEN_REVOKED", "TOKEN_REVOKED", "TOKEN_ROTATED", unknown, unknown]);
    for (asked, state) in tokens.iter().zip(&reply.states) {
        assert_eq!((&asked.token_id, &asked.secret_id), (&state.token_id, &state.secret_id));
    }
    let reply = there.check_tokens(request).await.unwrap().into_inner();
    assert!(reply.states.iter().all(|s| s.refused.as_ref().unwrap().code == unknown));
    let many = v1::CheckTokensRequest { tokens: vec![tokens[0].clone(); 1001] };
    assert_eq!(code(here.check_tokens(many).await), Code::ArgumentInvalid);
    // A new volume without a token is placed all the same.
    system.create_volume(new_volume("bare", None)).await.unwrap();
    let list =
        here.list_placed_volumes(v1::ListPlacedVolumesRequest {}).await.unwrap().into_inner();
    assert_eq!(list.volumes.len(), 4, "retired ones, too");
}
