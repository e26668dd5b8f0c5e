//! umount(8) through its helper: it returns when everything is written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use flexfs_tests::{Cluster, Mount, Run, wait_until};

/// As umount(8) calls it.
fn umount(cluster: &Cluster, place: &Path, more: &[&str]) -> Run {
    let place = place.display().to_string();
    let mut arguments = vec![place.as_str()];
    arguments.extend(more);
    cluster.run("umount.fuse.flexfs", &arguments)
}

/// The daemon ends by itself.
fn ends(mount: &Mount, daemon: rustix::process::Pid) {
    let process = format!("/proc/{}/fd", daemon.as_raw_nonzero());
    wait_until("the daemon's end", Duration::from_secs(30), || {
        !mount.is_mounted() && !Path::new(&process).exists()
    });
}

#[test]
fn umount_returns_when_everything_is_on_stable_storage() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("known-by-name");
    let mount = cluster.mount("known-by-name", &token);
    let daemon = mount.pid();
    let contents = vec![b'x'; 9 << 20];
    fs::write(mount.path("large"), &contents).unwrap();
    fs::write(mount.path("small"), "small").unwrap();
    umount(&cluster, mount.dir(), &[]).ok();
    assert!(!mount.is_mounted());
    ends(&mount, daemon);
    // It waited for nobody who could still have something in hand.
    cluster.kill9_meta();
    cluster.restart_meta();
    let again = cluster.mount("known-by-name", &token);
    assert_eq!(fs::read(again.path("large")).unwrap(), contents);
    assert_eq!(fs::read_to_string(again.path("small")).unwrap(), "small");
    // By what /proc/mounts shows, too.
    let daemon = again.pid();
    let source = Path::new("known-by-name");
    umount(&cluster, source, &["-n", "-v", "-t", "fuse.flexfs"]).ok();
    assert!(!again.is_mounted());
    ends(&again, daemon);
    cluster.verify_clean();
}

#[test]
fn a_mount_in_use_is_refused_and_goes_on_unless_umount_is_lazy() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may ask whether a mount is in use");
        return;
    }
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let daemon = mount.pid();
    let file = File::create(mount.path("f")).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    let refused = umount(&cluster, mount.dir(), &[]);
    assert!(!refused.succeeded() && refused.stderr.contains("busy"), "{refused:?}");
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"one", "it goes on");
    umount(&cluster, mount.dir(), &["-l"]).ok();
    assert!(!mount.is_mounted());
    file.write_all_at(b"two", 3).unwrap();
    drop(file);
    ends(&mount, daemon);
    let again = cluster.mount("work", &token);
    assert_eq!(fs::read(again.path("f")).unwrap(), b"onetwo");
}

#[test]
fn what_is_not_a_mount_of_ours_is_said_to_be_none() {
    let cluster = Cluster::start();
    let nothing = cluster.root().join("nothing");
    fs::create_dir(&nothing).unwrap();
    let refused = umount(&cluster, &nothing, &[]);
    assert!(!refused.succeeded() && refused.stderr.contains("MOUNT_NOT_FOUND"), "{refused:?}");
    let wrong = umount(&cluster, &nothing, &["--everything"]);
    assert!(!wrong.succeeded() && wrong.stderr.contains("ARGUMENT_INVALID"), "{wrong:?}");
}
