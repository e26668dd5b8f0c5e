//! Hostile input to the real server: spellings, statements of SQL in texts,
//! what is empty or missing, other ways in (`docs/cve-classes.md`).

use std::sync::Arc;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::tls::Trust;
use flexfs_common::{Code, status};
use flexfs_proto::v1;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{
    Running, Site, again, by_id, code, delete, generate, make_volume, revoke, used,
};
use super::matrix::{World, methods};
use crate::store::{Kind, Value, audit};

// ---- 11: what is empty or missing allows nothing ----------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_last_volume_is_gone_is_not_unlimited() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let (gone, _) = make_volume(&mut owner, "gone").await;
    make_volume(&mut owner, "other").await;
    let limited = generate(TokenKind::Account);
    let request = v1::CreateAccountTokenRequest {
        token: Some(limited.to_wire()),
        role: "operator".into(),
        volumes: vec!["gone".into()],
        ..Default::default()
    };
    owner.create_account_token(request).await.unwrap();
    // One who may make tokens, within the same limit.
    let maker = generate(TokenKind::Account);
    let request = v1::CreateAccountTokenRequest {
        token: Some(maker.to_wire()),
        role: "owner".into(),
        volumes: vec!["gone".into()],
        ..Default::default()
    };
    owner.create_account_token(request).await.unwrap();
    let mut maker = admin.client(&maker);
    let child = |volumes: &[&str]| v1::CreateAccountTokenRequest {
        token: Some(generate(TokenKind::Account).to_wire()),
        role: "viewer".into(),
        volumes: volumes.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    maker.create_account_token(child(&["gone"])).await.expect("the control: within its limit");
    let mut client = admin.client(&limited);
    let list = || v1::ListRequest::default();
    let names = |reply: v1::ListVolumesReply| {
        reply.items.into_iter().map(|volume| volume.name).collect::<Vec<_>>()
    };
    let seen = client.list_volumes(list()).await.unwrap().into_inner();
    assert_eq!(names(seen), ["gone"], "the control: it sees its own");
    owner.delete_volume(delete(&gone.id)).await.unwrap();
    let seen = client.list_volumes(list()).await.unwrap().into_inner();
    assert!(!names(seen).contains(&"other".to_owned()));
    assert_eq!(code(client.get_volume(by_id("other")).await), Code::VolumeNotFound);
    // A new one of the same name is another volume.
    make_volume(&mut owner, "gone").await;
    assert_eq!(code(client.get_volume(by_id("gone")).await), Code::VolumeNotFound);
    for volume in ["other", "gone"] {
        let request = v1::CreateVolumeTokenRequest {
            token: Some(generate(TokenKind::Volume).to_wire()),
            volume: volume.into(),
            ..Default::default()
        };
        let refused = code(client.create_volume_token(request).await);
        assert!(matches!(refused, Code::VolumeNotFound | Code::VolumeRetired), "{refused}");
    }
    // Nor can the limit be emptied by whoever has it.
    let request = v1::UpdateTokenRequest {
        kind: "account".into(),
        id: limited.id().to_string(),
        volumes: Some(v1::TextList::default()),
        ..Default::default()
    };
    assert!(client.update_token(request).await.is_err());
    for volumes in [&[][..], &[""], &["other"], &["gone", "other"]] {
        let refused = maker.create_account_token(child(volumes)).await;
        assert!(refused.is_err(), "{volumes:?}: empty is not unlimited");
    }
}

