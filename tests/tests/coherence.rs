//! What a mount keeps in the kernel without asking, and that it never answers
//! from it after another mount's change has returned (P5).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_tests::mapping::Mapping;
use flexfs_tests::{Cluster, Mount, wait_until};
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use rustix::process::Signal;

/// Rounds of each litmus test: a few seconds in a debug build.
const ROUNDS: u32 = 150;
/// What a right lasts that nobody asks for again.
const LEASE: Duration = Duration::from_secs(10);

fn pair(cluster: &Cluster) -> (Mount, Mount) {
    let token = cluster.volume("shared");
    (cluster.mount("shared", &token), cluster.mount("shared", &token))
}

#[test]
fn every_change_is_seen_at_once_however_warm_the_caches() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::create_dir(a.path("d")).unwrap();
    for round in 0..ROUNDS {
        let (x, y) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let mode = |m: &Mount| fs::metadata(m.path("d/f")).unwrap().mode() & 0o777;
        let is_there = |m: &Mount, name: &str| match fs::symlink_metadata(m.path(name)) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => panic!("round {round}: {error}"),
        };
        // Absent names are kept too.
        assert!(!is_there(x, "d/f") && !is_there(y, "d/f") && !is_there(y, "d/g"));
        fs::write(x.path("d/f"), round.to_string()).unwrap();
        assert!(is_there(y, "d/f"), "round {round}: created");
        assert_eq!(fs::read_to_string(y.path("d/f")).unwrap(), round.to_string());
        let before = mode(y);
        let after = if before == 0o600 { 0o640 } else { 0o600 };
        fs::set_permissions(x.path("d/f"), Permissions::from_mode(after)).unwrap();
        assert_eq!(mode(y), after, "round {round}: chmod");
        fs::write(y.path("d/f"), "longer than before").unwrap();
        assert_eq!(fs::metadata(x.path("d/f")).unwrap().len(), 18, "round {round}: size");
        assert_eq!(fs::read_to_string(x.path("d/f")).unwrap(), "longer than before");
        File::options().write(true).open(x.path("d/f")).unwrap().set_len(3).unwrap();
        assert_eq!(fs::read_to_string(y.path("d/f")).unwrap(), "lon", "round {round}: truncated");
        fs::rename(y.path("d/f"), y.path("d/g")).unwrap();
        assert!(!is_there(x, "d/f") && is_there(x, "d/g"), "round {round}: renamed");
        let names = |m: &Mount| fs::read_dir(m.path("d")).unwrap().count();
        assert_eq!((names(x), names(y)), (1, 1));
        fs::remove_file(x.path("d/g")).unwrap();
        assert!(!is_there(y, "d/g"), "round {round}: unlinked");
        assert_eq!(names(y), 0);
    }
    cluster.verify_clean();
}

/// A directory that a mount has made holds what it has put there and nothing
/// else, until it is told otherwise: it answers so by itself.
#[test]
fn a_directory_made_here_is_known_until_somebody_else_changes_it() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let is_there = |m: &Mount, name: &str| fs::symlink_metadata(m.path(name)).is_ok();
    for round in 0..ROUNDS {
        let (x, y) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let dir = format!("d{round}");
        let name = |name: &str| format!("{dir}/{name}");
        fs::create_dir(x.path(&dir)).unwrap();
        assert!(!is_there(x, &name("none")), "round {round}");
        fs::write(x.path(&name("own")), "own").unwrap();
        fs::rename(x.path(&name("own")), x.path(&name("moved"))).unwrap();
        fs::hard_link(x.path(&name("moved")), x.path(&name("link"))).unwrap();
        assert!(is_there(x, &name("moved")) && is_there(x, &name("link")));
        assert!(!is_there(x, &name("own")), "round {round}: moved away");
        fs::create_dir(y.path(&name("sub"))).unwrap();
        fs::write(y.path(&name("theirs")), "theirs").unwrap();
        assert!(is_there(x, &name("sub")) && is_there(x, &name("theirs")), "round {round}");
        assert_eq!(fs::read_to_string(x.path(&name("theirs"))).unwrap(), "theirs");
        fs::write(x.path(&name("sub/new")), "new").unwrap();
        assert!(is_there(y, &name("sub/new")), "round {round}");
        fs::write(y.path("beside"), "beside").unwrap();
        fs::rename(y.path("beside"), y.path(&name("came"))).unwrap();
        assert!(is_there(x, &name("came")), "round {round}: moved there by another");
    }
    // Nobody is asked: meta does not answer now.
    fs::create_dir(a.path("quiet")).unwrap();
    let quiet = File::open(a.path("quiet")).unwrap();
    cluster.signal_meta(Signal::STOP);
    let began = Instant::now();
    let absent = statat(&quiet, "none", AtFlags::empty());
    let took = began.elapsed();
    cluster.signal_meta(Signal::CONT);
    assert_eq!(absent.unwrap_err(), Errno::NOENT);
    assert!(took < Duration::from_secs(3), "{took:?}");
    cluster.verify_clean();
}

