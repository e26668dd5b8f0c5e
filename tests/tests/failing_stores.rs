//! Full disks, exhausted quotas, and block stores that are read-only, away,
//! silent or damaged: an errno, nothing else harmed, and on without a remount
//! (P4). docs/failures.md says the same to operators.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_tests::files::{Noise, sh, try_sh};
use flexfs_tests::meta::{Meta, Options};
use flexfs_tests::{Cluster, Mount, within};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any errno may take that does not wait for a silent store.
const SOON: Duration = Duration::from_secs(30);
/// Contents too long to be inline.
const LONG: usize = 300_000;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Noise::new(seed).bytes(len)
}

#[track_caller]
fn assert_errno(outcome: io::Result<()>, expected: Errno) {
    let error = outcome.expect_err("it must fail");
    assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()), "{error}");
}

/// Overwrites what is there, to stable storage.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// A small file system of its own over a directory; the cluster unmounts it.
fn small_disk(dir: &Path, size: &str) {
    let script = "mount -t tmpfs -o \"size=$2,mode=700\" flexfs-test \"$1\"";
    sh(script, &[dir, Path::new(size)]);
}

/// Takes all the room that is left beside `dir`'s contents.
fn fill(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    ballast
}

/// Files that have nothing to do with what fails.
struct Bystanders;

impl Bystanders {
    const LENGTHS: [usize; 4] = [0, 100, 40_000, 1_000_000];

    fn write(dir: &Path) -> Bystanders {
        for (number, len) in Self::LENGTHS.into_iter().enumerate() {
            overwrite(&dir.join(format!("by{number}")), &noise(number as u64, len)).unwrap();
        }
        Bystanders
    }

    #[track_caller]
    fn check(&self, dir: &Path) {
        for (number, len) in Self::LENGTHS.into_iter().enumerate() {
            let bytes = fs::read(dir.join(format!("by{number}"))).unwrap();
            assert!(bytes == noise(number as u64, len), "bystander {number} is damaged");
        }
    }
}

/// A volume with bystanders and the file `kept`, all of it in the store.
fn begin(cluster: &Cluster) -> (Mount, Bystanders) {
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let bystanders = Bystanders::write(mount.dir());
    overwrite(&mount.path("kept"), &noise(50, LONG)).unwrap();
    (mount, bystanders)
}

fn fresh_mount(cluster: &Cluster) -> Mount {
    cluster.mount("work", &cluster.volume_token("work", &[]))
}

/// What failed has its last committed contents, for everybody; the rest is
/// as it was, and what needs no store goes on.
#[track_caller]
fn assert_only_that_failed(cluster: &Cluster, mount: &Mount, bystanders: &Bystanders) {
    let other = fresh_mount(cluster);
    for dir in [mount.dir(), other.dir()] {
        bystanders.check(dir);
        assert!(fs::read(dir.join("kept")).unwrap() == noise(50, LONG), "{}", dir.display());
    }
    fs::create_dir(mount.path("made")).unwrap();
    overwrite(&mount.path("made/inline"), b"small").unwrap();
    assert_eq!(fs::read(other.path("made/inline")).unwrap(), b"small");
    other.stop();
}

/// The same mount goes on when the store does.
fn assert_goes_on(cluster: &Cluster, mount: Mount, bystanders: &Bystanders) {
    overwrite(&mount.path("kept"), &noise(51, LONG)).unwrap();
    overwrite(&mount.path("new"), &noise(52, 5_000_000)).unwrap();
    let other = fresh_mount(cluster);
    for dir in [mount.dir(), other.dir()] {
        bystanders.check(dir);
        assert!(fs::read(dir.join("kept")).unwrap() == noise(51, LONG));
        assert!(fs::read(dir.join("new")).unwrap() == noise(52, 5_000_000));
    }
    other.stop();
    mount.stop();
    cluster.verify_clean();
}

