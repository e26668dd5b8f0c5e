//! Starting, finding and ending the programs as an operator does: without
//! --foreground, in a home of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexfs_common::daemon::RunFile;
use flexfs_tests::mount::mount_points;
use flexfs_tests::ports::free_address;
use flexfs_tests::process::{COMMAND, Run, bin_dir, processes_of};
use flexfs_tests::wait_until;
use rustix::process::{Pid, Signal, getsid, kill_process};

/// An installation made by commands alone; everything of it ends with it.
struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        Home { directory: tempfile::Builder::new().prefix("flexfs-test-").tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A line of the user's shell.
    fn sh(&self, line: &str) -> Run {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-euc", &format!("umask 077; {line}")])
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{path}", bin_dir().display()))
            .env("FLEXFS_HOME", self.home())
            .env_remove("FLEXFS_TOKEN");
        Run::of(&mut command, COMMAND)
    }

    fn pid(&self, tier: &str) -> Pid {
        let info = RunFile::find(&self.home().join(tier).join("run")).unwrap().unwrap();
        Pid::from_raw(i32::try_from(info.pid).unwrap()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for point in mount_points(self.directory.path()) {
            let _ = Command::new("umount").arg("--lazy").arg(point).output();
        }
        for pid in processes_of(&self.home()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn wait_gone(pid: Pid) {
    let line = PathBuf::from(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    wait_until("the daemon ends", Duration::from_secs(20), || {
        fs::read(&line).map_or(true, |text| text.is_empty())
    });
}

/// A daemon has a session of its own and has let go of everything.
fn assert_detached(pid: Pid, caller: &Path) {
    assert_eq!(getsid(Some(pid)).unwrap(), pid, "not a session of its own");
    let link =
        |name: &str| fs::read_link(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap();
    assert_eq!(link("fd/0"), Path::new("/dev/null"));
    assert!(!link("fd/1").to_string_lossy().starts_with("pipe:"), "{:?}", link("fd/1"));
    assert!(!link("fd/2").to_string_lossy().starts_with("pipe:"), "{:?}", link("fd/2"));
    assert!(!link("cwd").starts_with(caller), "{:?}", link("cwd"));
}

#[test]
fn programs_start_are_found_and_end_as_documented() {
    let home = Home::new();
    let (admin, meta) = (free_address(), free_address());
    for program in ["admin.flexfs", "meta.flexfs", "mount.flexfs", "configure.flexfs"] {
        home.sh(&format!("{program} version")).ok();
        let help = home.sh(&format!("{program} --help"));
        assert!(help.ok().contains(program), "{}", help.stdout);
    }
    home.sh("admin.flexfs status").fails(7, "DAEMON_NOT_RUNNING");
    home.sh("configure.flexfs list volumes").fails(3, "CREDS_MISSING");
    // The command returns, also when its output is captured.
    home.sh(&format!("out=$(admin.flexfs start --bindAddr {admin})")).ok();
    let status = home.sh("admin.flexfs status");
    assert!(status.ok().contains(&admin) && status.stdout.contains("sha256:"), "{}", status.stdout);
    assert_detached(home.pid("admin"), home.directory.path());
    home.sh(&format!("admin.flexfs start --bindAddr {admin}")).fails(6, "DAEMON_RUNNING");
    home.sh(&format!(
        "configure.flexfs init creds --adminAddr {admin} --tokenFile home/admin/root.token"
    ))
    .ok();
    home.sh("mkdir blocks mnt other").ok();
    home.sh("configure.flexfs create block-store disk --kind dir --path $PWD/blocks").ok();
    home.sh(&format!("configure.flexfs create meta-store here --address {meta} > meta.token")).ok();
    home.sh("test $(wc -l < meta.token) = 1 && test $(wc -c < meta.token) = 78").ok();
    home.sh(&format!("meta.flexfs init creds --adminAddr {admin} --tokenFile meta.token")).ok();
    home.sh(&format!("out=$(meta.flexfs start --bindAddr {meta})")).ok();
    assert_detached(home.pid("meta"), home.directory.path());
    home.sh("meta.flexfs status").ok();
    let create = "configure.flexfs create volume work --metaStoreID here --blockStoreID disk";
    home.sh(&format!("{create} > volume.token")).ok();
    let init = format!("mount.flexfs init creds work --adminAddr {admin} --tokenFile volume.token");
    home.sh(&init).ok();
    home.sh("out=$(mount.flexfs start work mnt); echo works > mnt/f; cat mnt/f").ok();
    // The other spelling of flags, and the form that mount(8) calls.
    home.sh("mount.flexfs start work mnt").fails(1, "MOUNT_INVALID");
    home.sh("mount.flexfs work other -o ro,credsFile=$PWD/home/mount/creds/work").ok();
    let said = home.sh("cat other/f; ! touch other/new").ok().to_owned();
    assert_eq!(said, "works\n");
    let list = home.sh("mount.flexfs status -o json").json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    let pid = i32::try_from(list["items"][0]["pid"].as_i64().unwrap()).unwrap();
    assert_detached(Pid::from_raw(pid).unwrap(), home.directory.path());
    // umount(8) works as well as stop.
    home.sh("umount other && mount.flexfs stop mnt").ok();
    home.sh("mount.flexfs stop mnt").fails(5, "MOUNT_NOT_FOUND");
    assert!(mount_points(home.directory.path()).is_empty());
    // kill -9, and again on the same address at once.
    for (tier, address) in [("meta", &meta), ("admin", &admin)] {
        let pid = home.pid(tier);
        kill_process(pid, Signal::KILL).unwrap();
        wait_gone(pid);
        home.sh(&format!("{tier}.flexfs start --bindAddr {address}")).ok();
        // And cleanly.
        let pid = home.pid(tier);
        kill_process(pid, Signal::TERM).unwrap();
        wait_gone(pid);
        home.sh(&format!("{tier}.flexfs status")).fails(7, "DAEMON_NOT_RUNNING");
        home.sh(&format!("{tier}.flexfs start --bind-addr {address}")).ok();
    }
    home.sh("mount.flexfs start work mnt && cat mnt/f && mount.flexfs stop mnt").ok();
    home.sh("meta.flexfs verify").ok();
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    home.sh(&format!("admin.flexfs start --bindAddr {address}")).fails(6, "ADDRESS_IN_USE");
    home.sh("meta.flexfs start --bindAddr 127.0.0.1:1").fails(3, "CREDS_MISSING");
    home.sh("mkdir mnt; mount.flexfs start work mnt").fails(3, "CREDS_MISSING");
    let admin = free_address();
    let run = home.sh(&format!("admin.flexfs start --bindAddr {admin} --db sqlite:/proc/none/db"));
    assert!(!run.succeeded() && run.stderr.contains("error["), "{run:?}");
    home.sh(&format!("admin.flexfs start --bindAddr {admin}")).ok();
    // Nothing of a failed start is left.
    assert_eq!(processes_of(&home.home()).len(), 1);
}
