//! Credentials files and kinds of tokens: what is refused, where, and how to
//! mend it; bad input leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use flexfs_tests::cluster::chmod;
use flexfs_tests::process::COMMAND;
use flexfs_tests::{Cluster, Run, Token};

/// Each program that has a credentials file: the file, and a command that
/// reads it.
fn users(cluster: &Cluster, mount_creds: &Path) -> Vec<(std::path::PathBuf, Box<dyn Fn() -> Run>)> {
    let program = |name: &str, arguments: Vec<String>| -> Box<dyn Fn() -> Run> {
        let (home, root) = (cluster.home().to_owned(), cluster.root().to_owned());
        let path = flexfs_tests::process::bin_dir().join(name);
        Box::new(move || {
            let mut command = std::process::Command::new(&path);
            command.env("FLEXFS_HOME", &home).env_remove("FLEXFS_TOKEN").current_dir(&root);
            Run::of(command.args(&arguments), COMMAND)
        })
    };
    let words = |line: &[&str]| line.iter().map(ToString::to_string).collect::<Vec<_>>();
    let dir = cluster.new_mount_point().display().to_string();
    let creds = mount_creds.display().to_string();
    vec![
        (
            cluster.home().join("configure/creds"),
            program("configure.flexfs", words(&["list", "volumes"])),
        ),
        (
            cluster.home().join("meta/creds"),
            program("meta.flexfs", words(&["start", "--foreground", "--bindAddr", "127.0.0.1:1"])),
        ),
        (
            mount_creds.to_owned(),
            program("mount.flexfs", words(&["start", "work", &dir, "--credsFile", &creds])),
        ),
    ]
}

#[test]
fn a_file_that_others_can_use_is_refused_with_the_command_that_mends_it() {
    let mut cluster = Cluster::start();
    let token = cluster.volume("work");
    let (init, creds) = cluster.init_mount("work", &token);
    init.ok();
    cluster.stop_meta();
    for (file, run) in users(&cluster, &creds) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        for mode in [0o644, 0o640, 0o604, 0o660, 0o620] {
            chmod(&file, mode);
            let complaint = run().fails(3, "CREDS_INSECURE").to_owned();
            let mend = format!("chmod 600 {}", file.display());
            assert!(complaint.contains(&mend), "{complaint}");
        }
        chmod(&file, 0o600);
        // Behind a link.
        let moved = file.with_extension("moved");
        fs::rename(&file, &moved).unwrap();
        symlink(&moved, &file).unwrap();
        let complaint = run().fails(3, "CREDS_INSECURE").to_owned();
        assert!(complaint.contains("symbolic link"), "{complaint}");
        fs::remove_file(&file).unwrap();
        fs::rename(&moved, &file).unwrap();
        // Somebody else's (only root can give a file away).
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(65_534), Some(65_534)).unwrap();
            let complaint = run().fails(3, "CREDS_INSECURE").to_owned();
            assert!(complaint.contains("chown"), "{complaint}");
            chown(&file, Some(0), Some(0)).unwrap();
        }
        // Not there, and not what it should be.
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        if !file.ends_with("configure/creds") {
            // (configure.flexfs then takes the root.token of the same home.)
            run().fails(3, "CREDS_MISSING");
        }
        fs::write(&file, "token = [").unwrap();
        chmod(&file, 0o600);
        run().fails(3, "CREDS_INVALID");
        fs::write(&file, bytes).unwrap();
    }
    // Mended, it works.
    cluster.restart_meta();
    let dir = cluster.new_mount_point();
    cluster.start_mount("work", &dir, &creds, &[]).ok();
    cluster.mounted(dir, creds).stop();
}

#[test]
fn files_and_directories_are_private_from_the_start() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let admin = cluster.admin_address().to_owned();
    let file = token.file.display().to_string();
    cluster
        .run(
            "mount.flexfs",
            &["init", "creds", "work", "--adminAddr", &admin, "--tokenFile", &file],
        )
        .ok();
    for (name, mode) in [
        ("admin", 0o700),
        ("admin/root.token", 0o600),
        ("admin/pepper", 0o600),
        ("admin/flexfs.db", 0o600),
        ("ssl", 0o700),
        ("ssl/caKey", 0o600),
        ("meta", 0o700),
        ("meta/creds", 0o600),
        ("meta/data", 0o700),
        ("mount/creds/work", 0o600),
        ("mount/creds", 0o700),
        ("configure/creds", 0o600),
    ] {
        let metadata =
            fs::metadata(cluster.home().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
    }
    // Not replaced without --force.
    let init = ["init", "creds", "work", "--adminAddr", &admin, "--tokenFile", &file];
    cluster.run("mount.flexfs", &init).fails(6, "CREDS_EXIST");
    cluster.run("mount.flexfs", &[&init[..], &["--force"]].concat()).ok();
}