#[test]
fn a_full_block_store_is_enospc_until_there_is_room() {
    let cluster = Cluster::start();
    let blocks = cluster.root().join("blocks");
    small_disk(&blocks, "16m");
    let (mount, bystanders) = begin(&cluster);
    let ballast = fill(&blocks);
    let kept = mount.path("kept");
    let outcome = within("fsync", SOON, move || overwrite(&kept, &noise(51, LONG)));
    assert_errno(outcome, Errno::NOSPC);
    // A program that never syncs hears of it at the latest from close(2).
    let source = cluster.root().join("source");
    fs::write(&source, noise(51, LONG)).unwrap();
    let dd = "LC_ALL=C dd if=\"$1\" of=\"$2\" bs=100k conv=notrunc";
    let run = try_sh(dd, &[&source, &mount.path("kept")], SOON);
    assert!(!run.succeeded() && run.stderr.contains("No space left"), "{}", run.stderr);
    // So it is for a block that ends in the middle: the answer is heard while
    // the rest of it is on its way.
    let filled = OpenOptions::new().write(true).open(&ballast).unwrap();
    filled.set_len(filled.metadata().unwrap().len() - 1_000_000).unwrap();
    drop(filled);
    let large = mount.path("large");
    let outcome = within("fsync", SOON, move || overwrite(&large, &noise(53, 4 << 20)));
    assert_errno(outcome, Errno::NOSPC);
    assert_only_that_failed(&cluster, &mount, &bystanders);
    fs::remove_file(ballast).unwrap();
    assert_goes_on(&cluster, mount, &bystanders);
}

#[test]
fn a_read_only_block_store_is_eio_and_reads_go_on() {
    let cluster = Cluster::start();
    let blocks = cluster.root().join("blocks");
    small_disk(&blocks, "64m");
    let (mount, bystanders) = begin(&cluster);
    sh("mount -o remount,ro \"$1\"", &[&blocks]);
    let kept = mount.path("kept");
    let outcome = within("fsync", SOON, move || overwrite(&kept, &noise(51, LONG)));
    assert_errno(outcome, Errno::IO);
    let other = fresh_mount(&cluster);
    bystanders.check(other.dir());
    assert!(fs::read(other.path("kept")).unwrap() == noise(50, LONG));
    other.stop();
    sh("mount -o remount,rw \"$1\"", &[&blocks]);
    // The other mount could not wait for what was kept here: it is given up,
    // and the next fsync says so, once.
    assert_errno(overwrite(&mount.path("kept"), &noise(51, LONG)), Errno::IO);
    assert_goes_on(&cluster, mount, &bystanders);
}

#[test]
fn a_block_store_that_is_away_is_eio_and_comes_back() {
    let cluster = Cluster::start();
    let (mount, bystanders) = begin(&cluster);
    let (blocks, aside) = (cluster.root().join("blocks"), cluster.root().join("aside"));
    fs::rename(&blocks, &aside).unwrap();
    let kept = mount.path("kept");
    let outcome = within("fsync", SOON, move || overwrite(&kept, &noise(51, LONG)));
    assert_errno(outcome, Errno::IO);
    let cold = fresh_mount(&cluster);
    assert_errno(fs::read(cold.path("by3")).map(drop), Errno::IO);
    // Inline contents and names are meta's.
    assert_eq!(fs::read(cold.path("by1")).unwrap(), noise(1, 100));
    fs::rename(cold.path("by1"), cold.path("moved")).unwrap();
    fs::rename(cold.path("moved"), cold.path("by1")).unwrap();
    fs::rename(&aside, &blocks).unwrap();
    bystanders.check(cold.dir());
    cold.stop();
    assert_goes_on(&cluster, mount, &bystanders);
}

