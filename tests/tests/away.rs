//! Rights while somebody is away (P1, P6): a feed that is silent, an admin out
//! of reach or with an older database, a mount without its server. Everything
//! ends in bounded time, and nothing that ended comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too, and measurements are printed"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_common::Code;
use flexfs_proto::v1::GetStatusRequest;
use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::live::{Live, metadata_errno, refusal, revocation, token};
use flexfs_tests::meta::{Meta, Options};
use flexfs_tests::proxy::Way;
use flexfs_tests::raw::{Admin, RawSession, block_on, system};
use flexfs_tests::{Mount, wait_until, within};
use rustix::io::Errno;
use rustix::process::Signal;

/// Between two operations while something is waited for.
const PACE: Duration = Duration::from_millis(20);
/// Something that has not come by then does not come.
const LIMIT: Duration = Duration::from_secs(40);
/// A silent feed is noticed and its server knows everything again (P1).
const SILENT: Duration = Duration::from_secs(6);
/// The feed's last word was up to this long before its link was cut.
const WORD: Duration = Duration::from_secs(2);
/// A mount without its server stops (P1): its lease.
const LEASE: Duration = Duration::from_secs(10);
/// What a busy machine may add to any of them.
const SLACK: Duration = Duration::from_millis(1500);
const KEY_REVOKED: i32 = Errno::KEYREVOKED.raw_os_error();
const KEY_EXPIRED: i32 = Errno::KEYEXPIRED.raw_os_error();

/// Works on until it fails: how long after `since`, and with what.
async fn fails(live: &mut Live, since: Instant) -> (Duration, Code) {
    loop {
        if let Err(error) = live.read().await {
            return (since.elapsed(), error.code());
        }
        assert!(since.elapsed() < LIMIT, "a session that was to fail still works");
        // It paces the load; what is waited for is the failure.
        tokio::time::sleep(PACE).await;
    }
}

/// Tries until it works: how long that took.
async fn works_again(live: &mut Live) -> Duration {
    let begun = Instant::now();
    while let Err(error) = live.read().await {
        assert!(begun.elapsed() < LIMIT, "a session still fails: {error}");
        tokio::time::sleep(PACE).await;
    }
    begun.elapsed()
}

async fn open(cluster: &Cluster, volume: &str, token: &Token) -> Live {
    Live::open(cluster, volume, token).await.unwrap()
}

#[test]
fn a_silent_feed_delays_a_revocation_by_six_seconds_at_most() {
    let cluster = Cluster::start();
    let meta = Meta::start(&cluster, "there", &Options::default());
    let full = cluster.volume_at("there", "work", &[]);
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let mut bystander = open(&cluster, "work", &full).await;
        for way in [Way::Both, Way::Back] {
            let token = token(&cluster, &mut admin, "work").await;
            let mut live = open(&cluster, "work", &token).await;
            let mount = cluster.mount("work", &token);
            assert!(meta.to_admin.connections() > 0);
            let (session, known) = (bystander.session.clone(), full.clone());
            meta.to_admin.silence(way);
            // What meta has to tell admin must not make it wait for longer.
            let busy = tokio::spawn(async move {
                loop {
                    session.open_again("work", &known).await.expect("a known token");
                    tokio::time::sleep(PACE * 20).await;
                }
            });
            admin.revoke_token(revocation(&token)).await.unwrap();
            let (late, code) = fails(&mut live, Instant::now()).await;
            assert!(!busy.is_finished(), "known tokens open sessions");
            busy.abort();
            eprintln!("{way:?} silent: a revocation took {late:?}");
            assert_eq!(code, Code::TokenRevoked);
            assert!(late < SILENT, "{late:?}");
            // The feed was silent indeed.
            assert!(late > Duration::from_secs(1), "{late:?}");
            wait_until("the mount is cut", Duration::from_secs(1), || {
                metadata_errno(&mount) == Some(KEY_REVOKED)
            });
            bystander.write().await.expect("nobody revoked it");
            assert_eq!(refusal(&bystander.session, "work", &token).await, Code::TokenRevoked);
        }
        // What meta says is lost, but not what it hears: no delay at all.
        let known = token(&cluster, &mut admin, "work").await;
        let mut live = open(&cluster, "work", &known).await;
        meta.to_admin.silence(Way::Out);
        admin.revoke_token(revocation(&known)).await.unwrap();
        let (late, code) = fails(&mut live, Instant::now()).await;
        eprintln!("Out silent: a revocation took {late:?}");
        assert_eq!(code, Code::TokenRevoked);
        assert!(late < Duration::from_secs(1), "{late:?}");
        // And it finds out that nobody hears it: a new token is admitted.
        let unknown = token(&cluster, &mut admin, "work").await;
        let begun = Instant::now();
        while bystander.session.open_again("work", &unknown).await.is_err() {
            assert!(begun.elapsed() < LIMIT, "a new token is not admitted");
            tokio::time::sleep(PACE).await;
        }
        eprintln!("Out silent: a new token was admitted after {:?}", begun.elapsed());
    });
}

