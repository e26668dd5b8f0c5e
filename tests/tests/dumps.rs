//! What a running program shows of itself: no core file, nothing in /proc for
//! others, no file of a deployment that another user can read (P7).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flexfs_common::daemon::RunFile;
use flexfs_tests::Cluster;
use flexfs_tests::ports::free_address;
use flexfs_tests::process::{bin_dir, processes_of};
use flexfs_tests::wait::{wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Within which a program starts.
const STARTED: Duration = Duration::from_secs(60);
/// Somebody without any right ("nobody").
const STRANGER: u32 = 65_534;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can act as another user");
    }
    root
}

/// A program of ours that may leave core files of any size in this directory,
/// and whose wait status is ours to see. (No file on a mount is open here,
/// which is why the launcher is not needed.)
fn sacrifice(directory: &Path, command: &Command) -> Ours {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args()).current_dir(directory);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ours(shell.spawn().unwrap())
}

/// A child that does not outlive the test, however that ends.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.try_wait();
    }
}

/// How it ends by SIGABRT, as after a failed assertion.
fn aborted(mut child: Ours) -> ExitStatus {
    kill_process(Pid::from_child(&child.0), Signal::ABORT).unwrap();
    let status = wait_for("the end by SIGABRT", STARTED, || child.0.try_wait().unwrap());
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    status
}

/// A program of that other user that shows itself, as most do.
fn open_program() -> Ours {
    Ours(Command::new("sleep").arg("1000").uid(STRANGER).gid(STRANGER).spawn().unwrap())
}

fn cores(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A daemon of the cluster that is killed by SIGABRT once it serves.
fn abort_daemon(cluster: &Cluster, directory: &Path, words: &[&str], run: &str) {
    let mut command = cluster.program(words[0]);
    command.args(&words[1..]);
    let child = sacrifice(directory, &command);
    let run = cluster.home().join(run);
    wait_until(words[0], STARTED, || {
        RunFile::find(&run).unwrap().is_some_and(|info| {
            info.pid == child.0.id() && TcpStream::connect(&info.address).is_ok()
        })
    });
    assert!(!aborted(child).core_dumped(), "{words:?}");
}

#[test]
fn no_daemon_leaves_a_core_file() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let (init, creds) = cluster.init_mount("work", &token);
    init.ok();
    let directory = tempfile::tempdir().unwrap();
    // The control: elsewhere this signal leaves one.
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let child = sacrifice(directory.path(), &sleep);
    let stat = format!("/proc/{}/comm", child.0.id());
    wait_until("sleep", STARTED, || fs::read_to_string(&stat).unwrap() == "sleep\n");
    if !aborted(child).core_dumped() {
        eprintln!("no program leaves a core file on this machine: what forbids it is looked at");
        return daemons_are_shut(cluster, &creds);
    }
    for core in cores(directory.path()) {
        fs::remove_file(core).unwrap();
    }
    let (dir, file) = (cluster.new_mount_point(), creds.display().to_string());
    let mount = dir.display().to_string();
    let mut command = cluster.program("mount.flexfs");
    command.args(["start", "work", &mount, "--credsFile", &file, "--foreground"]);
    let child = sacrifice(directory.path(), &command);
    wait_until("the mount", STARTED, || {
        cluster.run("mount.flexfs", &["status", &mount]).succeeded()
    });
    assert!(!aborted(child).core_dumped(), "mount.flexfs");
    for tier in ["meta", "admin"] {
        let (program, run) = (format!("{tier}.flexfs"), format!("{tier}/run"));
        let address = match tier {
            "meta" => {
                cluster.stop_meta();
                cluster.meta_address()
            }
            _ => {
                cluster.stop_admin();
                cluster.admin_address()
            }
        };
        let words = [&program, "start", "--foreground", "--bindAddr", address];
        abort_daemon(&cluster, directory.path(), &words, &run);
        match tier {
            "meta" => cluster.restart_meta(),
            _ => cluster.restart_admin(),
        }
    }
    assert_eq!(cores(directory.path()), Vec::<PathBuf>::new());
}

/// Can a stranger do this?
fn stranger(program: &str, words: &[&str]) -> bool {
    let mut command = Command::new(program);
    let output = command.args(words).current_dir("/").uid(STRANGER).gid(STRANGER).output();
    output.unwrap().status.success()
}

/// Of what /proc shows of a process, what a stranger can read.
fn seen_by_stranger(pid: &str) -> Vec<&'static str> {
    let read = |name: &&str| match *name {
        "fd" => stranger("ls", &[&format!("/proc/{pid}/fd/")]),
        name => stranger("cat", &[&format!("/proc/{pid}/{name}")]),
    };
    ["environ", "maps", "auxv", "stack", "fd"].into_iter().filter(read).collect()
}

