//! Wall clocks that jump by a day, each program's own, in both directions: no
//! right lasts longer for it or ends earlier. Ends of tokens are admin's clock
//! alone to judge; everything else counts on clocks that do not jump.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too, and measurements are printed"
)]

use std::fs;
use std::time::{Duration, Instant};

use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, clock, wire};
use flexfs_proto::v1::Timestamp;
use flexfs_tests::clock::FakeClock;
use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::live::{Live, metadata_errno, refusal, revocation, token, token_with};
use flexfs_tests::meta::{Meta, Options};
use flexfs_tests::raw::{Admin, RawSession, block_on, system};
use flexfs_tests::rpc::{Calls, Feed, secret, secret_in};
use flexfs_tests::{Mount, wait_until, within};
use rustix::io::Errno;

/// Seconds of a jump.
const DAY: i64 = 24 * 3600;
const BOTH_WAYS: [i64; 3] = [DAY, -DAY, 0];
/// Between two operations while something is waited for.
const PACE: Duration = Duration::from_millis(20);
/// Something that has not come by then does not come.
const LIMIT: Duration = Duration::from_secs(40);
/// A feed silent for this long is dead.
const DEAD: Duration = Duration::from_secs(5);
/// A mount without its server stops: its lease.
const LEASE: Duration = Duration::from_secs(10);
/// The feed's last word was up to this long before its link was cut.
const WORD: Duration = Duration::from_secs(2);
/// What a busy machine may add to any of them.
const SLACK: Duration = Duration::from_millis(1500);
const KEY_REVOKED: i32 = Errno::KEYREVOKED.raw_os_error();

async fn open(cluster: &Cluster, volume: &str, token: &Token) -> Live {
    Live::open(cluster, volume, token).await.unwrap()
}

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

async fn works_again(live: &mut Live) {
    let begun = Instant::now();
    while let Err(error) = live.read().await {
        assert!(begun.elapsed() < LIMIT, "a session still fails: {error}");
        tokio::time::sleep(PACE).await;
    }
}

/// The clock that said this is as far from ours as it was told to be: else
/// the test would show nothing.
#[track_caller]
fn assert_jumped(said: Option<&Timestamp>, seconds: i64) {
    let said = wire::timestamp_from_wire(said.expect("a time")).unwrap();
    let ahead = said.as_second() - clock::wall_now().as_second();
    assert!((ahead - seconds).abs() < 300, "a clock is {ahead} s before ours, not {seconds}");
}

/// A token that ends so long after now, by a clock that is right.
async fn ending(cluster: &Cluster, admin: &mut Admin, after: Duration) -> Token {
    let end = clock::wall_now().checked_add(after).unwrap();
    let made = token_with(cluster, admin, "work", |request| {
        request.expires_at = Some(wire::timestamp_to_wire(end));
    });
    made.await.0
}

/// More than the metadata keeps: objects, and signed URLs for them.
fn exchange(writer: &Mount, reader: &Mount) {
    let name = uuid::Uuid::new_v4().to_string();
    let bytes: Vec<u8> = name.bytes().cycle().take(1 << 20).collect();
    let (to, from) = (writer.path(&name), reader.path(&name));
    let read = within("a file from mount to mount", LIMIT, move || {
        fs::write(to, &bytes).unwrap();
        fs::read(from).unwrap() == bytes
    });
    assert!(read, "another file came back");
}

