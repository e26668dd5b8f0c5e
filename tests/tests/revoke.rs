//! Revocation: fast, complete, final, and felt by nobody else (P1).
//!
//! One test at a time: the delays are part of what is shown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Error, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_tests::files::Noise;
use flexfs_tests::process::COMMAND;
use flexfs_tests::tools::big;
use flexfs_tests::{Cluster, Mount, Run, within};
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::process::Signal;

/// How long after the command's start the last reader may still read.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// Others never wait longer than this, on a busy machine: far below a lease.
const UNNOTICED: Duration = Duration::from_secs(4);
const KEY_REVOKED: i32 = Errno::KEYREVOKED.raw_os_error();
const KEY_EXPIRED: i32 = Errno::KEYEXPIRED.raw_os_error();

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A failed test before this one has nothing to do with it.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread that uses a mount has seen.
struct Seen {
    successes: u64,
    slowest: Duration,
    last_success: Instant,
    first_error: Instant,
    errno: Option<i32>,
}

/// A thread that works on a mount until an error.
struct Worker {
    thread: JoinHandle<Seen>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn start(mut work: impl FnMut(u64) -> Result<(), Error> + Send + 'static) -> Worker {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut last_success = Instant::now();
            let mut slowest = Duration::ZERO;
            loop {
                let successes = counted.load(Ordering::Relaxed);
                let outcome = work(successes);
                let now = Instant::now();
                let errno = match outcome {
                    Ok(()) if stopped.load(Ordering::Relaxed) => None,
                    Ok(()) => {
                        slowest = slowest.max(now.duration_since(last_success));
                        last_success = now;
                        counted.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => Some(error.raw_os_error().unwrap_or(-1)),
                };
                return Seen { successes, slowest, last_success, first_error: now, errno };
            }
        });
        Worker { thread, count, stop }
    }

    fn wait_for(self, count: u64) -> Worker {
        flexfs_tests::wait_until("the worker works", Duration::from_secs(30), || {
            self.count.load(Ordering::Relaxed) >= count || self.thread.is_finished()
        });
        self
    }

    /// What ended it.
    fn ended(self) -> Seen {
        within("a system call on a cut mount", Duration::from_secs(30), || {
            self.thread.join().unwrap()
        })
    }

    /// Ends it; it must have met neither an error nor a long wait.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.ended();
        assert_eq!(seen.errno, None, "a mount that nobody revoked met an error");
        assert!(seen.slowest < UNNOTICED, "a mount that nobody revoked waited {:?}", seen.slowest);
        seen.successes
    }
}

/// Reads a file again and again that is all in caches.
fn reader_of_cached(mount: &Mount) -> Worker {
    let file = File::open(mount.path("small")).unwrap();
    let mut buffer = vec![0; 4096];
    Worker::start(move |_| file.read_exact_at(&mut buffer, 0)).wait_for(20)
}

/// Opens and reads files that this mount has not read before.
fn reader_of_uncached(mount: &Mount) -> Worker {
    let dir = mount.path("many");
    Worker::start(move |number| {
        let bytes = fs::read(dir.join(format!("f{}", number % 4000)))?;
        assert!(bytes.len() == 10_000);
        Ok(())
    })
    .wait_for(3)
}

/// Lists and stats.
fn walker(mount: &Mount) -> Worker {
    let dir = mount.dir().to_owned();
    Worker::start(move |_| {
        for entry in fs::read_dir(&dir)? {
            entry?.metadata()?;
        }
        Ok(())
    })
    .wait_for(3)
}

/// Writes without pause, each file checked.
fn bystander(mount: &Mount) -> Worker {
    let dir = mount.dir().to_owned();
    Worker::start(move |number| {
        let path = dir.join(format!("own{}", number % 8));
        let bytes = number.to_le_bytes().repeat(500);
        fs::write(&path, &bytes)?;
        assert!(fs::read(&path)? == bytes);
        Ok(())
    })
    .wait_for(3)
}

fn fill(mount: &Mount, files: usize) {
    fs::write(mount.path("small"), vec![1; 4096]).unwrap();
    std::os::unix::fs::symlink("small", mount.path("symbolic")).unwrap();
    fs::copy("/bin/true", mount.path("program")).unwrap();
    fs::create_dir(mount.path("many")).unwrap();
    let bytes = Noise::new(3).bytes(10_000);
    for number in 0..files {
        fs::write(mount.path(&format!("many/f{number}")), &bytes).unwrap();
    }
}

