//! What became of one operation of a frame.

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use crate::volume::context::Context;
use crate::volume::edit::Extent;
use crate::volume::outcome::Outcome;
use crate::volume::rights::{Blocked, Keep, Wish};

/// What became of an operation, and what its mount may keep of it.
pub(super) struct Answered {
    pub(super) outcome: Result<Outcome>,
    pub(super) keep: Keep,
    pub(super) wish: Wish,
    /// The file whose contents are told.
    pub(super) reads: Option<Ino>,
    /// Directories of which it tells whether they have a name.
    pub(super) searched: Vec<Ino>,
    /// It is refused only because of numbers that nobody has used yet.
    pub(super) short_of_inodes: bool,
    /// It shows the right to buffer writes to the file that it is about.
    pub(super) holds_right: bool,
    /// What it has to wait for before it is carried out; it was not.
    pub(super) blocked: Option<Blocked>,
    /// Its first answer may not have been given yet.
    pub(super) repeated: bool,
    /// Where its changes end in those of the transaction.
    pub(super) until: Extent,
}

impl Answered {
    pub(super) fn new(outcome: Result<Outcome>, keep: Keep) -> Answered {
        Answered {
            outcome,
            keep,
            wish: Wish::Nothing,
            reads: None,
            searched: Vec::new(),
            short_of_inodes: false,
            holds_right: false,
            blocked: None,
            repeated: false,
            until: Extent::default(),
        }
    }

    /// What the operation has left behind beside its outcome.
    pub(super) fn take(&mut self, ctx: &Context<'_>) {
        self.keep = ctx.keep.get();
        self.wish = ctx.wish.get();
        self.reads = ctx.reads.get();
        self.searched = ctx.searched.take();
        self.short_of_inodes = ctx.short_of_inodes.get();
        self.holds_right = ctx.holds_right.get();
    }

    pub(super) fn blocked(by: Blocked) -> Answered {
        let outcome = Err(Error::bare(Code::Internal));
        Answered { blocked: Some(by), ..Answered::new(outcome, Keep::Nothing) }
    }

    /// The inodes that the answer tells something of.
    pub(super) fn told(&self) -> Vec<Ino> {
        let mut inos: Vec<Ino> = self.reads.into_iter().collect();
        inos.extend_from_slice(&self.searched);
        let Ok(Outcome::Answer(result) | Outcome::AnswerSynced(result)) = &self.outcome else {
            return inos;
        };
        let mut add = |attr: Option<&v1::Attr>| inos.extend(attr.map(|attr| Ino(attr.ino)));
        match result {
            reply::Result::Entry(entry) => add(entry.attr.as_ref()),
            reply::Result::Attr(attr) => add(Some(attr)),
            reply::Result::Opened(opened) => add(opened.attr.as_ref()),
            reply::Result::DirPage(page) => {
                page.entries.iter().for_each(|entry| add(entry.attr.as_ref()));
            }
            _ => {}
        }
        inos
    }
}