#[test]
fn admins_clock_jumps_and_nothing_else_changes() {
    let clock = FakeClock::new();
    let cluster = Cluster::start_under(&clock);
    let full = cluster.volume("work");
    let mounts = [cluster.mount("work", &full), cluster.mount("work", &full)];
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let feed = Feed::of(&cluster);
        let own = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
        let mut live = open(&cluster, "work", &full).await;
        for jump in BOTH_WAYS {
            clock.jump(jump);
            let (new, made) = token_with(&cluster, &mut admin, "work", |_| ()).await;
            assert_jumped(made.created_at.as_ref(), jump);
            let other = cluster.mount("work", &new);
            live.write().await.expect("nobody revoked it");
            exchange(&mounts[0], &mounts[1]);
            // The server knows of it at once, and admin knows that it does.
            let begun = Instant::now();
            let told = cluster.revoke(&new).json();
            let took = begun.elapsed();
            eprintln!("{jump} s: revoked, and acknowledged after {took:?}");
            assert_eq!(told["sessionsCut"], 1, "{told}");
            assert!(took < DEAD, "{took:?}");
            assert_eq!(metadata_errno(&other), Some(KEY_REVOKED));
            // Nor does the feed miss a heartbeat.
            let begun = Instant::now();
            while begun.elapsed() < DEAD + SLACK {
                assert_eq!(feed.state(&own).await.unwrap(), "live");
                tokio::time::sleep(PACE * 10).await;
            }
        }
        live.write().await.expect("nobody revoked it");
    });
}

#[test]
fn a_server_that_is_away_is_waited_for_whatever_admins_clock_says() {
    let clock = FakeClock::new();
    let cluster = Cluster::start_under(&clock);
    let meta = Meta::start(&cluster, "there", &Options::default());
    let full = cluster.volume_at("there", "work", &[]);
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let mut live = open(&cluster, "work", &full).await;
        meta.to_admin.refuse();
        for jump in [DAY, -DAY] {
            let token = token(&cluster, &mut admin, "work").await;
            clock.jump(jump);
            // It may go on for its grace, an hour by its own clock.
            let wait = ["revoke", "volume-token", &token.id, "--wait=2s"];
            cluster.configure(&wait).fails(7, "REVOKE_LAGGARDS");
            live.write().await.expect("within the grace");
        }
    });
}

#[test]
fn a_token_ends_by_admins_clock_and_a_session_with_it() {
    const LIFE: Duration = Duration::from_secs(10);
    let clock = FakeClock::new();
    let cluster = Cluster::start_under(&clock);
    let full = cluster.volume("work");
    block_on(async {
        let mut admin = system(&cluster).unwrap();
        let calls = Calls::to(&cluster);
        let own = secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
        let (begun, ends) = (Instant::now(), ending(&cluster, &mut admin, LIFE).await);
        let text = secret(&ends);
        let ask = async || calls.validate(&own, &text, "work").await.map_err(|e| e.code());
        let later = ending(&cluster, &mut admin, LIFE * 3).await;
        let mut live = open(&cluster, "work", &ends).await;
        clock.jump(DAY);
        // At once, although it was found good a moment ago.
        assert_eq!(ask().await.map(drop), Err(Code::TokenExpired));
        // A server that did not hear of it before the jump asks.
        let opened = RawSession::open(&cluster, "work", &later).await.map(|_| "it opened");
        assert_eq!(opened.unwrap_err().code(), Code::TokenExpired);
        // By admin's clock it lives again; the end is where it was.
        clock.jump(0);
        ask().await.expect("it has not ended");
        let (late, code) = fails(&mut live, begun).await;
        eprintln!("a life of {LIFE:?} ended after {late:?}");
        assert_eq!(code, Code::TokenExpired);
        assert!(late < LIFE + SLACK && late > LIFE - SLACK, "{late:?}");
        assert_eq!(ask().await.map(drop), Err(Code::TokenExpired));
        // A cut is final, even if admin's clock now says that there is time.
        clock.jump(-DAY);
        assert_eq!(fails(&mut live, Instant::now()).await.1, Code::TokenExpired);
        open(&cluster, "work", &full).await.write().await.expect("it has no end");
    });
}

/// A server with a clock of its own and what lives on it.
struct Site {
    meta: Meta,
    full: Token,
    live: Live,
}

impl Site {
    async fn start(cluster: &Cluster, clock: &FakeClock, arguments: &[&str]) -> Site {
        let environment = clock.environment();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let options = Options { arguments, environment: &environment };
        let meta = Meta::start(cluster, "there", &options);
        let full = cluster.volume_at("there", "work", &[]);
        let live = open(cluster, "work", &full).await;
        Site { meta, full, live }
    }

