//! Where admin is and which token to use, in the order of docs/cli.md, each
//! with where it came from (`config show`).

use std::path::{Path, PathBuf};

use flexfs_auth::creds::{Credentials, admin_peer};
use flexfs_auth::token::{TOKEN_LEN, Token, TokenKind};
use flexfs_auth::{private_file, reference};
use flexfs_common::daemon::RunFile;
use flexfs_common::home::Home;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

use crate::args::Globals;
use crate::keeper::Keeper;
use crate::profile::Profiles;

/// The variable with the token.
pub(crate) const TOKEN_VARIABLE: &str = "FLEXFS_TOKEN";
/// The variable with the profile's name.
pub(crate) const PROFILE_VARIABLE: &str = "FLEXFS_PROFILE";

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Sourced<T> {
    /// The value.
    pub(crate) value: T,
    /// For people: a flag, a variable, a file.
    pub(crate) source: String,
}

/// Where admin is, and the token that is kept with that.
pub(crate) struct Place {
    /// `host:port` or `http://host:port`.
    pub(crate) admin_addr: Sourced<String>,
    /// The CA, PEM; `None` = the operating system's authorities.
    pub(crate) ca_cert: Option<Sourced<String>>,
    token: StoredToken,
    keeper: Option<Keeper>,
}

/// The token that belongs to the place.
enum StoredToken {
    /// In a profile or credentials file: a literal or a reference.
    Text(Sourced<Zeroizing<String>>),
    /// The first token of an admin on this host.
    RootFile(PathBuf),
}

/// The settings of one run.
pub(crate) struct Settings<'a> {
    /// `FLEXFS_HOME`.
    pub(crate) home: Home,
    globals: &'a Globals,
}

impl<'a> Settings<'a> {
    /// For these arguments and this environment.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub(crate) fn new(globals: &'a Globals) -> Result<Settings<'a>> {
        Ok(Settings { home: Home::from_env()?, globals })
    }

    /// The credentials file that `init creds` writes.
    pub(crate) fn creds_path(&self) -> PathBuf {
        self.globals.creds_file.clone().unwrap_or_else(|| self.home.path("configure/creds"))
    }

    /// The profiles' file.
    pub(crate) fn profiles_path(&self) -> PathBuf {
        self.home.path("client.toml")
    }

    /// The profile in use: flag, variable, `active`; `None` with --credsFile.
    ///
    /// # Errors
    /// Those of [`Profiles::read`].
    pub(crate) fn profile(&self) -> Result<Option<Sourced<String>>> {
        let found = |value: String, source: &str| Sourced { value, source: source.to_owned() };
        if self.globals.creds_file.is_some() {
            return Ok(None);
        }
        if let Some(name) = &self.globals.profile {
            return Ok(Some(found(name.clone(), "--profile")));
        }
        match std::env::var(PROFILE_VARIABLE) {
            Ok(name) if !name.is_empty() => Ok(Some(found(name, PROFILE_VARIABLE))),
            Ok(_) | Err(_) => {
                let path = self.profiles_path();
                let active = Profiles::read(&path)?.active;
                Ok(active.map(|name| found(name, &format!("active in {}", path.display()))))
            }
        }
    }

    /// Profile → credentials file → an admin on this host.
    ///
    /// # Errors
    /// `CREDS_MISSING` when there is none of them; what is wrong with the
    /// first that is there (it is not skipped).
    pub(crate) fn place(&self) -> Result<Place> {
        if let Some(name) = self.profile()? {
            return self.place_of_profile(&name.value);
        }
        let path = self.creds_path();
        if self.globals.creds_file.is_some() || path.symlink_metadata().is_ok() {
            return place_of_file(&path);
        }
        self.place_on_this_host()
    }

    fn place_of_profile(&self, name: &str) -> Result<Place> {
        let path = self.profiles_path();
        let profiles = Profiles::read(&path)?;
        let profile = profiles.get(name)?;
        let source = format!("profile {name} in {}", path.display());
        let is_literal = !reference::is_reference(&profile.token) && !profile.token.contains("${");
        let keeper = || Keeper::Profile { path: path.clone(), name: name.to_owned() };
        Ok(Place {
            keeper: is_literal.then(keeper),
            admin_addr: Sourced { value: profile.address()?, source: source.clone() },
            ca_cert: profile.ca_cert.clone().map(|value| Sourced { value, source: source.clone() }),
            token: StoredToken::Text(Sourced { value: profile.token_text()?, source }),
        })
    }

    fn place_on_this_host(&self) -> Result<Place> {
        let root_token = self.home.path("admin/root.token");
        let run_path = self.home.path("admin/run");
        let Some(run) = RunFile::find(&run_path)? else {
            if root_token.exists() {
                return Err(Error::new(
                    Code::DaemonNotRunning,
                    "admin.flexfs of this FLEXFS_HOME is not running, and there are no other \
                     credentials",
                ));
            }
            return Err(Error::new(
                Code::CredsMissing,
                format!(
                    "there are no credentials: no profile, no {}, and no admin.flexfs of this \
                     FLEXFS_HOME; run `configure.flexfs init creds --adminAddr HOST:PORT`",
                    self.creds_path().display()
                ),
            ));
        };
        let source = format!("running admin ({})", run_path.display());
        let address = reachable(&run.address);
        let value = if run.no_ssl { format!("http://{address}") } else { address };
        let ca_path = self.home.path("ssl/ca");
        let ca_cert = match std::fs::read_to_string(&ca_path) {
            Ok(value) => Some(Sourced { value, source: ca_path.display().to_string() }),
            Err(_) => None,
        };
        let admin_addr = Sourced { value, source };
        let keeper = Some(Keeper::RootToken(root_token.clone()));
        Ok(Place { admin_addr, ca_cert, token: StoredToken::RootFile(root_token), keeper })
    }

    /// `--tokenFile` → `FLEXFS_TOKEN` → what the place has. `explicit` is the
    /// former where the command does not use it for something else.
    ///
    /// # Errors
    /// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`, those of
    /// credentials files.
    pub(crate) fn token(&self, place: &Place, explicit: Option<&str>) -> Result<Sourced<Token>> {
        let text = self.token_text(place, explicit)?;
        let named = |e: Error| match e.code() {
            Code::TokenMalformed | Code::TokenWrongKind => {
                Error::new(e.code(), format!("{}: {}", text.source, e.message()))
            }
            _ => e,
        };
        let value = Token::parse_kind(&text.value, TokenKind::Account).map_err(named)?;
        Ok(Sourced { value, source: text.source })
    }

    fn token_text(
        &self,
        place: &Place,
        explicit: Option<&str>,
    ) -> Result<Sourced<Zeroizing<String>>> {
        if let Some(argument) = explicit {
            let value = reference::read_secret_argument(argument)?;
            return Ok(Sourced { value, source: format!("--tokenFile {argument}") });
        }
        if let Some(value) = token_of_environment()? {
            return Ok(Sourced { value, source: TOKEN_VARIABLE.to_owned() });
        }
        match &place.token {
            StoredToken::Text(stored) => {
                let value = reference::resolve(&stored.value)?;
                let source = match reference::is_reference(&stored.value) {
                    true => format!("a reference in {}", stored.source),
                    false => stored.source.clone(),
                };
                Ok(Sourced { value, source })
            }
            StoredToken::RootFile(path) => {
                let mut value = private_file::read(path, TOKEN_LEN + 8)?;
                let length = value.trim_end().len();
                value.truncate(length);
                Ok(Sourced { value, source: path.display().to_string() })
            }
        }
    }
}