#[test]
fn secrets_that_wait_are_as_private_as_credentials() {
    let cluster = Cluster::start();
    cluster.volume("work");
    // A rotation that was killed after admin had taken the secret: its secret
    // waits beside the credentials.
    let id = cluster.json(&["whoami"])["tokenID"].as_str().unwrap().to_owned();
    let creds = cluster.home().join("configure/creds");
    let before = fs::read(&creds).unwrap();
    let rotation = cluster.configure(&["rotate", "account-token", &id]);
    let waiting = rotation.ok().to_owned();
    cluster.secrets().add(waiting.trim_end());
    flexfs_common::home::write_file(&creds, &before).unwrap();
    let pending = cluster.home().join(format!("configure/.{id}.pending"));
    flexfs_common::home::write_file(&pending, waiting.as_bytes()).unwrap();
    // One that others can read, or could have put there, is not taken.
    let target = cluster.root().join("planted");
    for refused in ["mode", "link"] {
        if refused == "mode" {
            chmod(&pending, 0o644);
        } else {
            fs::rename(&pending, &target).unwrap();
            chmod(&target, 0o600);
            symlink(&target, &pending).unwrap();
        }
        let run = cluster.configure(&["whoami"]);
        assert!(!run.stderr.contains("completed"), "{refused}: {}", run.stderr);
        assert_eq!(fs::read(&creds).unwrap(), before, "{refused}");
    }
    fs::remove_file(&pending).unwrap();
    fs::rename(&target, &pending).unwrap();
    let run = cluster.configure(&["whoami"]);
    assert!(run.stderr.contains("completed"), "the control: {}", run.stderr);
    assert_ne!(fs::read(&creds).unwrap(), before);
    assert!(!pending.exists());
    assert_eq!(fs::metadata(&creds).unwrap().permissions().mode() & 0o7777, 0o600);
    // What a claim is traded for is private as well, and leaves nothing else.
    let create = ["create", "volume-token", "--volumeID", "work", "--claim", "1h"];
    let made = cluster.json(&create);
    let code = made["claim"].as_str().unwrap();
    cluster.secrets().add(code);
    let file = cluster.token_file(code).display().to_string();
    let init = ["init", "creds", "work", "--adminAddr", cluster.admin_address()];
    cluster.run("mount.flexfs", &[&init[..], &["--claimFile", &file]].concat()).ok();
    let directory = cluster.home().join("mount/creds");
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [directory.join("work")]);
    assert_eq!(fs::metadata(&left[0]).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
}

///  of each program with this token.
fn inits(cluster: &Cluster, token: &Token, home: &Path) -> Vec<(&'static str, Run)> {
    let file = token.file.display().to_string();
    let run = |program: &str, words: &[&str]| {
        let mut command = cluster.program(program);
        // A home of its own, which trusts the same CA.
        fs::create_dir_all(home.join("ssl")).unwrap();
        fs::copy(cluster.home().join("ssl/ca"), home.join("ssl/ca")).unwrap();
        command.env("FLEXFS_HOME", home).args(words);
        command.args(["--adminAddr", cluster.admin_address(), "--tokenFile", &file]);
        Run::of(&mut command, COMMAND)
    };
    vec![
        ("account", run("configure.flexfs", &["init", "creds"])),
        ("volume", run("mount.flexfs", &["init", "creds", "work"])),
        ("meta", run("meta.flexfs", &["init", "creds"])),
    ]
}

#[test]
fn the_wrong_kind_of_token_is_refused_by_kind_everywhere() {
    let cluster = Cluster::start();
    let volume = cluster.volume("work");
    let made = cluster.json(&["create", "account", "--name", "other"]);
    let account = cluster.keep(&made["accountToken"]);
    let address = flexfs_tests::ports::free_address();
    let made = cluster.json(&["create", "meta-store", "there", "--address", &address]);
    let meta = cluster.keep(&made["metaToken"]);
    for (kind, token) in [("account", &account), ("volume", &volume), ("meta", &meta)] {
        let home = cluster.root().join(format!("home-{kind}"));
        for (wanted, run) in inits(&cluster, token, &home) {
            if wanted == kind {
                run.ok();
            } else {
                run.fails(3, "TOKEN_WRONG_KIND");
            }
        }
        // Only the right one left a file.
        let files = ["configure/creds", "mount/creds/work", "meta/creds"];
        let left = files.iter().filter(|file| home.join(file).exists()).count();
        assert_eq!(left, 1, "{kind}");
    }
    // Also when it comes from the environment.
    cluster.configure_as(&volume, &["list", "volumes"]).fails(3, "TOKEN_WRONG_KIND");
    cluster.configure_as(&meta, &["whoami"]).fails(3, "TOKEN_WRONG_KIND");
}

