//! kill -9 of each tier under a writer: what was acknowledged is there (P4,
//! P6).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_tests::files::Noise;
use flexfs_tests::{Cluster, wait_until, within};

/// Name → seed and length of what was acknowledged.
type Acknowledged = BTreeMap<String, (u64, usize)>;

fn contents(seed: u64, len: usize) -> Vec<u8> {
    Noise::new(seed).bytes(len)
}

/// Writes files, each with fsync of file and directory, and notes what was
/// acknowledged.
struct Writer {
    thread: JoinHandle<Result<(), std::io::Error>>,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Acknowledged>>,
}

impl Writer {
    fn start(dir: PathBuf, first: u64) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Acknowledged::new()));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut number = first;
            while !stopped.load(Ordering::Relaxed) {
                let len = [0, 100, 5_000, 20_000, 700_000][(number % 5) as usize];
                let name = format!("f{}", number % 40);
                write_durably(&dir, &name, &contents(number, len))?;
                noted.lock().unwrap().insert(name, (number, len));
                number += 1;
            }
            Ok(())
        });
        Writer { thread, stop, done }
    }

    fn count(&self) -> u64 {
        self.done.lock().unwrap().values().map(|(seed, _)| seed + 1).max().unwrap_or(0)
    }

    /// Waits for so many more acknowledged writes.
    fn advance(&self, more: u64) {
        let target = self.count() + more;
        wait_until("the writer goes on", Duration::from_secs(90), || {
            self.count() >= target || self.thread.is_finished()
        });
    }

    /// Ends it.
    fn finish(self) -> (Acknowledged, Result<(), std::io::Error>) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread;
        let outcome = within("the writer ends", Duration::from_secs(90), || thread.join().unwrap());
        let done = self.done.lock().unwrap().clone();
        (done, outcome)
    }
}

/// As careful programs do: temporary file, fsync, rename, fsync of the
/// directory. The old or the new contents are there at any time.
fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), std::io::Error> {
    let temporary = dir.join(format!(".{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Each acknowledged file is there with its contents, or with those of a
/// later write that was not acknowledged any more.
fn assert_all_there(dir: &Path, acknowledged: &Acknowledged) {
    assert!(acknowledged.len() > 5, "the writer acknowledged only {}", acknowledged.len());
    for (name, (seed, len)) in acknowledged {
        let bytes = fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let next = seed + 40;
        let next_len = [0, 100, 5_000, 20_000, 700_000][(next % 5) as usize];
        let old = bytes == contents(*seed, *len);
        let new = bytes == contents(next, next_len);
        assert!(old || new, "{name}: {} bytes are not those of write {seed}", bytes.len());
    }
}

#[test]
fn admin_dies_and_mounts_do_not_notice() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let extra = cluster.volume_token("work", &[]);
    let mount = cluster.mount("work", &token);
    let writer = Writer::start(mount.dir().to_owned(), 0);
    for round in 0..3 {
        writer.advance(5);
        cluster.kill9_admin();
        let away = Instant::now();
        writer.advance(10);
        // Once for longer than a feed may be silent and a lease lasts.
        while round == 1 && away.elapsed() < Duration::from_secs(12) {
            writer.advance(1);
        }
        // A known token opens a session while admin is away.
        let known = cluster.new_mount_point();
        cluster.start_mount("work", &known, mount.creds(), &[]).ok();
        let second = cluster.mounted(known, mount.creds().to_owned());
        assert!(fs::read_dir(second.dir()).unwrap().count() > 0);
        second.stop();
        cluster.restart_admin();
        writer.advance(5);
    }
    // What admin knew, it knows.
    cluster.json(&["show", "volume", "work"]);
    cluster.revoke(&extra).ok();
    cluster.init_mount("work", &extra).0.fails(3, "TOKEN_REVOKED");
    let (acknowledged, outcome) = writer.finish();
    outcome.unwrap();
    mount.stop();
    let mount = cluster.mount("work", &token);
    assert_all_there(mount.dir(), &acknowledged);
    cluster.verify_clean();
}

#[test]
fn when_the_grace_is_over_calls_fail_until_admin_is_back() {
    let mut cluster = Cluster::start_with_meta(&["--adminGrace", "3s"]);
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    fs::write(mount.path("f"), "kept").unwrap();
    let open = File::open(mount.path("f")).unwrap();
    // All of it warm: what the kernel keeps has to fail as well.
    let touch = || -> std::io::Result<()> {
        fs::metadata(mount.path("f"))?;
        open.metadata()?;
        let mut buffer = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut buffer, 0)
    };
    touch().unwrap();
    cluster.kill9_admin();
    let expired = |result: std::io::Result<()>| {
        let errno = result.err().and_then(|error| error.raw_os_error());
        errno == Some(rustix::io::Errno::KEYEXPIRED.raw_os_error())
    };
    flexfs_tests::wait_until("the grace is over", Duration::from_secs(30), || expired(touch()));
    let attributes = fs::metadata(mount.path("f")).map(drop);
    assert!(expired(attributes) && expired(open.metadata().map(drop)));
    cluster.restart_admin();
    flexfs_tests::wait_until("admin is back", Duration::from_secs(30), || touch().is_ok());
    assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "kept");
}