    /// Known tokens go on, and open sessions; what its clock says then.
    async fn goes_on(&mut self) -> Option<Timestamp> {
        self.live.write().await.expect("a known token");
        let more = self.live.session.open_again("work", &self.full).await.expect("a known token");
        more.reply.now
    }

    /// The grace ends: how long after `begun`.
    async fn ends(&mut self, begun: Instant) -> Duration {
        let (late, code) = fails(&mut self.live, begun).await;
        assert_eq!(code, Code::TokenExpired);
        self.opens_nothing().await;
        late
    }

    async fn opens_nothing(&self) {
        let refused = refusal(&self.live.session, "work", &self.full).await;
        assert_eq!(refused, Code::AdminUnreachable);
    }

    /// Its connection ended with the process before.
    async fn reconnect(&mut self) {
        let session = self.live.session.clone();
        self.live = Live::connect(session).await.expect("sessions outlive a restart");
    }
}

#[test]
fn a_servers_own_clock_jumps_and_nothing_ends_earlier_or_later() {
    const LIFE: Duration = Duration::from_secs(6);
    let (clock, cluster) = (FakeClock::new(), Cluster::start());
    block_on(async {
        let mut site = Site::start(&cluster, &clock, &[]).await;
        let mut admin = system(&cluster).unwrap();
        let mounts = [cluster.mount("work", &site.full), cluster.mount("work", &site.full)];
        for jump in BOTH_WAYS {
            let (begun, ends) = (Instant::now(), ending(&cluster, &mut admin, LIFE).await);
            let mut ends = open(&cluster, "work", &ends).await;
            let revoked = token(&cluster, &mut admin, "work").await;
            let mut revoked_live = open(&cluster, "work", &revoked).await;
            // Signed URLs are out that were made before the jump.
            exchange(&mounts[0], &mounts[1]);
            clock.jump(jump);
            assert_jumped(site.goes_on().await.as_ref(), jump);
            exchange(&mounts[0], &mounts[1]);
            exchange(&mounts[1], &mounts[0]);
            admin.revoke_token(revocation(&revoked)).await.unwrap();
            let (late, code) = fails(&mut revoked_live, Instant::now()).await;
            assert_eq!(code, Code::TokenRevoked);
            assert!(late < SLACK, "{late:?}");
            let (late, code) = fails(&mut ends, begun).await;
            eprintln!("{jump} s: a life of {LIFE:?} ended after {late:?}");
            assert_eq!(code, Code::TokenExpired);
            assert!(late < LIFE + SLACK && late > LIFE - SLACK, "{late:?}");
            site.goes_on().await;
        }
    });
}

#[test]
fn while_admin_is_away_a_servers_clock_neither_renews_the_grace_nor_cuts_it_short() {
    const GRACE: Duration = Duration::from_secs(8);
    let (clock, cluster) = (FakeClock::new(), Cluster::start());
    block_on(async {
        let mut site = Site::start(&cluster, &clock, &["--adminGrace", "8s"]).await;
        for jump in [DAY, -DAY] {
            site.goes_on().await;
            site.meta.to_admin.refuse();
            let begun = Instant::now();
            clock.jump(jump);
            assert_jumped(site.goes_on().await.as_ref(), jump);
            let late = site.ends(begun).await;
            eprintln!("{jump} s: a grace of {GRACE:?} ended after {late:?}");
            assert!(late > GRACE - WORD - SLACK && late < GRACE + SLACK, "{late:?}");
            // Nor does a jump after its end bring it back.
            clock.jump(-jump);
            site.opens_nothing().await;
            clock.jump(0);
            site.opens_nothing().await;
            site.meta.to_admin.restore();
            works_again(&mut site.live).await;
        }
        // Behind, it takes admin's certificate for not yet valid: the grace is
        // what it has, and admin's return is none until the clock is right.
        site.meta.to_admin.refuse();
        let begun = Instant::now();
        clock.jump(-DAY);
        site.meta.to_admin.restore();
        wait_until("meta tries", LIMIT, || site.meta.log().contains("not valid yet"));
        site.goes_on().await;
        let (late, code) = fails(&mut site.live, begun).await;
        assert_eq!(code, Code::TokenExpired);
        assert!(late > GRACE - WORD - SLACK && late < GRACE + SLACK, "{late:?}");
        let refused = refusal(&site.live.session, "work", &site.full).await;
        assert_eq!(refused, Code::PeerUntrusted);
        clock.jump(0);
        works_again(&mut site.live).await;
    });
}

