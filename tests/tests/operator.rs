//! `configure.flexfs` against a real admin.flexfs: what is printed where,
//! which token is used, and what a failed `init creds` leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use flexfs_tests::ports::free_address;
use flexfs_tests::process::{COMMAND, Run, bin_dir, processes_of};
use rustix::process::{Signal, kill_process};

/// An admin of its own, and homes of operators.
struct Office {
    directory: tempfile::TempDir,
    admin: String,
}

impl Office {
    fn open() -> Office {
        let directory = tempfile::Builder::new().prefix("flexfs-test-").tempdir().unwrap();
        let office = Office { directory, admin: free_address() };
        office.sh("home", &format!("admin.flexfs start --bindAddr {}", office.admin)).ok();
        office
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A line of a shell whose `FLEXFS_HOME` is this one.
    fn sh(&self, home: &str, line: &str) -> Run {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-euc", &format!("umask 077; {line}")])
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{path}", bin_dir().display()))
            .env("FLEXFS_HOME", self.path(home))
            .env_remove("FLEXFS_TOKEN")
            .env_remove("FLEXFS_PROFILE");
        Run::of(&mut command, COMMAND)
    }

    /// `configure.flexfs` on admin's own host.
    fn configure(&self, words: &str) -> Run {
        self.sh("home", &format!("configure.flexfs {words}"))
    }

    /// `configure.flexfs` of somebody elsewhere.
    fn elsewhere(&self, words: &str) -> Run {
        self.sh("elsewhere", &format!("configure.flexfs {words}"))
    }

    fn fingerprint(&self) -> String {
        let status = self.sh("home", "admin.flexfs status");
        let text = status.ok();
        let at = text.find("sha256:").expect("a fingerprint in `admin.flexfs status`");
        text[at..at + "sha256:".len() + 64].to_owned()
    }

    /// A token of an account `team`, in a file of this name.
    fn token(&self, file: &str, role: &str) -> String {
        self.configure(&format!(
            "create account-token --accountID team --role {role} > {file}; \
             configure.flexfs inspect token {file} -o id"
        ))
        .ok()
        .trim_end()
        .to_owned()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        for pid in processes_of(&self.path("home")) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The one line of a token, and nothing else.
fn is_token(text: &str, prefix: &str) -> bool {
    text.len() == 78 && text.starts_with(prefix) && text.ends_with('\n')
}

#[test]
fn a_token_is_printed_once_alone_and_never_again() {
    let office = Office::open();
    // On admin's own host nothing has to be set up.
    let account = office.configure("create account --name team");
    assert!(is_token(account.ok(), "flxa_") && account.stderr.contains("team"));
    office.configure("create block-store disk --kind dir --path /srv/blocks").ok();
    let store = office.configure("create meta-store here --address 127.0.0.1:1 -o json").json();
    let meta_secret = store["metaToken"]["token"].as_str().unwrap().to_owned();
    assert!(is_token(&format!("{meta_secret}\n"), "flxm_"));
    let stores = "--metaStoreID here --blockStoreID disk";
    let volume = office.configure(&format!("create volume work {stores}"));
    assert!(is_token(volume.ok(), "flxv_"));
    let made = office.configure(&format!("create volume more {stores} -o json")).json();
    assert_eq!(made["name"], "more");
    assert!(made["volumeToken"]["token"].as_str().unwrap().starts_with("flxv_"));
    let token = office.configure("create volume-token --volume-id work --flags ro -o json").json();
    let keys: Vec<_> = token.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "token"]);
    let id = office.configure("create volume-token --volumeID work -o id").ok().to_owned();
    assert_eq!(id.len(), 37, "{id}");
    let none = office.configure(&format!("create volume bare {stores} --noToken -o json")).json();
    assert!(none.get("volumeToken").is_none());
    // Whatever is listed and shown, in whatever form: no secret.
    for noun in ["account-token", "volume-token", "meta-token"] {
        for form in ["table", "wide", "json", "yaml", "id"] {
            let list = office.configure(&format!("list {noun}s -o {form}")).ok().to_owned();
            let ids = office.configure(&format!("list {noun} -o id")).ok().to_owned();
            let first = ids.lines().next().unwrap();
            let shown = office.configure(&format!("show {noun} {first} -o {form}")).ok().to_owned();
            for text in [list, shown] {
                assert!(text.contains(first), "{text}");
                assert!(!["flxa_", "flxv_", "flxm_"].iter().any(|p| text.contains(p)), "{text}");
            }
        }
    }
    let page = office.configure("list volumes --limit 2 -o json").json();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let next = page["nextPage"].as_str().unwrap();
    let rest = office.configure(&format!("list volumes --limit 2 --page {next} -o json")).json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert!(rest["nextPage"].is_null());
    office
        .sh("home", "configure.flexfs create account --name lost > /dev/full")
        .fails(1, "INTERNAL");
}

#[test]
fn init_creds_writes_only_what_admin_has_confirmed() {
    let office = Office::open();
    office.configure("create account --name team > owner.token").ok();
    let (admin, pin) = (office.admin.clone(), office.fingerprint());
    office.sh("home", "configure.flexfs generate token --kind account > unknown.token").ok();
    office.sh("home", "head -c 60 owner.token > short.token").ok();
    let wrong_pin = format!("sha256:{}", "0".repeat(64));
    let nowhere = free_address();
    for (address, token, more, exit, code) in [
        (&admin, "owner.token", String::new(), 7, "PEER_UNTRUSTED"),
        (&admin, "owner.token", format!("--caFingerprint {wrong_pin}"), 7, "PEER_UNTRUSTED"),
        (&admin, "unknown.token", format!("--caFingerprint {pin}"), 3, "TOKEN_UNKNOWN"),
        (&admin, "short.token", format!("--caFingerprint {pin}"), 3, "TOKEN_MALFORMED"),
        (&admin, "none.token", format!("--caFingerprint {pin}"), 1, "REFERENCE_INVALID"),
        (&nowhere, "owner.token", format!("--caFingerprint {pin}"), 7, "ADMIN_UNREACHABLE"),
        (&admin, "owner.token", "--caFingerprint x".to_owned(), 2, "ARGUMENT_INVALID"),
    ] {
        for profile in ["", "--profile prod"] {
            let line =
                format!("init creds --adminAddr {address} --tokenFile {token} {more} {profile}");
            office.elsewhere(&line).fails(exit, code);
            assert!(!office.path("elsewhere").exists(), "{line} left something behind");
        }
    }
    let init = format!("init creds --admin-addr {admin} --ca-fingerprint {pin}");
    office.elsewhere(&format!("{init} --tokenFile - < owner.token")).ok();
    let creds = office.path("elsewhere/configure/creds");
    assert_eq!(fs::metadata(&creds).unwrap().permissions().mode() & 0o7777, 0o600);
    let before = fs::read(&creds).unwrap();
    let again = format!("{init} --tokenFile owner.token");
    office.elsewhere(&again).fails(6, "CREDS_EXIST");
    assert_eq!(fs::read(&creds).unwrap(), before);
    office.elsewhere(&format!("{again} --force")).ok();
    let who = office.elsewhere("whoami -o json").json();
    assert_eq!((&who["accountName"], &who["role"]), (&"team".into(), &"owner".into()));
    // The pin holds for every later call: another CA in its place is refused.
    let text = fs::read_to_string(&creds).unwrap().replace(&admin, &format!("http://{admin}"));
    fs::write(&creds, text).unwrap();
    office.elsewhere("whoami").fails(7, "ADMIN_UNREACHABLE");
}

#[test]
fn the_sources_of_the_token_in_their_order() {
    let office = Office::open();
    office.configure("create account --name team > owner.token").ok();
    let (admin, pin) = (office.admin.clone(), office.fingerprint());
    let init = format!("init creds --adminAddr {admin} --caFingerprint {pin}");
    let who = |line: &str| office.sh("elsewhere", line).ok().trim_end().to_owned();
    let tokens: Vec<String> = ["flag", "environment", "profile", "file"]
        .iter()
        .map(|name| office.token(name, "viewer"))
        .collect();
    office.elsewhere("whoami").fails(3, "CREDS_MISSING");
    office.elsewhere(&format!("{init} --tokenFile file")).ok();
    assert_eq!(who("configure.flexfs whoami -o json | grep -c team"), "1");
    assert_eq!(who("configure.flexfs whoami -o id"), tokens[3]);
    office.elsewhere(&format!("{init} --tokenFile profile --profile prod")).ok();
    assert_eq!(who("configure.flexfs whoami -o id"), tokens[2]);
    assert_eq!(
        who("configure.flexfs whoami -o id --credsFile elsewhere/configure/creds"),
        tokens[3]
    );
    let environment = "FLEXFS_TOKEN=file:$PWD/environment configure.flexfs whoami -o id";
    assert_eq!(who(environment), tokens[1]);
    assert_eq!(who(&format!("{environment} --tokenFile flag")), tokens[0]);
    // Nothing is skipped in silence.
    office.elsewhere("whoami --profile none").fails(3, "CREDS_MISSING");
    let empty = office.sh("elsewhere", "FLEXFS_TOKEN= configure.flexfs whoami");
    empty.fails(1, "REFERENCE_INVALID");
    let unset = office.sh("elsewhere", "FLEXFS_TOKEN=env:NOT_SET configure.flexfs whoami");
    assert!(unset.fails(1, "REFERENCE_INVALID").contains("env:NOT_SET"));
    // `config show` names the source and no secret.
    let shown = office.elsewhere("config show").ok().to_owned();
    assert!(shown.contains("profile prod") && shown.contains(&tokens[2]), "{shown}");
    let secret = fs::read_to_string(office.path("profile")).unwrap();
    assert!(!shown.contains(secret.trim_end()) && shown.contains(&pin));
}

#[test]
fn a_revoked_token_is_refused_at_once() {
    let office = Office::open();
    office.configure("create account --name team > owner.token").ok();
    let id = office.token("viewer", "viewer");
    office.configure("whoami --tokenFile viewer").ok();
    // Of another account, so `system` has to name it; a prefix is enough.
    office.configure(&format!("revoke account-token {id}")).fails(5, "TOKEN_NOT_FOUND");
    let revoke = format!("revoke account-token {} --accountID team --wait", &id[..13]);
    assert_eq!(office.configure(&revoke).ok(), "0 mounts on 0 servers disconnected\n");
    office.configure("whoami --tokenFile viewer").fails(3, "TOKEN_REVOKED");
    let shown = office.configure(&format!("show account-token {id} --accountID team -o json"));
    assert_eq!(shown.json()["state"], "revoked");
    let json = office.configure(&format!("{revoke}=1s -o json")).json();
    assert_eq!(json["id"], id.as_str());
    assert!(json["revision"].is_u64() && json["sessionsCut"] == 0 && json["metas"].is_array());
    office.configure(&format!("delete account-token {id} --accountID team")).ok();
    office
        .configure(&format!("show account-token {id} --accountID team"))
        .fails(5, "TOKEN_NOT_FOUND");
    // With -o json complaints are JSON, on stderr alone.
    let run = office.configure("show account-token none -o json");
    let said: serde_json::Value = serde_json::from_str(run.stderr.trim()).unwrap();
    assert_eq!(said["code"], "TOKEN_NOT_FOUND");
    assert!(run.stdout.is_empty());
}
