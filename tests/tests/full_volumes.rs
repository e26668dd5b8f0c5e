//! Exhausted quotas of a volume, and a full disk below meta's engine (P4).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
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

/// Moves meta's files to a disk of 256 MiB that the cluster unmounts.
fn meta_on_a_small_disk(cluster: &mut Cluster) -> PathBuf {
    cluster.stop_meta();
    let dir = cluster.home().join("meta");
    sh(
        "cp -a \"$1\" \"$1.copy\" && mount -t tmpfs -o size=256m,mode=700 flexfs-test \"$1\" \
         && cp -a \"$1.copy/.\" \"$1\" && rm -r \"$1.copy\"",
        &[&dir],
    );
    cluster.restart_meta();
    dir
}

/// Fills a disk up to so many bytes that stay free.
fn fill(disk: &Path, filler: &Path, left: u64) {
    let free = || {
        let space = rustix::fs::statvfs(disk).unwrap();
        space.f_bavail * space.f_frsize
    };
    let mut file = File::options().append(true).create(true).open(filler).unwrap();
    while free() > left {
        file.write_all(&[1; 64 * 1024]).unwrap();
    }
}

fn disk_state(cluster: &Cluster) -> String {
    let status = cluster.run("meta.flexfs", &["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(status.ok()).unwrap();
    status["disk"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn meta_keeps_a_reserve_of_its_disk_and_goes_on_when_there_is_room_again() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let dir = meta_on_a_small_disk(&mut cluster);
    let mount = cluster.mount("work", &token);
    for name in ["one", "two", "three"] {
        put(&mount.path(name), &Noise::new(1).bytes(2000)).unwrap();
    }
    put(&mount.path("big"), &Noise::new(2).bytes(3 * MIB)).unwrap();
    let guest = cluster.volume_token("work", &[]);
    let guests = cluster.mount("work", &guest);
    let mut open = File::options().append(true).open(mount.path("three")).unwrap();
    let filler = dir.join("filler");
    assert_eq!(disk_state(&cluster), "ample");
    // Half of the reserve of 64 MiB is left.
    fill(&dir, &filler, 32 * MIB as u64);
    let told = || disk_state(&cluster);
    wait_until("meta has seen it", COLLECTED, || told() == "low");
    let full = |result: io::Result<()>| match result {
        Ok(()) => panic!("it is full, and all goes on"),
        Err(error) => assert!(is(&error, Errno::NOSPC), "{error}"),
    };
    full(put(&mount.path("new"), b"x"));
    full(fs::create_dir(mount.path("dir")));
    full(put(&mount.path("two"), &Noise::new(3).bytes(MIB)));
    open.write_all(b"more").unwrap();
    full(open.sync_all());
    assert!(fs::read(mount.path("one")).unwrap() == Noise::new(1).bytes(2000));
    assert!(fs::read(mount.path("big")).unwrap() == Noise::new(2).bytes(3 * MIB));
    fs::remove_file(mount.path("one")).unwrap();
    fs::rename(mount.path("big"), mount.path("moved")).unwrap();
    // A new mount can be made, read and ended.
    let other = cluster.mount("work", &token);
    assert!(!other.path("one").exists());
    assert!(fs::read(other.path("moved")).unwrap() == Noise::new(2).bytes(3 * MIB));
    other.stop();
    // An eighth: what is there can be read by who has it open.
    let mut reader = File::open(mount.path("moved")).unwrap();
    fill(&dir, &filler, 8 * MIB as u64);
    wait_until("meta has seen it", COLLECTED, || told() == "full");
    full(fs::remove_file(mount.path("two")));
    full(File::open(mount.path("moved")).map(drop));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == Noise::new(2).bytes(3 * MIB));
    drop(reader);
    // Whose token is revoked sees nothing any more, as ever.
    full(File::open(guests.path("two")).map(drop));
    cluster.revoke(&guest).ok();
    let gone = fs::metadata(guests.path("two")).unwrap_err();
    assert!(is(&gone, Errno::KEYREVOKED), "{gone}");
    guests.clear();
    fs::remove_file(&filler).unwrap();
    wait_until("there is room again", COLLECTED, || put(&mount.path("new"), b"x").is_ok());
    assert_eq!(told(), "ample");
    // What could not be written is still there for who has it open.
    open.sync_all().unwrap();
    drop(open);
    let three = [Noise::new(1).bytes(2000), b"more".to_vec()].concat();
    assert!(fs::read(mount.path("three")).unwrap() == three);
    fs::remove_file(mount.path("two")).unwrap();
    assert_eq!(fs::read(mount.path("new")).unwrap(), b"x");
    mount.stop();
    cluster.verify_clean();
    // Once for each change; on the way back it may have been seen in between.
    let log = fs::read_to_string(cluster.log("meta")).unwrap();
    for (told, most) in
        [("little space left", 2), ("no space left below", 1), ("there is room again", 1)]
    {
        assert!((1..=most).contains(&log.matches(told).count()), "{told}");
    }
    assert!(!log.contains("ENGINE_FAILED") && !log.contains("No space left on device"));
}

#[test]
fn a_full_disk_below_meta_acknowledges_nothing_it_may_lose() {
    // Without a reserve the engine itself comes to the end.
    let mut cluster = Cluster::start_with_meta(&["--diskReserve", "0"]);
    let token = cluster.volume("work");
    let dir = meta_on_a_small_disk(&mut cluster);
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
