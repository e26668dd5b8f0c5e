//! No secret in databases, logs, /proc or any other file but those that are
//! for it (P7): a scan for the real values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use flexfs_tests::raw::{RawSession, block_on};
use flexfs_tests::scan::{scan_files, scan_processes};
use flexfs_tests::{Cluster, Token};

/// Files that hold tokens by their purpose.
fn is_for_secrets(cluster: &Cluster, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(cluster.root()) else { return false };
    let inside = inside.to_string_lossy();
    inside.starts_with("tokens/")
        || inside == "home/admin/root.token"
        || inside.ends_with("/creds")
        || inside.starts_with("home/mount/creds/")
        || inside.starts_with("mnt/")
}

/// Uses every kind of token, rightly and wrongly, and gives the logs much to
/// say.
fn use_everything(cluster: &Cluster) {
    let full = cluster.volume("work");
    let made = cluster.json(&["create", "account", "--name", "other"]);
    let owner = cluster.keep(&made["accountToken"]);
    let scoped = cluster.volume_token("work", &["--mountPath", "/", "--flags", "ro"]);
    let made = cluster.configure(&["generate", "token", "--kind", "volume"]);
    let unknown = made.ok().trim_end().to_owned();
    cluster.secrets().add(&unknown);
    let unknown = Token { id: String::new(), file: cluster.token_file(&unknown) };
    cluster.configure_as(&owner, &["whoami"]).ok();
    let _ = cluster.configure_as(&full, &["whoami"]);
    let _ = cluster.configure_as(&unknown, &["list", "volumes"]);
    cluster.init_mount("work", &unknown).0.fails(3, "TOKEN_UNKNOWN");
    let mount = cluster.mount("work", &full);
    let reader = cluster.mount("work", &scoped);
    fs::write(mount.path("f"), vec![1; 1_000_000]).unwrap();
    assert_eq!(fs::read(reader.path("f")).unwrap().len(), 1_000_000);
    block_on(async {
        let session = RawSession::open(cluster, "work", &full).await.unwrap();
        session.connect().await.unwrap();
        assert!(RawSession::open(cluster, "work", &unknown).await.is_err());
    });
    cluster.revoke(&scoped).ok();
    assert!(fs::read(reader.path("f")).is_err());
    let shown = [
        cluster.configure(&["list", "volume-tokens", "-o", "json"]),
        cluster.configure(&["list", "volume-tokens", "-o", "wide"]),
        cluster.configure(&["show", "volume-token", &full.id, "-o", "yaml"]),
        cluster.configure(&["config", "show"]),
        cluster.configure(&["whoami", "-o", "json"]),
        cluster.run("admin.flexfs", &["status"]),
        cluster.run("meta.flexfs", &["status"]),
        cluster.run("mount.flexfs", &["status"]),
    ];
    let needles = cluster.secrets().needles();
    for run in &shown {
        for text in [&run.stdout, &run.stderr] {
            let found = flexfs_tests::scan::find(&needles, &run.line, text.as_bytes());
            assert!(found.is_empty(), "{found:?}");
        }
    }
    // While all of it runs, and the daemons are among what is read.
    let (read, found) = scan_processes(&needles);
    assert!(found.is_empty(), "{found:#?}");
    let daemon = mount.status()["pid"].as_i64().unwrap();
    assert!(read.contains(&i32::try_from(daemon).unwrap()), "{daemon} is not among {read:?}");
    mount.stop();
}

/// The scan of processes finds a secret that is there, in either place.
#[test]
fn a_secret_in_arguments_or_environment_would_be_found() {
    let cluster = Cluster::start();
    cluster.volume("work");
    cluster.volume_token("work", &[]);
    let made = cluster.configure(&["generate", "token", "--kind", "volume"]);
    let token = made.ok().trim_end().to_owned();
    cluster.secrets().add(&token);
    let needles = cluster.secrets().needles();
    assert!(scan_processes(&needles).1.is_empty());
    for in_environment in [false, true] {
        // Gives back what it reads, and ends with our handle. What it says
        // of a file named like the token would only show the token.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        match in_environment {
            true => command.env("LEAK", &token),
            false => command.args(["-", &token]),
        };
        let mut child = command.spawn().unwrap();
        // `spawn` returns in the middle of execve(2), where the process may
        // not have its arguments yet; one that answers has.
        child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let (read, found) = scan_processes(&needles);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(read.contains(&i32::try_from(child.id()).unwrap()));
        assert!(!found.is_empty(), "the scan is blind; environment: {in_environment}");
    }
}

