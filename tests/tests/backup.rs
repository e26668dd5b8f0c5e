//! A lost metadata server comes back from a backup.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use flexfs_tests::files::{Noise, sh};
use flexfs_tests::process::{Daemon, Run};
use flexfs_tests::wait::{wait_for, wait_until, within};
use flexfs_tests::{Cluster, Mount, Token};

const SOON: Duration = Duration::from_secs(60);

/// Names, kinds, modes, sizes and contents of everything below a directory.
fn sum_of(dir: &Path) -> String {
    let script = "cd \"$1\"; find . -printf '%p %y %m %s %l\\n' | sort; \
                  find . -type f -print0 | sort -z | xargs -0 -r sha256sum";
    sh(script, &[dir])
}

fn objects(cluster: &Cluster) -> Vec<PathBuf> {
    let script = "find \"$1\" -type f -size +8k | sort";
    let found = sh(script, &[&cluster.root().join("blocks")]);
    found.lines().map(PathBuf::from).collect()
}

fn meta(cluster: &Cluster, words: &[&str]) -> Run {
    cluster.run("meta.flexfs", words)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// `what` of meta's home is gone.
fn lose(cluster: &Cluster, what: &str) {
    fs::rename(cluster.home().join(what), cluster.root().join("lost")).unwrap();
}

/// A volume whose objects are deleted as soon as nothing needs them.
fn collected_at_once(cluster: &Cluster, name: &str) -> Token {
    let token = cluster.volume(name);
    cluster.configure(&["update", "volume", name, "--retention", "0s"]).ok();
    token
}

fn fill(mount: &Mount) {
    let keep = mount.path("keep");
    fs::create_dir_all(keep.join("a/b")).unwrap();
    let mut noise = Noise::new(1);
    for n in 0..20 {
        fs::write(keep.join(format!("a/{n}")), noise.bytes(1000 * n)).unwrap();
    }
    fs::write(keep.join("big"), noise.bytes(9_000_000)).unwrap();
    fs::hard_link(keep.join("big"), keep.join("a/b/linked")).unwrap();
    std::os::unix::fs::symlink("../big", keep.join("a/link")).unwrap();
    fs::set_permissions(keep.join("a/3"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::File::open(&keep).unwrap().sync_all().unwrap();
}

/// Nothing is collected before it is confirmed.
fn collected_when_confirmed(cluster: &Cluster, new: &Mount) {
    let held = meta(cluster, &["status", "-o", "json"]).json();
    assert_eq!(held["held"].as_array().unwrap().len(), 1, "{held}");
    assert!(meta(cluster, &["status"]).ok().contains("nothing collected since restore"));
    let before = objects(cluster);
    fs::remove_file(new.path("keep/big")).unwrap();
    fs::remove_file(new.path("keep/a/b/linked")).unwrap();
    fs::File::open(new.dir()).unwrap().sync_all().unwrap();
    // A volume that was not restored is collected meanwhile.
    let other_token = collected_at_once(cluster, "other");
    let other = cluster.mount("other", &other_token);
    fs::write(other.path("f"), Noise::new(3).bytes(1_000_000)).unwrap();
    fs::File::open(other.path("f")).unwrap().sync_all().unwrap();
    wait_until("its objects", SOON, || objects(cluster).len() > before.len());
    fs::remove_file(other.path("f")).unwrap();
    wait_until("its collection", SOON, || objects(cluster).len() <= before.len());
    other.stop();
    assert_eq!(objects(cluster), before, "collected before it was confirmed");
    let confirmed = meta(cluster, &["gc", "--confirmRestore", "-o", "json"]);
    assert_eq!(confirmed.json()["confirmed"].as_array().unwrap().len(), 1);
    wait_until("collection", SOON, || objects(cluster).len() < before.len());
    let held = meta(cluster, &["status", "-o", "json"]).json();
    assert_eq!(held["held"].as_array().unwrap().len(), 0, "{held}");
}

#[test]
fn a_lost_server_comes_back_as_it_was_at_the_backup() {
    let mut cluster = Cluster::start();
    let token = collected_at_once(&cluster, "work");
    let revoked = cluster.volume_token("work", &[]);
    let old = cluster.mount("work", &token);
    fill(&old);
    let expected = sum_of(&old.path("keep"));
    let file = cluster.root().join("monday");
    // Beside a running server, while others write.
    let (over, written) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let n = written.fetch_add(1, Ordering::Relaxed);
                fs::write(old.path(&format!("load{n}")), "load").unwrap();
            }
        });
        wait_until("load", SOON, || written.load(Ordering::Relaxed) > 50);
        let made = meta(&cluster, &["backup", &text(&file), "-o", "json"]).json();
        over.store(true, Ordering::Relaxed);
        assert_eq!(made["volumes"], 1, "{made}");
    });
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    meta(&cluster, &["backup", &text(&file)]).fails(6, "BACKUP_EXISTS");
    // What comes after the backup is lost: new files, removals, a revocation.
    fs::write(old.path("later"), Noise::new(2).bytes(6_000_000)).unwrap();
    fs::write(old.path("keep/a/7"), "changed").unwrap();
    fs::remove_file(old.path("keep/a/link")).unwrap();
    fs::File::open(old.path("later")).unwrap().sync_all().unwrap();
    let held_open = fs::File::open(old.path("keep/big")).unwrap();
    let later_ino = fs::metadata(old.path("later")).unwrap().ino();
    cluster.revoke(&revoked).ok();
    meta(&cluster, &["restore", &text(&file)]).fails(6, "DAEMON_RUNNING");
    cluster.stop_meta();
    meta(&cluster, &["restore", &text(&file)]).fails(6, "STORE_NOT_EMPTY");
    // The server stays who it is: the old mount finds it.
    lose(&cluster, "meta/data/engine");
    let restored = meta(&cluster, &["restore", &text(&file), "-o", "json"]).json();
    assert_eq!(restored["volumes"], 1, "{restored}");
    cluster.restart_meta();
    // The old mount says so: a change at once, a look when its lease is over.
    let stale = Some(rustix::io::Errno::STALE.raw_os_error());
    let refused = old.path("refused");
    let error = within("the old mount", SOON, move || fs::write(refused, "x")).unwrap_err();
    assert_eq!(error.raw_os_error(), stale);
    let error = wait_for("the old mount", SOON, || fs::read(old.path("keep/a/7")).err());
    assert_eq!(error.raw_os_error(), stale);
    drop(held_open);
    // A new one sees what was there.
    let new = cluster.mount("work", &token);
    assert_eq!(sum_of(&new.path("keep")), expected);
    assert!(!new.path("later").exists());
    assert!(new.path("load0").exists());
    cluster.verify_clean();
    // What was revoked after the backup stays revoked.
    let (init, _) = cluster.init_mount("work", &revoked);
    init.fails(3, "TOKEN_REVOKED");
    fs::write(new.path("fresh"), "x").unwrap();
    assert_ne!(fs::metadata(new.path("fresh")).unwrap().ino(), later_ino);
    collected_when_confirmed(&cluster, &new);
    cluster.verify_clean();
    old.clear();
    new.stop();
}

