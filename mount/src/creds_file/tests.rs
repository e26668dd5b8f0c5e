use std::fs;
use std::os::unix::fs::PermissionsExt;

use flexfs_common::Code;
use zeroize::Zeroizing;

use super::*;

fn creds(token: &str) -> Credentials {
    Credentials {
        admin_addr: "admin.example:7400".into(),
        token: Zeroizing::new(token.to_owned()),
        ..Credentials::default()
    }
}

fn token() -> Token {
    Token::generate(TokenKind::Volume).unwrap()
}

#[track_caller]
fn read(file: &mut CredsFile, expected: &Token) {
    match file.look() {
        Look::Read(found) => assert_eq!(Fingerprint::of(&found), Fingerprint::of(expected)),
        other => panic!("{other:?}"),
    }
    unchanged(file);
}

#[track_caller]
fn unchanged(file: &mut CredsFile) {
    assert!(matches!(file.look(), Look::Unchanged));
}

#[track_caller]
fn unusable(file: &mut CredsFile, code: Code) -> String {
    let Look::Unusable(error) = file.look() else { panic!("it can be used") };
    assert_eq!(error.code(), code);
    unchanged(file);
    error.with_causes()
}

#[test]
fn a_file_is_read_once_per_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let mut file = CredsFile::new(path.clone());
    unusable(&mut file, Code::CredsMissing);
    let (one, two) = (token(), token());
    creds(one.reveal()).write(&path, false).unwrap();
    read(&mut file, &one);
    // Another file under the name: same length, whatever its times are.
    creds(two.reveal()).write(&path, true).unwrap();
    read(&mut file, &two);
    // The same contents anew are looked at, and no more.
    creds(two.reveal()).write(&path, true).unwrap();
    read(&mut file, &two);
    fs::remove_file(&path).unwrap();
    unusable(&mut file, Code::CredsMissing);
    assert_ne!(Fingerprint::of(&one), Fingerprint::of(&two));
}

#[test]
fn what_cannot_be_used_is_told_once_and_without_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let mut file = CredsFile::new(path.clone());
    let good = token();
    creds(good.reveal()).write(&path, false).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(unusable(&mut file, Code::CredsInsecure).contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    read(&mut file, &good);
    let text = format!("adminAddr = \"a:1\"\ntoken = [\"{}\"]\n", good.reveal());
    flexfs_common::home::write_file(&path, text.as_bytes()).unwrap();
    assert!(!unusable(&mut file, Code::CredsInvalid).contains(good.reveal()));
    creds("flxv_nonsense").write(&path, true).unwrap();
    unusable(&mut file, Code::TokenMalformed);
    let account = Token::generate(TokenKind::Account).unwrap();
    creds(account.reveal()).write(&path, true).unwrap();
    unusable(&mut file, Code::TokenWrongKind);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    unusable(&mut file, Code::CredsInsecure);
}

#[test]
fn a_file_that_the_token_lies_in_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let (path, secret) = (dir.path().join("creds"), dir.path().join("token"));
    let (one, two) = (token(), token());
    creds(&format!("file:{}", secret.display())).write(&path, false).unwrap();
    let mut file = CredsFile::new(path);
    unusable(&mut file, Code::ReferenceInvalid);
    fs::write(&secret, one.reveal()).unwrap();
    read(&mut file, &one);
    // As Kubernetes does: a symbolic link that leads elsewhere.
    let next = dir.path().join("next");
    fs::write(&next, two.reveal()).unwrap();
    fs::remove_file(&secret).unwrap();
    std::os::unix::fs::symlink(&next, &secret).unwrap();
    read(&mut file, &two);
}
