//! Exhausted quotas of a volume, and a full disk below meta's engine (P4).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use flexfs_tests::files::{Noise, sh};
use flexfs_tests::{Cluster, wait_until};
use rustix::io::Errno;

const MIB: usize = 1024 * 1024;
/// Freed room is given back by collection.
const COLLECTED: Duration = Duration::from_secs(30);

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn is(error: &io::Error, expected: Errno) -> bool {
    error.raw_os_error() == Some(expected.raw_os_error())
}

#[test]
fn a_quota_of_bytes_holds_for_mounts_that_race() {
    let cluster = Cluster::start();
    // Two blocks of 4 MiB.
    let token = cluster.volume_with("small", &["--maxBlocks", "2"]);
    let mounts = [cluster.mount("small", &token), cluster.mount("small", &token)];
    let barrier = Barrier::new(2);
    let written: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2_usize)
            .map(|number| {
                let (dir, barrier) = (mounts[number].dir(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut done = Vec::new();
                    for round in 0..20 {
                        let name = format!("f{number}-{round}");
                        match put(&dir.join(&name), &Noise::new(round).bytes(MIB)) {
                            Ok(()) => done.push(name),
                            Err(error) if is(&error, Errno::DQUOT) => return done,
                            Err(error) => panic!("{name}: {error}"),
                        }
                    }
                    panic!("twenty times 1 MiB are in a volume of 8 MiB");
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let all: Vec<&String> = written.iter().flatten().collect();
    assert!((6..=8).contains(&all.len()), "{all:?}");
    for name in &all {
        let round = name.split('-').nth(1).unwrap().parse().unwrap();
        let bytes = Noise::new(round).bytes(MIB);
        mounts.iter().for_each(|m| assert!(fs::read(m.path(name)).unwrap() == bytes, "{name}"));
    }
    // Names and inline contents of zero bytes still go; room comes by deletion.
    fs::create_dir(mounts[0].path("dir")).unwrap();
    for name in all.iter().take(3) {
        fs::remove_file(mounts[1].path(name)).unwrap();
    }
    let again = mounts[0].path("again");
    wait_until("there is room again", COLLECTED, || {
        match put(&again, &Noise::new(99).bytes(MIB)) {
            Ok(()) => true,
            Err(error) => {
                assert!(is(&error, Errno::DQUOT), "{error}");
                false
            }
        }
    });
    mounts.into_iter().for_each(flexfs_tests::Mount::stop);
    cluster.verify_clean();
}

#[test]
fn a_quota_of_inodes_holds_and_deletion_gives_room() {
    let cluster = Cluster::start();
    let token = cluster.volume_with("few", &["--maxInodes", "20"]);
    let mount = cluster.mount("few", &token);
    let mut made = 0;
    let error = loop {
        match File::create(mount.path(&format!("f{made}"))) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 21, "more inodes than there may be");
    };
    assert!(is(&error, Errno::DQUOT), "{error}");
    assert!(made >= 17, "only {made}");
    assert!(is(&fs::create_dir(mount.path("d")).unwrap_err(), Errno::DQUOT));
    // What makes no inode goes on.
    put(&mount.path("f0"), b"contents").unwrap();
    fs::hard_link(mount.path("f0"), mount.path("link")).unwrap();
    fs::remove_file(mount.path("f1")).unwrap();
    wait_until("there is room again", COLLECTED, || fs::create_dir(mount.path("d")).is_ok());
    assert_eq!(fs::read(mount.path("link")).unwrap(), b"contents");
    mount.stop();
    cluster.verify_clean();
}

#[test]
fn a_full_disk_below_meta_acknowledges_nothing_it_may_lose() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    cluster.stop_meta();
    // The same files, on a disk that is soon full; the cluster unmounts it.
    let dir = cluster.home().join("meta");
    sh(
        "cp -a \"$1\" \"$1.copy\" && mount -t tmpfs -o size=256m,mode=700 flexfs-test \"$1\" \
         && cp -a \"$1.copy/.\" \"$1\" && rm -r \"$1.copy\"",
        &[&dir],
    );
    cluster.restart_meta();
    let mount = cluster.mount("work", &token);
    put(&mount.path("before"), b"kept").unwrap();
    let ballast = dir.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let mut acknowledged = Vec::new();
    let error = loop {
        let name = format!("f{}", acknowledged.len());
        match put(&mount.path(&name), &Noise::new(acknowledged.len() as u64).bytes(2000)) {
            Ok(()) => acknowledged.push(name),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 200_000, "the disk is full, and all goes on");
    };
    assert!(is(&error, Errno::IO) || is(&error, Errno::NOSPC), "{error}");
    let log = fs::read_to_string(cluster.log("meta")).unwrap();
    assert!(log.contains("ENGINE_FAILED") || log.contains("o space left"), "it is in meta's log");
    fs::remove_file(&ballast).unwrap();
    cluster.kill9_meta();
    cluster.restart_meta();
    // Without a remount, everything that was acknowledged.
    wait_until("the mount is back", COLLECTED, || fs::read(mount.path("before")).is_ok());
    assert_eq!(fs::read(mount.path("before")).unwrap(), b"kept");
    for (number, name) in acknowledged.iter().enumerate() {
        let bytes = fs::read(mount.path(name)).unwrap();
        assert!(bytes == Noise::new(number as u64).bytes(2000), "{name}");
    }
    put(&mount.path("after"), b"goes on").unwrap();
    mount.stop();
    cluster.verify_clean();
}
