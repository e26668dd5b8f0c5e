//! The drill of a stolen database: whoever has copies of admin's database and
//! of every log, and not the pepper, can open nothing; nor can whoever has a
//! copy of meta's engine, and not the key files beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_auth::verifier::{Pepper, Verifier};
use flexfs_common::{Code, tls};
use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::ports::free_address;
use flexfs_tests::process::{COMMAND, Daemon, Run};
use flexfs_tests::raw::{RawSession, block_on};
use flexfs_tests::rpc::{Calls, Feed, secret};
use flexfs_tests::scan::{find, scan_files};
use flexfs_tests::wait::wait_for;
use tokio::runtime::Runtime;

/// Within which a limit on refusals lets the next one through.
const ADMITTED: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    tls::install_provider();
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Tokens of every kind and state.
struct Known {
    volume: Token,
    all: Vec<Secret>,
}

fn use_everything(cluster: &Cluster) -> Known {
    let volume = cluster.volume("work");
    let scoped = cluster.volume_token("work", &["--mountPath", "/", "--flags", "ro"]);
    let made = cluster.json(&["create", "account", "--name", "other"]);
    let owner = cluster.keep(&made["accountToken"]);
    let made = cluster.json(&["create", "volume-token", "--volumeID", "work", "--claim", "1h"]);
    let code = made["claim"].as_str().unwrap();
    cluster.secrets().add(code);
    let code = Secret::parse(code).unwrap();
    let rotated = cluster.keep(&cluster.json(&["rotate", "volume-token", &scoped.id]));
    let gone = cluster.volume_token("work", &[]);
    cluster.init_mount("work", &gone).0.ok();
    cluster.revoke(&gone).ok();
    // Refusals are logged.
    for _try in 0..3 {
        cluster.init_mount("work", &gone).0.fails(3, "TOKEN_REVOKED");
        cluster.configure_as(&scoped, &["whoami"]).fails(3, "TOKEN_WRONG_KIND");
    }
    cluster.configure_as(&owner, &["whoami"]).ok();
    let mount = cluster.mount("work", &volume);
    fs::write(mount.path("f"), vec![1; 100_000]).unwrap();
    let reader = cluster.mount("work", &rotated);
    assert_eq!(fs::read(reader.path("f")).unwrap().len(), 100_000);
    mount.stop();
    reader.stop();
    let system = fs::read_to_string(cluster.home().join("admin/root.token")).unwrap();
    let meta = flexfs_tests::rpc::secret_in(&cluster.home().join("meta/creds"), TokenKind::Meta);
    let mut all: Vec<Secret> = [&volume, &scoped, &owner, &rotated, &gone].map(secret).to_vec();
    all.extend([code, Secret::parse(system.trim_end()).unwrap(), meta]);
    Known { volume, all }
}

/// The thief's copies: admin's database as it lies there, and all logs.
fn steal(cluster: &Cluster) -> PathBuf {
    let stolen = cluster.root().join("stolen");
    fs::create_dir_all(stolen.join("admin")).unwrap();
    let mut databases = 0;
    for entry in fs::read_dir(cluster.home().join("admin")).unwrap().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("flexfs.db") {
            fs::copy(entry.path(), stolen.join("admin").join(&name)).unwrap();
            databases += 1;
        }
    }
    assert!(databases > 0, "there is no database");
    for log in ["logs/admin", "logs/meta", "home/mount/log"] {
        let copy = stolen.join("logs").join(log);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        let bytes = fs::copy(cluster.root().join(log), copy).unwrap();
        assert!(bytes > 500, "{log} says nothing");
    }
    assert!(!stolen.join("admin/pepper").exists());
    stolen
}

