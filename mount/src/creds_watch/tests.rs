use std::path::PathBuf;

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::TokenKind;
use flexfs_common::wire;
use flexfs_proto::v1;
use zeroize::Zeroizing;

use super::*;
use crate::session::testing::{LoopbackMeta, Sizes};
use crate::session::tests::until;

const LONG: Duration = Duration::from_secs(60);

struct Watched {
    server: Arc<LoopbackMeta>,
    session: Arc<MetaSession>,
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Watched {
    async fn new() -> Watched {
        Watched::with(REFUSED_WAIT).await
    }

    async fn with(refused_wait: Duration) -> Watched {
        let server = LoopbackMeta::start(Sizes::default()).await;
        let (session, _events) = server.mount(LONG).await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("creds");
        write(&path, &server.token);
        let file = CredsFile::new(path.clone());
        let in_use = Fingerprint::of(&server.token);
        let task = tokio::spawn(follow(Arc::clone(&session), file, in_use, refused_wait));
        Watched { server, session, task, path, _dir: dir }
    }

    /// Waits until the last one offered is this, and gives how many there were.
    async fn offered(&self, token: &Token) -> usize {
        let last = || self.server.world.lock().offered.last().cloned();
        until(|| last().as_deref() == Some(token.reveal())).await;
        self.server.world.lock().offered.len()
    }
}

fn write(path: &std::path::Path, token: &Token) {
    let token = Zeroizing::new(token.reveal().to_owned());
    let creds =
        Credentials { admin_addr: "admin.example:7400".into(), token, ..Credentials::default() };
    creds.write(path, true).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_reaches_the_live_session() {
    let watched = Watched::new().await;
    let server = &watched.server;
    let second = server.rotate();
    write(&watched.path, &second);
    assert_eq!(watched.offered(&second).await, 1, "the first one is in use already");
    // The same token in a file of another name and time is no news, and what
    // cannot be read takes nothing away.
    write(&watched.path, &second);
    std::fs::remove_file(&watched.path).unwrap();
    let third = server.rotate();
    write(&watched.path, &third);
    assert_eq!(watched.offered(&third).await, 2);
    assert_eq!(watched.session.state(), SessionState::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_offered_until_admin_is_back() {
    let watched = Watched::new().await;
    let server = &watched.server;
    let second = server.rotate();
    server.world.lock().offer_failures = vec![Code::RateLimited, Code::AdminUnreachable];
    write(&watched.path, &second);
    until(|| server.world.lock().offered.len() == 3).await;
    assert_eq!(watched.session.state(), SessionState::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_secret_gives_way_to_the_next_one_at_once() {
    let watched = Watched::new().await;
    let server = &watched.server;
    let unknown = Token::generate_for(TokenKind::Volume, server.token.id()).unwrap();
    write(&watched.path, &unknown);
    assert_eq!(watched.offered(&unknown).await, 1);
    // Of another token: refused without asking.
    write(&watched.path, &Token::generate(TokenKind::Volume).unwrap());
    let second = server.rotate();
    write(&watched.path, &second);
    assert_eq!(watched.offered(&second).await, 2);
    assert_eq!(watched.session.state(), SessionState::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_admin_learns_of_later_is_taken_then() {
    let watched = Watched::with(Duration::ZERO).await;
    let server = &watched.server;
    let early = Token::generate_for(TokenKind::Volume, server.token.id()).unwrap();
    write(&watched.path, &early);
    // Also after a pause of admin in between.
    until(|| server.world.lock().offered.len() >= 2).await;
    server.world.lock().offer_failures = vec![Code::AdminUnreachable];
    until(|| server.world.lock().offered.len() >= 4).await;
    let known_from = {
        let mut world = server.world.lock();
        world.secrets.push(early.reveal().to_owned());
        world.offered.len()
    };
    until(|| server.world.lock().offered.len() > known_from).await;
    // It was taken: the file is in use, and only another one is offered.
    let next = server.rotate();
    write(&watched.path, &next);
    assert_eq!(watched.offered(&next).await, known_from + 2);
    assert_eq!(watched.session.state(), SessionState::Live);
}

#[test]
fn a_refusal_is_told_once_and_tried_again_unless_it_is_for_something_else() {
    let mut offer = Offer::new(Token::generate(TokenKind::Volume).unwrap());
    assert!(offer.refused(LONG) && !offer.refused(LONG));
    assert!(offer.at > Instant::now());
    let after = |code| Again::after(&Error::bare(code));
    for code in [Code::TokenUnknown, Code::TokenNotYetValid, Code::TokenRotated] {
        assert_eq!(after(code), Again::Seldom, "{code}");
    }
    for code in [Code::CredsMismatch, Code::AccountSuspended, Code::Unsupported] {
        assert_eq!(after(code), Again::Never, "{code}");
    }
    assert_eq!(after(Code::AdminUnreachable), Again::Soon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_final_whatever_the_file_says_later() {
    let watched = Watched::new().await;
    let server = &watched.server;
    let reason = wire::error_to_detail(&Error::bare(Code::TokenRotated));
    let cut = v1::Cut { reason: Some(reason) };
    server.told.send(v1::ServerFrame { cut: Some(cut), ..Default::default() }).unwrap();
    until(|| watched.session.state() == SessionState::Cut(Code::TokenRotated)).await;
    write(&watched.path, &server.rotate());
    watched.task.await.unwrap();
    assert_eq!(watched.session.state(), SessionState::Cut(Code::TokenRotated));
    assert!(server.world.lock().offered.is_empty());
}
