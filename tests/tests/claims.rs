//! Claim codes from end to end: one machine gets a token that nobody saw, the
//! others get nothing, also when `init creds` dies on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::Code;
use flexfs_tests::cluster::Cluster;
use flexfs_tests::files::Noise;
use flexfs_tests::process::{COMMAND, Run};
use flexfs_tests::raw::block_on;
use flexfs_tests::rpc::{Calls, secret_in};
use flexfs_tests::scan::{scan_files, scan_processes};
use flexfs_tests::wait::pass;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A failed test before this one has nothing to do with it.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A code for a new token of the volume: the token's id, the code, and a file
/// that holds it.
fn claim(cluster: &Cluster, volume: &str) -> (String, Secret, PathBuf) {
    let create = ["create", "volume-token", "--volumeID", volume, "--claim", "1h"];
    let made = cluster.json(&create);
    let code = made["claim"].as_str().unwrap();
    cluster.secrets().add(code);
    let id = made["id"].as_str().unwrap().to_owned();
    (id, Secret::parse(code).unwrap(), cluster.token_file(code))
}

/// A machine: a home of its own, which trusts the same CA.
struct Machine<'a> {
    cluster: &'a Cluster,
    home: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Machine<'a> {
        let home = cluster.root().join(name);
        fs::create_dir_all(home.join("ssl")).unwrap();
        fs::copy(cluster.home().join("ssl/ca"), home.join("ssl/ca")).unwrap();
        Machine { cluster, home }
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = self.cluster.program("mount.flexfs");
        command.env("FLEXFS_HOME", &self.home).args(words);
        command
    }

    /// `mount.flexfs init creds work --claimFile F`
    fn init(&self, code: &Path) -> Command {
        let admin = self.cluster.admin_address();
        let mut command = self.program(&["init", "creds", "work", "--adminAddr", admin]);
        command.arg("--claimFile").arg(code);
        command
    }

    fn run(&self, code: &Path) -> Run {
        Run::of(&mut self.init(code), COMMAND)
    }

    fn creds(&self) -> PathBuf {
        self.home.join("mount/creds/work")
    }

    /// What lies beside the credentials, these among it.
    fn files(&self) -> usize {
        fs::read_dir(self.home.join("mount/creds")).map_or(0, Iterator::count)
    }
}

/// Scans what `ps` shows while a command runs; the looks, and what was found.
fn watched(cluster: &Cluster, command: &mut Command) -> (u32, Vec<String>) {
    let needles = cluster.secrets().needles();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let own = i32::try_from(child.id()).unwrap();
    let (mut looks, mut all) = (0, Vec::new());
    while child.try_wait().unwrap().is_none() {
        let (read, found) = scan_processes(&needles);
        looks += u32::from(read.contains(&own));
        all.extend(found);
    }
    assert!(child.wait().unwrap().success());
    (looks, all)
}

/// Files that hold tokens by their purpose.
fn is_for_secrets(cluster: &Cluster, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(cluster.root()) else { return false };
    let inside = inside.to_string_lossy();
    inside.starts_with("tokens/")
        || inside == "home/admin/root.token"
        || inside.ends_with("/creds")
        || inside.contains("/mount/creds/")
        || inside.starts_with("mnt/")
}

