//! Classes of failures that others published, replayed here: the life of
//! tokens, caches and races (`docs/cve-classes.md` has the numbers).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_auth::principal::Role;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::{AccountId, SecretId, TokenId};
use flexfs_common::{Code, Error, clock, limits, wire};
use flexfs_proto::v1;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::feeding::Subscriber;
use super::harness::{
    CHEAP, Client, Running, Site, again, code, delete, error, generate, make_volume, registration,
    revoke, used,
};
use crate::model::{AccountState, Grant, SecretRecord, TokenRecord, TokenState, Used};
use crate::store::tokens::Standing;
use crate::store::{Kind, audit, feed, secrets, tokens};
use crate::verify::{Showing, Verify, refusal};

fn cases() -> u32 {
    std::env::var("FLEXFS_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

fn run<F: Future<Output = ()>>(work: F) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}

fn named(token: &Token) -> (String, String) {
    (token.kind().name().to_owned(), token.id().to_string())
}

fn emergency(token: &Token) -> v1::RotateTokenRequest {
    let (kind, id) = named(token);
    let new = Some(again(token).to_wire());
    v1::RotateTokenRequest { kind, id, token: new, emergency: true, ..Default::default() }
}

fn disable(token: &Token) -> v1::DisableTokenRequest {
    let (kind, id) = named(token);
    v1::DisableTokenRequest { kind, id, ..Default::default() }
}

// ---- 1: what stands for a secret is none ------------------------------------

/// What this and other systems print where a secret was.
const MARKERS: &[&str] = &[
    "",
    "-",
    "*",
    "***",
    "********",
    "<hidden>",
    "hidden",
    "<redacted>",
    "[REDACTED]",
    "redacted",
    "(sensitive)",
    "(sensitive value)",
    "null",
    "none",
    "nil",
    "undefined",
    "changeme",
    "…",
    "Value(…)",
    "SecretText(…)",
    "<token>",
    "flxv_",
    "flxv_…",
    "xxxxxxxx",
    "0",
    "\0",
];

/// Everything that listings, messages and debug output show in its place.
async fn shown_instead(admin: &Running, token: &Token) -> Vec<String> {
    let (kind, id) = named(token);
    let request = v1::GetTokenRequest { kind, id, ..Default::default() };
    let shown = admin.client(token).get_token(request).await.unwrap().into_inner();
    let form = |secret: &str| format!("{}{secret}", &token.reveal()[..28]);
    vec![
        format!("{:?}", token.to_wire()),
        format!("{token:?}"),
        format!("{shown:?}"),
        shown.id,
        shown.last4.clone(),
        form(&shown.last4),
        form("<hidden>"),
        form(&"*".repeat(49)),
        form(&"x".repeat(49)),
        form(&"0".repeat(49)),
        form(&"…".repeat(49)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_in_place_of_a_secret_is_never_one() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let owner = admin.account("a").await.owner;
    let mut markers: Vec<String> = MARKERS.iter().map(ToString::to_string).collect();
    markers.extend(shown_instead(&admin, &owner).await);
    let before = made(&admin).await;
    for marker in &markers {
        assert!(Token::parse(marker).is_err(), "{marker:?}");
        let secret = Some(v1::SecretText { value: marker.clone() });
        let account = v1::CreateAccountTokenRequest {
            token: secret.clone(),
            role: "viewer".into(),
            ..Default::default()
        };
        let claim = v1::CreateAccountTokenRequest {
            claim: secret.clone(),
            claim_expires_at: Some(wire::timestamp_to_wire(in_seconds(600))),
            role: "viewer".into(),
            ..Default::default()
        };
        let store = v1::CreateMetaStoreRequest {
            id: "m9".into(),
            address: "h:1".into(),
            meta_token: secret.clone(),
        };
        let tenant = v1::CreateAccountRequest {
            name: "b".into(),
            owner_token: secret.clone(),
            ..Default::default()
        };
        let mut system = admin.system();
        let rotation = v1::RotateTokenRequest { token: secret, ..emergency(&owner) };
        for refused in [
            error(system.create_account_token(account).await),
            error(system.create_account_token(claim).await),
            error(system.create_meta_store(store).await),
            error(system.create_account(tenant).await),
            error(admin.client(&owner).rotate_token(rotation).await),
        ] {
            // Nothing at all is told apart from something wrong.
            let absent = marker.is_empty() && refused.code() == Code::ArgumentInvalid;
            assert!(absent || refused.code() == Code::TokenMalformed, "{marker:?}: {refused:?}");
        }
    }
    assert_eq!(made(&admin).await, before, "nothing came of any of them");
    used(&admin, &owner).await.unwrap();
}

fn in_seconds(seconds: i64) -> Timestamp {
    clock::wall_now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// How many rows each table has whose rows only a change makes.
async fn made(admin: &Running) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    // Uses are written by the clock, and refusals counted.
    for row in dump(admin, &["audit", "secret_uses"]).await {
        let table = row.split(':').next().unwrap().to_owned();
        match counts.last_mut() {
            Some((last, count)) if *last == table => *count += 1,
            _ => counts.push((table, 1)),
        }
    }
    counts
}

/// Every row of every table, except some: what is stored, as it is stored.
async fn dump(admin: &Running, except: &[&str]) -> Vec<String> {
    let mut reader = admin.store.reader();
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
    let mut rows = Vec::new();
    for row in reader.query(tables, vec![]).await.unwrap() {
        let table = row.cells().text().unwrap();
        if table.starts_with('_') || table.starts_with("sqlite_") || except.contains(&&*table) {
            continue;
        }
        // Tests may leak a few bytes; programs cannot make statements at all.
        let columns = format!("SELECT group_concat(name) FROM pragma_table_info('{table}')");
        let columns = reader.query(columns.leak(), vec![]).await.unwrap();
        let columns = columns.into_iter().next().unwrap().cells().text().unwrap();
        let columns = columns.split(',').map(|c| format!("quote({c})")).collect::<Vec<_>>();
        let all = format!("SELECT {} FROM {table} ORDER BY 1", columns.join("||' '||"));
        for row in reader.query(all.leak(), vec![]).await.unwrap() {
            rows.push(format!("{table}: {}", row.cells().text().unwrap()));
        }
    }
    assert!(rows.len() > 3, "a database without rows: {rows:?}");
    rows
}

// ---- 2: any order of changes and reconnections ends consistent --------------

#[derive(Clone, Debug)]
enum Step {
    Create,
    Revoke(usize),
    Disable(usize),
    Rotate(usize),
    Read,
    Reconnect,
    Restart,
    Prune,
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..8_usize;
    prop_oneof![
        3 => Just(Step::Create),
        3 => n().prop_map(Step::Revoke),
        2 => n().prop_map(Step::Disable),
        2 => n().prop_map(Step::Rotate),
        3 => Just(Step::Read),
        2 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
        1 => Just(Step::Prune),
    ]
}

/// A server that believes what the feed told it and nothing else.
struct Follower {
    site: Site,
    admin: Running,
    system: Client,
    meta: Token,
    subscriber: Subscriber,
    feed_id: String,
    covered: u64,
    made: Vec<Token>,
    believed: HashMap<TokenId, TokenState>,
}

impl Follower {
    async fn new() -> Follower {
        let site = Site::new(Kind::Sqlite);
        let admin = site.start().await;
        let meta = admin.stores().await;
        let mut system = admin.system();
        make_volume(&mut system, "v").await;
        let subscriber = Subscriber::new(&admin, &meta).await;
        let head = feed::head(admin.store.reader().as_mut()).await.unwrap();
        let (made, believed) = (Vec::new(), HashMap::new());
        let (feed_id, covered) = (head.feed_id, head.revision);
        Follower { site, admin, system, meta, subscriber, feed_id, covered, made, believed }
    }

    async fn state(&self, id: TokenId) -> TokenState {
        let record = tokens::by_id(self.admin.store.reader().as_mut(), id).await.unwrap();
        record.unwrap().state(clock::wall_now())
    }

    async fn learn(&mut self, id: TokenId) {
        let state = self.state(id).await;
        self.believed.insert(id, state);
    }

    /// One event; what it names is looked at again, all of it if told so.
    async fn event(&mut self) {
        let event = self.subscriber.event().await;
        let mut ids: Vec<TokenId> =
            event.rows.iter().filter_map(|r| r.token_id.parse().ok()).collect();
        if event.resynchronise {
            ids = self.made.iter().map(Token::id).collect();
        }
        for id in ids {
            self.learn(id).await;
        }
        self.feed_id = event.feed_id;
        self.covered = event.covered_up_to;
    }

    async fn reconnect(&mut self) {
        let server = self.subscriber.server;
        let feed_id = self.feed_id.clone();
        self.subscriber =
            Subscriber::open(&self.admin, &self.meta, server, &feed_id, self.covered).await;
        self.event().await;
    }

    async fn apply(&mut self, step: &Step) {
        let pick =
            |n: usize, made: &[Token]| (!made.is_empty()).then(|| made[n % made.len()].clone());
        match step {
            Step::Create => {
                let token = generate(TokenKind::Volume);
                let request = v1::CreateVolumeTokenRequest {
                    token: Some(token.to_wire()),
                    volume: "v".into(),
                    ..Default::default()
                };
                self.system.create_volume_token(request).await.unwrap();
                self.made.push(token);
            }
            Step::Revoke(n) => {
                let Some(token) = pick(*n, &self.made) else { return };
                self.system.revoke_token(revoke("volume", token.id())).await.unwrap();
            }
            Step::Disable(n) => {
                let Some(token) = pick(*n, &self.made) else { return };
                // Ended meanwhile: nothing to disable.
                let _ = self.system.disable_token(disable(&token)).await;
            }
            Step::Rotate(n) => {
                let Some(token) = pick(*n, &self.made) else { return };
                // Ended meanwhile: nothing to rotate.
                let _ = self.system.rotate_token(emergency(&token)).await;
            }
            Step::Read => self.event().await,
            Step::Reconnect => self.reconnect().await,
            Step::Restart => {
                let next = self.site.start().await;
                self.system = next.system();
                std::mem::replace(&mut self.admin, next).stop().await;
                self.reconnect().await;
            }
            Step::Prune => {
                let head = feed::head(self.admin.store.reader().as_mut()).await.unwrap();
                let mut tx = self.admin.store.begin().await.unwrap();
                feed::prune(tx.sql(), head.revision).await.unwrap();
                tx.commit_quietly().await.unwrap();
                self.reconnect().await;
            }
        }
    }

    async fn check(&mut self) {
        let head = feed::head(self.admin.store.reader().as_mut()).await.unwrap().revision;
        while self.covered < head {
            self.event().await;
        }
        for token in self.made.clone() {
            let state = self.state(token.id()).await;
            assert_eq!(self.believed.get(&token.id()), Some(&state), "{}", token.id());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_changes_and_reconnections_ends_with_the_last_word(
        steps in proptest::collection::vec(step(), 1..25),
    ) {
        run(async {
            let mut follower = Follower::new().await;
            for step in &steps {
                follower.apply(step).await;
            }
            follower.check().await;
            follower.admin.stop().await;
        });
    }
}

// ---- 3: an open stream does not outlive its token ---------------------------

/// A token is looked at again at every heartbeat; with room for a busy machine.
const FEED_ENDS: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_open_feed_ends_with_its_token_however_it_ends() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    for (n, expected) in [
        Code::TokenRevoked,
        Code::TokenDisabled,
        Code::TokenRotated,
        Code::TokenExpired,
        Code::TokenSourceDenied,
    ]
    .into_iter()
    .enumerate()
    {
        let meta = admin.meta_store(&format!("s{n}")).await;
        let mut subscriber = Subscriber::new(&admin, &meta).await;
        let (kind, id) = named(&meta);
        let update = v1::UpdateTokenRequest { kind, id, ..Default::default() };
        match expected {
            Code::TokenRevoked => {
                system.revoke_token(revoke("meta", meta.id())).await.map(drop).unwrap();
            }
            Code::TokenDisabled => system.disable_token(disable(&meta)).await.map(drop).unwrap(),
            Code::TokenRotated => system.rotate_token(emergency(&meta)).await.map(drop).unwrap(),
            Code::TokenExpired => {
                // Within a second, and without any change at that time.
                let at = Some(wire::timestamp_to_wire(in_seconds(1)));
                let expires_at = Some(v1::TimeChange { at });
                let request = v1::UpdateTokenRequest { expires_at, ..update };
                system.update_token(request).await.map(drop).unwrap();
            }
            _ => {
                let items = vec!["192.0.2.0/24".to_owned()];
                let cidrs = Some(v1::TextList { items });
                let request = v1::UpdateTokenRequest { cidrs, ..update };
                system.update_token(request).await.map(drop).unwrap();
            }
        }
        let changed = Instant::now();
        let ended = loop {
            match subscriber.next().await {
                Ok(Some(event)) => assert!(event.rows.len() <= 1, "{event:?}"),
                Ok(None) => panic!("it ends with a reason"),
                Err(status) => break status,
            }
            assert!(changed.elapsed() < FEED_ENDS, "{expected}: the feed goes on");
        };
        assert_eq!(code(Err::<(), _>(ended)), expected);
        let new = registration(flexfs_common::ids::ServerId::random());
        assert_eq!(code(admin.meta(&meta).register_server(new).await), expected);
    }
}

// ---- 4 and 6: ends ----------------------------------------------------------

fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

/// A viewer's token with one secret, without any end, in an active account.
fn standing() -> Standing {
    let verifier = flexfs_auth::verifier::Verifier {
        tag: [0; 32],
        pepper_id: String::new(),
        phc: String::new(),
    };
    let secret = SecretRecord::new("abcd", verifier, at(0));
    Standing {
        token: TokenRecord {
            id: TokenId::random(),
            account_id: AccountId::random(),
            grant: Grant::Account { role: Role::Viewer, volumes: vec![] },
            cidrs: vec![],
            notes: String::new(),
            last4: "abcd".into(),
            created_at: at(0),
            expires_at: None,
            not_before: None,
            idle_seconds: 0,
            rotated_at: at(0),
            revoked_at: None,
            revoke_reason: String::new(),
            disabled_at: None,
            used: Used::default(),
            created_by: None,
            deleted_at: None,
        },
        account_state: AccountState::Active,
        volume_state: None,
        meta_store: None,
        secrets: vec![secret],
    }
}

fn judged(standing: &Standing, micros: i64) -> Option<Code> {
    refusal(standing, Some(standing.secrets[0].id), at(micros), None)
}

#[test]
fn an_end_is_exact_to_the_microsecond_and_a_beginning_too() {
    const T: i64 = 1_700_000_000_000_000;
    let plain = standing();
    assert_eq!(judged(&plain, T), None, "the control: without an end it is good");
    let mut expires = plain.clone();
    expires.token.expires_at = Some(at(T));
    let mut idle = plain.clone();
    idle.token.idle_seconds = 60;
    idle.token.used.last_at = Some(at(T - 60_000_000));
    let mut secret = plain.clone();
    secret.secrets[0].expires_at = Some(at(T));
    for (ends, end) in
        [(expires, Code::TokenExpired), (idle, Code::TokenExpired), (secret, Code::TokenRotated)]
    {
        assert_eq!(judged(&ends, T - 1), None);
        assert_eq!(judged(&ends, T), Some(end));
        assert_eq!(judged(&ends, T + 1), Some(end));
    }
    let mut begins = plain;
    begins.token.not_before = Some(at(T));
    assert_eq!(judged(&begins, T - 1), Some(Code::TokenNotYetValid));
    assert_eq!(judged(&begins, T), None);
    assert_eq!(judged(&begins, T + 1), None);
    // What is not among the token's secrets is no secret of it.
    assert_eq!(refusal(&begins, Some(SecretId::random()), at(T), None), Some(Code::TokenRotated));
}

#[derive(Clone, Debug)]
struct Limits {
    created: i64,
    expires: Option<i64>,
    begins: Option<i64>,
    idle: u64,
    used: Option<i64>,
    secret_ends: Option<i64>,
    secret_retired: bool,
}

fn any_limits() -> impl Strategy<Value = Limits> {
    // Few and near values meet; the far ones overflow.
    let time = || prop_oneof![0..40_i64, Just(253_402_207_200_000_000)];
    let idle = prop_oneof![0..4_u64, Just(u64::MAX), Just(1 << 40)];
    let some = || proptest::option::of(time());
    (0..20_i64, some(), some(), idle, some(), some(), any::<bool>()).prop_map(
        |(created, expires, begins, idle, used, secret_ends, secret_retired)| Limits {
            created,
            expires,
            begins,
            idle,
            used,
            secret_ends,
            secret_retired,
        },
    )
}

/// Written from the promise alone: seconds here, no type of the program.
fn latest(limits: &Limits) -> i128 {
    let begin = i128::from(limits.created.max(limits.begins.unwrap_or(0)));
    let since = begin.max(i128::from(limits.used.unwrap_or(0)));
    let idle = (limits.idle > 0).then(|| since + i128::from(limits.idle) * 1_000_000);
    let ends = [limits.expires.map(i128::from), idle, limits.secret_ends.map(i128::from)];
    let first = ends.into_iter().flatten().min().unwrap_or(i128::MAX);
    if limits.secret_retired { 0 } else { first }
}

proptest! {
    #[test]
    fn no_token_is_accepted_after_the_first_of_its_limits(
        limits in any_limits(),
        now in prop_oneof![0..40_i64, 0..5_000_000_i64, Just(253_402_207_199_999_999)],
    ) {
        let mut standing = standing();
        let token = &mut standing.token;
        token.created_at = at(limits.created);
        token.expires_at = limits.expires.map(at);
        token.not_before = limits.begins.map(at);
        token.idle_seconds = limits.idle;
        token.used.last_at = limits.used.map(at);
        standing.secrets[0].expires_at = limits.secret_ends.map(at);
        standing.secrets[0].retired_at = limits.secret_retired.then(|| at(0));
        let good = judged(&standing, now).is_none();
        let begun = limits.begins.is_none_or(|begin| begin <= now);
        prop_assert_eq!(good, begun && i128::from(now) < latest(&limits));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// However often a token is rotated, overlapped and finished: no secret
    /// ends later than it was once said to.
    #[test]
    fn no_sequence_of_updates_moves_an_end_of_a_secret_back(
        overlaps in proptest::collection::vec((60..100_000_u64, any::<bool>()), 1..5),
    ) {
        run(async {
            let site = Site::new(Kind::Sqlite);
            let admin = site.start().await;
            let tenant = admin.account("a").await;
            let token = admin.account_token(&tenant.id, "viewer").await;
            let mut said: HashMap<SecretId, Timestamp> = HashMap::new();
            for (overlap_seconds, extends) in overlaps {
                let rotation = v1::RotateTokenRequest {
                    account_id: tenant.id.clone(),
                    emergency: false,
                    overlap_seconds,
                    ..emergency(&token)
                };
                admin.system().rotate_token(rotation).await.unwrap();
                let (kind, id) = named(&token);
                let at = extends.then(|| wire::timestamp_to_wire(in_seconds(1_000_000)));
                let request = v1::UpdateTokenRequest {
                    kind,
                    id,
                    account_id: tenant.id.clone(),
                    expires_at: Some(v1::TimeChange { at }),
                    ..Default::default()
                };
                admin.system().update_token(request).await.unwrap();
                let kept = secrets::of_token(admin.store.reader().as_mut(), token.id()).await.unwrap();
                for secret in kept {
                    if let Some(before) = said.get(&secret.id) {
                        assert!(secret.expires_at.is_some_and(|end| end <= *before));
                    }
                    said.extend(secret.expires_at.map(|end| (secret.id, end)));
                }
            }
            admin.stop().await;
        });
    }
}

// ---- 8: a change while the slow step lasts ----------------------------------

/// Waits until so many runs of argon2id were asked for.
async fn at_the_slow_step(verify: &Verify, runs: u64) {
    let limit = Instant::now() + Duration::from_secs(30);
    while verify.hashing().runs() < runs {
        assert!(Instant::now() < limit, "nobody came to the slow step");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_token_during_the_slow_step_wins() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let site = Site::new(kind);
        let admin = site.start().await;
        admin.stores().await;
        for (n, expected) in [
            None,
            Some(Code::TokenRevoked),
            Some(Code::TokenRotated),
            Some(Code::TokenDisabled),
            Some(Code::AccountSuspended),
            Some(Code::TokenRevoked),
        ]
        .into_iter()
        .enumerate()
        {
            let tenant = admin.account(&format!("a{n}")).await;
            let mut owner = admin.client(&tenant.owner);
            let (volume, token) = make_volume(&mut owner, "v").await;
            // With a pool of its own: only the verification waits.
            let verify = Arc::new(Verify::new(admin.store.clone(), site.pepper(), CHEAP).unwrap());
            let held = verify.hashing().hold().await;
            let task = {
                let (verify, token) = (Arc::clone(&verify), token.clone());
                tokio::spawn(async move { verify.verify(&token, None).await })
            };
            at_the_slow_step(&verify, 1).await;
            match (n, expected) {
                (0, _) => {}
                (1, _) => owner.revoke_token(revoke("volume", token.id())).await.map(drop).unwrap(),
                (2, _) => owner.rotate_token(emergency(&token)).await.map(drop).unwrap(),
                (3, _) => owner.disable_token(disable(&token)).await.map(drop).unwrap(),
                (4, _) => {
                    let request =
                        v1::DisableAccountRequest { id: tenant.id.clone(), ..Default::default() };
                    admin.system().disable_account(request).await.map(drop).unwrap();
                }
                (_, _) => owner.delete_volume(delete(&volume.id)).await.map(drop).unwrap(),
            }
            assert!(!task.is_finished(), "the change came first");
            drop(held);
            let outcome = task.await.unwrap();
            assert_eq!(
                outcome.map(drop).map_err(|e: Error| e.code()),
                expected.map_or(Ok(()), Err)
            );
            // Nor does the cache keep what the race brought.
            let after = verify.verify(&token, None).await;
            assert_eq!(after.map(drop).map_err(|e| e.code()), expected.map_or(Ok(()), Err));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_token_ends_during_the_slow_step_brings_nothing() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let mut system = admin.system();
    make_volume(&mut system, "v").await;
    for ends in [false, true] {
        let claim = admin.claim(&mut system, "v").await;
        let token = Token::generate_for(TokenKind::Volume, claim.id()).unwrap();
        let verify = admin.service.verifier();
        let held = verify.hashing().hold().await;
        let runs = verify.hashing().runs();
        let task = {
            let (mut client, token) = (admin.client(&claim), token.clone());
            let request =
                v1::RedeemClaimRequest { kind: "volume".into(), token: Some(token.to_wire()) };
            tokio::spawn(async move { client.redeem_claim(request).await })
        };
        at_the_slow_step(verify, runs + 1).await;
        if ends {
            system.revoke_token(revoke("volume", claim.id())).await.unwrap();
        }
        drop(held);
        let outcome = task.await.unwrap();
        if ends {
            assert_eq!(code(outcome), Code::TokenRevoked);
            assert_eq!(used(&admin, &token).await, Err(Code::TokenUnknown), "it got no secret");
        } else {
            outcome.unwrap();
            used(&admin, &token).await.unwrap();
        }
    }
}

// ---- 9 and 10: garbage ------------------------------------------------------

fn from(number: u32) -> Option<IpAddr> {
    Some(IpAddr::from(number.to_be_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().min(24), max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_flood_of_garbage_evicts_nothing_good_and_never_reaches_the_slow_step(
        unknown in 0..3000_u32,
        wrong in 0..3000_u32,
        claims in 0..500_u32,
        sources in 1..50_000_u32,
    ) {
        run(async {
            let site = Site::new(Kind::Sqlite);
            let admin = site.start().await;
            let tenant = admin.account("a").await;
            let good = admin.account_token(&tenant.id, "viewer").await;
            let verify = Verify::new(admin.store.clone(), site.pepper(), CHEAP).unwrap();
            verify.verify(&good, None).await.unwrap();
            let runs = verify.hashing().runs();
            assert_eq!(runs, 1, "the counter counts");
            let bad = async |n: u32| {
                let source = from(n % sources);
                let showing = Showing { from: source, ..Showing::default() };
                let mut refused = Vec::new();
                if n < unknown {
                    refused.push(verify.verify(&generate(TokenKind::Account), source).await);
                }
                if n < wrong {
                    refused.push(verify.verify(&again(&good), source).await);
                }
                if n < claims {
                    refused.push(verify.verify_claim(&generate(TokenKind::Claim), &showing).await);
                }
                for outcome in refused {
                    let code = outcome.unwrap_err().code();
                    assert!(matches!(code, Code::TokenUnknown | Code::RateLimited), "{code}");
                }
            };
            futures::stream::iter(0..unknown.max(wrong).max(claims))
                .for_each_concurrent(64, bad)
                .await;
            let [successes, failures, flights, limited, unwritten, rows] = verify.kept();
            assert_eq!((successes, flights), (1, 0));
            assert!(failures <= limits::FAILURE_CACHE + 1, "{failures}");
            assert!(limited <= 16_385 && unwritten <= 100, "{limited} {unwritten}");
            assert!(rows <= 4097, "{rows}");
            verify.verify(&good, from(1)).await.unwrap();
            assert_eq!(verify.hashing().runs(), runs, "garbage costs no argon2, and the good one none again");
            admin.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_leaves_nothing_behind_but_counts() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    admin.stores().await;
    let tenant = admin.account("a").await;
    let mut owner = admin.client(&tenant.owner);
    let (volume, token) = make_volume(&mut owner, "v").await;
    let claim = admin.claim(&mut owner, &volume.id).await;
    let verifier = admin.service.verifier();
    verifier.flush_used().await.unwrap();
    verifier.flush_refused().await.unwrap();
    let before = dump(&admin, &["audit"]).await;
    let records = audit::after(admin.store.reader().as_mut(), 0).await.unwrap().len();
    let (wrong, wrong_claim) = (again(&token), again(&claim));
    for _ in 0..30 {
        let describe = v1::DescribeMountRequest { volume: "v".into() };
        for stranger in [&wrong, &wrong_claim] {
            let mut client = admin.client(stranger);
            assert!(client.describe_mount(describe.clone()).await.is_err());
            let new = Token::generate_for(TokenKind::Volume, claim.id()).unwrap();
            let request =
                v1::RedeemClaimRequest { kind: "volume".into(), token: Some(new.to_wire()) };
            assert!(client.redeem_claim(request).await.is_err());
            assert!(client.delete_volume(delete(&volume.id)).await.is_err());
        }
    }
    verifier.flush_used().await.unwrap();
    verifier.flush_refused().await.unwrap();
    assert_eq!(dump(&admin, &["audit"]).await, before);
    // Two of the calls of each round come to the secret: sixty refusals. As
    // many rows as batches of a second had ids and codes, and they count all.
    let after = audit::after(admin.store.reader().as_mut(), 0).await.unwrap();
    let new = &after[records..];
    assert!(!new.is_empty() && new.len() < 30, "{}", new.len());
    assert!(new.iter().all(|stored| stored.record.action == "token.use"));
    let counts = new.iter().map(|stored| stored.record.detail.split(' ').next().unwrap());
    assert_eq!(counts.map(|count| count.parse::<usize>().unwrap()).sum::<usize>(), 60);
    // And the control: what is right leaves its traces.
    admin
        .client(&token)
        .describe_mount(v1::DescribeMountRequest { volume: "v".into() })
        .await
        .unwrap();
    verifier.flush_used().await.unwrap();
    assert_ne!(dump(&admin, &["audit"]).await, before);
}
