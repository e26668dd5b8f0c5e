//! The commands of a token's life on real programs: rotate, rotation, disable,
//! enable, update, claims, revocation of many, sessions, report, doctor, and
//! changes that are asked for twice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use flexfs_tests::cluster::{Cluster, Token};
use flexfs_tests::process::Run;
use flexfs_tests::wait::{wait_for, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// For what servers report to each other within seconds.
const REPORTED: Duration = Duration::from_secs(30);

/// The one line of a token, and nothing else.
fn is_token(text: &str, prefix: &str) -> bool {
    text.len() == 78 && text.starts_with(prefix) && text.ends_with('\n')
}

/// What `create account-token` makes, as `system` in its own account.
fn account_token(cluster: &Cluster, more: &[&str]) -> Token {
    let create = ["create", "account-token", "--role", "viewer"];
    cluster.keep(&cluster.json(&[&create[..], more].concat()))
}

/// `rotate` of this token by `system`: the token as it is from now on.
fn rotate(cluster: &Cluster, kind: &str, token: &Token, more: &[&str]) -> Token {
    cluster.keep(&cluster.json(&[&["rotate", kind, &token.id][..], more].concat()))
}

fn creds(cluster: &Cluster) -> PathBuf {
    cluster.home().join("configure/creds")
}

/// `whoami` with a token.
fn whoami(cluster: &Cluster, token: &Token) -> Run {
    cluster.configure_as(token, &["whoami", "-o", "json"])
}

/// Mounts that live from a secret, on whatever host.
fn sessions_of(secret: &Value) -> u64 {
    let hosts = secret["hosts"].as_array().unwrap();
    hosts.iter().map(|host| host["sessions"].as_u64().unwrap()).sum()
}

fn check<'a>(doctor: &'a Value, name: &str) -> &'a Value {
    let items = doctor["items"].as_array().unwrap();
    items.iter().find(|item| item["check"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_rotation_overlaps_and_ends_when_nobody_needs_the_old_secret() {
    let cluster = Cluster::start();
    let old = account_token(&cluster, &[]);
    let run = cluster.configure(&["rotate", "account-token", &old.id[..13], "--overlap", "1h"]);
    assert!(is_token(run.ok(), "flxa_"), "{}", run.stdout);
    assert!(run.stderr.contains("earlier secrets are accepted until"), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("rotation finish {}", old.id)), "{}", run.stderr);
    cluster.secrets().add(run.stdout.trim_end());
    let new = Token { id: old.id.clone(), file: cluster.token_file(run.stdout.trim_end()) };
    for token in [&old, &new] {
        assert_eq!(whoami(&cluster, token).json()["tokenID"], old.id.as_str());
    }
    // Whoever uses the old one is seen, and keeps it from being ended.
    let status = || cluster.json(&["rotation", "status", &old.id]);
    let seen = wait_for("a use of the old secret", REPORTED, || {
        let status = status();
        (status["secrets"][0]["hosts"].as_array()?.len() == 1).then_some(status)
    });
    assert_eq!(seen["secrets"].as_array().unwrap().len(), 2);
    assert_eq!(seen["secrets"][0]["last4"], old.text()[73..]);
    assert_eq!(seen["secrets"][1]["last4"], new.text()[73..]);
    assert!(seen["secrets"][0]["expiresAt"].is_string());
    let table = cluster.configure(&["rotation", "status", &old.id[..13]]);
    assert!(table.ok().contains("LAST4") && table.stderr.contains("used by"), "{}", table.stderr);
    let refusal = cluster.configure(&["rotation", "finish", &old.id]);
    let host = &seen["secrets"][0]["hosts"][0];
    let name = host["hostName"].as_str().or(host["address"].as_str()).unwrap();
    assert!(refusal.fails(6, "ROTATION_IN_USE").contains(name), "{}", refusal.stderr);
    let done = cluster.json(&["rotation", "finish", &old.id, "--force", "--wait"]);
    assert_eq!(done["id"], old.id.as_str());
    whoami(&cluster, &old).fails(3, "TOKEN_ROTATED");
    whoami(&cluster, &new).ok();
    cluster.configure(&["rotation", "status", "00000000"]).fails(5, "TOKEN_NOT_FOUND");
}

#[test]
fn an_emergency_cuts_the_mounts_of_earlier_secrets() {
    let cluster = Cluster::start();
    let old = cluster.volume("work");
    let mount = cluster.mount("work", &old);
    fs::write(mount.path("f"), b"x").unwrap();
    let sessions = || cluster.json(&["list", "sessions", "--volumeID", "work"]);
    let session = wait_for("the session to be listed", REPORTED, || {
        sessions()["items"].as_array()?.first().cloned()
    });
    assert_eq!(session["tokenID"], old.id.as_str());
    assert_eq!(session["volumeName"], "work");
    assert_eq!(session["dir"], mount.dir().display().to_string().as_str());
    let run = cluster.json(&["rotate", "volume-token", &old.id, "--emergency", "--wait"]);
    let new = cluster.keep(&run);
    assert_eq!((&run["id"], &run["sessionsCut"]), (&old.id.as_str().into(), &1.into()), "{run}");
    assert!(run["metas"].as_array().unwrap().iter().all(|meta| meta["acknowledged"] == true));
    assert!(fs::read(mount.path("f")).is_err());
    wait_until("the session to be gone", REPORTED, || {
        sessions()["items"].as_array().is_some_and(Vec::is_empty)
    });
    let (init, _) = cluster.init_mount("work", &old);
    init.fails(3, "TOKEN_ROTATED");
    drop(mount);
    let mount = cluster.mount("work", &new);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
}

#[test]
fn the_token_in_use_is_rotated_where_it_is_kept() {
    let cluster = Cluster::start();
    let id = cluster.json(&["whoami"])["tokenID"].as_str().unwrap().to_owned();
    let before = fs::read_to_string(creds(&cluster)).unwrap();
    let run = cluster.configure(&["rotate", "account-token", &id]);
    assert!(is_token(run.ok(), "flxa_"));
    let text = run.stdout.trim_end();
    cluster.secrets().add(text);
    assert!(run.stderr.contains("configure/creds has the new token"), "{}", run.stderr);
    let after = fs::read_to_string(creds(&cluster)).unwrap();
    assert!(after.contains(text) && after != before);
    assert_eq!(after.lines().count(), before.lines().count());
    let left = fs::read_dir(cluster.home().join("configure")).unwrap();
    assert_eq!(left.count(), 1, "only the credentials are left");
    assert_eq!(cluster.json(&["whoami"])["tokenID"], id.as_str());
    // From elsewhere it is only printed.
    let new = Token { id: id.clone(), file: cluster.token_file(text) };
    let run = cluster.configure_as(&new, &["rotate", "account-token", &id, "--emergency"]);
    assert!(is_token(run.ok(), "flxa_"));
    assert!(run.stderr.contains("FLEXFS_TOKEN"), "{}", run.stderr);
    let newest = run.stdout.trim_end();
    cluster.secrets().add(newest);
    assert_eq!(fs::read_to_string(creds(&cluster)).unwrap(), after);
    cluster.configure(&["whoami"]).fails(3, "TOKEN_ROTATED");
    let newest = Token { id, file: cluster.token_file(newest) };
    whoami(&cluster, &newest).ok();
}

#[test]
fn an_interrupted_rotation_is_completed_by_the_next_command() {
    let cluster = Cluster::start();
    let who = cluster.json(&["whoami"]);
    let id = who["tokenID"].as_str().unwrap();
    let before = fs::read_to_string(creds(&cluster)).unwrap();
    // As a run leaves it that was killed after admin had taken the secret.
    let run = cluster.configure(&["rotate", "account-token", id]);
    let new = run.ok().to_owned();
    cluster.secrets().add(new.trim_end());
    flexfs_common::home::write_file(&creds(&cluster), before.as_bytes()).unwrap();
    let pending = cluster.home().join(format!("configure/.{id}.pending"));
    flexfs_common::home::write_file(&pending, new.as_bytes()).unwrap();
    let next = cluster.configure(&["whoami", "-o", "id"]);
    assert_eq!(next.ok().trim_end(), id);
    assert!(next.stderr.contains("completed"), "{}", next.stderr);
    assert!(!pending.exists());
    assert!(fs::read_to_string(creds(&cluster)).unwrap().contains(new.trim_end()));
    // And one that never reached admin is forgotten.
    let after = fs::read_to_string(creds(&cluster)).unwrap();
    let unknown = flexfs_auth::token::Token::generate_for(
        flexfs_auth::token::TokenKind::Account,
        id.parse().unwrap(),
    )
    .unwrap();
    flexfs_common::home::write_file(&pending, unknown.reveal().as_bytes()).unwrap();
    let next = cluster.configure(&["whoami"]);
    assert!(next.ok().contains(id) && next.stderr.contains("may still take place"));
    assert!(pending.exists(), "admin may be about to take it");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(&pending).unwrap().set_modified(long_ago).unwrap();
    cluster.configure(&["whoami"]).ok();
    assert!(!pending.exists());
    assert_eq!(fs::read_to_string(creds(&cluster)).unwrap(), after);
}

#[test]
fn what_is_disabled_is_refused_until_it_is_enabled() {
    let cluster = Cluster::start();
    let token = account_token(&cluster, &[]);
    let id = token.id.as_str();
    cluster.configure(&["disable", "account-token", id, "--reason", "x", "--wait"]).ok();
    whoami(&cluster, &token).fails(3, "TOKEN_DISABLED");
    assert_eq!(cluster.json(&["show", "account-token", id])["state"], "disabled");
    cluster.configure(&["enable", "account-token", id]).ok();
    whoami(&cluster, &token).ok();
    let made = cluster.json(&["create", "account", "--name", "team"]);
    let owner = cluster.keep(&made["accountToken"]);
    let done = cluster.configure(&["disable", "account", "team", "--wait"]);
    assert!(done.ok().contains("suspended"), "{}", done.stdout);
    whoami(&cluster, &owner).fails(4, "ACCOUNT_SUSPENDED");
    assert_eq!(cluster.json(&["show", "account", "team"])["state"], "suspended");
    cluster.configure(&["enable", "account", "team"]).ok();
    whoami(&cluster, &owner).ok();
    // A revoked token stays revoked.
    cluster.configure(&["revoke", "account-token", id]).ok();
    cluster.configure(&["enable", "account-token", id]).fails(6, "ALREADY_ENDED");
}

#[test]
fn an_update_changes_what_it_names() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let token = cluster.volume_token("work", &["--flags", "ro", "--expires", "1h", "--notes", "n"]);
    let update =
        |more: &[&str]| cluster.json(&[&["update", "volume-token", &token.id][..], more].concat());
    let updated = update(&["--expires", "never", "--idle", "7d", "--cidr", "127.0.0.0/8"]);
    assert!(updated.get("expiresAt").is_none(), "{updated}");
    assert_eq!(updated["idleSeconds"], 7 * 86_400);
    assert_eq!((&updated["notes"], &updated["flags"][0]), (&"n".into(), &"ro".into()));
    let updated = update(&["--idle", "none", "--cidr", "none", "--flags", "none"]);
    assert!(updated.get("idleSeconds").is_none() && updated.get("cidrs").is_none(), "{updated}");
    assert_eq!(updated["flags"].as_array().unwrap().len(), 0);
    assert_eq!(cluster.json(&["show", "volume-token", &token.id])["notes"], "n");
    let volume = cluster.json(&["update", "volume", "work", "--maxInodes", "77", "--notes", "v"]);
    assert_eq!((&volume["maxInodes"], &volume["notes"]), (&77.into(), &"v".into()));
    cluster.json(&["create", "account", "--name", "team"]);
    let account = cluster.json(&["update", "account", "team", "--maxTokenAge", "90d"]);
    assert_eq!(account["maxTokenAgeSeconds"], 90 * 86_400);
    assert_eq!(account["name"], "team");
    cluster.configure(&["update", "volume-token", &token.id]).fails(2, "ARGUMENT_INVALID");
}

