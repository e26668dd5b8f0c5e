//! What POSIX and Linux promise of the contents of files: holes, ranges,
//! mappings, appends, files without a name. (Names and rights: posix_cases.rs.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Duration;

use flexfs_tests::files::Noise;
use flexfs_tests::tools::compile;
use flexfs_tests::{Cluster, Mount, Run};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;

fn one_mount() -> (Cluster, Mount) {
    let cluster = Cluster::start();
    let token = cluster.volume("posix");
    let mount = cluster.mount("posix", &token);
    (cluster, mount)
}

fn second(cluster: &Cluster) -> Mount {
    let token = cluster.volume_token("posix", &[]);
    cluster.mount("posix", &token)
}

fn new_file(mount: &Mount, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).open(mount.path(name)).unwrap()
}

#[test]
fn fallocate_extends_punches_and_zeroes() {
    let (cluster, mount) = one_mount();
    let other = second(&cluster);
    for (name, len) in [("inline", 5000_usize), ("blocks", 9_000_000)] {
        let mut expected = Noise::new(3).bytes(len);
        let mut file = new_file(&mount, name);
        file.write_all(&expected).unwrap();
        let bytes = |at: usize| u64::try_from(at).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes(2 * len)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes(len), "keeps its size");
        fallocate(&file, FallocateFlags::empty(), 0, bytes(2 * len)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes(2 * len));
        expected.resize(2 * len, 0);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (flags, from, to) in [
            (punch, len / 3, len / 2),
            (FallocateFlags::ZERO_RANGE, len / 2 + 7, len / 2 + 1000),
            (FallocateFlags::ZERO_RANGE, len - 1, len + 1),
            (punch, 0, 1),
        ] {
            fallocate(&file, flags, bytes(from), bytes(to - from)).unwrap();
            expected[from..to].fill(0);
            assert!(fs::read(mount.path(name)).unwrap() == expected, "{name}: {flags:?}");
            assert!(fs::read(other.path(name)).unwrap() == expected, "{name}: {flags:?}, other");
        }
        // Beyond the end, and with what is still in the buffer.
        file.write_all_at(&[7; 3000], 100).unwrap();
        expected[100..3100].fill(7);
        fallocate(&file, punch, 1000, bytes(9 * len)).unwrap();
        expected[1000..].fill(0);
        assert!(fs::read(other.path(name)).unwrap() == expected, "{name}: to beyond the end");
        let zero_keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, zero_keep, bytes(2 * len), 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes(2 * len));
        fallocate(&file, FallocateFlags::ZERO_RANGE, bytes(2 * len), 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes(2 * len + 5));
        for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(fallocate(&file, flags, 0, 4096), Err(Errno::OPNOTSUPP), "{flags:?}");
        }
        assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
    }
    let read_only = File::open(mount.path("inline")).unwrap();
    assert_eq!(fallocate(&read_only, FallocateFlags::empty(), 0, 1), Err(Errno::BADF));
    cluster.verify_clean();
}

#[test]
fn holes_are_found_where_they_are() {
    const MIB: u64 = 1 << 20;
    let (cluster, mount) = one_mount();
    let file = new_file(&mount, "sparse");
    file.write_all_at(&[1; 1 << 20], 8 * MIB).unwrap();
    file.write_all_at(&[2; 1 << 20], 40 * MIB).unwrap();
    file.set_len(100 * MIB).unwrap();
    let data = |at| seek(&file, SeekFrom::Data(at));
    let hole = |at| seek(&file, SeekFrom::Hole(at));
    for round in ["buffered", "stored"] {
        assert_eq!(data(0), Ok(8 * MIB), "{round}");
        assert_eq!(data(8 * MIB + 5), Ok(8 * MIB + 5), "{round}");
        assert_eq!(hole(0), Ok(0), "{round}");
        assert_eq!(hole(8 * MIB), Ok(9 * MIB), "{round}");
        assert_eq!(data(9 * MIB), Ok(40 * MIB), "{round}");
        assert_eq!(hole(40 * MIB), Ok(41 * MIB), "{round}");
        assert_eq!(data(41 * MIB), Err(Errno::NXIO), "{round}");
        assert_eq!(hole(41 * MIB), Ok(41 * MIB), "{round}");
        assert_eq!(hole(100 * MIB), Err(Errno::NXIO), "{round}");
        file.sync_all().unwrap();
    }
    file.write_all_at(&[3], 60 * MIB).unwrap();
    assert!(data(41 * MIB).unwrap() <= 60 * MIB, "what is only buffered is data");
    assert_eq!(file.metadata().unwrap().blocks() * 512 / MIB, 2, "holes take no room");
    cluster.verify_clean();
}