/// Changes one row to what the program never writes. The database's own checks
/// are no defence here: they are off for it.
async fn break_row(admin: &Running, sql: &'static str, id: &str) {
    let mut tx = admin.store.begin().await.unwrap();
    tx.sql().execute("PRAGMA ignore_check_constraints = ON", vec![]).await.unwrap();
    let changed = tx.sql().execute(sql, vec![Value::text(id)]).await.unwrap();
    assert_eq!(changed, 1, "{sql}");
    tx.sql().execute("PRAGMA ignore_check_constraints = OFF", vec![]).await.unwrap();
    tx.commit_quietly().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_missing_or_makes_no_sense_allows_nothing() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let control = admin.account_token(&tenant.id, "viewer").await;
    used(&admin, &control).await.unwrap();
    for (sql, what) in [
        ("DELETE FROM token_secrets WHERE token_id = $1", "no secret"),
        ("UPDATE token_secrets SET phc = '' WHERE token_id = $1", "no argon2id string"),
        ("UPDATE token_secrets SET pepper_id = '' WHERE token_id = $1", "no pepper"),
        ("UPDATE token_secrets SET tag = x'' WHERE token_id = $1", "no tag"),
        ("UPDATE tokens SET role = '' WHERE id = $1", "no role"),
        ("UPDATE tokens SET role = 'Owner' WHERE id = $1", "a role that is none"),
        ("UPDATE tokens SET role = NULL WHERE id = $1", "a missing role"),
        ("UPDATE tokens SET cidrs = ' ' WHERE id = $1", "a range that is none"),
        ("UPDATE tokens SET volumes = ' ' WHERE id = $1", "a volume that is none"),
    ] {
        let token = admin.account_token(&tenant.id, "viewer").await;
        break_row(&admin, sql, &token.id().to_string()).await;
        assert!(used(&admin, &token).await.is_err(), "{what}");
    }
    // The account's row says nothing that we know.
    let other = admin.account("b").await;
    break_row(&admin, "UPDATE accounts SET state = '' WHERE id = $1", &other.id).await;
    assert!(used(&admin, &other.owner).await.is_err());
    used(&admin, &control).await.unwrap();
}

// ---- 14: names and ids are compared whole -----------------------------------