fn errno_of<T>(result: Result<T, Error>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// What was open and kept before the cut.
struct Held {
    dir: PathBuf,
    file: File,
    /// Of the root.
    listing: OwnedFd,
}

impl Held {
    /// Opens it, and lets the kernel keep whatever it can.
    fn new(mount: &Mount) -> Held {
        let dir = mount.dir().to_owned();
        let file = OpenOptions::new().read(true).write(true).open(dir.join("small")).unwrap();
        let listing = File::open(&dir).unwrap().into();
        for _ in 0..3 {
            fs::metadata(dir.join("many/f0")).unwrap();
            fs::read(dir.join("many/f0")).unwrap();
            fs::read_link(dir.join("symbolic")).unwrap();
            fs::metadata(dir.join("nothing")).unwrap_err();
            file.metadata().unwrap();
            fs::read_dir(&dir).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
        }
        Held { dir, file, listing }
    }
}

/// Every system call that a mount has to answer.
fn calls(held: &Held) -> Vec<(&'static str, Option<i32>)> {
    let (dir, open) = (&held.dir, &held.file);
    let at = |name: &str| dir.join(name);
    let os = |result: Result<(), Errno>| errno_of(result.map_err(Error::from));
    let mut buffer = [0; 16];
    let name = |flags| rustix::fs::XattrFlags::from_bits_retain(flags);
    let now = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let mode = Mode::from_raw_mode(0o600);
    vec![
        ("stat /", errno_of(fs::metadata(dir))),
        ("stat", errno_of(fs::metadata(at("small")))),
        ("stat below", errno_of(fs::metadata(at("many/f0")))),
        ("stat of nothing", errno_of(fs::metadata(at("nothing")))),
        ("readdir", errno_of(fs::read_dir(dir).and_then(|mut d| d.next().transpose()))),
        ("readdir of a directory held open", {
            let first = rustix::fs::Dir::read_from(&held.listing).map(|mut dir| dir.next());
            os(first.and_then(|first| first.unwrap_or(Err(Errno::NOENT))).map(drop))
        }),
        ("fsync of a directory held open", os(rustix::fs::fsync(&held.listing))),
        ("open", errno_of(File::open(at("small")))),
        ("read of a file kept", errno_of(fs::read(at("many/f0")))),
        ("create", errno_of(File::create(at("new")))),
        ("mkdir", errno_of(fs::create_dir(at("newdir")))),
        ("mknod", os(rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0))),
        ("rmdir", errno_of(fs::remove_dir(at("many")))),
        ("unlink", errno_of(fs::remove_file(at("small")))),
        ("rename", errno_of(fs::rename(at("small"), at("big")))),
        ("link", errno_of(fs::hard_link(at("small"), at("hard")))),
        ("symlink", errno_of(std::os::unix::fs::symlink("x", at("link")))),
        ("readlink", errno_of(fs::read_link(at("symbolic")))),
        ("chmod", errno_of(fs::set_permissions(at("small"), Permissions::from_mode(0o600)))),
        ("chown", errno_of(std::os::unix::fs::chown(at("small"), Some(1), Some(1)))),
        ("utimensat", os(rustix::fs::utimensat(CWD, at("small"), &now, no_follow))),
        ("access", os(rustix::fs::access(at("small"), rustix::fs::Access::READ_OK))),
        ("chdir", errno_of(Command::new("true").current_dir(dir).status())),
        ("execve", errno_of(Command::new(at("program")).status())),
        ("statfs", os(rustix::fs::statvfs(dir).map(drop))),
        ("read", errno_of(open.read_at(&mut buffer, 0))),
        ("read at another place", errno_of(open.read_at(&mut buffer, 2048))),
        ("write", errno_of(open.write_at(b"x", 0))),
        ("fstat", errno_of(open.metadata())),
        ("fsync", errno_of(open.sync_all())),
        ("fdatasync", errno_of(open.sync_data())),
        ("ftruncate", errno_of(open.set_len(1))),
        ("fallocate", {
            os(rustix::fs::fallocate(open, rustix::fs::FallocateFlags::empty(), 0, 8192))
        }),
        ("SEEK_DATA", os(rustix::fs::seek(open, rustix::fs::SeekFrom::Data(0)).map(drop))),
        ("getxattr", os(rustix::fs::fgetxattr(open, "user.x", &mut buffer[..]).map(drop))),
        ("listxattr", os(rustix::fs::flistxattr(open, &mut buffer[..]).map(drop))),
        ("setxattr", os(rustix::fs::fsetxattr(open, "user.x", b"1", name(0)))),
        ("removexattr", os(rustix::fs::fremovexattr(open, "user.x"))),
        ("flock", os(rustix::fs::flock(open, rustix::fs::FlockOperation::LockShared))),
        ("fcntl lock", {
            os(rustix::fs::fcntl_lock(open, rustix::fs::FlockOperation::NonBlockingLockShared))
        }),
    ]
}

fn assert_all_fail(held: Held, errno: i32) {
    let results = within("calls on a cut mount", Duration::from_secs(30), move || {
        let results = calls(&held);
        // Closing it may report the same.
        drop(held);
        results
    });
    for (call, result) in results {
        assert_eq!(result, Some(errno), "{call} after the cut");
    }
}