/// The commands of a token's life, and that what they print beside the one
/// line of a token shows none.
fn live_through_everything(cluster: &Cluster) {
    let token = cluster.volume("life");
    let mount = cluster.mount("life", &token);
    let rotated = cluster.keep(&cluster.json(&["rotate", "volume-token", &token.id]));
    cluster.init_mount("life", &rotated).0.ok();
    let mine = cluster.json(&["whoami"])["tokenID"].as_str().unwrap().to_owned();
    let rotation = cluster.configure(&["rotate", "account-token", &mine, "--emergency"]);
    cluster.secrets().add(rotation.ok().trim_end());
    // A code that is traded once, and shown once more.
    let create = ["create", "volume-token", "--volumeID", "life", "--claim", "1h"];
    let made = cluster.json(&create);
    let code = made["claim"].as_str().unwrap();
    cluster.secrets().add(code);
    let file = cluster.token_file(code).display().to_string();
    let admin = cluster.admin_address();
    let creds = cluster.root().join("tokens/claimed").display().to_string();
    let init = ["init", "creds", "life", "--adminAddr", admin, "--claimFile", &file];
    cluster.run("mount.flexfs", &[&init[..], &["--credsFile", &creds]].concat()).ok();
    let text = fs::read_to_string(&creds).unwrap();
    let claimed = text.split('"').find(|word| word.starts_with("flxv_")).unwrap();
    cluster.secrets().add(claimed);
    let again = format!("{creds}-again");
    let reused = cluster.run("mount.flexfs", &[&init[..], &["--credsFile", &again]].concat());
    reused.fails(3, "CLAIM_USED");
    let mut shown = vec![reused];
    for words in [
        &["rotation", "status", &token.id, "-o", "json"][..],
        &["rotation", "finish", &token.id, "--force"],
        &["update", "volume-token", &token.id, "--flags", "noExec", "--notes", "n"],
        &["disable", "volume-token", &token.id],
        &["enable", "volume-token", &token.id],
        &["list", "sessions", "-o", "json"],
        &["report", "tokens", "--csv"],
        &["doctor", "-o", "json"],
        &["doctor", "--verbose"],
        &["whoami", "--verbose"],
        &["revoke", "--volumeID", "life", "--dryRun"],
        &["revoke", "volume-token", &token.id, "--wait"],
    ] {
        shown.push(cluster.configure(words));
    }
    cluster.init_mount("life", &token).0.fails(3, "TOKEN_REVOKED");
    drop(mount);
    let needles = cluster.secrets().needles();
    for run in &shown {
        for text in [&run.stdout, &run.stderr] {
            let found = flexfs_tests::scan::find(&needles, &run.line, text.as_bytes());
            assert!(found.is_empty(), "{found:?}");
        }
    }
    let (_, found) = scan_processes(&needles);
    assert!(found.is_empty(), "{found:#?}");
}

fn assert_nothing_found(cluster: &Cluster, directory: &Path, at_least: usize) {
    let needles = cluster.secrets().needles();
    let (count, found) = scan_files(&needles, directory, &|path| is_for_secrets(cluster, path));
    assert!(count >= at_least, "only {count} files in {}", directory.display());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_secret_in_sqlite_logs_or_processes() {
    let mut cluster = Cluster::start_verbose();
    use_everything(&cluster);
    live_through_everything(&cluster);
    // The scan can find something: the files that are for tokens have them.
    let needles = cluster.secrets().needles();
    let (_, found) = scan_files(&needles, cluster.root(), &|_| false);
    assert!(found.len() >= 4, "the scan is blind: {found:?}");
    for log in ["logs/admin", "logs/meta", "home/mount/log"] {
        assert!(fs::metadata(cluster.root().join(log)).unwrap().len() > 500, "{log} says nothing");
    }
    assert_nothing_found(&cluster, cluster.root(), 8);
    // And on disk after a clean end (write-ahead logs folded in).
    cluster.stop_meta();
    cluster.stop_admin();
    assert_nothing_found(&cluster, cluster.root(), 8);
}

#[test]
fn no_secret_in_postgres() {
    let cluster = Cluster::start_on_postgres();
    use_everything(&cluster);
    live_through_everything(&cluster);
    let postgres = cluster.postgres_dir().unwrap().to_owned();
    assert_nothing_found(&cluster, &postgres, 100);
    assert_nothing_found(&cluster, cluster.root(), 5);
}
