//! A server with an admin: what becomes of live sessions when their token, its
//! secrets, the volume or the server's own token change.

use std::time::Duration;

use flexfs_auth::token::TokenKind;
use flexfs_common::ids::SessionId;
use flexfs_common::{limits, protocol};
use flexfs_proto::v1::FeedKind;
use flexfs_proto::v1::meta_service_client::MetaServiceClient;

use super::*;
use crate::testbench::admin::Admin;
use crate::testbench::{Bench, Client as Mount, LIMIT, error_code, get_attr};

mod refusals;

/// Another text of the same token.
fn another_secret(token: &Token) -> Token {
    Token::generate_for(token.kind(), token.id()).unwrap()
}

async fn open(bench: &Bench, token: &Token) -> Result<v1::OpenSessionReply> {
    open_volume(bench, token, "home").await
}

async fn open_volume(bench: &Bench, token: &Token, name: &str) -> Result<v1::OpenSessionReply> {
    let channel = bench.peer.channel().unwrap();
    let mut client = MetaServiceClient::with_interceptor(channel, BearerInterceptor::new(token));
    let request = v1::OpenSessionRequest {
        volume: name.into(),
        protocol_min: 1,
        protocol_max: 1,
        features: protocol::FEATURES.iter().map(|name| (*name).to_owned()).collect(),
        host_name: "host".into(),
        dir: "/mnt".into(),
        ..v1::OpenSessionRequest::default()
    };
    let reply = client.open_session(request).await;
    reply.map(tonic::Response::into_inner).map_err(|e| status::from_status(&e, Code::Internal))
}

/// A live mount.
struct Live {
    id: SessionId,
    key: [u8; 32],
    root: Vec<u8>,
    ops: Mount,
}

async fn mount(bench: &Bench, token: &Token) -> Live {
    let reply = open(bench, token).await.unwrap();
    assert!(reply.features.iter().any(|name| name == protocol::REAUTHENTICATE));
    let id = SessionId::from_bytes(reply.session_id.as_slice().try_into().unwrap());
    let key: [u8; 32] = reply.session_key.unwrap().value.as_slice().try_into().unwrap();
    let ops = connect(bench, id, &key).await;
    Live { id, key, root: reply.root_handle, ops }
}

async fn connect(bench: &Bench, id: SessionId, key: &[u8; 32]) -> Mount {
    let mut ops = Mount::connect(&bench.peer).await;
    ops.resume(id, key).await;
    assert!(ops.next().await.resumed.is_some());
    ops
}

impl Live {
    async fn send_token(&mut self, number: u64, text: &str) {
        let token = Some(v1::SecretText { value: text.to_owned() });
        let reauthenticate = Some(v1::Reauthenticate { number, token });
        self.ops.send(v1::ClientFrame { reauthenticate, ..v1::ClientFrame::default() }).await;
    }

    async fn answer(&mut self) -> v1::Reauthenticated {
        self.ops.next().await.reauthenticated.expect("an answer to the re-authentication")
    }

    /// The code of the refusal.
    async fn reauthenticate(&mut self, token: &Token) -> Option<String> {
        self.send_token(7, token.reveal()).await;
        let answer = self.answer().await;
        assert_eq!(answer.number, 7);
        answer.refused.map(|detail| detail.code)
    }

    async fn works(&mut self) {
        self.ops.ops(vec![get_attr(1, &self.root)]).await;
        assert_eq!(error_code(&self.ops.next().await.replies[0]), None);
    }

    /// The flags that it is told next.
    async fn told(&mut self) -> v1::Flags {
        loop {
            if let Some(flags) = self.ops.next().await.flags_changed {
                return flags;
            }
        }
    }

    async fn cut_with(&mut self) -> String {
        loop {
            let frame = self.ops.next().await;
            if let Some(cut) = frame.cut {
                return cut.reason.unwrap().code;
            }
        }
    }
}

fn secret_of(bench: &Bench, session: &Live) -> SecretId {
    bench.served.volume.session_info(session.id).unwrap().secret_id
}