/// An outage of admin as one server sees it.
struct Outage {
    full: Token,
    /// Never used before.
    unknown: Token,
    /// Before the outage.
    revoked: Token,
    live: Live,
    mount: Mount,
    /// When it began.
    begun: Instant,
}

impl Outage {
    async fn begin(cluster: &Cluster, meta: &Meta, admin: &mut Admin) -> Outage {
        let full = cluster.volume_at("there", "work", &[]);
        let (unknown, revoked) =
            (token(cluster, admin, "work").await, token(cluster, admin, "work").await);
        let mut ended = open(cluster, "work", &revoked).await;
        let live = open(cluster, "work", &full).await;
        let mount = cluster.mount("work", &full);
        fs::write(mount.path("file"), "kept").unwrap();
        admin.revoke_token(revocation(&revoked)).await.unwrap();
        assert_eq!(fails(&mut ended, Instant::now()).await.1, Code::TokenRevoked);
        meta.to_admin.refuse();
        Outage { full, unknown, revoked, live, mount, begun: Instant::now() }
    }

    /// What holds whether there is grace left or not.
    async fn nothing_new(&self) {
        let session = &self.live.session;
        assert_eq!(refusal(session, "work", &self.revoked).await, Code::TokenRevoked);
        assert_eq!(refusal(session, "work", &self.unknown).await, Code::AdminUnreachable);
    }

    /// Known tokens go on, and open sessions.
    async fn goes_on(&mut self) {
        self.live.write().await.expect("within the grace");
        let more = self.live.session.open_again("work", &self.full).await.expect("a known token");
        Live::connect(more).await.expect("within the grace");
        assert_eq!(fs::read(self.mount.path("file")).unwrap(), b"kept");
        self.nothing_new().await;
    }

    /// The grace ends: how long after the beginning.
    async fn ends(&mut self) -> Duration {
        let (late, code) = fails(&mut self.live, self.begun).await;
        assert_eq!(code, Code::TokenExpired);
        wait_until("the mount stops", Duration::from_secs(1), || {
            metadata_errno(&self.mount) == Some(KEY_EXPIRED)
        });
        let (session, full) = (&self.live.session, &self.full);
        assert_eq!(refusal(session, "work", full).await, Code::AdminUnreachable);
        self.nothing_new().await;
        late
    }

    /// Admin is back, and everything goes on by itself.
    async fn over(&mut self, meta: &Meta) {
        meta.to_admin.restore();
        let took = works_again(&mut self.live).await;
        eprintln!("admin is back: a session works after {took:?}");
        let mount = &self.mount;
        wait_until("the mount goes on", LIMIT, || metadata_errno(mount).is_none());
        assert_eq!(fs::read(mount.path("file")).unwrap(), b"kept");
        let session = &self.live.session;
        assert_eq!(refusal(session, "work", &self.revoked).await, Code::TokenRevoked);
        session.open_again("work", &self.unknown).await.expect("admin confirms it");
    }
}

