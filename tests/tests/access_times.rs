//! Access times move as with relatime on Linux (docs/posix.md, "Times").
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexfs_tests::{Cluster, Mount, wait_until};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

/// How long another mount may take to hear of it: the end of an open is told
/// after close(2) has returned.
const TOLD: Duration = Duration::from_secs(30);

type Time = (i64, i64);

fn atime(path: &Path) -> Time {
    let found = fs::symlink_metadata(path).unwrap();
    (found.atime(), found.atime_nsec())
}

fn mtime(path: &Path) -> Time {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mtime(), found.mtime_nsec())
}

fn set_atime(path: &Path, seconds: i64) {
    let last_access = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let last_modification = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access, last_modification };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Reads around the kernel's pages, which it would answer from.
fn read(path: &Path) -> Vec<u8> {
    let flags = libc_o_direct();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn libc_o_direct() -> i32 {
    i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap()
}

fn tree(mount: &Mount) {
    fs::write(mount.path("f"), "contents").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/one"), "1").unwrap();
    symlink("f", mount.path("link")).unwrap();
    for name in ["f", "dir", "link"] {
        set_atime(&mount.path(name), 77);
    }
}

/// Reads all of them.
fn read_all(mount: &Mount) {
    assert_eq!(read(&mount.path("f")), b"contents");
    assert_eq!(fs::read_dir(mount.path("dir")).unwrap().count(), 1);
    assert_eq!(fs::read_link(mount.path("link")).unwrap(), Path::new("f"));
}

#[test]
fn the_first_reading_after_a_change_moves_the_time_and_the_second_does_not() {
    let cluster = Cluster::start();
    let token = cluster.volume("times");
    let mount = cluster.mount("times", &token);
    tree(&mount);
    let paths = ["f", "dir", "link"].map(|name| mount.path(name));
    read_all(&mount);
    let first = paths.each_ref().map(|path| atime(path));
    for (path, first) in paths.iter().zip(first) {
        assert!(first > mtime(path), "{path:?} was read: {first:?}");
    }
    read_all(&mount);
    assert_eq!(paths.each_ref().map(|path| atime(path)), first, "nothing has changed since");
    // And once more after a change, also with what is not sent yet.
    fs::write(&paths[0], "contents").unwrap();
    fs::write(mount.path("dir/two"), "2").unwrap();
    fs::remove_file(mount.path("dir/two")).unwrap();
    read_all(&mount);
    for (path, first) in paths.iter().zip(first).take(2) {
        assert!(atime(path) > first && atime(path) > mtime(path), "{path:?} was read again");
    }
    let read_then = paths.each_ref().map(|path| atime(path));
    let other = cluster.mount("times", &cluster.volume_token("times", &[]));
    for (name, time) in ["f", "dir", "link"].into_iter().zip(read_then) {
        wait_until("the other mount sees it", TOLD, || atime(&other.path(name)) == time);
    }
    other.stop();
    mount.stop();
    let again = cluster.mount("times", &token);
    let paths = ["f", "dir", "link"].map(|name| again.path(name));
    assert_eq!(paths.each_ref().map(|path| atime(path)), read_then, "it was kept");
    cluster.verify_clean();
}

#[test]
fn nothing_moves_without_leave() {
    let cluster = Cluster::start();
    let token = cluster.volume("times");
    let mount = cluster.mount("times", &token);
    tree(&mount);
    let quiet = cluster.mount_with("times", &cluster.volume_token("times", &[]), &["--noATime"]);
    let reader = cluster.mount_with("times", &cluster.volume_token("times", &[]), &["--ro"]);
    for mount in [&quiet, &reader] {
        read_all(mount);
        for name in ["f", "dir", "link"] {
            assert_eq!(atime(&mount.path(name)), (77, 0), "{name}");
        }
    }
    let flags = rustix::fs::OFlags::NOATIME | rustix::fs::OFlags::DIRECT;
    let flags = i32::try_from(flags.bits()).unwrap();
    let mut text = String::new();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(mount.path("f"));
    file.unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), atime(&mount.path("f"))), ("contents", (77, 0)));
    quiet.stop();
    reader.stop();
    for name in ["f", "dir", "link"] {
        assert_eq!(atime(&mount.path(name)), (77, 0), "{name}");
    }
    cluster.verify_clean();
}

#[test]
fn a_file_made_here_is_read_before_anybody_knows_of_it() {
    let cluster = Cluster::start();
    let mount = cluster.mount("times", &cluster.volume("times"));
    fs::create_dir(mount.path("new")).unwrap();
    let path = mount.path("new/f");
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, b"0123456789", 0).unwrap();
    let written = mtime(&path);
    let mut bytes = [0; 10];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut bytes, 0).unwrap();
    let read_then = atime(&path);
    assert!(read_then > written, "{read_then:?} {written:?}");
    drop(open);
    assert_eq!(atime(&path), read_then, "closed");
    // utimensat(2) wins over what was read before it, told or not.
    let open = File::open(&path).unwrap();
    set_atime(&path, 5);
    assert_eq!(atime(&path), (5, 0));
    drop(open);
    let other = cluster.mount("times", &cluster.volume_token("times", &[]));
    assert_eq!(atime(&other.path("new/f")), (5, 0));
    cluster.verify_clean();
}

#[test]
fn what_another_mount_sets_wins_over_a_reading_before_it() {
    let cluster = Cluster::start();
    let mount = cluster.mount("times", &cluster.volume("times"));
    let other = cluster.mount("times", &cluster.volume_token("times", &[]));
    fs::write(mount.path("f"), "x").unwrap();
    let mut open = File::open(mount.path("f")).unwrap();
    assert_eq!(open.read(&mut [0; 10]).unwrap(), 1);
    let read_then = atime(&mount.path("f"));
    assert!(read_then > mtime(&mount.path("f")));
    set_atime(&other.path("f"), 5);
    assert_eq!(atime(&mount.path("f")), (5, 0));
    drop(open);
    mount.stop();
    assert_eq!(atime(&other.path("f")), (5, 0), "the reading was before it");
    cluster.verify_clean();
}

/// As mail programs look for new mail, and find(1) for what was used.
#[test]
fn programs_find_what_was_read_since() {
    let cluster = Cluster::start();
    let mount = cluster.mount("times", &cluster.volume("times"));
    for name in ["read", "unread"] {
        fs::write(mount.path(name), "x").unwrap();
    }
    fs::write(mount.path("mark"), "").unwrap();
    assert_eq!(read(&mount.path("read")), b"x");
    let find = |condition: &[&str]| {
        let mut command = Command::new("find");
        command.arg(mount.dir()).args(["-type", "f", "-size", "+0"]).args(condition);
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mark = mount.path("mark").display().to_string();
    assert_eq!(find(&["-anewer", &mark]), mount.path("read").display().to_string());
    assert_eq!(find(&["-newer", &mark]), "");
    cluster.verify_clean();
}
