//! A volume on an engine, and clients of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::ids::{AccountId, ObjectId, SecretId, SessionId, TokenId, VolumeId};
use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::reply;
use flexfs_proto::v1::{FileKind, LockKind};
use parking_lot::Mutex;

use crate::engine::Engine;
use crate::engine::fjall::FjallEngine;
use crate::engine::memory::MemoryEngine;
use crate::volume::{BlockAccess, Execution, NewSession, SessionSeal, Volume, VolumeSettings};

/// A block store in memory: object → stored length.
#[derive(Debug, Default)]
pub(super) struct FakeBlocks {
    pub(super) objects: Mutex<HashMap<ObjectId, u64>>,
    pub(super) deleted: Mutex<Vec<ObjectId>>,
}

impl BlockAccess for FakeBlocks {
    fn sign_get(&self, session: SessionId, object: ObjectId) -> Result<String> {
        Ok(format!("get/{session}/{object}"))
    }

    fn sign_put(&self, session: SessionId, object: ObjectId, size: u32) -> Result<String> {
        Ok(format!("put/{session}/{object}/{size}"))
    }

    fn delete(&self, object: ObjectId) -> Result<()> {
        self.objects.lock().remove(&object);
        self.deleted.lock().push(object);
        Ok(())
    }

    fn stored_len(&self, object: ObjectId) -> Result<Option<u64>> {
        Ok(self.objects.lock().get(&object).copied())
    }
}

/// The seal of every fixture, unless told otherwise.
pub(super) fn seal() -> Arc<SessionSeal> {
    Arc::new(SessionSeal::new(&[5; 32]).unwrap())
}

/// Settings of a small volume without limits.
pub(super) fn settings() -> VolumeSettings {
    VolumeSettings {
        id: VolumeId::from_bytes([7; 16]),
        name: "v".to_owned(),
        account_id: AccountId::from_bytes([1; 16]),
        flags: v1::Flags::default(),
        block_size: 4 << 20,
        inline_max: 8192,
        max_blocks: 0,
        max_inodes: 0,
        retention: Duration::ZERO,
    }
}

/// A volume in service and its store.
pub(super) struct Fixture {
    pub(super) volume: Arc<Volume>,
    pub(super) blocks: Arc<FakeBlocks>,
    pub(super) engine: Arc<dyn Engine>,
}

impl Fixture {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Fixture {
        Fixture::with(engine, settings())
    }

    pub(super) fn with(engine: Arc<dyn Engine>, settings: VolumeSettings) -> Fixture {
        let blocks = Arc::new(FakeBlocks::default());
        let store: Arc<dyn BlockAccess> = blocks.clone();
        let volume = Volume::open(Arc::clone(&engine), settings, store, seal()).unwrap();
        Fixture { volume, blocks, engine }
    }

    /// The volume as another process would find it now.
    pub(super) fn reopen(&self) -> Fixture {
        self.reopen_under(seal())
    }

    /// As [`Fixture::reopen`], by a server with this seal.
    pub(super) fn reopen_under(&self, seal: Arc<SessionSeal>) -> Fixture {
        let store: Arc<dyn BlockAccess> = self.blocks.clone();
        let settings = self.volume.settings();
        let volume = Volume::open(Arc::clone(&self.engine), settings, store, seal).unwrap();
        Fixture { volume, blocks: Arc::clone(&self.blocks), engine: Arc::clone(&self.engine) }
    }

    pub(super) fn client(&self) -> Client {
        self.client_at("/")
    }

    pub(super) fn client_at(&self, scope: &str) -> Client {
        self.client_with(scope, v1::Flags::default())
    }

    pub(super) fn client_with(&self, scope: &str, token_flags: v1::Flags) -> Client {
        self.client_of(new_session(scope, token_flags))
    }

    /// A client that may keep answers, and answers recalls when the test does.
    pub(super) fn keeper(&self, scope: &str, token_flags: v1::Flags) -> Client {
        self.client_of(NewSession { recalls: true, ..new_session(scope, token_flags) })
    }