#[test]
fn known_tokens_go_on_for_the_grace_and_no_longer() {
    const GRACE: Duration = Duration::from_secs(8);
    let cluster = Cluster::start();
    let arguments = ["--adminGrace", "8s"];
    let options = Options { arguments: &arguments, ..Options::default() };
    let meta = Meta::start(&cluster, "there", &options);
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let mut outage = Outage::begin(&cluster, &meta, &mut admin).await;
        outage.goes_on().await;
        // Made while this server cannot hear of it: felt when the grace ends,
        // and final when admin is back.
        let late_token = outage.full.clone();
        let ended = outage.ends().await;
        eprintln!("a grace of {GRACE:?} ended {ended:?} after the link");
        assert!(ended > GRACE - WORD - SLACK && ended < GRACE + SLACK, "{ended:?}");
        outage.over(&meta).await;
        meta.to_admin.refuse();
        admin.revoke_token(revocation(&late_token)).await.unwrap();
        outage.live.read().await.expect("this server cannot know yet");
        meta.to_admin.restore();
        let (late, code) = fails(&mut outage.live, Instant::now()).await;
        eprintln!("admin is back: a revocation of the outage took {late:?}");
        assert_eq!(code, Code::TokenRevoked);
        assert!(late < SILENT, "{late:?}");
    });
}

#[test]
fn a_restart_during_the_outage_neither_renews_the_grace_nor_forgets_a_revocation() {
    const GRACE: Duration = Duration::from_secs(14);
    /// The last word is written down every 5 s, and what lies between is
    /// counted as used.
    const WRITTEN: Duration = Duration::from_secs(5);
    let cluster = Cluster::start();
    let arguments = ["--adminGrace", "14s"];
    let options = Options { arguments: &arguments, ..Options::default() };
    let mut meta = Meta::start(&cluster, "there", &options);
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let mut outage = Outage::begin(&cluster, &meta, &mut admin).await;
        for _ in 0..2 {
            meta.kill9();
            meta.restart();
            let session = outage.live.session.clone();
            outage.live = Live::connect(session).await.expect("sessions outlive a restart");
            outage.goes_on().await;
        }
        let ended = outage.ends().await;
        eprintln!("a grace of {GRACE:?} ended {ended:?} after the link, over two restarts");
        let least = GRACE - WORD - WRITTEN - SLACK;
        assert!(ended > least && ended < GRACE + SLACK, "{ended:?}");
        // Nor does a restart after its end.
        meta.kill9();
        meta.restart();
        let session = outage.live.session.clone();
        let resumed = Live::connect(session.clone()).await.map(|_| "it works").unwrap_err();
        assert_eq!(resumed.code(), Code::TokenExpired);
        outage.nothing_new().await;
        meta.to_admin.restore();
        wait_until("admin confirms the token", LIMIT, || metadata_errno(&outage.mount).is_none());
        outage.live = Live::connect(session).await.unwrap();
        outage.over(&meta).await;
    });
}

#[test]
fn without_a_grace_nothing_is_opened_and_everything_stops_when_the_feed_is_dead() {
    let cluster = Cluster::start();
    let arguments = ["--adminGrace", "0"];
    let options = Options { arguments: &arguments, ..Options::default() };
    let mut meta = Meta::start(&cluster, "there", &options);
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let mut outage = Outage::begin(&cluster, &meta, &mut admin).await;
        // No session of whatever token, as soon as meta has seen that the link is
        // gone: it was closed, which takes no more than a moment.
        let (session, full) = (&outage.live.session, &outage.full);
        let begun = Instant::now();
        let refused = loop {
            match session.open_again("work", full).await {
                Ok(_) => assert!(begun.elapsed() < SLACK, "sessions are still opened"),
                Err(error) => break error.code(),
            }
            tokio::time::sleep(PACE).await;
        };
        assert_eq!(refused, Code::AdminUnreachable);
        outage.nothing_new().await;
        let ended = outage.ends().await;
        eprintln!("without a grace live sessions ended {ended:?} after the link");
        assert!(ended < Duration::from_secs(5) + SLACK, "{ended:?}");
        meta.kill9();
        meta.restart();
        let session = outage.live.session.clone();
        let resumed = Live::connect(session.clone()).await.map(|_| "it works").unwrap_err();
        assert_eq!(resumed.code(), Code::TokenExpired, "a restart opens nothing");
        meta.to_admin.restore();
        wait_until("admin confirms the token", LIMIT, || metadata_errno(&outage.mount).is_none());
        outage.live = Live::connect(session).await.unwrap();
        outage.over(&meta).await;
    });
}

/// Reads that the mount answers from its caches, without pause.
struct Cached {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    /// Of those that succeeded.
    count: Arc<AtomicU64>,
    /// The last that succeeded, and what the last that failed did with.
    seen: Arc<Mutex<(Instant, Option<i32>)>>,
}

