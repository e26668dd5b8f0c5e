//! Every operation: whether it changes something, what it touches, and who
//! carries it out, and of a mutation what room it needs. A new one does not
//! compile without all of these.

use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::confine::{Admitted, Touch, admit};
use super::context::Context;
use super::edit::Edit;
use super::numbers_ahead;
use super::ops::{
    access, attributes, commit, create, directory, extents, fallocate, link, lock, nameless, open,
    rename, xattr,
};
use super::outcome::{Outcome, empty};
use super::view::View;
use crate::engine::Room;

/// An operation that changes nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Query<'o> {
    Lookup(&'o v1::Lookup),
    GetAttr(&'o v1::GetAttr),
    ReadDir(&'o v1::ReadDir),
    ReadLink(&'o v1::ReadLink),
    GetXattr(&'o v1::GetXattr),
    ListXattr(&'o v1::ListXattr),
    StatFs(&'o v1::StatFs),
    ReadExtents(&'o v1::ReadExtents),
    GetLock(&'o v1::GetLock),
    Sync,
    Access(&'o v1::Access),
    AcquireWrite(&'o v1::AcquireWrite),
}

/// An operation that changes something: it carries a slot and a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mutation<'o> {
    SetAttr(&'o v1::SetAttr),
    Make(&'o v1::Make),
    MakeNameless(&'o v1::MakeNameless),
    Link(&'o v1::Link),
    Unlink(&'o v1::Unlink),
    Rename(&'o v1::Rename),
    Open(&'o v1::Open),
    Release(&'o v1::Release),
    NoteAccess(&'o v1::NoteAccess),
    SetXattr(&'o v1::SetXattr),
    RemoveXattr(&'o v1::RemoveXattr),
    MintObjects(&'o v1::MintObjects),
    MintInodes(&'o v1::MintInodes),
    CommitData(&'o v1::CommitData),
    Fallocate(&'o v1::Fallocate),
    SetLock(&'o v1::SetLock),
}

/// One or the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'o> {
    Query(Query<'o>),
    Mutation(Mutation<'o>),
}

impl<'o> Operation<'o> {
    /// # Errors
    /// `PROTOCOL_INVALID` when there is no body that this version knows.
    pub(super) fn of(op: &'o v1::Op) -> Result<Operation<'o>> {
        use Operation::{Mutation as M, Query as Q};
        let body = op
            .body
            .as_ref()
            .ok_or_else(|| Error::new(Code::ProtocolInvalid, "an operation without a body"))?;
        Ok(match body {
            Body::Lookup(op) => Q(Query::Lookup(op)),
            Body::GetAttr(op) => Q(Query::GetAttr(op)),
            Body::ReadDir(op) => Q(Query::ReadDir(op)),
            Body::ReadLink(op) => Q(Query::ReadLink(op)),
            Body::GetXattr(op) => Q(Query::GetXattr(op)),
            Body::ListXattr(op) => Q(Query::ListXattr(op)),
            Body::StatFs(op) => Q(Query::StatFs(op)),
            Body::ReadExtents(op) => Q(Query::ReadExtents(op)),
            Body::GetLock(op) => Q(Query::GetLock(op)),
            Body::Sync(_) => Q(Query::Sync),
            Body::Access(op) => Q(Query::Access(op)),
            Body::AcquireWrite(op) => Q(Query::AcquireWrite(op)),
            Body::SetAttr(op) => M(Mutation::SetAttr(op)),
            Body::Make(op) => M(Mutation::Make(op)),
            Body::MakeNameless(op) => M(Mutation::MakeNameless(op)),
            Body::Link(op) => M(Mutation::Link(op)),
            Body::Unlink(op) => M(Mutation::Unlink(op)),
            Body::Rename(op) => M(Mutation::Rename(op)),
            Body::Open(op) => M(Mutation::Open(op)),
            Body::Release(op) => M(Mutation::Release(op)),
            Body::NoteAccess(op) => M(Mutation::NoteAccess(op)),
            Body::SetXattr(op) => M(Mutation::SetXattr(op)),
            Body::RemoveXattr(op) => M(Mutation::RemoveXattr(op)),
            Body::MintObjects(op) => M(Mutation::MintObjects(op)),
            Body::MintInodes(op) => M(Mutation::MintInodes(op)),
            Body::CommitData(op) => M(Mutation::CommitData(op)),
            Body::Fallocate(op) => M(Mutation::Fallocate(op)),
            Body::SetLock(op) => M(Mutation::SetLock(op)),
        })
    }

    /// Does it carry a slot? What is not understood is not carried out.
    pub(super) fn is_mutation(op: &v1::Op) -> bool {
        matches!(Operation::of(op), Ok(Operation::Mutation(_)))
    }
}

impl<'o> Query<'o> {
    fn touch(self) -> Touch<'o> {
        match self {
            Query::Lookup(op) => Touch::One(&op.parent),
            Query::GetAttr(op) => Touch::One(&op.handle),
            Query::ReadDir(op) => Touch::One(&op.handle),
            Query::ReadLink(op) => Touch::One(&op.handle),
            Query::GetXattr(op) => Touch::One(&op.handle),
            Query::ListXattr(op) => Touch::One(&op.handle),
            Query::StatFs(op) => Touch::One(&op.handle),
            Query::ReadExtents(op) => Touch::One(&op.handle),
            Query::GetLock(op) => Touch::One(&op.handle),
            Query::Access(op) => Touch::One(&op.handle),
            Query::AcquireWrite(op) => Touch::One(&op.handle),
            Query::Sync => Touch::Nothing,
        }
    }

    pub(super) fn answer(self, ctx: &Context<'_>, view: View<'_>) -> Result<Outcome> {
        let within = admit(ctx, view, self.touch())?;
        match self {
            Query::Lookup(op) => link::lookup(ctx, view, &within.one()?, op),
            Query::GetAttr(_) => Ok(attributes::get_attr(&within.one()?)),
            Query::ReadDir(op) => directory::read_dir(ctx, view, &within.one()?, op),
            Query::ReadLink(_) => directory::read_link(view, &within.one()?),
            Query::GetXattr(op) => xattr::get(ctx, view, &within.one()?, op),
            Query::ListXattr(_) => xattr::list(ctx, view, &within.one()?),
            Query::StatFs(_) => attributes::stat_fs(ctx, view),
            Query::ReadExtents(op) => extents::read_extents(ctx, view, &within.one()?, op),
            Query::GetLock(op) => lock::get(ctx, view, &within.one()?, op),
            Query::Access(op) => attributes::access(ctx, &within.one()?, op),
            Query::AcquireWrite(op) => open::acquire_write(ctx, view, &within.one()?, op),
            Query::Sync => match empty() {
                Outcome::Answer(answer) => Ok(Outcome::AnswerSynced(answer)),
                other => Ok(other),
            },
        }
    }
}

impl<'o> Mutation<'o> {
    fn touch(self) -> Touch<'o> {
        match self {
            Mutation::SetAttr(op) => Touch::One(&op.handle),
            Mutation::Make(op) => Touch::One(&op.parent),
            Mutation::MakeNameless(op) => Touch::One(&op.parent),
            Mutation::Link(op) => Touch::Two(&op.handle, &op.new_parent),
            Mutation::Unlink(op) => Touch::One(&op.parent),
            Mutation::Rename(op) => Touch::Two(&op.parent, &op.new_parent),
            Mutation::Open(op) => Touch::One(&op.handle),
            Mutation::Release(op) => Touch::Own(&op.handle),
            Mutation::NoteAccess(op) => Touch::One(&op.handle),
            Mutation::SetXattr(op) => Touch::One(&op.handle),
            Mutation::RemoveXattr(op) => Touch::One(&op.handle),
            Mutation::MintObjects(_) | Mutation::MintInodes(_) => Touch::Nothing,
            Mutation::CommitData(op) => Touch::One(&op.handle),
            Mutation::Fallocate(op) => Touch::One(&op.handle),
            Mutation::SetLock(op) => match op.lock {
                // Whoever holds a lock may let go of it.
                Some(lock) if lock.kind == v1::LockKind::Unlock as i32 => Touch::Own(&op.handle),
                _ => Touch::One(&op.handle),
            },
        }
    }

    /// The room that it needs on the disk below the engine. Rows that are
    /// merely replaced, and few for what was there before (an open, a lock,
    /// an uploaded object), need as much as what frees space: without them
    /// nobody could read, remove or finish anything.
    fn needs(self, within: &Admitted) -> Room {
        match self {
            // Its maker was told that it is there. Numbers for more are not lent.
            Mutation::Make(op) if op.held.is_some() => Room::Low,
            Mutation::Make(_)
            | Mutation::MakeNameless(_)
            | Mutation::Link(_)
            | Mutation::SetXattr(_)
            | Mutation::MintInodes(_)
            | Mutation::MintObjects(_) => Room::Ample,
            Mutation::SetAttr(op) => match (op.size, within) {
                (Some(size), Admitted::One(file)) if size > file.inode().size => Room::Ample,
                _ => Room::Low,
            },
            Mutation::CommitData(op) => match &op.inline_data {
                Some(bytes) if !bytes.is_empty() => Room::Ample,
                _ => Room::Low,
            },
            Mutation::Fallocate(op) if fallocate::frees(op.mode) => Room::Low,
            Mutation::Fallocate(_) => Room::Ample,
            // It makes an inode.
            Mutation::Rename(op) if op.whiteout => Room::Ample,
            Mutation::Unlink(_)
            | Mutation::Rename(_)
            | Mutation::Open(_)
            | Mutation::NoteAccess(_)
            | Mutation::RemoveXattr(_) => Room::Low,
            Mutation::SetLock(op) => match op.lock {
                Some(lock) if lock.kind == v1::LockKind::Unlock as i32 => Room::Out,
                _ => Room::Low,
            },
            Mutation::Release(_) => Room::Out,
        }
    }

    /// # Errors
    /// What speaks against the operation itself, else `FS_NO_SPACE` when the
    /// disk below the engine has no room for it.
    pub(super) fn carry_out(
        self,
        ctx: &Context<'_>,
        edit: &mut Edit<'_>,
        slot: (u32, u64),
    ) -> Result<Outcome> {
        let within = admit(ctx, edit.view(), self.touch())?;
        let needs = self.needs(&within);
        let outcome = self.carry_out_within(ctx, edit, within, slot)?;
        if ctx.room < needs { Err(Code::FsNoSpace.into()) } else { Ok(outcome) }
    }

    fn carry_out_within(
        self,
        ctx: &Context<'_>,
        edit: &mut Edit<'_>,
        within: Admitted,
        slot: (u32, u64),
    ) -> Result<Outcome> {
        match self {
            Mutation::SetAttr(op) => attributes::set_attr(ctx, edit, &within.one()?, op),
            Mutation::Make(op) => create::make(ctx, edit, &within.one()?, op),
            Mutation::MakeNameless(op) => nameless::make(ctx, edit, &within.one()?, op),
            Mutation::Link(op) => {
                let (target, dir) = within.two()?;
                link::link(ctx, edit, (&target, &dir), op)
            }
            Mutation::Unlink(op) => link::unlink(ctx, edit, &within.one()?, op),
            Mutation::Rename(op) => {
                let (from, to) = within.two()?;
                rename::rename(ctx, edit, (&from, &to), op)
            }
            Mutation::Open(op) => open::open(ctx, edit, &within.one()?, op),
            Mutation::Release(op) => open::release(ctx, edit, within.own()?, op),
            Mutation::NoteAccess(op) => access::note(ctx, edit, &within.one()?, op),
            Mutation::SetXattr(op) => xattr::set(ctx, edit, &within.one()?, op),
            Mutation::RemoveXattr(op) => xattr::remove(ctx, edit, &within.one()?, op),
            Mutation::MintObjects(op) => extents::mint(ctx, edit, op),
            Mutation::MintInodes(op) => numbers_ahead::mint(ctx, edit, op),
            Mutation::CommitData(op) => commit::commit_data(ctx, edit, &within.one()?, op),
            Mutation::Fallocate(op) => fallocate::fallocate(ctx, edit, &within.one()?, op),
            Mutation::SetLock(op) => lock::set(ctx, edit, within.ino()?, op, slot),
        }
    }
}
