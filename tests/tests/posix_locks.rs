//! Locks in the forms that two_mounts.rs leaves out: those of open file
//! descriptions, what F_GETLK tells, deadlocks; and what becomes of locks when
//! meta is restarted, or a mount is silent for longer than its lease.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use flexfs_tests::tools::compile;
use flexfs_tests::{Cluster, Run, wait_until, within};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// A lease and its margin, and time for a busy machine.
const LEASE_MAX: Duration = Duration::from_secs(14);

/// Works on the files of its arguments, which are one file; each step that
/// goes wrong has an exit code of its own.
const LOCKER: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int set(int fd, int how, short kind, off_t at, off_t len) {
    struct flock lock = { .l_type = kind, .l_whence = SEEK_SET, .l_start = at, .l_len = len };
    return fcntl(fd, how, &lock) == 0 ? 0 : errno;
}

#define NEED(step, what) do { if (!(what)) { \
    fprintf(stderr, "step %d: errno %d\n", step, errno); _exit(step); } } while (0)
#define BUSY(error) ((error) == EAGAIN || (error) == EACCES)

/* Locks of an open file description end with it, not with another's close. */
static void descriptions(char **names) {
    int a = open(names[0], O_RDWR), b = open(names[1], O_RDWR), c = open(names[1], O_RDWR);
    NEED(10, set(a, F_OFD_SETLK, F_WRLCK, 0, 0) == 0);
    NEED(11, BUSY(set(b, F_OFD_SETLK, F_WRLCK, 5, 1)));
    close(c);
    int copy = dup(a);
    close(a);
    NEED(12, BUSY(set(b, F_OFD_SETLK, F_RDLCK, 5, 1)));
    pid_t child = fork();
    if (!child) {
        /* The child's copy keeps it, until it ends. */
        NEED(13, BUSY(set(b, F_OFD_SETLK, F_RDLCK, 5, 1)));
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    NEED(14, status == 0);
    NEED(15, BUSY(set(b, F_OFD_SETLK, F_RDLCK, 5, 1)));
    close(copy);
    alarm(30);
    NEED(16, set(b, F_OFD_SETLKW, F_WRLCK, 0, 0) == 0);
    close(b);
}

/* Locks of a process end with any of its descriptors of the file. */
static void processes(char **names) {
    int a = open(names[0], O_RDWR), b = open(names[0], O_RDWR), c = open(names[1], O_RDWR);
    NEED(20, set(a, F_SETLK, F_WRLCK, 100, 50) == 0);
    struct flock found = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0 };
    pid_t child = fork();
    if (!child) {
        NEED(21, fcntl(c, F_GETLK, &found) == 0);
        NEED(22, found.l_type == F_WRLCK && found.l_start == 100 && found.l_len == 50);
        if (!strcmp(names[0], names[1])) NEED(23, found.l_pid == getppid());
        NEED(24, BUSY(set(c, F_SETLK, F_RDLCK, 149, 1)));
        NEED(25, set(c, F_SETLK, F_RDLCK, 150, 1) == 0);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    NEED(26, status == 0);
    close(b);
    child = fork();
    if (!child) {
        alarm(30);
        NEED(27, set(c, F_SETLKW, F_WRLCK, 100, 50) == 0);
        _exit(0);
    }
    waitpid(child, &status, 0);
    NEED(28, status == 0);
}

/* Each has one and wants the other's. */
static void deadlock(char **names) {
    int ready[2], a = open(names[0], O_RDWR), b = open(names[1], O_RDWR);
    NEED(30, pipe(ready) == 0);
    pid_t child = fork();
    if (!child) {
        alarm(60);
        NEED(31, set(b, F_SETLK, F_WRLCK, 1, 1) == 0);
        NEED(32, write(ready[1], "x", 1) == 1);
        int got = set(b, F_SETLKW, F_WRLCK, 0, 1);
        NEED(33, got == 0 || got == EDEADLK);
        _exit(got == EDEADLK ? 99 : 0);
    }
    alarm(60);
    char byte;
    NEED(34, set(a, F_SETLK, F_WRLCK, 0, 1) == 0);
    NEED(35, read(ready[0], &byte, 1) == 1);
    int got = set(a, F_SETLKW, F_WRLCK, 1, 1), status;
    NEED(36, got == 0 || got == EDEADLK);
    close(a);
    waitpid(child, &status, 0);
    NEED(37, WIFEXITED(status) && (WEXITSTATUS(status) == 99) == (got == 0));
}

int main(int argc, char **argv) {
    descriptions(argv + 1);
    processes(argv + 1);
    deadlock(argv + 1);
    return 0;
}
"#;

fn run(locker: &Path, files: [&Path; 2]) {
    Run::of(Command::new(locker).args(files), Duration::from_secs(120)).ok();
}

#[test]
fn locks_end_with_their_owner_on_one_mount_and_on_two() {
    let cluster = Cluster::start();
    let token = cluster.volume("locks");
    let (mount, other) = (cluster.mount("locks", &token), cluster.mount("locks", &token));
    let locker = compile(cluster.root(), "locker", LOCKER);
    std::fs::write(mount.path("f"), "x").unwrap();
    // The file system below: the program is right.
    std::fs::write(cluster.root().join("f"), "x").unwrap();
    let below = cluster.root().join("f");
    run(&locker, [&below, &below]);
    run(&locker, [&mount.path("f"), &mount.path("f")]);
    run(&locker, [&mount.path("f"), &other.path("f")]);
    cluster.verify_clean();
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A program that waits for a flock, and has got it when it ends well. It waits
/// when this returns.
fn waiter(path: &Path) -> Child {
    let child = Command::new("flock").arg(path).arg("true").spawn().unwrap();
    let syscall = format!("/proc/{}/syscall", child.id());
    wait_until("it waits", Duration::from_secs(20), || {
        let now = fs::read_to_string(&syscall).unwrap_or_default();
        now.split(' ').next() == Some(&libc::SYS_flock.to_string())
    });
    child
}

fn exclusively(file: &File) -> Result<(), Errno> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

#[test]
fn locks_outlive_a_restart_of_meta_and_waiting_for_them_can_be_interrupted() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("locks");
    let (a, b) = (cluster.mount("locks", &token), cluster.mount("locks", &token));
    let (held, wanted) = (open(&a.path("f")), open(&b.path("f")));
    exclusively(&held).unwrap();
    fcntl_lock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let (mut waiting, mut interrupted) = (waiter(&b.path("f")), waiter(&b.path("f")));
    cluster.kill9_meta();
    let pid = Pid::from_child(&interrupted);
    kill_process(pid, Signal::TERM).unwrap();
    let ended = within("a signal while meta is away", Duration::from_secs(5), move || {
        interrupted.wait().unwrap()
    });
    assert!(!ended.success(), "{ended}");
    cluster.restart_meta();
    // Meta does not have to be told of them again, and gives them to nobody.
    assert_eq!(exclusively(&wanted).unwrap_err(), Errno::WOULDBLOCK);
    let byte = FlockOperation::NonBlockingLockExclusive;
    assert_eq!(fcntl_lock(&wanted, byte).unwrap_err(), Errno::AGAIN);
    held.write_all_at(b"mine", 0).unwrap();
    held.sync_all().unwrap();
    assert!(waiting.try_wait().unwrap().is_none(), "it has not got it");
    flock(&held, FlockOperation::Unlock).unwrap();
    fcntl_lock(&held, FlockOperation::Unlock).unwrap();
    let got = within("the one that waits", Duration::from_secs(10), move || waiting.wait());
    assert!(got.unwrap().success());
    fcntl_lock(&wanted, byte).unwrap();
    exclusively(&wanted).unwrap();
    cluster.verify_clean();
}

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(outcome: io::Result<T>) {
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
}

/// Others have been given the lock: who held it must not believe it still has
/// it, whether it was the mount that was stopped, or meta that was restarted
/// meanwhile.
#[test]
fn a_lock_that_is_lost_by_silence_is_lost_loudly() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("locks");
    let (a, b) = (cluster.mount("locks", &token), cluster.mount("locks", &token));
    for restart in [false, true] {
        let (held, ranged, free) = (open(&a.path("f")), open(&a.path("f")), open(&a.path("f")));
        let wanted = open(&b.path("f"));
        exclusively(&held).unwrap();
        fcntl_lock(&ranged, FlockOperation::NonBlockingLockExclusive).unwrap();
        held.write_all_at(b"mine", 0).unwrap();
        // Before: a child of this process that is not there yet closes what is
        // open on the mount.
        let mut waiting = waiter(&b.path("f"));
        let paused = a.paused();
        let begun = Instant::now();
        let got = within("the lease of the holder ends", LEASE_MAX, move || waiting.wait());
        assert!(got.unwrap().success() && begun.elapsed() > Duration::from_secs(5));
        exclusively(&wanted).unwrap();
        fcntl_lock(&wanted, FlockOperation::NonBlockingLockExclusive).unwrap();
        wanted.write_all_at(b"ours", 0).unwrap();
        wanted.sync_all().unwrap();
        if restart {
            cluster.kill9_meta();
            cluster.restart_meta();
        }
        drop(paused);
        for file in [&held, &ranged] {
            assert_lost(file.write_all_at(b"mine", 0));
            assert_lost(file.sync_all());
            assert_lost(file.set_len(1));
            assert_lost(file.read_at(&mut [0; 4], 0));
        }
        // It is not taken for a new one, nor for somebody else's.
        assert_eq!(exclusively(&held).unwrap_err(), Errno::IO);
        let mut read = [0; 4];
        free.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"ours", "nothing came behind");
        // Who has unlocked knows, and begins anew.
        flock(&held, FlockOperation::Unlock).unwrap();
        drop(ranged);
        assert_eq!(exclusively(&held).unwrap_err(), Errno::WOULDBLOCK);
        drop(wanted);
        wait_until("it is free", Duration::from_secs(10), || exclusively(&held).is_ok());
        held.write_all_at(b"mine", 0).unwrap();
        held.sync_all().unwrap();
        assert_eq!(fs::read(b.path("f")).unwrap(), b"mine");
    }
    cluster.verify_clean();
}