#[test]
fn a_restart_under_another_clock_counts_the_grace_on() {
    const GRACE: Duration = Duration::from_secs(14);
    let (clock, cluster) = (FakeClock::new(), Cluster::start());
    block_on(async {
        let mut site = Site::start(&cluster, &clock, &["--adminGrace", "14s"]).await;
        for jump in [DAY, -DAY] {
            site.goes_on().await;
            site.meta.to_admin.refuse();
            let begun = Instant::now();
            // What it knows of the grace is written then, and every 5 s.
            site.meta.stop();
            clock.jump(jump);
            site.meta.restart();
            site.reconnect().await;
            assert_jumped(site.goes_on().await.as_ref(), jump);
            let late = site.ends(begun).await;
            eprintln!("{jump} s: a grace of {GRACE:?} ended after {late:?}, over a restart");
            let least = GRACE - WORD - SLACK;
            assert!(late > least && late < GRACE + SLACK, "{late:?}");
            clock.jump(0);
            site.meta.to_admin.restore();
            works_again(&mut site.live).await;
        }
    });
}

#[test]
fn after_a_reboot_with_the_clock_set_back_there_is_no_grace() {
    const HOUR: i64 = 3600;
    let (clock, cluster) = (FakeClock::new(), Cluster::start());
    block_on(async {
        let mut site = Site::start(&cluster, &clock, &["--adminGrace", "600s"]).await;
        for (jump, goes_on) in [(0, true), (300, true), (-HOUR / 2, false), (HOUR, false)] {
            clock.jump(0);
            site.meta.to_admin.restore();
            let session = site.live.session.clone();
            let begun = Instant::now();
            while session.open_again("work", &site.full).await.is_err() {
                assert!(begun.elapsed() < LIMIT, "admin is back, and nothing opens");
                tokio::time::sleep(PACE).await;
            }
            site.meta.to_admin.refuse();
            site.meta.stop();
            clock.jump(jump);
            site.meta.restart_in_another_boot();
            eprintln!("a reboot with the clock {jump} s on");
            if goes_on {
                session.open_again("work", &site.full).await.expect("within the grace");
            } else {
                site.opens_nothing().await;
            }
        }
    });
}

#[test]
fn a_mounts_clock_jumps_and_it_stays_what_it_was() {
    let (clock, cluster) = (FakeClock::new(), Cluster::start());
    let full = cluster.volume("work");
    let revoked = cluster.volume_token("work", &[]);
    let jumpy = cluster.mount_under(&clock, "work", &full);
    let cut = cluster.mount_under(&clock, "work", &revoked);
    let right = cluster.mount("work", &full);
    for jump in BOTH_WAYS {
        clock.jump(jump);
        let begun = Instant::now();
        // Longer than a lease: it is renewed, and never thought to be over.
        while begun.elapsed() < LEASE + WORD {
            exchange(&jumpy, &right);
            exchange(&right, &jumpy);
        }
        // Times are meta's.
        let path = jumpy.path(&format!("at{jump}"));
        fs::write(&path, "x").unwrap();
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed();
        let off = age.unwrap_or_else(|early| early.duration());
        assert!(off < Duration::from_secs(60), "{off:?}");
        assert_eq!(jumpy.status()["state"], right.status()["state"]);
    }
    clock.jump(-DAY);
    cluster.revoke(&revoked).ok();
    assert_eq!(metadata_errno(&cut), Some(KEY_REVOKED));
}
