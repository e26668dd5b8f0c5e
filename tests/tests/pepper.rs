//! The drill: the pepper is changed, lost, and changed by a program that dies,
//! while clients go on. No token is refused, and no wrong one accepted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking and tell their seeds, their helpers too"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::{Code, tls};
use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::files::Noise;
use flexfs_tests::process::{COMMAND, Daemon, Run};
use flexfs_tests::rpc::{Calls, secret};
use flexfs_tests::wait::{pass, wait_for, wait_until};
use serde_json::Value;
use tokio::runtime::Runtime;

/// For what programs notice and report within seconds.
const NOTICED: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tls::install_provider();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A client that validates its tokens again and again. While admin is away it
/// tries again; every other answer than "good" is kept.
struct Asking {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<Code>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Asking {
    fn start(runtime: &Runtime, cluster: &Cluster, tokens: Vec<Secret>) -> Asking {
        let calls = runtime.block_on(async { Calls::to(cluster) });
        let (stop, rounds, wrong) = (Arc::default(), Arc::default(), Arc::default());
        let task = {
            let (stop, rounds, wrong) =
                (Arc::clone(&stop), Arc::clone(&rounds), Arc::clone(&wrong));
            runtime.spawn(Asking::run((calls, tokens), stop, rounds, wrong))
        };
        Asking { stop, rounds, wrong, task }
    }

    async fn run(
        (calls, tokens): (Calls, Vec<Secret>),
        stop: Arc<AtomicBool>,
        rounds: Arc<AtomicU64>,
        wrong: Arc<Mutex<Vec<Code>>>,
    ) {
        while !stop.load(Ordering::Relaxed) {
            let mut all = true;
            for token in &tokens {
                match calls.who_am_i(token).await {
                    Ok(id) => assert_eq!(id, token.id().to_string()),
                    Err(error) if error.kind() == flexfs_common::Kind::Unavailable => all = false,
                    Err(error) => wrong.lock().unwrap().push(error.code()),
                }
            }
            if all {
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until every token was good twice from now on.
    fn goes_on(&self) {
        let now = self.rounds.load(Ordering::Relaxed);
        wait_until("a client goes on", NOTICED, || self.rounds.load(Ordering::Relaxed) >= now + 2);
    }

    fn end(self, runtime: &Runtime) {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.task).unwrap();
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "good tokens were refused: {wrong:?}");
    }
}

/// A cluster with tokens.
struct Drill {
    cluster: Cluster,
    runtime: Runtime,
    /// `--db` of admin, if it is not the default.
    db: Vec<String>,
    tokens: Vec<Token>,
}

impl Drill {
    fn new(cluster: Cluster, tokens: usize) -> Drill {
        cluster.volume("work");
        let tokens = (0..tokens).map(|_| cluster.volume_token("work", &[])).collect();
        let url = cluster.postgres_url();
        let db = url.map_or_else(Vec::new, |file| {
            vec!["--db".to_owned(), format!("file:{}", file.display())]
        });
        Drill { cluster, runtime: runtime(), db, tokens }
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        words.iter().copied().chain(self.db.iter().map(String::as_str)).collect()
    }

    fn recover(&self, words: &[&str]) -> Run {
        self.cluster.run("admin.flexfs", &self.words(&[&["recover"], words].concat()))
    }

    fn file(&self) -> PathBuf {
        self.cluster.home().join("admin/pepper")
    }

    /// The peppers other than the current one, as `status` tells them.
    fn others(&self) -> Vec<Value> {
        let status = self.cluster.run("admin.flexfs", &["status", "-o", "json"]).json();
        status["otherPeppers"].as_array().expect("a list").clone()
    }

    fn current(&self) -> String {
        let status = self.cluster.run("admin.flexfs", &["status", "-o", "json"]).json();
        status["pepperID"].as_str().unwrap().to_owned()
    }

    /// Waits until so many live secrets lie under this pepper, and that alone.
    fn left_under(&self, id: &str, state: &str, live: u64) {
        let mut seen = Vec::new();
        let told = wait_for_or(NOTICED, || {
            seen = self.others();
            seen.len() == 1
                && seen[0]["id"] == id
                && seen[0]["state"] == state
                && seen[0]["liveSecrets"] == live
        });
        assert!(told, "not {live} {state} under {id}: {seen:?}");
    }

    fn calls(&self) -> Calls {
        self.runtime.block_on(async { Calls::to(&self.cluster) })
    }