impl Cached {
    /// Of a file of its own.
    fn start(mount: &Mount) -> Cached {
        let path = mount.path(&uuid::Uuid::new_v4().to_string());
        fs::write(&path, vec![1; 4096]).unwrap();
        let file = File::open(path).unwrap();
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let seen = Arc::new(Mutex::new((Instant::now(), None)));
        let shared = (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let (stop, count, seen) = shared;
            while !stop.load(Ordering::Relaxed) {
                let outcome = file.read_exact_at(&mut [0; 4096], 0);
                let mut seen = seen.lock().unwrap();
                match outcome {
                    Ok(()) => {
                        seen.0 = Instant::now();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => seen.1 = Some(error.raw_os_error().unwrap_or(-1)),
                }
                drop(seen);
                // It leaves processor to the programs.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let cached = Cached { thread, stop, count, seen };
        wait_until("reads succeed", LIMIT, || cached.count.load(Ordering::Relaxed) > 20);
        cached
    }

    fn last_success(&self) -> Instant {
        self.seen.lock().unwrap().0
    }

    /// Waits until nothing has succeeded for two seconds: how long after
    /// `since` the last did, and the last error.
    fn stopped(&self, since: Instant) -> (Duration, Option<i32>) {
        wait_until("reads stop", LIMIT, || self.last_success().elapsed() > WORD);
        let seen = *self.seen.lock().unwrap();
        (seen.0.saturating_duration_since(since), seen.1)
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        within("the reader ends", LIMIT, || self.thread.join().unwrap());
    }
}

#[test]
fn a_mount_whose_link_is_cut_stops_by_itself_at_the_end_of_its_lease() {
    let cluster = Cluster::start();
    let meta = Meta::start(&cluster, "there", &Options::default());
    let full = cluster.volume_at("there", "work", &[]);
    let token = cluster.volume_token("work", &[]);
    // The second's token is revoked while nobody can tell it.
    let mounts = [cluster.mount("work", &full), cluster.mount("work", &token)];
    fs::create_dir(mounts[0].path("d")).unwrap();
    let readers = mounts.each_ref().map(Cached::start);
    meta.from_mounts.swallow();
    let begun = Instant::now();
    // The server has cut the session; the mount is named, because it cannot
    // say that it knows.
    cluster.configure(&["revoke", "volume-token", &token.id]).ok();
    let calls = [0, 1].map(|number| {
        let (stopped, _) = readers[number].stopped(begun);
        eprintln!("without its server a mount served reads for {stopped:?}");
        assert!(stopped < LEASE + SLACK / 3, "{stopped:?}");
        // The renewal before was up to one interval old.
        assert!(stopped > LEASE - WORD - SLACK, "{stopped:?}");
        // A call waits for a server that may be starting again.
        let path = mounts[number].path("d");
        std::thread::spawn(move || {
            let called = Instant::now();
            let errno = fs::create_dir(path).expect_err("it exists").raw_os_error();
            (called.elapsed(), errno.unwrap())
        })
    });
    let long = std::env::var_os("FLEXFS_TEST_LONG").is_some();
    if long {
        // It fails even if the server never comes back.
        wait_until("calls give up", LIMIT * 2, || calls.iter().all(JoinHandle::is_finished));
    }
    meta.from_mounts.restore();
    wait_until("the mount goes on", LIMIT, || metadata_errno(&mounts[0]).is_none());
    fs::write(mounts[0].path("after"), "the outage").unwrap();
    wait_until("the mount is cut", LIMIT, || metadata_errno(&mounts[1]) == Some(KEY_REVOKED));
    let served = readers[1].last_success().duration_since(begun);
    assert!(served < LEASE + SLACK / 3, "reads of a revoked token at {served:?}");
    let outcomes = calls.map(|call| within("a call", LIMIT, || call.join().unwrap()));
    eprintln!("calls that began without a server: {outcomes:?}");
    let errnos = outcomes.map(|(_, errno)| errno);
    let io = Errno::IO.raw_os_error();
    let there = Errno::EXIST.raw_os_error();
    assert_eq!(errnos, if long { [io, io] } else { [there, KEY_REVOKED] });
    readers.into_iter().for_each(Cached::finish);
}

#[test]
fn a_mount_finds_another_way_before_its_lease_ends() {
    let cluster = Cluster::start();
    let meta = Meta::start(&cluster, "there", &Options::default());
    let full = cluster.volume_at("there", "work", &[]);
    let mount = cluster.mount("work", &full);
    let reader = Cached::start(&mount);
    for way in [Way::Back, Way::Out, Way::Both] {
        meta.from_mounts.silence(way);
        let begun = Instant::now();
        let path = mount.path(&format!("{way:?}"));
        within("a write over a new connection", LIMIT, move || fs::write(path, "x")).unwrap();
        let took = begun.elapsed();
        eprintln!("{way:?} silent: a write took {took:?}");
        assert!(took < LEASE + SLACK, "{took:?}");
    }
    assert_eq!(reader.seen.lock().unwrap().1, None, "cached reads never failed");
    reader.finish();
}

/// admin's database, as a file that is not in use.
fn database(cluster: &Cluster) -> PathBuf {
    cluster.home().join("admin/flexfs.db")
}

fn copy_database(from: &Path, to: &Path) {
    for end in ["-wal", "-shm"] {
        let beside = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        assert!(!beside(from).exists(), "a database that was closed is one file");
        // Of a database that is replaced.
        let _ = fs::remove_file(beside(to));
    }
    fs::copy(from, to).unwrap();
}

fn meta_log(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.log("meta")).unwrap()
}

/// The lines of meta's log that report a token as revoked here alone.
fn reports(cluster: &Cluster, token: &Token) -> usize {
    let log = meta_log(cluster);
    log.lines().filter(|l| l.contains(&token.id) && l.contains("not in admin's database")).count()
}

#[test]
fn an_older_copy_of_admins_database_brings_no_revoked_token_back() {
    let mut cluster = Cluster::start();
    let full = cluster.volume("work");
    let token = cluster.volume_token("work", &[]);
    let older = cluster.root().join("older.db");
    let state = |cluster: &Cluster| {
        let shown = cluster.json(&["show", "volume-token", &token.id]);
        shown["state"].as_str().unwrap().to_owned()
    };
    let refused = async |cluster: &Cluster, why: &str| {
        let outcome = RawSession::open(cluster, "work", &token).await.map(|_| "it opened");
        assert_eq!(outcome.unwrap_err().code(), Code::TokenRevoked, "{why}");
    };
    block_on(async {
        let mut live = open(&cluster, "work", &token).await;
        let mut stays = open(&cluster, "work", &full).await;
        cluster.stop_admin();
        copy_database(&database(&cluster), &older);
        cluster.restart_admin();
        // Acknowledged: this server is ahead of the older copy.
        cluster.revoke(&token).ok();
        assert_eq!(fails(&mut live, Instant::now()).await.1, Code::TokenRevoked);
        assert_eq!((state(&cluster).as_str(), reports(&cluster, &token)), ("revoked", 0));
        cluster.stop_admin();
        copy_database(&older, &database(&cluster));
        cluster.restart_admin();
        assert_eq!(state(&cluster), "active", "admin has forgotten it");
        wait_until("meta reports it", LIMIT, || reports(&cluster, &token) == 1);
        refused(&cluster, "a lower revision").await;
        stays.write().await.expect("nobody revoked it");
        // The feed goes on from there: what comes is acknowledged.
        let other = cluster.volume_token("work", &[]);
        let mount = cluster.mount("work", &other);
        let told = cluster.revoke(&other).json();
        assert_eq!(told["sessionsCut"], 1, "{told}");
        assert_eq!(metadata_errno(&mount), Some(KEY_REVOKED));
        assert!(!meta_log(&cluster).contains("an acknowledgement of what was not sent"));
        // A server that starts knows it still, and says so again.
        cluster.kill9_meta();
        cluster.restart_meta();
        wait_until("meta reports it again", LIMIT, || reports(&cluster, &token) == 2);
        refused(&cluster, "after a restart").await;
        // Revoked again, everybody agrees.
        cluster.revoke(&token).ok();
        cluster.kill9_meta();
        cluster.restart_meta();
        refused(&cluster, "revoked again").await;
        assert_eq!(reports(&cluster, &token), 2);
    });
}

#[test]
fn an_older_copy_that_has_gone_on_by_itself_is_no_continuation() {
    let mut cluster = Cluster::start();
    cluster.volume("work");
    let token = cluster.volume_token("work", &[]);
    let older = cluster.root().join("older.db");
    let head = async |cluster: &Cluster| {
        let mut admin = system(cluster).unwrap();
        admin.get_status(GetStatusRequest {}).await.unwrap().into_inner().feed_revision
    };
    block_on(async {
        let mut live = open(&cluster, "work", &token).await;
        cluster.stop_admin();
        copy_database(&database(&cluster), &older);
        cluster.restart_admin();
        cluster.revoke(&token).ok();
        assert_eq!(fails(&mut live, Instant::now()).await.1, Code::TokenRevoked);
        let known = head(&cluster).await;
        // The older copy is ahead before the server hears of it.
        cluster.signal_meta(Signal::STOP);
        cluster.stop_admin();
        copy_database(&older, &database(&cluster));
        cluster.restart_admin();
        while head(&cluster).await <= known {
            cluster.volume_token("work", &[]);
        }
        cluster.signal_meta(Signal::CONT);
        wait_until("meta reports it", LIMIT, || reports(&cluster, &token) == 1);
        let outcome = RawSession::open(&cluster, "work", &token).await.map(|_| "it opened");
        assert_eq!(outcome.unwrap_err().code(), Code::TokenRevoked);
        // And what comes next is applied.
        let other = cluster.volume_token("work", &[]);
        let mut next = open(&cluster, "work", &other).await;
        cluster.revoke(&other).ok();
        assert_eq!(fails(&mut next, Instant::now()).await.1, Code::TokenRevoked);
    });
}

/// The database under another feed's id, as after a restore.
fn with_new_feed_id(mut database: Vec<u8>, id: &str, new: &str) -> Vec<u8> {
    let places: Vec<usize> = (0..database.len().saturating_sub(id.len()))
        .filter(|at| database[*at..].starts_with(id.as_bytes()))
        .collect();
    assert!(!places.is_empty() && id.len() == new.len(), "{id} is not in the database");
    for at in places {
        database[at..at + id.len()].copy_from_slice(new.as_bytes());
    }
    database
}

#[test]
fn a_feed_with_a_new_id_is_followed_and_forgets_no_revocation() {
    let mut cluster = Cluster::start();
    let full = cluster.volume("work");
    let [token, later] = [0, 1].map(|_| cluster.volume_token("work", &[]));
    let status = async |cluster: &Cluster| {
        let mut admin = system(cluster).unwrap();
        admin.get_status(GetStatusRequest {}).await.unwrap().into_inner()
    };
    block_on(async {
        let mut stays = open(&cluster, "work", &full).await;
        let mut last = open(&cluster, "work", &later).await;
        let mut ended = open(&cluster, "work", &token).await;
        cluster.stop_admin();
        let older = fs::read(database(&cluster)).unwrap();
        cluster.restart_admin();
        system(&cluster).unwrap().revoke_token(revocation(&token)).await.unwrap();
        assert_eq!(fails(&mut ended, Instant::now()).await.1, Code::TokenRevoked);
        let id = status(&cluster).await.feed_id;
        cluster.stop_admin();
        let new = uuid::Uuid::new_v4().to_string();
        fs::write(database(&cluster), with_new_feed_id(older, &id, &new)).unwrap();
        cluster.restart_admin();
        assert_eq!(status(&cluster).await.feed_id, new);
        wait_until("meta follows the new feed", LIMIT, || {
            meta_log(&cluster).contains("other_feed=true")
        });
        wait_until("meta reports it", LIMIT, || reports(&cluster, &token) == 1);
        let outcome = RawSession::open(&cluster, "work", &token).await.map(|_| "it opened");
        assert_eq!(outcome.unwrap_err().code(), Code::TokenRevoked);
        stays.write().await.expect("nobody revoked it");
        last.read().await.expect("nobody revoked it yet");
        system(&cluster).unwrap().revoke_token(revocation(&later)).await.unwrap();
        let (late, code) = fails(&mut last, Instant::now()).await;
        eprintln!("a revocation by the new feed took {late:?}");
        assert_eq!(code, Code::TokenRevoked);
        assert!(late < Duration::from_secs(1), "{late:?}");
    });
}
