//! What belongs to the life of tokens: claim codes, request ids, sessions,
//! filters, what is purged.

use flexfs_auth::token::TokenKind;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::{RequestId, SecretId, ServerId, SessionId, TokenId};
use jiff::{SignedDuration, Timestamp};

use super::super::testing::TestDatabase;
use super::super::volumes::Visible;
use super::super::{
    Kind, Sql, Tx, claims, ending, metas, requests, secrets, sessions, tokens, volumes,
};
use super::fixture::*;
use crate::model::{Claim, LiveSession, MetaServer, SecretRecord, TokenRecord, Volume};
use crate::page::Page;

contract! {
    a_claim_is_redeemed_once
    a_request_id_keeps_what_was_first
    sessions_are_their_servers_and_count_as_use
    ended_secrets_are_purged_and_the_newest_stays
    hosts_of_a_secret_are_bounded
    filters_find_what_they_name
}

fn later(seconds: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn verifier() -> Verifier {
    Verifier { tag: [7; 32], pepper_id: "p".into(), phc: "x".into() }
}

/// A volume with one token that has no limits.
async fn with_token(tx: &mut Tx, account: &crate::model::Account) -> (Volume, TokenRecord) {
    let volume = volume(account, "v");
    volumes::insert(tx.sql(), &volume).await.unwrap();
    let record =
        TokenRecord { idle_seconds: 0, expires_at: None, ..token(account, of_volume(&volume)) };
    tokens::insert(tx.sql(), &record).await.unwrap();
    (volume, record)
}

async fn secret(sql: &mut dyn Sql, token: TokenId, made: Timestamp) -> SecretRecord {
    let secret = SecretRecord::new("abcd", verifier(), made);
    secrets::insert(sql, token, &secret).await.unwrap();
    secret
}

async fn a_claim_is_redeemed_once(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (_, record) = with_token(&mut tx, &one).await;
    let claim = Claim {
        verifier: verifier(),
        expires_at: later(60),
        redeemed_at: None,
        redeemed_from: String::new(),
    };
    claims::insert(tx.sql(), record.id, &claim).await.unwrap();
    assert_eq!(claims::of_token(tx.sql(), record.id).await.unwrap().as_ref(), Some(&claim));
    let listed = tokens::listed(tx.sql(), record.id, now()).await.unwrap().unwrap();
    assert_eq!((listed.live_secrets, listed.claim_expires_at), (0, Some(claim.expires_at)));
    let first = now();
    claims::redeem(tx.sql(), record.id, first, "192.0.2.1").await.unwrap();
    claims::redeem(tx.sql(), record.id, later(9), "192.0.2.2").await.unwrap();
    let redeemed = claims::of_token(tx.sql(), record.id).await.unwrap().unwrap();
    assert_eq!((redeemed.redeemed_at, redeemed.redeemed_from.as_str()), (Some(first), "192.0.2.1"));
    assert_eq!(claims::purge(tx.sql(), now()).await.unwrap(), 0);
    assert_eq!(claims::purge(tx.sql(), later(61)).await.unwrap(), 1);
}

async fn a_request_id_keeps_what_was_first(db: TestDatabase) {
    let (store, ..) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (who, id) = (TokenId::random(), RequestId::random());
    let done = |n: u8| requests::Done { digest: [n; 32], target: format!("t{n}"), revision: 7 };
    assert_eq!(requests::find(tx.sql(), who, id).await.unwrap(), None);
    requests::insert(tx.sql(), (who, id), &done(1), now()).await.unwrap();
    requests::insert(tx.sql(), (who, id), &done(2), now()).await.unwrap();
    assert_eq!(requests::find(tx.sql(), who, id).await.unwrap(), Some(done(1)));
    assert_eq!(requests::find(tx.sql(), TokenId::random(), id).await.unwrap(), None);
    assert_eq!(requests::purge(tx.sql(), later(1)).await.unwrap(), 1);
}

async fn sessions_are_their_servers_and_count_as_use(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (volume, record) = with_token(&mut tx, &one).await;
    let key = secret(tx.sql(), record.id, now()).await;
    let server = |store: &str| MetaServer {
        id: ServerId::random(),
        meta_store: store_id(store),
        address: String::new(),
        version: String::new(),
        acknowledged: 0,
        last_seen_at: now(),
    };
    let (here, there) = (server("m1"), server("m2"));
    for server in [&here, &there] {
        metas::put_server(tx.sql(), server).await.unwrap();
    }
    let session = |server: &MetaServer| LiveSession {
        id: SessionId::random(),
        server: server.id,
        token_id: record.id,
        secret_id: key.id,
        volume_id: volume.id,
        mount_path: "/a".into(),
        host: "h".into(),
        dir: "/mnt".into(),
        address: "192.0.2.1".into(),
        opened_at: now(),
    };
    let mine = session(&here);
    sessions::put(tx.sql(), &here.meta_store, &mine).await.unwrap();
    // Another store's server reports sessions of a volume that it does not
    // have, and a session id of somebody else.
    sessions::put(tx.sql(), &there.meta_store, &session(&there)).await.unwrap();
    let stolen = LiveSession { server: there.id, ..mine.clone() };
    sessions::put(tx.sql(), &there.meta_store, &stolen).await.unwrap();
    sessions::remove(tx.sql(), there.id, mine.id).await.unwrap();
    let page = Page::parse(0, "").unwrap();
    let visible = Visible::all(one.id);
    let listed = sessions::list(tx.sql(), &visible, "", &page).await.unwrap();
    assert_eq!(listed, [(mine.clone(), "v".to_owned())]);
    assert_eq!(sessions::count(tx.sql(), Some(one.id)).await.unwrap(), 1);
    let hosts = secrets::hosts(tx.sql(), key.id).await.unwrap();
    assert_eq!((hosts.len(), hosts[0].sessions), (1, 1));
    // Authenticated again: the same session, another secret.
    let other = secret(tx.sql(), record.id, later(1)).await;
    let moved = LiveSession { secret_id: other.id, ..mine.clone() };
    sessions::put(tx.sql(), &here.meta_store, &moved).await.unwrap();
    assert!(secrets::hosts(tx.sql(), key.id).await.unwrap().is_empty());
    let at = later(30);
    sessions::note_used(tx.sql(), here.id, at).await.unwrap();
    let used = tokens::by_id(tx.sql(), record.id).await.unwrap().unwrap().used;
    assert_eq!((used.last_at, used.count), (Some(at), 0));
    // A secret that is not the token's is not noted.
    let foreign = LiveSession { id: SessionId::random(), secret_id: SecretId::random(), ..mine };
    sessions::put(tx.sql(), &here.meta_store, &foreign).await.unwrap();
    assert_eq!(sessions::count(tx.sql(), None).await.unwrap(), 1);
    // A report of all: what it names stays, the others go at its end.
    sessions::mark_stale(tx.sql(), here.id).await.unwrap();
    assert_eq!(sessions::count_of(tx.sql(), here.id).await.unwrap(), 1);
    sessions::put(tx.sql(), &here.meta_store, &moved).await.unwrap();
    sessions::remove_stale(tx.sql(), here.id).await.unwrap();
    assert_eq!(sessions::count(tx.sql(), None).await.unwrap(), 1);
    sessions::mark_stale(tx.sql(), here.id).await.unwrap();
    sessions::remove_stale(tx.sql(), here.id).await.unwrap();
    assert_eq!(sessions::count(tx.sql(), None).await.unwrap(), 0);
}

async fn ended_secrets_are_purged_and_the_newest_stays(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (_, record) = with_token(&mut tx, &one).await;
    let old = secret(tx.sql(), record.id, later(-300)).await;
    let ending = secret(tx.sql(), record.id, later(-200)).await;
    let newest = secret(tx.sql(), record.id, later(-100)).await;
    secrets::retire(tx.sql(), old.id, later(-50)).await.unwrap();
    secrets::end_by(tx.sql(), ending.id, later(60)).await.unwrap();
    secrets::end_by(tx.sql(), ending.id, later(600)).await.unwrap();
    // Even if it ended, the newest tells its holder what happened.
    secrets::retire(tx.sql(), newest.id, later(-40)).await.unwrap();
    assert_eq!(secrets::purge(tx.sql(), now()).await.unwrap(), 1);
    let left = secrets::of_token(tx.sql(), record.id).await.unwrap();
    let ids: Vec<_> = left.iter().map(|secret| secret.id).collect();
    assert_eq!(ids, [ending.id, newest.id]);
    assert!(left[0].expires_at.unwrap() < later(120), "an end is never moved later");
    ending::delete(tx.sql(), record.id, now()).await.unwrap();
    assert!(secrets::of_token(tx.sql(), record.id).await.unwrap().is_empty());
}

async fn hosts_of_a_secret_are_bounded(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (_, record) = with_token(&mut tx, &one).await;
    let key = secret(tx.sql(), record.id, now()).await;
    for n in 0..100_i64 {
        let host = format!("made-up-{n}");
        let uses = secrets::Uses {
            token: record.id,
            secret: key.id,
            host: &host,
            from: None,
            at: later(n),
            count: 1,
        };
        secrets::note_uses(tx.sql(), &uses).await.unwrap();
    }
    let hosts = secrets::hosts(tx.sql(), key.id).await.unwrap();
    assert_eq!(i64::try_from(hosts.len()).unwrap(), secrets::HOSTS_PER_SECRET);
    assert_eq!(hosts[0].host, "made-up-99", "the latest stay");
    let used = tokens::by_id(tx.sql(), record.id).await.unwrap().unwrap().used;
    assert_eq!(used.count, 100);
}

async fn filters_find_what_they_name(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (volume, plain) = with_token(&mut tx, &one).await;
    let make = |change: fn(TokenRecord) -> TokenRecord| {
        let record =
            TokenRecord { expires_at: None, idle_seconds: 0, ..token(&one, of_volume(&volume)) };
        change(record)
    };
    let expiring = make(|r| TokenRecord { expires_at: Some(later(60)), ..r });
    let idle = make(|r| TokenRecord {
        idle_seconds: 60,
        created_at: later(-61),
        rotated_at: later(-61),
        ..r
    });
    let old = make(|r| TokenRecord { created_at: later(-900), rotated_at: later(-900), ..r });
    for record in [&expiring, &idle, &old] {
        tokens::insert(tx.sql(), record).await.unwrap();
    }
    let visible = Visible::all(one.id);
    let page = Page::parse(0, "").unwrap();
    let all = || tokens::Filter::all(TokenKind::Volume, &visible, now());
    let mut ids = async |filter: tokens::Filter<'_>| {
        let found = tokens::list(tx.sql(), &filter, &page).await.unwrap();
        let mut ids: Vec<_> = found.into_iter().map(|listed| listed.token.id).collect();
        ids.sort();
        ids
    };
    let sorted = |mut ids: Vec<TokenId>| {
        ids.sort();
        ids
    };
    let everything = sorted(vec![plain.id, expiring.id, idle.id, old.id]);
    assert_eq!(ids(all()).await, everything);
    assert_eq!(ids(tokens::Filter { volume: Some(volume.id), ..all() }).await, everything);
    let soon = tokens::Filter { expiring_before: Some(later(90)), ..all() };
    assert_eq!(ids(soon).await, sorted(vec![expiring.id, idle.id]));
    assert_eq!(ids(tokens::Filter { state: "expired", ..all() }).await, [idle.id]);
    let before = tokens::Filter { created_before: Some(later(-300)), ..all() };
    assert_eq!(ids(before).await, [old.id]);
    let unused = tokens::Filter { unused_since: Some(later(-10)), ..all() };
    assert_eq!(ids(unused).await, sorted(vec![idle.id, old.id]));
    let maker = tokens::Filter { created_by: plain.created_by, ..all() };
    assert_eq!(ids(maker).await, [plain.id]);
    assert_eq!(ids(tokens::Filter { overdue: true, ..all() }).await, []);
    let policy = crate::model::Account { max_token_age: 600, ..one.clone() };
    crate::store::accounts::update(tx.sql(), &policy).await.unwrap();
    let mut ids = async |filter: tokens::Filter<'_>| {
        let found = tokens::list(tx.sql(), &filter, &page).await.unwrap();
        found.into_iter().map(|listed| listed.token.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(tokens::Filter { overdue: true, ..all() }).await, [old.id]);
    let counts = tokens::counts(tx.sql(), Some(one.id), now(), later(90)).await.unwrap();
    let counts: Vec<_> =
        counts.iter().map(|c| (c.state.as_str(), c.tokens, c.overdue, c.expiring)).collect();
    assert_eq!(counts, [("active", 3, 1, 1), ("expired", 1, 0, 0)]);
}
