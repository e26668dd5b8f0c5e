//! What every `init creds` does: whom to trust, which token, where to write.

use std::path::{Path, PathBuf};

use flexfs_common::home::Home;
use flexfs_common::tls::{self, Fingerprint, Peer, Trust};
use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

use super::{Credentials, Pending, admin_peer, exists, pem};
use crate::token::{Token, TokenKind};
use crate::{claim, reference};

/// How `init creds` decides whom to trust, before any token is sent: the
/// fingerprint if given (fetches the CA), else `ssl/ca` of this home if it
/// exists, else the operating system's authorities; `http://` addresses
/// have no TLS. Returns the CA's PEM to keep, and the peer.
///
/// # Errors
/// `PEER_UNTRUSTED`, `ADMIN_UNREACHABLE`, `ARGUMENT_INVALID`; `CONFIG_INVALID`
/// when `ssl/ca` cannot be read.
pub async fn establish_trust(
    home: &Home,
    admin_addr: &str,
    fingerprint: Option<&str>,
) -> Result<(Option<String>, Peer)> {
    let mut peer = admin_peer(admin_addr, None)?;
    let plain = matches!(peer.trust, Trust::Plaintext);
    if let Some(fingerprint) = fingerprint {
        if plain {
            return Err(Error::new(
                Code::ArgumentInvalid,
                "--caFingerprint and an http:// address exclude each other: there is no TLS",
            ));
        }
        let fingerprint: Fingerprint = fingerprint.parse()?;
        let ca = tls::fetch_ca(&peer.address, tls::ADMIN_NAME, fingerprint, Code::AdminUnreachable)
            .await?;
        let text = pem::encode_certificate(&ca);
        peer.trust = Trust::Ca(ca);
        return Ok((Some(text), peer));
    }
    if plain {
        return Ok((None, peer));
    }
    match read_ca(&home.path("ssl/ca"))? {
        Some(text) => {
            peer.trust = Trust::Ca(tls::certificate_from_pem(&text)?);
            Ok((Some(text), peer))
        }
        None => Ok((None, peer)),
    }
}

/// The CA of this home; it is public, so its mode does not matter.
fn read_ca(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            Err(Error::new(Code::ConfigInvalid, format!("cannot read {}", path.display()))
                .caused_by(e))
        }
    }
}

/// The arguments of an `init creds`.
#[derive(Clone, Debug)]
pub struct InitCreds<'a> {
    /// Where `ssl/ca` may lie.
    pub home: &'a Home,
    /// The file to write.
    pub path: &'a Path,
    /// `--adminAddr`.
    pub admin_addr: &'a str,
    /// `--tokenFile`: a file, `-` or a reference; absent = asked for on the
    /// terminal, or read from standard input when that is none.
    pub token_file: Option<&'a str>,
    /// `--caFingerprint`.
    pub fingerprint: Option<&'a str>,
    /// The kind of token that belongs there.
    pub kind: TokenKind,
    /// `--force`.
    pub replace: bool,
}

/// Everything that is known before admin is asked. The caller now makes the
/// call that validates the token (with `peer` and `token`), fills in what it
/// learns, and only then calls [`PreparedCreds::commit`].
#[derive(Debug)]
pub struct PreparedCreds {
    /// To be completed by the caller: `secret`, `meta_addr`, `meta_id`, ….
    pub credentials: Credentials,
    /// The token.
    pub token: Token,
    /// admin, and why it is believed.
    pub peer: Peer,
    path: PathBuf,
    replace: bool,
    /// Where the token of a claim code waits for the credentials.
    pending: Option<Pending>,
}