impl Place {
    /// The file that keeps the token which [`Settings::token`] gives: `None`
    /// when that comes from elsewhere, or a reference stands in the file.
    pub(crate) fn keeper_of_token(&self, explicit: Option<&str>) -> Option<Keeper> {
        let elsewhere = explicit.is_some() || std::env::var_os(TOKEN_VARIABLE).is_some();
        self.keeper.clone().filter(|_| !elsewhere)
    }

    /// admin as a peer.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, naming the source of what is wrong.
    pub(crate) fn peer(&self) -> Result<Peer> {
        let ca = self.ca_cert.as_ref().map(|ca| ca.value.as_str());
        admin_peer(&self.admin_addr.value, ca).map_err(|e| {
            let message = format!("{}: {}", self.admin_addr.source, e.message());
            Error::new(Code::ConfigInvalid, message)
        })
    }
}

/// The environment's token, references resolved; an empty variable is an
/// error and not "none": another token would be used unnoticed.
fn token_of_environment() -> Result<Option<Zeroizing<String>>> {
    let Some(value) = std::env::var_os(TOKEN_VARIABLE) else { return Ok(None) };
    let text = value
        .into_string()
        .map(Zeroizing::new)
        .map_err(|_| Error::new(Code::ReferenceInvalid, format!("{TOKEN_VARIABLE} is not text")))?;
    if text.trim().is_empty() {
        let message = format!("{TOKEN_VARIABLE} is set and empty; set it to a token or unset it");
        return Err(Error::new(Code::ReferenceInvalid, message));
    }
    reference::resolve(&text).map(Some)
}

fn place_of_file(path: &Path) -> Result<Place> {
    let credentials = Credentials::read(path)?;
    let source = path.display().to_string();
    let is_literal = !reference::is_reference(&credentials.token);
    Ok(Place {
        keeper: is_literal.then(|| Keeper::Credentials(path.to_owned())),
        admin_addr: Sourced { value: credentials.admin_addr, source: source.clone() },
        ca_cert: credentials.ca_cert.map(|value| Sourced { value, source: source.clone() }),
        token: StoredToken::Text(Sourced { value: credentials.token, source }),
    })
}

/// What a server that listens everywhere is called from its own host.
fn reachable(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        Some(_) | None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_called_on_loopback() {
        assert_eq!(reachable("0.0.0.0:7400"), "127.0.0.1:7400");
        assert_eq!(reachable("[::]:7400"), "[::1]:7400");
        assert_eq!(reachable("10.0.0.1:7400"), "10.0.0.1:7400");
    }
}
