//! What becomes of a live mount when its token changes: another secret in its
//! credentials file, other flags; and how a claim code becomes a mount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_tests::cluster::{Cluster, Token, chmod};
use flexfs_tests::mount::Mount;
use flexfs_tests::process::Run;
use flexfs_tests::wait::wait_until;
use rustix::io::Errno;

/// For what programs notice and report within seconds.
const NOTICED: Duration = Duration::from_secs(30);

/// `mount.flexfs init creds --force`, as an operator brings a new secret.
fn bring(cluster: &Cluster, mount: &Mount, token: &Token) {
    let (creds, file) = (mount.creds().display().to_string(), token.file.display().to_string());
    let admin = cluster.admin_address();
    let init = ["init", "creds", "work", "--force", "--adminAddr", admin];
    let files = ["--credsFile", &creds, "--tokenFile", &file];
    cluster.run("mount.flexfs", &[&init[..], &files].concat()).ok();
}

/// The file is replaced by other means.
fn put(mount: &Mount, token: &Secret) {
    let mut creds = Credentials::read(mount.creds()).unwrap();
    token.reveal().clone_into(&mut creds.token);
    creds.write(mount.creds(), true).unwrap();
}

fn log(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.home().join("mount/log")).unwrap()
}

fn shown(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut lines = mounts.lines().map(|line| line.split(' ').skip(1));
    lines
        .find_map(|mut line| (line.next() == dir.to_str()).then(|| line.nth(1)))?
        .map(str::to_owned)
}

fn flags(mount: &Mount) -> Vec<String> {
    let flags = mount.status()["flags"].clone();
    flags.as_array().unwrap().iter().map(|flag| flag.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_mount_follows_a_rotation_and_outlives_the_old_secret() {
    let cluster = Cluster::start();
    let old = cluster.volume("work");
    let mount = cluster.mount("work", &old);
    let mut open = fs::File::create(mount.path("open")).unwrap();
    open.write_all(b"before ").unwrap();
    let new = cluster.keep(&cluster.json(&["rotate", "volume-token", &old.id]));
    bring(&cluster, &mount, &new);
    // Which secret the mount lives from, as admin knows it.
    let sessions = |secret: usize| {
        let status = cluster.json(&["rotation", "status", &old.id]);
        let hosts = status["secrets"][secret]["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().filter_map(|host| host["sessions"].as_u64()).sum::<u64>()
    };
    wait_until("the mount lives from the new secret", NOTICED, || {
        (sessions(0), sessions(1)) == (0, 1)
    });
    cluster.json(&["rotation", "finish", &old.id, "--force", "--wait"]);
    cluster.init_mount("work", &old).0.fails(3, "TOKEN_ROTATED");
    // The same session, with all that was open.
    open.write_all(b"after").unwrap();
    open.sync_all().unwrap();
    assert_eq!(fs::read(mount.path("open")).unwrap(), b"before after");
    assert_eq!(mount.status()["state"], "live");
    let text = fs::read_to_string(new.file).unwrap();
    assert!(!log(&cluster).contains(text.trim_end()));
    drop(open);
    mount.stop();
}

#[test]
fn what_is_wrong_with_the_file_is_told_once_and_the_mount_goes_on() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let other = cluster.volume_token("work", &[]);
    let mount = cluster.mount("work", &token);
    let told = |code: &str| log(&cluster).matches(code).count();
    let unknown = Secret::generate_for(TokenKind::Volume, token.id.parse().unwrap()).unwrap();
    put(&mount, &unknown);
    wait_until("the refusal is logged", NOTICED, || told("TOKEN_UNKNOWN") == 1);
    put(&mount, &Secret::parse(&fs::read_to_string(&other.file).unwrap()).unwrap());
    wait_until("the refusal is logged", NOTICED, || told("CREDS_MISMATCH") == 1);
    assert!(log(&cluster).contains("mount again"));
    chmod(mount.creds(), 0o644);
    wait_until("the complaint is logged", NOTICED, || told("CREDS_INSECURE") == 1);
    assert!(log(&cluster).contains("chmod 600"));
    fs::remove_file(mount.creds()).unwrap();
    wait_until("the complaint is logged", NOTICED, || told("CREDS_MISSING") == 1);
    for code in ["TOKEN_UNKNOWN", "CREDS_MISMATCH", "CREDS_INSECURE"] {
        assert_eq!(told(code), 1, "{code}");
    }
    assert!(!log(&cluster).contains(unknown.reveal()));
    fs::write(mount.path("f"), "still here").unwrap();
    mount.stop();
}

#[test]
fn flags_that_change_are_in_force_on_the_live_mount() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let token = cluster.volume_token("work", &[]);
    let mount = cluster.mount("work", &token);
    let update = |flags: &str| {
        cluster.json(&["update", "volume-token", &token.id, "--flags", flags]);
    };
    let mut open = OpenOptions::new().append(true).create(true).open(mount.path("f")).unwrap();
    open.write_all(b"written").unwrap();
    open.sync_all().unwrap();
    update("ro,noExec");
    wait_until("the mount is read-only", NOTICED, || flags(&mount) == ["ro", "noExec"]);
    let refused = [
        open.write_all(b"lost"),
        fs::write(mount.path("new"), "lost"),
        fs::remove_file(mount.path("f")),
        fs::create_dir(mount.path("d")),
    ];
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"written");
    // While a file is open for writing the kernel says the rest.
    let says = |words: &[&str]| {
        let options = shown(mount.dir()).unwrap();
        words.iter().all(|word| options.split(',').any(|option| option == *word))
    };
    wait_until("/proc/mounts says noexec", NOTICED, || says(&["noexec"]));
    drop(open);
    wait_until("/proc/mounts says ro", NOTICED, || says(&["ro", "noexec"]));
    update("none");
    wait_until("/proc/mounts says rw", NOTICED, || says(&["rw"]) && !says(&["noexec"]));
    assert_eq!(flags(&mount), [] as [String; 0]);
    fs::write(mount.path("f"), "and again").unwrap();
    mount.stop();
}

#[test]
fn a_claim_code_that_met_the_wrong_volume_is_not_lost() {
    let cluster = Cluster::start();
    cluster.volume("work");
    cluster.volume("other");
    let create = ["create", "volume-token", "--volumeID", "work", "--claim", "1h"];
    let code = cluster.json(&create)["claim"].as_str().unwrap().to_owned();
    cluster.secrets().add(&code);
    let file = cluster.token_file(&code).display().to_string();
    let creds = cluster.root().join("claimed/creds");
    let init = |volume: &str| -> Run {
        let (admin, creds) = (cluster.admin_address(), creds.display().to_string());
        let init = ["init", "creds", volume, "--adminAddr", admin, "--claimFile", &file];
        cluster.run("mount.flexfs", &[&init[..], &["--credsFile", &creds]].concat())
    };
    let said = init("other");
    assert!(said.fails(3, "CREDS_MISMATCH").contains("claim code"), "{}", said.stderr);
    assert!(!creds.exists());
    init("work").ok();
    let left = fs::read_dir(creds.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "nothing waits any more");
    let dir = cluster.new_mount_point();
    cluster.start_mount("work", &dir, &creds, &[]).ok();
    let mount = cluster.mounted(dir, creds.clone());
    fs::write(mount.path("f"), "mine").unwrap();
    mount.stop();
    fs::remove_file(&creds).unwrap();
    init("work").fails(3, "CLAIM_USED");
}
