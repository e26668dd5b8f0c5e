//! The pepper of a database, what lies under which, and renewed verifiers.

use flexfs_auth::verifier::{Pepper, Verifier};
use flexfs_common::ids::{SecretId, TokenId};
use jiff::{SignedDuration, Timestamp};

use super::super::peppers::{self, Known, Whose};
use super::super::testing::TestDatabase;
use super::super::{Kind, Sql, Tx, Value, claims, secrets, tokens, volumes};
use super::fixture::*;
use crate::model::{Claim, SecretRecord, TokenRecord, Volume};

contract! {
    the_pepper_is_known_by_more_than_its_id
    what_is_live_is_counted_under_its_pepper
    a_verifier_is_renewed_in_place_of_its_own_alone
}

fn later(seconds: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn under(pepper_id: &str) -> Verifier {
    Verifier { tag: [7; 32], pepper_id: pepper_id.into(), phc: "x".into() }
}

async fn token_of(tx: &mut Tx, account: &crate::model::Account, volume: &Volume) -> TokenRecord {
    let record =
        TokenRecord { idle_seconds: 0, expires_at: None, ..token(account, of_volume(volume)) };
    tokens::insert(tx.sql(), &record).await.unwrap();
    record
}

async fn secret(sql: &mut dyn Sql, token: TokenId, pepper_id: &str) -> SecretRecord {
    let secret = SecretRecord::new("abcd", under(pepper_id), now());
    secrets::insert(sql, token, &secret).await.unwrap();
    secret
}

async fn the_pepper_is_known_by_more_than_its_id(db: TestDatabase) {
    let store = db.open().await;
    assert_eq!(peppers::current(store.reader().as_mut()).await.unwrap(), None);
    let (one, two) = (Pepper::generate().unwrap(), Pepper::generate().unwrap());
    for pepper in [&one, &two] {
        let known = Known::of(pepper, now());
        let mut tx = store.begin().await.unwrap();
        peppers::set(tx.sql(), &known).await.unwrap();
        tx.commit_quietly().await.unwrap();
        assert_eq!(peppers::current(store.reader().as_mut()).await.unwrap(), Some(known));
    }
    let known = peppers::current(store.reader().as_mut()).await.unwrap().unwrap();
    assert!(known.is(&two) && !known.is(&one));
    assert!(!Known { id: one.id().to_owned(), ..known.clone() }.is(&one));
    assert!(!Known { check_value: one.check_value(), ..known }.is(&one));
}

async fn what_is_live_is_counted_under_its_pepper(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let volume = volume(&one, "v");
    volumes::insert(tx.sql(), &volume).await.unwrap();
    assert_eq!(peppers::in_use(tx.sql(), "a").await.unwrap(), (false, false));
    // Live ones under a (2), b (1) and c (1, a claim code) …
    let good = token_of(&mut tx, &one, &volume).await;
    for pepper in ["a", "a", "b"] {
        secret(tx.sql(), good.id, pepper).await;
    }
    assert_eq!(peppers::in_use(tx.sql(), "a").await.unwrap(), (true, true));
    assert_eq!(peppers::in_use(tx.sql(), "z").await.unwrap(), (true, false));
    let claim = |pepper: &str, seconds| Claim {
        verifier: under(pepper),
        expires_at: later(seconds),
        redeemed_at: None,
        redeemed_from: String::new(),
    };
    claims::insert(tx.sql(), good.id, &claim("c", 60)).await.unwrap();
    // … and what is over: retired, expired, of a revoked or deleted token,
    // claim codes that are redeemed or late.
    let retired = secret(tx.sql(), good.id, "d").await;
    secrets::retire(tx.sql(), retired.id, now()).await.unwrap();
    let expired = secret(tx.sql(), good.id, "d").await;
    secrets::end_by(tx.sql(), expired.id, now()).await.unwrap();
    for sql in [
        "UPDATE tokens SET revoked_at = 1 WHERE id = $1",
        "UPDATE tokens SET deleted_at = 1 WHERE id = $1",
    ] {
        let over = token_of(&mut tx, &one, &volume).await;
        secret(tx.sql(), over.id, "d").await;
        claims::insert(tx.sql(), over.id, &claim("d", 60)).await.unwrap();
        assert_eq!(tx.sql().execute(sql, vec![Value::text(over.id)]).await.unwrap(), 1);
    }
    let redeemed = token_of(&mut tx, &one, &volume).await;
    claims::insert(tx.sql(), redeemed.id, &claim("d", 60)).await.unwrap();
    claims::redeem(tx.sql(), redeemed.id, now(), "").await.unwrap();
    let late = token_of(&mut tx, &one, &volume).await;
    claims::insert(tx.sql(), late.id, &claim("d", -1)).await.unwrap();
    // One that is disabled or has expired comes back with an update.
    for sql in [
        "UPDATE tokens SET disabled_at = 1 WHERE id = $1",
        "UPDATE tokens SET expires_at = 1 WHERE id = $1",
    ] {
        let away = token_of(&mut tx, &one, &volume).await;
        secret(tx.sql(), away.id, "b").await;
        claims::insert(tx.sql(), away.id, &claim("c", 60)).await.unwrap();
        assert_eq!(tx.sql().execute(sql, vec![Value::text(away.id)]).await.unwrap(), 1);
    }
    let count = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
        pairs.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect()
    };
    let mut live = async |but: &'static str| {
        peppers::live_under_others(tx.sql(), but, later(1)).await.unwrap()
    };
    assert_eq!(live("z").await, count(&[("a", 2), ("b", 3), ("c", 3)]));
    assert_eq!(live("").await, count(&[("a", 2), ("b", 3), ("c", 3)]));
    assert_eq!(live("b").await, count(&[("a", 2), ("c", 3)]));
    assert_eq!(live("a").await, count(&[("b", 3), ("c", 3)]));
}

