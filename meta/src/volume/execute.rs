//! Carrying out a frame: queries on a snapshot, everything from the first to
//! the last mutation in one transaction, each operation for itself.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use flexfs_common::ids::SessionId;
use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;
use parking_lot::MutexGuard;

use super::caller::Who;
use super::confine::{self, Touch};
use super::context::Context;
use super::edit::{Edit, Effects, Extent};
use super::operation::Operation;
use super::outcome::{Outcome, Step};
use super::recalls::Ticket;
use super::rights::{By, Keep, Wish};
use super::session::Session;
use super::slots::{self, Turn};
use super::types::{Execution, VolumeSettings};
use super::view::View;
use super::{Volume, contents, ops};
use crate::engine::{CommitVersion, Room};

mod answered;
mod later;

use answered::Answered;
use later::{Carried, Changes, after_recalls, waiting};

/// How often an operation is tried again after work that had to come first.
const RETRIES: usize = 8;

/// Writes after which a frame goes on in another transaction: some MiB.
const WRITES_MAX: usize = 16_384;

/// What a transaction has come to so far.
#[derive(Default)]
struct Work {
    answered: Vec<Answered>,
    /// What has to come before the operation after these.
    step: Option<Step>,
}

/// What a session's operations have in common.
struct Frame<'f> {
    session: &'f Session,
    flags: Arc<v1::Flags>,
    settings: Arc<VolumeSettings>,
    scope_epoch: u64,
    room: Room,
}

fn reply(request_id: u64, result: reply::Result) -> v1::Reply {
    v1::Reply { request_id, result: Some(result) }
}

fn error_reply(request_id: u64, error: &Error) -> v1::Reply {
    // Damage is for the log; the client learns that it is there.
    if matches!(error.code(), Code::EngineFailed | Code::Internal) {
        tracing::error!(error = error.with_causes(), "an operation failed");
    }
    reply(request_id, reply::Result::Error(wire::error_to_detail(error)))
}

fn refuse(op: &v1::Op, error: &Error) -> Execution {
    Execution::Done(error_reply(op.request_id, error))
}

fn refuse_all(ops: &[v1::Op], error: &Error) -> Vec<Carried> {
    ops.iter().map(|op| refuse(op, error).into()).collect()
}

impl Volume {
    /// Carries out the operations of one frame in order, one result each, as
    /// one group commit. Blocks for microseconds to milliseconds; call it off
    /// the async workers' critical path (block_in_place). Pending executions
    /// must be polled in a tokio runtime.
    pub fn execute(
        self: &Arc<Self>,
        session: SessionId,
        generation: u64,
        ops: Vec<v1::Op>,
    ) -> Vec<Execution> {
        if let Ok(session) = self.sessions.live(session)
            && session.check_generation(generation).is_ok()
        {
            session.heard();
        }
        let carried = self.carry_out(session, generation, &ops);
        let execution = |(op, carried): (&v1::Op, Carried)| match carried {
            Carried::Out(execution) => execution,
            Carried::Blocked(blocked) => self.again(session, generation, op, blocked),
        };
        ops.iter().zip(carried).map(execution).collect()
    }

    fn carry_out(
        self: &Arc<Self>,
        session: SessionId,
        generation: u64,
        ops: &[v1::Op],
    ) -> Vec<Carried> {
        let session = match self.sessions.live(session) {
            Ok(session) => session,
            Err(error) => return refuse_all(ops, &error),
        };
        if let Err(error) = session.check_generation(generation) {
            return refuse_all(ops, &error);
        }
        if ops.len() > limits::OPS_PER_FRAME_MAX {
            let error = Error::new(Code::ProtocolInvalid, "too many operations in one frame");
            return refuse_all(ops, &error);
        }
        let first = ops.iter().position(Operation::is_mutation).unwrap_or(ops.len());
        let last = ops.iter().rposition(Operation::is_mutation).map_or(first, |last| last + 1);
        let (before, rest) = ops.split_at(first);
        let (changing, after) = rest.split_at(last - first);
        let mut done = Vec::with_capacity(ops.len());
        self.query_all(&session, before, &mut done);
        self.change_all(&session, generation, changing, &mut done);
        self.query_all(&session, after, &mut done);
        done
    }

