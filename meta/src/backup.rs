//! Backups of a metadata store: engine-neutral, one file, see
//! docs/backup.md for the format.

pub mod dump;
pub mod format;
pub mod load;
#[cfg(test)]
mod tests;

use flexfs_common::{Code, Error};

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// When its snapshot was taken, in nanoseconds since 1970.
    pub made_at: i64,
    /// Volumes.
    pub volumes: u64,
    /// Rows of all volumes.
    pub rows: u64,
}

fn invalid(why: &str) -> Error {
    Error::new(Code::BackupInvalid, why)
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::new(Code::BackupFailed, what).caused_by(e)
}
