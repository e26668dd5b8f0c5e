//! Brings a changed credentials file to the live session: a rotated token is
//! taken up without a new mount.

use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::{Error, Kind, limits};
use tokio::time::Instant;

use crate::creds_file::{CredsFile, Fingerprint, Look};
use crate::session::{MetaSession, SessionState};

/// Longest wait between two attempts with the same secret: admin may be away
/// for hours, and the old secret's end comes nearer.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A secret that meta has not taken yet.
struct Offer {
    token: Token,
    at: Instant,
    wait: Duration,
}

impl Offer {
    fn new(token: Token) -> Offer {
        Offer { token, at: Instant::now(), wait: limits::CREDS_POLL }
    }

    /// It did not come through; true for the first time.
    fn put_off(&mut self) -> bool {
        let first = self.wait == limits::CREDS_POLL;
        self.at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RETRY_MAX);
        first
    }
}

/// Looks at the file until the session has ended. `in_use` is the token that
/// the session was opened with.
pub async fn watch(session: Arc<MetaSession>, mut file: CredsFile, mut in_use: Fingerprint) {
    let mut offer: Option<Offer> = None;
    loop {
        let looking = tokio::task::spawn_blocking(move || {
            let look = file.look();
            (file, look)
        });
        let look = match looking.await {
            Ok((looked_at, look)) => {
                file = looked_at;
                look
            }
            Err(error) => {
                tracing::error!("the credentials file is not looked at any more: {error}");
                return;
            }
        };
        match look {
            Look::Unchanged => {}
            Look::Read(token) => {
                offer = (Fingerprint::of(&token) != in_use).then(|| Offer::new(token));
            }
            Look::Unusable(error) => {
                offer = None;
                complain("the mount keeps the token it has", &error);
            }
        }
        if let Some(due) = offer.take_if(|offer| offer.at <= Instant::now()) {
            match attempt(&session, due).await {
                Attempt::Taken(new) => in_use = new,
                Attempt::Later(later) => offer = Some(later),
                Attempt::Refused => {}
            }
        }
        tokio::select! {
            _ = session.ended() => return,
            () = tokio::time::sleep(limits::CREDS_POLL) => {}
        }
    }
}

enum Attempt {
    Taken(Fingerprint),
    Later(Offer),
    Refused,
}

async fn attempt(session: &Arc<MetaSession>, mut offer: Offer) -> Attempt {
    match session.state() {
        SessionState::Live => {}
        SessionState::Reconnecting => return Attempt::Later(offer),
        SessionState::Cut(_) => return Attempt::Refused,
    }
    match session.reauthenticate(offer.token.clone()).await {
        Ok(()) => {
            let last4 = offer.token.last4();
            tracing::info!(last4, "the mount lives from another secret of its token now");
            Attempt::Taken(Fingerprint::of(&offer.token))
        }
        Err(error) if may_pass(&error) => {
            if offer.put_off() {
                tracing::warn!(code = %error.code(),
                    "the token's new secret is not taken yet: {}", error.with_causes());
            }
            Attempt::Later(offer)
        }
        // Logged by whoever cut it.
        Err(_) if session.end_error().is_some() => Attempt::Refused,
        Err(error) => {
            complain(
                "the token in the credentials file is refused; the mount keeps its own",
                &error,
            );
            Attempt::Refused
        }
    }
}

/// Once per version of the file.
fn complain(what: &str, error: &Error) {
    let (code, hint) = (error.code(), error.hint());
    tracing::error!(%code, hint, "{what}: {}", error.with_causes());
}

/// Does it make sense to try the same secret again?
fn may_pass(error: &Error) -> bool {
    match error.kind() {
        Kind::Limited
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Cancelled
        | Kind::Corrupt
        | Kind::Internal => true,
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Denied
        | Kind::NotFound
        | Kind::Exists
        | Kind::Conflict
        | Kind::Unsupported
        | Kind::Posix => false,
    }
}

#[cfg(test)]
mod tests;
