use std::fs;
use std::os::unix::fs::PermissionsExt;

use flexfs_common::home::Home;

use super::*;

fn sample() -> (Credentials, Token) {
    let token = Token::generate(TokenKind::Volume).unwrap();
    let credentials = Credentials {
        admin_addr: "admin.example:7400".into(),
        token: Zeroizing::new(token.reveal().to_owned()),
        secret: Some(Zeroizing::new("s p \"e\" c\n".into())),
        meta_addr: Some("10.0.0.1:7410".into()),
        meta_id: Some("0b6f8a52-56b5-4d0e-9d0f-0f4c8ac0f3a1".into()),
        ca_cert: None,
        block_creds: BTreeMap::from([("s3main".into(), "file:/etc/s3".into())]),
    };
    (credentials, token)
}

fn write_raw(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mount/creds/v1");
    let (credentials, token) = sample();
    credentials.write(&path, false).unwrap();
    assert!(Credentials::read(&path).unwrap() == credentials);
    assert_eq!(credentials.token(TokenKind::Volume).unwrap().id(), token.id());
    let wrong = credentials.token(TokenKind::Meta).unwrap_err();
    assert_eq!(wrong.code(), Code::TokenWrongKind);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&dir.path().join("mount")), 0o700);
    let text = fs::read_to_string(&path).unwrap();
    for key in ["adminAddr", "token", "secret", "metaAddr", "metaID", "[blockCreds]"] {
        assert!(text.contains(key), "{key} in the file");
    }
    assert!(!format!("{credentials:?}").contains(token.reveal()));
}

#[test]
fn an_existing_file_is_kept_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let (mut credentials, _) = sample();
    credentials.write(&path, false).unwrap();
    credentials.admin_addr = "other:1".into();
    assert_eq!(credentials.write(&path, false).unwrap_err().code(), Code::CredsExist);
    assert_eq!(Credentials::read(&path).unwrap().admin_addr, "admin.example:7400");
    credentials.write(&path, true).unwrap();
    assert_eq!(Credentials::read(&path).unwrap().admin_addr, "other:1");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_insecure_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    sample().0.write(&path, false).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Credentials::read(&path).unwrap_err();
    assert_eq!(error.code(), Code::CredsInsecure);
    assert!(error.message().contains(&format!("`chmod 600 {}`", path.display())));
}

#[test]
fn errors_name_the_line_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let token = Token::generate(TokenKind::Volume).unwrap();
    let text = token.reveal();
    for (contents, place) in [
        (format!("adminAddr = \"a:1\"\ntoken = {text}\n"), "line 2"),
        (format!("adminAddr = \"a:1\"\ntoken = \"{text}\"\nnonsense = 1\n"), "line 3"),
        (format!("adminAddr = \"a:1\"\ntoken = [\"{text}\"]\n"), "line 2"),
        (format!("{text}\n"), "line 1"),
        (format!("adminAddr = \"a:1\"\ntoken = \"{text}\"\nblockCreds = \"{text}\"\n"), "line 3"),
        ("token = \"x\"\n".into(), "line 1"),
        ("adminAddr = \"a:1\"\ntoken = \"\"\n".into(), "empty"),
        (format!("adminAddr = \"nowhere\"\ntoken = \"{text}\"\n"), "host:port"),
        (format!("adminAddr = \"a:1\"\ntoken = \"{text}\"\ncaCert = \"x\"\n"), "PEM"),
    ] {
        write_raw(&path, &contents);
        let error = Credentials::read(&path).unwrap_err();
        assert_eq!(error.code(), Code::CredsInvalid);
        let shown = error.with_causes();
        assert!(shown.contains(place), "{place}: {shown}");
        assert!(!shown.contains(&text[10..40]), "{shown}");
    }
}

#[test]
fn a_reference_is_resolved_at_use() {
    let dir = tempfile::tempdir().unwrap();
    let (mut credentials, token) = sample();
    let file = dir.path().join("token");
    credentials.token = Zeroizing::new(format!("file:{}", file.display()));
    let error = credentials.token(TokenKind::Volume).unwrap_err();
    assert_eq!(error.code(), Code::ReferenceInvalid);
    write_raw(&file, &format!("{}\n", token.reveal()));
    assert_eq!(credentials.token(TokenKind::Volume).unwrap().id(), token.id());
}

#[tokio::test(flavor = "current_thread")]
async fn trust_without_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    let (ca, peer) = establish_trust(&home, "a:1", None).await.unwrap();
    assert!(ca.is_none() && matches!(peer.trust, Trust::System));
    let (ca, peer) = establish_trust(&home, "http://a:1", None).await.unwrap();
    assert!(ca.is_none() && matches!(peer.trust, Trust::Plaintext));
    assert_eq!(peer.address, "a:1");
    let pin = format!("sha256:{}", "0".repeat(64));
    for (address, fingerprint) in [("http://a:1", pin.as_str()), ("a:1", "sha256:00"), ("a", &pin)]
    {
        let error = establish_trust(&home, address, Some(fingerprint)).await.unwrap_err();
        assert_eq!(error.code(), Code::ArgumentInvalid, "{address} {fingerprint}");
    }
    home::make_dir(&home.path("ssl")).unwrap();
    write_raw(&home.path("ssl/ca"), "junk");
    let error = establish_trust(&home, "a:1", None).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
}

