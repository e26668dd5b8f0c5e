//! This server's own token. It rotates without a restart: the credentials file
//! is looked at every [`limits::CREDS_POLL`], and read again at once when admin
//! refuses the token. What is wrong with the file is logged once, and the token
//! in use stays. Everything else in the file counts at the next start.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::clock::BootTime;
use flexfs_common::{Result, limits};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Service, block};

/// How often a file that has not changed is read again because admin refuses
/// the token: its token may be a reference (`file:`, `exec:`) to what has.
const AGAIN: Duration = Duration::from_secs(5);

/// Which file it is, and in which state: a replacement by rename has another
/// inode, a change in place another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// `None` when it cannot be looked at.
fn state_of(path: &Path) -> Option<FileState> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(FileState {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn read(path: &Path) -> Result<Token> {
    Credentials::read(path)?.token(TokenKind::Meta)
}

#[derive(Debug)]
struct Inner {
    token: Token,
    /// The file as it was when it was last read.
    read: Option<FileState>,
    /// When it was last read although it had not changed.
    read_again: Option<BootTime>,
}

/// The own token, and where it comes from.
#[derive(Debug)]
pub struct OwnToken {
    /// `None`: it cannot change.
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
    /// Held while the file is read: that may run a command.
    reading: Mutex<()>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl OwnToken {
    /// Reads the credentials file. Blocks.
    ///
    /// # Errors
    /// As [`Credentials::read`] and [`Credentials::token`].
    pub fn load(path: &Path) -> Result<OwnToken> {
        // Before it is read: a change in between is seen by the next look.
        let state = state_of(path);
        Ok(OwnToken::new(read(path)?, Some(path.to_owned()), state))
    }

    /// One that stays what it is.
    #[must_use]
    pub fn fixed(token: Token) -> OwnToken {
        OwnToken::new(token, None, None)
    }

    fn new(token: Token, path: Option<PathBuf>, read: Option<FileState>) -> OwnToken {
        let inner = Inner { token, read, read_again: None };
        OwnToken {
            path,
            inner: Mutex::new(inner),
            reading: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The token in use.
    #[must_use]
    pub fn token(&self) -> Token {
        self.inner.lock().token.clone()
    }

    /// Follows changes of it.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads the file when it has changed, or when admin refuses what is in
    /// use (then not more often than every few seconds). Returns another token
    /// when there is one. Blocks.
    fn look(&self, refused: bool) -> Option<Token> {
        let path = self.path.as_ref()?;
        let _one_reads = self.reading.lock();
        let state = state_of(path);
        {
            let mut inner = self.inner.lock();
            if state == inner.read {
                let due = inner.read_again.is_none_or(|at| at.after(AGAIN).passed());
                if !(refused && due) {
                    return None;
                }
                inner.read_again = Some(BootTime::now());
            }
        }
        let outcome = read(path);
        let mut inner = self.inner.lock();
        let is_new = state != inner.read;
        inner.read = state;
        match outcome {
            Ok(token) if token.reveal() == inner.token.reveal() => None,
            Ok(token) => Some(token),
            Err(error) => {
                // Once for each state of the file.
                if is_new {
                    tracing::warn!(code = %error.code(), error = %error.with_causes(),
                        hint = error.hint(), "credentials file: the token in use stays");
                }
                None
            }
        }
    }

    fn set(&self, token: Token) {
        self.inner.lock().token = token;
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Service {
    /// Looks for another token of this server, and puts it into use; true when
    /// there was one. Blocks.
    pub fn renew_own(&self, refused: bool) -> bool {
        let Some(token) = self.own.look(refused) else { return false };
        if let Err(error) = self.authority.set_token(&token) {
            // The address was good before.
            tracing::error!(error = %error.with_causes(), "admin's address");
            return false;
        }
        tracing::info!(token = %token.id(), "this server's own token has changed");
        self.own.set(token);
        self.feed.set_own_refused(None);
        true
    }

    /// Admin refuses this server's own token. True when there is another one
    /// now. Blocks.
    pub fn own_is_refused(&self, code: flexfs_common::Code) -> bool {
        if self.renew_own(true) {
            return true;
        }
        self.feed.set_own_refused(Some(code));
        false
    }
}

/// Looks after the credentials file, until the server ends.
pub async fn watch_file(service: Arc<Service>) {
    loop {
        tokio::select! {
            () = service.stop.cancelled() => return,
            () = tokio::time::sleep(limits::CREDS_POLL) => {}
        }
        block(|| service.renew_own(false));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use flexfs_common::Code;

    use super::*;

    fn write(path: &Path, token: &Token) {
        let text = format!("adminAddr = \"127.0.0.1:9\"\ntoken = \"{}\"\n", token.reveal());
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn text(own: &OwnToken) -> String {
        own.token().reveal().to_owned()
    }

    fn take(own: &OwnToken, refused: bool) -> bool {
        own.look(refused).map(|token| own.set(token)).is_some()
    }

    #[test]
    fn a_replaced_file_is_seen_and_what_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("creds");
        assert_eq!(OwnToken::load(&path).unwrap_err().code(), Code::CredsMissing);
        let first = Token::generate(TokenKind::Meta).unwrap();
        write(&path, &first);
        let own = OwnToken::load(&path).unwrap();
        let mut changes = own.changes();
        assert!(!take(&own, false));
        // The same token in another file is no change.
        write(&path, &first);
        assert!(!take(&own, false));
        let second = Token::generate_for(TokenKind::Meta, first.id()).unwrap();
        write(&path, &second);
        assert!(take(&own, false));
        assert_eq!(text(&own), second.reveal());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();

        std::fs::remove_file(&path).unwrap();
        assert!(!take(&own, false));
        let third = Token::generate(TokenKind::Meta).unwrap();
        write(&path, &third);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!take(&own, true), "others could have read it");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(!take(&own, true));
        write(&path, &Token::generate(TokenKind::Volume).unwrap());
        assert!(!take(&own, false), "of another kind");
        assert!(!changes.has_changed().unwrap());
        assert_eq!(text(&own), second.reveal());
        write(&path, &third);
        assert!(take(&own, false), "another id is as good");
        assert_eq!(text(&own), third.reveal());
    }

    #[test]
    fn a_refused_token_is_looked_for_behind_its_reference_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("creds"), dir.path().join("token"));
        let put = |token: &Token| {
            std::fs::write(&secret, token.reveal()).unwrap();
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let first = Token::generate(TokenKind::Meta).unwrap();
        put(&first);
        let reference = format!("file:{}", secret.display());
        let creds = format!("adminAddr = \"127.0.0.1:9\"\ntoken = \"{reference}\"\n");
        std::fs::write(&path, creds).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let own = OwnToken::load(&path).unwrap();
        let second = Token::generate_for(TokenKind::Meta, first.id()).unwrap();
        put(&second);
        assert!(!take(&own, false), "the file itself is what it was");
        assert!(take(&own, true));
        assert_eq!(text(&own), second.reveal());
        put(&first);
        assert!(!take(&own, true), "not more often than every few seconds");
    }
}