/// Spellings that are not the name, and that something might take for it.
fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![
        name[..name.len() - 1].to_owned(),
        name.to_uppercase(),
        format!("%{}", &name[1..]),
        format!("{}_", &name[..name.len() - 1]),
        format!("{}*", &name[..name.len() - 1]),
        // NFD against NFC, and a letter that only looks the same.
        name.replace('é', "e\u{301}"),
        name.replace('a', "а"),
        name.replace('a', "%61"),
        name.replace('-', "\u{2010}"),
    ];
    for end in [
        "x", ".", " ", "/", "//", "/.", "/..", "\0", "\0x", "%00", "%2f", "%20", ";a=b", "?a=b",
        "#a", "\n", "\t", "\u{200b}", "\u{feff}", "'", "\\",
    ] {
        all.push(format!("{name}{end}"));
        all.push(format!("{end}{name}"));
    }
    all.retain(|spelling| spelling != name);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_ids_are_compared_whole() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("café-a").await;
    let mut owner = admin.client(&tenant.owner);
    let (volume, token) = make_volume(&mut owner, "data-a").await;
    let mut system = admin.system();
    let mut mount = admin.client(&token);
    owner.get_volume(by_id("data-a")).await.unwrap();
    mount.describe_mount(v1::DescribeMountRequest { volume: "data-a".into() }).await.unwrap();
    for spelling in spellings("data-a") {
        let refused = owner.get_volume(by_id(&spelling)).await;
        assert!(refused.is_err(), "{spelling:?} is taken for data-a");
        let request = v1::DescribeMountRequest { volume: spelling.clone() };
        assert!(mount.describe_mount(request).await.is_err(), "{spelling:?}");
        assert!(owner.delete_volume(delete(&spelling)).await.is_err(), "{spelling:?}");
        let list = v1::ListTokensRequest {
            kind: "volume".into(),
            volume: spelling.clone(),
            ..Default::default()
        };
        let found = owner.list_tokens(list).await;
        assert!(found.is_err(), "{spelling:?} lists");
    }
    // Ids: a prefix of at least four digits is a documented way to name a
    // token; whatever else is not its id finds nothing.
    let id = token.id().to_string();
    for spelling in
        spellings(&id).into_iter().chain([format!("{{{id}}}"), format!("urn:uuid:{id}")])
    {
        if id.starts_with(&spelling) || spelling.eq_ignore_ascii_case(&id) {
            continue;
        }
        let refused = owner.revoke_token(revoke("volume", &spelling)).await;
        assert!(refused.is_err(), "{spelling:?} is taken for a token's id");
    }
    for (what, name) in [("account", tenant.id.clone()), ("store", "m1".to_owned())] {
        for spelling in spellings(&name) {
            let is_short = name.starts_with(&spelling) || spelling.eq_ignore_ascii_case(&name);
            if is_short && what == "account" {
                // As with tokens; and UUIDs have no case.
                continue;
            }
            let refused = match what {
                "account" => system.get_account(by_id(&spelling)).await.map(drop),
                _ => system.get_meta_store(by_id(&spelling)).await.map(drop),
            };
            assert!(refused.is_err(), "{spelling:?} is taken for {what} {name}");
        }
    }
    // Kinds and roles are words, not prefixes.
    for kind in ["Volume", "vol", "volume ", "volume\0", "", "*", "volumes"] {
        assert!(owner.revoke_token(revoke(kind, &id)).await.is_err(), "{kind:?}");
    }
    for role in ["Owner", "own", "owner ", "owner\0", "", "root", "*", "viewer,owner"] {
        let request = v1::CreateAccountTokenRequest {
            token: Some(generate(TokenKind::Account).to_wire()),
            role: role.into(),
            ..Default::default()
        };
        assert!(owner.create_account_token(request).await.is_err(), "{role:?}");
    }
    used(&admin, &tenant.owner).await.unwrap();
    mount.describe_mount(v1::DescribeMountRequest { volume: volume.id }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_goes_around_the_table_of_methods() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let viewer = admin.account_token(&tenant.id, "viewer").await;
    let owner = generate(TokenKind::Account);
    let world = World { admin, tenant: String::new(), owner, count: 0.into() };
    let good = "/flexfs.v1.AdminService/WhoAmI";
    assert_eq!(world.call(good, false, Some(viewer.reveal()), vec![]).await, "ok");
    for path in [
        "/flexfs.v1.AdminService/WhoAmI/",
        "//flexfs.v1.AdminService/WhoAmI",
        "/flexfs.v1.AdminService//WhoAmI",
        "/flexfs.v1.AdminService/./WhoAmI",
        "/x/../flexfs.v1.AdminService/WhoAmI",
        "/flexfs.v1.AdminService/Who%41mI",
        "/flexfs.v1.AdminService%2fWhoAmI",
        "/flexfs.v1.AdminService/WhoAmI;x=y",
        "/flexfs.v1.AdminService/WhoAmI%00",
        "/flexfs.v1.AdminService/WhoAmI.",
        "/flexfs.v1.adminservice/WhoAmI",
        "/flexfs.v1.AdminService/whoAmI",
        "/FLEXFS.V1.ADMINSERVICE/WHOAMI",
        "/flexfs.v1.AdminService/WhoAm",
        "/healthz/../flexfs.v1.AdminService/WhoAmI",
    ] {
        assert_eq!(world.call(path, false, None, vec![]).await, "TOKEN_MISSING", "{path}");
        let answer = world.call(path, false, Some(viewer.reveal()), vec![]).await;
        assert_eq!(answer, "UNSUPPORTED", "{path}");
    }
}

// ---- 15: one request, one credential ----------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_tokens_is_refused_whichever_comes_first() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    for (first, second) in [(&admin.root, &tenant.owner), (&tenant.owner, &admin.root)] {
        let channel = admin.peer.channel().unwrap();
        let mut client = v1::admin_service_client::AdminServiceClient::new(channel);
        let mut request = tonic::Request::new(v1::WhoAmIRequest {});
        for token in [first, second] {
            let value = format!("Bearer {}", token.reveal()).parse().unwrap();
            request.metadata_mut().append("authorization", value);
        }
        assert_eq!(code(client.who_am_i(request).await), Code::TokenMalformed);
    }
}

// ---- 16: a certificate is no credential -------------------------------------

