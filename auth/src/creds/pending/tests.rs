use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::LoopbackAdmin;

fn place() -> (tempfile::TempDir, Pending) {
    let dir = tempfile::tempdir().unwrap();
    let id = Token::generate(TokenKind::Account).unwrap().id();
    let pending = Pending::beside(&dir.path().join("new/creds"), TokenKind::Account, id);
    (dir, pending)
}

fn another(pending: &Pending) -> Token {
    Token::generate_for(pending.kind, pending.id).unwrap()
}

#[test]
fn a_secret_waits_privately_and_is_never_replaced() {
    let (_dir, pending) = place();
    assert!(pending.read().unwrap().is_none());
    pending.remove().unwrap();
    let token = another(&pending);
    pending.write(&token).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(pending.path()), mode(pending.path().parent().unwrap())), (0o600, 0o700));
    pending.write(&token).expect("the same again changes nothing");
    let other = another(&pending);
    assert_eq!(pending.write(&other).unwrap_err().code(), Code::CredsExist);
    assert_eq!(pending.read().unwrap().unwrap().reveal(), token.reveal());
    assert_eq!(pending.obtain().unwrap().reveal(), token.reveal());
    pending.remove().unwrap();
    assert_ne!(pending.obtain().unwrap().reveal(), token.reveal());
    let name = pending.path().file_name().unwrap().to_str().unwrap();
    assert!(name.contains(&pending.id.to_string()), "{name}");
    assert_eq!(fs::read_dir(pending.path().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn only_secrets_of_its_token_are_taken() {
    let (_dir, pending) = place();
    for other in [
        Token::generate(TokenKind::Account).unwrap(),
        Token::generate_for(TokenKind::Volume, pending.id).unwrap(),
    ] {
        assert_eq!(pending.write(&other).unwrap_err().code(), Code::ArgumentInvalid);
        home::make_dir(pending.path().parent().unwrap()).unwrap();
        home::write_file(pending.path(), other.reveal().as_bytes()).unwrap();
        let error = pending.read().unwrap_err();
        assert_eq!(error.code(), Code::CredsInvalid);
        assert!(!error.with_causes().contains(other.reveal()));
    }
    home::write_file(pending.path(), b"junk").unwrap();
    assert_eq!(pending.obtain().unwrap_err().code(), Code::CredsInvalid);
    fs::set_permissions(pending.path(), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(pending.obtain().unwrap_err().code(), Code::CredsInsecure);
}

#[tokio::test]
async fn what_waits_is_accepted_dropped_or_kept() {
    let admin = LoopbackAdmin::start().await;
    let (_dir, pending) = place();
    assert!(matches!(pending.resolve(&admin.peer()).await.unwrap(), Standing::Absent));
    let token = pending.obtain().unwrap();
    // Whoever asked may have been killed: the request may still be under way.
    let begun = std::time::Instant::now();
    assert!(matches!(pending.resolve(&admin.peer()).await.unwrap(), Standing::Open(_)));
    assert!(pending.path().exists() && begun.elapsed() < Duration::from_secs(20));
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(pending.path()).unwrap().set_modified(long_ago).unwrap();
    let Standing::Dropped(why) = pending.resolve(&admin.peer()).await.unwrap() else {
        panic!("admin does not know it")
    };
    assert_eq!(why.code(), Code::TokenUnknown);
    assert!(pending.read().unwrap().is_none());
    pending.write(&token).unwrap();
    admin.world.lock().redeemed = Some(token.clone());
    admin.world.lock().away = true;
    let away = pending.resolve(&admin.peer()).await.unwrap_err();
    assert_eq!(away.code(), Code::AdminUnreachable);
    admin.world.lock().away = false;
    let Standing::Accepted(accepted) = pending.resolve(&admin.peer()).await.unwrap() else {
        panic!("admin knows it")
    };
    assert_eq!(accepted.reveal(), token.reveal());
    assert!(pending.path().exists(), "until the caller has written it");
}
