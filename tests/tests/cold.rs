//! Everything was restarted, and all tokens come at once: each costs argon2id
//! again. All are served, and no account waits for all of another's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::Result;
use flexfs_proto::v1::CreateVolumeTokenRequest;
use flexfs_tests::cluster::Cluster;
use flexfs_tests::proxy::Proxy;
use flexfs_tests::raw::{Admin, block_on, system};
use flexfs_tests::rpc::{Calls, Feed, secret_in};
use flexfs_tests::wait_until;

/// A debug build on busy cores.
const LIMIT: Duration = Duration::from_secs(60);

/// The volume tokens of an account.
struct Tenant {
    volume: &'static str,
    tokens: Vec<Secret>,
}

impl Tenant {
    async fn new(cluster: &Cluster, admin: &mut Admin, name: &'static str, count: usize) -> Tenant {
        let account = cluster.json(&["create", "account", "--name", name]);
        let id = account["id"].as_str().unwrap().to_owned();
        cluster.volume_with(name, &["--accountID", &id]);
        let mut tokens = Vec::new();
        for _ in 0..count {
            let token = Secret::generate(TokenKind::Volume).unwrap();
            let request = CreateVolumeTokenRequest {
                token: Some(token.to_wire()),
                account_id: id.clone(),
                volume: name.to_owned(),
                ..CreateVolumeTokenRequest::default()
            };
            admin.create_volume_token(request).await.unwrap();
            cluster.secrets().add(token.reveal());
            tokens.push(token);
        }
        Tenant { volume: name, tokens }
    }
}

/// Counts who was served.
#[derive(Debug, Default)]
struct Served(AtomicUsize);

impl Served {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Shows every token of a tenant at once: tasks that say what came of it.
fn show<F>(tenant: &Tenant, served: &Arc<Served>, ask: impl Fn(Secret, &'static str) -> F) -> Shown
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    let tasks = tenant.tokens.iter().map(|token| {
        let (served, asking) = (Arc::clone(served), ask(token.clone(), tenant.volume));
        tokio::spawn(async move {
            let outcome = asking.await;
            served.0.fetch_add(1, Ordering::SeqCst);
            outcome
        })
    });
    Shown(tasks.collect())
}

struct Shown(Vec<tokio::task::JoinHandle<Result<String>>>);

impl Shown {
    /// All of them were found good.
    async fn all(self) {
        for task in self.0 {
            let outcome = tokio::time::timeout(LIMIT, task).await.expect("somebody starves");
            outcome.unwrap().expect("a good token");
        }
    }
}

/// Many tokens of one account come, and while they wait, few of another.
async fn crowd(
    many: (&Tenant, &(impl Fn(Secret, &'static str) -> Asking + Sync)),
    few: (&Tenant, &(impl Fn(Secret, &'static str) -> Asking + Sync)),
) {
    let (crowd, late) = (Arc::new(Served::default()), Arc::new(Served::default()));
    let first = show(many.0, &crowd, many.1);
    wait_for_one(&crowd).await;
    let second = show(few.0, &late, few.1);
    second.all().await;
    // A few of the crowd for each of the late ones; far from all of it.
    // With many cores some rounds of all of them are much of the crowd.
    let waiting = many.0.tokens.len() - crowd.count();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let demanded = few.0.tokens.len().min(many.0.tokens.len().saturating_sub(8 * cores));
    assert!(waiting >= demanded, "only {waiting} of the crowd still wait");
    first.all().await;
    assert_eq!(crowd.count(), many.0.tokens.len());
}

type Asking = std::pin::Pin<Box<dyn Future<Output = Result<String>> + Send>>;

async fn wait_for_one(served: &Arc<Served>) {
    let served = Arc::clone(served);
    let waiting = move || wait_until("the first is served", LIMIT, || served.count() > 0);
    tokio::task::spawn_blocking(waiting).await.unwrap();
}

#[test]
fn after_a_restart_of_everything_all_tokens_open_sessions_and_no_account_waits_for_another() {
    let mut cluster = Cluster::start();
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let many = Tenant::new(&cluster, &mut admin, "many", 48).await;
        let few = Tenant::new(&cluster, &mut admin, "few", 12).await;
        let own = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
        // Another machine.
        let elsewhere = Proxy::start_as(Ipv4Addr::new(127, 0, 0, 2), cluster.meta_address());
        let open = |feed: &Arc<Feed>| {
            let feed = Arc::clone(feed);
            move |token: Secret, volume: &'static str| -> Asking {
                let feed = Arc::clone(&feed);
                Box::pin(async move { feed.open_session(&token, volume).await })
            }
        };
        // All of them have been here before, as mounts have.
        let here = Arc::new(Feed::of(&cluster));
        let served = Arc::new(Served::default());
        show(&many, &served, open(&here)).all().await;
        show(&few, &served, open(&here)).all().await;
        cluster.stop_meta();
        cluster.stop_admin();
        cluster.restart_admin();
        cluster.restart_meta();
        let feeds = [cluster.meta_address(), elsewhere.address()]
            .map(|address| Arc::new(Feed::through(&cluster, address)));
        for feed in &feeds {
            // Connected, and the feed lives: admin is asked.
            while feed.state(&own).await.unwrap_or_default() != "live" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        crowd((&many, &open(&feeds[0])), (&few, &open(&feeds[1]))).await;
    });
}

#[test]
fn at_admin_itself_cold_tokens_of_accounts_take_turns() {
    let mut cluster = Cluster::start();
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let many = Tenant::new(&cluster, &mut admin, "many", 80).await;
        let few = Tenant::new(&cluster, &mut admin, "few", 8).await;
        cluster.stop_admin();
        cluster.restart_admin();
        let own = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
        let calls = Calls::to(&cluster);
        let ask = |token: Secret, volume: &'static str| -> Asking {
            let (calls, own) = (calls.clone(), own.clone());
            Box::pin(async move { calls.validate(&own, &token, volume).await })
        };
        // The server's own token is cold, too.
        let known = Secret::parse(&cluster.volume("known").text()).unwrap();
        calls.validate(&own, &known, "known").await.unwrap();
        crowd((&many, &ask), (&few, &ask)).await;
    });
}