#[test]
fn a_claim_code_is_printed_instead_of_a_token() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let create = ["create", "volume-token", "--volumeID", "work", "--claim", "1h"];
    let run = cluster.configure(&create);
    assert!(is_token(run.ok(), "flxw_"), "{}", run.stdout);
    assert!(!run.stderr.contains("flxv_") && run.stderr.contains("--claimFile"), "{}", run.stderr);
    let made = cluster.json(&create);
    let code = made["claim"].as_str().unwrap();
    cluster.secrets().add(code);
    assert!(code.starts_with("flxw_") && made.get("token").is_none(), "{made}");
    let id = made["id"].as_str().unwrap();
    assert!(cluster.json(&["show", "volume-token", id])["claimExpiresAt"].is_string());
    let file = cluster.token_file(code).display().to_string();
    let creds = cluster.root().join("tokens/claimed").display().to_string();
    let admin = cluster.admin_address().to_owned();
    let init = |creds: &str| {
        let words = ["init", "creds", "work", "--adminAddr", &admin, "--claimFile", &file];
        cluster.run("mount.flexfs", &[&words[..], &["--credsFile", creds]].concat())
    };
    init(&creds).ok();
    assert!(fs::read_to_string(&creds).unwrap().contains("flxv_"));
    init(&format!("{creds}-again")).fails(3, "CLAIM_USED");
    assert!(cluster.json(&["show", "volume-token", id]).get("claimExpiresAt").is_none());
}

