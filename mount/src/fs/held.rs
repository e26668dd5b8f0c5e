//! Files that are made here and told to meta later: in directories to which
//! this mount has the right to do so. What meta would decide is decided as it
//! does, or it is asked: it checks everything again when it hears of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::Result;
use flexfs_common::clock::BootTime;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use parking_lot::Mutex;

use super::file::Grant;
use super::name::{Created, MakeRequest};
use super::{Asked, Attributes, FileSystem, SetAttrRequest, TimeRequest};
use crate::caller::Requester;
use crate::data::{HeldFile, SetHeld, Which};
use crate::session::MetaSession;
use crate::whole_directories::Making;

/// Numbers asked for at once, and how few make it ask.
const NUMBERS: u32 = 256;
const NUMBERS_LOW: usize = 128;
/// When none was given (the quota is near): how long until it asks again.
const NUMBERS_PAUSE: Duration = Duration::from_secs(1);
/// Files held back at once.
const HELD_MAX: usize = 512;
/// Permission bits that a file made here may have: what set-id bits become
/// depends on more than is known here.
const PLAIN_MODE: u32 = 0o777;
const SPECIAL_MODE: u32 = 0o7000;
const S_ISGID: u32 = 0o2000;

#[derive(Debug, Default)]
struct Pool {
    ready: Vec<v1::MintedInode>,
    /// Rises when meta takes them back: an answer to a question of before is
    /// void.
    era: u64,
    asking: bool,
    /// Handles of those that are not used any more.
    returned: Vec<Vec<u8>>,
    not_before: Option<Instant>,
}

/// Numbers of inodes that meta has given out ahead.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Pool>);

impl Numbers {
    fn take(self: &Arc<Self>, session: &Arc<MetaSession>) -> Option<v1::MintedInode> {
        let (number, is_low) = {
            let mut pool = self.0.lock();
            let number = pool.ready.pop();
            (number, pool.ready.len() < NUMBERS_LOW)
        };
        if is_low {
            self.prepare(session);
        }
        number
    }

    /// Asks for some unless there are enough.
    fn prepare(self: &Arc<Self>, session: &Arc<MetaSession>) {
        let (era, returned) = {
            let mut pool = self.0.lock();
            let too_soon = pool.not_before.is_some_and(|at| at > Instant::now());
            if pool.asking || too_soon || pool.ready.len() >= NUMBERS_LOW {
                return;
            }
            pool.asking = true;
            (pool.era, std::mem::take(&mut pool.returned))
        };
        let (numbers, session) = (Arc::clone(self), Arc::clone(session));
        tokio::spawn(async move {
            let body = Body::MintInodes(v1::MintInodes { count: NUMBERS, returned });
            let answer = session.call(v1::Caller::default(), body).await;
            let mut pool = numbers.0.lock();
            pool.asking = false;
            let got = match answer {
                Ok(v1::reply::Result::MintedInodes(minted)) => minted.inodes,
                other => {
                    tracing::debug!(?other, "no numbers of inodes ahead");
                    Vec::new()
                }
            };
            pool.not_before = got.is_empty().then(|| Instant::now() + NUMBERS_PAUSE);
            if pool.era == era {
                pool.ready.extend(got);
            } else {
                pool.returned.extend(got.into_iter().map(|number| number.handle.to_vec()));
            }
        });
    }

    /// They are not used any more. `given_back`: meta has them still.
    fn drop_all(&self, given_back: bool) {
        let mut pool = self.0.lock();
        pool.era += 1;
        let dropped = std::mem::take(&mut pool.ready);
        if given_back {
            pool.returned.extend(dropped.into_iter().map(|number| number.handle.to_vec()));
        }
    }
}

