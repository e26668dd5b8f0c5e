//! Suites that write, read back and compare: fsx, fio, stress-ng, dbench, and
//! ping_pong for byte-range locks. `FLEXFS_TEST_BIG=1` runs their long forms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexfs_tests::tools::{big, tool};
use flexfs_tests::{Cluster, Mount, Run};

/// A suite that takes longer hangs; the harness gives up sooner.
const LIMIT: Duration = Duration::from_secs(3600);

fn one_mount() -> (Cluster, Mount) {
    let cluster = Cluster::start();
    let token = cluster.volume("suite");
    let mount = cluster.mount("suite", &token);
    (cluster, mount)
}

fn finish(cluster: &Cluster, mount: Mount) {
    mount.stop();
    cluster.verify_clean();
}

/// All operations of fsx, in a file larger than a block.
const FSX: &str = "
flen = 6000000
[opsize]
max = 200000
[weights]
close_open = 2.0
invalidate = 1.0
mapread = 10.0
mapwrite = 10.0
read = 10.0
write = 10.0
truncate = 5.0
fsync = 1.0
fdatasync = 1.0
posix_fallocate = 2.0
punch_hole = 5.0
sendfile = 2.0
posix_fadvise = 2.0
copy_file_range = 5.0
";
/// The same in a file around the inline limit.
const FSX_SMALL: &str = "
flen = 20000
[opsize]
max = 6000
[weights]
close_open = 5.0
invalidate = 1.0
fsync = 2.0
fdatasync = 2.0
posix_fallocate = 2.0
punch_hole = 5.0
sendfile = 2.0
copy_file_range = 5.0
";

#[test]
fn fsx_reads_what_it_wrote() {
    let (cluster, mount) = one_mount();
    let operations = if big() { 50_000 } else { 1500 };
    let seeds = if big() { 1..=4 } else { 1..=1 };
    for seed in seeds {
        for (name, config) in [("large", FSX), ("small", FSX_SMALL)] {
            let seed = seed + u64::from(std::process::id());
            eprintln!("fsx {name}: seed {seed}");
            let file = cluster.root().join(format!("{name}.toml"));
            fs::write(&file, config).unwrap();
            let mut command = Command::new(tool("fsx"));
            command.arg("-f").arg(file).arg("-N").arg(operations.to_string());
            command.arg("-S").arg(seed.to_string()).arg("-P").arg(cluster.root());
            Run::of(command.arg(mount.path(name)), LIMIT).ok();
        }
    }
    finish(&cluster, mount);
}

/// Jobs of fio that differ in how they read and write.
const ENGINES: &[(&str, &[&str])] = &[
    ("psync", &["--ioengine=psync"]),
    ("mmap", &["--ioengine=mmap"]),
    ("libaio", &["--ioengine=libaio", "--direct=1", "--iodepth=16"]),
    ("io_uring", &["--ioengine=io_uring", "--direct=1", "--iodepth=16"]),
];

#[test]
fn fio_verifies_random_writes_by_every_way_of_writing() {
    let (cluster, mount) = one_mount();
    let size = if big() { "512m" } else { "12m" };
    for (name, engine) in ENGINES {
        let mut command = Command::new(tool("fio"));
        command.current_dir(cluster.root()).args([
            "--name=verify",
            "--rw=randrw",
            "--bs=4k",
            "--numjobs=2",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=64",
            "--randrepeat=0",
            "--group_reporting",
        ]);
        command.arg(format!("--size={size}")).arg(format!("--directory={}", mount.dir().display()));
        let run = Run::of(command.args(*engine), LIMIT);
        assert!(run.ok().contains("err= 0"), "{name}: {}", run.stdout);
        for entry in fs::read_dir(mount.dir()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    finish(&cluster, mount);
}

/// Without those that need what is no file system's: another device, rights of
/// the host.
const NOT_OURS: &str = "binderfs,fanotify,quota";
#[test]
fn stress_ng_finds_nothing() {
    let (cluster, mount) = one_mount();
    let mut command = Command::new(tool("stress-ng"));
    command.current_dir("/").args(["--class", "filesystem", "--sequential", "1", "--verify"]);
    command.args(["--timeout", if big() { "3s" } else { "1s" }, "-x", NOT_OURS]);
    let run = Run::of(command.arg("--temp-path").arg(mount.dir()), LIMIT);
    run.ok();
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(!said.contains("fail:") && said.contains("successful run completed"), "{said}");
    finish(&cluster, mount);
}

#[test]
fn dbench_runs_through() {
    let (cluster, mount) = one_mount();
    let seconds = if big() { "30" } else { "5" };
    let mut command = Command::new(tool("dbench"));
    command.current_dir("/").args(["-t", seconds, "-D"]).arg(mount.dir()).arg("4");
    let run = Run::of(&mut command, LIMIT);
    assert!(run.ok().contains("Throughput"), "{}", run.stdout);
    finish(&cluster, mount);
}

/// Each process locks byte after byte, and finds each grown by one for each
/// process there is: the locks exclude one another, and what is written under
/// them is seen under them.
fn ping_pong(processes: &[&Path]) {
    let count = processes.len().to_string();
    let children: Vec<_> = processes
        .iter()
        .map(|file| {
            let file = file.to_path_buf();
            let locks = (processes.len() + 1).to_string();
            std::thread::spawn(move || {
                let mut command = Command::new("timeout");
                command.args(["--signal=INT", "4"]).arg(tool("ping_pong")).args(["-rw"]);
                Run::of(command.arg(file).arg(locks), LIMIT)
            })
        })
        .collect();
    for child in children {
        let run = child.join().unwrap();
        // 124: ended by timeout, as it shall be.
        assert_eq!(run.code, 124, "{}{}", run.stdout, run.stderr);
        let increments: Vec<&str> = run
            .stdout
            .split(['\r', '\n'])
            .filter_map(|line| line.trim().strip_prefix("data increment = "))
            .collect();
        assert_eq!(increments.last(), Some(&count.as_str()), "{}", run.stdout);
        assert!(!run.stdout.contains("failed"), "{}", run.stdout);
    }
}

#[test]
fn ping_pong_counts_on_one_mount() {
    let (cluster, mount) = one_mount();
    let file = mount.path("locked");
    ping_pong(&[&file, &file]);
    finish(&cluster, mount);
}

#[test]
fn ping_pong_counts_on_two_mounts() {
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("suite", &[]);
    let other = cluster.mount("suite", &token);
    ping_pong(&[&mount.path("locked"), &other.path("locked")]);
    finish(&cluster, mount);
}