    /// A keeper that may be granted the right to buffer writes.
    pub(super) fn writer(&self, scope: &str, token_flags: v1::Flags) -> Client {
        let new = new_session(scope, token_flags);
        self.client_of(NewSession { recalls: true, write_rights: true, ..new })
    }

    /// A writer that may be granted the right to make files.
    pub(super) fn maker(&self, scope: &str, token_flags: v1::Flags) -> Client {
        let new = new_session(scope, token_flags);
        self.client_of(NewSession { recalls: true, write_rights: true, make_rights: true, ..new })
    }

    /// A writer with a token that others have too.
    pub(super) fn writer_of(&self, token_id: TokenId) -> Client {
        let new = NewSession { token_id, ..new_session("/", v1::Flags::default()) };
        self.client_of(NewSession { recalls: true, write_rights: true, ..new })
    }

    pub(super) fn client_of(&self, new: NewSession) -> Client {
        let opened = self.volume.open_session(new).unwrap();
        let generation = self.volume.attach(opened.id).unwrap().generation;
        Client {
            volume: Arc::clone(&self.volume),
            blocks: Arc::clone(&self.blocks),
            id: opened.id,
            generation: AtomicU64::new(generation),
            root: opened.root_handle,
            next: Arc::new(AtomicU64::new(1)),
            caller: caller(0, 0),
        }
    }

    /// Checks every invariant.
    pub(super) fn verify(&self) -> v1::VerifySummary {
        let mut findings = Vec::new();
        let mut report = |invariant: &str, message: String| {
            findings.push(format!("{invariant}: {message}"));
        };
        let summary = self.volume.verify(&mut report).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(summary.findings, 0);
        summary
    }
}

pub(super) fn new_session(scope: &str, token_flags: v1::Flags) -> NewSession {
    NewSession {
        token_id: TokenId::random(),
        secret_id: SecretId::random(),
        scope: scope.parse().unwrap(),
        token_flags,
        requested: v1::Flags::default(),
        honours: v1::Flags {
            no_exec: true,
            no_suid: true,
            no_dev: true,
            no_atime: true,
            ..Default::default()
        },
        recalls: false,
        write_rights: false,
        make_rights: false,
        acls: true,
        host_name: "host".to_owned(),
        dir: "/mnt".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
    }
}

pub(super) fn caller(uid: u32, gid: u32) -> v1::Caller {
    v1::Caller { uid, gid, groups: vec![], umask: 0o022 }
}

