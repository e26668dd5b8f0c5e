//! What no sequence of calls may bring about: a right that the caller lacks,
//! and a difference that another tenant sees.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use flexfs_auth::principal::Role;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::VolumeId;
use flexfs_common::{clock, wire};
use flexfs_proto::v1;
use proptest::prelude::*;

use super::harness::{Client, Running, Site, again, generate, make_volume};
use crate::model::{Grant, TokenRecord};
use crate::store::{Kind, tokens};

fn cases() -> u32 {
    std::env::var("FLEXFS_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

fn run<F: Future<Output = ()>>(work: F) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}

fn in_hours(hours: u64) -> v1::Timestamp {
    let at = clock::wall_now().checked_add(Duration::from_secs(hours * 3600)).unwrap();
    wire::timestamp_to_wire(at)
}

// ---- No right that the caller lacks -----------------------------------------

/// How an account token is limited.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// To the volume `one`.
    volumes: bool,
    /// To this machine's own addresses.
    near: bool,
    /// In time.
    ends: bool,
}

fn limits() -> impl Strategy<Value = Limits> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(volumes, near, ends)| Limits {
        volumes,
        near,
        ends,
    })
}

/// A call of somebody who wants more than he has. `by` is which of the tokens
/// he holds calls, `on` which token of the account it is about.
#[derive(Clone, Debug)]
enum Grab {
    Account { by: usize, role: Role, limits: Limits },
    Volume { by: usize, volume: usize },
    ClaimAccount { by: usize, role: Role },
    Rotate { by: usize, on: usize },
    Widen { by: usize, on: usize, what: u8 },
    Enable { by: usize, on: usize },
}

fn grab() -> impl Strategy<Value = Grab> {
    let n = || 0..8_usize;
    let role = || proptest::sample::select(Role::ALL.to_vec());
    prop_oneof![
        3 => (n(), role(), limits())
            .prop_map(|(by, role, limits)| Grab::Account { by, role, limits }),
        2 => (n(), 0..2_usize).prop_map(|(by, volume)| Grab::Volume { by, volume }),
        1 => (n(), role()).prop_map(|(by, role)| Grab::ClaimAccount { by, role }),
        3 => (n(), n()).prop_map(|(by, on)| Grab::Rotate { by, on }),
        3 => (n(), n(), 0..4_u8).prop_map(|(by, on, what)| Grab::Widen { by, on, what }),
        1 => (n(), n()).prop_map(|(by, on)| Grab::Enable { by, on }),
    ]
}

/// Who begins: owners most of all, because the others may do little.
fn beginning() -> impl Strategy<Value = Role> {
    prop_oneof![
        5 => Just(Role::Owner),
        2 => Just(Role::Operator),
        2 => proptest::sample::select(vec![
            Role::Viewer,
            Role::Auditor,
            Role::Metrics,
            Role::Provisioner,
        ]),
    ]
}

struct Thief {
    admin: Running,
    /// The token he began with, as it was given to him.
    given: TokenRecord,
    held: Vec<Token>,
    /// All tokens of the account: ids are no secrets.
    all: Vec<Token>,
    volumes: [String; 2],
    _site: Site,
}

fn kind(token: &Token) -> String {
    token.kind().name().to_owned()
}

impl Thief {
    async fn new(role: Role, limits: Limits) -> Option<Thief> {
        let site = Site::new(Kind::Sqlite);
        let admin = site.start().await;
        admin.stores().await;
        let tenant = admin.account("a").await;
        let mut owner = admin.client(&tenant.owner);
        let (one, first) = make_volume(&mut owner, "one").await;
        let (two, second) = make_volume(&mut owner, "two").await;
        let token = generate(TokenKind::Account);
        let request = account_token(&token, role, limits);
        owner.create_account_token(request).await.ok()?;
        let given =
            tokens::by_id(admin.store.reader().as_mut(), token.id()).await.unwrap().unwrap();
        let mut all = vec![token.clone(), tenant.owner, first, second];
        for role in ["viewer", "operator", "owner"] {
            all.push(admin.account_token(&tenant.id, role).await);
        }
        let volumes = [one.id, two.id];
        let held = vec![token];
        Some(Thief { admin, given, held, all, volumes, _site: site })
    }

    fn client(&self, by: usize) -> Client {
        self.admin.client(&self.held[by % self.held.len()])
    }