/// What a stranger can read below a directory.
fn readable_below(directory: &Path) -> String {
    let mut find = Command::new("find");
    find.arg(directory).args(["-mindepth", "1", "-readable", "-print"]);
    let output = find.current_dir("/").uid(STRANGER).gid(STRANGER).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn another_user_sees_nothing_of_a_running_deployment() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    fs::write(mount.path("f"), b"x").unwrap();
    // Only what is in FLEXFS_HOME keeps them out, not where it lies.
    for path in [cluster.root(), cluster.home()] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let processes = processes_of(cluster.home());
    assert!(processes.len() >= 3, "{processes:?}");
    for pid in processes {
        let pid = pid.as_raw_nonzero().to_string();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(seen_by_stranger(&pid), Vec::<&str>::new(), "{name}");
    }
    assert_eq!(readable_below(cluster.home()), "");
    // The controls: what is open is seen.
    let open = cluster.home().join("open");
    fs::write(&open, b"x").unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(readable_below(cluster.home()).trim_end(), open.to_str().unwrap());
    let seen = seen_by_stranger(&open_program().0.id().to_string());
    for name in ["environ", "maps", "fd"] {
        assert!(seen.contains(&name), "{seen:?}");
    }
}

/// The owner of what /proc shows of a process: root, when its own user may not
/// look into it.
fn owner_in_proc(child: &Child) -> u32 {
    fs::metadata(format!("/proc/{}/environ", child.id())).unwrap().uid()
}

/// The daemons, run by a user without any right, are not that user's in /proc:
/// the kernel's sign that it dumps none of them.
fn daemons_are_shut(mut cluster: Cluster, creds: &Path) {
    if !is_root() {
        return;
    }
    cluster.stop_meta();
    cluster.stop_admin();
    let dir = cluster.new_mount_point().display().to_string();
    let bin = cluster.root().join("bin");
    fs::create_dir(&bin).unwrap();
    let creds = creds.to_str().unwrap();
    let bind = |address: &str| {
        ["start", "--foreground", "--bindAddr", address].map(str::to_owned).to_vec()
    };
    let mount = ["start", "work", &dir, "--credsFile", creds, "--foreground", "--ownerOnly"];
    let calls = [
        ("admin.flexfs", bind(cluster.admin_address()), Some(cluster.admin_address())),
        ("meta.flexfs", bind(cluster.meta_address()), Some(cluster.meta_address())),
        // It may not be allowed to mount, but it has to ask meta before that.
        ("mount.flexfs", mount.map(str::to_owned).to_vec(), None),
    ];
    for (program, ..) in &calls {
        fs::copy(bin_dir().join(program), bin.join(program)).unwrap();
    }
    let owner = format!("{STRANGER}:{STRANGER}");
    assert!(
        Command::new("chown").args(["-R", &owner]).arg(cluster.root()).status().unwrap().success()
    );
    let mut running = Vec::new();
    for (program, words, address) in calls {
        let mut command = Command::new(bin.join(program));
        command.args(words).env("FLEXFS_HOME", cluster.home()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Ours(command.uid(STRANGER).gid(STRANGER).spawn().unwrap());
        wait_until(program, STARTED, || {
            assert_eq!(child.0.try_wait().unwrap(), None, "{program} has ended");
            address.is_none_or(|address| TcpStream::connect(address).is_ok())
                && owner_in_proc(&child.0) == 0
        });
        running.push(child);
    }
}

#[test]
fn daemons_are_shut_even_to_their_own_user() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let (init, creds) = cluster.init_mount("work", &token);
    init.ok();
    daemons_are_shut(cluster, &creds);
}

#[test]
fn not_even_the_same_user_looks_into_a_program() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (bin, home) = (directory.path().join("bin"), directory.path().join("home"));
    for path in [&bin, &home] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    chown(&home, Some(STRANGER), Some(STRANGER)).unwrap();
    let address = free_address();
    let init = ["init", "creds", "--adminAddr", &address, "--tokenFile", "-"];
    let mut init_mount = init.to_vec();
    init_mount.insert(2, "work");
    let calls: [(&str, &[&str]); 4] = [
        ("admin.flexfs", &["start", "--foreground", "--bindAddr", &address]),
        // These wait for a token on their standard input.
        ("meta.flexfs", &init),
        ("mount.flexfs", &init_mount),
        ("configure.flexfs", &init),
    ];
    for (program, words) in calls {
        let copy = bin.join(program);
        fs::copy(bin_dir().join(program), &copy).unwrap();
        let mut command = Command::new(&copy);
        command.args(words).env("FLEXFS_HOME", &home).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Ours(command.uid(STRANGER).gid(STRANGER).spawn().unwrap());
        wait_until(program, STARTED, || {
            assert_eq!(child.0.try_wait().unwrap(), None, "{program} has ended");
            owner_in_proc(&child.0) == 0
        });
        let seen = seen_by_stranger(&child.0.id().to_string());
        drop(child);
        assert_eq!(seen, Vec::<&str>::new(), "{program}");
        fs::remove_file(copy).unwrap();
    }
    // The control: another program of that user is theirs.
    assert_eq!(owner_in_proc(&open_program().0), STRANGER);
}
