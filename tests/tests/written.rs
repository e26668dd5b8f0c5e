//! What one mount has written is seen by the other at once, also before it was
//! flushed (P5); or never, when the writer lost its lease.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use flexfs_tests::{Cluster, Mount};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Signal, kill_process};

/// Rounds of each litmus test: a few seconds in a debug build;
/// FLEXFS_TEST_BIG=1 makes 10,000 of them.
fn rounds() -> u32 {
    if std::env::var_os("FLEXFS_TEST_BIG").is_some() { 10_000 } else { 150 }
}

fn pair(cluster: &Cluster) -> (Mount, Mount) {
    let token = cluster.volume("shared");
    (cluster.mount("shared", &token), cluster.mount("shared", &token))
}

fn open(mount: &Mount, name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(mount.path(name))
        .unwrap()
}

fn read(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn a_write_is_seen_by_the_other_mount_before_it_was_flushed() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let files = [open(&a, "f"), open(&b, "f")];
    let mut size = 0;
    for round in 0..rounds() {
        let [x, y] = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let there = if round % 2 == 0 { &b } else { &a };
        // Longer than before: the size and the last bytes.
        let line = format!("{round:7}\n");
        files[x].write_all_at(line.as_bytes(), size).unwrap();
        size += 8;
        assert_eq!(fs::metadata(there.path("f")).unwrap().len(), size, "round {round}: by name");
        assert_eq!(files[y].metadata().unwrap().len(), size, "round {round}: by descriptor");
        assert_eq!(read(&files[y], size - 8, 8), line.as_bytes(), "round {round}: appended");
        // In place: nothing but the contents tells.
        let place = u64::from(round / 2) * 8;
        let mark = format!("{round:6}x\n");
        files[x].write_all_at(mark.as_bytes(), place).unwrap();
        assert_eq!(read(&files[y], place, 8), mark.as_bytes(), "round {round}: in place");
        // And of a file that is new, and open where it was written.
        let name = format!("new{round}");
        let here = if round % 2 == 0 { &a } else { &b };
        let new = open(here, &name);
        new.write_all_at(b"new", 0).unwrap();
        assert_eq!(fs::read(there.path(&name)).unwrap(), b"new", "round {round}: a new one");
        // What was written is gone with the file, and does not come back.
        new.write_all_at(b"more", 3).unwrap();
        File::options().write(true).open(there.path(&name)).unwrap().set_len(2).unwrap();
        assert_eq!(new.metadata().unwrap().len(), 2, "round {round}: truncated elsewhere");
        fs::remove_file(there.path(&name)).unwrap();
    }
    drop(files);
    cluster.verify_clean();
}

#[test]
fn records_appended_from_two_mounts_at_once_are_all_there() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let append = |mount: &Mount, who: char| {
        let mut log = File::options().append(true).create(true).open(mount.path("log")).unwrap();
        for number in 0..rounds() {
            log.write_all(format!("{who}{number:08}\n").as_bytes()).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| append(&a, 'a'));
        scope.spawn(|| append(&b, 'b'));
    });
    let text = fs::read_to_string(a.path("log")).unwrap();
    let lines: HashSet<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2 * rounds() as usize, "records are lost or torn");
    assert_eq!(text.len(), 20 * rounds() as usize);
    let ordered = |who: char| {
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with(who)).collect();
        own.is_sorted()
    };
    assert!(ordered('a') && ordered('b'), "in the order in which they were written");
}

#[test]
fn a_counter_under_a_lock_counts_every_increment() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    open(&a, "counter").write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
    let count = |mount: &Mount| {
        let file = open(mount, "counter");
        for _ in 0..rounds() {
            fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
            let value = u64::from_le_bytes(read(&file, 0, 8).try_into().unwrap());
            file.write_all_at(&(value + 1).to_le_bytes(), 0).unwrap();
            fcntl_lock(&file, FlockOperation::Unlock).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| count(&a));
        scope.spawn(|| count(&b));
    });
    let value = u64::from_le_bytes(read(&open(&b, "counter"), 0, 8).try_into().unwrap());
    assert_eq!(value, 2 * u64::from(rounds()));
}

#[test]
fn a_writer_that_is_stopped_delays_others_by_a_lease_and_harms_nothing_afterwards() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let file = open(&a, "f");
    file.write_all_at(b"before", 0).unwrap();
    file.sync_all().unwrap();
    let daemon = a.pid();
    file.write_all_at(b"behind", 0).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    let began = Instant::now();
    let seen = fs::read(b.path("f")).unwrap();
    let took = began.elapsed();
    // It may have been flushed just before it was stopped.
    let was_behind = seen == b"before";
    assert!(was_behind || seen == b"behind", "{seen:?}");
    assert!(took < Duration::from_secs(13), "{took:?}: a lease is 10 s");
    fs::write(b.path("f"), "after!").unwrap();
    kill_process(daemon, Signal::CONT).unwrap();
    let told = file.sync_all();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"after!", "what it still had is refused");
    if was_behind {
        let error = told.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    }
    assert!(was_behind, "it was flushed before it was stopped: nothing was tested");
    // And it goes on, with what is there now.
    assert_eq!(read(&file, 0, 6), b"after!");
    file.write_all_at(b"again!", 0).unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"again!");
}

#[test]
fn what_was_written_before_a_restart_of_meta_is_seen_after_it() {
    let mut cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let files: Vec<File> = (0..8).map(|n| open(&a, &format!("f{n}"))).collect();
    // Known to the other mount beforehand.
    assert_eq!(fs::read_dir(b.dir()).unwrap().count(), 8);
    for (n, file) in files.iter().enumerate() {
        file.write_all_at(format!("written {n}").as_bytes(), 0).unwrap();
    }
    cluster.kill9_meta();
    cluster.restart_meta();
    let began = Instant::now();
    for n in 0..files.len() {
        let seen = fs::read_to_string(b.path(&format!("f{n}"))).unwrap();
        assert_eq!(seen, format!("written {n}"));
    }
    assert!(began.elapsed() < Duration::from_secs(8), "nobody waits for a lease");
    drop(files);
    cluster.verify_clean();
}
