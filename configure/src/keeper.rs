//! The file that keeps the token in use: where a rotation of that very token
//! puts the new text, and beside which it waits until admin has taken it.

use std::path::{Path, PathBuf};

use flexfs_auth::creds::{Credentials, Pending, Standing};
use flexfs_auth::token::Token;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result, home};
use zeroize::Zeroizing;

use crate::client;
use crate::output::note;
use crate::profile::Profiles;

/// Where the token's text stands literally. A reference is kept by somebody
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// A credentials file.
    Credentials(PathBuf),
    /// A profile of client.toml.
    Profile {
        /// The file.
        path: PathBuf,
        /// The profile's name.
        name: String,
    },
    /// The first token of an admin on this host.
    RootToken(PathBuf),
}

impl Keeper {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Keeper::Credentials(path) | Keeper::Profile { path, .. } | Keeper::RootToken(path) => {
                path
            }
        }
    }

    /// For people.
    pub(crate) fn place(&self) -> String {
        let path = self.path().display();
        match self {
            Keeper::Credentials(_) | Keeper::RootToken(_) => path.to_string(),
            Keeper::Profile { name, .. } => format!("profile {name} in {path}"),
        }
    }

    /// Where the token's next secret waits.
    pub(crate) fn pending(&self, token: &Token) -> Pending {
        Pending::beside(self.path(), token.kind(), token.id())
    }

    /// Puts the new text in the place of the old one, if that is what stands
    /// there; the file is replaced whole.
    ///
    /// # Errors
    /// `CREDS_MISMATCH` when another token is kept there by now; those of
    /// reading and writing.
    pub(crate) fn replace(&self, old: &Token, new: &Token) -> Result<()> {
        let text = Zeroizing::new(new.reveal().to_owned());
        match self {
            Keeper::Credentials(path) => {
                let mut credentials = Credentials::read(path)?;
                self.check(&credentials.token, old)?;
                credentials.token = text;
                credentials.write(path, true)
            }
            Keeper::Profile { path, name } => {
                let mut profiles = Profiles::read(path)?;
                let profile = profiles.get_mut(name)?;
                self.check(&profile.token, old)?;
                profile.token = text.to_string();
                profiles.write(path)
            }
            Keeper::RootToken(path) => {
                home::write_file(path, Zeroizing::new(format!("{}\n", *text)).as_bytes())
            }
        }
    }

    /// Another process may have been here since we read it.
    fn check(&self, kept: &str, old: &Token) -> Result<()> {
        if Token::parse(kept).is_ok_and(|kept| kept.id() == old.id()) {
            return Ok(());
        }
        let message = format!("{} keeps another token by now", self.place());
        Err(Error::new(Code::CredsMismatch, message))
    }

    /// What an interrupted rotation of this token left: admin is asked
    /// whether it took the new secret. The one to act with, if it did.
    pub(crate) fn resolve(&self, peer: &Peer, token: &Token) -> Option<Token> {
        let pending = self.pending(token);
        if pending.path().symlink_metadata().is_err() {
            return None;
        }
        let standing =
            client::runtime().and_then(|runtime| runtime.block_on(pending.resolve(peer)));
        match standing {
            Ok(Standing::Accepted(new)) => match self.settle(token, &new) {
                Ok(()) => {
                    note(&format!("an earlier rotation is completed in {}", self.place()));
                    Some(new)
                }
                Err(error) => {
                    note(&format!("an earlier rotation is not completed: {}", error.with_causes()));
                    Some(new)
                }
            },
            Ok(Standing::Dropped(_)) => {
                note("an earlier rotation of the token in use had not taken place");
                None
            }
            Ok(Standing::Open(_)) => {
                note("an earlier rotation of the token in use may still take place");
                None
            }
            Ok(Standing::Absent) => None,
            // It goes on waiting; the command itself meets the same admin.
            Err(error) => {
                note(&format!("an earlier rotation is still open: {}", error.with_causes()));
                None
            }
        }
    }

    /// admin has taken the new secret: it is put into the file, and waits no
    /// longer.
    ///
    /// # Errors
    /// Those of [`Keeper::replace`]; the secret then goes on waiting.
    pub(crate) fn settle(&self, old: &Token, new: &Token) -> Result<()> {
        self.replace(old, new)?;
        self.pending(new).remove()
    }
}

#[cfg(test)]
mod tests {
    use flexfs_auth::token::TokenKind;

    use super::*;
    use crate::profile::Profile;

    fn rotated() -> (Token, Token) {
        let old = Token::generate(TokenKind::Account).unwrap();
        let new = Token::generate_for(TokenKind::Account, old.id()).unwrap();
        (old, new)
    }

    #[test]
    fn a_credentials_file_keeps_everything_but_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("creds");
        let (old, new) = rotated();
        let credentials = Credentials {
            admin_addr: "a:1".into(),
            token: Zeroizing::new(old.reveal().to_owned()),
            meta_addr: Some("m:2".into()),
            ..Credentials::default()
        };
        credentials.write(&path, false).unwrap();
        let keeper = Keeper::Credentials(path.clone());
        keeper.pending(&old).write(&new).unwrap();
        keeper.settle(&old, &new).unwrap();
        let read = Credentials::read(&path).unwrap();
        assert_eq!(read.token.as_str(), new.reveal());
        assert_eq!(read.meta_addr.as_deref(), Some("m:2"));
        assert_eq!(keeper.pending(&old).read().unwrap().map(|t| t.id()), None);
        // Somebody else put another token there.
        let (other, next) = rotated();
        assert_eq!(keeper.replace(&other, &next).unwrap_err().code(), Code::CredsMismatch);
        assert_eq!(Credentials::read(&path).unwrap().token.as_str(), new.reveal());
    }

    #[test]
    fn a_profile_is_rewritten_beside_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.toml");
        let (old, new) = rotated();
        let profile =
            |token: &str| Profile { admin_addr: "a:1".into(), token: token.into(), ca_cert: None };
        let mut profiles = Profiles { active: Some("prod".into()), ..Profiles::default() };
        profiles.profiles.insert("prod".into(), profile(old.reveal()));
        profiles.profiles.insert("test".into(), profile("env:T"));
        profiles.write(&path).unwrap();
        let keeper = Keeper::Profile { path: path.clone(), name: "prod".into() };
        keeper.settle(&old, &new).unwrap();
        let read = Profiles::read(&path).unwrap();
        assert_eq!(read.get("prod").unwrap().token, new.reveal());
        assert_eq!(read.get("test").unwrap().token, "env:T");
        assert!(keeper.place().contains("profile prod"));
    }

    #[test]
    fn the_first_token_of_an_admin_is_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.token");
        let (old, new) = rotated();
        home::write_file(&path, old.reveal().as_bytes()).unwrap();
        Keeper::RootToken(path.clone()).settle(&old, &new).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", new.reveal()));
    }
}
