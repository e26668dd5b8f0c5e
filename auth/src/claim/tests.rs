use std::path::PathBuf;

use super::*;
use crate::testing::LoopbackAdmin;

struct Place {
    _dir: tempfile::TempDir,
    creds: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let creds = dir.path().join("mount/creds/v1");
    Place { _dir: dir, creds }
}

async fn redeemed(admin: &LoopbackAdmin, code: &Token, creds: &Path) -> Result<Redeemed> {
    redeem(&admin.peer(), code, TokenKind::Volume, creds).await
}

#[tokio::test]
async fn a_code_is_traded_for_a_token_that_waits_beside_the_credentials() {
    let (admin, place) = (LoopbackAdmin::start().await, place());
    let code = admin.code();
    let got = redeemed(&admin, &code, &place.creds).await.unwrap();
    assert_eq!((got.token.id(), got.token.kind()), (code.id(), TokenKind::Volume));
    assert_eq!(admin.world.lock().redeemed.as_ref().unwrap().reveal(), got.token.reveal());
    assert_eq!(got.pending.read().unwrap().unwrap().reveal(), got.token.reveal());
    assert_eq!(got.pending.path().parent(), place.creds.parent());
    // Stopped before the credentials were written: the same again.
    let again = redeemed(&admin, &code, &place.creds).await.unwrap();
    assert_eq!(again.token.reveal(), got.token.reveal());
    again.pending.remove().unwrap();
    // Now the secret is nowhere but at admin.
    let late = redeemed(&admin, &code, &place.creds).await.unwrap_err();
    assert_eq!(late.code(), Code::ClaimUsed);
    assert!(!got.pending.path().exists(), "a secret of no use is not left");
}

#[tokio::test]
async fn a_lost_answer_loses_nothing() {
    let (admin, place) = (LoopbackAdmin::start().await, place());
    let code = admin.code();
    admin.world.lock().lose_answer = true;
    let lost = redeemed(&admin, &code, &place.creds).await.unwrap_err();
    assert_eq!(lost.code(), Code::AdminUnreachable);
    let got = redeemed(&admin, &code, &place.creds).await.unwrap();
    assert_eq!(admin.world.lock().redeemed.as_ref().unwrap().reveal(), got.token.reveal());
}

#[tokio::test]
async fn a_code_that_ended_after_it_was_redeemed_here_still_gives_the_token() {
    let (admin, place) = (LoopbackAdmin::start().await, place());
    let code = admin.code();
    let got = redeemed(&admin, &code, &place.creds).await.unwrap();
    admin.world.lock().code_ended = Some(Code::TokenExpired);
    let again = redeemed(&admin, &code, &place.creds).await.unwrap();
    assert_eq!(again.token.reveal(), got.token.reveal());
    // While that cannot be found out, the secret waits on.
    admin.world.lock().away = true;
    let refused = redeemed(&admin, &code, &place.creds).await.unwrap_err();
    assert_eq!(refused.code(), Code::TokenExpired);
    assert!(got.pending.path().exists());
}

#[tokio::test]
async fn refusals_come_through_and_leave_nothing() {
    let (admin, place) = (LoopbackAdmin::start().await, place());
    for refusal in [Code::ClaimUsed, Code::TokenExpired, Code::TokenUnknown, Code::TokenRevoked] {
        let code = admin.code();
        admin.world.lock().code_ended = Some(refusal);
        let error = redeemed(&admin, &code, &place.creds).await.unwrap_err();
        assert_eq!(error.code(), refusal);
        assert!(!error.with_causes().contains(code.reveal()));
    }
    assert_eq!(std::fs::read_dir(place.creds.parent().unwrap()).unwrap().count(), 0);
    let token = Token::generate(TokenKind::Volume).unwrap();
    let error = redeemed(&admin, &token, &place.creds).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenWrongKind);
}

#[tokio::test]
async fn nobody_there_keeps_the_secret_for_the_next_run() {
    let (admin, place) = (LoopbackAdmin::start().await, place());
    let code = admin.code();
    let nobody = crate::creds::admin_peer("http://127.0.0.1:1", None).unwrap();
    let error = redeem(&nobody, &code, TokenKind::Volume, &place.creds).await.unwrap_err();
    assert_eq!(error.code(), Code::AdminUnreachable);
    let waiting = Pending::beside(&place.creds, TokenKind::Volume, code.id());
    let waiting = waiting.read().unwrap().unwrap();
    let got = redeemed(&admin, &code, &place.creds).await.unwrap();
    assert_eq!(got.token.reveal(), waiting.reveal());
}