/// A program that has a page of a file mapped, has read it, and reads it again
/// when told. A compiler of C is what building flexfs needs anyway.
const MAPPING: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDONLY);
    volatile char *page = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || page == MAP_FAILED) return 2;
    int sum = page[7];
    puts("mapped"); fflush(stdout);
    if (getchar() == EOF) return 3;
    return sum + page[7] == 0;
}
"#;

/// A page that is mapped before a cut raises SIGBUS after it (P1).
#[test]
fn a_mapped_page_is_gone_after_the_cut() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    cluster.volume("shared");
    let token = cluster.volume_token("shared", &[]);
    let mount = cluster.mount("shared", &token);
    fs::write(mount.path("page"), vec![7; 4096]).unwrap();
    let program = cluster.root().join("mapping");
    fs::write(program.with_extension("c"), MAPPING).unwrap();
    let compiled = Command::new("cc")
        .args([program.with_extension("c").as_os_str(), "-o".as_ref(), program.as_os_str()])
        .status()
        .unwrap();
    assert!(compiled.success());
    let start = || {
        let mut child = Command::new(&program)
            .arg(mount.path("page"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mapped\n");
        child
    };
    let go_on = |child: &mut Child| child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut before = start();
    go_on(&mut before);
    assert_eq!(before.wait().unwrap().code(), Some(0), "it works while the token does");
    let mut after = start();
    cluster.revoke(&token).ok();
    go_on(&mut after);
    let status = within("a mapped page", Duration::from_secs(30), move || after.wait().unwrap());
    assert_eq!(status.signal(), Some(Signal::BUS.as_raw()), "{status}");
}

#[test]
fn revoke_cuts_active_readers_within_a_second_each_time() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let full = cluster.volume("shared");
    let other = cluster.mount("shared", &full);
    fill(&other, 4000);
    let undisturbed = bystander(&other);
    let mut delays = Vec::new();
    for _try in 0..if big() { 20 } else { 8 } {
        let token = cluster.volume_token("shared", &[]);
        let mount = cluster.mount("shared", &token);
        let held = Held::new(&mount);
        let workers = [reader_of_cached(&mount), reader_of_uncached(&mount), walker(&mount)];
        let begun = Instant::now();
        let run = cluster.revoke(&token);
        let returned = Instant::now();
        let said = run.json();
        assert_eq!(said["sessionsCut"], 1, "{said}");
        assert_eq!(said["metas"][0]["acknowledged"], true, "{said}");
        for (index, worker) in workers.into_iter().enumerate() {
            let seen = worker.ended();
            assert_eq!(seen.errno, Some(KEY_REVOKED), "worker {index}");
            let late = seen.last_success.saturating_duration_since(returned);
            assert!(seen.last_success <= returned, "worker {index}: {late:?} after the return");
            // The call that fails began before; a thread needs a moment to say so.
            let late = seen.first_error.saturating_duration_since(returned);
            assert!(late < DELAY_MAX / 4, "worker {index}: its error came {late:?} late");
            delays.push(seen.first_error.duration_since(begun));
        }
        assert_all_fail(held, KEY_REVOKED);
        // A new mount is refused, also with the file that worked before.
        let dir = cluster.new_mount_point();
        cluster.start_mount("shared", &dir, mount.creds(), &[]).fails(3, "TOKEN_REVOKED");
        cluster.init_mount("shared", &token).0.fails(3, "TOKEN_REVOKED");
        // The dead mount can be taken away.
        mount.stop();
    }
    delays.sort();
    eprintln!("from the command's start to a reader's error: {delays:?}");
    let worst = *delays.last().unwrap();
    assert!(worst <= DELAY_MAX, "the worst of {} took {worst:?}", delays.len());
    assert!(undisturbed.finish() > 100);
    cluster.verify_clean();
}

#[test]
fn what_was_not_flushed_is_reported_lost() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let full = cluster.volume("shared");
    let token = cluster.volume_token("shared", &[]);
    let mount = cluster.mount("shared", &token);
    let mut file = File::create(mount.path("file")).unwrap();
    file.write_all(&[1; 100_000]).unwrap();
    file.sync_all().unwrap();
    file.write_all(&[2; 100_000]).unwrap();
    cluster.revoke(&token).ok();
    let synced = within("fsync", Duration::from_secs(30), move || file.sync_all());
    assert_eq!(errno_of(synced), Some(KEY_REVOKED));
    let other = cluster.mount("shared", &full);
    let bytes = fs::read(other.path("file")).unwrap();
    assert!(bytes.len() >= 100_000 && bytes[..100_000].iter().all(|byte| *byte == 1));
    cluster.verify_clean();
}

