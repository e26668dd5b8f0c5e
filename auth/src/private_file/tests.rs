use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::*;

fn private(dir: &Path, name: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, "contents\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn message(path: &Path) -> String {
    let error = read(path, 100).unwrap_err();
    assert_eq!(error.code(), Code::CredsInsecure, "{}", error.message());
    error.message().to_owned()
}

/// Runs what stands between the last backquotes of the message.
fn run_the_command_in(message: &str) {
    let command = message.rsplit('`').nth(1).unwrap();
    let status = Command::new("sh").arg("-c").arg(command).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_private_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o400] {
        let path = private(dir.path(), &format!("f{mode}"), mode);
        assert_eq!(read(&path, 100).unwrap().as_str(), "contents\n");
        assert_eq!(read(&path, 3).unwrap_err().code(), Code::CredsInvalid);
    }
    let missing = read(&dir.path().join("none"), 100).unwrap_err();
    assert_eq!(missing.code(), Code::CredsMissing);
}

#[test]
fn a_file_that_others_can_reach_is_refused_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601, 0o666] {
        let path = private(dir.path(), &format!("it's {mode:o}"), mode);
        let text = message(&path);
        assert!(text.contains("`chmod 600 "), "{text}");
        run_the_command_in(&text);
        assert!(read(&path, 100).is_ok(), "{text}");
    }
    let path = private(dir.path(), "plain", 0o644);
    assert!(message(&path).contains(&format!("`chmod 600 {}`", path.display())));
}

#[test]
fn a_symbolic_link_is_refused_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let target = private(dir.path(), "target", 0o600);
    let link = dir.path().join("link");
    symlink(&target, &link).unwrap();
    let text = message(&link);
    assert!(text.contains("symbolic link"), "{text}");
    run_the_command_in(&text);
    assert_eq!(read(&link, 100).unwrap().as_str(), "contents\n");
    // A dangling one is refused as well, not reported as missing.
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("nowhere"), &dangling).unwrap();
    assert!(message(&dangling).contains("symbolic link"));
}

#[test]
fn a_foreign_owner_is_refused_with_the_command() {
    if !rustix::process::geteuid().is_root() {
        // chown(2) needs it; as another user the kernel refuses the open.
        assert!(message(Path::new("/etc/shadow")).contains("`chown "));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = private(dir.path(), "f", 0o600);
    std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
    let text = message(&path);
    assert!(text.contains(&format!("`chown root {}`", path.display())), "{text}");
    run_the_command_in(&text);
    assert!(read(&path, 100).is_ok());
}

#[test]
fn a_directory_may_be_read_but_not_written_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("d");
    fs::create_dir(&inner).unwrap();
    let path = private(&inner, "f", 0o600);
    let set = |mode| fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
    for harmless in [0o700, 0o755, 0o1777] {
        set(harmless);
        assert!(read(&path, 100).is_ok(), "{harmless:o}");
    }
    for dangerous in [0o777, 0o775, 0o703] {
        set(dangerous);
        let text = message(&path);
        assert!(text.contains(&format!("`chmod 700 {}`", inner.display())), "{text}");
    }
}

#[test]
fn what_is_no_file_neither_hangs_nor_passes() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(dir.path()).contains("not a regular file"));
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg("-m600").arg(&fifo).status().unwrap().success());
    assert!(message(&fifo).contains("not a regular file"));
}
