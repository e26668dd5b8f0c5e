//! A mount that is killed while it starts leaves nothing that hangs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use flexfs_tests::Cluster;
use flexfs_tests::mount::mount_points;
use flexfs_tests::process::{Daemon, Run, processes_of};
use flexfs_tests::wait::{pass, wait_until};
use rustix::process::Signal;

/// Starts that are cut short.
const STARTS: u64 = 30;
/// Each this much later after the mount has appeared than the one before.
const STEP: Duration = Duration::from_millis(2);
/// Within which a dead mount can be taken away, and another one appears.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_mount_killed_while_it_starts_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let (init, creds) = cluster.init_mount("work", &token);
    init.ok();
    let dir = cluster.new_mount_point();
    let before = processes_of(cluster.home());
    for number in 0..STARTS {
        let mut command = cluster.program("mount.flexfs");
        command.args(["start", "work"]).arg(&dir).arg("--credsFile").arg(&creds);
        let daemon = Daemon::start(command.arg("--foreground"), &cluster.log("mount"));
        let begun = Instant::now();
        // Without a pause: what it asks first is answered within milliseconds.
        while !mount_points(&dir).contains(&dir) {
            assert!(begun.elapsed() < SOON, "start {number}: no mount appears");
        }
        // Whatever it asks then, every other one gets no answer.
        let unanswered = number % 2 == 0;
        if unanswered {
            cluster.signal_meta(Signal::STOP);
        }
        pass(STEP * u32::try_from(number).unwrap());
        // Waits until its last thread is gone.
        daemon.kill9();
        if unanswered {
            cluster.signal_meta(Signal::CONT);
        }
        wait_until("no process is left", SOON, || processes_of(cluster.home()) == before);
        if unanswered {
            Run::of(Command::new("umount").arg("-l").arg(&dir), SOON).ok();
        } else {
            // The next start takes the dead one away.
            let begun = Instant::now();
            cluster.start_mount("work", &dir, &creds, &[]).ok();
            assert!(begun.elapsed() < SOON, "start {number}: {:?}", begun.elapsed());
            let mount = cluster.mounted(dir.clone(), creds.clone());
            fs::write(mount.path("f"), number.to_string()).unwrap();
            mount.stop();
        }
        assert!(!mount_points(&dir).contains(&dir));
    }
}
