//! What every `init creds` does: whom to trust, which token, where to write.

use std::path::{Path, PathBuf};

use flexfs_common::home::Home;
use flexfs_common::tls::{self, Fingerprint, Peer, Trust};
use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

use super::{Credentials, admin_peer, exists, pem};
use crate::reference;
use crate::token::{Token, TokenKind};

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
        if !self.replace && self.path.symlink_metadata().is_ok() {
            return Err(exists(self.path));
        }
        tls::parse_address(self.admin_addr)?;
        let (argument, kind) = (self.token_file.map(str::to_owned), self.kind);
        let text = tokio::task::spawn_blocking(move || match argument {
            Some(argument) => reference::read_secret_argument(&argument),
            None => reference::ask_for_secret(&format!("{} token: ", kind.name())),
        })
        .await
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))??;
        let token = Token::parse_kind(&text, self.kind)?;
        let (ca_cert, peer) = establish_trust(self.home, self.admin_addr, self.fingerprint).await?;
        let credentials = Credentials {
            admin_addr: self.admin_addr.to_owned(),
            token: Zeroizing::new(token.reveal().to_owned()),
            ca_cert,
            ..Credentials::default()
        };
        let (path, replace) = (self.path.to_owned(), self.replace);
        Ok(PreparedCreds { credentials, token, peer, path, replace })
    }
}

impl PreparedCreds {
    /// Writes the file. Called only after admin has accepted the token.
    ///
    /// # Errors
    /// `CREDS_EXIST`, `CONFIG_INVALID`.
    pub fn commit(&self) -> Result<()> {
        self.credentials.write(&self.path, self.replace)
    }

    /// The file that [`PreparedCreds::commit`] writes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