#[tokio::test(flavor = "current_thread")]
async fn init_refuses_before_it_asks() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    let path = home.path("configure/creds");
    let token_path = dir.path().join("token");
    let token = Token::generate(TokenKind::Account).unwrap();
    write_raw(&token_path, &format!("{}\n", token.reveal()));
    let init = InitCreds {
        home: &home,
        path: &path,
        admin_addr: "http://127.0.0.1:1",
        token_file: token_path.to_str(),
        fingerprint: None,
        kind: TokenKind::Account,
        replace: false,
    };
    let prepared = init.prepare().await.unwrap();
    assert!(!path.exists());
    prepared.commit().unwrap();
    assert_eq!(Credentials::read(&path).unwrap().token.as_str(), token.reveal());
    // The token file does not exist; that is not even looked at.
    let again = InitCreds { token_file: Some("/nowhere"), ..init.clone() };
    assert_eq!(again.prepare().await.unwrap_err().code(), Code::CredsExist);
    let wrong = InitCreds { kind: TokenKind::Meta, replace: true, ..init };
    assert_eq!(wrong.prepare().await.unwrap_err().code(), Code::TokenWrongKind);
}

#[tokio::test]
async fn a_claim_code_waits_until_the_credentials_are_written() {
    let admin = crate::testing::LoopbackAdmin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    let path = home.path("mount/creds/v1");
    let (code, code_path) = (admin.code(), dir.path().join("code"));
    write_raw(&code_path, &format!("{}\n", code.reveal()));
    let init = InitCreds {
        home: &home,
        path: &path,
        admin_addr: &admin.address,
        token_file: None,
        fingerprint: None,
        kind: TokenKind::Volume,
        replace: false,
    };
    let code_file = code_path.to_str().unwrap();
    let prepared = init.prepare_claim(code_file).await.unwrap();
    assert!(!path.exists());
    let error = prepared.failed(Error::new(Code::CredsMismatch, "another volume"));
    assert_eq!(error.code(), Code::CredsMismatch);
    let waiting = format!(".{}.pending", code.id());
    assert!(error.message().starts_with("another volume; ") && error.message().contains(&waiting));
    // The next run has the same token, and leaves nothing behind.
    let prepared = init.prepare_claim(code_file).await.unwrap();
    prepared.commit().unwrap();
    let kept = Credentials::read(&path).unwrap().token(TokenKind::Volume).unwrap();
    assert_eq!(kept.reveal(), admin.world.lock().redeemed.as_ref().unwrap().reveal());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    // Where the file exists, the code is not even read.
    assert_eq!(init.prepare_claim("/nowhere").await.unwrap_err().code(), Code::CredsExist);
    let plain = Token::generate(TokenKind::Volume).unwrap();
    write_raw(&code_path, plain.reveal());
    let wrong = InitCreds { replace: true, ..init }.prepare_claim(code_file).await.unwrap_err();
    assert_eq!(wrong.code(), Code::TokenWrongKind);
}

#[test]
fn a_token_that_the_file_has_waits_no_longer_and_another_goes_on_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let (mut credentials, token) = sample();
    credentials.write(&path, false).unwrap();
    credentials.settle(&path).unwrap();
    let pending = Pending::beside(&path, token.kind(), token.id());
    // The next secret of the same token: admin may have taken it.
    let next = Token::generate_for(TokenKind::Volume, token.id()).unwrap();
    pending.write(&next).unwrap();
    credentials.settle(&path).unwrap();
    assert_eq!(pending.read().unwrap().unwrap().reveal(), next.reveal());
    pending.remove().unwrap();
    // Somebody else keeps the text: perhaps not for long.
    pending.write(&token).unwrap();
    credentials.token = Zeroizing::new("env:T".into());
    credentials.settle(&path).unwrap();
    assert!(pending.path().exists());
    Credentials::read(&path).unwrap().settle(&path).unwrap();
    assert!(!pending.path().exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn init_creds_that_was_killed_at_its_end_is_tidied_up_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creds");
    let home = Home::at(dir.path().to_owned());
    let (credentials, token) = sample();
    for replace in [false, true] {
        credentials.write(&path, true).unwrap();
        let pending = Pending::beside(&path, token.kind(), token.id());
        pending.write(&token).unwrap();
        let init = InitCreds {
            home: &home,
            path: &path,
            admin_addr: "http://127.0.0.1:1",
            token_file: Some("/nowhere"),
            fingerprint: None,
            kind: TokenKind::Volume,
            replace,
        };
        init.prepare().await.unwrap_err();
        assert!(!pending.path().exists());
        assert!(Credentials::read(&path).unwrap() == credentials);
    }
}
