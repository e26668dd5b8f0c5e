//! A pepper is changed, lost, dropped; verifiers follow at their next use.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::{Argon2Settings, Pepper, Verifier};
use flexfs_common::home::Home;
use flexfs_common::{Code, limits};
use flexfs_proto::v1;

use super::harness::{CHEAP, Running, Site, again, code, generate, make_volume, revoke, used};
use crate::peppers::{Have, Peppers, Switch, Switched, drop_pepper};
use crate::store::{Kind, Store, Value};
use crate::verify::{Showing, Verify};

async fn prepare(site: &Site) -> (Store, Switch) {
    let store = site.db.open().await;
    let switch = Switch::prepare(&site.home, &store).await.unwrap();
    (store, switch)
}

/// `recover --newPepper`.
pub(super) async fn switch(site: &Site) -> Switched {
    let (store, switch) = prepare(site).await;
    let switched = switch.run(&store).await.unwrap();
    store.close().await;
    switched
}

pub(super) async fn open(site: &Site) -> Result<Peppers, Code> {
    let store = site.db.open().await;
    let peppers = Peppers::open(&site.home, &store).await.map_err(|error| error.code());
    store.close().await;
    peppers
}

/// `recover --dropPepper`.
pub(super) async fn drop_one(site: &Site, id: &str) -> Result<(), Code> {
    let store = site.db.open().await;
    let dropped = drop_pepper(&site.home, &store, id).await.map_err(|error| error.code());
    store.close().await;
    dropped
}

/// Under which pepper the newest secret of a token lies, and its string.
pub(super) async fn stored(admin: &Running, token: &Token) -> (String, String) {
    let sql = if token.kind() == TokenKind::Claim {
        "SELECT pepper_id, phc FROM token_claims WHERE token_id = $1"
    } else {
        "SELECT pepper_id, phc FROM token_secrets WHERE token_id = $1 ORDER BY created_at DESC"
    };
    let id = vec![Value::text(token.id())];
    let row = admin.store.reader().query(sql, id).await.unwrap().into_iter().next().unwrap();
    let mut cells = row.cells();
    (cells.text().unwrap(), cells.text().unwrap())
}

pub(super) async fn set(admin: &Running, sql: &'static str, args: Vec<Value>) {
    let mut tx = admin.store.begin().await.unwrap();
    assert_eq!(tx.sql().execute(sql, args).await.unwrap(), 1);
    tx.commit_quietly().await.unwrap();
}

/// What `status` tells of the others: state and live secrets.
async fn others(admin: &Running) -> Vec<(String, u64)> {
    let status = admin.system().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    status.other_peppers.into_iter().map(|pepper| (pepper.state, pepper.live_secrets)).collect()
}

pub(super) async fn redeem(admin: &Running, claim: &Token) -> Result<Token, Code> {
    let token = Token::generate_for(TokenKind::Volume, claim.id()).unwrap();
    let request = v1::RedeemClaimRequest { kind: "volume".into(), token: Some(token.to_wire()) };
    match admin.client(claim).redeem_claim(request).await {
        Ok(_) => Ok(token),
        Err(status) => Err(code(Err::<(), _>(status))),
    }
}

pub(super) fn lose(home: &Home) {
    std::fs::remove_file(home.path("admin/pepper")).unwrap();
}

fn names(home: &Home) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(home.path("admin/pepper.d")) else { return Vec::new() };
    let mut names: Vec<_> =
        dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A tenant's tokens: one that will be used, one that will not, a revoked one,
/// and two claim codes.
struct Tokens {
    used: Token,
    idle: Token,
    revoked: Token,
    claims: [Token; 2],
}

async fn tokens(admin: &Running) -> Tokens {
    admin.stores().await;
    let mut system = admin.system();
    let (_, used) = make_volume(&mut system, "v").await;
    let (_, idle) = make_volume(&mut system, "w").await;
    let (_, revoked) = make_volume(&mut system, "x").await;
    system.revoke_token(revoke("volume", revoked.id())).await.unwrap();
    let claims = [admin.claim(&mut system, "v").await, admin.claim(&mut system, "v").await];
    Tokens { used, idle, revoked, claims }
}