/// Same size, same times: only a recall tells that the pages are old.
#[test]
fn contents_with_times_set_back_are_not_taken_for_the_old_ones() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::write(a.path("f"), vec![b'0'; 100_000]).unwrap();
    let time = fs::metadata(a.path("f")).unwrap().modified().unwrap();
    let open = File::open(b.path("f")).unwrap();
    for round in 1..20_u8 {
        let mut piece = [0; 50];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut piece, 5000).unwrap();
        assert_eq!(piece, [b'0' + (round - 1) % 10; 50], "round {round}");
        fs::write(a.path("f"), vec![b'0' + round % 10; 100_000]).unwrap();
        File::options().write(true).open(a.path("f")).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn what_is_kept_is_answered_without_the_daemon_and_delays_a_change_by_a_lease_at_most() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), "x").unwrap();
    // Names are kept by one mount of a directory, attributes by all: an open
    // file needs no names.
    let file = Arc::new(File::open(b.path("d/f")).unwrap());
    let mode = |file: &File| file.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&file), 0o644);
    wait_until("the kernel keeps it", Duration::from_secs(10), || {
        mode(&file);
        let stopped = b.paused();
        let theirs = Arc::clone(&file);
        let kept = std::thread::spawn(move || theirs.metadata().unwrap());
        let soon = Instant::now() + Duration::from_millis(500);
        while !kept.is_finished() && Instant::now() < soon {
            std::thread::yield_now();
        }
        let is_kept = kept.is_finished();
        drop(stopped);
        kept.join().unwrap();
        is_kept
    });
    mode(&file);
    let stopped = b.paused();
    let began = Instant::now();
    fs::set_permissions(a.path("d/f"), Permissions::from_mode(0o600)).unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500), "{took:?}: nothing was kept");
    assert!(took < Duration::from_secs(13), "{took:?}: a lease is 10 s");
    drop(stopped);
    assert_eq!(mode(&file), 0o600);
    // Whoever left a recall unanswered is granted nothing for a while.
    let began = Instant::now();
    fs::set_permissions(a.path("d/f"), Permissions::from_mode(0o640)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(mode(&file), 0o640);
}

/// The kernel moves a name together with the time for which it may keep it.
#[test]
fn a_renamed_name_is_not_kept_beyond_another_mounts_change() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    for dir in ["one", "two"] {
        fs::create_dir(a.path(dir)).unwrap();
        fs::write(a.path(&format!("{dir}/other")), "other").unwrap();
    }
    for round in 0..40 {
        // Within a directory, and from one that this mount has the names of to
        // one that it never looked into.
        let to = if round % 2 == 0 { "one/b" } else { "two/b" };
        let name = format!("one/a{round}");
        fs::write(a.path(&name), "moved").unwrap();
        // Kept open and linked elsewhere: the inode stays known.
        let _open = File::open(a.path(&name)).unwrap();
        fs::hard_link(a.path(&name), a.path(&format!("link{round}"))).unwrap();
        fs::metadata(a.path(&name)).unwrap();
        fs::rename(a.path(&name), a.path(to)).unwrap();
        assert_eq!(fs::read_to_string(b.path(to)).unwrap(), "moved");
        fs::rename(b.path(to), b.path(&format!("gone{round}"))).unwrap();
        let error = fs::metadata(a.path(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "round {round}");
    }
}

#[test]
fn two_mounts_that_change_one_directory_at_once_do_not_wait_for_one_another() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::create_dir(a.path("d")).unwrap();
    let work = |mount: &Mount, who: &str| {
        let mut slowest = Duration::ZERO;
        for round in 0..ROUNDS {
            let began = Instant::now();
            let (one, two) = (format!("d/{who}{round}"), format!("d/{who}-{round}"));
            fs::write(mount.path(&one), who).unwrap();
            fs::rename(mount.path(&one), mount.path(&two)).unwrap();
            assert!(!mount.path(&one).exists());
            fs::remove_file(mount.path(&two)).unwrap();
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let slowest = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| work(&a, "a")), scope.spawn(|| work(&b, "b")));
        one.join().unwrap().max(two.join().unwrap())
    });
    assert!(slowest < Duration::from_secs(8), "{slowest:?}: they waited for the end of a lease");
    assert_eq!(fs::read_dir(a.path("d")).unwrap().count(), 0);
}

#[test]
fn a_directory_kept_for_one_user_is_closed_to_another() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let cluster = Cluster::start();
    let (a, _b) = pair(&cluster);
    fs::create_dir(a.path("private")).unwrap();
    fs::write(a.path("private/f"), "secret").unwrap();
    fs::set_permissions(a.path("private"), Permissions::from_mode(0o700)).unwrap();
    fs::metadata(a.path("private/f")).unwrap();
    let as_nobody = |program: &str, path: &str| {
        Command::new(program).arg(a.path(path)).uid(65_534).gid(65_534).output().unwrap()
    };
    for (program, path) in [("stat", "private/f"), ("cat", "private/f"), ("ls", "private")] {
        let output = as_nobody(program, path);
        assert!(!output.status.success(), "{program} {path}");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("Permission denied"), "{why}");
    }
    fs::set_permissions(a.path("private"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(as_nobody("cat", "private/f").stdout, b"secret");
}

/// Who maps a file asks nobody before reading: what another mount writes has to
/// take the page away, also long after it was read, and also when others change
/// the file so often that nobody is granted anything.
#[test]
fn what_is_mapped_follows_what_another_mount_writes() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let temporary = tempfile::tempdir().unwrap();
    let program = Mapping::compiled(temporary.path());
    let write = |byte: u8| fs::write(a.path("f"), [byte; 4096]).unwrap();
    write(1);
    let mut mapping = Mapping::new(&program, &b.path("f"));
    assert_eq!(mapping.byte(), 1);
    flexfs_tests::wait::pass(LEASE + Duration::from_secs(2));
    assert_eq!(mapping.byte(), 1);
    write(2);
    assert_eq!(mapping.byte(), 2, "of what is old and nobody else changes, at once");
    // Read within the second after a change: without any right.
    write(3);
    wait_until("a change right after another", Duration::from_secs(4), || mapping.byte() == 3);
    for byte in 4..8 {
        write(byte);
        write(byte + 100);
        wait_until("one of many changes", Duration::from_secs(4), || mapping.byte() == byte + 100);
    }
}
