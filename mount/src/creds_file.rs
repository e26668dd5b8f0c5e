//! The credentials file of a mount, which may change while it is mounted: the
//! token's new secret after a rotation. Looked at by stat(2), read only when
//! it is another file than before.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::Error;

/// What stat(2) tells of a file; another one whenever its contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` when there is no such file.
    fn of(metadata: std::io::Result<std::fs::Metadata>) -> Option<Stamp> {
        let metadata = metadata.ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The credentials file, and the file that it refers to for the token, if it
/// does (`token = "file:/…"`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    file: Option<Stamp>,
    referenced: Option<Stamp>,
}

/// Tells tokens apart without keeping them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(blake3::Hash);

impl Fingerprint {
    /// Of a token's text.
    #[must_use]
    pub fn of(token: &Token) -> Fingerprint {
        Fingerprint(blake3::hash(token.reveal().as_bytes()))
    }
}

/// A file that is looked at again and again.
#[derive(Debug)]
pub struct CredsFile {
    path: PathBuf,
    referenced: Option<PathBuf>,
    seen: Option<Version>,
}

/// What a look has found.
#[derive(Debug)]
pub enum Look {
    /// The same file as at the last look.
    Unchanged,
    /// Another one, with this token.
    Read(Token),
    /// Another one (or none), which cannot be used. Told once.
    Unusable(Error),
}

impl CredsFile {
    /// A file at an absolute path, not looked at yet.
    #[must_use]
    pub fn new(path: PathBuf) -> CredsFile {
        CredsFile { path, referenced: None, seen: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks. Blocks; a token that comes from a command (`exec:`) is asked
    /// for only when the file itself has changed.
    pub fn look(&mut self) -> Look {
        // Before it is read: what changes meanwhile is seen at the next look.
        let before = Version { file: self.stamp(), referenced: self.referenced_stamp() };
        if self.seen.as_ref() == Some(&before) {
            return Look::Unchanged;
        }
        let mut version = before;
        let read = Credentials::read(&self.path).and_then(|creds| {
            self.referenced = creds.token.strip_prefix("file:").map(PathBuf::from);
            version.referenced = self.referenced_stamp();
            creds.token(TokenKind::Volume)
        });
        self.seen = Some(version);
        match read {
            Ok(token) => Look::Read(token),
            Err(error) => Look::Unusable(error),
        }
    }

    /// Of the file itself: a symbolic link is refused.
    fn stamp(&self) -> Option<Stamp> {
        Stamp::of(self.path.symlink_metadata())
    }

    fn referenced_stamp(&self) -> Option<Stamp> {
        Stamp::of(self.referenced.as_ref()?.metadata())
    }
}

#[cfg(test)]
mod tests;
