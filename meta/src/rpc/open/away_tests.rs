//! Control calls over the real port, while admin is away.

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::SecretId;
use flexfs_common::name::SubtreePath;
use flexfs_common::status;
use flexfs_proto::v1::meta_control_service_client::MetaControlServiceClient;
use flexfs_proto::v1::meta_service_client::MetaServiceClient;

use super::*;
use crate::grants::stamp::Stamp;
use crate::service::changes::{FeedPoint, Subject};
use crate::testbench::{Bench, Client, error_code, get_attr};

fn request(volume: &str) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        volume: volume.into(),
        protocol_min: 1,
        protocol_max: 1,
        host_name: "host".into(),
        dir: "/mnt".into(),
        ..v1::OpenSessionRequest::default()
    }
}

async fn open(bench: &Bench, token: &Token, volume: &str) -> Result<v1::OpenSessionReply> {
    let channel = bench.peer.channel().unwrap();
    let mut client = MetaServiceClient::with_interceptor(channel, BearerInterceptor::new(token));
    let reply = client.open_session(request(volume)).await;
    reply.map(Response::into_inner).map_err(|e| status::from_status(&e, Code::MetaUnreachable))
}

fn remember(bench: &Bench, token: &Token) {
    let settings = bench.served.volume.settings();
    let verdict = Verdict {
        subject: Subject { token: token.id(), volume: settings.id, account: settings.account_id },
        secret_id: SecretId::random(),
        scope: SubtreePath::root(),
        flags: v1::Flags { no_exec: true, ..v1::Flags::default() },
        point: FeedPoint { epoch: 0, revision: 0 },
        ends: None,
        asked: BootTime::now(),
        idle: None,
    };
    let peer = "127.0.0.1".parse().unwrap();
    bench.service.grants.remember(token, peer, &verdict, Stamp::now()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tokens_open_sessions_within_the_grace_and_others_do_not() {
    let bench = Bench::start().await;
    let token = Token::generate(TokenKind::Volume).unwrap();
    let code = |outcome: Result<v1::OpenSessionReply>| outcome.unwrap_err().code();
    assert_eq!(code(open(&bench, &token, "home").await), Code::AdminUnreachable);
    remember(&bench, &token);
    // The token's restriction is one that this client cannot honour.
    assert_eq!(code(open(&bench, &token, "home").await), Code::FlagUnsupported);
    let channel = bench.peer.channel().unwrap();
    let bearer = BearerInterceptor::new(&token);
    let mut client = MetaServiceClient::with_interceptor(channel, bearer);
    let honours = v1::OpenSessionRequest { honours: vec!["noExec".into()], ..request("home") };
    let reply = client.open_session(honours).await.unwrap().into_inner();
    assert!(reply.flags.unwrap().no_exec);
    // What was granted works.
    let id = SessionIdOf(&reply).id();
    let key: [u8; 32] = reply.session_key.unwrap().value.as_slice().try_into().unwrap();
    let mut ops = Client::connect(&bench.peer).await;
    ops.resume(id, &key).await;
    assert!(ops.next().await.resumed.is_some());
    ops.ops(vec![get_attr(1, &reply.root_handle)]).await;
    assert_eq!(error_code(&ops.next().await.replies[0]), None);

    assert_eq!(code(open(&bench, &token, "another").await), Code::AdminUnreachable);
    bench.service.grants.contact(Stamp::default());
    assert_eq!(code(open(&bench, &token, "home").await), Code::AdminUnreachable);
    bench.service.note_contact();
    bench.service.grants.note_revoked(token.id(), 1).unwrap();
    assert_eq!(code(open(&bench, &token, "home").await), Code::TokenRevoked);
}

struct SessionIdOf<'a>(&'a v1::OpenSessionReply);

impl SessionIdOf<'_> {
    fn id(&self) -> flexfs_common::ids::SessionId {
        let bytes: [u8; 16] = self.0.session_id.as_slice().try_into().unwrap();
        flexfs_common::ids::SessionId::from_bytes(bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_overtakes_the_verdict_refuses_the_session() {
    let bench = Bench::start().await;
    let token = Token::generate(TokenKind::Volume).unwrap();
    remember(&bench, &token);
    // The row is noted and its grant not yet forgotten.
    bench.service.changes.note_token(token.id(), 7);
    let honours = v1::OpenSessionRequest { honours: vec!["noExec".into()], ..request("home") };
    let channel = bench.peer.channel().unwrap();
    let bearer = BearerInterceptor::new(&token);
    let mut client = MetaServiceClient::with_interceptor(channel, bearer);
    assert!(client.open_session(honours).await.is_err());
    assert!(bench.service.sessions.is_empty());
    assert!(bench.served.volume.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_wants_its_own_kind_of_token() {
    let bench = Bench::start().await;
    let meta = Token::generate(TokenKind::Meta).unwrap();
    let error = open(&bench, &meta, "home").await.unwrap_err();
    assert_eq!(error.code(), Code::TokenWrongKind);
    let bare = MetaServiceClient::new(bench.peer.channel().unwrap());
    let error = bare.clone().open_session(request("home")).await.unwrap_err();
    assert_eq!(status::from_status(&error, Code::Internal).code(), Code::TokenMissing);
    let volume = Token::generate(TokenKind::Volume).unwrap();
    let own = bench.service.own.token();
    for (token, expected) in
        [(&volume, Some(Code::TokenWrongKind)), (&meta, Some(Code::TokenUnknown)), (&own, None)]
    {
        let channel = bench.peer.channel().unwrap();
        let bearer = BearerInterceptor::new(token);
        let mut client = MetaControlServiceClient::with_interceptor(channel, bearer);
        let status_reply = client.status(v1::MetaStatusRequest {}).await;
        let refused = status_reply.map_err(|e| status::from_status(&e, Code::Internal).code());
        assert_eq!(refused.as_ref().err().copied(), expected);
        let verified = client.verify(v1::VerifyRequest::default()).await;
        let refused = verified.as_ref().map_err(|e| status::from_status(e, Code::Internal).code());
        assert_eq!(refused.err(), expected);
        if let Ok(stream) = verified {
            let mut stream = stream.into_inner();
            let last = stream.message().await.unwrap().unwrap().summary.unwrap();
            assert_eq!((last.volumes, last.findings), (1, 0));
        }
    }
}