    fn hold(&mut self, token: Token) {
        self.all.push(token.clone());
        self.held.push(token);
    }

    async fn try_to(&mut self, grab: &Grab) {
        match grab.clone() {
            Grab::Account { by, role, limits } => {
                let token = generate(TokenKind::Account);
                let request = account_token(&token, role, limits);
                if self.client(by).create_account_token(request).await.is_ok() {
                    self.hold(token);
                }
            }
            Grab::Volume { by, volume } => {
                let token = generate(TokenKind::Volume);
                let request = v1::CreateVolumeTokenRequest {
                    token: Some(token.to_wire()),
                    volume: self.volumes[volume].clone(),
                    ..Default::default()
                };
                if self.client(by).create_volume_token(request).await.is_ok() {
                    self.hold(token);
                }
            }
            Grab::ClaimAccount { by, role } => {
                let code = generate(TokenKind::Claim);
                let request = v1::CreateAccountTokenRequest {
                    claim: Some(code.to_wire()),
                    claim_expires_at: Some(in_hours(1)),
                    role: role.name().into(),
                    ..Default::default()
                };
                if self.client(by).create_account_token(request).await.is_ok() {
                    let token = Token::generate_for(TokenKind::Account, code.id()).unwrap();
                    let request = v1::RedeemClaimRequest {
                        kind: "account".into(),
                        token: Some(token.to_wire()),
                    };
                    if self.admin.client(&code).redeem_claim(request).await.is_ok() {
                        self.hold(token);
                    }
                }
            }
            Grab::Rotate { by, on } => {
                let token = again(&self.all[on % self.all.len()]);
                let request = v1::RotateTokenRequest {
                    kind: kind(&token),
                    id: token.id().to_string(),
                    token: Some(token.to_wire()),
                    ..Default::default()
                };
                if self.client(by).rotate_token(request).await.is_ok() {
                    self.held.push(token);
                }
            }
            Grab::Widen { by, on, what } => {
                let token = &self.all[on % self.all.len()];
                let mut request = v1::UpdateTokenRequest {
                    kind: kind(token),
                    id: token.id().to_string(),
                    ..Default::default()
                };
                match what {
                    0 => request.expires_at = Some(v1::TimeChange { at: None }),
                    1 => request.cidrs = Some(v1::TextList::default()),
                    2 => request.volumes = Some(v1::TextList::default()),
                    _ => request.expires_at = Some(v1::TimeChange { at: Some(in_hours(99)) }),
                }
                // Whatever is answered: what he holds is looked at.
                let _ = self.client(by).update_token(request).await;
            }
            Grab::Enable { by, on } => {
                let token = &self.all[on % self.all.len()];
                let request = v1::GetTokenRequest {
                    kind: kind(token),
                    id: token.id().to_string(),
                    ..Default::default()
                };
                let _ = self.client(by).enable_token(request).await;
            }
        }
    }

    async fn check(&self) {
        let Grant::Account { role, volumes } = &self.given.grant else { unreachable!() };
        for token in &self.held {
            let mut reader = self.admin.store.reader();
            let record = tokens::by_id(reader.as_mut(), token.id()).await.unwrap().unwrap();
            assert_eq!(record.account_id, self.given.account_id);
            match &record.grant {
                Grant::Account { role: got, volumes: only } => {
                    assert!(role.covers(*got), "{role:?} made {got:?}");
                    assert!(within(volumes, only), "{only:?} is beyond {volumes:?}");
                    assert_within_limits(&self.given, &record);
                }
                Grant::Volume { volume_id, .. } => {
                    assert!(within(volumes, &[*volume_id]), "a token of another volume");
                    let may = matches!(role, Role::Owner | Role::Operator);
                    assert!(may, "{role:?} holds a volume token");
                }
                Grant::Meta { .. } => panic!("{role:?} holds a meta token"),
            }
        }
    }
}

/// Are limits (none = all) inside others?
fn within(outer: &[VolumeId], inner: &[VolumeId]) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|id| outer.contains(id)))
}

fn assert_within_limits(given: &TokenRecord, got: &TokenRecord) {
    if !given.cidrs.is_empty() {
        let inside = |cidr: &crate::cidr::Cidr| given.cidrs.iter().any(|outer| outer.covers(cidr));
        assert!(!got.cidrs.is_empty() && got.cidrs.iter().all(inside), "{got:?}");
    }
    if let Some(end) = given.expires_at {
        assert!(got.expires_at.is_some_and(|at| at <= end), "it would outlive {end}: {got:?}");
    }
}

