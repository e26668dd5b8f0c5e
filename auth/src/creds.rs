//! Credentials files: TOML, mode 0600 in a 0700 directory, written
//! atomically; refused when group or others can read it, another user owns
//! it, or it is a symlink (checked on the open descriptor: O_NOFOLLOW, fstat).

use std::collections::BTreeMap;
use std::mem::take;
use std::path::Path;

use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error, Result, home};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::token::{Token, TokenKind};
use crate::{private_file, reference};

mod init;
mod pem;
pub(crate) mod pending;

pub use init::{InitCreds, PreparedCreds, establish_trust};
pub use pending::{Pending, Standing};

/// Bytes of a credentials file: a CA, a token and some names, with room.
const FILE_MAX_LEN: usize = 64 * 1024;

/// What a tier needs to reach the tier above. Spellings as in DESIGN section
/// 3: `adminAddr`, `token`, `secret`, `metaAddr`; `caCert` is the pinned CA
/// (PEM), `metaID` the id of the metadata server last told by admin.
/// Unknown keys are an error.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `host:port` of admin, or `http://host:port` for one without TLS.
    pub admin_addr: String,
    /// The token's text, or a reference (`env:`, `file:`, `exec:`).
    pub token: Zeroizing<String>,
    /// Secret of an encrypted volume, or a reference.
    pub secret: Option<Zeroizing<String>>,
    /// `host:port` of the metadata server last told by admin.
    pub meta_addr: Option<String>,
    /// Its id (the name in its certificate).
    pub meta_id: Option<String>,
    /// The pinned CA, PEM; absent = the operating system's authorities.
    pub ca_cert: Option<String>,
    /// Meta only: names of block-store credentials → reference to a file.
    pub block_creds: BTreeMap<String, String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("admin_addr", &self.admin_addr).finish_non_exhaustive()
    }
}

/// The file's keys, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileForm {
    admin_addr: String,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_addr: Option<String>,
    #[serde(rename = "metaID", skip_serializing_if = "Option::is_none")]
    meta_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_cert: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    block_creds: BTreeMap<String, String>,
}

impl Drop for FileForm {
    fn drop(&mut self) {
        self.token.zeroize();
        self.secret.zeroize();
    }
}

impl Credentials {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// `CREDS_MISSING`, `CREDS_INSECURE` (with the command that mends it:
    /// `chmod 600 PATH`, `chown …`), `CREDS_INVALID`.
    pub fn read(path: &Path) -> Result<Credentials> {
        let text = private_file::read(path, FILE_MAX_LEN)?;
        let mut form: FileForm =
            toml::from_str(&text).map_err(|e| not_understood(path, &text, &e))?;
        let credentials = Credentials {
            admin_addr: take(&mut form.admin_addr),
            token: Zeroizing::new(take(&mut form.token)),
            secret: form.secret.take().map(Zeroizing::new),
            meta_addr: form.meta_addr.take(),
            meta_id: form.meta_id.take(),
            ca_cert: form.ca_cert.take(),
            block_creds: take(&mut form.block_creds),
        };
        let why = |e: &Error| {
            Error::new(Code::CredsInvalid, format!("{}: {}", path.display(), e.message()))
        };
        credentials.check().map_err(|e| why(&e))?;
        Ok(credentials)
    }

    /// What can be known to be wrong without resolving a reference.
    fn check(&self) -> Result<()> {
        self.admin_peer()?;
        if self.token.is_empty() {
            return Err(Error::new(Code::CredsInvalid, "the token is empty"));
        }
        self.meta_addr.as_deref().map(tls::parse_address).transpose()?;
        Ok(())
    }

    /// Writes it; an existing file is replaced only with `replace`. Missing
    /// directories are made with mode 0700.
    ///
    /// # Errors
    /// `CREDS_EXIST`, `CONFIG_INVALID`.
    pub fn write(&self, path: &Path, replace: bool) -> Result<()> {
        self.check()?;
        let form = FileForm {
            admin_addr: self.admin_addr.clone(),
            token: self.token.to_string(),
            secret: self.secret.as_ref().map(|secret| secret.to_string()),
            meta_addr: self.meta_addr.clone(),
            meta_id: self.meta_id.clone(),
            ca_cert: self.ca_cert.clone(),
            block_creds: self.block_creds.clone(),
        };
        let text = toml::to_string(&form).map(Zeroizing::new);
        // The source is dropped: it may quote what it could not write.
        let text = text.map_err(|_| Error::new(Code::Internal, "credentials are no TOML"))?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            home::make_dir(dir)?;
        }
        if replace {
            return home::write_file(path, text.as_bytes());
        }
        if home::write_new_file(path, text.as_bytes())? { Ok(()) } else { Err(exists(path)) }
    }

    /// The token, references resolved, of the kind expected. Blocks (an
    /// `exec:` reference runs a command).
    ///
    /// # Errors
    /// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`.
    pub fn token(&self, kind: TokenKind) -> Result<Token> {
        Token::parse_kind(&reference::resolve(&self.token)?, kind)
    }

    /// A run of `init creds` that was killed at its very end leaves its token
    /// waiting beside this file, which has it by now: it waits no longer. What
    /// waits and is not this very secret is left alone: admin may know it.
    /// Blocks.
    ///
    /// # Errors
    /// Those of [`Pending::read`] and [`Pending::remove`].
    pub fn settle(&self, path: &Path) -> Result<()> {
        // A reference is kept by somebody else: what waits may be all there is.
        let Ok(kept) = Token::parse(&self.token) else { return Ok(()) };
        let pending = Pending::beside(path, kept.kind(), kept.id());
        match pending.read()? {
            Some(waiting) if waiting.reveal() == kept.reveal() => pending.remove(),
            Some(_) | None => Ok(()),
        }
    }

    /// admin as a peer: address, role name, trust from `ca_cert`.
    ///
    /// # Errors
    /// `CREDS_INVALID`.
    pub fn admin_peer(&self) -> Result<Peer> {
        admin_peer(&self.admin_addr, self.ca_cert.as_deref())
            .map_err(|e| Error::new(Code::CredsInvalid, e.message().to_owned()).caused_by(e))
    }
}

/// admin at this address, trusted through this CA (PEM) or, without one, the
/// operating system's authorities; without TLS for `http://`.
///
/// # Errors
/// `ARGUMENT_INVALID` for the address, `CONFIG_INVALID` for the CA.
pub fn admin_peer(admin_addr: &str, ca_cert: Option<&str>) -> Result<Peer> {
    let (address, plain) = tls::parse_address(admin_addr)?;
    let trust = match ca_cert {
        _ if plain => Trust::Plaintext,
        Some(pem) => Trust::Ca(tls::certificate_from_pem(pem)?),
        None => Trust::System,
    };
    Ok(Peer {
        address,
        name: tls::ADMIN_NAME.to_owned(),
        trust,
        unreachable: Code::AdminUnreachable,
    })
}

fn exists(path: &Path) -> Error {
    Error::new(Code::CredsExist, format!("{} exists and is not replaced", path.display()))
}

/// Names the line and never quotes it: it may be the one with the token.
fn not_understood(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    Error::new(
        Code::CredsInvalid,
        format!(
            "{} line {line} is not understood; it holds adminAddr and token, and may hold secret, \
             metaAddr, metaID, caCert, [blockCreds]",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests;