fn objects(dir: &Path) -> BTreeSet<PathBuf> {
    let found = sh("find \"$1\" -type f -path '*/*/??/*'", &[dir]);
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn a_damaged_object_is_eio_in_its_file_alone() {
    let cluster = Cluster::start();
    let (mount, bystanders) = begin(&cluster);
    let blocks = cluster.root().join("blocks");
    let mut victims = Vec::new();
    for name in ["gone", "cut", "flipped"] {
        let before = objects(&blocks);
        overwrite(&mount.path(name), &noise(60, LONG)).unwrap();
        let new: Vec<PathBuf> = objects(&blocks).difference(&before).cloned().collect();
        assert_eq!(new.len(), 1, "one object of {name}");
        victims.push(new[0].clone());
    }
    fs::remove_file(&victims[0]).unwrap();
    OpenOptions::new().write(true).open(&victims[1]).unwrap().set_len(100_000).unwrap();
    let mut bytes = fs::read(&victims[2]).unwrap();
    bytes[LONG / 2] ^= 4;
    fs::write(&victims[2], bytes).unwrap();
    let cold = fresh_mount(&cluster);
    for name in ["gone", "cut", "flipped"] {
        assert_errno(fs::read(cold.path(name)).map(drop), Errno::IO);
        assert_eq!(fs::metadata(cold.path(name)).unwrap().len(), LONG as u64);
    }
    bystanders.check(cold.dir());
    // From a copy elsewhere it is made good, like any file.
    for name in ["gone", "cut", "flipped"] {
        fs::write(cold.path(name), noise(61, LONG)).unwrap();
        assert!(fs::read(mount.path(name)).unwrap() == noise(61, LONG), "{name}");
    }
    cold.stop();
    assert_goes_on(&cluster, mount, &bystanders);
}

/// A volume whose block store can be made silent: it lies in another mount,
/// whose daemon is stopped. Whoever asks it waits.
struct Silent {
    mount: Mount,
    /// Has nothing of the contents in memory.
    cold: Mount,
    bystanders: Bystanders,
    meta: Meta,
    below: Mount,
    /// The daemon of the mount below.
    pid: Pid,
}

impl Silent {
    fn begin(cluster: &Cluster) -> Silent {
        let meta = Meta::start(cluster, "far", &Options::default());
        let (init, creds) = cluster.init_mount("inner", &cluster.volume("inner"));
        init.ok();
        let dir = cluster.root().join("blocks-far");
        cluster.start_mount("inner", &dir, &creds, &[]).ok();
        let below = cluster.mounted(dir, creds);
        let token = cluster.volume_at("far", "work", &[]);
        let mount = cluster.mount("work", &token);
        let bystanders = Bystanders::write(mount.dir());
        overwrite(&mount.path("kept"), &noise(50, LONG)).unwrap();
        let cold = fresh_mount(cluster);
        let pid = below.pid();
        kill_process(pid, Signal::STOP).unwrap();
        Silent { mount, cold, bystanders, meta, below, pid }
    }

    fn writer(&self) -> JoinHandle<io::Result<()>> {
        let kept = self.mount.path("kept");
        std::thread::spawn(move || overwrite(&kept, &noise(51, LONG)))
    }

    fn reader(&self) -> JoinHandle<io::Result<Vec<u8>>> {
        let by = self.cold.path("by3");
        std::thread::spawn(move || fs::read(by))
    }

    /// Names, attributes and inline contents are meta's, and go on; and so does
    /// what a mount has in memory.
    fn assert_the_rest_goes_on(&self, prefix: &str) {
        for (number, dir) in [self.mount.dir(), self.cold.dir()].into_iter().enumerate() {
            let (dir, prefix) = (dir.to_owned(), format!("{prefix}{number}"));
            within("operations that need no store", SOON, move || {
                for round in 0..20 {
                    let name = dir.join(format!("{prefix}-{round}"));
                    fs::create_dir(&name).unwrap();
                    overwrite(&name.join("inline"), b"small").unwrap();
                    fs::rename(&name, dir.join(format!("{prefix}-{round}-moved"))).unwrap();
                }
                assert_eq!(fs::read(dir.join("by1")).unwrap(), noise(1, 100));
            });
        }
    }

    fn speak(&self) {
        kill_process(self.pid, Signal::CONT).unwrap();
    }

    fn end(self, cluster: &Cluster) {
        overwrite(&self.mount.path("kept"), &noise(52, LONG)).unwrap();
        self.bystanders.check(self.cold.dir());
        assert!(fs::read(self.cold.path("kept")).unwrap() == noise(52, LONG));
        self.cold.stop();
        self.mount.stop();
        drop(self.meta);
        self.below.stop();
        cluster.verify_clean();
    }
}

#[test]
fn a_silent_block_store_stops_what_needs_it_and_nothing_else() {
    let cluster = Cluster::start();
    let silent = Silent::begin(&cluster);
    let (writer, reader) = (silent.writer(), silent.reader());
    silent.assert_the_rest_goes_on("d");
    assert!(!writer.is_finished() && !reader.is_finished(), "the store is not silent");
    silent.speak();
    within("both go on", Duration::from_secs(60), move || {
        writer.join().unwrap().unwrap();
        assert!(reader.join().unwrap().unwrap() == noise(3, 1_000_000));
    });
    silent.end(&cluster);
}

#[test]
fn a_block_store_that_stays_silent_is_eio() {
    let cluster = Cluster::start();
    let silent = Silent::begin(&cluster);
    let begun = Instant::now();
    let (writer, reader) = (silent.writer(), silent.reader());
    let [written, read] = within("an errno for both", Duration::from_secs(150), move || {
        let read = reader.join().unwrap().map(drop);
        let read = (read, begun.elapsed());
        [(writer.join().unwrap(), begun.elapsed()), read]
    });
    // As docs/failures.md says: 60 s by fsync and 60 s by close; 60 s, and what
    // the kernel asks for again 20 s.
    let (written_after, read_after) = (written.1.as_secs(), read.1.as_secs());
    assert!((59..140).contains(&written_after), "{written_after}");
    assert!((59..100).contains(&read_after), "{read_after}");
    assert_errno(written.0, Errno::IO);
    assert_errno(read.0, Errno::IO);
    silent.assert_the_rest_goes_on("e");
    silent.speak();
    silent.end(&cluster);
}

/// A thin line, which operations and contents share.
#[test]
fn a_slow_block_store_is_waited_for_and_loses_nothing() {
    let cluster = Cluster::start();
    let meta = Meta::start(&cluster, "far", &Options::default());
    let mount = cluster.mount("work", &cluster.volume_at("far", "work", &[]));
    let bystanders = Bystanders::write(mount.dir());
    overwrite(&mount.path("kept"), &noise(50, LONG)).unwrap();
    meta.from_mounts.throttle(Some(400_000));
    let (begun, long) = (Instant::now(), mount.path("long"));
    let writer = std::thread::spawn(move || overwrite(&long, &noise(60, 5_000_000)));
    let dir = mount.dir().to_owned();
    within("names and inline contents, beside it", SOON, move || {
        for round in 0..10 {
            let name = dir.join(format!("d{round}"));
            fs::create_dir(&name).unwrap();
            overwrite(&name.join("inline"), b"small").unwrap();
        }
    });
    assert!(!writer.is_finished(), "the line is not slow");
    writer.join().unwrap().unwrap();
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
    let cold = fresh_mount(&cluster);
    assert!(fs::read(cold.path("long")).unwrap() == noise(60, 5_000_000));
    bystanders.check(cold.dir());
    // It was slow, and nobody took it for gone.
    let log = fs::read_to_string(cluster.home().join("mount/log")).unwrap();
    assert!(log.contains("mounted") && !log.contains("lease has ended"), "{log}");
    meta.from_mounts.throttle(None);
    cold.stop();
    mount.stop();
    meta.verify_clean();
}
