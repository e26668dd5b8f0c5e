//! Rotation under load: while the secrets of a token, or of meta's own, change
//! again and again, nobody who follows notices.
//!
//! One test at a time: the delays are part of what is shown. `FLEXFS_TEST_BIG=1`
//! makes the first of them large.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Error;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::{Code, tls};
use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::mount::Mount;
use flexfs_tests::rpc::{Calls, Feed, secret, secret_in};
use flexfs_tests::wait::{wait_for, wait_until, within};
use rustix::io::Errno;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

/// For what programs notice and report within seconds.
const NOTICED: Duration = Duration::from_secs(30);
/// In which meta's feed is back after its token has changed.
const BACK: Duration = Duration::from_secs(2);
/// Programs on a mount never wait longer than this: far below a lease.
const UNNOTICED: Duration = Duration::from_secs(4);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A failed test before this one has nothing to do with it.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_big() -> bool {
    std::env::var_os("FLEXFS_TEST_BIG").is_some()
}

fn runtime() -> Runtime {
    tls::install_provider();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Puts another token into a credentials file: the file is replaced whole.
fn bring(creds: &Path, token: &Secret) {
    let mut all = Credentials::read(creds).unwrap();
    token.reveal().clone_into(&mut all.token);
    all.write(creds, true).unwrap();
}

/// `rotate`: the token as it is from now on.
fn rotate(cluster: &Cluster, kind: &str, id: &str, more: &[&str]) -> Token {
    cluster.keep(&cluster.json(&[&["rotate", kind, id][..], more].concat()))
}

/// Mounts that live from the newest secret, and from all earlier ones.
fn sessions(cluster: &Cluster, id: &str) -> (u64, u64) {
    let status = cluster.json(&["rotation", "status", id]);
    let count = |secret: &serde_json::Value| {
        let hosts = secret["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().filter_map(|host| host["sessions"].as_u64()).sum::<u64>()
    };
    let secrets = status["secrets"].as_array().unwrap();
    let (newest, earlier) = secrets.split_last().unwrap();
    (count(newest), earlier.iter().map(count).sum())
}

/// A thread that uses a mount without pause, all contents checked, until an
/// error or its end.
struct Load {
    thread: JoinHandle<Worked>,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

/// What it has seen.
struct Worked {
    failed: Option<Error>,
    slowest: Duration,
}

impl Load {
    fn start(mount: &Mount) -> Load {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&calls));
        let dir = mount.path("load");
        fs::create_dir_all(&dir).unwrap();
        let mut options = OpenOptions::new();
        let held = options.read(true).write(true).create(true).open(dir.join("held")).unwrap();
        let thread = std::thread::spawn(move || {
            let mut worked = Worked { failed: None, slowest: Duration::ZERO };
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) && worked.failed.is_none() {
                let begun = Instant::now();
                worked.failed = round(&dir, &held, number, &counted).err();
                worked.slowest = worked.slowest.max(begun.elapsed());
                number += 1;
            }
            worked
        });
        let load = Load { thread, stop, calls };
        wait_until("the load runs", NOTICED, || load.count() > 50);
        load
    }

    /// System calls that succeeded.
    fn count(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn ended(self) -> Worked {
        within("a system call on the mount", NOTICED, || self.thread.join().unwrap())
    }

    /// Ends it; nothing may have failed. The number of calls, and the longest
    /// round of them.
    #[track_caller]
    fn finish(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let calls = Arc::clone(&self.calls);
        let worked = self.ended();
        let calls = calls.load(Ordering::Relaxed);
        assert!(worked.failed.is_none(), "after {calls} system calls: {:?}", worked.failed);
        assert!(worked.slowest < UNNOTICED, "a round of system calls took {:?}", worked.slowest);
        (calls, worked.slowest)
    }
}

/// Some of everything, in a file that stays open and in new ones.
fn round(dir: &Path, held: &File, number: u64, count: &AtomicU64) -> Result<(), Error> {
    let called = |calls: u64| {
        count.fetch_add(calls, Ordering::Relaxed);
    };
    let bytes = number.to_le_bytes().repeat(600);
    let (new, name) = (dir.join("new"), dir.join(format!("f{}", number % 16)));
    held.write_all_at(&bytes, number % 32 * 4096)?;
    called(1);
    let mut back = vec![0; bytes.len()];
    held.read_exact_at(&mut back, number % 32 * 4096)?;
    called(1);
    assert!(back == bytes, "other bytes than were written");
    let file = File::create(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    drop(file);
    called(4);
    fs::rename(&new, &name)?;
    called(1);
    assert!(fs::read(&name)? == bytes, "other bytes than were written");
    called(3);
    assert_eq!(fs::metadata(&name)?.len(), 4800);
    called(1);
    for entry in fs::read_dir(dir)? {
        entry?;
    }
    called(3);
    if number.is_multiple_of(5) {
        fs::remove_file(&name)?;
        held.sync_data()?;
        called(2);
    }
    Ok(())
}

/// Clients that ask admin without pause whether the secrets are good that
/// they know to be: the newest, and one before it inside its overlap.
struct Askers {
    /// Held for reading during a call, so that none is under way with a
    /// secret that is taken out.
    known: Arc<RwLock<Vec<Secret>>>,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Askers {
    fn start(runtime: &Runtime, cluster: &Cluster, volume: &str, first: Secret) -> Askers {
        let mut askers = Askers {
            known: Arc::new(RwLock::new(vec![first])),
            stop: Arc::default(),
            asked: Arc::default(),
            failed: Arc::default(),
            tasks: Vec::new(),
        };
        let meta = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
        for number in 0..4_usize {
            let calls = runtime.block_on(async { Calls::to(cluster) });
            let known = Arc::clone(&askers.known);
            let (stop, asked) = (Arc::clone(&askers.stop), Arc::clone(&askers.asked));
            let (failed, meta) = (Arc::clone(&askers.failed), meta.clone());
            let volume = volume.to_owned();
            askers.tasks.push(runtime.spawn(async move {
                let mut turn = number;
                while !stop.load(Ordering::Relaxed) {
                    let known = known.read().await;
                    let token = &known[turn / 2 % known.len()];
                    let answer = match turn % 2 {
                        0 => calls.validate(&meta, token, &volume).await.map(drop),
                        _ => calls.who_am_i(token).await.map(drop),
                    };
                    if let Err(error) = answer {
                        failed.lock().unwrap().push(error.with_causes());
                    }
                    drop(known);
                    asked.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                }
            }));
        }
        askers
    }

    fn count(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends them; nothing may have been refused.
    #[track_caller]
    fn finish(self, runtime: &Runtime) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            runtime.block_on(task).unwrap();
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} refusals: {:?}", failed.len(), failed.first());
        self.asked.load(Ordering::Relaxed)
    }
}

/// The secret that has ended is refused at once, in both ways.
fn assert_ended(runtime: &Runtime, cluster: &Cluster, token: &Secret, volume: &str) {
    let meta = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
    runtime.block_on(async {
        let calls = Calls::to(cluster);
        let refusal = calls.who_am_i(token).await.unwrap_err();
        assert_eq!(refusal.code(), Code::TokenRotated, "{refusal:?}");
        let refusal = calls.validate(&meta, token, volume).await.unwrap_err();
        assert_eq!(refusal.code(), Code::TokenRotated, "{refusal:?}");
    });
}

#[test]
fn a_token_is_rotated_over_and_over_under_load_and_nobody_notices() {
    let _one = one_at_a_time();
    let (rotations, validations) = if is_big() { (40, 100_000) } else { (5, 4_000) };
    let (cluster, runtime) = (Cluster::start(), runtime());
    let first = cluster.volume("work");
    let mount = cluster.mount("work", &first);
    let before = mount.status();
    let load = Load::start(&mount);
    let askers = Askers::start(&runtime, &cluster, "work", secret(&first));
    let begun = Instant::now();
    let (mut done, mut old) = (0, secret(&first));
    while done < rotations || askers.count() < validations {
        let new = secret(&rotate(&cluster, "volume-token", &first.id, &["--overlap", "1h"]));
        askers.known.blocking_write().push(new.clone());
        bring(mount.creds(), &new);
        wait_until("the mount lives from the new secret", NOTICED, || {
            sessions(&cluster, &first.id) == (1, 0)
        });
        askers.known.blocking_write().remove(0);
        // By force: the askers have used the old one a moment ago.
        cluster.json(&["rotation", "finish", &first.id, "--force", "--wait"]);
        assert_ended(&runtime, &cluster, &old, "work");
        old = new;
        done += 1;
    }
    let took = begun.elapsed();
    let asked = askers.finish(&runtime);
    let after = mount.status();
    for name in ["sessionID", "pid", "tokenID"] {
        assert_eq!(before[name], after[name], "another {name}");
    }
    assert_eq!(after["state"], "live");
    // A mount that does not follow is cut by the next end: the load would see it.
    let calls = load.count();
    rotate(&cluster, "volume-token", &first.id, &[]);
    assert!(load.count() >= calls && !load.thread.is_finished());
    let done_json = cluster.json(&["rotation", "finish", &first.id, "--force", "--wait"]);
    assert_eq!(done_json["sessionsCut"], 1, "{done_json}");
    let worked = load.ended();
    let errno = worked.failed.as_ref().and_then(Error::raw_os_error);
    assert_eq!(errno, Some(Errno::KEYREVOKED.raw_os_error()), "{:?}", worked.failed);
    assert!(worked.slowest < UNNOTICED, "{:?}", worked.slowest);
    eprintln!(
        "{done} rotations in {took:.1?}: {asked} validations, {calls} system calls, none failed; \
         the longest round took {:?}",
        worked.slowest
    );
    cluster.verify_clean();
}

/// Watches meta's feed: the longest time for which it was not live.
struct FeedWatch {
    thread: JoinHandle<Duration>,
    stop: std::sync::mpsc::Sender<()>,
}

impl FeedWatch {
    fn start(cluster: &Cluster) -> FeedWatch {
        let (stop, stopped) = std::sync::mpsc::channel();
        let creds = cluster.home().join("meta/creds");
        let runtime = runtime();
        let feed = runtime.block_on(async { Feed::of(cluster) });
        let thread = std::thread::spawn(move || {
            let (mut longest, mut away) = (Duration::ZERO, None);
            loop {
                let own = secret_in(&creds, TokenKind::Meta);
                // Asked just when the file changed: the next answer tells.
                if let Ok(state) = runtime.block_on(feed.state(&own)) {
                    let since = *away.get_or_insert_with(Instant::now);
                    longest = longest.max(since.elapsed());
                    if state == "live" {
                        away = None;
                    }
                }
                let end = stopped.recv_timeout(Duration::from_millis(20));
                if end != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return longest;
                }
            }
        });
        FeedWatch { thread, stop }
    }

    fn finish(self) -> Duration {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// A change reaches meta and is acknowledged: how long that took.
fn round_trip(cluster: &Cluster, volume: &str) -> Duration {
    let token = cluster.volume_token(volume, &[]);
    let begun = Instant::now();
    let done = cluster.revoke(&token).json();
    assert_eq!(done["metas"][0]["acknowledged"], true, "{done}");
    begun.elapsed()
}

fn meta_token(cluster: &Cluster) -> Secret {
    secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta)
}

#[test]
fn metas_own_token_is_rotated_under_load() {
    let _one = one_at_a_time();
    let (cluster, runtime) = (Cluster::start(), runtime());
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let session = mount.status()["sessionID"].clone();
    let load = Load::start(&mount);
    let creds = cluster.home().join("meta/creds");
    let calls = runtime.block_on(async { Calls::to(&cluster) });
    let (mut silent, mut trips) = (Vec::new(), Vec::new());
    for _turn in 0..3 {
        let old = meta_token(&cluster);
        let id = old.id().to_string();
        let watch = FeedWatch::start(&cluster);
        let new = secret(&rotate(&cluster, "meta-token", &id, &["--overlap", "1h"]));
        trips.push(round_trip(&cluster, "work"));
        bring(&creds, &new);
        let uses = |secret: usize| {
            let status = cluster.json(&["rotation", "status", &id]);
            let secrets = status["secrets"].as_array().unwrap();
            secrets[secrets.len() - 1 - secret]["uses"].as_u64().unwrap()
        };
        wait_until("meta to use the new secret", NOTICED, || uses(0) > 0);
        trips.push(round_trip(&cluster, "work"));
        cluster.json(&["rotation", "finish", &id, "--force", "--wait"]);
        let refusal = runtime.block_on(calls.who_am_i(&old)).unwrap_err();
        assert_eq!(refusal.code(), Code::TokenRotated);
        runtime.block_on(calls.who_am_i(&new)).unwrap();
        trips.push(round_trip(&cluster, "work"));
        silent.push(watch.finish());
    }
    assert_eq!(mount.status()["sessionID"], session);
    let (calls, slowest) = load.finish();
    eprintln!(
        "meta's own token: the feed was away for {silent:?}, changes took {trips:?}; {calls} \
         system calls, none failed, the longest round took {slowest:?}"
    );
    assert!(silent.iter().all(|time| *time < BACK), "the feed was away for {silent:?}");
    mount.stop();
    cluster.verify_clean();
}

#[test]
fn meta_keeps_its_mounts_while_its_own_token_is_refused() {
    let _one = one_at_a_time();
    let (cluster, runtime) = (Cluster::start(), runtime());
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let session = mount.status()["sessionID"].clone();
    let load = Load::start(&mount);
    let creds = cluster.home().join("meta/creds");
    let feed = runtime.block_on(async { Feed::of(&cluster) });
    let state = || runtime.block_on(feed.state(&meta_token(&cluster))).unwrap_or_default();
    let mut back = Vec::new();
    for _turn in 0..3 {
        let old = meta_token(&cluster);
        let id = old.id().to_string();
        let new = secret(&rotate(&cluster, "meta-token", &id, &["--emergency"]));
        wait_until("meta to be refused", NOTICED, || state() == "refused (TOKEN_ROTATED)");
        // Nothing is known of new mounts; those that are there go on.
        let (init, other) = cluster.init_mount("work", &token);
        init.ok();
        let dir = cluster.new_mount_point();
        cluster.start_mount("work", &dir, &other, &[]).fails(7, "META_UNREGISTERED");
        let count = load.count();
        wait_until("the load to go on", NOTICED, || load.count() > count + 100);
        bring(&creds, &new);
        let begun = Instant::now();
        wait_for("the feed to live again", NOTICED, || (state() == "live").then_some(()));
        back.push(begun.elapsed());
        round_trip(&cluster, "work");
        cluster.start_mount("work", &dir, &other, &[]).ok();
        cluster.mounted(dir, other).stop();
    }
    assert_eq!(mount.status()["sessionID"], session);
    let (calls, slowest) = load.finish();
    eprintln!(
        "meta's own token, ended before the file: the feed came back in {back:?}; {calls} system \
         calls, none failed, the longest round took {slowest:?}"
    );
    assert!(back.iter().all(|time| *time < BACK), "the feed came back after {back:?}");
    // The end of the mount's own token, said now, arrives.
    let load = Load::start(&mount);
    cluster.revoke(&token).ok();
    assert!(load.ended().failed.is_some());
}
