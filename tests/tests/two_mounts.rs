//! Two mounts of one volume see one truth.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Barrier;
use std::time::Duration;

use flexfs_tests::files::Noise;
use flexfs_tests::{Cluster, within};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

#[test]
fn what_one_closes_the_other_reads() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    let mut noise = Noise::new(1);
    for round in 0..60_usize {
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        // Inline, over the inline limit, several frames, several blocks.
        let len = if round % 20 == 19 { 9_000_000 } else { [17, 9_000, 300_000][round % 3] };
        let bytes = noise.bytes(len);
        fs::write(writer.path("file"), &bytes).unwrap();
        assert!(fs::read(reader.path("file")).unwrap() == bytes, "round {round}, {len} bytes");
        assert_eq!(fs::metadata(reader.path("file")).unwrap().len(), len as u64);
    }
}

#[test]
fn an_open_file_sees_what_the_other_changes() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    fs::write(a.path("f"), vec![b'0'; 100_000]).unwrap();
    let mut open = File::open(b.path("f")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    for round in 1..20_u8 {
        let file = OpenOptions::new().write(true).open(a.path("f")).unwrap();
        file.write_all_at(&[b'0' + round % 10; 500], u64::from(round) * 4000).unwrap();
        drop(file);
        open.seek(SeekFrom::Start(u64::from(round) * 4000)).unwrap();
        let mut piece = [0; 500];
        open.read_exact(&mut piece).unwrap();
        assert_eq!(piece, [b'0' + round % 10; 500], "round {round}");
    }
    OpenOptions::new().write(true).open(a.path("f")).unwrap().set_len(10).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 10);
    let mut appended = OpenOptions::new().append(true).open(a.path("f")).unwrap();
    appended.write_all(b"end").unwrap();
    drop(appended);
    assert_eq!(fs::read(b.path("f")).unwrap(), b"0000000000end");
}

#[test]
fn names_change_for_both_at_once() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    for round in 0..30 {
        let (x, y) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        fs::create_dir(x.path("d")).unwrap();
        fs::write(y.path("d/one"), "1").unwrap();
        assert_eq!(fs::create_dir(y.path("d")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        fs::rename(x.path("d/one"), x.path("d/two")).unwrap();
        assert_eq!(fs::metadata(y.path("d/one")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fs::read(y.path("d/two")).unwrap(), b"1");
        fs::hard_link(y.path("d/two"), y.path("d/three")).unwrap();
        assert_eq!(fs::metadata(x.path("d/two")).unwrap().nlink(), 2);
        let names = |m: &flexfs_tests::Mount| {
            let mut names: Vec<_> =
                fs::read_dir(m.path("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(x), ["three", "two"]);
        assert_eq!(names(y), ["three", "two"]);
        fs::remove_file(x.path("d/two")).unwrap();
        assert_eq!(fs::remove_dir(y.path("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
        fs::remove_file(y.path("d/three")).unwrap();
        fs::remove_dir(x.path("d")).unwrap();
        assert!(!y.path("d").exists());
    }
    cluster.verify_clean();
}

#[test]
fn exactly_one_of_two_exclusive_creators_wins() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let mounts = [cluster.mount("shared", &token), cluster.mount("shared", &token)];
    let barrier = Barrier::new(2);
    let wins: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = mounts
            .iter()
            .map(|mount| {
                scope.spawn(|| {
                    let mut wins = 0;
                    for round in 0..100 {
                        barrier.wait();
                        match File::create_new(mount.path(&format!("n{round}"))) {
                            Ok(_) => wins += 1,
                            Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists),
                        }
                    }
                    wins
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(wins, 100);
}

#[test]
fn appends_of_two_mounts_do_not_overwrite_each_other() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let mounts = [cluster.mount("shared", &token), cluster.mount("shared", &token)];
    // One after the other, each from its own, long open descriptor.
    let mut files = mounts.each_ref().map(|mount| {
        OpenOptions::new().create(true).append(true).mode(0o644).open(mount.path("log")).unwrap()
    });
    for round in 0..40 {
        let file = &mut files[round % 2];
        file.write_all(format!("line {round}\n").as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    let text = fs::read_to_string(mounts[0].path("log")).unwrap();
    let expected: String = (0..40).map(|round| format!("line {round}\n")).collect();
    assert_eq!(text, expected);
}

#[test]
fn locks_hold_across_mounts() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    let open = |mount: &flexfs_tests::Mount| {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(mount.path("lock"))
            .unwrap()
    };
    let (one, two) = (open(&a), open(&b));
    type Lock = fn(&File, FlockOperation) -> rustix::io::Result<()>;
    let locks: [Lock; 2] = [|file, how| flock(file, how), |file, how| fcntl_lock(file, how)];
    for lock in locks {
        lock(&one, FlockOperation::LockExclusive).unwrap();
        let refused = lock(&two, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        assert!(matches!(refused, rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS));
        // A waiter gets it as soon as it is free. (Its descriptor comes back: closing one
        // gives up the process's POSIX locks, fcntl(2).)
        let waiting = two.try_clone().unwrap();
        let waiter = std::thread::spawn(move || {
            lock(&waiting, FlockOperation::LockExclusive).unwrap();
            waiting
        });
        lock(&one, FlockOperation::Unlock).unwrap();
        let _waiting =
            within("the waiting lock", Duration::from_secs(20), move || waiter.join().unwrap());
        let refused = lock(&one, FlockOperation::NonBlockingLockShared).unwrap_err();
        assert!(matches!(refused, rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS));
        lock(&two, FlockOperation::Unlock).unwrap();
        lock(&one, FlockOperation::LockShared).unwrap();
        lock(&two, FlockOperation::NonBlockingLockShared).unwrap();
        lock(&one, FlockOperation::Unlock).unwrap();
        lock(&two, FlockOperation::Unlock).unwrap();
    }
    // Closing gives up.
    flock(&one, FlockOperation::LockExclusive).unwrap();
    drop(one);
    within("the lock of a closed file", Duration::from_secs(20), move || {
        flock(&two, FlockOperation::LockExclusive)
    })
    .unwrap();
}

#[test]
fn an_unlinked_open_file_lives_until_closed() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    let bytes = Noise::new(5).bytes(200_000);
    fs::write(a.path("f"), &bytes).unwrap();
    let mut open = File::open(a.path("f")).unwrap();
    fs::remove_file(b.path("f")).unwrap();
    assert!(!a.path("f").exists());
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    drop(open);
    cluster.verify_clean();
}
