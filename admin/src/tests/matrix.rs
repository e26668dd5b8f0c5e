//! Every method × every kind of caller, against the real server. The methods
//! come from the descriptors, so a new one without its rows fails here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use flexfs_auth::principal::Role;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::ServerId;
use flexfs_common::{Code, status};
use flexfs_proto::v1;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::Status;
use tonic_prost::ProstCodec;

use super::harness::{Running, Site, again, generate, make_volume, new_volume, registration};
use crate::service::methods::METHODS;
use crate::store::Kind;

/// (service, method, answers with a stream) of both services.
pub(super) fn methods() -> Vec<(String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(flexfs_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for file in set.file {
        for service in &file.service {
            if !["AdminService", "AuthorityService"].contains(&service.name()) {
                continue;
            }
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.push((path, method.client_streaming() || method.server_streaming()));
            }
        }
    }
    methods
}

#[test]
fn the_table_has_exactly_the_methods_there_are() {
    let mut there: Vec<_> = methods().into_iter().map(|(path, _)| path).collect();
    let mut table: Vec<_> = METHODS.iter().map(|method| method.path.to_owned()).collect();
    there.sort();
    table.sort();
    assert_eq!(there, table);
    assert!(there.len() >= 44);
}

/// Things of tenant A that a method can act on, new for every cell, so that
/// no cell depends on the one before.
pub(super) struct Things {
    pub(super) account: String,
    pub(super) volume: v1::Volume,
    pub(super) token: Token,
    account_token: Token,
    /// Unredeemed, of the volume.
    pub(super) claim: Token,
    store: String,
    pub(super) server: ServerId,
}

pub(super) struct World {
    pub(super) admin: Running,
    pub(super) tenant: String,
    pub(super) owner: Token,
    pub(super) count: std::cell::Cell<u32>,
}

impl World {
    pub(super) async fn things(&self) -> Things {
        let n = self.count.get();
        self.count.set(n + 1);
        let mut owner = self.admin.client(&self.owner);
        let (volume, token) = make_volume(&mut owner, &format!("v{n}")).await;
        let account_token = self.admin.account_token(&self.tenant, "viewer").await;
        let claim = self.admin.claim(&mut owner, &volume.id).await;
        let store = format!("s{n}");
        self.admin.meta_store(&store).await;
        self.admin.block_store(&store).await;
        let account = self.admin.account(&format!("empty {n}")).await.id;
        let server = ServerId::random();
        Things { account, volume, token, account_token, claim, store, server }
    }