/// What the thief could take for the secrets of this token: whatever follows
/// its id in the database, where the verifier is, as a token's text.
fn guesses(stolen: &Path, token: &Secret) -> Vec<[u8; 32]> {
    let id = token.id().to_string();
    let mut out = Vec::new();
    for entry in fs::read_dir(stolen.join("admin")).unwrap().flatten() {
        let bytes = fs::read(entry.path()).unwrap();
        for at in 0..bytes.len().saturating_sub(36 + 32) {
            if bytes[at..].starts_with(id.as_bytes()) {
                out.push(bytes[at + 36..at + 68].try_into().unwrap());
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text of a token with the prefix and id of this one and another secret.
fn forged(token: &Secret, secret: &[u8; 32]) -> Secret {
    let mut digits = [0_u8; 43];
    let mut rest = secret.to_vec();
    for digit in digits.iter_mut().rev() {
        let mut carry = 0_u32;
        for byte in &mut rest {
            let sum = carry << 8 | u32::from(*byte);
            *byte = u8::try_from(sum / 62).unwrap();
            carry = sum % 62;
        }
        *digit = ALPHABET[carry as usize];
    }
    let body = format!("{}{}", &token.reveal()[..28], std::str::from_utf8(&digits).unwrap());
    let mut crc = !0_u32;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut check = [0; 6];
    for digit in check.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    Secret::parse(&format!("{body}{}", std::str::from_utf8(&check).unwrap())).unwrap()
}

/// What admin says of a token, or a claim code, once the limit on refusals lets
/// it speak.
fn verdict(runtime: &Runtime, calls: &Calls, token: &Secret) -> Result<String, Code> {
    wait_for("a verdict", ADMITTED, || {
        let answer = runtime.block_on(async {
            if token.kind() == TokenKind::Claim {
                calls.redeem(token).await
            } else {
                calls.who_am_i(token).await
            }
        });
        let answer = answer.map_err(|error| error.code());
        (answer != Err(Code::RateLimited)).then_some(answer)
    })
}

/// One of the programs, in the thief's home.
fn as_thief(cluster: &Cluster, stolen: &Path, program: &str, words: &[&str]) -> Command {
    let mut command = cluster.program(program);
    command.env("FLEXFS_HOME", stolen).args(words);
    command
}

#[test]
fn no_secret_is_in_the_loot() {
    let mut cluster = Cluster::start_verbose();
    use_everything(&cluster);
    let needles = cluster.secrets().needles();
    // As it lies there while admin runs, and when it has ended.
    for running in [true, false] {
        if !running {
            cluster.stop_meta();
            cluster.stop_admin();
        }
        let stolen = steal(&cluster);
        let (count, found) = scan_files(&needles, &stolen, &|_| false);
        assert!(count >= 4, "{count} files");
        assert!(found.is_empty(), "{found:#?}");
    }
    // The scan finds what is there.
    let root = fs::read(cluster.home().join("admin/root.token")).unwrap();
    assert!(!find(&needles, "root.token", &root).is_empty());
}

/// The verifier is no secret: shown as one it opens nothing.
#[test]
fn what_the_database_holds_of_a_secret_is_not_one() {
    let (cluster, runtime) = (Cluster::start(), runtime());
    let volume = cluster.volume("work");
    let rotated = cluster.keep(&cluster.json(&["rotate", "volume-token", &volume.id]));
    let stolen = cluster.root().join("stolen/admin");
    fs::create_dir_all(&stolen).unwrap();
    for name in ["flexfs.db", "flexfs.db-wal"] {
        fs::copy(cluster.home().join("admin").join(name), stolen.join(name)).unwrap();
    }
    let stolen = cluster.root().join("stolen");
    let pepper = Pepper::load(&cluster.home().join("admin/pepper")).unwrap();
    let calls = runtime.block_on(async { Calls::to(&cluster) });
    for token in [secret(&volume), secret(&rotated)] {
        let guesses = guesses(&stolen, &token);
        // The very verifier is among them, as only the pepper tells.
        let (pepper_id, phc) = (pepper.id().to_owned(), String::new());
        let right = |tag: &&[u8; 32]| {
            let verifier = Verifier { tag: **tag, pepper_id: pepper_id.clone(), phc: phc.clone() };
            verifier.tag_matches(&token, &pepper)
        };
        assert!(guesses.iter().any(|tag| right(&tag)), "of {} guesses none", guesses.len());
        for guess in &guesses {
            assert_eq!(verdict(&runtime, &calls, &forged(&token, guess)), Err(Code::TokenUnknown));
        }
        assert_eq!(verdict(&runtime, &calls, &token).as_deref(), Ok(volume.id.as_str()));
    }
    // (The forger's own hand is steady.)
    let mut known = [0_u8; 32];
    known[31] = 61;
    assert!(forged(&secret(&volume), &known).reveal()[28..71].ends_with("00z"));
}

/// Copies a directory with everything in it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&path, &to),
            // A file may vanish while we look.
            false => drop(fs::copy(&path, &to)),
        }
    }
}

/// How often these bytes stand in the files below a directory.
fn count_in(directory: &Path, needle: &[u8]) -> usize {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let in_each = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => count_in(&entry.path(), needle),
        false => {
            let bytes = fs::read(entry.path()).unwrap();
            bytes.windows(needle.len()).filter(|window| *window == needle).count()
        }
    });
    in_each.sum()
}