impl FileSystem {
    /// The right to make files in a directory that was just made.
    pub(super) fn making(
        &self,
        entry: &v1::Entry,
        attr: &v1::Attr,
        asked: Asked,
    ) -> Option<Making> {
        let plain = attr.mode & S_ISGID == 0 && !attr.default_acl && !attr.access_acl;
        if entry.make_right == 0 || !plain {
            return None;
        }
        self.numbers.prepare(&self.session);
        let until = asked.at.after(Duration::from_millis(entry.make_right_millis.into()));
        Some(Making { number: entry.make_right, until, attr: Some((*attr, asked)) })
    }

    /// Makes and opens a file here, if this mount may and nothing is to be
    /// asked.
    pub(super) fn make_here(
        &self,
        who: Requester,
        (parent, name): (u64, &[u8]),
        request: &MakeRequest,
        open_flags: u32,
    ) -> Option<Created> {
        let flags = self.session.flags();
        let plain = request.kind == v1::FileKind::Regular && request.mode & SPECIAL_MODE == 0;
        if !plain
            || !self.whole.may_make(parent)
            || flags.ro
            || flags.append_only
            || !self.kernel_checks()
        {
            return None;
        }
        if self.session.check().is_err() || self.data.held_count() >= HELD_MAX {
            return None;
        }
        let mut open_id = [0; 8];
        getrandom::fill(&mut open_id).ok()?;
        let open_id = u64::from_ne_bytes(open_id) | 1;
        let make = v1::Make {
            exclusive: true,
            open: true,
            open_flags,
            ..self.make_body(parent, name, request).ok()?
        };
        let caller = who.caller(request.umask);
        let at = self.session.meta_now();
        // Held meanwhile: a recall that comes now finds what is made.
        let reading = self.freshness.reading();
        let asked = Asked { at: BootTime::now(), stamp: reading.stamp() };
        let make_file = |right| {
            let number = self.numbers.take(&self.session)?;
            let umask = caller.umask | flags.umask;
            let attr = new_attr(number.ino, &caller, request.mode & !umask, at);
            let held = v1::HeldMake {
                make_right: right,
                handle: number.handle.clone(),
                open_id,
                at: Some(at),
                ..v1::HeldMake::default()
            };
            let make = v1::Make { held: Some(held), ..make };
            let dir = self.inodes.meta_ino(parent);
            self.data.hold(number.handle.clone(), HeldFile { caller, make, dir, attr });
            Some((number.handle, attr))
        };
        let ((handle, attr), names_until) =
            self.whole.make_here(&reading, (parent, name), at, make_file)?;
        drop(reading);
        // What was asked of the directory before is not kept.
        let own = self.freshness.change(&[parent]).answered();
        self.whole.unchanged_but_here(parent, own);
        let grant = Grant { handle: handle.clone(), open_id, flags: open_flags, asked };
        let opened = self.register_open(attr.ino, grant, &attr);
        let mut found = self.told(&handle, attr, asked);
        let millis = u32::try_from(names_until.left().as_millis()).unwrap_or(u32::MAX);
        let of_name = Asked { stamp: asked.stamp.after_own(own), ..asked };
        found.name_kept = self.keep_name(millis, (parent, name), of_name);
        self.inodes.found(&found.attr, handle, parent);
        self.remember_told(&found);
        Some(Created { found, opened })
    }

