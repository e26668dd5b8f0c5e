//! kill -9 at each step of a rotation: what is left is never a token without
//! a working secret.
//!
//! The instants are random; each test prints its seed. `FLEXFS_TEST_BIG=1`
//! makes many more of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking and tell their seeds, their helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::{Code, Result, tls};
use flexfs_tests::cluster::Cluster;
use flexfs_tests::files::Noise;
use flexfs_tests::mount::Mount;
use flexfs_tests::rpc::{Calls, secret, secret_in};
use flexfs_tests::wait::{pass, wait_for, wait_until, within};
use rustix::process::Signal;
use tokio::runtime::Runtime;

/// For what programs notice and report within seconds.
const NOTICED: Duration = Duration::from_secs(60);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A failed test before this one has nothing to do with it.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rounds(default: u32, big: u32) -> u32 {
    if std::env::var_os("FLEXFS_TEST_BIG").is_some() { big } else { default }
}

fn runtime() -> Runtime {
    tls::install_provider();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Instants of crashes.
struct Chance(Noise);

impl Chance {
    fn new(test: &str) -> Chance {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        let seed = u64::from_le_bytes(seed);
        eprintln!("{test}: seed {seed}");
        Chance(Noise::new(seed))
    }

    /// Below this span, in steps of a hundredth of a millisecond.
    fn below(&mut self, span: Duration) -> Duration {
        let steps = u64::try_from(span.as_micros() / 10).unwrap().max(1);
        Duration::from_micros(self.0.next_number() % steps * 10)
    }
}

/// A step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rotate,
    Finish,
    Emergency,
}

/// A volume's token whose admin dies again and again.
struct Dying {
    cluster: Cluster,
    runtime: Runtime,
    system: Secret,
    /// Secrets that are good, the newest last.
    live: Vec<Secret>,
    /// The one that ended last.
    ended: Option<Secret>,
}

impl Dying {
    fn new(cluster: Cluster) -> Dying {
        let first = secret(&cluster.volume("work"));
        let system = secret_in(&cluster.home().join("configure/creds"), TokenKind::Account);
        Dying { cluster, runtime: runtime(), system, live: vec![first], ended: None }
    }

    fn newest(&self) -> &Secret {
        self.live.last().unwrap()
    }

    /// The call of this step; it may be cut short by the death of admin.
    fn call(&self, step: Step, new: &Secret) -> tokio::task::JoinHandle<Result<()>> {
        let calls = self.runtime.block_on(async { Calls::to(&self.cluster) });
        let (system, new) = (self.system.clone(), new.clone());
        self.runtime.spawn(async move {
            match step {
                Step::Rotate => calls.rotate(&system, &new, 3600).await,
                Step::Emergency => calls.rotate(&system, &new, 0).await,
                Step::Finish => calls.finish(&system, &new.id().to_string()).await,
            }
        })
    }

    /// Is this secret accepted? A refusal has one of the codes of a secret
    /// that is over or was never taken.
    #[track_caller]
    fn accepts(&self, token: &Secret) -> bool {
        let calls = self.runtime.block_on(async { Calls::to(&self.cluster) });
        match self.runtime.block_on(calls.who_am_i(token)) {
            Ok(id) => id == token.id().to_string(),
            Err(error) => {
                let codes = [Code::TokenRotated, Code::TokenUnknown];
                assert!(codes.contains(&error.code()), "{}", error.with_causes());
                false
            }
        }
    }

    /// One step, killed after a while. Was it done all the same?
    fn round(&mut self, step: Step, after: Duration) -> bool {
        let new = match step {
            Step::Finish => self.newest().clone(),
            Step::Rotate | Step::Emergency => {
                Secret::generate_for(TokenKind::Volume, self.newest().id()).unwrap()
            }
        };
        let call = self.call(step, &new);
        pass(after);
        self.cluster.kill9_admin();
        let answer = self.runtime.block_on(call).unwrap();
        self.cluster.restart_admin();
        let done = self.judge(step, &new, &answer);
        // The client asks again with the same secret, as it may.
        let again = self.call(step, &new);
        self.runtime.block_on(again).unwrap().unwrap();
        self.apply(step, &new);
        for token in &self.live {
            assert!(self.accepts(token), "{step:?} asked again: {}", token.last4());
        }
        assert!(self.ended.as_ref().is_none_or(|ended| !self.accepts(ended)), "{step:?}");
        done
    }

