//! The contract of a store: one suite, run on SQLite and on Postgres.

use std::sync::Arc;

use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_auth::verifier::Verifier;
use flexfs_common::Code;
use flexfs_common::ids::{ServerId, TokenId, VolumeId};
use flexfs_proto::v1::FeedKind;
use jiff::Timestamp;

use super::changes::Change;
use super::secrets::Uses;
use super::testing::TestDatabase;
use super::volumes::Visible;
use super::{
    Kind, Sql, Store, Value, accounts, audit, blocks, ending, feed, metas, secrets, tokens, volumes,
};
use crate::model::{
    AccountState, Grant, MetaServer, SecretRecord, TokenRecord, Volume, VolumeState,
};
use crate::page::Page;

macro_rules! contract {
    ($($name:ident)*) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::TestDatabase::new(super::Kind::Sqlite)).await; }
        )* }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::TestDatabase::new(super::Kind::Postgres)).await; }
        )* }
    };
}

contract! {
    opens_again
    revisions_are_dense_and_never_skipped
    what_is_not_committed_never_was
    the_audit_chain_is_unbroken_and_append_only
    tokens_come_back_as_they_were
    an_id_is_used_once
    lists_go_page_by_page
    prefixes_and_names_stay_in_the_account
    names_of_retired_volumes_are_free
    a_meta_store_hears_only_its_own
    old_history_is_pruned
    servers_and_cuts_add_up
    revocations_tell_what_they_ended
}

mod fixture;
mod life;
mod peppers;

use fixture::*;

async fn opens_again(db: TestDatabase) {
    let first = db.open().await;
    let head = feed::head(first.reader().as_mut()).await.unwrap();
    let again = db.open().await;
    assert_eq!(feed::head(again.reader().as_mut()).await.unwrap(), head);
    assert_eq!(head.revision, 0);
}