impl InitCreds<'_> {
    /// Checks the arguments and the file's place, reads the token, and
    /// decides whom to trust; sends nothing.
    ///
    /// # Errors
    /// `CREDS_EXIST` at once, before anything is asked for;
    /// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`; those of
    /// [`establish_trust`].
    pub async fn prepare(&self) -> Result<PreparedCreds> {
        self.check_place()?;
        let (argument, kind) = (self.token_file.map(str::to_owned), self.kind);
        let text = read(move || match argument {
            Some(argument) => reference::read_secret_argument(&argument),
            None => reference::ask_for_secret(&format!("{} token: ", kind.name())),
        })
        .await?;
        let token = Token::parse_kind(&text, self.kind)?;
        let (ca_cert, peer) = establish_trust(self.home, self.admin_addr, self.fingerprint).await?;
        Ok(self.prepared(token, ca_cert, peer, None))
    }

    /// As [`InitCreds::prepare`], with a token that a claim code (`claim_file`
    /// as `token_file`) is traded for. From then on the code is used up and
    /// the token waits beside the credentials file, until they are written.
    ///
    /// # Errors
    /// Those of [`InitCreds::prepare`] and [`claim::redeem`].
    pub async fn prepare_claim(&self, claim_file: &str) -> Result<PreparedCreds> {
        self.check_place()?;
        let argument = claim_file.to_owned();
        let text = read(move || reference::read_secret_argument(&argument)).await?;
        let code = Token::parse_kind(&text, TokenKind::Claim)?;
        let (ca_cert, peer) = establish_trust(self.home, self.admin_addr, self.fingerprint).await?;
        let redeemed = claim::redeem(&peer, &code, self.kind, self.path).await?;
        Ok(self.prepared(redeemed.token, ca_cert, peer, Some(redeemed.pending)))
    }

    /// What can be refused before any secret is read.
    fn check_place(&self) -> Result<()> {
        if self.path.symlink_metadata().is_ok() {
            self.settle_earlier();
            if !self.replace {
                return Err(exists(self.path));
            }
        }
        tls::parse_address(self.admin_addr).map(|_| ())
    }

    /// What an earlier run left that was killed after it had written the file.
    fn settle_earlier(&self) {
        let settled = Credentials::read(self.path).and_then(|kept| kept.settle(self.path));
        if let Err(error) = settled {
            // Nothing of this run depends on it.
            tracing::debug!("{}", error.with_causes());
        }
    }

    fn prepared(
        &self,
        token: Token,
        ca_cert: Option<String>,
        peer: Peer,
        pending: Option<Pending>,
    ) -> PreparedCreds {
        let credentials = Credentials {
            admin_addr: self.admin_addr.to_owned(),
            token: Zeroizing::new(token.reveal().to_owned()),
            ca_cert,
            ..Credentials::default()
        };
        let (path, replace) = (self.path.to_owned(), self.replace);
        PreparedCreds { credentials, token, peer, path, replace, pending }
    }
}

/// A secret may come from a terminal, a pipe or a command.
async fn read(
    source: impl FnOnce() -> Result<Zeroizing<String>> + Send + 'static,
) -> Result<Zeroizing<String>> {
    tokio::task::spawn_blocking(source)
        .await
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
}

impl PreparedCreds {
    /// Writes the file. Called only after admin has accepted the token.
    ///
    /// # Errors
    /// `CREDS_EXIST`, `CONFIG_INVALID`.
    pub fn commit(&self) -> Result<()> {
        self.credentials.write(&self.path, self.replace)?;
        self.settle();
        Ok(())
    }

    /// The token is kept for good, here or elsewhere (a profile): it waits no
    /// longer.
    pub fn settle(&self) {
        let Some(pending) = &self.pending else { return };
        if let Err(error) = pending.remove() {
            // Private, and only a second copy of what was written.
            tracing::warn!("{}", error.with_causes());
        }
    }

    /// What became of a claim code is told with whatever failed afterwards.
    #[must_use]
    pub fn failed(&self, error: Error) -> Error {
        let Some(pending) = &self.pending else { return error };
        let message = format!(
            "{}; the claim code was redeemed and its token waits in {}: run `init creds` again \
             with the same code",
            error.with_causes(),
            pending.path().display()
        );
        Error::new(error.code(), message)
    }

    /// The file that [`PreparedCreds::commit`] writes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
