//! What an operation comes to.

use flexfs_common::ids::{Ino, ObjectId};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::lock_wait::Wanted;

/// What an operation comes to inside its transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Answered.
    Answer(reply::Result),
    /// Answered once everything up to this transaction is on stable storage.
    AnswerSynced(reply::Result),
    /// Object keys were made; their URLs are signed after the commit.
    Minted { objects: Vec<ObjectId>, size_limit: u32 },
    /// A lock to wait for.
    Wait(Wanted),
    /// Nothing was done: this work comes first, in steps of its own, then the
    /// operation again.
    After(Step),
}

/// Work on more engine data than one transaction should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Remove the extents beyond the size of a file that was truncated.
    Trim(Ino),
    /// Remove what lies in a range of a file.
    Punch { ino: Ino, from: u64, to: u64 },
}

impl From<reply::Result> for Outcome {
    fn from(result: reply::Result) -> Outcome {
        Outcome::Answer(result)
    }
}

/// An answer without contents.
pub(super) fn empty() -> Outcome {
    Outcome::Answer(reply::Result::Empty(v1::Empty {}))
}