    /// chmod, utimens, and a chown to who owns it, of a file that meta does not
    /// know of. (The kernel has checked who may.)
    pub(super) fn set_here(
        &self,
        who: Requester,
        ino: u64,
        request: &SetAttrRequest,
    ) -> Option<Attributes> {
        if self.data.held_count() == 0 || self.session.check().is_err() {
            return None;
        }
        let data = self.data.get(self.inodes.meta_ino(ino))?;
        let attr = data.held_attr()?;
        let same = |asked: Option<u32>, is: u32| asked.is_none_or(|asked| asked == is);
        let plain = request.size.is_none()
            && same(request.uid, attr.uid)
            && same(request.gid, attr.gid)
            && request.mode.is_none_or(|mode| mode & SPECIAL_MODE == 0);
        // Meta would take the session's umask from the mode as from a new one.
        let masked = request.mode.is_some() && self.session.flags().umask != 0;
        if !plain || masked || (who.uid != 0 && who.uid != attr.uid) {
            return None;
        }
        let asked = self.ask();
        let now = self.session.meta_now();
        let time = |time: Option<TimeRequest>| {
            time.map(|time| super::attr::set_time(time).at.unwrap_or(now))
        };
        let set = SetHeld {
            mode: request.mode.map(|mode| mode & PLAIN_MODE),
            atime: time(request.atime),
            mtime: time(request.mtime),
            now,
        };
        let attr = data.set_held(&set)?;
        if set.atime.is_some() {
            self.accesses.forget(ino);
        }
        let told = self.told(&self.inodes.handle(ino).ok()?, attr, asked);
        self.inodes.attributes_told(ino, &told.attr);
        self.remember_told(&told);
        Some(told)
    }

    /// Meta is told of a file that it does not know of, before an operation on
    /// it is sent.
    pub(super) async fn report_made(&self, ino: u64) -> Result<()> {
        if self.data.held_count() == 0 {
            return Ok(());
        }
        match self.data.get(self.inodes.meta_ino(ino)) {
            Some(data) => data.report_made().await,
            None => Ok(()),
        }
    }

    /// The same of all files that were made in a directory.
    ///
    /// # Errors
    /// What it fails with while they are there all the same, and meta does not
    /// know of them. Else what fails is told to who has them open.
    pub(super) async fn report_made_in(&self, dir: u64) -> Result<()> {
        if self.data.held_count() == 0 {
            return Ok(());
        }
        let dir = Which::In(self.inodes.meta_ino(dir));
        let outcome = self.data.report_made(dir).await;
        if self.data.holds(dir) { outcome } else { Ok(()) }
    }

    /// The same of all.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn report_all_made(&self) -> Result<()> {
        if self.data.held_count() == 0 {
            return Ok(());
        }
        self.data.report_made(Which::All).await
    }

    /// Does meta not know of the file yet? Then it has no extended attributes.
    pub(super) fn is_held_back(&self, ino: u64) -> bool {
        let count = self.data.held_count();
        count > 0
            && self.data.get(self.inodes.meta_ino(ino)).is_some_and(|data| data.is_held_back())
    }

    /// The attributes of what meta does not know of, or not as it is: a file
    /// made here, or a directory in which some were.
    pub(super) fn attr_here(&self, ino: u64) -> Option<(v1::Attr, Asked)> {
        let asked = self.ask();
        if let Some(data) = self.data.get(self.inodes.meta_ino(ino))
            && let Some(attr) = data.held_attr()
        {
            return Some((attr, asked));
        }
        if self.session.check().is_err() {
            return None;
        }
        let known = self.whole.attr(&self.freshness.reading(), ino)?;
        // Else the kernel would come with each step of a path.
        let ttl = self.kept(known.0.cache_millis, ino, known.1).ttl;
        (!ttl.is_zero()).then_some(known)
    }

    /// Meta takes back the numbers that it gave out ahead.
    pub fn void_numbers(&self) {
        self.numbers.drop_all(false);
    }

    /// Meta may not know of the latest any more: none is used, and those that it
    /// does know it is told of.
    pub fn return_numbers(&self) {
        self.numbers.drop_all(true);
    }
}

/// A new file as meta is going to make it.
fn new_attr(ino: u64, caller: &v1::Caller, mode: u32, at: v1::Timestamp) -> v1::Attr {
    v1::Attr {
        ino,
        kind: v1::FileKind::Regular.into(),
        mode: mode & PLAIN_MODE,
        nlink: 1,
        uid: caller.uid,
        gid: caller.gid,
        atime: Some(at),
        mtime: Some(at),
        ctime: Some(at),
        btime: Some(at),
        change: 1,
        ..v1::Attr::default()
    }
}
