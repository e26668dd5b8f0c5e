//! Files that a mount makes by itself, in a directory to which it has the right
//! to do so, and tells meta of at close: nobody sees the directory without them,
//! and nothing that was made is lost in silence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use flexfs_tests::wait::{wait_until, within};
use flexfs_tests::{Cluster, Mount, Run};
use rustix::io::Errno;
use rustix::process::Signal;

/// Meta answers again at the latest when this is dropped.
struct Stopped<'c>(&'c Cluster);

impl<'c> Stopped<'c> {
    fn new(cluster: &'c Cluster) -> Stopped<'c> {
        cluster.signal_meta(Signal::STOP);
        Stopped(cluster)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal_meta(Signal::CONT);
    }
}

/// A directory in which this mount makes files by itself: it has numbers for
/// them, which come soon after the first directory was made.
fn own_directory(cluster: &Cluster, mount: &Mount, name: &str) {
    fs::create_dir(mount.path(name)).unwrap();
    let mut tried = 0;
    wait_until("a file that is made without meta", Duration::from_secs(30), || {
        tried += 1;
        // Known, also after a file was removed from it.
        fs::metadata(mount.path(name)).unwrap();
        let path = mount.path(name).join(format!("try{tried}"));
        let stopped = Stopped::new(cluster);
        let (sent, made) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let file = File::create_new(&path).unwrap();
            let _ = sent.send(());
            drop(file);
            fs::remove_file(path).unwrap();
        });
        let alone = made.recv_timeout(Duration::from_millis(300)).is_ok();
        drop(stopped);
        thread.join().unwrap();
        alone
    });
    fs::metadata(mount.path(name)).unwrap();
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_125)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Meta does not answer at all, and the file is there with all that is asked
/// of it; its close waits.
#[test]
fn a_file_is_made_written_and_looked_at_without_meta() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    own_directory(&cluster, &a, "d");
    let path = a.path("d/f");
    let stopped = Stopped::new(&cluster);
    let (file, path) = within("a file without meta", Duration::from_secs(5), move || {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path)
            .unwrap();
        file.write_all(b"made here").unwrap();
        let by_name = fs::metadata(&path).unwrap();
        assert_eq!((by_name.len(), by_name.mode(), by_name.nlink()), (9, 0o100_640, 1));
        assert_eq!(by_name.ino(), file.metadata().unwrap().ino());
        let mut none = [0; 9];
        assert_eq!(
            rustix::fs::getxattr(&path, "user.x", &mut none[..]).unwrap_err(),
            Errno::NODATA
        );
        file.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
        file.set_modified(long_ago()).unwrap();
        let changed = fs::metadata(&path).unwrap();
        assert_eq!((changed.mode(), changed.modified().unwrap()), (0o100_604, long_ago()));
        let dir = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(dir.modified().unwrap(), by_name.created().unwrap(), "its last change");
        (file, path)
    });
    let inode = file.metadata().unwrap().ino();
    drop(stopped);
    let again = File::create_new(&path).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    drop(file);
    assert_eq!(fs::read(b.path("d/f")).unwrap(), b"made here");
    let theirs = fs::metadata(b.path("d/f")).unwrap();
    assert_eq!((theirs.ino(), theirs.mode()), (inode, 0o100_604));
    assert_eq!(theirs.modified().unwrap(), long_ago());
    let ours = fs::metadata(&path).unwrap();
    assert_eq!(ours.created().unwrap(), theirs.created().unwrap());
    let times = |mount: &Mount| fs::metadata(mount.path("d")).unwrap().modified().unwrap();
    assert_eq!(times(&a), times(&b));
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// Whoever looks, by whatever call, sees what is open elsewhere and was never
/// closed.
#[test]
fn another_mount_sees_what_is_not_closed() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    type Look = fn(&Path) -> bool;
    let all: [(&str, Look); 8] = [
        ("stat", |dir| fs::metadata(dir.join("f")).is_ok_and(|found| found.len() == 5)),
        ("read", |dir| fs::read(dir.join("f")).is_ok_and(|read| read == b"hello")),
        ("list", |dir| names(dir).contains(&"f".to_owned())),
        ("create", |dir| {
            File::create_new(dir.join("f")).is_err_and(|e| e.kind() == ErrorKind::AlreadyExists)
        }),
        ("unlink", |dir| fs::remove_file(dir.join("f")).is_ok()),
        ("rename", |dir| fs::rename(dir.join("f"), dir.join("g")).is_ok()),
        ("link", |dir| fs::hard_link(dir.join("f"), dir.join("g")).is_ok()),
        ("rmdir", |dir| {
            fs::remove_dir(dir).is_err_and(|e| e.kind() == ErrorKind::DirectoryNotEmpty)
        }),
    ];
    for (n, (name, look)) in all.into_iter().enumerate() {
        let dir = format!("d{n}");
        own_directory(&cluster, &a, &dir);
        let mut file = File::create_new(a.path(&dir).join("f")).unwrap();
        file.write_all(b"hello").unwrap();
        assert!(look(&b.path(&dir)), "{name}");
        // It is open here whatever became of its name.
        file.write_all(b" again").unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 11, "{name}");
    }
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// Everything that this mount itself does to a file that it has not told of.
#[test]
fn every_call_finds_what_was_made_here() {
    let cluster = Cluster::start();
    let a = cluster.mount("shared", &cluster.volume("shared"));
    own_directory(&cluster, &a, "d");
    let dir = a.path("d");
    let make = |name: &str| {
        let path = dir.join(name);
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"contents").unwrap();
        (file, path)
    };
    let (file, path) = make("chmod");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(file.metadata().unwrap().mode(), 0o100_600);
    let (mut file, path) = make("times");
    file.set_modified(long_ago()).unwrap();
    file.write_all(b"later").unwrap();
    drop(file);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago());
    let (mut file, path) = make("large times");
    file.write_all(&vec![7; 100_000]).unwrap();
    file.set_modified(long_ago()).unwrap();
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago());
    let (file, path) = make("special");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o104_711);
    let (file, path) = make("chown");
    std::os::unix::fs::fchown(&file, Some(0), Some(0)).unwrap();
    std::os::unix::fs::fchown(&file, Some(77), Some(78)).unwrap();
    drop(file);
    let owned = fs::metadata(&path).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (77, 78));
    let (file, path) = make("truncate");
    file.set_len(3).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"con");
    let (_file, path) = make("link");
    fs::hard_link(&path, dir.join("linked")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    let (_file, path) = make("rename");
    fs::rename(&path, dir.join("renamed")).unwrap();
    assert_eq!(fs::read(dir.join("renamed")).unwrap(), b"contents");
    let (mut file, path) = make("unlink");
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all(b" more").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let (_file, path) = make("open");
    let mut again = String::new();
    File::open(&path).unwrap().read_to_string(&mut again).unwrap();
    assert_eq!(again, "contents");
    let (_file, path) = make("xattr");
    rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    let mut value = [0; 1];
    assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut value[..]).unwrap(), 1);
    let (file, _path) = make("lock");
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let (file, _path) = make("sync");
    file.sync_all().unwrap();
    let (mut file, path) = make("large");
    file.write_all(&vec![7; 9 << 20]).unwrap();
    drop(file);
    assert_eq!(fs::metadata(path).unwrap().len(), (9 << 20) + 8);
    let (_file, _path) = make("listed");
    assert!(names(&dir).contains(&"listed".to_owned()));
    let (_file, _path) = make("kept");
    assert_eq!(fs::remove_dir(&dir).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    a.stop();
    cluster.verify_clean();
}