    fn frame<'f>(&self, session: &'f Session) -> Frame<'f> {
        Frame {
            session,
            flags: session.flags(),
            settings: self.settings.read().clone(),
            scope_epoch: session.confined.as_ref().map_or(0, |scope| scope.epoch()),
            room: self.engine.room(),
        }
    }

    fn context<'c>(&'c self, frame: &'c Frame<'_>, op: &v1::Op) -> Result<Context<'c>> {
        Ok(Context {
            identity: &self.identity,
            settings: &frame.settings,
            scopes: &self.scopes,
            waiters: &self.waiters,
            blocks: &*self.blocks,
            session: frame.session,
            flags: &frame.flags,
            who: Who::of(op.caller.as_ref(), &frame.flags)?,
            scope_epoch: frame.scope_epoch,
            keep: Cell::new(Keep::Attributes),
            wish: Cell::default(),
            reads: Cell::default(),
            holds_right: Cell::default(),
            searched: RefCell::default(),
            short_of_inodes: Cell::default(),
            rights: &self.rights,
            room: frame.room,
        })
    }

    /// Operations that change nothing, on one snapshot.
    fn query_all(self: &Arc<Self>, session: &Session, ops: &[v1::Op], done: &mut Vec<Carried>) {
        if ops.is_empty() {
            return;
        }
        // A right to write is granted by what is true now: no change that does
        // not know of it is under way.
        let acquires = |op: &v1::Op| matches!(op.body, Some(v1::op::Body::AcquireWrite(_)));
        let _writer = ops.iter().any(acquires).then(|| self.writer.lock());
        // The scope's epoch and the stamp of rights first, then the view.
        let frame = self.frame(session);
        let stamp = self.rights.stamp();
        let snapshot = match self.engine.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return done.extend(refuse_all(ops, &error)),
        };
        // A sync covers everything answered before, also from the mutations
        // of this frame.
        let version = self.engine.head();
        let view = View::new(&*snapshot, &self.keys);
        let mut answered: Vec<Answered> =
            ops.iter().map(|op| self.query(&frame, (view, stamp), op)).collect();
        self.grant(&frame, stamp, &mut answered);
        for (op, answered) in ops.iter().zip(answered) {
            done.push(match answered.blocked {
                Some(blocked) => Carried::Blocked(blocked),
                None => self.execution(&frame, op.request_id, answered.outcome, version).into(),
            });
        }
    }

    fn query(&self, frame: &Frame<'_>, (view, stamp): (View<'_>, u64), op: &v1::Op) -> Answered {
        let mut answered = Answered::new(Err(Error::bare(Code::Internal)), Keep::Nothing);
        answered.outcome = (|| {
            frame.session.check_live()?;
            let ctx = self.context(frame, op)?;
            let outcome = match Operation::of(op)? {
                Operation::Query(query) => query.answer(&ctx, view),
                Operation::Mutation(_) => Err(Error::bare(Code::Internal)),
            };
            answered.take(&ctx);
            outcome
        })();
        match self.blocked(frame.session, (view, stamp), &answered, &Changes::default()) {
            Ok(None) => answered,
            Ok(Some(blocked)) => Answered::blocked(blocked),
            Err(error) => Answered::new(Err(error), Keep::Nothing),
        }
    }

    /// Lets the mount keep what it is answered, as far as may be.
    fn grant(&self, frame: &Frame<'_>, stamp: u64, answered: &mut [Answered]) {
        let Some(mut granting) = self.rights.granting(frame.session, stamp) else { return };
        // Answered under flags that hold no longer. Those that change later
        // recall what is granted here.
        if !Arc::ptr_eq(&frame.flags, &frame.session.flags()) {
            return;
        }
        for Answered { outcome, keep, wish, .. } in answered {
            match (outcome.as_mut(), *keep) {
                (Ok(Outcome::Answer(result) | Outcome::AnswerSynced(result)), keep) => {
                    granting.fill(result, (keep, *wish));
                }
                // Said of a name in a directory that was reached and searched.
                (Err(error), Keep::Names(dir)) if error.code() == Code::FsNotFound => {
                    let cache_millis = granting.names(dir);
                    if cache_millis > 0 {
                        let absent = v1::Absent { cache_millis };
                        *outcome = Ok(reply::Result::Absent(absent).into());
                    }
                }
                _ => {}
            }
        }
    }

    /// Operations from the first to the last mutation of a frame.
    fn change_all(
        self: &Arc<Self>,
        session: &Session,
        generation: u64,
        mut ops: &[v1::Op],
        done: &mut Vec<Carried>,
    ) {
        let mut retries = 0;
        while let Some(next) = ops.first() {
            let before = done.len();
            let step = self.change_some(session, generation, ops, done);
            let answered = done.len() - before;
            ops = ops.get(answered..).unwrap_or_default();
            let Some(step) = step else { continue };
            retries = if answered > 0 { 1 } else { retries + 1 };
            // Off the async workers: it may be thousands of transactions.
            let result = tokio::task::block_in_place(|| self.run_step(step));
            let result = if retries > RETRIES { Err(Error::bare(Code::FsBusy)) } else { result };
            if let Err(error) = result {
                let stopped = ops.first().unwrap_or(next);
                done.push(Execution::Done(error_reply(stopped.request_id, &error)).into());
                ops = ops.get(1..).unwrap_or_default();
            }
        }
    }

    /// As many operations as one transaction takes, in one transaction: all,
    /// or those before the one that needs `Step` first.
    fn change_some(
        self: &Arc<Self>,
        session: &Session,
        generation: u64,
        ops: &[v1::Op],
        done: &mut Vec<Carried>,
    ) -> Option<Step> {
        let writer = self.writer.lock();
        // All of this under the lock: nothing commits after a cut, or under
        // flags that have changed.
        let frame = &self.frame(session);
        if let Err(error) = session.check_generation(generation) {
            done.extend(refuse_all(ops, &error));
            return None;
        }
        let mut work = Work::default();
        let abandoned = self.waiters.take_abandoned();
        let result = self.transact(&writer, &mut |edit| {
            work = Work::default();
            Self::undo_abandoned(edit, &abandoned)?;
            self.change_in(frame, edit, ops, &mut work);
            flexfs_common::failpoint!("meta-commit-before");
            Ok(())
        });
        match result {
            Ok(committed) => {
                flexfs_common::failpoint!("meta-commit-after");
                let ops = (ops, work.answered);
                self.answer(frame, ops, committed, writer, done);
                work.step
            }
            Err(error) => {
                self.waiters.put_back_abandoned(abandoned);
                done.extend(refuse_all(ops, &error));
                None
            }
        }
    }

    /// Each operation for itself, up to the first that needs a step before.
    fn change_in(&self, frame: &Frame<'_>, edit: &mut Edit<'_>, ops: &[v1::Op], work: &mut Work) {
        for op in ops {
            let mark = edit.mark();
            if mark.writes() > WRITES_MAX {
                return;
            }
            let mut answered = Answered::new(Err(Error::bare(Code::Internal)), Keep::Nothing);
            match self.change(frame, edit, op, &mut answered) {
                Ok(Outcome::After(step)) => {
                    edit.rollback(mark);
                    work.step = Some(step);
                    return;
                }
                Ok(outcome) => answered.outcome = Ok(outcome),
                Err(error) => {
                    edit.rollback(mark);
                    answered.outcome = Err(error);
                    answered.keep = Keep::Nothing;
                }
            }
            let from = work.answered.last().map_or(Extent::default(), |before| before.until);
            let changes = Changes::since(&edit.effects, from);
            // Under the writer lock nothing arrives meanwhile.
            match self.blocked(frame.session, (edit.view(), u64::MAX), &answered, &changes) {
                Ok(None) => {}
                Ok(Some(blocked)) => {
                    edit.rollback(mark);
                    answered = Answered::blocked(blocked);
                }
                Err(error) => {
                    edit.rollback(mark);
                    answered = Answered::new(Err(error), Keep::Nothing);
                }
            }
            answered.until = edit.effects.extent();
            work.answered.push(answered);
        }
    }

    /// What was committed takes effect in memory, and is answered.
    fn answer(
        self: &Arc<Self>,
        frame: &Frame<'_>,
        (ops, mut answered): (&[v1::Op], Vec<Answered>),
        (version, effects): (CommitVersion, Effects),
        writer: MutexGuard<'_, ()>,
        done: &mut Vec<Carried>,
    ) {
        // Who waits is known before anything is handed on; the rest, signing
        // above all, needs no lock.
        let mut waits = Vec::new();
        for (op, answered) in ops.iter().zip(&answered) {
            if let Ok(Outcome::Wait(wanted)) = &answered.outcome {
                waits.push((op.request_id, self.waiters.wait(wanted.clone())));
            }
        }
        let recalls = self.recall_each(frame.session.id, &answered, &effects);
        self.apply(effects, &writer);
        self.grant(frame, self.rights.stamp(), &mut answered);
        drop(writer);
        let mut waits = waits.into_iter();
        for ((op, answered), recalls) in ops.iter().zip(answered).zip(recalls) {
            if let Some(blocked) = answered.blocked {
                done.push(Carried::Blocked(blocked));
                continue;
            }
            let execution = match answered.outcome {
                Ok(Outcome::Wait(_)) => match waits.next() {
                    Some((id, ticket)) => waiting(id, ticket),
                    None => refuse(op, &Error::bare(Code::Internal)),
                },
                outcome => self.execution(frame, op.request_id, outcome, version),
            };
            let execution =
                if recalls.is_empty() { execution } else { after_recalls(recalls, execution) };
            done.push(execution.into());
        }
    }

    /// The recalls that each operation has to wait for. Its own alone: an
    /// answer holds locks of its mount's kernel until it is there.
    fn recall_each(
        &self,
        session: SessionId,
        answered: &[Answered],
        effects: &Effects,
    ) -> Vec<Vec<Arc<Ticket>>> {
        let mut from = Extent::default();
        answered
            .iter()
            .map(|answered| {
                let by = By { session: Some(session), holds_right: answered.holds_right };
                let mut own = self.recall(by, effects, (from, answered.until));
                if answered.repeated {
                    own.extend(self.rights.open(session));
                }
                from = answered.until;
                own
            })
            .collect()
    }

    /// One operation of a transaction.
    fn change(
        &self,
        frame: &Frame<'_>,
        edit: &mut Edit<'_>,
        op: &v1::Op,
        answered: &mut Answered,
    ) -> Result<Outcome> {
        // The session may have ended by an operation before this one.
        if edit.effects.ended.iter().any(|(ended, _)| *ended == frame.session.id) {
            return Err(Code::FsStale.into());
        }
        let ctx = self.context(frame, op)?;
        let mutation = match Operation::of(op)? {
            Operation::Query(query) => {
                let outcome = query.answer(&ctx, edit.view());
                answered.take(&ctx);
                answered.keep = Keep::Nothing;
                return outcome;
            }
            Operation::Mutation(mutation) => mutation,
        };
        let (session, slot) = (frame.session.id, (op.slot, op.sequence));
        if let Turn::Repeat(reply) = slots::turn(edit.view(), session, op)? {
            self.waiters.answered(session, slot);
            let result = reply.result.ok_or(Code::EngineFailed)?;
            // Whatever it was, it is on stable storage when a sync was asked.
            let synced = match &op.body {
                Some(v1::op::Body::CommitData(op)) => op.sync,
                Some(v1::op::Body::Make(op)) => op.held.as_ref().is_some_and(|held| held.sync),
                _ => false,
            };
            answered.repeated = true;
            if let Some(v1::op::Body::Make(v1::Make { held: Some(held), open_flags, .. })) =
                &op.body
                && ops::open::writes(*open_flags)
                && confine::admit(&ctx, edit.view(), Touch::One(&held.handle)).is_ok()
            {
                // Its mount goes on writing.
                answered.wish = Wish::Open;
            }
            return Ok(if synced { Outcome::AnswerSynced(result) } else { result.into() });
        }
        let outcome = mutation.carry_out(&ctx, edit, slot);
        answered.take(&ctx);
        let outcome = outcome?;
        match &outcome {
            Outcome::Answer(result) | Outcome::AnswerSynced(result) => {
                slots::keep(edit, session, slot, Some(result));
            }
            // Its URLs expire: a repeat gets new ones.
            Outcome::Minted { .. } => slots::keep(edit, session, slot, None),
            Outcome::Wait(_) | Outcome::After(_) => {}
        }
        Ok(outcome)
    }

    /// What the transport is given.
    fn execution(
        &self,
        frame: &Frame<'_>,
        request_id: u64,
        outcome: Result<Outcome>,
        version: CommitVersion,
    ) -> Execution {
        match outcome {
            Ok(Outcome::Answer(result)) => Execution::Done(reply(request_id, result)),
            Ok(Outcome::AnswerSynced(result)) => {
                let pump = Arc::clone(&self.syncs);
                Execution::Pending(Box::pin(async move {
                    match pump.wait(version).await {
                        Ok(()) => reply(request_id, result),
                        Err(error) => error_reply(request_id, &error),
                    }
                }))
            }
            Ok(Outcome::Minted { objects, size_limit }) => {
                let signed = self.sign_minted(frame.session.id, &objects, size_limit);
                Execution::Done(match signed {
                    Ok(result) => reply(request_id, result),
                    Err(error) => error_reply(request_id, &error),
                })
            }
            Ok(Outcome::Wait(_) | Outcome::After(_)) => {
                Execution::Done(error_reply(request_id, &Error::bare(Code::Internal)))
            }
            Err(error) => Execution::Done(error_reply(request_id, &error)),
        }
    }

    fn sign_minted(
        &self,
        session: SessionId,
        objects: &[flexfs_common::ids::ObjectId],
        size_limit: u32,
    ) -> Result<reply::Result> {
        let millis =
            |span: std::time::Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let objects = objects
            .iter()
            .map(|object| {
                let url = self.blocks.sign_put(session, *object, size_limit)?;
                Ok(v1::MintedObject { object_id: object.0.to_vec(), url })
            })
            .collect::<Result<_>>()?;
        Ok(reply::Result::Minted(v1::MintedObjects {
            objects,
            size_limit,
            url_millis: millis(limits::SIGNED_URL),
            commit_millis: millis(limits::OBJECT_COMMIT),
        }))
    }

    /// Work that comes before an operation, in transactions of its own.
    fn run_step(&self, step: Step) -> Result<()> {
        let retention = self.settings.read().retention;
        let mut complete = false;
        while !complete {
            // It writes before it frees; what is left to do stays on record.
            self.need_room(Room::Low)?;
            self.change_alone(&mut |edit| {
                complete = match step {
                    Step::Trim(ino) => contents::trim_step(edit, ino, retention)?,
                    Step::Punch { ino, from, to } => {
                        contents::punch_step(edit, ino, (from, to), retention)?
                    }
                };
                Ok(())
            })?;
        }
        Ok(())
    }
}
