//! Brings a changed credentials file to the live session: a rotated token is
//! taken up without a new mount.

use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::{Code, Error, Kind, limits};
use tokio::time::Instant;

use crate::creds_file::{CredsFile, Fingerprint, Look};
use crate::session::{MetaSession, SessionState};

/// Longest wait between two attempts with the same secret: admin may be away
/// for hours, and the old secret's end comes nearer.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Wait after a refusal: whoever rotates may write the file before admin knows
/// the secret. Seldom enough to cost admin nothing, and often enough for every
/// overlap of use.
const REFUSED_WAIT: Duration = RETRY_MAX;

/// A secret that meta has not taken yet, from one version of the file.
struct Offer {
    token: Token,
    at: Instant,
    wait: Duration,
    /// That it is refused was logged.
    told: bool,
}

impl Offer {
    fn new(token: Token) -> Offer {
        Offer { token, at: Instant::now(), wait: limits::CREDS_POLL, told: false }
    }

    /// It did not come through; true for the first time.
    fn put_off(&mut self) -> bool {
        let first = self.wait == limits::CREDS_POLL;
        self.at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RETRY_MAX);
        first
    }

    /// It was refused, and may be good later; true for the first time.
    fn refused(&mut self, wait: Duration) -> bool {
        self.at = Instant::now() + wait;
        !std::mem::replace(&mut self.told, true)
    }
}

/// Looks at the file until the session has ended. `in_use` is the token that
/// the session was opened with.
pub async fn watch(session: Arc<MetaSession>, file: CredsFile, in_use: Fingerprint) {
    follow(session, file, in_use, REFUSED_WAIT).await;
}

async fn follow(
    session: Arc<MetaSession>,
    mut file: CredsFile,
    mut in_use: Fingerprint,
    refused_wait: Duration,
) {
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
            match attempt(&session, due, refused_wait).await {
                Attempt::Taken(new) => in_use = new,
                Attempt::Later(later) => offer = Some(later),
                Attempt::Never => {}
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
    /// Not before the file changes.
    Never,
}

async fn attempt(session: &Arc<MetaSession>, mut offer: Offer, refused_wait: Duration) -> Attempt {
    match session.state() {
        SessionState::Live => {}
        SessionState::Reconnecting => return Attempt::Later(offer),
        SessionState::Cut(_) => return Attempt::Never,
    }
    let error = match session.reauthenticate(offer.token.clone()).await {
        Ok(()) => {
            let last4 = offer.token.last4();
            tracing::info!(last4, "the mount lives from another secret of its token now");
            return Attempt::Taken(Fingerprint::of(&offer.token));
        }
        // Logged by whoever cut it.
        Err(_) if session.end_error().is_some() => return Attempt::Never,
        Err(error) => error,
    };
    let refused = "the token in the credentials file is refused; the mount keeps its own";
    match Again::after(&error) {
        Again::Soon => {
            if offer.put_off() {
                tracing::warn!(code = %error.code(),
                    "the token's new secret is not taken yet: {}", error.with_causes());
            }
            Attempt::Later(offer)
        }
        Again::Seldom => {
            if offer.refused(refused_wait) {
                complain(refused, &error);
            }
            Attempt::Later(offer)
        }
        Again::Never => {
            complain(refused, &error);
            Attempt::Never
        }
    }
}

/// Once per version of the file.
fn complain(what: &str, error: &Error) {
    let (code, hint) = (error.code(), error.hint());
    tracing::error!(%code, hint, "{what}: {}", error.with_causes());
}

/// Does it make sense to try the same secret again?
#[derive(Debug, PartialEq, Eq)]
enum Again {
    /// Somebody could not answer.
    Soon,
    /// Admin may come to know it, or to take it.
    Seldom,
    /// It is for something else, or nobody understands it.
    Never,
}

impl Again {
    fn after(error: &Error) -> Again {
        match error.kind() {
            Kind::Limited
            | Kind::Unavailable
            | Kind::DeadlineExceeded
            | Kind::Cancelled
            | Kind::Corrupt
            | Kind::Internal => Again::Soon,
            Kind::Unauthenticated if error.code() != Code::CredsMismatch => Again::Seldom,
            Kind::Unauthenticated
            | Kind::Invalid
            | Kind::Denied
            | Kind::NotFound
            | Kind::Exists
            | Kind::Conflict
            | Kind::Unsupported
            | Kind::Posix => Again::Never,
        }
    }
}

#[cfg(test)]
mod tests;