#[test]
fn one_changed_character_is_refused_offline() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let text = token.text();
    // Nobody listens there: whatever asks a server says so.
    let nobody = "127.0.0.1:9";
    for at in [0, 5, 6, 27, 30, 50, 70, 71, 76] {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = cluster.token_file(&String::from_utf8(bytes).unwrap()).display().to_string();
        let init = ["init", "creds", "work", "--adminAddr", nobody, "--tokenFile", &changed];
        cluster.run("mount.flexfs", &init).fails(3, "TOKEN_MALFORMED");
        let mut inspect = cluster.program("configure.flexfs");
        let input = fs::read(&changed).unwrap();
        Run::with_input(inspect.args(["inspect", "token", "-"]), &input, COMMAND)
            .fails(3, "TOKEN_MALFORMED");
    }
    // The whole one passes that check.
    let file = token.file.display().to_string();
    let init = ["init", "creds", "work", "--adminAddr", nobody, "--tokenFile", &file];
    cluster.run("mount.flexfs", &init).fails(7, "ADMIN_UNREACHABLE");
    assert!(!cluster.home().join("mount/creds/work").exists());
    let mut inspect = cluster.program("configure.flexfs");
    let run = Run::with_input(
        inspect.args(["inspect", "token", "-", "-o", "json"]),
        text.as_bytes(),
        COMMAND,
    );
    let said = run.json();
    assert_eq!((said["id"].as_str(), said["kind"].as_str()), (Some(&*token.id), Some("volume")));
    assert!(!run.stdout.contains(&text[28..]), "inspect shows the secret");
}

#[test]
fn an_unknown_token_and_a_wrong_secret_look_the_same() {
    let cluster = Cluster::start();
    let known = cluster.volume("work");
    let made = cluster.configure(&["generate", "token", "--kind", "volume"]);
    let unknown = made.ok().trim_end().to_owned();
    cluster.secrets().add(&unknown);
    // The known id with the secret of another: its checksum is made anew.
    let spliced = splice(&known.text(), &unknown);
    let mut answers = Vec::new();
    for text in [&unknown, &spliced] {
        let id = cluster.token_file(text);
        let token = Token { id: String::new(), file: id };
        let (run, creds) = cluster.init_mount("work", &token);
        answers.push(run.fails(3, "TOKEN_UNKNOWN").to_owned());
        assert!(!creds.exists(), "a failed init left a file");
    }
    assert_eq!(answers[0], answers[1]);
}

/// The id of one token and the secret of another, with the right checksum.
fn splice(one: &str, other: &str) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = format!("{}{}", &one[..28], &other[28..71]);
    let mut crc = !0_u32;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    format!("{body}{}", std::str::from_utf8(&digits).unwrap())
}

#[test]
fn a_token_known_beforehand_can_be_imported_once() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let made = cluster.configure(&["generate", "token", "--kind", "volume"]);
    let text = made.ok().trim_end().to_owned();
    cluster.secrets().add(&text);
    let file = cluster.token_file(&text);
    let path = file.display().to_string();
    let create = ["create", "volume-token", "--volumeID", "work", "--tokenFile", &path];
    cluster.configure(&create).ok();
    // Once more is the same request, perhaps after a lost reply; another is not.
    cluster.configure(&create).ok();
    cluster.configure(&[&create[..], &["--flags", "ro"]].concat()).fails(6, "TOKEN_EXISTS");
    let mount = cluster.mount("work", &Token { id: String::new(), file });
    fs::write(mount.path("f"), "x").unwrap();
    let status = mount.status();
    let id = status["tokenID"].as_str().unwrap().to_owned();
    mount.stop();
    cluster.configure(&["revoke", "volume-token", &id]).ok();
    // Never again under this id.
    cluster.configure(&create).fails(6, "TOKEN_EXISTS");
}