/// Runs a test on a volume of each engine.
pub(super) fn on_each_engine(test: impl Fn(&Fixture)) {
    test(&Fixture::new(Arc::new(MemoryEngine::new())));
    let dir = tempfile::tempdir().unwrap();
    test(&Fixture::new(Arc::new(FjallEngine::open(dir.path()).unwrap())));
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A mount, as honest or not as the test wants.
pub(super) struct Client {
    pub(super) volume: Arc<Volume>,
    blocks: Arc<FakeBlocks>,
    pub(super) id: SessionId,
    pub(super) generation: AtomicU64,
    pub(super) root: Vec<u8>,
    next: Arc<AtomicU64>,
    pub(super) caller: v1::Caller,
}

/// What an operation was answered with.
pub(super) type Answer = Result<reply::Result, Code>;

pub(super) fn answer(reply: v1::Reply) -> Answer {
    match reply.result.expect("every reply has a result") {
        reply::Result::Error(detail) => Err(Code::from_name(&detail.code).unwrap()),
        result => Ok(result),
    }
}

impl Client {
    /// The same session seen by another user.
    pub(super) fn as_user(&self, uid: u32, gid: u32) -> Client {
        Client {
            volume: Arc::clone(&self.volume),
            blocks: Arc::clone(&self.blocks),
            id: self.id,
            generation: AtomicU64::new(self.generation.load(Ordering::Relaxed)),
            root: self.root.clone(),
            next: Arc::clone(&self.next),
            caller: caller(uid, gid),
        }
    }

    /// The same session at a volume that was opened again; not yet attached.
    pub(super) fn at(&self, fixture: &Fixture) -> Client {
        Client { volume: Arc::clone(&fixture.volume), ..self.as_user(0, 0) }
    }

    /// The operation as it travels, with a fresh slot and sequence.
    pub(super) fn op(&self, body: Body) -> v1::Op {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        v1::Op {
            request_id: number,
            slot: u32::try_from(number % 64).unwrap(),
            sequence: number,
            caller: Some(self.caller.clone()),
            body: Some(body),
        }
    }

    pub(super) fn execute(&self, ops: Vec<v1::Op>) -> Vec<Execution> {
        self.volume.execute(self.id, self.generation.load(Ordering::Relaxed), ops)
    }

    pub(super) fn frame(&self, bodies: Vec<Body>) -> Vec<Answer> {
        let ops: Vec<_> = bodies.into_iter().map(|body| self.op(body)).collect();
        let ids: Vec<_> = ops.iter().map(|op| op.request_id).collect();
        let executions = self.execute(ops);
        assert_eq!(executions.len(), ids.len());
        let finish = |(execution, id)| {
            let reply = match execution {
                Execution::Done(reply) => reply,
                Execution::Pending(future) => runtime().block_on(future),
            };
            assert_eq!(reply.request_id, id);
            answer(reply)
        };
        executions.into_iter().zip(ids).map(finish).collect()
    }

    pub(super) fn call(&self, body: Body) -> Answer {
        self.frame(vec![body]).pop().unwrap()
    }

    pub(super) fn entry(&self, body: Body) -> Result<v1::Entry, Code> {
        match self.call(body)? {
            reply::Result::Entry(entry) => Ok(entry),
            other => panic!("an entry was expected: {other:?}"),
        }
    }

    fn attr_of(&self, body: Body) -> Result<v1::Attr, Code> {
        match self.call(body)? {
            reply::Result::Attr(attr) => Ok(attr),
            other => panic!("attributes were expected: {other:?}"),
        }
    }

    pub(super) fn lookup(&self, parent: &[u8], name: &str) -> Result<v1::Entry, Code> {
        self.entry(lookup(parent, name))
    }

    /// Looks a path up from the session's root.
    pub(super) fn walk(&self, path: &str) -> Result<v1::Entry, Code> {
        let mut at = v1::Entry {
            handle: self.root.clone(),
            attr: Some(self.getattr(&self.root)?),
            ..v1::Entry::default()
        };
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.lookup(&at.handle, name)?;
        }
        Ok(at)
    }

    pub(super) fn getattr(&self, handle: &[u8]) -> Result<v1::Attr, Code> {
        self.attr_of(Body::GetAttr(v1::GetAttr { handle: handle.to_vec() }))
    }

    pub(super) fn setattr(&self, op: v1::SetAttr) -> Result<v1::Attr, Code> {
        self.attr_of(Body::SetAttr(op))
    }

    pub(super) fn truncate(&self, handle: &[u8], size: u64) -> Result<v1::Attr, Code> {
        self.setattr(v1::SetAttr {
            handle: handle.to_vec(),
            size: Some(size),
            ..Default::default()
        })
    }

    pub(super) fn chmod(&self, handle: &[u8], mode: u32) -> Result<v1::Attr, Code> {
        self.setattr(v1::SetAttr {
            handle: handle.to_vec(),
            mode: Some(mode),
            ..Default::default()
        })
    }

    pub(super) fn chown(&self, handle: &[u8], uid: u32, gid: u32) -> Result<v1::Attr, Code> {
        let (uid, gid) = (Some(uid), Some(gid));
        self.setattr(v1::SetAttr { handle: handle.to_vec(), uid, gid, ..Default::default() })
    }

    pub(super) fn mkdir(&self, parent: &[u8], name: &str) -> Result<v1::Entry, Code> {
        self.entry(make(parent, name, FileKind::Directory, 0o755))
    }

    pub(super) fn create(&self, parent: &[u8], name: &str) -> Result<v1::Entry, Code> {
        self.entry(make(parent, name, FileKind::Regular, 0o644))
    }

    pub(super) fn symlink(&self, parent: &[u8], name: &str, to: &str) -> Result<v1::Entry, Code> {
        let Body::Make(mut op) = make(parent, name, FileKind::Symlink, 0) else { unreachable!() };
        op.symlink_target = to.as_bytes().to_vec();
        self.entry(Body::Make(op))
    }

    pub(super) fn make(&self, op: v1::Make) -> Result<v1::Entry, Code> {
        self.entry(Body::Make(op))
    }

    pub(super) fn make_nameless(&self, dir: &[u8], linkable: bool) -> Result<v1::Entry, Code> {
        self.entry(make_nameless(dir, linkable))
    }

    pub(super) fn link(&self, handle: &[u8], dir: &[u8], name: &str) -> Result<v1::Entry, Code> {
        self.entry(Body::Link(v1::Link {
            handle: handle.to_vec(),
            new_parent: dir.to_vec(),
            new_name: name.as_bytes().to_vec(),
        }))
    }

    pub(super) fn unlink(&self, parent: &[u8], name: &str) -> Result<(), Code> {
        self.call(unlink(parent, name, false)).map(|_| ())
    }

    pub(super) fn rmdir(&self, parent: &[u8], name: &str) -> Result<(), Code> {
        self.call(unlink(parent, name, true)).map(|_| ())
    }

    pub(super) fn rename(&self, from: (&[u8], &str), to: (&[u8], &str)) -> Result<(), Code> {
        self.call(rename(from, to)).map(|_| ())
    }

    pub(super) fn open(&self, handle: &[u8], flags: u32) -> Result<v1::Opened, Code> {
        match self.call(Body::Open(v1::Open { handle: handle.to_vec(), flags }))? {
            reply::Result::Opened(opened) => Ok(opened),
            other => panic!("an open was expected: {other:?}"),
        }
    }

    pub(super) fn release(&self, handle: &[u8], open_id: u64) -> Result<(), Code> {
        let op = v1::Release { open_id, handle: handle.to_vec(), ..Default::default() };
        self.call(Body::Release(op)).map(|_| ())
    }

    pub(super) fn page(&self, op: v1::ReadDir) -> Result<v1::DirPage, Code> {
        match self.call(Body::ReadDir(op))? {
            reply::Result::DirPage(page) => Ok(page),
            other => panic!("a page was expected: {other:?}"),
        }
    }

    /// All names of a directory, sorted.
    pub(super) fn names(&self, handle: &[u8]) -> Result<Vec<String>, Code> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let op = v1::ReadDir { handle: handle.to_vec(), cookie, max_bytes: 4096, plus: false };
            let page = self.page(op)?;
            for entry in page.entries {
                assert!(entry.cookie > cookie, "cookies rise");
                cookie = entry.cookie;
                names.push(String::from_utf8(entry.name).unwrap());
            }
            if page.end {
                names.sort();
                return Ok(names);
            }
        }
    }

    /// Mints keys and uploads objects of this stored length under them.
    pub(super) fn upload(&self, count: u32, stored: u64) -> Result<Vec<ObjectId>, Code> {
        let op = v1::MintObjects { count, size_limit: u32::try_from(stored).unwrap() };
        let reply::Result::Minted(minted) = self.call(Body::MintObjects(op))? else {
            panic!("keys were expected")
        };
        let ids: Vec<_> = minted
            .objects
            .iter()
            .map(|object| ObjectId::from_slice(&object.object_id).unwrap())
            .collect();
        ids.iter().for_each(|id| {
            self.blocks.objects.lock().insert(*id, stored);
        });
        Ok(ids)
    }

    /// Writes `length` bytes at `offset` as one object.
    pub(super) fn write(
        &self,
        handle: &[u8],
        open_id: u64,
        offset: u64,
        length: u64,
    ) -> Result<v1::Attr, Code> {
        let object = self.upload(1, length)?.pop().unwrap();
        self.commit(v1::CommitData {
            handle: handle.to_vec(),
            open_id,
            extents: vec![extent(object, offset, length)],
            stored_lengths: vec![length],
            ..Default::default()
        })
    }

    pub(super) fn write_inline(
        &self,
        handle: &[u8],
        open_id: u64,
        bytes: &[u8],
    ) -> Result<v1::Attr, Code> {
        let base_change = self.getattr(handle)?.change;
        self.commit(v1::CommitData {
            handle: handle.to_vec(),
            open_id,
            inline_data: Some(bytes.to_vec().into()),
            base_change,
            ..Default::default()
        })
    }

    pub(super) fn commit(&self, op: v1::CommitData) -> Result<v1::Attr, Code> {
        self.attr_of(Body::CommitData(op))
    }

    pub(super) fn extents(&self, handle: &[u8]) -> Result<v1::ExtentMap, Code> {
        let op = v1::ReadExtents {
            handle: handle.to_vec(),
            offset: 0,
            length: u64::MAX,
            ..Default::default()
        };
        match self.call(Body::ReadExtents(op))? {
            reply::Result::Extents(map) => Ok(map),
            other => panic!("extents were expected: {other:?}"),
        }
    }

    /// (file offset, length, offset in the object) of each extent.
    pub(super) fn spans(&self, handle: &[u8]) -> Vec<(u64, u64, u64)> {
        let map = self.extents(handle).unwrap();
        map.extents.iter().map(|e| (e.file_offset, e.length, e.object_offset)).collect()
    }

    pub(super) fn stat_fs(&self) -> Result<v1::StatFsResult, Code> {
        match self.call(Body::StatFs(v1::StatFs { handle: self.root.clone() }))? {
            reply::Result::StatFs(result) => Ok(result),
            other => panic!("numbers were expected: {other:?}"),
        }
    }

    pub(super) fn set_lock(&self, handle: &[u8], lock: v1::LockState) -> Result<(), Code> {
        self.call(set_lock(handle, lock, false)).map(|_| ())
    }
}