/// Calls `WhoAmI` over TLS with a client certificate of the installation's own
/// authority, by HTTP/1.1, and gives the whole answer.
async fn with_certificate(admin: &Running, site: &Site, token: Option<&Token>) -> String {
    let Trust::Ca(ca) = admin.peer.trust.clone() else { panic!("with TLS") };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let ssl = site.home.path("ssl");
    let authority = crate::ca::Ca::load_or_create(&ssl).unwrap();
    let own = authority.own_identity(&ssl).unwrap();
    let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let tcp = tokio::net::TcpStream::connect(admin.address).await.unwrap();
    let name = ServerName::try_from(flexfs_common::tls::ADMIN_NAME).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let bearer = token.map(|t| format!("authorization: Bearer {}\r\n", t.reveal()));
    let head = format!(
        "POST /flexfs.v1.AdminService/WhoAmI HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/grpc\r\ncontent-length: 5\r\n{}\r\n",
        bearer.unwrap_or_default()
    );
    stream.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.unwrap();
    let mut answer = Vec::new();
    // The other side may end without a farewell of TLS.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_grants_nothing_beside_the_token() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let said = with_certificate(&admin, &site, None).await;
    assert!(said.contains("grpc-status: 16"), "no token, not authenticated: {said}");
    let said = with_certificate(&admin, &site, Some(&again(&tenant.owner))).await;
    assert!(said.contains("grpc-status: 16"), "a wrong secret: {said}");
    // The control: this way of asking works with the right token.
    let said = with_certificate(&admin, &site, Some(&tenant.owner)).await;
    assert!(said.contains(&tenant.owner.id().to_string()), "{said}");
}

// ---- 17: text is text -------------------------------------------------------

const STATEMENTS: &[&str] = &[
    "'",
    "\"",
    "' OR '1'='1",
    "'; DROP TABLE tokens; --",
    "\\'; DROP TABLE tokens; --",
    "x' UNION SELECT phc FROM token_secrets --",
    "%",
    "_",
    "$1",
    "?1",
    ":a",
    "/*",
    "\0",
    "a\0b",
    "$$; DELETE FROM audit; $$",
    "é\u{301}\u{202e}",
    "1; PRAGMA writable_schema = 1",
];

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field(number: i32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(usize::try_from(number).unwrap() << 3 | 2, &mut out);
    varint(bytes.len(), &mut out);
    out.extend_from_slice(bytes);
    out
}

/// All messages of the protocol, and the request of each method by its path.
struct Protocol {
    messages: Vec<(String, DescriptorProto)>,
    requests: Vec<(String, String)>,
}

impl Protocol {
    fn load() -> Protocol {
        let set = FileDescriptorSet::decode(flexfs_proto::FILE_DESCRIPTOR_SET).unwrap();
        let (mut messages, mut requests) = (Vec::new(), Vec::new());
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    requests.push((path, method.input_type().to_owned()));
                }
            }
            for message in &file.message_type {
                messages.push((format!(".{}.{}", file.package(), message.name()), message.clone()));
            }
        }
        Protocol { messages, requests }
    }

    /// Every text field of a message, at any depth, set to this text: encoded
    /// so that it replaces (or joins) what a message before it says.
    fn texts(&self, message: &str, text: &str, depth: u8) -> Vec<(String, Vec<u8>)> {
        let Some((_, descriptor)) = self.messages.iter().find(|(name, _)| name == message) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for part in &descriptor.field {
            match part.r#type() {
                Type::String => {
                    all.push((part.name().to_owned(), field(part.number(), text.as_bytes())))
                }
                Type::Message if depth < 3 && part.label() != Label::Repeated => {
                    for (name, inner) in self.texts(part.type_name(), text, depth + 1) {
                        let name = format!("{}.{name}", part.name());
                        all.push((name, field(part.number(), &inner)));
                    }
                }
                _ => {}
            }
        }
        all
    }
}