#[test]
fn meta_dies_and_the_writer_goes_on_after_its_restart() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    // Open across the restarts, also unlinked.
    let mut held = File::create(mount.path("held")).unwrap();
    held.write_all(b"before ").unwrap();
    held.sync_all().unwrap();
    fs::write(mount.path("unlinked"), contents(9, 50_000)).unwrap();
    let unlinked = File::open(mount.path("unlinked")).unwrap();
    fs::remove_file(mount.path("unlinked")).unwrap();
    let writer = Writer::start(mount.dir().to_owned(), 0);
    for _round in 0..4 {
        writer.advance(6);
        cluster.kill9_meta();
        cluster.restart_meta();
    }
    writer.advance(6);
    let (acknowledged, outcome) = writer.finish();
    outcome.unwrap();
    held.write_all(b"after").unwrap();
    held.sync_all().unwrap();
    assert_eq!(fs::read(mount.path("held")).unwrap(), b"before after");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &unlinked, &mut bytes).unwrap();
    assert!(bytes == contents(9, 50_000), "an unlinked open file lost its contents");
    drop(unlinked);
    mount.stop();
    let mount = cluster.mount("work", &token);
    assert_all_there(mount.dir(), &acknowledged);
    cluster.verify_clean();
}

#[test]
fn what_was_closed_survives_the_death_of_meta() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    for number in 0..200_u64 {
        let len = [10, 5_000, 300_000][(number % 3) as usize];
        fs::write(mount.path(&format!("c{number}")), contents(number, len)).unwrap();
    }
    cluster.kill9_meta();
    mount.kill9();
    mount.clear();
    cluster.restart_meta();
    let mount = cluster.mount("work", &token);
    for number in 0..200_u64 {
        let len = [10, 5_000, 300_000][(number % 3) as usize];
        let bytes = fs::read(mount.path(&format!("c{number}"))).unwrap();
        assert!(bytes == contents(number, len), "c{number}");
    }
    cluster.verify_clean();
}

#[test]
fn a_mount_dies_and_everything_fsynced_is_there() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mut all: Vec<(String, Acknowledged)> = Vec::new();
    for round in 0..3 {
        let mount = cluster.mount("work", &token);
        // A directory a round: the write in flight at the kill may or may not
        // have replaced the one acknowledged before, of the same round.
        let place = format!("round{round}");
        fs::create_dir(mount.dir().join(&place)).unwrap();
        let writer = Writer::start(mount.dir().join(&place), 0);
        writer.advance(15);
        mount.kill9();
        let (acknowledged, outcome) = writer.finish();
        mount.clear();
        let errno = outcome.unwrap_err().raw_os_error();
        let disconnected = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
        assert!(disconnected.iter().any(|e| errno == Some(e.raw_os_error())), "{errno:?}");
        all.push((place, acknowledged));
        let mount = cluster.mount("work", &token);
        for (place, acknowledged) in &all {
            assert_all_there(&mount.dir().join(place), acknowledged);
        }
        mount.stop();
        cluster.verify_clean();
    }
}

#[test]
fn everything_starts_again_after_all_of_it_died() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let writer = Writer::start(mount.dir().to_owned(), 0);
    writer.advance(20);
    cluster.kill9_admin();
    cluster.kill9_meta();
    mount.kill9();
    let (acknowledged, _) = writer.finish();
    mount.clear();
    cluster.restart_admin();
    cluster.restart_meta();
    let mount = cluster.mount("work", &token);
    assert_all_there(mount.dir(), &acknowledged);
    mount.stop();
    // Verify works beside a running meta, and without one.
    cluster.verify_clean();
    cluster.stop_meta();
    cluster.verify_clean();
    cluster.stop_admin();
}

#[test]
fn a_revocation_confirmed_before_a_crash_stands_after_it() {
    let mut cluster = Cluster::start();
    let full = cluster.volume("work");
    let token = cluster.volume_token("work", &[]);
    let mount = cluster.mount("work", &token);
    let creds = mount.creds().to_owned();
    mount.stop();
    cluster.revoke(&token).ok();
    cluster.kill9_meta();
    cluster.kill9_admin();
    // meta alone, without admin: it still knows.
    cluster.restart_meta();
    let dir = cluster.new_mount_point();
    let run = cluster.start_mount("work", &dir, &creds, &[]);
    run.fails(3, "TOKEN_REVOKED");
    cluster.restart_admin();
    cluster.start_mount("work", &dir, &creds, &[]).fails(3, "TOKEN_REVOKED");
    drop(cluster.mount("work", &full));
}