    /// A request that would succeed for whoever may do this. `foreign` names
    /// tenant A's things from outside.
    pub(super) fn request(&self, method: &str, things: &Things, foreign: bool) -> Vec<u8> {
        let account_id = if foreign { self.tenant.clone() } else { String::new() };
        let get = |id: &str| v1::GetRequest { id: id.into(), account_id: account_id.clone() };
        let delete = |id: &str| v1::DeleteRequest { id: id.into(), account_id: account_id.clone() };
        let list = || v1::ListRequest { account_id: account_id.clone(), ..Default::default() };
        let token = |kind| Some(generate(kind).to_wire());
        let volume_token = things.token.id().to_string();
        let kind = || "volume".to_owned();
        match method {
            "WhoAmI" | "GetStatus" | "DescribeServer" | "ListPlacedVolumes" => Vec::new(),
            "CreateAccount" => v1::CreateAccountRequest {
                name: format!("new {}", things.volume.name),
                email: String::new(),
                owner_token: token(TokenKind::Account),
            }
            .encode_to_vec(),
            "GetAccount" => get(&self.tenant).encode_to_vec(),
            "ListAccounts" | "ListMetaStores" | "ListBlockStores" | "ListVolumes" => {
                list().encode_to_vec()
            }
            "UpdateAccount" => v1::UpdateAccountRequest {
                id: if foreign { self.tenant.clone() } else { String::new() },
                email: Some("a@b".into()),
                ..Default::default()
            }
            .encode_to_vec(),
            "DisableAccount" => {
                v1::DisableAccountRequest { id: things.account.clone(), ..Default::default() }
                    .encode_to_vec()
            }
            "EnableAccount" => get(&things.account).encode_to_vec(),
            "DeleteAccount" => delete(&things.account).encode_to_vec(),
            "CreateAccountToken" => v1::CreateAccountTokenRequest {
                token: token(TokenKind::Account),
                account_id,
                role: "viewer".into(),
                ..Default::default()
            }
            .encode_to_vec(),
            "CreateVolumeToken" => v1::CreateVolumeTokenRequest {
                token: token(TokenKind::Volume),
                account_id,
                volume: things.volume.id.clone(),
                ..Default::default()
            }
            .encode_to_vec(),
            "GetToken" | "EnableToken" | "GetRotation" => {
                v1::GetTokenRequest { kind: kind(), id: volume_token, account_id }.encode_to_vec()
            }
            "UpdateToken" => v1::UpdateTokenRequest {
                kind: kind(),
                id: volume_token,
                account_id,
                notes: Some("n".into()),
                ..Default::default()
            }
            .encode_to_vec(),
            "DisableToken" => v1::DisableTokenRequest {
                kind: kind(),
                id: volume_token,
                account_id,
                ..Default::default()
            }
            .encode_to_vec(),
            "RotateToken" => v1::RotateTokenRequest {
                kind: kind(),
                id: volume_token,
                account_id,
                token: Some(again(&things.token).to_wire()),
                ..Default::default()
            }
            .encode_to_vec(),
            "FinishRotation" => v1::FinishRotationRequest {
                kind: kind(),
                id: volume_token,
                account_id,
                ..Default::default()
            }
            .encode_to_vec(),
            "RevokeTokens" => v1::RevokeTokensRequest {
                account_id,
                kind: kind(),
                volume: things.volume.id.clone(),
                ..Default::default()
            }
            .encode_to_vec(),
            "RedeemClaim" => v1::RedeemClaimRequest {
                kind: kind(),
                token: Token::generate_for(TokenKind::Volume, things.claim.id())
                    .ok()
                    .map(|token| token.to_wire()),
            }
            .encode_to_vec(),
            "ListSessions" => v1::ListSessionsRequest {
                account_id,
                volume: things.volume.id.clone(),
                ..Default::default()
            }
            .encode_to_vec(),
            "UpdateVolume" => v1::UpdateVolumeRequest {
                id: things.volume.id.clone(),
                account_id,
                notes: Some("n".into()),
                ..Default::default()
            }
            .encode_to_vec(),
            "ListTokens" => {
                v1::ListTokensRequest { kind: kind(), account_id, ..Default::default() }
                    .encode_to_vec()
            }
            "DeleteToken" => v1::DeleteTokenRequest { kind: kind(), id: volume_token, account_id }
                .encode_to_vec(),
            "RevokeToken" => v1::RevokeTokenRequest {
                kind: "account".into(),
                id: things.account_token.id().to_string(),
                account_id,
                ..Default::default()
            }
            .encode_to_vec(),
            "CreateMetaStore" => v1::CreateMetaStoreRequest {
                id: format!("n{}", things.store),
                address: "h:1".into(),
                meta_token: token(TokenKind::Meta),
            }
            .encode_to_vec(),
            "CreateBlockStore" => v1::CreateBlockStoreRequest {
                block_store: Some(v1::BlockStore {
                    id: format!("n{}", things.store),
                    kind: "dir".into(),
                    location: "/d".into(),
                    ..Default::default()
                }),
            }
            .encode_to_vec(),
            "GetMetaStore" | "GetBlockStore" => get(&things.store).encode_to_vec(),
            "DeleteMetaStore" | "DeleteBlockStore" => delete(&things.store).encode_to_vec(),
            "CreateVolume" => {
                let mut request =
                    new_volume(&format!("n{}", things.store), Some(&generate(TokenKind::Volume)));
                request.volume.as_mut().unwrap().account_id = account_id;
                request.encode_to_vec()
            }
            "GetVolume" => get(&things.volume.id).encode_to_vec(),
            "DeleteVolume" => delete(&things.volume.id).encode_to_vec(),
            "DescribeMount" => {
                v1::DescribeMountRequest { volume: things.volume.name.clone() }.encode_to_vec()
            }
            "RegisterServer" => registration(things.server).encode_to_vec(),
            "ValidateVolumeToken" => v1::ValidateVolumeTokenRequest {
                token: Some(things.token.to_wire()),
                ..Default::default()
            }
            .encode_to_vec(),
            "CheckTokens" => v1::CheckTokensRequest::default().encode_to_vec(),
            "Watch" => v1::WatchRequest {
                body: Some(v1::watch_request::Body::Start(v1::WatchStart {
                    server_id: things.server.to_string(),
                    ..Default::default()
                })),
            }
            .encode_to_vec(),
            other => panic!("{other} has no request here: add it, and read the golden file"),
        }
    }

