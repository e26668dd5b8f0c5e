//! Sessions of the raw protocol that are at work, and their tokens: many of
//! them are cheap.

use std::time::Duration;

use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::{Code, Result};
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{CreateVolumeTokenRequest, FileKind, GetAttr, RevokeTokenRequest};

use crate::cluster::{Cluster, Token};
use crate::mount::Mount;
use crate::raw::{Admin, RawConnection, RawSession};
use crate::wait::within;

/// A session with a connection.
#[derive(Debug)]
pub struct Live {
    /// What it was opened as.
    pub session: RawSession,
    connection: RawConnection,
}

impl Live {
    /// Opens a session and sees it work.
    ///
    /// # Errors
    /// What admin or meta says.
    pub async fn open(cluster: &Cluster, volume: &str, token: &Token) -> Result<Live> {
        Live::connect(RawSession::open(cluster, volume, token).await?).await
    }

    /// Connects a session and sees it work.
    ///
    /// # Errors
    /// What meta says.
    pub async fn connect(session: RawSession) -> Result<Live> {
        let connection = session.connect().await?;
        let mut live = Live { session, connection };
        live.read().await?;
        Ok(live)
    }

    /// An operation that changes nothing.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn read(&mut self) -> Result<()> {
        let body = Body::GetAttr(GetAttr { handle: self.session.root() });
        self.connection.ask(body).await.map(drop)
    }

    /// Makes a file.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub async fn write(&mut self) -> Result<()> {
        let (root, name) = (self.session.root(), uuid::Uuid::new_v4().to_string());
        self.connection.make(&root, name.as_bytes(), FileKind::Regular).await.map(drop)
    }
}

/// A new token of a volume, with a changed request, as it is kept, and what
/// admin says of it.
///
/// # Panics
/// When admin makes none.
pub async fn token_with(
    cluster: &Cluster,
    admin: &mut Admin,
    volume: &str,
    change: impl FnOnce(&mut CreateVolumeTokenRequest),
) -> (Token, flexfs_proto::v1::Token) {
    let secret = Secret::generate(TokenKind::Volume).expect("randomness");
    let mut request = CreateVolumeTokenRequest {
        token: Some(secret.to_wire()),
        volume: volume.to_owned(),
        ..CreateVolumeTokenRequest::default()
    };
    change(&mut request);
    let made = admin.create_volume_token(request).await.expect("a token").into_inner();
    (keep(cluster, &secret), made)
}

/// A new token of a volume.
///
/// # Panics
/// When admin makes none.
pub async fn token(cluster: &Cluster, admin: &mut Admin, volume: &str) -> Token {
    token_with(cluster, admin, volume, |_| ()).await.0
}

/// Keeps a secret that the test made itself.
#[must_use]
pub fn keep(cluster: &Cluster, secret: &Secret) -> Token {
    cluster.secrets().add(secret.reveal());
    Token { id: secret.id().to_string(), file: cluster.token_file(secret.reveal()) }
}

/// The request that revokes a volume token, and waits for nobody.
#[must_use]
pub fn revocation(token: &Token) -> RevokeTokenRequest {
    RevokeTokenRequest {
        kind: "volume".to_owned(),
        id: token.id.clone(),
        ..RevokeTokenRequest::default()
    }
}

/// The code that opening one more session is refused with.
///
/// # Panics
/// When it opens.
pub async fn refusal(of: &RawSession, volume: &str, token: &Token) -> Code {
    let opened = of.open_again(volume, token).await;
    opened.map(|_| "a session").expect_err("it must be refused").code()
}

/// What stat(2) of a mount's root fails with; `None` = it does not.
///
/// # Panics
/// When it does not answer.
#[must_use]
pub fn metadata_errno(mount: &Mount) -> Option<i32> {
    let path = mount.dir().to_owned();
    let stat = move || std::fs::metadata(path).map(drop);
    let outcome = within("stat", Duration::from_secs(40), stat);
    outcome.err().and_then(|error| error.raw_os_error())
}