async fn a_verifier_is_renewed_in_place_of_its_own_alone(db: TestDatabase) {
    let (store, one, _) = populated(&db).await;
    let mut tx = store.begin().await.unwrap();
    let volume = volume(&one, "v");
    volumes::insert(tx.sql(), &volume).await.unwrap();
    let record = token_of(&mut tx, &one, &volume).await;
    let key = secret(tx.sql(), record.id, "a").await;
    let other = secret(tx.sql(), record.id, "a").await;
    let claim = Claim {
        verifier: under("a"),
        expires_at: later(60),
        redeemed_at: None,
        redeemed_from: String::new(),
    };
    claims::insert(tx.sql(), record.id, &claim).await.unwrap();
    let (old, new) = (under("a"), Verifier { tag: [8; 32], phc: "y".into(), ..under("b") });
    let (secret, code) = (Whose::Secret(key.id), Whose::Claim(record.id));
    // Each part of the old one counts.
    for stale in [
        Verifier { tag: [9; 32], ..old.clone() },
        under("c"),
        Verifier { phc: "z".into(), ..old.clone() },
    ] {
        assert!(!peppers::renew(tx.sql(), secret, &stale, &new).await.unwrap());
        assert!(!peppers::renew(tx.sql(), code, &stale, &new).await.unwrap());
    }
    secrets::retire(tx.sql(), key.id, now()).await.unwrap();
    let before = secrets::of_token(tx.sql(), record.id).await.unwrap();
    for whose in [secret, code] {
        assert!(peppers::renew(tx.sql(), whose, &old, &new).await.unwrap());
        assert!(!peppers::renew(tx.sql(), whose, &old, &new).await.unwrap(), "only once");
    }
    let after = secrets::of_token(tx.sql(), record.id).await.unwrap();
    for (was, is) in before.iter().zip(&after) {
        let verifier = if is.id == key.id { &new } else { &was.verifier };
        assert_eq!(*is, SecretRecord { verifier: verifier.clone(), ..was.clone() });
    }
    assert!(after.iter().any(|secret| secret.id == other.id));
    let kept = claims::of_token(tx.sql(), record.id).await.unwrap().unwrap();
    assert_eq!(kept, Claim { verifier: new.clone(), ..claim });
    // What is gone stays gone.
    let gone = Whose::Secret(SecretId::random());
    assert!(!peppers::renew(tx.sql(), gone, &old, &new).await.unwrap());
    assert!(!peppers::renew(tx.sql(), Whose::Claim(TokenId::random()), &old, &new).await.unwrap());
}