/// Offsets far out, both ends of the largest file, and one byte too many.
#[test]
fn files_are_sparse_up_to_one_exbibyte() {
    const MAX: u64 = 1 << 60;
    let (cluster, mount) = one_mount();
    let other = second(&cluster);
    let file = new_file(&mount, "vast");
    let mut at = vec![0, (1 << 31) - 2, (1 << 32) - 2, (1 << 40) + 4097, (1 << 52) + 1, MAX - 4];
    for (mark, offset) in (b'a'..).zip(&at) {
        file.write_all_at(&[mark; 4], *offset).unwrap();
    }
    let refused = file.write_all_at(b"x", MAX).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
    assert_eq!(file.set_len(MAX + 1).unwrap_err().raw_os_error(), Some(Errno::FBIG.raw_os_error()));
    drop(file);
    let file = OpenOptions::new().read(true).write(true).open(other.path("vast")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), MAX);
    assert!(file.metadata().unwrap().blocks() < 100);
    for (mark, offset) in (b'a'..).zip(&at) {
        let mut around = [9; 6];
        let from = offset.saturating_sub(1);
        let len = file.read_at(&mut around, from).unwrap();
        let begin = usize::try_from(offset - from).unwrap();
        assert_eq!(around[begin..begin + 4], [mark; 4], "at {offset}");
        assert!(around[begin + 4..len].iter().all(|byte| *byte == 0), "after {offset}");
        assert_eq!(seek(&file, SeekFrom::Data(*offset)), Ok(*offset));
    }
    let mut found = vec![0];
    while let Ok(hole) = seek(&file, SeekFrom::Hole(*found.last().unwrap()))
        && let Ok(data) = seek(&file, SeekFrom::Data(hole))
    {
        found.push(data);
    }
    // The first ones share what a hole is at least.
    at.retain(|offset| found.contains(offset));
    assert!(at.len() >= 5, "{found:?}");
    file.set_len((1 << 40) + 4099).unwrap();
    assert_eq!(fs::metadata(mount.path("vast")).unwrap().len(), (1 << 40) + 4099);
    file.set_len(MAX).unwrap();
    let mut rest = [9; 4];
    file.read_exact_at(&mut rest, (1 << 40) + 4097).unwrap();
    assert_eq!(rest, *b"dd\0\0");
    cluster.verify_clean();
}

/// The kernel copies through its page cache where a file system does not.
#[test]
fn copy_file_range_copies_within_and_between_files() {
    let (cluster, mount) = one_mount();
    let other = second(&cluster);
    let bytes = Noise::new(9).bytes(5_000_000);
    let (from, to) = (new_file(&mount, "from"), new_file(&mount, "to"));
    from.write_all_at(&bytes, 0).unwrap();
    let copy = |a: &File, b: &File, mut in_at: u64, mut out_at: u64, mut len: usize| {
        while len > 0 {
            let n = copy_file_range(a, Some(&mut in_at), b, Some(&mut out_at), len).unwrap();
            assert!(n > 0, "at {in_at}");
            len -= n;
        }
    };
    copy(&from, &to, 0, 0, bytes.len());
    assert!(fs::read(mount.path("to")).unwrap() == bytes);
    assert!(fs::read(other.path("to")).unwrap() == bytes);
    let mut expected = bytes.clone();
    copy(&to, &to, 10, 3_000_001, 1_500_000);
    expected.copy_within(10..1_500_010, 3_000_001);
    copy(&from, &to, 4_999_999, 6_000_000, 1);
    expected.resize(6_000_000, 0);
    expected.push(bytes[4_999_999]);
    assert!(fs::read(mount.path("to")).unwrap() == expected);
    assert_eq!(copy_file_range(&from, Some(&mut 5_000_000), &to, Some(&mut 0), 10), Ok(0));
    let overlapping = copy_file_range(&to, Some(&mut 0), &to, Some(&mut 5), 10);
    assert_eq!(overlapping, Err(Errno::INVAL));
    // To another file system or mount: as far as the kernel does it at all,
    // what cp(1) falls back to is right.
    let script = "cp --reflink=auto \"$1\" \"$2\" && cmp \"$1\" \"$2\"";
    flexfs_tests::files::sh(script, &[&mount.path("to"), &other.path("third")]);
    flexfs_tests::files::sh(script, &[&mount.path("to"), &cluster.root().join("outside")]);
    drop((from, to));
    cluster.verify_clean();
}