    /// What the database says after the crash is before or after the step,
    /// nothing between; what was answered was done.
    fn judge(&self, step: Step, new: &Secret, answer: &Result<()>) -> bool {
        let (newest, old) = match step {
            Step::Finish => (true, &self.live[..self.live.len() - 1]),
            Step::Rotate | Step::Emergency => (self.accepts(new), &self.live[..]),
        };
        let good: Vec<bool> = old.iter().map(|token| self.accepts(token)).collect();
        let (all, none) = (good.iter().all(|good| *good), good.iter().all(|good| !good));
        let done = match step {
            Step::Rotate => {
                assert!(all, "a rotation ended an earlier secret: {good:?}");
                newest
            }
            Step::Emergency => {
                assert!(if newest { none } else { all }, "{newest} and {good:?}");
                newest
            }
            Step::Finish => {
                assert!(self.accepts(new), "the newest secret has ended");
                assert!(all || none, "half of a finish: {good:?}");
                none
            }
        };
        assert!(done || answer.is_err(), "{step:?} was answered and is not done");
        assert!(self.ended.as_ref().is_none_or(|ended| !self.accepts(ended)), "it came back");
        done
    }

    fn apply(&mut self, step: Step, new: &Secret) {
        if step != Step::Rotate {
            self.ended = self.live.iter().rev().find(|t| t.reveal() != new.reveal()).cloned();
            self.live.clear();
        }
        self.live.retain(|token| token.reveal() != new.reveal());
        self.live.push(new.clone());
    }

    /// How long a step takes that nobody disturbs.
    fn measure(&mut self, step: Step) -> Duration {
        let new = match step {
            Step::Finish => self.newest().clone(),
            Step::Rotate | Step::Emergency => {
                Secret::generate_for(TokenKind::Volume, self.newest().id()).unwrap()
            }
        };
        let begun = Instant::now();
        let call = self.call(step, &new);
        self.runtime.block_on(call).unwrap().unwrap();
        let took = begun.elapsed();
        self.apply(step, &new);
        took
    }
}

fn admin_dies(cluster: Cluster, rounds: u32) {
    let mut chance = Chance::new("admin dies");
    let mut dying = Dying::new(cluster);
    // Two earlier secrets to end, so that half a step would be seen.
    let plan = [Step::Rotate, Step::Rotate, Step::Finish, Step::Rotate, Step::Rotate];
    let plan = [&plan[..], &[Step::Emergency]].concat();
    let spans: Vec<Duration> = plan.iter().map(|step| dying.measure(*step)).collect();
    let mut seen = [(0, 0); 3];
    for number in 0..rounds as usize {
        let (step, span) = (plan[number % plan.len()], spans[number % plan.len()]);
        let done = dying.round(step, chance.below(span * 3 / 2));
        let counts = &mut seen[step as usize];
        if done { counts.1 += 1 } else { counts.0 += 1 }
    }
    eprintln!(
        "admin died {rounds} times within {spans:?}: rotate, finish, emergency (not done, done): \
         {seen:?}"
    );
    if rounds >= 60 {
        assert!(seen.iter().all(|(before, after)| *before > 0 && *after > 0), "{seen:?}");
    }
}

#[test]
fn admin_dies_at_any_point_of_a_rotation() {
    let _one = one_at_a_time();
    admin_dies(Cluster::start(), rounds(18, 300));
}