/// Who may make files where, and with what, is as everywhere else.
#[test]
fn a_directory_that_was_made_otherwise_or_changed_is_asked_for() {
    let cluster = Cluster::start();
    let a = cluster.mount("shared", &cluster.volume("shared"));
    own_directory(&cluster, &a, "d");
    fs::set_permissions(a.path("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    std::os::unix::fs::chown(a.path("d"), None, Some(4242)).unwrap();
    fs::write(a.path("d/f"), "").unwrap();
    assert_eq!(fs::metadata(a.path("d/f")).unwrap().gid(), 4242, "set-group-ID");
    own_directory(&cluster, &a, "e");
    let acl = Run::of(
        Command::new("setfacl").args(["-d", "-m", "u:1:rw"]).arg(a.path("e")),
        Duration::from_secs(30),
    );
    acl.ok();
    fs::write(a.path("e/f"), "").unwrap();
    let mut list = [0; 100];
    let len = rustix::fs::getxattr(a.path("e/f"), "system.posix_acl_access", &mut list[..]);
    assert!(len.unwrap() > 0, "the default list is inherited");
    a.stop();
    cluster.verify_clean();
}

#[test]
fn what_a_killed_mount_had_made_is_not_there_and_nothing_is_left_of_it() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    own_directory(&cluster, &a, "d");
    fs::write(a.path("d/closed"), "is there").unwrap();
    let stopped = Stopped::new(&cluster);
    let path = a.path("d/open");
    let file = within("a file without meta", Duration::from_secs(5), move || {
        let mut file = File::create_new(path).unwrap();
        file.write_all(b"is not").unwrap();
        file
    });
    a.kill9();
    drop(stopped);
    drop(file);
    assert_eq!(names(&b.path("d")), ["closed"]);
    assert_eq!(fs::read(b.path("d/closed")).unwrap(), b"is there");
    a.clear();
    b.stop();
    cluster.verify_clean();
}

#[test]
fn what_was_made_outlives_meta() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    for round in 0..3 {
        let dir = format!("d{round}");
        own_directory(&cluster, &a, &dir);
        let mut file = File::create_new(a.path(&dir).join("f")).unwrap();
        file.write_all(b"before").unwrap();
        cluster.kill9_meta();
        file.write_all(b" and after").unwrap();
        cluster.restart_meta();
        assert_eq!(fs::read(b.path(&dir).join("f")).unwrap(), b"before and after");
        drop(file);
        fs::write(a.path(&dir).join("g"), "goes on").unwrap();
        assert_eq!(names(&b.path(&dir)), ["f", "g"]);
    }
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// Rights that were narrowed between making and closing: nothing arrives, and
/// who made it is told.
#[test]
fn what_may_not_be_made_any_more_is_refused_and_told() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    own_directory(&cluster, &a, "d");
    let mut file = File::create_new(a.path("d/f")).unwrap();
    file.write_all(b"too late").unwrap();
    cluster.configure(&["update", "volume-token", &token.id, "--flags", "ro"]).ok();
    wait_until("the mount is read-only", Duration::from_secs(30), || {
        fs::write(a.path("other"), "").is_err_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem)
    });
    let told = file.sync_all();
    let seen = b.path("d/f").exists();
    // Either it arrived before, whole, or it did not and its maker knows.
    assert_ne!(told.is_err(), seen, "{told:?}");
    if seen {
        assert_eq!(fs::read(b.path("d/f")).unwrap(), b"too late");
    }
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// Makes files in new directories below `base` until told to stop. Returns those
/// whose close has succeeded, by directory and name.
struct Maker {
    thread: JoinHandle<Vec<(String, String)>>,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
}