#[test]
fn a_copy_of_metas_engine_resumes_no_session() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let session = block_on(RawSession::open(&cluster, "work", &token)).unwrap();
    let key = session.reply.session_key.clone().unwrap().value;
    assert_eq!(key.len(), 32);
    let data = cluster.home().join("meta/data");
    let stolen = cluster.root().join("stolen-meta");
    // As it lies there while the session is live, and after a crash.
    for running in [true, false] {
        if !running {
            cluster.kill9_meta();
        }
        fs::remove_dir_all(&stolen)
            .or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            })
            .unwrap();
        copy_all(&data.join("engine"), &stolen);
        assert!(count_in(&stolen, &session.reply.session_id) > 0, "the session is not there");
        assert_eq!(count_in(&stolen, &key), 0);
    }
    // (The count finds a key that is there.)
    fs::write(stolen.join("control"), [b"...", &key[..], b"..."].concat()).unwrap();
    assert_eq!(count_in(&stolen, &key), 1);
    fs::remove_file(stolen.join("control")).unwrap();
    // With the key file beside the engine the session goes on after that.
    cluster.restart_meta();
    block_on(session.connect()).unwrap();
    // On the copy, with keys of its own, it does not: not even for its client.
    cluster.kill9_meta();
    fs::rename(data.join("engine"), data.join("engine.kept")).unwrap();
    fs::rename(data.join("sessionKey"), cluster.root().join("sessionKey.kept")).unwrap();
    copy_all(&stolen, &data.join("engine"));
    cluster.restart_meta();
    let refused = block_on(session.connect()).unwrap_err();
    assert_eq!(refused.code(), Code::SessionUnknown, "{refused:?}");
    let log = fs::read_to_string(cluster.log("meta")).unwrap();
    assert!(log.contains("a session is lost"), "{log}");
    // Everybody else is served there, that client too with its token.
    let again = block_on(RawSession::open(&cluster, "work", &token)).unwrap();
    block_on(again.connect()).unwrap();
    cluster.verify_clean();
    // Where all of it lies as it lay, it has not been lost.
    cluster.kill9_meta();
    fs::remove_dir_all(data.join("engine")).unwrap();
    fs::rename(data.join("engine.kept"), data.join("engine")).unwrap();
    fs::rename(cluster.root().join("sessionKey.kept"), data.join("sessionKey")).unwrap();
    cluster.restart_meta();
    block_on(session.connect()).unwrap();
    // No file of the data directory but these has what a thief would need.
    for name in ["sessionKey", "urlKey", "grantKey", "serverKey"] {
        let mode = fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn an_admin_on_the_loot_does_not_start_and_is_believed_by_nobody() {
    let (cluster, runtime) = (Cluster::start_verbose(), runtime());
    let known = use_everything(&cluster);
    let stolen = steal(&cluster);
    // With what is in the copy nobody mounts, and no meta starts.
    let dir = cluster.new_mount_point();
    let start = ["start", "work", dir.to_str().unwrap()];
    Run::of(&mut as_thief(&cluster, &stolen, "mount.flexfs", &start), COMMAND)
        .fails(3, "CREDS_MISSING");
    let start = ["start", "--foreground", "--bindAddr", "127.0.0.1:1"];
    Run::of(&mut as_thief(&cluster, &stolen, "meta.flexfs", &start), COMMAND)
        .fails(3, "CREDS_MISSING");
    // No admin starts on it without its pepper, and none makes a token there.
    let address = free_address();
    let start = ["start", "--foreground", "--bindAddr", &address];
    for words in [&start[..], &["recover"]] {
        Run::of(&mut as_thief(&cluster, &stolen, "admin.flexfs", words), COMMAND)
            .fails(6, "PEPPER_MISMATCH");
    }
    // With a pepper of its own that one knows no secret better than this one:
    // the verifiers open nothing there either.
    let recover = ["recover", "--newPepper"];
    Run::of(&mut as_thief(&cluster, &stolen, "admin.flexfs", &recover), COMMAND).ok();
    let mut admin = ThiefsAdmin::start(&cluster, &stolen, &address);
    let there = runtime.block_on(async { Calls::elsewhere(&stolen.join("ssl/ca"), &address) });
    for token in &known.all {
        let wrong = Secret::generate_for(token.kind(), token.id()).unwrap();
        assert_eq!(verdict(&runtime, &there, &wrong), Err(Code::TokenUnknown), "{}", token.id());
    }
    // (Here they are good: the claim code too.)
    let here = runtime.block_on(async { Calls::to(&cluster) });
    let code = known.all.iter().find(|token| token.kind() == TokenKind::Claim).unwrap();
    assert_eq!(verdict(&runtime, &here, code), Ok(code.id().to_string()));
    // Whoever has its files can make a system token there, but what that
    // makes is nothing to the real ones.
    admin.stop();
    Run::of(&mut as_thief(&cluster, &stolen, "admin.flexfs", &["recover"]), COMMAND).ok();
    admin = ThiefsAdmin::start(&cluster, &stolen, &address);
    let root = stolen.join("admin/root.token").display().to_string();
    let init = ["init", "creds", "--adminAddr", &address, "--tokenFile", &root];
    Run::of(&mut as_thief(&cluster, &stolen, "configure.flexfs", &init), COMMAND).ok();
    let create = ["create", "volume-token", "--volumeID", "work", "-o", "json"];
    let made =
        Run::of(&mut as_thief(&cluster, &stolen, "configure.flexfs", &create), COMMAND).json();
    let theirs = Secret::parse(made["token"].as_str().unwrap()).unwrap();
    assert_eq!(verdict(&runtime, &there, &theirs).unwrap(), made["id"].as_str().unwrap());
    let root = Secret::parse(fs::read_to_string(&root).unwrap().trim_end()).unwrap();
    for token in [&theirs, &root] {
        assert_eq!(verdict(&runtime, &here, token), Err(Code::TokenUnknown));
    }
    let feed = runtime.block_on(async { Feed::of(&cluster) });
    let refusal = wait_for("meta's verdict", ADMITTED, || {
        let refusal = runtime.block_on(feed.open_session(&theirs, "work")).unwrap_err();
        (refusal.code() != Code::RateLimited).then_some(refusal)
    });
    assert_eq!(refusal.code(), Code::TokenUnknown, "{refusal:?}");
    runtime.block_on(feed.open_session(&secret(&known.volume), "work")).unwrap();
    // A client of the real one sends it no token.
    let (file, creds) = (known.volume.file.display().to_string(), cluster.root().join("tokens/c"));
    let init = ["init", "creds", "work", "--adminAddr", &address, "--tokenFile", &file];
    let creds = ["--credsFile", creds.to_str().unwrap()];
    cluster.run("mount.flexfs", &[&init[..], &creds].concat()).fails(7, "PEER_UNTRUSTED");
    admin.stop();
}

/// `admin.flexfs` on the copy.
struct ThiefsAdmin(Daemon);

impl ThiefsAdmin {
    fn start(cluster: &Cluster, stolen: &Path, address: &str) -> ThiefsAdmin {
        let start = ["start", "--foreground", "--bindAddr", address];
        let mut command = as_thief(cluster, stolen, "admin.flexfs", &start);
        let mut daemon = Daemon::start(&mut command, &cluster.root().join("logs/thief"));
        daemon.wait_ready("the thief's admin", || std::net::TcpStream::connect(address).is_ok());
        ThiefsAdmin(daemon)
    }

    fn stop(self) {
        self.0.terminate();
    }
}