#[test]
fn many_are_revoked_only_when_all_is_said() {
    let cluster = Cluster::start();
    let first = cluster.volume("work");
    let second = cluster.volume_token("work", &[]);
    let other = cluster.volume("other");
    let of_work = ["revoke", "--volumeID", "work"];
    let refusal = cluster.configure(&of_work);
    assert!(refusal.fails(2, "ARGUMENT_INVALID").contains("--all"));
    cluster.configure(&["revoke", "--all"]).fails(2, "ARGUMENT_INVALID");
    let dry = cluster.configure(&[&of_work[..], &["--dryRun"]].concat());
    assert!(dry.ok().contains(&first.id) && dry.stdout.contains(&second.id), "{}", dry.stdout);
    assert!(dry.stderr.contains("2 tokens would be revoked"), "{}", dry.stderr);
    let state = |token: &Token| cluster.json(&["show", "volume-token", &token.id])["state"].clone();
    assert_eq!(state(&first), "active");
    let mount = cluster.mount("work", &first);
    let done = cluster.json(&[&of_work[..], &["--all", "--wait", "--reason", "r"]].concat());
    assert_eq!(done["items"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(done["sessionsCut"], 1, "{done}");
    assert!(done["revision"].as_u64().unwrap() > 0 && done["kept"].as_array().unwrap().is_empty());
    assert!(fs::read_dir(mount.dir()).is_err());
    assert_eq!((state(&first), state(&other)), ("revoked".into(), "active".into()));
    // A list is checked before anything is done.
    let list = cluster.root().join("ids");
    let unknown = "0b6f8a52-3f0d-4d0e-9a55-1c2d3e4f5a6b";
    fs::write(&list, format!("{}\nnonsense\n", other.id)).unwrap();
    let words = ["revoke", "--idsFile", list.to_str().unwrap(), "--all"];
    assert!(cluster.configure(&words).fails(2, "ARGUMENT_INVALID").contains("line 2"));
    assert_eq!(state(&other), "active");
    fs::write(&list, format!("# leaked\n{}\n{unknown} # gone\n", other.id)).unwrap();
    let run = cluster.configure(&words);
    assert!(run.ok().contains(&other.id), "{}", run.stdout);
    assert!(run.stderr.contains("1 token revoked"), "{}", run.stderr);
    assert!(run.stderr.contains(unknown), "{}", run.stderr);
    assert_eq!(state(&other), "revoked");
    // The token in use is not among those that are ended.
    let own = cluster.json(&["whoami"]);
    let kept = cluster.json(&["revoke", "--accountID", "system", "--kind", "account", "--all"]);
    let kept = kept["kept"].as_array().unwrap().clone();
    assert!(
        kept.iter().any(|id| id.as_str().unwrap().starts_with(own["tokenID"].as_str().unwrap()))
    );
    cluster.configure(&["whoami"]).ok();
}

#[test]
fn reports_and_the_doctor_find_what_is_to_be_seen_to() {
    let cluster = Cluster::start();
    let healthy = cluster.configure(&["doctor", "-o", "json"]);
    let found = healthy.json();
    assert!(found["items"].as_array().unwrap().iter().all(|item| item["ok"] == true), "{found}");
    cluster.volume("work");
    let soon = cluster.volume_token("work", &["--expires", "3d", "--notes", "=1+1,\"x\""]);
    let run = cluster.configure(&["doctor"]);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("✓ admin") && run.stdout.contains("✗ expiry"), "{}", run.stdout);
    assert!(run.stdout.contains(&soon.id));
    let doctor = || {
        let run = cluster.configure(&["doctor", "-o", "json"]);
        serde_json::from_str::<Value>(&run.stdout).unwrap()
    };
    assert_eq!(check(&doctor(), "expiry")["ok"], false);
    assert_eq!(check(&doctor(), "metas")["ok"], true);
    let listed = cluster.json(&["list", "volume-tokens", "--expiringWithin", "14d"]);
    let ids: Vec<_> = listed["items"].as_array().unwrap().iter().map(|t| &t["id"]).collect();
    assert_eq!(ids, [soon.id.as_str()]);
    // The policy of an account makes what is older overdue.
    let own = cluster.json(&["whoami"])["accountID"].as_str().unwrap().to_owned();
    cluster.configure(&["update", "account", &own, "--maxTokenAge", "1s"]).ok();
    let overdue = || cluster.json(&["list", "volume-tokens", "--overdue"])["items"].clone();
    wait_until("the token to be overdue", REPORTED, || {
        overdue().as_array().unwrap().iter().any(|t| t["id"] == soon.id.as_str())
    });
    assert!(overdue().as_array().unwrap().iter().all(|t| t["overdue"] == true));
    assert_eq!(check(&doctor(), "agePolicy")["ok"], false);
    let csv = cluster.configure(&["report", "tokens", "--csv"]);
    let line = csv.ok().split("\r\n").find(|line| line.contains(&soon.id)).unwrap();
    assert!(line.ends_with("true,\"'=1+1,\"\"x\"\"\""), "{line}");
    let report = cluster.json(&["report", "tokens"]);
    let kinds: Vec<_> = report["items"].as_array().unwrap().iter().map(|t| &t["kind"]).collect();
    for kind in ["account", "volume", "meta"] {
        assert!(kinds.iter().any(|k| *k == kind), "no {kind} token in {report}");
    }
}

#[test]
fn a_change_that_is_asked_for_twice_is_made_once() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let made = cluster.configure(&["generate", "token", "--kind", "volume"]);
    cluster.secrets().add(made.ok().trim_end());
    let file = cluster.token_file(made.stdout.trim_end()).display().to_string();
    let id = "0b6f8a52-3f0d-4d0e-9a55-1c2d3e4f5a6b";
    let create = ["create", "volume-token", "--volumeID", "work", "--tokenFile", &file];
    let first = cluster.json(&[&create[..], &["--requestID", id]].concat());
    let again = cluster.json(&[&create[..], &["--request-id", id]].concat());
    assert_eq!(first, again);
    let list = cluster.json(&["list", "volume-tokens", "--volumeID", "work"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    // Another request under the same id is a mistake.
    let other = ["create", "volume-token", "--volumeID", "work", "--requestID", id];
    cluster.configure(&other).fails(6, "REQUEST_ID_REUSED");
}

#[test]
fn narrowed_flags_and_a_rotation_reach_a_live_mount() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    fs::write(mount.path("f"), b"x").unwrap();
    cluster.configure(&["update", "volume-token", &token.id, "--flags", "ro"]).ok();
    wait_until("the mount to be read-only", REPORTED, || fs::write(mount.path("g"), b"y").is_err());
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    // With an overlap nothing is cut, and the session keeps the old secret.
    let new = rotate(&cluster, "volume-token", &token, &[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    let status = wait_for("the session under the old secret", REPORTED, || {
        let status = cluster.json(&["rotation", "status", &token.id, "--kind", "volume"]);
        (sessions_of(&status["secrets"][0]) == 1).then_some(status)
    });
    assert_eq!(status["secrets"][0]["last4"], token.text()[73..]);
    cluster.configure(&["rotation", "finish", &token.id]).fails(6, "ROTATION_IN_USE");
    // The new text in the credentials file moves the session to it.
    let text = fs::read_to_string(mount.creds()).unwrap().replace(&token.text(), &new.text());
    flexfs_common::home::write_file(mount.creds(), text.as_bytes()).unwrap();
    wait_until("the session under the new secret", REPORTED, || {
        let status = cluster.json(&["rotation", "status", &token.id]);
        let secrets = status["secrets"].as_array().unwrap();
        secrets.iter().map(sessions_of).collect::<Vec<_>>() == [0, 1]
    });
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    cluster.configure(&["rotation", "finish", &token.id, "--force"]).ok();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
}

#[test]
fn servers_that_do_not_answer_are_named_and_the_change_stands() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    cluster.signal_meta(Signal::STOP);
    let rotate = ["rotate", "volume-token", &token.id, "--emergency", "--wait=2s"];
    let run = cluster.configure(&rotate);
    assert!(run.fails(7, "REVOKE_LAGGARDS").contains("the rotation stands"), "{}", run.stderr);
    // The token is handed out all the same.
    assert!(is_token(&run.stdout, "flxv_"), "{}", run.stdout);
    cluster.secrets().add(run.stdout.trim_end());
    let disable = ["disable", "volume-token", &token.id, "--wait=2s", "-o", "json"];
    let run = cluster.configure(&disable);
    run.fails(7, "REVOKE_LAGGARDS");
    let said: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(said["metas"][0]["acknowledged"], false);
    let revoke = ["revoke", "--volumeID", "work", "--all", "--wait=2s"];
    let run = cluster.configure(&revoke);
    run.fails(7, "REVOKE_LAGGARDS");
    assert!(run.stdout.contains(&token.id), "{}", run.stdout);
    cluster.signal_meta(Signal::CONT);
    drop(mount);
    cluster.kill9_meta();
    wait_until("the doctor to miss the server", REPORTED, || {
        let run = cluster.configure(&["doctor", "-o", "json"]);
        let doctor = serde_json::from_str::<Value>(&run.stdout).unwrap();
        run.code == 1 && check(&doctor, "metas")["ok"] == false
    });
}