async fn revisions_are_dense_and_never_skipped(db: TestDatabase) {
    const WRITERS: u64 = 6;
    const COMMITS: u64 = 12;
    // Two processes' worth of pools.
    let stores = [db.open().await, db.open().await];
    let follower = {
        let store = stores[0].clone();
        tokio::spawn(async move {
            let mut reader = store.reader();
            let mut seen = 0;
            let total = WRITERS * (1..=COMMITS).map(|n| 1 + n % 3).sum::<u64>();
            while seen < total {
                let head = feed::head(reader.as_mut()).await.unwrap();
                let rows = feed::rows_after(reader.as_mut(), seen, head.revision).await.unwrap();
                for row in rows {
                    // Never a row after one that was not there yet.
                    assert_eq!(row.revision, seen + 1);
                    seen = row.revision;
                }
                assert_eq!(seen, head.revision, "all up to the head is there");
            }
            total
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = stores[usize::try_from(writer).unwrap() % 2].clone();
            tokio::spawn(async move {
                for n in 1..=COMMITS {
                    let tx = store.begin().await.unwrap();
                    let count = usize::try_from(1 + n % 3).unwrap();
                    let change = Change {
                        token: Some(TokenId::random()),
                        ..Change::of(FeedKind::TokenChanged)
                    };
                    commit(tx, &vec![change; count]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let total = follower.await.unwrap();
    let head = feed::head(stores[1].reader().as_mut()).await.unwrap();
    assert_eq!(head.revision, total);
    // What one process committed, the other learns by looking.
    for store in &stores {
        store.catch_up().await.unwrap();
        assert_eq!(store.applied().latest(), total);
    }
    let records = audit::after(stores[0].reader().as_mut(), 0).await.unwrap();
    assert_eq!(records.len() as u64, WRITERS * COMMITS);
    assert_eq!(audit::first_break(&records), None);
}

async fn what_is_not_committed_never_was(db: TestDatabase) {
    let store = db.open().await;
    let lost = account("lost");
    let mut tx = store.begin().await.unwrap();
    accounts::insert(tx.sql(), &lost).await.unwrap();
    drop(tx);
    // A failure in the middle, too: the second insert breaks a rule.
    let mut tx = store.begin().await.unwrap();
    accounts::insert(tx.sql(), &lost).await.unwrap();
    let error = accounts::insert(tx.sql(), &lost).await.unwrap_err();
    assert_eq!(error.code(), Code::DatabaseFailed);
    drop(tx);
    let mut reader = store.reader();
    assert_eq!(accounts::by_id(reader.as_mut(), lost.id).await.unwrap(), None);
    assert_eq!(feed::head(reader.as_mut()).await.unwrap().revision, 0);
    assert!(audit::after(reader.as_mut(), 0).await.unwrap().is_empty());
    // Readers cannot write.
    assert!(reader.execute("DELETE FROM accounts", vec![]).await.is_err());
}

async fn the_audit_chain_is_unbroken_and_append_only(db: TestDatabase) {
    let store = db.open().await;
    for _ in 0..5 {
        let tx = store.begin().await.unwrap();
        commit(tx, &[Change::of(FeedKind::AccountChanged)]).await;
    }
    let mut records = audit::after(store.reader().as_mut(), 0).await.unwrap();
    assert_eq!(records.len(), 5);
    assert_eq!(audit::first_break(&records), None);
    assert_eq!(records[4].record.revision, 5);
    assert_eq!(records[0].record.source, "192.0.2.1");
    for sql in ["UPDATE audit SET who = 'x'", "DELETE FROM audit"] {
        let mut tx = store.begin().await.unwrap();
        assert!(tx.sql().execute(sql, vec![]).await.is_err(), "{sql}");
    }
    // Any alteration is found where it is.
    records[2].record.who.push('x');
    assert_eq!(audit::first_break(&records), Some(3));
    records.remove(2);
    assert_eq!(audit::first_break(&records), Some(3));
    records.swap(0, 1);
    assert_eq!(audit::first_break(&records), Some(1));
}

async fn tokens_come_back_as_they_were(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let volume = volume(&one, "v1");
    volumes::insert(tx.sql(), &volume).await.unwrap();
    assert_eq!(volumes::by_id(tx.sql(), volume.id).await.unwrap().as_ref(), Some(&volume));
    let grants = [
        Grant::Account { role: Role::Operator, volumes: vec![volume.id] },
        of_volume(&volume),
        Grant::Meta { meta_store: store_id("m2") },
    ];
    for grant in grants {
        let mut record = token(&one, grant.clone());
        record.created_by = None;
        tokens::insert(tx.sql(), &record).await.unwrap();
        assert_eq!(tokens::by_id(tx.sql(), record.id).await.unwrap().as_ref(), Some(&record));
        let verifier = Verifier { tag: [7; 32], pepper_id: "p".into(), phc: "$argon2id$x".into() };
        let secret = SecretRecord::new(&record.last4, verifier.clone(), record.rotated_at);
        secrets::insert(tx.sql(), record.id, &secret).await.unwrap();
        let standing = tokens::standing(tx.sql(), record.id).await.unwrap().unwrap();
        assert_eq!(standing.token, record);
        assert_eq!(standing.account_state, AccountState::Active);
        assert_eq!(standing.secrets.len(), 1);
        assert_eq!(standing.secrets[0].verifier, verifier);
        let (state, place) = match grant {
            Grant::Volume { .. } => (Some(VolumeState::Active), Some(store_id("m1"))),
            Grant::Meta { .. } => (None, Some(store_id("m2"))),
            Grant::Account { .. } => (None, None),
        };
        assert_eq!((standing.volume_state, standing.meta_store), (state, place));
        let later = now();
        let mut uses = Uses {
            token: record.id,
            secret: secret.id,
            host: "h1",
            from: Some("192.0.2.1".parse().unwrap()),
            at: later,
            count: 3,
        };
        secrets::note_uses(tx.sql(), &uses).await.unwrap();
        uses = Uses { at: Timestamp::UNIX_EPOCH, host: "h0", count: 1, ..uses };
        secrets::note_uses(tx.sql(), &uses).await.unwrap();
        let used = tokens::by_id(tx.sql(), record.id).await.unwrap().unwrap().used;
        assert_eq!((used.last_at, used.count), (Some(later), 4), "never backwards");
        assert_eq!((used.last_host.as_str(), used.last_from.as_str()), ("h1", "192.0.2.1"));
        let hosts = secrets::hosts(tx.sql(), secret.id).await.unwrap();
        let hosts: Vec<_> = hosts.iter().map(|h| (h.host.as_str(), h.uses)).collect();
        assert_eq!(hosts, [("h1", 3), ("h0", 1)]);
        let listed = tokens::listed(tx.sql(), record.id, later).await.unwrap().unwrap();
        assert_eq!((listed.live_secrets, listed.claim_expires_at), (1, None));
    }
    assert!(tokens::standing(tx.sql(), TokenId::random()).await.unwrap().is_none());
}

async fn an_id_is_used_once(db: TestDatabase) {
    let (store, one, two) = populated(&db).await;
    let record = token(&one, Grant::Account { role: Role::Owner, volumes: vec![] });
    let mut tx = store.begin().await.unwrap();
    tokens::insert(tx.sql(), &record).await.unwrap();
    let verifier = Verifier { tag: [7; 32], pepper_id: "p".into(), phc: "x".into() };
    let secret = SecretRecord::new("abcd", verifier, now());
    secrets::insert(tx.sql(), record.id, &secret).await.unwrap();
    ending::revoke(tx.sql(), record.id, now(), "r").await.unwrap();
    ending::delete(tx.sql(), record.id, now()).await.unwrap();
    commit(tx, &[]).await;
    // Gone from the listings, its verifiers removed, its id still known.
    let mut tx = store.begin().await.unwrap();
    assert!(secrets::of_token(tx.sql(), record.id).await.unwrap().is_empty());
    let visible = Visible::all(one.id);
    let filter = tokens::Filter::all(TokenKind::Account, &visible, now());
    let page = Page::parse(0, "").unwrap();
    assert!(tokens::list(tx.sql(), &filter, &page).await.unwrap().is_empty());
    assert!(tokens::by_id(tx.sql(), record.id).await.unwrap().unwrap().deleted_at.is_some());
    let again = TokenRecord { account_id: two.id, ..record };
    assert!(tokens::insert(tx.sql(), &again).await.is_err());
}

async fn lists_go_page_by_page(db: TestDatabase) {
    let (store, one, two) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let mine = volume(&one, "v1");
    let theirs = volume(&two, "v1");
    for v in [&mine, &theirs] {
        volumes::insert(tx.sql(), v).await.unwrap();
    }
    let at = now();
    for n in 0..7 {
        let mut record = token(&one, of_volume(&mine));
        // Equal times: the id decides.
        record.created_at = at;
        record.expires_at = (n % 2 == 0).then_some(Timestamp::UNIX_EPOCH);
        tokens::insert(tx.sql(), &record).await.unwrap();
        tokens::insert(tx.sql(), &token(&two, of_volume(&theirs))).await.unwrap();
    }
    commit(tx, &[]).await;
    let mut reader = store.reader();
    let visible = Visible::all(one.id);
    let all =
        |state| tokens::Filter { state, ..tokens::Filter::all(TokenKind::Volume, &visible, now()) };
    for (state, expected) in
        [("", 7), ("expired", 4), ("active", 3), ("revoked", 0), ("notYetValid", 0)]
    {
        let (mut seen, mut token_of_page) = (Vec::new(), String::new());
        loop {
            let page = Page::parse(3, &token_of_page).unwrap();
            let mut items = tokens::list(reader.as_mut(), &all(state), &page).await.unwrap();
            token_of_page = page.finish(&mut items, |listed| {
                (listed.token.created_at.as_microsecond(), listed.token.id.to_string())
            });
            for tokens::Listed { token: record, volume_name: name, .. } in items {
                assert_eq!((record.account_id, name.as_str()), (one.id, "v1"));
                seen.push(record.id);
            }
            if token_of_page.is_empty() {
                break;
            }
        }
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!((seen.len(), unique.len()), (expected, expected), "{state}");
    }
    let limited = Visible { volumes: vec![VolumeId::random()], ..visible.clone() };
    let filter = tokens::Filter { visible: &limited, ..all("") };
    let page = Page::parse(0, "").unwrap();
    assert!(tokens::list(reader.as_mut(), &filter, &page).await.unwrap().is_empty());
    let maker = Visible { created_by: Some(mine.created_by), ..visible.clone() };
    let filter = tokens::Filter { visible: &maker, ..all("") };
    assert_eq!(tokens::list(reader.as_mut(), &filter, &page).await.unwrap().len(), 7);
    let accounts = accounts::list(reader.as_mut(), None, "", &page).await.unwrap();
    assert_eq!(accounts, [one.clone(), two]);
    let only = accounts::list(reader.as_mut(), Some(one.id), "active", &page).await.unwrap();
    assert_eq!(only, [one]);
    assert_eq!(metas::list(reader.as_mut(), "", &page).await.unwrap().len(), 2);
    assert_eq!(blocks::list(reader.as_mut(), "deleted", &page).await.unwrap().len(), 0);
}

async fn prefixes_and_names_stay_in_the_account(db: TestDatabase) {
    let (store, one, two) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let (mine, theirs) = (volume(&one, "same"), volume(&two, "same"));
    for v in [&mine, &theirs] {
        volumes::insert(tx.sql(), v).await.unwrap();
    }
    let (visible, sql) = (Visible::all(one.id), tx.sql());
    let named = volumes::by_name(sql, one.id, "same").await.unwrap();
    assert_eq!(named.as_ref(), Some(&mine));
    // Everything, but of one account.
    assert_eq!(
        volumes::by_prefix(sql, &visible, "0", "~").await.unwrap(),
        std::slice::from_ref(&mine)
    );
    let limited = Visible { volumes: vec![theirs.id], ..visible.clone() };
    assert!(volumes::by_prefix(sql, &limited, "0", "~").await.unwrap().is_empty());
    let maker = Visible { created_by: Some(theirs.created_by), ..visible.clone() };
    assert!(volumes::by_prefix(sql, &maker, "0", "~").await.unwrap().is_empty());
    let id = mine.id.to_string();
    let (from, to) = (id[..8].to_owned(), format!("{}~", &id[..8]));
    assert_eq!(volumes::by_prefix(sql, &visible, &from, &to).await.unwrap().len(), 1);
    let record = token(&one, of_volume(&mine));
    tokens::insert(sql, &record).await.unwrap();
    let found = tokens::by_prefix(sql, TokenKind::Volume, &visible, "0", "~").await.unwrap();
    assert_eq!(found, [record]);
    for (kind, visible) in
        [(TokenKind::Account, &visible), (TokenKind::Volume, &Visible::all(two.id))]
    {
        assert!(tokens::by_prefix(sql, kind, visible, "0", "~").await.unwrap().is_empty());
    }
}

async fn names_of_retired_volumes_are_free(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let first = volume(&one, "v");
    volumes::insert(tx.sql(), &first).await.unwrap();
    assert!(metas::in_use(tx.sql(), &first.meta_store).await.unwrap());
    assert!(blocks::in_use(tx.sql(), &first.block_store).await.unwrap());
    assert!(accounts::in_use(tx.sql(), one.id, now()).await.unwrap());
    volumes::set_state(tx.sql(), first.id, VolumeState::Retired).await.unwrap();
    assert!(!metas::in_use(tx.sql(), &first.meta_store).await.unwrap());
    assert!(!blocks::in_use(tx.sql(), &first.block_store).await.unwrap());
    assert!(!accounts::in_use(tx.sql(), one.id, now()).await.unwrap());
    let second = volume(&one, "v");
    volumes::insert(tx.sql(), &second).await.unwrap();
    let named = volumes::by_name(tx.sql(), one.id, "v").await.unwrap().unwrap();
    assert_eq!(named.id, second.id, "the active one");
    let third = volume(&one, "v");
    assert!(volumes::insert(tx.sql(), &third).await.is_err(), "two active ones");
}

async fn a_meta_store_hears_only_its_own(db: TestDatabase) {
    let (store, one, two) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let here = volume(&one, "here");
    let there =
        Volume { meta_store: store_id("m2"), block_store: store_id("b2"), ..volume(&two, "there") };
    for v in [&here, &there] {
        volumes::insert(tx.sql(), v).await.unwrap();
    }
    let of = |v: &Volume, kind| Change {
        account: Some(v.account_id),
        volume: Some(v.id),
        meta_store: Some(v.meta_store.clone()),
        ..Change::of(kind)
    };
    let token =
        |v: &Volume| Change { token: Some(TokenId::random()), ..of(v, FeedKind::TokenRevoked) };
    let block = |v: &Volume| Change {
        block_store: Some(v.block_store.clone()),
        ..Change::of(FeedKind::BlockStoreChanged)
    };
    let owner = |v: &Volume| Change {
        account: Some(v.account_id),
        ..Change::of(FeedKind::AccountSuspended)
    };
    let meta = |v: &Volume| Change {
        meta_store: Some(v.meta_store.clone()),
        ..Change::of(FeedKind::MetaStoreChanged)
    };
    let operators = |v: &Volume| Change {
        account: Some(v.account_id),
        token: Some(TokenId::random()),
        ..Change::of(FeedKind::TokenChanged)
    };
    let mut changes = Vec::new();
    for v in [&here, &there] {
        changes.push(of(v, FeedKind::VolumeChanged));
        changes.extend([token(v), block(v), owner(v), meta(v), operators(v)]);
    }
    let head = commit(tx, &changes).await;
    assert_eq!(head, 12);
    let mut reader = store.reader();
    for (meta_store, revisions) in [("m1", [1, 2, 3, 4, 5]), ("m2", [7, 8, 9, 10, 11])] {
        let rows =
            feed::rows_for_store(reader.as_mut(), &store_id(meta_store), 0, head).await.unwrap();
        let seen: Vec<_> = rows.iter().map(|row| row.revision).collect();
        assert_eq!(seen, revisions, "{meta_store}");
    }
    let rest = feed::rows_for_store(reader.as_mut(), &store_id("m1"), 3, 4).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].change, owner(&here));
}

async fn old_history_is_pruned(db: TestDatabase) {
    let store = db.open().await;
    let tx = store.begin().await.unwrap();
    commit(tx, &vec![Change::of(FeedKind::AccountChanged); 10]).await;
    let mut tx = store.begin().await.unwrap();
    feed::prune(tx.sql(), 4).await.unwrap();
    feed::prune(tx.sql(), 3).await.unwrap();
    commit(tx, &[]).await;
    let mut reader = store.reader();
    let head = feed::head(reader.as_mut()).await.unwrap();
    assert_eq!((head.floor, head.revision), (4, 10));
    let rows = feed::rows_after(reader.as_mut(), 0, 100).await.unwrap();
    assert_eq!(rows.first().map(|row| row.revision), Some(5));
}

async fn servers_and_cuts_add_up(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let mut server = MetaServer {
        id: ServerId::random(),
        meta_store: store_id("m1"),
        address: "a:1".into(),
        version: "1".into(),
        acknowledged: 0,
        last_seen_at: now(),
    };
    metas::put_server(tx.sql(), &server).await.unwrap();
    metas::acknowledge(tx.sql(), server.id, 9, server.last_seen_at).await.unwrap();
    // Registering again keeps what it has acknowledged.
    server.address = "b:2".into();
    metas::put_server(tx.sql(), &server).await.unwrap();
    server.acknowledged = 9;
    assert_eq!(metas::server(tx.sql(), server.id).await.unwrap().as_ref(), Some(&server));
    assert_eq!(metas::servers_of(tx.sql(), &server.meta_store).await.unwrap(), [server.clone()]);
    assert!(metas::servers_of(tx.sql(), &store_id("m2")).await.unwrap().is_empty());
    let cut = TokenId::random();
    for count in [2, 3] {
        metas::add_cuts(tx.sql(), server.id, cut, count).await.unwrap();
    }
    assert_eq!(metas::cuts(tx.sql(), cut).await.unwrap(), [(server.id, 5)]);
    // A tenant sees the servers of stores where it has volumes.
    assert_eq!(metas::servers_for(tx.sql(), None).await.unwrap().len(), 1);
    assert!(metas::servers_for(tx.sql(), Some(one.id)).await.unwrap().is_empty());
    volumes::insert(tx.sql(), &volume(&one, "v")).await.unwrap();
    assert_eq!(metas::servers_for(tx.sql(), Some(one.id)).await.unwrap().len(), 1);
    assert_eq!(metas::live_token(tx.sql(), &server.meta_store).await.unwrap(), None);
}

async fn revocations_tell_what_they_ended(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let v = volume(&one, "v");
    volumes::insert(tx.sql(), &v).await.unwrap();
    let (a, b) = (token(&one, of_volume(&v)), token(&one, of_volume(&v)));
    let meta = token(&one, Grant::Meta { meta_store: store_id("m1") });
    let role = |role| Grant::Account { role, volumes: vec![] };
    let plain = |record: TokenRecord| TokenRecord {
        cidrs: vec![],
        expires_at: None,
        idle_seconds: 0,
        ..record
    };
    let first = plain(token(&one, role(Role::Owner)));
    let second = plain(token(&one, role(Role::Owner)));
    for record in [&a, &b, &meta, &first, &second] {
        tokens::insert(tx.sql(), record).await.unwrap();
        let verifier = Verifier { tag: [7; 32], pepper_id: "p".into(), phc: "x".into() };
        let secret = SecretRecord::new("abcd", verifier, now());
        secrets::insert(tx.sql(), record.id, &secret).await.unwrap();
    }
    let sql: &mut dyn Sql = tx.sql();
    assert_eq!(metas::live_token(sql, &store_id("m1")).await.unwrap(), Some(meta.id));
    assert!(ending::revoke(sql, a.id, now(), "").await.unwrap());
    assert!(!ending::revoke(sql, a.id, now(), "").await.unwrap(), "once");
    assert_eq!(ending::revoke_of_volume(sql, v.id, now(), "").await.unwrap(), [b.id]);
    let of_store = ending::revoke_of_store(sql, &store_id("m1"), now(), "").await.unwrap();
    assert_eq!(of_store, [meta.id]);
    assert!(tokens::has_other_of_role(sql, &first, Role::Owner, now()).await.unwrap());
    let owners = (one.id, Role::Owner);
    let ended = ending::revoke_of_role(sql, owners, first.id, now(), "").await.unwrap();
    assert_eq!(ended, [second.id]);
    assert!(!tokens::has_other_of_role(sql, &first, Role::Owner, now()).await.unwrap());
}

/// The file of SQLite is for its owner alone, and what is removed is gone.
#[tokio::test]
async fn the_sqlite_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let db = TestDatabase::new(Kind::Sqlite);
    let store = Arc::new(db.open().await);
    let super::DbUrl::Sqlite(path) = &db.url else { panic!("a file") };
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mut tx = store.begin().await.unwrap();
    let row = super::first(tx.sql(), "PRAGMA secure_delete", vec![]).await.unwrap().unwrap();
    assert_eq!(row.cells().int().unwrap(), 1);
    let row = super::first(tx.sql(), "PRAGMA synchronous", vec![]).await.unwrap().unwrap();
    assert_eq!(row.cells().int().unwrap(), 2, "FULL");
    let broken = "INSERT INTO token_secrets VALUES ($1, $1, $2, '', '', 0, NULL, NULL)";
    let arguments = vec![Value::text("x"), Value::bytes(&[0; 32])];
    assert!(tx.sql().execute(broken, arguments).await.is_err(), "foreign keys");
    drop(tx);
    store.close().await;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(Store::open(&db.url).await.unwrap_err().code(), Code::ConfigInvalid);
}