async fn all_move(kind: Kind, is_lost: bool) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let tokens = tokens(&admin).await;
    let old = site.pepper().id().to_owned();
    admin.stop().await;
    if is_lost {
        lose(&site.home);
        assert_eq!(open(&site).await.err(), Some(Code::PepperMismatch));
        assert!(!site.home.path("admin/pepper").exists(), "none was made up");
    }
    let switched = switch(&site).await;
    let was = if is_lost { "lost" } else { "earlier" };
    assert_eq!((switched.kept.is_none(), switched.lost.contains(&old)), (is_lost, is_lost));
    let admin = site.start().await;
    // Nobody but the system token was used yet: meta, two volumes, two claims.
    admin.system().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    admin.service.verifier().flush_renewed().await.unwrap();
    assert_eq!(others(&admin).await, [(was.to_owned(), 5)]);
    assert_eq!(drop_one(&site, &old).await, Err(Code::PepperInUse));
    for wrong in [again(&tokens.used), again(&tokens.idle), generate(TokenKind::Volume)] {
        assert_eq!(used(&admin, &wrong).await, Err(Code::TokenUnknown));
    }
    let wrong = again(&tokens.claims[0]);
    assert_eq!(redeem(&admin, &wrong).await.err(), Some(Code::TokenUnknown));
    used(&admin, &tokens.used).await.unwrap();
    assert_eq!(used(&admin, &tokens.revoked).await, Err(Code::TokenRevoked));
    let redeemed = redeem(&admin, &tokens.claims[0]).await.unwrap();
    admin.service.verifier().flush_renewed().await.unwrap();
    for moved in [&tokens.used, &tokens.revoked, &redeemed, &tokens.claims[0]] {
        assert_eq!(stored(&admin, moved).await.0, switched.new);
    }
    assert_eq!(stored(&admin, &tokens.idle).await.0, old);
    assert_eq!(others(&admin).await, [(was.to_owned(), 3)]);
    admin.stop().await;
    // Later, after another start: those that were not used are as good.
    let admin = site.start().await;
    used(&admin, &tokens.idle).await.unwrap();
    redeem(&admin, &tokens.claims[1]).await.unwrap();
    assert_eq!(drop_one(&site, &old).await, Err(Code::PepperInUse), "the meta token");
    let end = "UPDATE token_secrets SET retired_at = 1 WHERE pepper_id = $1";
    admin.service.verifier().flush_renewed().await.unwrap();
    set(&admin, end, vec![Value::text(&old)]).await;
    assert_eq!(others(&admin).await, [(was.to_owned(), 0)]);
    // Beside the running server.
    drop_one(&site, &old).await.unwrap();
    assert_eq!(names(&site.home), Vec::<String>::new());
    admin.stop().await;
    let admin = site.start().await;
    assert!(others(&admin).await.is_empty());
    for good in [&tokens.used, &tokens.idle, &redeemed] {
        used(&admin, good).await.unwrap();
        assert_eq!(used(&admin, &again(good)).await, Err(Code::TokenUnknown));
    }
    assert_eq!(used(&admin, &tokens.revoked).await, Err(Code::TokenRevoked));
    assert_eq!(drop_one(&site, &switched.new).await, Err(Code::PepperInUse), "the current one");
    assert_eq!(drop_one(&site, &old).await, Err(Code::ArgumentInvalid), "it is gone");
    admin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_move_to_a_new_pepper_at_their_next_use_on_sqlite() {
    all_move(Kind::Sqlite, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_move_to_a_new_pepper_at_their_next_use_on_postgres() {
    all_move(Kind::Postgres, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pepper_is_replaced_and_no_token_with_it_on_sqlite() {
    all_move(Kind::Sqlite, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pepper_is_replaced_and_no_token_with_it_on_postgres() {
    all_move(Kind::Postgres, true).await;
}

/// The power goes after so many steps; another server starts, or the operator
/// tries again.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_stops_at_any_step_locks_nobody_out() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    admin.stop().await;
    for is_lost in [false, true] {
        for again_at_once in [false, true] {
            for steps in 0..=4 {
                let case = format!("{steps} steps, lost: {is_lost}, again: {again_at_once}");
                let before = site.pepper().id().to_owned();
                if is_lost {
                    lose(&site.home);
                }
                let (store, cut) = prepare(&site).await;
                if steps > 0 {
                    cut.keep_old().unwrap();
                }
                if steps > 1 {
                    cut.stage().unwrap();
                }
                if steps > 2 {
                    cut.commit(&store).await.unwrap();
                }
                if steps > 3 {
                    cut.finish().unwrap();
                }
                store.close().await;
                if again_at_once || (is_lost && steps <= 2) {
                    if is_lost && steps <= 2 {
                        assert_eq!(open(&site).await.err(), Some(Code::PepperMismatch), "{case}");
                    }
                    switch(&site).await;
                }
                let admin = site.start().await;
                used(&admin, &token).await.expect(&case);
                assert_eq!(used(&admin, &again(&token)).await, Err(Code::TokenUnknown), "{case}");
                admin.system().who_am_i(v1::WhoAmIRequest {}).await.expect(&case);
                let counts = steps > 2 || again_at_once || is_lost;
                assert_eq!(site.pepper().id() != before, counts, "{case}");
                // It was written: the next round finds it under the newest.
                admin.service.verifier().flush_renewed().await.unwrap();
                assert_eq!(stored(&admin, &token).await.0, site.pepper().id(), "{case}");
                admin.stop().await;
            }
        }
    }
    // What every round left can go, but for what the meta token lies under.
    let peppers = open(&site).await.unwrap();
    let mut kept = 0;
    for name in names(&site.home) {
        let id = name.trim_end_matches(".lost");
        assert_ne!(peppers.have(id), Have::Nothing, "{name}");
        match drop_one(&site, id).await {
            Ok(()) => {}
            Err(code) => {
                assert_eq!(code, Code::PepperInUse);
                kept += 1;
            }
        }
    }
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pepper_or_none_starts_nothing_and_says_what_to_do() {
    let site = Site::new(Kind::Sqlite);
    // Nothing to recover before the first start, and nothing is made.
    let store = site.db.open().await;
    let early = Switch::prepare(&site.home, &store).await.unwrap_err();
    assert_eq!(early.code(), Code::ConfigInvalid);
    store.close().await;
    assert!(!site.home.path("admin/pepper").exists());
    let admin = site.start().await;
    let token = admin.account("a").await.owner;
    admin.stop().await;
    let path = site.home.path("admin/pepper");
    let right = std::fs::read(&path).unwrap();
    lose(&site.home);
    let other = Pepper::generate().unwrap();
    other.store_new(&path).unwrap();
    let store = site.db.open().await;
    let error = Peppers::open(&site.home, &store).await.unwrap_err();
    assert_eq!(error.code(), Code::PepperMismatch);
    assert!(error.code().hint().contains("recover --newPepper"));
    assert!(error.message().contains(other.id()), "{}", error.message());
    // As on a database from before: no value tells, but the secrets do.
    let mut tx = store.begin().await.unwrap();
    tx.sql().execute("DELETE FROM pepper", vec![]).await.unwrap();
    tx.commit_quietly().await.unwrap();
    assert_eq!(open(&site).await.err(), Some(Code::PepperMismatch));
    lose(&site.home);
    assert_eq!(open(&site).await.err(), Some(Code::PepperMismatch), "none");
    flexfs_common::home::write_file(&path, &right).unwrap();
    open(&site).await.unwrap();
    // A damaged one is replaced by nobody.
    flexfs_common::home::write_file(&path, b"short\n").unwrap();
    assert_eq!(open(&site).await.err(), Some(Code::ConfigInvalid));
    let damaged = Switch::prepare(&site.home, &store).await.unwrap_err();
    assert_eq!(damaged.code(), Code::ConfigInvalid);
    flexfs_common::home::write_file(&path, &right).unwrap();
    // One that was kept and is not there any more: tokens still need it.
    let id = site.pepper().id().to_owned();
    switch(&site).await;
    let kept = site.home.path(format!("admin/pepper.d/{id}"));
    std::fs::rename(&kept, site.home.path("away")).unwrap();
    let error = Peppers::open(&site.home, &store).await.unwrap_err();
    assert_eq!(error.code(), Code::PepperMismatch);
    assert!(error.message().contains(&id), "{}", error.message());
    // Under another name it is refused as well.
    let misnamed = site.home.path("admin/pepper.d/00000000");
    std::fs::rename(site.home.path("away"), &misnamed).unwrap();
    assert_eq!(open(&site).await.err(), Some(Code::ConfigInvalid));
    std::fs::rename(&misnamed, &kept).unwrap();
    store.close().await;
    let admin = site.start().await;
    used(&admin, &token).await.unwrap();
}

/// Replicas have files of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_needs_the_same_peppers_and_a_switch_needs_silence() {
    let site = Site::new(Kind::Postgres);
    let admin = site.start().await;
    let there = Home::at(site.home.path("replica"));
    let store = site.db.open().await;
    let replica = || Peppers::open(&there, &store);
    assert_eq!(replica().await.unwrap_err().code(), Code::PepperMismatch);
    assert!(!there.path("admin/pepper").exists());
    let foreign = Pepper::generate().unwrap();
    foreign.store_new(&there.path("admin/pepper")).unwrap();
    assert_eq!(replica().await.unwrap_err().code(), Code::PepperMismatch);
    let copy = || {
        lose(&there);
        std::fs::copy(site.home.path("admin/pepper"), there.path("admin/pepper")).unwrap();
    };
    copy();
    replica().await.unwrap();
    // While it runs and tells so, its pepper stays.
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.other_admins().await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "nobody is heard of");
        tokio::task::yield_now().await;
    }
    let refused = Switch::prepare(&site.home, &store).await.unwrap_err();
    assert_eq!(refused.code(), Code::DaemonRunning);
    admin.stop().await;
    switch(&site).await;
    assert_eq!(replica().await.unwrap_err().code(), Code::PepperMismatch);
    copy();
    // The earlier one is still needed.
    assert_eq!(replica().await.unwrap_err().code(), Code::PepperMismatch);
    for name in names(&site.home) {
        let dir = there.path("admin/pepper.d");
        flexfs_common::home::make_dir(&dir).unwrap();
        std::fs::copy(site.home.path("admin/pepper.d").join(&name), dir.join(&name)).unwrap();
    }
    replica().await.unwrap();
}

/// A server that nobody knew of (its home is another) ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_notices_that_its_pepper_is_no_longer_the_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let peppers = admin.service.verifier().peppers().clone();
    let watching = {
        let store = admin.store.clone();
        tokio::spawn(async move { peppers.superseded(&store).await })
    };
    let switched = switch(&site).await;
    let error = tokio::time::timeout(Duration::from_secs(60), watching).await.unwrap().unwrap();
    assert_eq!(error.code(), Code::PepperMismatch);
    assert!(error.message().contains(&switched.new), "{}", error.message());
    // The one that has it goes on.
    let peppers = open(&site).await.unwrap();
    let goes_on = tokio::time::timeout(Duration::from_secs(3), peppers.superseded(&admin.store));
    assert!(goes_on.await.is_err());
}

/// Whoever writes into the database makes no token with it: argon2id alone is
/// asked only for peppers that files of the server call lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_written_into_the_database_is_not_believed() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let victim = admin.account("a").await.owner;
    let forged = again(&victim);
    let made = Verifier::derive(&forged, &Pepper::generate().unwrap(), CHEAP).unwrap();
    for pepper_id in [made.pepper_id.as_str(), "", "0a1b2c3d", site.pepper().id()] {
        set(
            &admin,
            "UPDATE token_secrets SET tag = $2, pepper_id = $3, phc = $4 WHERE token_id = $1",
            vec![
                Value::text(victim.id()),
                Value::bytes(&made.tag),
                pepper_id.into(),
                Value::text(&made.phc),
            ],
        )
        .await;
        admin.service.verifier().forget_failures();
        let runs = admin.service.verifier().hashing().runs();
        assert_eq!(used(&admin, &forged).await, Err(Code::TokenUnknown), "{pepper_id}");
        assert_eq!(admin.service.verifier().hashing().runs(), runs, "no argon2");
    }
}

/// A lost pepper, with a token and a claim code from before, and a token from
/// after.
pub(super) async fn with_lost_pepper(site: &Site) -> (Running, Token, Token, Token) {
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let old = admin.account_token(&tenant.id, "viewer").await;
    make_volume(&mut admin.system(), "v").await;
    let claim = admin.claim(&mut admin.system(), "v").await;
    admin.stop().await;
    lose(&site.home);
    switch(site).await;
    let admin = site.start().await;
    let new = admin.account_token(&tenant.id, "viewer").await;
    (admin, old, claim, new)
}

pub(super) fn from(number: u8) -> Option<IpAddr> {
    Some(IpAddr::from([192, 0, 2, number]))
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_under_a_lost_pepper_are_bounded_before_argon2() {
    let site = Site::new(Kind::Sqlite);
    let (admin, old, claim, new) = with_lost_pepper(&site).await;
    let peppers = open(&site).await.unwrap();
    let verify = Verify::new(admin.store.clone(), peppers, CHEAP).unwrap();
    let begun = Instant::now();
    let mut codes = Vec::new();
    for _ in 0..20 * limits::FAILURE_BURST {
        codes.push(verify.verify(&again(&old), from(1)).await.unwrap_err().code());
    }
    let seconds = begun.elapsed().as_secs() + 1;
    let bound = u64::from(limits::FAILURE_BURST) + u64::from(limits::FAILURE_RATE) * seconds;
    let runs = verify.hashing().runs();
    let once_each = u64::from(limits::FAILURE_BURST)..=bound;
    assert!(once_each.contains(&runs), "{runs} runs of argon2 in {seconds} s");
    assert!(codes.contains(&Code::TokenUnknown) && codes.contains(&Code::RateLimited));
    assert!(codes.iter().all(|c| matches!(c, Code::TokenUnknown | Code::RateLimited)));
    // A token under the present pepper never asks the bucket, even from there.
    verify.verify(&new, from(1)).await.unwrap();
    // Another source is not concerned, and what is good costs it nothing,
    // however often (claim codes are never answered from memory).
    verify.verify(&old, from(2)).await.unwrap();
    let showing = Showing { from: from(2), ..Showing::default() };
    for _ in 0..3 * limits::FAILURE_BURST {
        verify.verify_claim(&claim, &showing).await.unwrap();
    }
    let mut limited = false;
    for _ in 0..3 * limits::FAILURE_BURST {
        let refused = verify.verify_claim(&again(&claim), &showing).await.unwrap_err();
        limited |= refused.code() == Code::RateLimited;
    }
    assert!(limited, "wrong codes are bounded as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_under_a_lost_pepper_leave_cores_to_the_others() {
    let site = Site::new(Kind::Sqlite);
    let (admin, old, _, new) = with_lost_pepper(&site).await;
    let peppers = open(&site).await.unwrap();
    let verify = Arc::new(Verify::new(admin.store.clone(), peppers, CHEAP).unwrap());
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let held = verify.hashing().hold().await;
    // From many sources, so that no bucket of theirs is what stops them.
    let flood: Vec<_> = (0..200_u8)
        .map(|n| {
            let (verify, wrong) = (Arc::clone(&verify), again(&old));
            tokio::spawn(async move { verify.verify(&wrong, from(n)).await.unwrap_err().code() })
        })
        .collect();
    // Those beyond the line are sent away at once; the others stand in a line
    // of their own, and before the pool only as many as may use it.
    let line = 64 + (cores / 2).max(1);
    let deadline = Instant::now() + Duration::from_secs(30);
    while flood.iter().filter(|task| task.is_finished()).count() < 200 - line as usize {
        assert!(Instant::now() < deadline, "nobody is sent away");
        tokio::task::yield_now().await;
    }
    assert!(verify.hashing().runs() <= (cores / 2).max(1), "{}", verify.hashing().runs());
    let good = {
        let (verify, new) = (Arc::clone(&verify), new.clone());
        tokio::spawn(async move { verify.verify(&new, None).await })
    };
    drop(held);
    good.await.unwrap().unwrap();
    let mut codes = Vec::new();
    for task in flood {
        codes.push(task.await.unwrap());
    }
    assert!(codes.contains(&Code::RateLimited) && codes.contains(&Code::TokenUnknown));
    verify.verify(&old, from(250)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stronger_settings_renew_a_verifier_at_its_next_cold_use() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let (_, token) = make_volume(&mut admin.system(), "v").await;
    let claim = admin.claim(&mut admin.system(), "v").await;
    let stronger = Argon2Settings { memory_kib: 128, passes: 2, lanes: 1 };
    let verify = |settings| Verify::new(admin.store.clone(), site.pepper(), settings).unwrap();
    let (_, before) = stored(&admin, &token).await;
    let strong = verify(stronger);
    let wrong = strong.verify(&again(&token), None).await.unwrap_err();
    assert_eq!((wrong.code(), strong.hashing().runs()), (Code::TokenUnknown, 0));
    strong.verify(&token, None).await.unwrap();
    strong.renewed().await;
    assert_eq!(strong.hashing().runs(), 2, "checked, and made anew");
    strong.verify_claim(&claim, &Showing::default()).await.unwrap();
    strong.renewed().await;
    assert_eq!(stored(&admin, &token).await.1, before, "not before it is written");
    strong.flush_renewed().await.unwrap();
    for renewed in [&token, &claim] {
        let (_, phc) = stored(&admin, renewed).await;
        assert!(phc.starts_with("$argon2id$v=19$m=128,t=2,p=1$"), "{phc}");
    }
    // It is good, the wrong one is not, and once is enough; what is weaker
    // takes nothing back.
    for settings in [stronger, CHEAP] {
        let verify = verify(settings);
        verify.verify(&token, None).await.unwrap();
        assert!(verify.verify(&again(&token), None).await.is_err());
        verify.renewed().await;
        assert_eq!(verify.hashing().runs(), 1);
        verify.flush_renewed().await.unwrap();
        assert!(stored(&admin, &token).await.1.starts_with("$argon2id$v=19$m=128,t=2,p=1$"));
    }
}

/// A renewal that is written after the secret ended, was renewed or purged by
/// others changes nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_revives_nothing() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let mut victims = Vec::new();
    for _ in 0..4 {
        victims.push(admin.account_token(&tenant.id, "viewer").await);
    }
    admin.stop().await;
    let switched = switch(&site).await;
    let admin = site.start().await;
    let verify = || {
        let peppers = Peppers::open(&site.home, &admin.store);
        let store = admin.store.clone();
        async move { Verify::new(store, peppers.await.unwrap(), CHEAP).unwrap() }
    };
    let (one, two) = (verify().await, verify().await);
    for token in &victims {
        one.verify(token, None).await.unwrap();
        two.verify(token, None).await.unwrap();
    }
    let mut client = admin.client(&tenant.owner);
    client.revoke_token(revoke("account", victims[0].id())).await.unwrap();
    let id = |n: usize| vec![Value::text(victims[n].id())];
    set(&admin, "UPDATE token_secrets SET retired_at = 1 WHERE token_id = $1", id(1)).await;
    set(&admin, "DELETE FROM token_secrets WHERE token_id = $1", id(2)).await;
    one.flush_renewed().await.unwrap();
    // The slower one finds that it was done.
    two.flush_renewed().await.unwrap();
    assert_eq!(used(&admin, &victims[0]).await, Err(Code::TokenRevoked));
    assert_eq!(used(&admin, &victims[1]).await, Err(Code::TokenRotated));
    assert_eq!(used(&admin, &victims[2]).await, Err(Code::TokenUnknown));
    used(&admin, &victims[3]).await.unwrap();
    assert_eq!(stored(&admin, &victims[3]).await.0, switched.new);
}