pub(super) fn extent(object: ObjectId, offset: u64, length: u64) -> v1::Extent {
    v1::Extent {
        file_offset: offset,
        length,
        object_id: object.0.to_vec(),
        object_offset: 0,
        object_length: length,
        url: String::new(),
    }
}

pub(super) fn lookup(parent: &[u8], name: &str) -> Body {
    Body::Lookup(v1::Lookup { parent: parent.to_vec(), name: name.as_bytes().to_vec() })
}

pub(super) fn make(parent: &[u8], name: &str, kind: FileKind, mode: u32) -> Body {
    Body::Make(v1::Make {
        parent: parent.to_vec(),
        name: name.as_bytes().to_vec(),
        kind: kind as i32,
        mode,
        exclusive: true,
        ..Default::default()
    })
}

/// O_TMPFILE, with O_EXCL unless `linkable`.
pub(super) fn make_nameless(parent: &[u8], linkable: bool) -> Body {
    let (parent, open_flags) = (parent.to_vec(), 2);
    Body::MakeNameless(v1::MakeNameless { parent, mode: 0o644, open_flags, linkable })
}

pub(super) fn unlink(parent: &[u8], name: &str, directory: bool) -> Body {
    let name = name.as_bytes().to_vec();
    Body::Unlink(v1::Unlink { parent: parent.to_vec(), name, directory })
}

pub(super) fn rename(from: (&[u8], &str), to: (&[u8], &str)) -> Body {
    Body::Rename(v1::Rename {
        parent: from.0.to_vec(),
        name: from.1.as_bytes().to_vec(),
        new_parent: to.0.to_vec(),
        new_name: to.1.as_bytes().to_vec(),
        ..Default::default()
    })
}

pub(super) fn lock(kind: LockKind, owner: u64, start: u64, end: u64) -> v1::LockState {
    v1::LockState { kind: kind as i32, flock: false, start, end, owner, pid: 1 }
}

pub(super) fn set_lock(handle: &[u8], lock: v1::LockState, wait: bool) -> Body {
    Body::SetLock(v1::SetLock { handle: handle.to_vec(), lock: Some(lock), wait })
}