/// Each record is written by one write(2), from two mounts at once.
#[test]
fn appends_of_two_mounts_at_once_lose_nothing() {
    const ROUNDS: u32 = 300;
    let (cluster, mount) = one_mount();
    let other = second(&cluster);
    std::thread::scope(|scope| {
        for (who, mount) in [&mount, &other].into_iter().enumerate() {
            scope.spawn(move || {
                let mut options = OpenOptions::new();
                let mut log = options.create(true).append(true).open(mount.path("log")).unwrap();
                for round in 0..ROUNDS {
                    log.write_all(format!("{who} {round}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(mount.path("log")).unwrap();
    for who in 0..2 {
        let own: Vec<u32> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{who} ")))
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!(own, (0..ROUNDS).collect::<Vec<_>>(), "of {who}");
    }
    cluster.verify_clean();
}

/// What no name leads to lives while it is open, also through a restart of
/// meta.
#[test]
fn unlinked_open_files_survive_a_reconnect() {
    let (mut cluster, mount) = one_mount();
    let mut big = new_file(&mount, "big");
    let mut small = new_file(&mount, "small");
    let bytes = Noise::new(4).bytes(6_000_000);
    big.write_all(&bytes).unwrap();
    small.write_all(b"small").unwrap();
    big.sync_all().unwrap();
    small.sync_all().unwrap();
    fs::remove_file(mount.path("big")).unwrap();
    fs::rename(mount.path("small"), mount.path("gone")).unwrap();
    new_file(&mount, "other");
    fs::rename(mount.path("other"), mount.path("gone")).unwrap();
    cluster.kill9_meta();
    cluster.restart_meta();
    small.write_all(b" and more").unwrap();
    big.set_len(7_000_000).unwrap();
    big.write_all_at(b"end", 6_999_997).unwrap();
    big.sync_all().unwrap();
    cluster.kill9_meta();
    cluster.restart_meta();
    let mut text = String::new();
    small.rewind().unwrap();
    small.read_to_string(&mut text).unwrap();
    assert_eq!(text, "small and more");
    big.rewind().unwrap();
    let mut read = Vec::new();
    big.read_to_end(&mut read).unwrap();
    assert!(read[..bytes.len()] == bytes && read.ends_with(b"\0end"));
    assert_eq!(big.metadata().unwrap().nlink(), 0);
    drop((big, small));
    mount.stop();
    cluster.verify_clean();
}

/// Maps a file shared; does what it is told, a word per line; says "ok" or
/// "SIGBUS" after each.
const MAPPER: &str = r#"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static sigjmp_buf back;
static void bus(int number) { siglongjmp(back, number); }
int main(int argc, char **argv) {
    size_t len = 1 << 20;
    int fd = open(argv[1], O_RDWR);
    char *map = mmap(0, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED) return 2;
    signal(SIGBUS, bus);
    char word[16]; size_t at; int value;
    while (scanf("%15s %zu %d", word, &at, &value) == 3) {
        if (sigsetjmp(back, 1)) { puts("SIGBUS"); continue; }
        if (!strcmp(word, "write")) memset(map + at, value, 100);
        else if (!strcmp(word, "read")) {
            if (((volatile char *)map)[at] != value) return 3;
        } else if (msync(map, len, MS_SYNC)) return 4;
        puts("ok");
    }
    return 0;
}
"#;

#[test]
fn shared_mappings_are_the_file() {
    let (cluster, mount) = one_mount();
    let other = second(&cluster);
    let mapper = compile(cluster.root(), "mapper", MAPPER);
    let run = |mount: &Mount, words: &str| {
        let mut command = Command::new(&mapper);
        let command = command.arg(mount.path("f"));
        Run::with_input(command, words.as_bytes(), Duration::from_secs(60)).ok().replace('\n', " ")
    };
    fs::write(mount.path("f"), vec![1; 1 << 20]).unwrap();
    // Written by msync, or by the end of the program; two programs on one
    // mount, then the other mount.
    assert_eq!(run(&mount, "write 5000 7\nmsync 0 0\nwrite 700000 8\n"), "ok ok ok ");
    assert_eq!(
        run(&mount, "read 5000 7\nread 5099 7\nread 5100 1\nread 700000 8\n"),
        "ok ok ok ok "
    );
    assert_eq!(run(&other, "read 5000 7\nread 700099 8\nwrite 5000 9\n"), "ok ok ok ");
    assert_eq!(run(&mount, "read 5000 9\n"), "ok ");
    let mut expected = vec![1; 1 << 20];
    expected[5000..5100].fill(9);
    expected[700_000..700_100].fill(8);
    assert!(fs::read(mount.path("f")).unwrap() == expected);
    assert!(fs::read(other.path("f")).unwrap() == expected);
    // Beyond the last page of a file there is nothing; within it, zeros.
    let file = OpenOptions::new().write(true).open(other.path("f")).unwrap();
    file.set_len(5050).unwrap();
    assert_eq!(run(&mount, "read 5049 9\nread 5050 0\nread 700000 8\n"), "ok ok SIGBUS ");
    assert_eq!(run(&mount, "write 5045 6\nmsync 0 0\nwrite 9000 1\n"), "ok ok SIGBUS ");
    let short = fs::read(other.path("f")).unwrap();
    assert_eq!((short.len(), &short[5040..]), (5050, &[9, 9, 9, 9, 9, 6, 6, 6, 6, 6][..]));
    file.set_len(1 << 20).unwrap();
    assert_eq!(run(&mount, "read 5049 6\nread 5060 0\nread 700000 0\n"), "ok ok ok ");
    cluster.verify_clean();
}