    /// What admin says, once the limit on refusals lets it speak.
    fn verdict(&self, calls: &Calls, token: &Secret) -> Result<String, Code> {
        wait_for("a verdict", NOTICED, || {
            let answer = self.runtime.block_on(calls.who_am_i(token)).map_err(|e| e.code());
            (answer != Err(Code::RateLimited)).then_some(answer)
        })
    }

    /// Each of these is good, and another secret of it is not.
    fn good(&self, tokens: &[Token]) {
        let calls = self.calls();
        for token in tokens {
            let text = secret(token);
            let wrong = Secret::generate_for(TokenKind::Volume, text.id()).unwrap();
            assert_eq!(self.verdict(&calls, &wrong), Err(Code::TokenUnknown));
            assert_eq!(self.verdict(&calls, &text), Ok(token.id.clone()));
            assert_eq!(self.verdict(&calls, &wrong), Err(Code::TokenUnknown));
        }
    }

    fn restart(&mut self) {
        self.cluster.stop_admin();
        self.cluster.restart_admin();
    }
}

fn wait_for_or(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        pass(Duration::from_millis(20));
    }
}

/// Of nine tokens, four clients use six; mounts write all the while.
fn clients_go_on_while_the_pepper_is_changed(cluster: Cluster) {
    let mut drill = Drill::new(cluster, 9);
    let old = drill.current();
    let (used, unused) = (drill.tokens[..6].to_vec(), drill.tokens[6..].to_vec());
    let mounts: Vec<_> = used[..2].iter().map(|token| drill.cluster.mount("work", token)).collect();
    let clients: Vec<_> = [&used[..2], &used[2..4], &used[4..], &used[..]]
        .into_iter()
        .map(|tokens| tokens.iter().map(secret).collect())
        .map(|tokens| Asking::start(&drill.runtime, &drill.cluster, tokens))
        .collect();
    clients.iter().for_each(Asking::goes_on);
    // Not while it runs.
    drill.recover(&["--newPepper"]).fails(6, "DAEMON_RUNNING");
    assert_eq!(drill.current(), old);
    drill.cluster.stop_admin();
    for (n, mount) in mounts.iter().enumerate() {
        fs::write(mount.path(&n.to_string()), "while admin is away").unwrap();
    }
    drill.recover(&["--newPepper"]).ok();
    drill.cluster.restart_admin();
    clients.iter().for_each(Asking::goes_on);
    for (n, mount) in mounts.iter().enumerate() {
        assert_eq!(fs::read(mount.path(&n.to_string())).unwrap(), b"while admin is away");
        fs::write(mount.path(&n.to_string()), "with the new pepper").unwrap();
    }
    // The volume's own token was never used either.
    let idle = unused.len() as u64 + 1;
    drill.left_under(&old, "earlier", idle);
    drill.recover(&["--dropPepper", &old]).fails(6, "PEPPER_IN_USE");
    clients.into_iter().for_each(|client| client.end(&drill.runtime));
    mounts.into_iter().for_each(flexfs_tests::mount::Mount::stop);
    // Later, and after a restart.
    drill.restart();
    drill.good(&drill.tokens);
    drill.left_under(&old, "earlier", 1);
    let own = drill.cluster.json(&["list", "volume-tokens", "--volumeID", "work"]);
    let items = own["items"].as_array().unwrap();
    let own = items.iter().map(|item| item["id"].as_str().unwrap());
    let own: Vec<_> = own.filter(|id| drill.tokens.iter().all(|t| t.id != *id)).collect();
    assert_eq!(own.len(), 1);
    drill.cluster.configure(&["revoke", "volume-token", own[0]]).ok();
    drill.left_under(&old, "earlier", 0);
    drill.recover(&["--dropPepper", &old]).ok();
    assert_eq!(fs::read_dir(drill.cluster.home().join("admin/pepper.d")).unwrap().count(), 0);
    drill.restart();
    assert!(drill.others().is_empty());
    drill.good(&drill.tokens);
    drill.cluster.verify_clean();
}

#[test]
fn clients_go_on_while_the_pepper_is_changed_on_sqlite() {
    clients_go_on_while_the_pepper_is_changed(Cluster::start());
}

#[test]
fn clients_go_on_while_the_pepper_is_changed_on_postgres() {
    clients_go_on_while_the_pepper_is_changed(Cluster::start_on_postgres());
}

#[test]
fn a_lost_pepper_is_replaced_and_no_token_with_it() {
    let mut drill = Drill::new(Cluster::start(), 4);
    let old = drill.current();
    let mount = drill.cluster.mount("work", &drill.tokens[0]);
    fs::write(mount.path("f"), "before").unwrap();
    drill.cluster.stop_admin();
    fs::remove_file(drill.file()).unwrap();
    // It says what to do, and makes none up.
    let address = drill.cluster.admin_address().to_owned();
    let start = ["start", "--bindAddr", &address];
    for words in [&start[..], &["recover"]] {
        let said = drill.cluster.run("admin.flexfs", words);
        let said = said.fails(6, "PEPPER_MISMATCH");
        assert!(said.contains("recover --newPepper"), "{said}");
    }
    assert!(!drill.file().exists());
    let said = drill.recover(&["--newPepper"]);
    assert!(said.ok().contains(&format!("{old} is lost")), "{}", said.stdout);
    drill.cluster.restart_admin();
    drill.good(&drill.tokens[..2]);
    fs::write(mount.path("g"), "after").unwrap();
    let again = drill.cluster.mount("work", &drill.tokens[1]);
    assert_eq!(fs::read(again.path("g")).unwrap(), b"after");
    // Two that were not used, and the volume's own.
    drill.left_under(&old, "lost", 3);
    drill.restart();
    drill.good(&drill.tokens);
    drill.left_under(&old, "lost", 1);
    again.stop();
    mount.stop();
}

/// From another home over the same database, where no lock tells of it.
#[test]
fn an_admin_whose_pepper_was_changed_behind_its_back_ends() {
    let cluster = Cluster::start();
    let home = cluster.root().join("elsewhere");
    fs::create_dir_all(home.join("admin")).unwrap();
    fs::copy(cluster.home().join("admin/pepper"), home.join("admin/pepper")).unwrap();
    let db = format!("sqlite:{}", cluster.home().join("admin/flexfs.db").display());
    let mut recover = cluster.program("admin.flexfs");
    recover.env("FLEXFS_HOME", &home).args(["recover", "--newPepper", "--db", &db]);
    Run::of(&mut recover, COMMAND).ok();
    wait_until("admin ends", NOTICED, || {
        let status = cluster.run("admin.flexfs", &["status"]);
        status.code == 7 && status.stderr.contains("DAEMON_NOT_RUNNING")
    });
    let log = fs::read_to_string(cluster.log("admin")).unwrap();
    assert!(log.contains("PEPPER_MISMATCH"), "{log}");
}

/// kill -9 at random instants of the command.
#[test]
fn a_killed_change_of_the_pepper_locks_nobody_out() {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed);
    eprintln!("seed {seed}");
    let mut chance = Noise::new(seed);
    let mut drill = Drill::new(Cluster::start(), 2);
    let rounds = if std::env::var_os("FLEXFS_TEST_BIG").is_some() { 200 } else { 16 };
    drill.cluster.stop_admin();
    let begun = Instant::now();
    drill.recover(&["--newPepper"]).ok();
    let whole = begun.elapsed();
    drill.cluster.restart_admin();
    let mut changed = 0;
    for round in 0..rounds {
        let is_lost = round % 4 == 3;
        let before = drill.current();
        drill.cluster.stop_admin();
        if is_lost {
            fs::remove_file(drill.file()).unwrap();
        }
        let mut command = drill.cluster.program("admin.flexfs");
        command.args(drill.words(&["recover", "--newPepper"]));
        let dying = Daemon::start(&mut command, &drill.cluster.root().join("logs/recover"));
        let steps = u64::try_from(whole.as_micros() / 10).unwrap().max(1);
        pass(Duration::from_micros(chance.next_number() % steps * 10));
        dying.kill9();
        if is_lost {
            // Until it counts the server would not start; again is always right.
            drill.recover(&["--newPepper"]).ok();
        }
        drill.cluster.restart_admin();
        drill.good(&drill.tokens);
        changed += u32::from(drill.current() != before);
    }
    eprintln!("{changed} of {rounds} changed the pepper");
    // What is left of them can go, but for the first, which the volume's own
    // token needs, and the last, which the tokens have only just left.
    drill.restart();
    let mut gone = Vec::new();
    for other in drill.others() {
        let id = other["id"].as_str().unwrap();
        let dropped = Run::of(
            drill.cluster.program("admin.flexfs").args(["recover", "--dropPepper", id]),
            COMMAND,
        );
        // Who uses it may leave it at any moment, and nobody comes to it.
        if other["liveSecrets"] == 0 || dropped.succeeded() {
            dropped.ok();
            gone.push(id.to_owned());
        } else {
            dropped.fails(6, "PEPPER_IN_USE");
        }
    }
    drill.restart();
    assert!(drill.others().iter().all(|other| gone.iter().all(|id| other["id"] != **id)));
    drill.good(&drill.tokens);
}
