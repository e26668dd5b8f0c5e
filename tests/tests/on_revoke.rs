//! `--onRevoke unmount`: a mount that is cut takes itself away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use flexfs_tests::{Cluster, wait_until, within};
use rustix::io::Errno;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_mount_that_is_revoked_unmounts_itself_and_its_daemon_ends() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let (unmounts, stays) = (
        cluster.mount_with("work", &token, &["--onRevoke", "unmount"]),
        cluster.mount("work", &token),
    );
    fs::write(unmounts.path("kept"), "safe").unwrap();
    // In use, and with something that is lost.
    let busy = unmounts.path("busy");
    let mut open =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(busy).unwrap();
    open.write_all(b"lost").unwrap();
    let daemon = unmounts.pid();
    assert!(cluster.revoke(&token).succeeded());
    wait_until("it is unmounted", SOON, || !unmounts.is_mounted());
    assert_eq!(fs::read_dir(unmounts.dir()).unwrap().count(), 0, "the directory below is empty");
    let process = format!("/proc/{}", daemon.as_raw_nonzero());
    wait_until("its daemon has ended", SOON, || {
        !Path::new(&process).join("fd").exists()
            || fs::read(Path::new(&process).join("cmdline")).is_ok_and(|line| line.is_empty())
    });
    // What is still open fails, and does not hang.
    let errno = within("a read of a file that is still open", SOON, move || {
        open.read(&mut [0; 4]).unwrap_err().raw_os_error()
    });
    let expected = [Errno::KEYREVOKED, Errno::NOTCONN, Errno::CONNABORTED];
    assert!(expected.map(|e| Some(e.raw_os_error())).contains(&errno), "{errno:?}");
    unmounts.try_stop().fails(5, "MOUNT_NOT_FOUND");
    assert!(stays.is_mounted(), "the other one fails until `stop`");
    stays.stop();
}
