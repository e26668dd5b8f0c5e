//! Byte-range locks in the forms that two_mounts.rs leaves out: those of open
//! file descriptions, what F_GETLK tells, deadlocks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexfs_tests::tools::compile;
use flexfs_tests::{Cluster, Run};

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
