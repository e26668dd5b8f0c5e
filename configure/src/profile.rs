//! `client.toml`: named places to work at, each with its admin and token.
//! Values may hold `${VAR}`, and the token may be a reference.

use std::collections::BTreeMap;
use std::path::Path;

use flexfs_auth::{private_file, reference};
use flexfs_common::{Code, Error, Result, home};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of the file.
const FILE_MAX_LEN: usize = 1024 * 1024;

/// One place.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Profile {
    /// `host:port`, or `http://host:port`.
    pub(crate) admin_addr: String,
    /// The token's text or a reference.
    pub(crate) token: String,
    /// The pinned CA, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<String>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("admin_addr", &self.admin_addr).finish_non_exhaustive()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

/// The whole file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// The one used without `--profile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) active: Option<String>,
    /// All, by name.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

impl Profiles {
    /// Reads the file; an absent one has no profiles.
    ///
    /// # Errors
    /// `CREDS_INSECURE`; `CONFIG_INVALID` naming the line.
    pub(crate) fn read(path: &Path) -> Result<Profiles> {
        let text = match private_file::read(path, FILE_MAX_LEN) {
            Ok(text) => text,
            Err(e) if e.code() == Code::CredsMissing => return Ok(Profiles::default()),
            Err(e) => return Err(e),
        };
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            // The line is named and not quoted: it may be the one with the token.
            Error::new(
                Code::ConfigInvalid,
                format!(
                    "{} line {} is not understood; it holds `active` and [profiles.NAME] with \
                     adminAddr, token, caCert",
                    path.display(),
                    before.matches('\n').count() + 1
                ),
            )
        })
    }

    /// Writes it, mode 0600.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        // The source is dropped: it may quote what it could not write.
        let text = toml::to_string(self).map(Zeroizing::new);
        let text = text.map_err(|_| Error::new(Code::Internal, "profiles are no TOML"))?;
        if let Some(dir) = path.parent() {
            home::make_dir(dir)?;
        }
        home::write_file(path, text.as_bytes())
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// `CREDS_MISSING`, naming those that exist.
    pub(crate) fn get(&self, name: &str) -> Result<&Profile> {
        self.profiles.get(name).ok_or_else(|| self.missing(name))
    }

    /// As [`Profiles::get`], to be changed.
    ///
    /// # Errors
    /// As [`Profiles::get`].
    pub(crate) fn get_mut(&mut self, name: &str) -> Result<&mut Profile> {
        let missing = self.missing(name);
        self.profiles.get_mut(name).ok_or(missing)
    }

    fn missing(&self, name: &str) -> Error {
        let names: Vec<_> = self.profiles.keys().map(String::as_str).collect();
        let known = if names.is_empty() {
            "client.toml has none".to_owned()
        } else {
            format!("client.toml has {}", names.join(", "))
        };
        let name = name.escape_debug();
        Error::new(Code::CredsMissing, format!("there is no profile `{name}`; {known}"))
    }
}

impl Profile {
    /// The address with its variables replaced.
    ///
    /// # Errors
    /// `REFERENCE_INVALID`.
    pub(crate) fn address(&self) -> Result<String> {
        reference::interpolate(&self.admin_addr).map(|address| address.to_string())
    }

    /// The token or reference with its variables replaced.
    ///
    /// # Errors
    /// `REFERENCE_INVALID`.
    pub(crate) fn token_text(&self) -> Result<Zeroizing<String>> {
        reference::interpolate(&self.token)
    }
}

/// A name that can stand in a table heading as it is.
///
/// # Errors
/// `NAME_INVALID`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 63 && name.chars().all(ok) {
        return Ok(());
    }
    let shown = name.escape_debug();
    Err(Error::new(
        Code::NameInvalid,
        format!("`{shown}` is no profile name: [A-Za-z0-9._-]{{1,63}}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(token: &str) -> Profile {
        Profile { admin_addr: "a:1".into(), token: token.into(), ca_cert: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home/client.toml");
        assert!(Profiles::read(&path).unwrap().profiles.is_empty());
        let mut profiles = Profiles { active: Some("prod".into()), ..Profiles::default() };
        profiles.profiles.insert("prod".into(), profile("env:T"));
        profiles.profiles.insert("a.b".into(), profile("secret"));
        profiles.write(&path).unwrap();
        let read = Profiles::read(&path).unwrap();
        assert_eq!(read.active.as_deref(), Some("prod"));
        assert_eq!(read.get("a.b").unwrap().token, "secret");
        let missing = read.get("x").unwrap_err();
        assert!(missing.message().contains("a.b, prod"), "{}", missing.message());
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn errors_name_the_line_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.toml");
        home::write_file(&path, b"active = 'x'\n[profiles.x]\ntoken = [\"hush\"]\n").unwrap();
        let error = Profiles::read(&path).unwrap_err();
        assert!(error.message().contains("line 3"), "{}", error.message());
        assert!(!error.with_causes().contains("hush"));
    }

    #[test]
    fn names() {
        assert!(check_name("prod-1.x_y").is_ok());
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
