//! pjdfstest, the POSIX test suite for file systems, on a mount. What it does
//! not pass is listed here with the reason, and in docs/posix.md; whatever
//! else fails, is skipped, or begins to pass, fails the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use flexfs_tests::tools::tool;
use flexfs_tests::{Cluster, Mount, Run};

/// How many cases this version of the suite has.
const CASES: usize = 398;

/// All that Linux has; users that every Debian has.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = REMOUNT
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Cases that are not passed, and what becomes of them.
const NOT_PASSED: &[(&str, &str)] = &[
    // pathconf(_PC_LINK_MAX) is answered by the C library, from a table of file
    // systems that it knows. See posix_dirs.rs instead.
    ("link::link_count_max", "skipped"),
];

#[test]
fn pjdfstest_passes_but_for_what_is_documented() {
    assert!(rustix::process::geteuid().is_root(), "only root can act as another user");
    let cluster = Cluster::start();
    let token = cluster.volume("posix");
    let mount = cluster.mount("posix", &token);
    // Other users shall reach the mount.
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o711)).unwrap();
    let all = suite(&cluster, &mount, "false", &[]);
    let mut outcomes = outcomes(&all.stdout);
    assert_eq!(outcomes.len(), CASES, "{}\n{}", all.stdout, all.stderr);
    // Cases that remount read-only: on their own, because others leave files
    // open for writing.
    let remounting = suite(&cluster, &mount, "true", &["erofs"]);
    outcomes.extend(self::outcomes(&remounting.stdout));
    assert_eq!(outcomes.len(), CASES);
    let not_passed: BTreeMap<&str, &str> =
        outcomes.into_iter().filter(|(_, outcome)| *outcome != "ok").collect();
    let expected: BTreeMap<&str, &str> = NOT_PASSED.iter().copied().collect();
    assert_eq!(not_passed, expected, "{}\n{}", all.stdout, remounting.stdout);
    mount.stop();
    cluster.verify_clean();
}

/// Runs the cases whose names contain one of the patterns; all without any.
fn suite(cluster: &Cluster, mount: &Mount, may_remount: &str, patterns: &[&str]) -> Run {
    let directory = tempfile::Builder::new().tempdir_in(cluster.root()).unwrap();
    let config = directory.path().join("pjdfstest.toml");
    fs::write(&config, CONFIG.replace("REMOUNT", may_remount)).unwrap();
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    // Remounting is the kernel's business alone: without a helper of mount(8).
    let wrapper = directory.path().join("mount");
    let script = format!("#!/bin/sh\nexec {} -i \"$@\"\n", tool("mount").display());
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(tool("pjdfstest"));
    command.env("PATH", path).current_dir("/").arg("-c").arg(&config).arg("-p").arg(mount.dir());
    Run::of(command.arg("-s").arg(&other).args(patterns), Duration::from_secs(300))
}

/// Case → outcome. A case is a line of its name and `ok`, `skipped` or
/// `FAILED`; details are indented.
fn outcomes(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with(char::is_whitespace))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, rest)| (name, rest.trim()))
        .filter(|(name, outcome)| {
            name.contains("::") && matches!(*outcome, "ok" | "skipped" | "FAILED")
        })
        .collect()
}