#[test]
fn a_code_becomes_one_mount_and_is_seen_nowhere() {
    let _one = one_at_a_time();
    let cluster = Cluster::start_verbose();
    let full = cluster.volume("work");
    let (id, code, file) = claim(&cluster, "work");
    let (one, two) = (Machine::new(&cluster, "one"), Machine::new(&cluster, "two"));
    let (looks, found) = watched(&cluster, &mut one.init(&file));
    assert!(found.is_empty(), "{found:#?}");
    assert!(looks > 0, "the command was never seen in /proc");
    let token = secret_in(&one.creds(), TokenKind::Volume);
    cluster.secrets().add(token.reveal());
    assert_eq!(token.id().to_string(), id);
    assert_ne!(token.reveal()[28..71], code.reveal()[28..71], "the code is not the secret");
    // The second machine, and the first once more, get nothing.
    two.run(&file).fails(3, "CLAIM_USED");
    assert_eq!(two.files(), 0, "a refused machine kept something");
    one.run(&file).fails(6, "CREDS_EXIST");
    // The code is no token.
    block_on(async {
        let refusal = Calls::to(&cluster).who_am_i(&code).await.unwrap_err();
        assert_eq!(refusal.code(), Code::TokenWrongKind, "{refusal:?}");
    });
    let as_token = ["init", "creds", "work", "--adminAddr", cluster.admin_address()];
    let mut as_token = two.program(&as_token);
    as_token.arg("--tokenFile").arg(&file);
    Run::of(&mut as_token, COMMAND).fails(3, "TOKEN_WRONG_KIND");
    // The mount works, and sees what others write.
    let dir = cluster.new_mount_point();
    let start = ["start", "work", dir.to_str().unwrap(), "--verbose"];
    Run::of(&mut one.program(&start), COMMAND).ok();
    let mount = cluster.mount("work", &full);
    fs::write(dir.join("f"), "by the claimed one").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"by the claimed one");
    cluster.configure(&["show", "volume-token", &id, "-o", "yaml"]).ok();
    cluster.configure(&["rotation", "status", &id]).ok();
    let needles = cluster.secrets().needles();
    let (read, found) = scan_processes(&needles);
    assert!(found.is_empty() && read.len() > 3, "{found:#?}");
    Run::of(&mut one.program(&["stop", dir.to_str().unwrap()]), COMMAND).ok();
    assert!(fs::metadata(one.home.join("mount/log")).unwrap().len() > 500, "it says nothing");
    let allowed = |path: &Path| is_for_secrets(&cluster, path);
    let (count, found) = scan_files(&needles, cluster.root(), &allowed);
    assert!(count >= 8 && found.is_empty(), "{count}: {found:#?}");
    // The scan would see them: they are in the files that are for them.
    let (_, found) = scan_files(&needles, cluster.root(), &|_| false);
    for place in ["one/mount/creds/work", file.to_str().unwrap()] {
        assert!(found.iter().any(|line| line.contains(place)), "the scan misses {place}");
    }
}

#[test]
fn of_two_machines_at_once_one_gets_the_token() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    cluster.volume("work");
    for turn in 0..5 {
        let (id, _, file) = claim(&cluster, "work");
        let machines: Vec<_> =
            (0..3).map(|n| Machine::new(&cluster, &format!("m{turn}-{n}"))).collect();
        let runs: Vec<Run> = std::thread::scope(|scope| {
            let started: Vec<_> =
                machines.iter().map(|machine| scope.spawn(|| machine.run(&file))).collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won = runs.iter().position(Run::succeeded).expect("one of them");
        for (number, (run, machine)) in runs.iter().zip(&machines).enumerate() {
            if number == won {
                let token = secret_in(&machine.creds(), TokenKind::Volume);
                let who = block_on(async { Calls::to(&cluster).who_am_i(&token).await });
                assert_eq!(who.unwrap(), id);
            } else {
                run.fails(3, "CLAIM_USED");
                assert_eq!(machine.files(), 0, "a refused machine kept something");
            }
        }
    }
}

#[test]
fn init_creds_that_was_killed_is_run_again() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    cluster.volume("work");
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed);
    let mut chance = Noise::new(seed);
    let (_, _, file) = claim(&cluster, "work");
    let begun = Instant::now();
    Machine::new(&cluster, "measured").run(&file).ok();
    let span = begun.elapsed() * 5 / 4;
    let other = Machine::new(&cluster, "other");
    let rounds = if std::env::var_os("FLEXFS_TEST_BIG").is_some() { 200 } else { 16 };
    let (mut written, mut waited) = (0, 0);
    for number in 0..rounds {
        let (id, _, file) = claim(&cluster, "work");
        let machine = Machine::new(&cluster, &format!("m{number}"));
        // Every third dies twice.
        for _death in 0..1 + u32::from(number % 3 == 0) {
            let mut command = machine.init(&file);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let millis = chance.next_number() % u64::try_from(span.as_millis()).unwrap().max(1);
            pass(Duration::from_millis(millis));
            // It may have ended since.
            let _ = child.kill();
            child.wait().unwrap();
        }
        let pending = machine.home.join(format!("mount/creds/.{id}.pending"));
        waited += u32::from(pending.exists());
        let run = machine.run(&file);
        if run.code == 6 {
            run.fails(6, "CREDS_EXIST");
            written += 1;
        } else {
            run.ok();
        }
        assert_eq!(machine.files(), 1, "round {number}: more than the credentials is left");
        let token = secret_in(&machine.creds(), TokenKind::Volume);
        let who = block_on(async { Calls::to(&cluster).who_am_i(&token).await });
        assert_eq!(who.unwrap(), id, "round {number}");
        // It is the code's one token: nobody else gets another.
        other.run(&file).fails(3, "CLAIM_USED");
        assert_eq!(other.files(), 0);
    }
    eprintln!(
        "seed {seed}: init creds died in {rounds} rounds within {span:?}: {waited} secrets \
         waited, {written} credentials were written"
    );
}
