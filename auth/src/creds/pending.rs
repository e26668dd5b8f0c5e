//! A secret that is generated here and not yet known to be admin's too:
//! written beside the credentials file before admin is asked to take it, and
//! removed when the credentials hold it. Whatever stops in between, the next
//! run finds either a secret that admin knows, or one that it does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flexfs_common::ids::TokenId;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Kind, Result, home, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;

use crate::bearer::BearerInterceptor;
use crate::private_file;
use crate::token::{Token, TokenKind};

/// Bytes of the file: a token and a newline, with room.
const FILE_MAX_LEN: usize = 256;

/// How long a request of a client that was killed may go on in admin, by far.
/// A secret that waits longer and is unknown never arrived.
const UNDER_WAY: Duration = Duration::from_secs(600);
/// How long it usually takes, by far: so long an answer is waited for.
const USUALLY: Duration = Duration::from_secs(1);
/// Between two questions: admin counts what it does not know.
const AGAIN: Duration = Duration::from_millis(200);

/// Where the next secret of one token waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    kind: TokenKind,
    id: TokenId,
    path: PathBuf,
}

/// What became of a secret that was found waiting.
#[derive(Debug)]
pub enum Standing {
    /// None was waiting.
    Absent,
    /// admin accepts it: to be put into the credentials, then
    /// [`Pending::remove`]. The file is still there.
    Accepted(Token),
    /// admin does not know it yet, with what it said: whoever asked may have
    /// been killed, and admin be about to do it. The file is still there.
    Open(Error),
    /// admin does not know it and never will, with what it said: the request
    /// never arrived, or the token has ended. The file is gone.
    Dropped(Error),
}

impl Pending {
    /// Of the token of this kind and id, beside its credentials file. The
    /// name begins with a dot: no volume's credentials are called so.
    #[must_use]
    pub fn beside(creds_file: &Path, kind: TokenKind, id: TokenId) -> Pending {
        let path = creds_file.with_file_name(format!(".{id}.pending"));
        Pending { kind, id, path }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret that waits, if one does. Blocks.
    ///
    /// # Errors
    /// `CREDS_INSECURE` (as of credentials files); `CREDS_INVALID` when it is
    /// something else than this token.
    pub fn read(&self) -> Result<Option<Token>> {
        let text = match private_file::read(&self.path, FILE_MAX_LEN) {
            Ok(text) => text,
            Err(error) if error.code() == Code::CredsMissing => return Ok(None),
            Err(error) => return Err(error),
        };
        // What is wrong with it is not told: it may quote what is there.
        let token = Token::parse_kind(&text, self.kind).ok().filter(|token| token.id() == self.id);
        match token {
            Some(token) => Ok(Some(token)),
            None => Err(Error::new(
                Code::CredsInvalid,
                format!(
                    "{} is not the {} token {}",
                    self.path.display(),
                    self.kind.name(),
                    self.id
                ),
            )),
        }
    }

    /// Writes a secret, durably and with mode 0600, in a directory of mode
    /// 0700. One that waits already is never replaced: admin may know it.
    /// Blocks.
    ///
    /// # Errors
    /// `CREDS_EXIST` when another one waits; `ARGUMENT_INVALID` when it is a
    /// secret of another token; `CONFIG_INVALID`; those of [`Pending::read`].
    pub fn write(&self, token: &Token) -> Result<()> {
        if token.kind() != self.kind || token.id() != self.id {
            let message = format!("this is not the {} token {}", self.kind.name(), self.id);
            return Err(Error::new(Code::ArgumentInvalid, message));
        }
        if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            home::make_dir(dir)?;
        }
        let text = zeroize::Zeroizing::new(format!("{}\n", token.reveal()));
        if home::write_new_file(&self.path, text.as_bytes())? {
            return Ok(());
        }
        match self.read()? {
            Some(waiting) if waiting.reveal() == token.reveal() => Ok(()),
            Some(_) | None => Err(Error::new(
                Code::CredsExist,
                format!("another secret of the token waits in {}", self.path.display()),
            )),
        }
    }

    /// The secret that waits, else a new one, which waits from now on. Blocks.
    ///
    /// # Errors
    /// Those of [`Pending::read`] and [`Pending::write`]; `INTERNAL`.
    pub fn obtain(&self) -> Result<Token> {
        if let Some(token) = self.read()? {
            return Ok(token);
        }
        let token = Token::generate_for(self.kind, self.id)?;
        match self.write(&token) {
            Ok(()) => Ok(token),
            // Another process was quicker: its secret is the one.
            Err(error) if error.code() == Code::CredsExist => self.read()?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// The credentials hold the secret, or admin does not know it: nothing
    /// waits any more. One that is not there is no error. Blocks.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn remove(&self) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::new(Code::ConfigInvalid, format!("cannot remove {}", self.path.display()))
                .caused_by(e)
        };
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        home::remove_left(&self.path);
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = std::fs::File::open(dir.unwrap_or(Path::new(".")));
        dir.and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// Asks admin about a secret that waits from an earlier run.
    ///
    /// # Errors
    /// What keeps admin from saying: the secret goes on waiting. Those of
    /// [`Pending::read`] and [`Pending::remove`].
    pub async fn resolve(&self, admin: &Peer) -> Result<Standing> {
        let Some(token) = self.with(Pending::read).await? else { return Ok(Standing::Absent) };
        loop {
            let error = match who_am_i(admin, &token, limits::CALL).await {
                Ok(_) => return Ok(Standing::Accepted(token)),
                Err(error) if is_unknown(error.code()) => error,
                Err(error) => return Err(error),
            };
            let waited = self.with(|pending| Ok(pending.waited())).await?;
            if error.code() != Code::TokenUnknown || waited > UNDER_WAY {
                self.with(Pending::remove).await?;
                return Ok(Standing::Dropped(error));
            }
            if waited > USUALLY {
                return Ok(Standing::Open(error));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Since it was written, by this machine's clock; one that went back makes
    /// it young.
    fn waited(&self) -> Duration {
        let written = self.path.symlink_metadata().and_then(|metadata| metadata.modified());
        written.ok().and_then(|written| written.elapsed().ok()).unwrap_or_default()
    }

    /// A step that blocks, where blocking is allowed.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Pending) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || step(&this))
            .await
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
    }
}

/// Can the secret never be accepted? A token that is disabled, expired or not
/// yet valid is refused only after its secret was found right.
fn is_unknown(code: Code) -> bool {
    matches!(code, Code::TokenUnknown | Code::TokenRotated | Code::TokenRevoked)
}

/// Did admin say no, so that nothing was done? Otherwise it may have done
/// what it was asked, or do it yet.
pub(crate) fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Denied
        | Kind::NotFound
        | Kind::Exists
        | Kind::Conflict
        | Kind::Unsupported => true,
        Kind::Limited
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Cancelled
        | Kind::Corrupt
        | Kind::Posix
        | Kind::Internal => false,
    }
}

/// One short call with a token.
async fn who_am_i(admin: &Peer, token: &Token, limit: Duration) -> Result<v1::WhoAmIReply> {
    let bearer = BearerInterceptor::new(token);
    let mut client = AdminServiceClient::with_interceptor(admin.channel()?, bearer);
    let call = tokio::time::timeout(limit, client.who_am_i(v1::WhoAmIRequest {}));
    call.await
        .map_err(|_| Error::new(admin.unreachable, "admin did not answer in time"))?
        .map(tonic::Response::into_inner)
        .map_err(|refusal| status::from_status(&refusal, admin.unreachable))
}

#[cfg(test)]
mod tests;