async fn statements_in_every_text(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let tenant = admin.account("a").await;
    let bystander = admin.account("bystander").await;
    let world = World { admin, tenant: tenant.id, owner: tenant.owner, count: 0.into() };
    let protocol = Protocol::load();
    let root = world.admin.root.reveal().to_owned();
    let (mut asked, mut accepted) = (0, 0);
    for (path, streams) in methods() {
        let method = path.rsplit('/').next().unwrap().to_owned();
        let (_, message) = protocol.requests.iter().find(|(p, _)| *p == path).unwrap();
        for name in protocol.texts(message, "", 0).into_iter().map(|(name, _)| name) {
            // Whatever it was renamed to must not be what is then asked for.
            let name_again = v1::UpdateAccountRequest {
                id: world.tenant.clone(),
                name: Some("a".into()),
                ..Default::default()
            };
            world.admin.system().update_account(name_again).await.unwrap();
            // One in turn per field on the slower database, all on the other.
            let things = world.things().await;
            let body = world.request(&method, &things, true);
            for (n, text) in STATEMENTS.iter().enumerate() {
                if kind == Kind::Postgres && n % 4 != asked % 4 {
                    asked += 1;
                    continue;
                }
                let fields = protocol.texts(message, text, 0);
                let (_, more) = fields.iter().find(|(other, _)| *other == name).unwrap();
                let token = match &*method {
                    "DescribeMount" => things.token.reveal().to_owned(),
                    "RedeemClaim" => things.claim.reveal().to_owned(),
                    _ if path.contains("Authority") => meta.reveal().to_owned(),
                    _ => root.clone(),
                };
                let answer =
                    world.call(&path, streams, Some(&token), [&body[..], more].concat()).await;
                let broken = ["DATABASE_FAILED", "INTERNAL", "ADMIN_UNREACHABLE", "CORRUPT"];
                assert!(!broken.contains(&&*answer), "{path} {name} = {text:?}: {answer}");
                asked += 1;
                accepted += usize::from(answer == "ok");
            }
        }
    }
    let (least, least_accepted) = if kind == Kind::Sqlite { (1000, 200) } else { (1000, 50) };
    assert!(asked > least && accepted > least_accepted, "{asked} asked, {accepted} accepted");
    println!("{}: {asked} texts, {accepted} accepted as text", kind.name());
    // Nothing was dropped, deleted or opened.
    used(&world.admin, &bystander.owner).await.unwrap();
    let records = audit::after(world.admin.store.reader().as_mut(), 0).await.unwrap();
    assert_eq!(audit::first_break(&records), None);
    assert!(records.len() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_in_any_text_of_any_request_are_only_text_on_sqlite() {
    statements_in_every_text(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_in_any_text_of_any_request_are_only_text_on_postgres() {
    statements_in_every_text(Kind::Postgres).await;
}

// ---- 32: spellings of one credential are one --------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_one_token_are_counted_as_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let bad = generate(TokenKind::Account);
    let text = bad.reveal();
    let channel = admin.peer.channel().unwrap();
    let mut client = v1::admin_service_client::AdminServiceClient::new(channel);
    let variants = [
        format!("Bearer {text}"),
        format!("bearer {text}"),
        format!("BEARER {text}"),
        format!("Bearer    {text}"),
        format!("Bearer secret-token:{text}"),
    ];
    for variant in &variants {
        let mut request = tonic::Request::new(v1::WhoAmIRequest {});
        request.metadata_mut().insert("authorization", variant.parse().unwrap());
        let refused = client.who_am_i(request).await.unwrap_err();
        let refused = status::from_status(&refused, Code::AdminUnreachable).code();
        assert_eq!(refused, Code::TokenUnknown, "{variant}");
    }
    // One entry of the cache of failures, one row for one id, and not a run of
    // argon2id among them.
    let [_, failures, ..] = admin.service.verifier().kept();
    assert_eq!(failures, 1);
    admin.service.verifier().flush_refused().await.unwrap();
    let records = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
    let mine = records.iter().filter(|r| r.record.target == bad.id().to_string());
    let times = mine.map(|r| r.record.detail.split(' ').next().unwrap().parse::<usize>().unwrap());
    assert_eq!(times.sum::<usize>(), variants.len());
}