#[test]
fn admin_on_postgres_dies_at_any_point_of_a_rotation() {
    let _one = one_at_a_time();
    admin_dies(Cluster::start_on_postgres(), rounds(6, 120));
}

/// `configure.flexfs` with these words, killed after a while; false when it
/// had ended before.
fn killed(cluster: &Cluster, words: &[&str], after: Duration) -> bool {
    let mut command = cluster.program("configure.flexfs");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    pass(after);
    let ended = child.try_wait().unwrap().is_some();
    // It may have ended since we looked.
    let _ = child.kill();
    child.wait().unwrap();
    !ended
}

#[test]
fn configure_dies_while_it_rotates_its_own_token() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let mut chance = Chance::new("configure dies");
    let creds = cluster.home().join("configure/creds");
    let id = cluster.json(&["whoami"])["tokenID"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    cluster.keep(&cluster.json(&["rotate", "account-token", &id]));
    let span = begun.elapsed() * 5 / 4;
    let (mut kept, mut moved, mut waited, mut open) = (0, 0, 0, 0);
    let rounds = rounds(24, 300);
    for number in 0..rounds {
        let before = secret_in(&creds, TokenKind::Account);
        let how: &[&str] =
            if number.is_multiple_of(2) { &["--emergency"] } else { &["--overlap", "1h"] };
        killed(&cluster, &[&["rotate", "account-token", &id], how].concat(), chance.below(span));
        let pending = cluster.home().join(format!("configure/.{id}.pending"));
        waited += u32::from(pending.exists());
        // The command that finds out may die as well.
        if number.is_multiple_of(3) {
            killed(&cluster, &["whoami"], chance.below(span));
        }
        let who = cluster.configure(&["whoami", "-o", "id"]);
        assert_eq!(who.ok().trim_end(), id, "round {number}");
        // One that admin does not know waits on: it may yet come.
        open += u32::from(pending.exists());
        let after = secret_in(&creds, TokenKind::Account);
        cluster.secrets().add(after.reveal());
        if before.reveal() == after.reveal() {
            kept += 1
        } else {
            moved += 1
        }
        if number % 2 == 1 {
            cluster.configure(&["rotation", "finish", &id, "--force"]).ok();
        }
    }
    // One that is not killed takes away what the others left.
    cluster.keep(&cluster.json(&["rotate", "account-token", &id, "--emergency"]));
    let left = fs::read_dir(cluster.home().join("configure")).unwrap().count();
    assert_eq!(left, 1, "more than the credentials is left");
    eprintln!(
        "configure died {rounds} times within {span:?}: {waited} secrets waited, {moved} \
         rotations stand, {kept} do not, {open} are open after the next command"
    );
}

/// A mount whose credentials come from a command, so that the instant is seen
/// at which it reads them.
struct Following {
    id: String,
    mount: Mount,
    token: PathBuf,
    mark: PathBuf,
}

