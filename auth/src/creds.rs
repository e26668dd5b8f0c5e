//! Credentials files: TOML, mode 0600 in a 0700 directory, written
//! atomically; refused when group or others can read it, another user owns
//! it, or it is a symlink (checked on the open descriptor: O_NOFOLLOW, fstat).

use std::path::Path;

use flexfs_common::Result;
use zeroize::Zeroizing;

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
    pub block_creds: std::collections::BTreeMap<String, String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("admin_addr", &self.admin_addr).finish_non_exhaustive()
    }
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl Credentials {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// `CREDS_MISSING`, `CREDS_INSECURE` (with the command that mends it:
    /// `chmod 600 PATH`, `chown …`), `CREDS_INVALID`.
    pub fn read(path: &Path) -> Result<Credentials> {
        unimplemented!()
    }
    /// Writes it; an existing file is replaced only with `replace`.
    ///
    /// # Errors
    /// `CREDS_EXIST`, `CONFIG_INVALID`.
    pub fn write(&self, path: &Path, replace: bool) -> Result<()> {
        unimplemented!()
    }
    /// The token, references resolved, of the kind expected.
    ///
    /// # Errors
    /// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`.
    pub fn token(&self, kind: crate::token::TokenKind) -> Result<crate::token::Token> {
        unimplemented!()
    }
    /// admin as a peer: address, role name, trust from `ca_cert`.
    ///
    /// # Errors
    /// `CREDS_INVALID`.
    pub fn admin_peer(&self) -> Result<flexfs_common::tls::Peer> {
        unimplemented!()
    }
}

/// How `init creds` decides whom to trust, before any token is sent: the
/// fingerprint if given (fetches the CA), else `ssl/ca` of this home if it
/// exists, else the operating system's authorities; `http://` addresses
/// have no TLS. Returns the CA's PEM to keep, and the peer.
///
/// # Errors
/// `PEER_UNTRUSTED`, `ADMIN_UNREACHABLE`, `ARGUMENT_INVALID`.
#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
pub async fn establish_trust(
    home: &flexfs_common::home::Home,
    admin_addr: &str,
    fingerprint: Option<&str>,
) -> Result<(Option<String>, flexfs_common::tls::Peer)> {
    unimplemented!()
}