/// What is in each file.
fn contents(dir: &str, name: &str) -> Vec<u8> {
    format!("{dir} {name} ").repeat(20).into_bytes()
}

impl Maker {
    fn start(base: PathBuf) -> Maker {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, making) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = std::thread::spawn(move || {
            let mut closed = Vec::new();
            for n in 0.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let dir = format!("d{n}");
                if fs::create_dir(base.join(&dir)).is_err() {
                    continue;
                }
                for name in ["a", "b", "c"] {
                    // A program that says what close(2) said.
                    let mut of = OsString::from("of=");
                    of.push(base.join(&dir).join(name));
                    let mut dd = Command::new("dd");
                    dd.arg(of).args(["conv=excl", "status=none"]);
                    let limit = Duration::from_secs(60);
                    if Run::with_input(&mut dd, &contents(&dir, name), limit).succeeded() {
                        closed.push((dir.clone(), name.to_owned()));
                        making.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            closed
        });
        Maker { thread, stop, made }
    }

    /// Files made so far.
    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits for another so many files.
    fn advance(&self, more: usize) {
        let to = self.made() + more;
        wait_until("more files", Duration::from_secs(60), || self.made() >= to);
    }

    fn stop(self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What was closed is there, in one of these directories, and what is there is
/// whole.
fn check_made(closed: &[(String, String)], bases: &[PathBuf]) {
    assert!(!closed.is_empty());
    for (dir, name) in closed {
        let found = bases.iter().find_map(|base| fs::read(base.join(dir).join(name)).ok());
        assert_eq!(found.as_ref(), Some(&contents(dir, name)), "{dir}/{name}");
    }
}

/// Another mount moves directories out of the scope of the one that makes files
/// in them, and some back.
#[test]
fn directories_that_leave_the_scope_take_along_what_was_made() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let b = cluster.mount("shared", &token);
    fs::create_dir(b.path("scope")).unwrap();
    fs::create_dir(b.path("out")).unwrap();
    let scoped = cluster.volume_token("shared", &["--mountPath", "/scope"]);
    let a = cluster.mount("shared", &scoped);
    let maker = Maker::start(a.dir().to_owned());
    let (scope, out) = (b.path("scope"), b.path("out"));
    let mut moved = 0;
    while moved < 60 {
        for name in names(&scope) {
            fs::rename(scope.join(&name), out.join(&name)).unwrap();
            moved += 1;
            if moved % 3 == 0 {
                fs::rename(out.join(&name), scope.join(&name)).unwrap();
            }
        }
    }
    let closed = maker.stop();
    check_made(&closed, &[scope, out.clone()]);
    let gone = names(&out).remove(0);
    assert!(!a.path(&gone).exists(), "it is outside");
    a.stop();
    b.stop();
    cluster.verify_clean();
}

#[test]
fn what_was_closed_is_there_while_flags_change_and_meta_restarts() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("shared");
    let own = cluster.volume_token("shared", &[]);
    let (a, b) = (cluster.mount("shared", &own), cluster.mount("shared", &token));
    let maker = Maker::start(a.dir().to_owned());
    for round in 0..3 {
        maker.advance(10);
        let flags = |flags| {
            cluster.configure(&["update", "volume-token", &own.id, "--flags", flags]).ok();
        };
        flags("ro");
        flags("none");
        maker.advance(10);
        if round % 2 == 0 {
            cluster.kill9_meta();
        } else {
            cluster.stop_meta();
        }
        cluster.restart_meta();
        // Others look while it goes on.
        for name in names(b.dir()) {
            names(&b.path(&name));
        }
    }
    let closed = maker.stop();
    check_made(&closed, &[a.dir().to_owned()]);
    check_made(&closed, &[b.dir().to_owned()]);
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// A quota of inodes is told at open(2), not at close(2), and to nobody before
/// it is reached.
#[test]
fn a_quota_of_inodes_is_told_when_a_file_is_made() {
    let cluster = Cluster::start();
    let token = cluster.volume_with("small", &["--maxInodes", "600"]);
    let (a, b) = (cluster.mount("small", &token), cluster.mount("small", &token));
    fs::create_dir(a.path("d")).unwrap();
    fs::create_dir(b.path("e")).unwrap();
    let mut made = 3;
    'all: for n in 0.. {
        for dir in [a.path("d"), b.path("e")] {
            match File::create_new(dir.join(n.to_string())) {
                Ok(file) => drop(file),
                Err(error) => {
                    assert_eq!(Errno::from_io_error(&error), Some(Errno::DQUOT));
                    break 'all;
                }
            }
            made += 1;
        }
    }
    assert_eq!(made, 600);
    fs::remove_file(a.path("d/0")).unwrap();
    File::create_new(b.path("e/again")).unwrap();
    a.stop();
    b.stop();
    cluster.verify_clean();
}

/// chmod(2) is not masked, making is.
#[test]
fn a_umask_of_the_session_is_for_making_alone() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let a = cluster.mount_with("shared", &token, &["--umask", "0027"]);
    own_directory(&cluster, &a, "d");
    let see = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let mut seen = Vec::new();
    for name in ["other", "d/f"] {
        let path = a.path(name);
        let file = File::options().write(true).create_new(true).mode(0o666).open(&path).unwrap();
        let made = see(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let changed = see(&path);
        drop(file);
        let closed = see(&path);
        seen.push((made, changed, closed));
    }
    assert_eq!(seen[0], seen[1]);
    a.stop();
}

/// Seen through a descriptor, which the kernel does not look up anew.
#[test]
fn a_moved_and_a_removed_directory_have_their_new_attributes() {
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let (a, b) = (cluster.mount("shared", &token), cluster.mount("shared", &token));
    own_directory(&cluster, &a, "d");
    own_directory(&cluster, &a, "gone");
    let moved = File::open(a.path("d")).unwrap();
    moved.metadata().unwrap();
    fs::rename(a.path("d"), a.path("e")).unwrap();
    let ours = moved.metadata().unwrap();
    let removed = File::open(a.path("gone")).unwrap();
    removed.metadata().unwrap();
    fs::remove_dir(a.path("gone")).unwrap();
    // A handle to a directory ends with the directory.
    assert!(removed.metadata().map_or(true, |found| found.nlink() == 0));
    let theirs = fs::metadata(b.path("e")).unwrap();
    assert_eq!((ours.ctime(), ours.ctime_nsec()), (theirs.ctime(), theirs.ctime_nsec()));
    a.stop();
    b.stop();
}