#[test]
fn bad_input_is_a_typed_error_and_leaves_nothing() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let volumes = cluster.json(&["list", "volumes"]);
    let tokens = cluster.json(&["list", "volume-tokens"]);
    let stores = ["--metaStoreID", "here", "--blockStoreID", "disk"];
    for (exit, code, words) in [
        (6, "VOLUME_EXISTS", [&["create", "volume", "work"][..], &stores].concat()),
        (2, "NAME_INVALID", [&["create", "volume", "Work"][..], &stores].concat()),
        (2, "NAME_INVALID", [&["create", "volume", "start"][..], &stores].concat()),
        (
            5,
            "META_STORE_NOT_FOUND",
            vec!["create", "volume", "new", "--metaStoreID", "none", "--blockStoreID", "disk"],
        ),
        (
            5,
            "BLOCK_STORE_NOT_FOUND",
            vec!["create", "volume", "new", "--metaStoreID", "here", "--blockStoreID", "none"],
        ),
        (5, "VOLUME_NOT_FOUND", vec!["create", "volume-token", "--volumeID", "none"]),
        (
            2,
            "PATH_INVALID",
            vec!["create", "volume-token", "--volumeID", "work", "--mountPath", "/a/../b"],
        ),
        (
            2,
            "PATH_INVALID",
            vec!["create", "volume-token", "--volumeID", "work", "--mountPath", "relative"],
        ),
        (
            2,
            "ARGUMENT_INVALID",
            vec!["create", "volume-token", "--volumeID", "work", "--flags", "ro,nonsense"],
        ),
        (
            2,
            "ARGUMENT_INVALID",
            vec!["create", "volume-token", "--volumeID", "work", "--expires", "yesterday"],
        ),
        (5, "VOLUME_NOT_FOUND", vec!["show", "volume", "none"]),
        (6, "META_STORE_IN_USE", vec!["delete", "meta-store", "here"]),
        (6, "BLOCK_STORE_IN_USE", vec!["delete", "block-store", "disk"]),
        (2, "ARGUMENT_INVALID", vec!["frobnicate"]),
        (2, "ARGUMENT_INVALID", vec!["create"]),
    ] {
        let complaint = cluster.configure(&words).fails(exit, code).to_owned();
        assert!(complaint.contains("hint: "), "{complaint}");
    }
    assert_eq!(cluster.json(&["list", "volumes"]), volumes);
    assert_eq!(cluster.json(&["list", "volume-tokens"]), tokens);
    // With -o json the complaint is JSON, on stderr.
    let run = cluster.configure(&["show", "volume", "none", "-o", "json"]);
    let said: serde_json::Value = serde_json::from_str(run.stderr.trim()).unwrap();
    assert_eq!(said["code"], "VOLUME_NOT_FOUND");
    assert!(said["hint"].is_string() && said["message"].is_string() && run.stdout.is_empty());
}

#[test]
fn one_account_neither_sees_nor_guesses_the_things_of_another() {
    let cluster = Cluster::start();
    let made = cluster.json(&["create", "account", "--name", "one"]);
    let one = cluster.keep(&made["accountToken"]);
    let made = cluster.json(&["create", "account", "--name", "two"]);
    let two = cluster.keep(&made["accountToken"]);
    let stores = ["--metaStoreID", "here", "--blockStoreID", "disk"];
    let create = [&["create", "volume", "plans"][..], &stores, &["-o", "json"]].concat();
    let made = cluster.configure_as(&one, &create).json();
    let token = cluster.keep(&made["volumeToken"]);
    let id = made["id"].as_str().unwrap();
    for name in ["plans", id] {
        cluster.configure_as(&two, &["show", "volume", name]).fails(5, "VOLUME_NOT_FOUND");
        cluster.configure_as(&two, &["delete", "volume", name]).fails(5, "VOLUME_NOT_FOUND");
        cluster
            .configure_as(&two, &["create", "volume-token", "--volumeID", name])
            .fails(5, "VOLUME_NOT_FOUND");
    }
    let theirs = cluster.configure_as(&two, &["show", "volume-token", &token.id]);
    theirs.fails(5, "TOKEN_NOT_FOUND");
    let nothing = cluster.configure_as(&two, &["list", "volumes", "-o", "json"]).json();
    assert_eq!(nothing["items"].as_array().unwrap().len(), 0);
    // The same name is free in each account; stores are the installation's.
    cluster.configure_as(&two, &create).ok();
    let refused = cluster.configure_as(&two, &["create", "account", "--name", "three"]);
    refused.fails(4, "ROLE_FORBIDDEN");
}
