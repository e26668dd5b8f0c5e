//! The life of tokens against a model in memory: random calls, and what each
//! secret is answered afterwards, on both databases. Time passes by moving all
//! stored times back.

use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1;
use proptest::prelude::*;

use super::harness::{Client, Running, Site, again, code, generate, make_volume, used};
use crate::store::{Kind, Value, tokens};

/// Seconds of one step of the model's clock: far above what a test takes.
const STEP: u64 = 1000;

#[derive(Clone, Debug)]
enum Call {
    Create { kind: TokenKind, ends: Option<u64>, idle: Option<u64>, begins: Option<u64> },
    Rotate { which: usize, overlap: Option<u64> },
    RotateAgain { which: usize },
    Finish { which: usize, force: bool },
    Revoke { which: usize },
    Disable { which: usize },
    Enable { which: usize },
    Update { which: usize, ends: Option<Option<u64>>, idle: Option<u64> },
    Delete { which: usize },
    Suspend,
    Resume,
    Use { which: usize, secret: usize },
    Pass { steps: u64 },
    Purge,
    Restart,
}

fn call() -> impl Strategy<Value = Call> {
    // Few tokens, so that much happens to each.
    let which = || 0..3_usize;
    let span = || proptest::option::of(1..4_u64);
    let kind = prop_oneof![Just(TokenKind::Account), Just(TokenKind::Volume)];
    prop_oneof![
        2 => (kind, span(), span(), span())
            .prop_map(|(kind, ends, idle, begins)| Call::Create { kind, ends, idle, begins }),
        6 => (which(), proptest::option::weighted(0.8, 1..4_u64))
            .prop_map(|(which, overlap)| Call::Rotate { which, overlap }),
        1 => which().prop_map(|which| Call::RotateAgain { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, force)| Call::Finish { which, force }),
        1 => which().prop_map(|which| Call::Revoke { which }),
        1 => which().prop_map(|which| Call::Disable { which }),
        1 => which().prop_map(|which| Call::Enable { which }),
        1 => (which(), proptest::option::of(span()), proptest::option::of(0..4_u64))
            .prop_map(|(which, ends, idle)| Call::Update { which, ends, idle }),
        1 => which().prop_map(|which| Call::Delete { which }),
        1 => Just(Call::Suspend),
        1 => Just(Call::Resume),
        8 => (which(), 0..6_usize).prop_map(|(which, secret)| Call::Use { which, secret }),
        3 => (1..3_u64).prop_map(|steps| Call::Pass { steps }),
        2 => Just(Call::Purge),
        1 => Just(Call::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Secret {
    token: Token,
    ends: Option<u64>,
    retired: bool,
    used: Option<u64>,
    purged: bool,
}

impl Secret {
    fn live(&self, now: u64) -> bool {
        !self.retired && !self.purged && self.ends.is_none_or(|end| end > now)
    }
}

#[derive(Clone, Debug)]
struct Known {
    kind: TokenKind,
    ends: Option<u64>,
    idle: u64,
    begins: Option<u64>,
    used: Option<u64>,
    rotated: u64,
    revoked: bool,
    disabled: bool,
    deleted: bool,
    secrets: Vec<Secret>,
}

impl Known {
    fn expired(&self, now: u64) -> bool {
        let begin = self.begins.unwrap_or(0).max(self.rotated);
        let since = self.used.unwrap_or(0).max(begin);
        self.ends.is_some_and(|end| end <= now) || (self.idle > 0 && since + self.idle <= now)
    }
    fn lives(&self, now: u64) -> bool {
        !self.revoked && !self.expired(now)
    }
    fn live_secrets(&self, now: u64) -> Vec<usize> {
        (0..self.secrets.len()).filter(|i| self.secrets[*i].live(now)).collect()
    }
    /// What a caller with this secret is answered.
    fn answer(&self, secret: &Secret, now: u64, suspended: bool) -> Result<(), Code> {
        if self.deleted || secret.purged {
            Err(Code::TokenUnknown)
        } else if self.revoked {
            Err(Code::TokenRevoked)
        } else if !secret.live(now) {
            Err(Code::TokenRotated)
        } else if self.expired(now) {
            Err(Code::TokenExpired)
        } else if self.disabled {
            Err(Code::TokenDisabled)
        } else if self.begins.is_some_and(|begin| begin > now) {
            Err(Code::TokenNotYetValid)
        } else if suspended {
            Err(Code::AccountSuspended)
        } else {
            Ok(())
        }
    }
}

struct World {
    site: Site,
    admin: Running,
    system: Client,
    account: String,
    volume: String,
    known: Vec<Known>,
    now: u64,
    suspended: bool,
}

fn outcome<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Result<(), Code> {
    match result {
        Ok(_) => Ok(()),
        Err(status) => Err(code(Err::<(), _>(status))),
    }
}

fn at(steps: u64) -> v1::Timestamp {
    let at = clock::wall_now().checked_add(Duration::from_secs(steps * STEP)).unwrap();
    wire::timestamp_to_wire(at)
}

impl World {
    async fn new(kind: Kind) -> World {
        let site = Site::new(kind);
        let admin = site.start().await;
        admin.stores().await;
        let tenant = admin.account("a").await;
        let (volume, _) = make_volume(&mut admin.client(&tenant.owner), "v").await;
        let system = admin.system();
        World {
            site,
            admin,
            system,
            account: tenant.id,
            volume: volume.id,
            known: Vec::new(),
            now: 0,
            suspended: false,
        }
    }

    fn pick(&self, which: usize) -> Option<usize> {
        (!self.known.is_empty()).then(|| which % self.known.len())
    }

    fn named(&self, index: usize) -> (String, String, String) {
        let known = &self.known[index];
        let id = known.secrets[0].token.id().to_string();
        (known.kind.name().to_owned(), id, self.account.clone())
    }

    async fn create(&mut self, call: &Call) {
        let Call::Create { kind, ends, idle, begins } = call.clone() else { return };
        let token = generate(kind);
        let begins = begins.filter(|begin| ends.is_none_or(|end| *begin < end));
        let (expires_at, not_before) = (ends.map(at), begins.map(at));
        let idle_seconds = idle.unwrap_or(0) * STEP;
        let result = if kind == TokenKind::Account {
            let request = v1::CreateAccountTokenRequest {
                token: Some(token.to_wire()),
                account_id: self.account.clone(),
                role: "viewer".into(),
                expires_at,
                not_before,
                idle_seconds,
                ..Default::default()
            };
            outcome(self.system.create_account_token(request).await)
        } else {
            let request = v1::CreateVolumeTokenRequest {
                token: Some(token.to_wire()),
                account_id: self.account.clone(),
                volume: self.volume.clone(),
                expires_at,
                not_before,
                idle_seconds,
                ..Default::default()
            };
            outcome(self.system.create_volume_token(request).await)
        };
        if self.suspended {
            assert_eq!(result, Err(Code::AccountSuspended));
            return;
        }
        assert_eq!(result, Ok(()));
        let first = Secret { token, ends: None, retired: false, used: None, purged: false };
        self.known.push(Known {
            kind,
            ends: ends.map(|end| self.now + end),
            idle: idle.unwrap_or(0),
            begins: begins.map(|begin| self.now + begin),
            used: None,
            rotated: self.now,
            revoked: false,
            disabled: false,
            deleted: false,
            secrets: vec![first],
        });
    }

    async fn rotate(&mut self, index: usize, overlap: Option<u64>) {
        let (kind, id, account_id) = self.named(index);
        let token = again(&self.known[index].secrets[0].token);
        let request = v1::RotateTokenRequest {
            kind,
            id,
            account_id,
            token: Some(token.to_wire()),
            overlap_seconds: overlap.unwrap_or(0) * STEP,
            emergency: overlap.is_none(),
            wait_millis: 0,
        };
        let result = outcome(self.system.rotate_token(request).await);
        let now = self.now;
        let known = &mut self.known[index];
        let live = known.live_secrets(now);
        let expected = if known.deleted {
            Err(Code::TokenNotFound)
        } else if !known.lives(now) {
            Err(Code::AlreadyEnded)
        } else if overlap.is_some() && live.len() >= 5 {
            Err(Code::RotationFull)
        } else {
            Ok(())
        };
        assert_eq!(result, expected, "rotate");
        if expected.is_ok() {
            for old in live {
                let secret = &mut known.secrets[old];
                match overlap {
                    None => secret.retired = true,
                    Some(overlap) => {
                        let end = now + overlap;
                        secret.ends = Some(secret.ends.map_or(end, |before| before.min(end)));
                    }
                }
            }
            let secret = Secret { token, ends: None, retired: false, used: None, purged: false };
            known.secrets.push(secret);
            known.rotated = now;
        }
    }

    async fn rotate_again(&mut self, index: usize) {
        let (kind, id, account_id) = self.named(index);
        let known = &self.known[index];
        let last = known.secrets.last().unwrap();
        let request = v1::RotateTokenRequest {
            kind,
            id,
            account_id,
            token: Some(last.token.to_wire()),
            ..Default::default()
        };
        let expected = if known.deleted {
            Err(Code::TokenNotFound)
        } else if known.lives(self.now) {
            Ok(())
        } else {
            Err(Code::AlreadyEnded)
        };
        assert_eq!(outcome(self.system.rotate_token(request).await), expected, "again");
    }

    async fn finish(&mut self, index: usize, force: bool) {
        let (kind, id, account_id) = self.named(index);
        let request = v1::FinishRotationRequest { kind, id, account_id, force, wait_millis: 0 };
        let result = outcome(self.system.finish_rotation(request).await);
        let now = self.now;
        let known = &mut self.known[index];
        let live = known.live_secrets(now);
        let old = live.split_last().map_or(&[][..], |(_, old)| old);
        let in_use = old.iter().any(|i| known.secrets[*i].used == Some(now));
        let expected = if known.deleted {
            Err(Code::TokenNotFound)
        } else if known.revoked {
            Err(Code::AlreadyEnded)
        } else if in_use && !force {
            Err(Code::RotationInUse)
        } else {
            Ok(())
        };
        assert_eq!(result, expected, "finish");
        if expected.is_ok() {
            for index in old {
                known.secrets[*index].retired = true;
            }
        }
    }

    async fn end(&mut self, call: &Call, index: usize) {
        let (kind, id, account_id) = self.named(index);
        let now = self.now;
        let (result, expected) = match call {
            Call::Revoke { .. } => {
                let request = v1::RevokeTokenRequest { kind, id, account_id, ..Default::default() };
                (outcome(self.system.revoke_token(request).await), Ok(()))
            }
            Call::Disable { .. } => {
                let request =
                    v1::DisableTokenRequest { kind, id, account_id, ..Default::default() };
                let ended = self.known[index].revoked;
                let expected = if ended { Err(Code::AlreadyEnded) } else { Ok(()) };
                (outcome(self.system.disable_token(request).await), expected)
            }
            Call::Enable { .. } => {
                let request = v1::GetTokenRequest { kind, id, account_id };
                let ended = self.known[index].revoked;
                let expected = if ended { Err(Code::AlreadyEnded) } else { Ok(()) };
                (outcome(self.system.enable_token(request).await), expected)
            }
            _ => {
                let request = v1::DeleteTokenRequest { kind, id, account_id };
                let lives = self.known[index].lives(now);
                let expected = if lives { Err(Code::NotEnded) } else { Ok(()) };
                (outcome(self.system.delete_token(request).await), expected)
            }
        };
        let known = &mut self.known[index];
        let expected = if known.deleted { Err(Code::TokenNotFound) } else { expected };
        assert_eq!(result, expected, "{call:?}");
        if expected.is_ok() {
            match call {
                Call::Revoke { .. } => known.revoked = true,
                Call::Disable { .. } => known.disabled = true,
                Call::Enable { .. } => known.disabled = false,
                _ => known.deleted = true,
            }
        }
    }

    async fn update(&mut self, index: usize, ends: Option<Option<u64>>, idle: Option<u64>) {
        let (kind, id, account_id) = self.named(index);
        let known = &mut self.known[index];
        // An end before the beginning is another test's matter.
        let ends = ends.filter(|end| {
            end.is_none_or(|end| known.begins.is_none_or(|begin| begin < self.now + end))
        });
        let request = v1::UpdateTokenRequest {
            kind,
            id,
            account_id,
            expires_at: ends.map(|end| v1::TimeChange { at: end.map(at) }),
            idle_seconds: idle.map(|idle| idle * STEP),
            ..Default::default()
        };
        let result = outcome(self.system.update_token(request).await);
        let expected = if known.deleted {
            Err(Code::TokenNotFound)
        } else if known.revoked {
            Err(Code::AlreadyEnded)
        } else {
            Ok(())
        };
        assert_eq!(result, expected, "update");
        if expected.is_ok() {
            if let Some(ends) = ends {
                known.ends = ends.map(|end| self.now + end);
            }
            if let Some(idle) = idle {
                known.idle = idle;
            }
        }
    }

    async fn check(&mut self, index: usize, secret: usize) {
        let (now, suspended) = (self.now, self.suspended);
        let known = &self.known[index];
        let expected = known.answer(&known.secrets[secret], now, suspended);
        let result = used(&self.admin, &known.secrets[secret].token).await;
        // What a source that floods is told of bad ones.
        let result = match result {
            Err(Code::RateLimited) => Err(Code::TokenUnknown),
            // A server that saw it alive may still know what it was.
            Err(Code::TokenRotated) if known.secrets[secret].purged => Err(Code::TokenUnknown),
            other => other,
        };
        assert_eq!(result, expected, "secret {secret} of {known:?} at {now}");
        if result.is_ok() {
            let known = &mut self.known[index];
            known.used = Some(now);
            known.secrets[secret].used = Some(now);
        }
    }

    async fn suspend(&mut self, suspended: bool) {
        let id = self.account.clone();
        if suspended {
            let request = v1::DisableAccountRequest { id, ..Default::default() };
            self.system.disable_account(request).await.unwrap();
        } else {
            let request = v1::GetRequest { id, ..Default::default() };
            self.system.enable_account(request).await.unwrap();
        }
        self.suspended = suspended;
    }

    /// Time passes: everything stored moves into the past, and every cache is
    /// told that something changed.
    async fn pass(&mut self, steps: u64) {
        self.admin.service.verifier().flush_used().await.unwrap();
        let mut tx = self.admin.store.begin().await.unwrap();
        let micros = i64::try_from(steps * STEP * 1_000_000).unwrap();
        for text in [
            "UPDATE tokens SET created_at = created_at - $1, rotated_at = rotated_at - $1, \
             expires_at = expires_at - $1, not_before = not_before - $1, \
             revoked_at = revoked_at - $1, last_used_at = last_used_at - $1 \
             WHERE kind = 'volume' OR role = 'viewer'",
            "UPDATE token_secrets SET created_at = created_at - $1, \
             expires_at = expires_at - $1, retired_at = retired_at - $1, \
             last_used_at = last_used_at - $1",
            "UPDATE secret_uses SET last_used_at = last_used_at - $1",
        ] {
            tx.sql().execute(text, vec![Value::from(micros)]).await.unwrap();
        }
        tx.commit_quietly().await.unwrap();
        self.now += steps;
        // What was cached is of another time.
        self.restart().await;
    }

    async fn restart(&mut self) {
        let next = self.site.start().await;
        self.system = next.system();
        std::mem::replace(&mut self.admin, next).stop().await;
    }

    /// Purges what ended at least a step ago.
    async fn purge(&mut self) {
        let retention = Duration::from_secs(STEP / 2);
        self.admin.service.purge(retention).await.unwrap();
        let now = self.now;
        for index in 0..self.known.len() {
            let id = self.known[index].secrets[0].token.id();
            let record = tokens::by_id(self.admin.store.reader().as_mut(), id).await.unwrap();
            let record = record.expect("an id is never forgotten");
            let known = &mut self.known[index];
            if record.deleted_at.is_some() && !known.deleted {
                assert!(!known.lives(now), "only what ended is purged: {known:?}");
                known.deleted = true;
            }
            let kept = crate::store::secrets::of_token(self.admin.store.reader().as_mut(), id)
                .await
                .unwrap();
            for secret in &mut known.secrets {
                let gone = self.admin.service.verifier().matching(&secret.token, &kept).is_none();
                if gone && !known.deleted {
                    assert!(!secret.live(now), "only ended secrets are purged");
                    secret.purged = true;
                }
            }
        }
    }

    async fn apply(&mut self, call: &Call) {
        match call {
            Call::Create { .. } => self.create(call).await,
            Call::Suspend => self.suspend(true).await,
            Call::Resume => self.suspend(false).await,
            Call::Pass { steps } => self.pass(*steps).await,
            Call::Purge => self.purge().await,
            Call::Restart => self.restart().await,
            Call::Rotate { which, .. }
            | Call::RotateAgain { which }
            | Call::Finish { which, .. }
            | Call::Revoke { which }
            | Call::Disable { which }
            | Call::Enable { which }
            | Call::Update { which, .. }
            | Call::Delete { which }
            | Call::Use { which, .. } => {
                let Some(index) = self.pick(*which) else { return };
                match call {
                    Call::Rotate { overlap, .. } => self.rotate(index, *overlap).await,
                    Call::RotateAgain { .. } => self.rotate_again(index).await,
                    Call::Finish { force, .. } => self.finish(index, *force).await,
                    Call::Update { ends, idle, .. } => self.update(index, *ends, *idle).await,
                    Call::Use { secret, .. } => {
                        let secret = secret % self.known[index].secrets.len();
                        self.check(index, secret).await;
                    }
                    other => self.end(other, index).await,
                }
            }
        }
    }

    /// Every secret there ever was is answered as the model says, and a living
    /// token has at least one good secret and at most five. Also in the
    /// middle of a flood from the same address, when memory answers.
    async fn check_all(&mut self) {
        while !self.admin.store.knows_tokens() {
            tokio::task::yield_now().await;
        }
        self.admin.service.verifier().exhaust(Some(self.admin.address.ip()));
        for index in 0..self.known.len() {
            for secret in 0..self.known[index].secrets.len() {
                self.check(index, secret).await;
            }
            let known = &self.known[index];
            let live = known.live_secrets(self.now).len();
            assert!(known.deleted || (1..=5).contains(&live), "{live} secrets: {known:?}");
        }
    }
}

fn run(kind: Kind, calls: &[Call]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(kind).await;
        for call in calls {
            world.apply(call).await;
        }
        world.check_all().await;
        world.admin.stop().await;
    });
}

fn cases() -> u32 {
    std::env::var("FLEXFS_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

proptest! {
    // Cheap here: rare meetings of calls need many lives.
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn tokens_live_as_the_model_says_on_sqlite(calls in proptest::collection::vec(call(), 20..80)) {
        run(Kind::Sqlite, &calls);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn tokens_live_as_the_model_says_on_postgres(calls in proptest::collection::vec(call(), 20..80)) {
        run(Kind::Postgres, &calls);
    }
}