fn account_token(token: &Token, role: Role, limits: Limits) -> v1::CreateAccountTokenRequest {
    v1::CreateAccountTokenRequest {
        token: Some(token.to_wire()),
        role: role.name().into(),
        volumes: if limits.volumes { vec!["one".into()] } else { vec![] },
        cidrs: if limits.near { vec!["127.0.0.0/8".into()] } else { vec![] },
        expires_at: limits.ends.then(|| in_hours(10)),
        ..Default::default()
    }
}

// ---- Nothing that another tenant sees ---------------------------------------

/// What a tenant does; `which` picks among its own things.
#[derive(Clone, Debug)]
enum Act {
    Volume { name: u8 },
    Retire { name: u8 },
    Mint { volume: u8 },
    Operator,
    Rotate { which: usize },
    Revoke { which: usize },
    Disable { which: usize },
    RevokeAll,
    Rename { name: u8 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..3_u8).prop_map(|name| Act::Volume { name }),
        1 => (0..3_u8).prop_map(|name| Act::Retire { name }),
        3 => (0..3_u8).prop_map(|volume| Act::Mint { volume }),
        2 => Just(Act::Operator),
        2 => (0..9_usize).prop_map(|which| Act::Rotate { which }),
        1 => (0..9_usize).prop_map(|which| Act::Revoke { which }),
        1 => (0..9_usize).prop_map(|which| Act::Disable { which }),
        1 => Just(Act::RevokeAll),
        2 => (0..2_u8).prop_map(|name| Act::Rename { name }),
    ]
}

struct Tenant {
    client: Client,
    tokens: Vec<Token>,
    /// Everything it was answered.
    seen: String,
}

impl Tenant {
    fn note<T: std::fmt::Debug>(
        &mut self,
        what: &Act,
        answer: Result<tonic::Response<T>, tonic::Status>,
    ) {
        match answer {
            Ok(reply) => writeln!(self.seen, "{what:?}: {:?}", reply.into_inner()).unwrap(),
            Err(status) => {
                writeln!(self.seen, "{what:?}: {:?} {}", status.code(), status.message()).unwrap();
            }
        }
    }

    async fn act(&mut self, act: &Act) {
        let mut client = self.client.clone();
        let named = |n: u8| format!("volume-{n}");
        match act {
            Act::Volume { name } => {
                let token = generate(TokenKind::Volume);
                let request = super::harness::new_volume(&named(*name), Some(&token));
                let answer = client.create_volume(request).await;
                if answer.is_ok() {
                    self.tokens.push(token);
                }
                self.note(act, answer);
            }
            Act::Retire { name } => {
                let answer = client.delete_volume(super::harness::delete(named(*name))).await;
                self.note(act, answer);
            }
            Act::Mint { volume } => {
                let token = generate(TokenKind::Volume);
                let request = v1::CreateVolumeTokenRequest {
                    token: Some(token.to_wire()),
                    volume: named(*volume),
                    ..Default::default()
                };
                let answer = client.create_volume_token(request).await;
                if answer.is_ok() {
                    self.tokens.push(token);
                }
                self.note(act, answer);
            }
            Act::Operator => {
                let token = generate(TokenKind::Account);
                let request = account_token(&token, Role::Operator, Limits::default());
                let answer = client.create_account_token(request).await;
                self.tokens.push(token);
                self.note(act, answer);
            }
            Act::RevokeAll => {
                let answer = client.revoke_tokens(v1::RevokeTokensRequest::default()).await;
                self.note(act, answer);
            }
            Act::Rename { name } => {
                let name = Some(format!("account-{name}"));
                let request = v1::UpdateAccountRequest { name, ..Default::default() };
                let answer = client.update_account(request).await;
                self.note(act, answer);
            }
            Act::Rotate { which } | Act::Revoke { which } | Act::Disable { which } => {
                if self.tokens.is_empty() {
                    return;
                }
                let token = self.tokens[which % self.tokens.len()].clone();
                let (kind, id) = (kind(&token), token.id().to_string());
                match act {
                    Act::Rotate { .. } => {
                        let request = v1::RotateTokenRequest {
                            kind,
                            id,
                            token: Some(again(&token).to_wire()),
                            ..Default::default()
                        };
                        let answer = client.rotate_token(request).await;
                        self.note(act, answer);
                    }
                    Act::Revoke { .. } => {
                        let request = v1::RevokeTokenRequest { kind, id, ..Default::default() };
                        let answer = client.revoke_token(request).await;
                        self.note(act, answer);
                    }
                    _ => {
                        let request = v1::DisableTokenRequest { kind, id, ..Default::default() };
                        let answer = client.disable_token(request).await;
                        self.note(act, answer);
                    }
                }
            }
        }
    }