fn volume_token(admin: &Admin) -> (Token, SecretId) {
    let token = Token::generate(TokenKind::Volume).unwrap();
    let secret = admin.grant(&token);
    (token, secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_to_a_new_secret_and_outlives_the_old_one() {
    let (bench, admin) = Bench::with_admin().await;
    let (old, old_id) = volume_token(&admin);
    let mut session = mount(&bench, &old).await;
    assert_eq!(secret_of(&bench, &session), old_id);
    let new = another_secret(&old);
    let new_id = admin.grant(&new);
    admin.change(&new, |secret| secret.valid_millis = 3_600_000);
    session.send_token(3, new.reveal()).await;
    let answer = session.answer().await;
    assert_eq!((answer.number, answer.refused), (3, None));
    assert!((3_000_000..=3_600_000).contains(&answer.token_millis), "{}", answer.token_millis);
    assert_eq!(secret_of(&bench, &session), new_id);
    assert!(bench.service.end_of(new_id).is_some());

    admin.change(&old, |secret| secret.refused = Some(Code::TokenRotated));
    admin.apply(FeedKind::TokenChanged, Some(&old)).await;
    session.works().await;
    assert_eq!(open(&bench, &old).await.unwrap_err().code(), Code::TokenRotated);
    admin.change(&new, |secret| secret.refused = Some(Code::TokenRotated));
    let revision = admin.row(FeedKind::TokenChanged, Some(&old));
    assert_eq!(session.cut_with().await, "TOKEN_ROTATED");
    session.ops.send(v1::ClientFrame { cut_done: true, ..v1::ClientFrame::default() }).await;
    admin.acknowledged(revision).await;
    // The token itself goes on: nothing noted it as revoked.
    assert!(!bench.service.grants.is_revoked(old.id()));
    assert_eq!(bench.service.grants.tokens(), []);
    let third = another_secret(&old);
    admin.grant(&third);
    open(&bench, &third).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reauthentication_changes_nothing() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, secret) = volume_token(&admin);
    let mut session = mount(&bench, &token).await;
    let (other, _) = volume_token(&admin);
    assert_eq!(session.reauthenticate(&other).await.as_deref(), Some("CREDS_MISMATCH"));
    let unknown = another_secret(&token);
    assert_eq!(session.reauthenticate(&unknown).await.as_deref(), Some("TOKEN_UNKNOWN"));
    let meta = Token::generate(TokenKind::Meta).unwrap();
    assert_eq!(session.reauthenticate(&meta).await.as_deref(), Some("TOKEN_WRONG_KIND"));
    session.send_token(9, "nonsense").await;
    let answer = session.answer().await;
    assert_eq!((answer.number, answer.refused.unwrap().code.as_str()), (9, "TOKEN_MALFORMED"));
    let narrower = another_secret(&token);
    admin.grant(&narrower);
    admin.change(&narrower, |secret| secret.mount_path = "/a".into());
    assert_eq!(session.reauthenticate(&narrower).await.as_deref(), Some("CREDS_MISMATCH"));
    assert_eq!(secret_of(&bench, &session), secret);
    session.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_admin_is_away_a_known_secret_is_taken_and_another_changes_nothing() {
    let bench = Bench::start().await;
    let token = Token::generate(TokenKind::Volume).unwrap();
    let opened = bench.open_as(token.id());
    let ops = bench.connect(&opened).await;
    let mut session = Live { id: opened.id, key: opened.key, root: opened.root, ops };
    assert_eq!(session.reauthenticate(&token).await.as_deref(), Some("ADMIN_UNREACHABLE"));
    assert_eq!(secret_of(&bench, &session), opened.secret);
    session.works().await;
    let settings = bench.served.volume.settings();
    let known = crate::rpc::verdict::Verdict {
        subject: crate::service::changes::Subject {
            token: token.id(),
            volume: settings.id,
            account: settings.account_id,
        },
        secret_id: SecretId::random(),
        scope: flexfs_common::name::SubtreePath::root(),
        flags: v1::Flags::default(),
        point: crate::service::changes::FeedPoint::default(),
        ends: None,
        asked: BootTime::now(),
        idle: None,
    };
    let (peer, now) = ("127.0.0.1".parse().unwrap(), crate::grants::stamp::Stamp::now());
    bench.service.grants.remember(&token, peer, &known, now).unwrap();
    assert_eq!(session.reauthenticate(&token).await, None);
    assert_eq!(secret_of(&bench, &session), known.secret_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reauthentication_at_a_time_and_not_many_a_second() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    let mut session = mount(&bench, &token).await;
    let before = admin.validated();
    admin.answers.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let new = another_secret(&token);
    admin.grant(&new);
    session.send_token(1, new.reveal()).await;
    admin.until_validated(before + 1).await;
    session.send_token(2, new.reveal()).await;
    let second = session.answer().await;
    assert_eq!((second.number, second.refused.unwrap().code.as_str()), (2, "RATE_LIMITED"));
    // Everything else goes on meanwhile.
    session.works().await;
    admin.answers.add_permits(1000);
    assert_eq!(session.answer().await.number, 1);
    let begun = std::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(
            session.reauthenticate(&another_secret(&token)).await.as_deref(),
            Some("TOKEN_UNKNOWN")
        );
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_overtakes_a_reauthentication_refuses_it() {
    let (bench, admin) = Bench::with_admin().await;
    let (old, old_id) = volume_token(&admin);
    let mut session = mount(&bench, &old).await;
    let new = another_secret(&old);
    admin.grant(&new);
    let before = admin.validated();
    admin.answers.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    session.send_token(1, new.reveal()).await;
    // Admin has read that it is good, and the answer is still on its way.
    admin.until_validated(before + 1).await;
    admin.change(&new, |secret| secret.refused = Some(Code::TokenRotated));
    admin.apply(FeedKind::TokenChanged, Some(&old)).await;
    admin.answers.add_permits(1000);
    let answer = session.answer().await;
    assert_eq!(answer.refused.unwrap().code, "TOKEN_ROTATED");
    assert_eq!(secret_of(&bench, &session), old_id);
    assert_eq!(admin.validated(), before + 2, "it was asked again");
    session.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_moves_in_both_directions_and_goes_away() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, secret) = volume_token(&admin);
    let mut session = mount(&bench, &token).await;
    let end = || bench.service.end_of(secret).map(|at| at.left().as_secs());
    assert_eq!(end(), None);
    for (millis, expected) in [(100_000, 90..=100), (1_000_000, 990..=1000), (50_000, 40..=50)] {
        admin.change(&token, |secret| secret.valid_millis = millis);
        admin.apply(FeedKind::TokenChanged, Some(&token)).await;
        assert!(expected.contains(&end().unwrap()), "{millis}: {:?}", end());
    }
    admin.change(&token, |secret| secret.valid_millis = 0);
    admin.apply(FeedKind::TokenChanged, Some(&token)).await;
    assert_eq!(end(), None);
    session.works().await;
    admin.change(&token, |secret| secret.refused = Some(Code::TokenExpired));
    admin.row(FeedKind::TokenChanged, Some(&token));
    assert_eq!(session.cut_with().await, "TOKEN_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_a_secret_is_told_from_its_token() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, secret) = volume_token(&admin);
    admin.change(&token, |secret| secret.valid_millis = 2500);
    let mut session = mount(&bench, &token).await;
    assert!(bench.service.end_of(secret).is_some());
    admin.change(&token, |secret| secret.refused = Some(Code::TokenRotated));
    assert_eq!(session.cut_with().await, "TOKEN_ROTATED");
    assert!(!bench.service.grants.is_revoked(token.id()));
    let (token, _) = volume_token(&admin);
    admin.change(&token, |secret| secret.valid_millis = 2500);
    let mut session = mount(&bench, &token).await;
    // Extended, and no row has said so: it goes on.
    admin.change(&token, |secret| secret.valid_millis = 0);
    let before = admin.checked();
    let asked = async {
        while admin.checked() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap();
    session.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_admin_the_end_of_a_secret_is_that_of_its_token() {
    let bench = Bench::start().await;
    let session = bench.open();
    let mut ops = bench.connect(&session).await;
    tokio::spawn(crate::service::background::watch_time(std::sync::Arc::clone(&bench.service)));
    let volume = bench.served.volume.settings().id;
    let end = (Some(BootTime::now()), crate::service::changes::FeedPoint::default());
    bench.service.set_end(session.secret, volume, end);
    assert_eq!(ops.next().await.cut.unwrap().reason.unwrap().code, "TOKEN_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_flags_are_in_force_and_told_before_they_are_acknowledged() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    let mut session = mount(&bench, &token).await;
    let flags =
        |bench: &Bench, session: &Live| bench.served.volume.session_flags(session.id).unwrap();
    admin.change(&token, |secret| secret.flags.ro = true);
    let revision = admin.row(FeedKind::TokenChanged, Some(&token));
    // The recall is answered only when the client has been told.
    let (mut told, mut recalled) = (None, None);
    while told.is_none() || recalled.is_none() {
        let frame = session.ops.next().await;
        told = told.or(frame.flags_changed);
        recalled = recalled.or_else(|| frame.recalls.first().cloned());
    }
    assert!(told.unwrap().ro && flags(&bench, &session).ro);
    let recall = recalled.unwrap();
    assert!(recall.all);
    let recalls_done = vec![recall.id];
    session.ops.send(v1::ClientFrame { recalls_done, ..v1::ClientFrame::default() }).await;
    admin.acknowledged(revision).await;

    // A client that was away is told when it comes back.
    session.ops = connect(&bench, session.id, &session.key).await;
    assert!(session.told().await.ro);
    admin.change(&token, |secret| secret.flags.ro = false);
    admin.row(FeedKind::TokenChanged, Some(&token));
    assert!(!session.told().await.ro);
    admin.change_volume(|volume| volume.flags.get_or_insert_default().no_acl = true);
    admin.row(FeedKind::VolumeChanged, None);
    assert!(session.told().await.no_acl && flags(&bench, &session).no_acl);
    // What may be opened while admin is away is narrowed as well.
    admin.change(&token, |secret| secret.flags.umask = 0o77);
    admin.row(FeedKind::TokenChanged, Some(&token));
    assert_eq!(session.told().await.umask, 0o77);
    let kept = bench.service.grants.find(
        &token,
        "127.0.0.1".parse().unwrap(),
        &crate::grants::stamp::Stamp::now(),
        crate::service::changes::FeedPoint::default(),
    );
    assert_eq!(kept.unwrap().unwrap().flags.umask, 0o77);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_that_conflict_cut_the_live_session() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    admin.change(&token, |secret| secret.flags.uid = Some(1));
    let mut session = mount(&bench, &token).await;
    admin.change_volume(|volume| volume.flags.get_or_insert_default().uid = Some(2));
    let revision = admin.row(FeedKind::VolumeChanged, None);
    assert_eq!(session.cut_with().await, "FLAG_CONFLICT");
    session.ops.send(v1::ClientFrame { cut_done: true, ..v1::ClientFrame::default() }).await;
    admin.acknowledged(revision).await;
    assert!(bench.service.sessions.is_empty());
    assert_eq!(open(&bench, &token).await.unwrap_err().code(), Code::FlagConflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_answer_does_not_bring_the_volumes_old_settings_back() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    admin.answers.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let opening = open(&bench, &token);
    let changing = async {
        admin.until_validated(1).await;
        admin.change_volume(|volume| volume.compression = "zstd".into());
        // It says nothing of the token, which is not asked about again.
        admin.apply(FeedKind::BlockStoreChanged, None).await;
        admin.answers.add_permits(1000);
    };
    let (reply, ()) = tokio::join!(opening, changing);
    assert_eq!((reply.unwrap().compression.as_str(), admin.validated()), ("zstd", 1));
    assert_eq!(bench.served.placed().compression, "zstd");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_is_told_of_every_session_and_of_what_becomes_of_it() {
    let (bench, admin) = Bench::with_admin().await;
    admin.reports(|reports| reports.first().is_some_and(|first| first.all)).await;
    let (token, secret) = volume_token(&admin);
    let begun = std::time::Instant::now();
    let mut session = mount(&bench, &token).await;
    let id = session.id.as_bytes().to_vec();
    let latest = |reports: &[v1::SessionReport]| {
        let mut opened = reports.iter().flat_map(|report| report.opened.clone());
        opened.rfind(|live| live.session_id == id)
    };
    admin.reports(|reports| latest(reports).is_some()).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    admin
        .reports(|reports| {
            let live = latest(reports).unwrap();
            assert_eq!((live.host_name.as_str(), live.dir.as_str()), ("host", "/mnt"));
            assert_eq!((live.mount_path.as_str(), live.secret_id), ("/", secret.to_string()));
            assert!(live.peer_address.starts_with("127.0.0.1") && live.opened_at.is_some());
            assert_eq!(
                (live.token_id, live.volume_id),
                (token.id().to_string(), bench.served.volume.settings().id.to_string(),)
            );
            true
        })
        .await;
    let new = another_secret(&token);
    let new_id = admin.grant(&new);
    assert_eq!(session.reauthenticate(&new).await, None);
    admin.reports(|reports| latest(reports).unwrap().secret_id == new_id.to_string()).await;
    // The same secret again is no news: none comes before what happens later.
    assert_eq!(session.reauthenticate(&new).await, None);
    let stays = mount(&bench, &token).await;
    let told = |reports: &[v1::SessionReport], id: SessionId, secret: SecretId| {
        let opened = reports.iter().flat_map(|report| &report.opened);
        let is_it = |live: &&v1::LiveSession| {
            live.session_id == id.as_bytes() && live.secret_id == secret.to_string()
        };
        opened.filter(is_it).count()
    };
    admin.reports(|reports| told(reports, stays.id, secret) == 1).await;
    admin
        .reports(|reports| {
            assert_eq!(told(reports, session.id, new_id), 1);
            true
        })
        .await;
    session.ops.send(v1::ClientFrame { goodbye: true, ..v1::ClientFrame::default() }).await;
    admin.reports(|reports| reports.iter().any(|report| report.closed.contains(&id))).await;

    // A new subscription begins with everything.
    let own = bench.service.own.token();
    let next = another_secret(&own);
    admin.take_also(&next);
    admin.creds(&bench.dir.path().join("creds"), &next);
    bench.service.renew_own(false);
    let is_told = |report: &v1::SessionReport| {
        let opened = &report.opened;
        report.all && opened.len() == 1 && opened[0].session_id == stays.id.as_bytes()
    };
    admin.reports(|reports| reports.iter().any(is_told)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_an_idle_end_is_asked_about_again() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    open(&bench, &token).await.unwrap();
    open(&bench, &token).await.unwrap();
    assert_eq!(admin.validated(), 1, "from memory");
    let (token, _) = volume_token(&admin);
    admin.change(&token, |secret| secret.idle_millis = 60_000);
    open(&bench, &token).await.unwrap();
    open(&bench, &token).await.unwrap();
    assert_eq!(admin.validated(), 2, "from memory, while it is young");
    let (token, _) = volume_token(&admin);
    admin.change(&token, |secret| secret.idle_millis = 1);
    open(&bench, &token).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    admin.change(&token, |secret| secret.refused = Some(Code::TokenExpired));
    assert_eq!(open(&bench, &token).await.unwrap_err().code(), Code::TokenExpired);
    assert_eq!(bench.service.sessions.len(), 5, "the live one is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_token_rotates_and_no_session_notices() {
    let (bench, admin) = Bench::with_admin().await;
    tokio::spawn(crate::service::own::watch_file(std::sync::Arc::clone(&bench.service)));
    let (token, _) = volume_token(&admin);
    let mut session = mount(&bench, &token).await;
    let creds = bench.dir.path().join("creds");
    let own = bench.service.own.token();
    // In overlap: seen by itself.
    let second = another_secret(&own);
    admin.take_also(&second);
    admin.creds(&creds, &second);
    assert_eq!(admin.subscriptions(2).await[1], second.reveal());
    admin.apply(FeedKind::AccountChanged, None).await;
    session.works().await;
    open(&bench, &token).await.unwrap();
    // At once: the file is there before the old one ends.
    let third = Token::generate(TokenKind::Meta).unwrap();
    admin.creds(&creds, &third);
    admin.take_only(&third, Code::TokenRotated);
    assert_eq!(admin.subscriptions(3).await.last().unwrap(), third.reveal());
    open(&bench, &token).await.unwrap();
    session.works().await;
    assert_eq!(bench.service.feed.own_refused(), None);
    // A file that cannot be used changes nothing.
    std::fs::write(&creds, "nonsense").unwrap();
    assert!(!bench.service.renew_own(true));
    assert_eq!(bench.service.own.token().reveal(), third.reveal());
    // Refused without another one: no new sessions, and the live ones stay.
    let fourth = another_secret(&third);
    admin.take_only(&fourth, Code::TokenRevoked);
    let refused = async {
        while bench.service.feed.own_refused().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
    let error = open(&bench, &token).await.unwrap_err();
    assert_eq!(error.code(), Code::MetaUnregistered);
    session.works().await;
    admin.creds(&creds, &fourth);
    admin.subscriptions(4).await;
    open(&bench, &token).await.unwrap();
    assert!(!bench.service.grants.is_revoked(token.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_own_token_is_not_taken_for_one_of_the_mounts() {
    let bench = Bench::start().await;
    let own = bench.service.own.token();
    // Admin answers calls, and its feed has not ended yet.
    let placed = bench.served.placed();
    let other = Token::generate(TokenKind::Meta).unwrap();
    let admin = Admin::start(&other, placed).await;
    admin.take_only(&other, Code::TokenRevoked);
    let authority = Authority::new(admin.peer.clone(), &own).unwrap();
    let refused = authority.confirm_own(BootTime::now()).await.unwrap_err();
    assert_eq!(refused.code(), Code::TokenRevoked);
    authority.set_token(&other).unwrap();
    let before = BootTime::now();
    authority.confirm_own(before).await.unwrap();
    authority.confirm_own(before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_while_the_own_token_is_refused_is_not_told_that_his_is() {
    let (bench, admin) = Bench::beside_admin().await;
    let (token, _) = volume_token(&admin);
    let other = another_secret(&bench.service.own.token());
    admin.take_only(&other, Code::TokenRevoked);
    assert_eq!(open(&bench, &token).await.unwrap_err().code(), Code::MetaUnregistered);
    assert!(!bench.service.grants.is_revoked(token.id()));
    bench.service.feed.set_own_refused(None);
    admin.creds(&bench.dir.path().join("creds"), &other);
    open(&bench, &token).await.unwrap();
    // Of the token itself it is believed, and for ever.
    admin.change(&token, |secret| secret.refused = Some(Code::TokenRevoked));
    assert_eq!(open(&bench, &token).await.unwrap_err().code(), Code::TokenRevoked);
    assert!(bench.service.grants.is_revoked(token.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_asked_about_once_in_a_while_and_a_good_one_gets_through() {
    let (bench, admin) = Bench::with_admin().await;
    let bad = Token::generate(TokenKind::Volume).unwrap();
    for _ in 0..20 {
        assert_eq!(open(&bench, &bad).await.unwrap_err().code(), Code::TokenUnknown);
    }
    assert_eq!(admin.validated(), 1);
    // What becomes known is taken as soon as it is heard of.
    admin.grant(&bad);
    admin.apply(FeedKind::TokenChanged, Some(&bad)).await;
    open(&bench, &bad).await.unwrap();
    // A flood whose questions hang leaves the way free for who was here before.
    bench.service.verdicts.drop(&bench.service.verdicts.key(&bad, "127.0.0.1".parse().unwrap()));
    let before = admin.validated();
    admin.answers.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let (peer, unknown) = (bench.peer.clone(), Token::generate(TokenKind::Volume).unwrap());
            tokio::spawn(async move {
                let channel = peer.channel().unwrap();
                let bearer = BearerInterceptor::new(&unknown);
                let mut client = MetaServiceClient::with_interceptor(channel, bearer);
                let request = v1::OpenSessionRequest {
                    volume: "home".into(),
                    protocol_min: 1,
                    protocol_max: 1,
                    ..v1::OpenSessionRequest::default()
                };
                client.open_session(request).await.unwrap_err()
            })
        })
        .collect();
    admin.until_validated(before + 8).await;
    let opening = open(&bench, &bad);
    let answering = async {
        admin.until_validated(before + 9).await;
        admin.answers.add_permits(100_000);
    };
    let (opened, ()) = tokio::join!(opening, answering);
    opened.unwrap();
    for refused in flood {
        refused.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_upload_of_a_session_that_became_read_only_is_refused() {
    use crate::blocks::endpoint::Transfers;
    use crate::blocks::signed::{Claims, Method};
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    let session = mount(&bench, &token).await;
    let volume = bench.served.volume.settings().id;
    let object = flexfs_common::ids::ObjectId([7; 16]);
    let claims = |method| Claims::from_now(method, volume, object, session.id, 100);
    let admit =
        |method| tokio::task::block_in_place(|| bench.service.admit(&claims(method)).map(|_| ()));
    admit(Method::Put).unwrap();
    admin.change(&token, |secret| secret.flags.ro = true);
    let revision = admin.row(FeedKind::TokenChanged, Some(&token));
    while !bench.served.volume.session_flags(session.id).unwrap().ro {
        tokio::task::yield_now().await;
    }
    assert_eq!(admit(Method::Put).unwrap_err().code(), Code::BlockRefused);
    admit(Method::Get).unwrap();
    // Its client answers no recall: acknowledged when its lease is over.
    let begun = std::time::Instant::now();
    admin.acknowledged(revision).await;
    assert!(begun.elapsed() > limits::LEASE / 2);
}