#[test]
fn a_restore_that_is_killed_is_run_again_and_nothing_is_served_before() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    fill(&mount);
    sh("cd \"$1\"; mkdir many; cd many; seq 3000 | xargs touch", &[mount.dir()]);
    let expected = sum_of(mount.dir());
    mount.stop();
    cluster.stop_meta();
    // Without a server.
    let file = cluster.root().join("monday");
    meta(&cluster, &["backup", &text(&file)]).ok();
    lose(&cluster, "meta/data");
    let data = cluster.home().join("meta/data");
    let whole = fs::read(&file).unwrap();
    let mut killed = 0;
    for part in [0, 1] {
        let mut command = cluster.program("meta.flexfs");
        command.args(["restore", &text(&file)]);
        let restore = Daemon::start(&mut command, &cluster.root().join(format!("restore{part}")));
        wait_until("a restore", SOON, || {
            data.join("engine.restoring").exists() || data.join("engine").exists()
        });
        restore.kill9();
        if data.join("engine.restoring").exists() {
            killed += 1;
            let start = meta(&cluster, &["start", "--foreground", "--bindAddr", "127.0.0.1:0"]);
            start.fails(6, "RESTORE_UNFINISHED");
            meta(&cluster, &["verify"]).fails(6, "RESTORE_UNFINISHED");
        } else {
            // It was faster: whole, then.
            fs::remove_dir_all(data.join("engine")).unwrap();
        }
    }
    assert!(killed > 0, "no restore was met in its middle");
    // A file that is none of ours, cut short, damaged: nothing is left.
    let wrong = cluster.root().join("wrong");
    for bytes in [&b"hello, this is no backup"[..], &whole[..whole.len() / 2], b""] {
        fs::write(&wrong, bytes).unwrap();
        meta(&cluster, &["restore", &text(&wrong)]).fails(1, "BACKUP_INVALID");
        assert!(!data.join("engine").exists() && !data.join("engine.restoring").exists());
    }
    let mut newer = whole.clone();
    newer[11] = 9;
    fs::write(&wrong, newer).unwrap();
    meta(&cluster, &["restore", &text(&wrong)]).fails(1, "FORMAT_UNSUPPORTED");
    meta(&cluster, &["restore", "nowhere"]).fails(5, "BACKUP_NOT_FOUND");
    meta(&cluster, &["backup", "/nowhere/at/all"]).fails(1, "BACKUP_FAILED");
    meta(&cluster, &["restore", &text(&file)]).ok();
    cluster.verify_clean();
    cluster.restart_meta();
    let mount = cluster.mount("work", &token);
    assert_eq!(sum_of(mount.dir()), expected);
    mount.stop();
}