    /// Everything it can look at.
    async fn look(&mut self) {
        let act = Act::RevokeAll;
        let mut client = self.client.clone();
        let answer = client.get_status(v1::GetStatusRequest {}).await;
        self.note(&act, answer);
        let list = v1::ListRequest::default;
        let answer = client.list_accounts(list()).await;
        self.note(&act, answer);
        let answer = client.list_volumes(list()).await;
        self.note(&act, answer);
        let answer = client.list_meta_stores(list()).await;
        self.note(&act, answer);
        for kind in ["account", "volume", "meta"] {
            let request = v1::ListTokensRequest { kind: kind.into(), ..Default::default() };
            let answer = client.list_tokens(request).await;
            self.note(&act, answer);
        }
        let answer = client.list_sessions(v1::ListSessionsRequest::default()).await;
        self.note(&act, answer);
        for name in ["system", "a", "b", "volume-0"] {
            let request = v1::GetRequest { id: name.into(), ..Default::default() };
            let answer = client.get_account(request).await;
            self.note(&act, answer);
        }
    }
}

/// Ids by the order in which they appear, times and ends of tokens left out:
/// what is left of two runs can be compared.
fn comparable(text: &str) -> String {
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut out = String::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(id) = text.get(at..at + 36).filter(|id| id.parse::<VolumeId>().is_ok()) {
            let next = names.len();
            let number = *names.entry(id.to_owned()).or_insert(next);
            write!(out, "#{number}").unwrap();
            at += 36;
        } else if let Some(rest) = text.get(at..).filter(|rest| rest.starts_with("last4: \"")) {
            out.push_str("last4");
            at += rest.find(',').unwrap_or(1);
        } else if let Some(rest) = text.get(at..).filter(|rest| rest.starts_with("Timestamp {")) {
            out.push_str("Timestamp");
            at += rest.find('}').unwrap_or(1);
        } else {
            let length = text.get(at..).and_then(|t| t.chars().next()).map_or(1, char::len_utf8);
            out.push_str(text.get(at..at + length).unwrap_or_default());
            at += length;
        }
    }
    out
}

/// What tenant b sees of a run in which a does these things between.
async fn seen_by_b(script: &[(bool, Act)], with_a: bool) -> String {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let (a, b) = (admin.account("a").await, admin.account("b").await);
    let server = flexfs_common::ids::ServerId::from_bytes([7; 16]);
    admin.register(&meta, server).await;
    let tenant = |client| Tenant { client, tokens: Vec::new(), seen: String::new() };
    let mut a = tenant(admin.client(&a.owner));
    let mut b = tenant(admin.client(&b.owner));
    for (is_a, act) in script {
        match (is_a, with_a) {
            (true, true) => a.act(act).await,
            (true, false) => {}
            (false, _) => b.act(act).await,
        }
        if !is_a {
            b.look().await;
        }
    }
    b.look().await;
    admin.stop().await;
    comparable(&b.seen)
}

proptest! {
    // More than of the others: half of the beginnings may do little.
    #![proptest_config(ProptestConfig {
        cases: cases() * 4,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_calls_bring_a_right_that_the_caller_lacks(
        role in beginning(),
        limits in limits(),
        grabs in proptest::collection::vec(grab(), 1..40),
    ) {
        run(async {
            let Some(mut thief) = Thief::new(role, limits).await else {
                return;
            };
            for grab in &grabs {
                thief.try_to(grab).await;
                thief.check().await;
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tenant_sees_nothing_of_what_another_does(
        script in proptest::collection::vec((any::<bool>(), act()), 1..25),
    ) {
        run(async {
            let alone = seen_by_b(&script, false).await;
            let together = seen_by_b(&script, true).await;
            let differing = alone.lines().zip(together.lines()).find(|(x, y)| x != y);
            assert_eq!(differing, None, "of {script:?}");
            assert_eq!(alone.lines().count(), together.lines().count());
        });
    }
}