#[test]
fn a_token_that_expires_cuts_its_mount() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let full = cluster.volume("shared");
    let other = cluster.mount("shared", &full);
    fill(&other, 1);
    let token = cluster.volume_token("shared", &["--expires", "8s"]);
    let made = Instant::now();
    let mount = cluster.mount("shared", &token);
    let held = Held::new(&mount);
    let seen = reader_of_cached(&mount).ended();
    assert_eq!(seen.errno, Some(KEY_EXPIRED));
    let lived = seen.first_error.duration_since(made);
    assert!(lived > Duration::from_secs(4) && lived < Duration::from_secs(12), "{lived:?}");
    assert_all_fail(held, KEY_EXPIRED);
    cluster.init_mount("shared", &token).0.fails(3, "TOKEN_EXPIRED");
    assert_eq!(fs::read(other.path("small")).unwrap().len(), 4096);
}

#[test]
fn deleting_a_volume_cuts_all_its_mounts() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let (gone, stays) = (cluster.volume("gone"), cluster.volume("stays"));
    let (mount, other) = (cluster.mount("gone", &gone), cluster.mount("stays", &stays));
    fs::write(mount.path("small"), vec![1; 4096]).unwrap();
    let reader = reader_of_cached(&mount);
    cluster.configure(&["delete", "volume", "gone"]).ok();
    assert_eq!(reader.ended().errno, Some(KEY_REVOKED));
    fs::write(other.path("file"), "still here").unwrap();
}

#[test]
fn a_meta_that_does_not_answer_is_named_and_cuts_when_it_wakes() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let full = cluster.volume("shared");
    let token = cluster.volume_token("shared", &[]);
    let mount = cluster.mount("shared", &token);
    fs::write(mount.path("small"), vec![1; 4096]).unwrap();
    let reader = reader_of_cached(&mount);
    cluster.signal_meta(Signal::STOP);
    let begun = Instant::now();
    let revoke = ["revoke", "volume-token", &token.id, "--wait=2s"];
    let run = cluster.configure(&revoke);
    cluster.signal_meta(Signal::CONT);
    run.fails(7, "REVOKE_LAGGARDS");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let seen = reader.ended();
    assert_eq!(seen.errno, Some(KEY_REVOKED));
    let list = cluster.json(&["list", "volume-tokens", "--volumeID", "shared"]);
    let states: Vec<_> = list["items"].as_array().unwrap().iter().map(|t| &t["state"]).collect();
    assert_eq!(states.iter().filter(|state| **state == "revoked").count(), 1, "{list}");
    drop(cluster.mount("shared", &full));
}

#[test]
fn a_mount_that_meta_cannot_reach_stops_when_its_lease_ends() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let mount = cluster.mount("shared", &token);
    fs::write(mount.path("small"), vec![1; 4096]).unwrap();
    let reader = reader_of_cached(&mount);
    cluster.signal_meta(Signal::STOP);
    // From the last renewal: 10 s. What is cached must not be answered later.
    let begun = Instant::now();
    let count = Arc::clone(&reader.count);
    let mut last = (count.load(Ordering::Relaxed), Instant::now());
    flexfs_tests::wait_until("reads stop", Duration::from_secs(25), || {
        let now = count.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(3) || reader.thread.is_finished()
    });
    let stopped = last.1.duration_since(begun);
    cluster.signal_meta(Signal::CONT);
    assert!(stopped < Duration::from_secs(11), "cached reads went on for {stopped:?}");
    reader.stop.store(true, Ordering::Relaxed);
    let _ = reader.ended();
}

#[test]
fn revoking_twice_or_nothing_says_so() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    cluster.volume("shared");
    let token = cluster.volume_token("shared", &[]);
    let unknown = "00000000-0000-4000-8000-000000000000";
    cluster.configure(&["revoke", "volume-token", unknown, "--wait"]).fails(5, "TOKEN_NOT_FOUND");
    let prefix = &token.id[..8];
    let run: Run = cluster.configure(&["revoke", "volume-token", prefix, "--wait", "-o", "json"]);
    assert_eq!(run.json()["id"], *token.id);
    // Again: it is revoked, which is what was asked for.
    let again = cluster.revoke(&token);
    assert_eq!(again.json()["sessionsCut"], 0);
    // An account token without rights on it cannot.
    let account = cluster.json(&["create", "account", "--name", "other"]);
    let owner = cluster.keep(&account["accountToken"]);
    let mine = cluster.volume_token("shared", &[]);
    let mut stranger = cluster.program("configure.flexfs");
    stranger.env("FLEXFS_TOKEN", format!("file:{}", owner.file.display()));
    stranger.args(["revoke", "volume-token", &mine.id]);
    Run::of(&mut stranger, COMMAND).fails(5, "TOKEN_NOT_FOUND");
}