impl Following {
    fn start(cluster: &Cluster) -> Following {
        let first = cluster.volume("work");
        let mount = cluster.mount("work", &first);
        fs::write(mount.path("kept"), vec![7; 100_000]).unwrap();
        fs::File::open(mount.path("kept")).unwrap().sync_all().unwrap();
        let at = |name: &str| cluster.root().join("tokens").join(name);
        let (token, mark) = (at("current"), at("mark"));
        let script = at("give");
        let text = format!("#!/bin/sh\n: > '{}'\nexec cat '{}'\n", mark.display(), token.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        Following { id: first.id.clone(), mount, token, mark }
    }

    /// Rotates, and brings the new secret; returns when the mount reads it.
    fn rotate(&self, cluster: &Cluster, stop_admin: bool) {
        let new = cluster.keep(&cluster.json(&["rotate", "volume-token", &self.id]));
        fs::write(&self.token, new.text()).unwrap();
        fs::set_permissions(&self.token, fs::Permissions::from_mode(0o600)).unwrap();
        // It may not have been read before.
        let _ = fs::remove_file(&self.mark);
        if stop_admin {
            cluster.signal_admin(Signal::STOP);
        }
        let mut creds = Credentials::read(self.mount.creds()).unwrap();
        let script = self.token.with_file_name("give");
        creds.token = format!("exec:{}", script.display()).into();
        creds.write(self.mount.creds(), true).unwrap();
        wait_until("the mount to read its new secret", NOTICED, || self.mark.exists());
    }

    /// Mounts that live from the newest secret, and from all others.
    fn sessions(&self, cluster: &Cluster) -> (u64, u64) {
        let status = cluster.json(&["rotation", "status", &self.id]);
        let count = |secret: &serde_json::Value| {
            let hosts = secret["hosts"].as_array().cloned().unwrap_or_default();
            hosts.iter().filter_map(|host| host["sessions"].as_u64()).sum::<u64>()
        };
        let secrets = status["secrets"].as_array().unwrap();
        let (newest, earlier) = secrets.split_last().unwrap();
        (count(newest), earlier.iter().map(count).sum())
    }

    /// Everything that the mount does works, what it knew before too.
    fn assert_works(&self, number: u32) {
        let (kept, new) = (self.mount.path("kept"), self.mount.path(&format!("new{number}")));
        within("the mount after a crash", NOTICED, move || {
            assert!(fs::read(kept).unwrap() == vec![7; 100_000]);
            fs::write(&new, "new").unwrap();
            fs::File::open(&new).unwrap().sync_all().unwrap();
            assert_eq!(fs::read(&new).unwrap(), b"new");
        });
    }
}

#[test]
fn a_mount_dies_while_it_takes_up_a_new_secret() {
    let _one = one_at_a_time();
    let cluster = Cluster::start();
    let mut chance = Chance::new("a mount dies");
    let mut following = Following::start(&cluster);
    // (What the dead one had is waited for: up to its lease each time.)
    for number in 0..rounds(4, 40) {
        // Every other time in the midst of it: admin does not answer.
        let stop_admin = number.is_multiple_of(2);
        following.rotate(&cluster, stop_admin);
        pass(chance.below(Duration::from_millis(200)));
        following.mount.kill9();
        if stop_admin {
            cluster.signal_admin(Signal::CONT);
        }
        let (dir, creds) = (following.mount.dir().to_owned(), following.mount.creds().to_owned());
        let again = cluster.mounted(dir.clone(), creds.clone());
        std::mem::replace(&mut following.mount, again).clear();
        cluster.start_mount("work", &dir, &creds, &[]).ok();
        following.assert_works(number);
        // The new mount is one of the new secret: the end of the old is nothing to it.
        cluster.json(&["rotation", "finish", &following.id, "--force", "--wait"]);
        following.assert_works(number);
        assert_eq!(following.mount.status()["state"], "live");
    }
    following.mount.stop();
    cluster.verify_clean();
}

#[test]
fn meta_dies_while_a_mount_takes_up_a_new_secret() {
    let _one = one_at_a_time();
    let mut cluster = Cluster::start();
    let mut chance = Chance::new("meta dies");
    let following = Following::start(&cluster);
    let session = following.mount.status()["sessionID"].clone();
    for number in 0..rounds(6, 60) {
        let stop_admin = number.is_multiple_of(2);
        following.rotate(&cluster, stop_admin);
        pass(chance.below(Duration::from_millis(200)));
        cluster.kill9_meta();
        if stop_admin {
            cluster.signal_admin(Signal::CONT);
        }
        cluster.restart_meta();
        following.assert_works(number);
        wait_for("the mount to live from its new secret", NOTICED, || {
            (following.sessions(&cluster) == (1, 0)).then_some(())
        });
        cluster.json(&["rotation", "finish", &following.id, "--force", "--wait"]);
        following.assert_works(number);
    }
    let status = following.mount.status();
    assert_eq!((&status["state"], &status["sessionID"]), (&"live".into(), &session));
    following.mount.stop();
    cluster.verify_clean();
}