    pub(super) async fn call(
        &self,
        path: &str,
        streams: bool,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> String {
        let mut grpc = tonic::client::Grpc::new(self.admin.peer.channel().unwrap());
        grpc.ready().await.unwrap();
        let path: PathAndQuery = path.parse().unwrap();
        let codec = ProstCodec::<Raw, Raw>::default();
        let outcome: Result<(), Status> = if streams {
            let requests = futures::stream::iter([Raw(body)]);
            let mut request = tonic::Request::new(requests);
            authorize(&mut request, token);
            match grpc.streaming(request, path, codec).await {
                Ok(reply) => reply.into_inner().message().await.map(drop),
                Err(status) => Err(status),
            }
        } else {
            let mut request = tonic::Request::new(Raw(body));
            authorize(&mut request, token);
            grpc.unary(request, path, codec).await.map(drop)
        };
        match outcome {
            Ok(()) => "ok".to_owned(),
            Err(status) => status::from_status(&status, Code::AdminUnreachable).code().to_string(),
        }
    }
}

fn authorize<T>(request: &mut tonic::Request<T>, token: Option<&str>) {
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
}

/// A message of any type, already encoded; nothing is read of replies.
#[derive(Clone, Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl prost::bytes::BufMut) {
        buf.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buf: &mut impl prost::bytes::Buf,
        ctx: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Callers that are refused at the door, whatever they ask.
async fn strangers(world: &World) -> Vec<(String, Option<String>)> {
    let admin = &world.admin;
    let mut callers = vec![
        ("nobody".to_owned(), None),
        ("malformed".to_owned(), Some("flxa_x".to_owned())),
        ("unknown".to_owned(), Some(generate(TokenKind::Account).reveal().to_owned())),
    ];
    for (name, sql) in [
        ("revoked owner", "UPDATE tokens SET revoked_at = 1 WHERE id = $1"),
        ("expired owner", "UPDATE tokens SET expires_at = 1 WHERE id = $1"),
        ("disabled owner", "UPDATE tokens SET disabled_at = 1 WHERE id = $1"),
        ("owner of tomorrow", "UPDATE tokens SET not_before = 9000000000000000 WHERE id = $1"),
        ("owner from elsewhere", "UPDATE tokens SET cidrs = '192.0.2.0/24' WHERE id = $1"),
        ("owner with an old secret", "UPDATE token_secrets SET retired_at = 1 WHERE token_id = $1"),
    ] {
        let token = admin.account_token(&world.tenant, "owner").await;
        let mut tx = admin.store.begin().await.unwrap();
        let id = vec![crate::store::Value::text(token.id())];
        tx.sql().execute(sql, id).await.unwrap();
        tx.commit_quietly().await.unwrap();
        callers.push((name.to_owned(), Some(token.reveal().to_owned())));
    }
    callers
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_for_every_caller() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let tenant = admin.account("a").await;
    let other = admin.account("b").await;
    let world = World { admin, tenant: tenant.id.clone(), owner: tenant.owner, count: 0.into() };
    let mut callers = strangers(&world).await;
    let at_the_door = callers.len();
    for role in Role::ALL {
        let account = if role == Role::System { "" } else { &tenant.id };
        let token = world.admin.account_token(account, role.name()).await;
        callers.push((role.name().to_owned(), Some(token.reveal().to_owned())));
    }
    callers.push(("owner of another account".into(), Some(other.owner.reveal().to_owned())));
    callers.push(("volume token".into(), None));
    callers.push(("claim code".into(), None));
    callers.push(("meta token".into(), Some(meta.reveal().to_owned())));

    let mut rows: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let spare = world.things().await;
    for (path, streams) in methods() {
        let method = path.rsplit('/').next().unwrap().to_owned();
        for (index, (name, token)) in callers.iter().enumerate() {
            let fresh;
            let things = if index < at_the_door {
                // These change nothing; that is the point.
                &spare
            } else {
                fresh = world.things().await;
                &fresh
            };
            let own;
            let token = if name == "volume token" {
                own = things.token.reveal().to_owned();
                Some(own.as_str())
            } else if name == "claim code" {
                own = things.claim.reveal().to_owned();
                Some(own.as_str())
            } else {
                token.as_deref()
            };
            if method == "Watch" {
                let registered = registration(things.server);
                world.admin.meta(&meta).register_server(registered).await.unwrap();
            }
            let foreign = name == "system" || name == "owner of another account";
            let body = world.request(&method, things, foreign);
            let answer = world.call(&path, streams, token, body).await;
            rows.entry(path.clone()).or_default().push((name.clone(), answer));
        }
    }
    let mut text = String::from(
        "Every method for every caller, as the real server answers. Requests name things of one\n\
         tenant that exist and would be acted on; `ok` = it was done. Made by\n\
         `FLEXFS_BLESS=1 cargo test -p flexfs-admin every_method`; read each changed line.\n",
    );
    for (path, cells) in &rows {
        writeln!(text, "\n{path}").unwrap();
        for (name, answer) in cells {
            writeln!(text, "  {name:<26}{answer}").unwrap();
        }
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/authz_matrix.txt");
    if std::env::var_os("FLEXFS_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    for (line, (got, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

/// The plain HTTP routes for the same callers.
async fn over_http(admin: &Running, path: &str, token: Option<&str>) -> String {
    let mut channel = admin.peer.channel().unwrap();
    let mut request = http::Request::get(format!("https://admin{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(tonic::body::Body::empty()).unwrap();
    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await.unwrap();
    let reply = tower::Service::call(&mut channel, request).await.unwrap();
    let status = reply.status();
    let challenged = reply.headers().contains_key("www-authenticate");
    assert_eq!(challenged, status == http::StatusCode::UNAUTHORIZED);
    let body = http_body_util::BodyExt::collect(reply.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    if status.is_success() { text } else { format!("{} {text}", status.as_u16()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_for_those_who_may_see_them_and_of_their_account() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let (one, two) = (admin.account("a").await, admin.account("b").await);
    let (_, volume) = make_volume(&mut admin.client(&one.owner), "v").await;
    make_volume(&mut admin.client(&two.owner), "v").await;
    for (token, expected) in [
        (None, "401 "),
        (Some("flxa_x".to_owned()), "401 "),
        (Some(volume.reveal().to_owned()), "401 "),
        (Some(meta.reveal().to_owned()), "401 "),
    ] {
        let answer = over_http(&admin, "/metrics", token.as_deref()).await;
        assert!(answer.starts_with(expected), "{answer}");
        assert!(answer.contains("\"code\"") && answer.contains("\"hint\""), "{answer}");
    }
    for role in ["auditor", "provisioner"] {
        let token = admin.account_token(&one.id, role).await;
        let answer = over_http(&admin, "/metrics", Some(token.reveal())).await;
        assert!(answer.starts_with("403 ") && answer.contains("ROLE_FORBIDDEN"), "{answer}");
    }
    let token = admin.account_token(&one.id, "metrics").await;
    let own = over_http(&admin, "/metrics", Some(token.reveal())).await;
    assert!(own.contains("flexfs_tokens{kind=\"volume\",state=\"active\"} 1\n"), "{own}");
    let all = over_http(&admin, "/metrics", Some(admin.root.reveal())).await;
    assert!(all.contains("flexfs_tokens{kind=\"volume\",state=\"active\"} 2\n"), "{all}");
    assert!(all.contains("flexfs_tokens_overdue{kind=\"volume\",state=\"active\"} 0\n"), "{all}");
    assert_eq!(over_http(&admin, "/healthz", None).await, "ok\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_in_the_table_is_refused() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let root = admin.root.reveal().to_owned();
    let owner = generate(TokenKind::Account);
    let world = World { admin, tenant: String::new(), owner, count: 0.into() };
    for path in ["/flexfs.v1.AdminService/Nothing", "/x.Y/Z", "/flexfs.v1.AdminService/whoami"] {
        assert_eq!(world.call(path, false, None, vec![]).await, "TOKEN_MISSING", "{path}");
        assert_eq!(world.call(path, false, Some(&root), vec![]).await, "UNSUPPORTED", "{path}");
    }
}
