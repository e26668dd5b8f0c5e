//! One mounted connection: handshake, a reader, one task per request.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::{Code, Error, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::answer::{Answer, Debt};
use super::device::{Delivery, Device, Received};
use super::encode::Body;
use super::notify::Notifier;
use super::operation::{self, LockOp, Operation};
use super::parse::{self, Fields, Header, Malformed};
use super::running::Running;
use super::{abi, run};
use crate::errno;
use crate::fs::FileSystem;
use crate::session::SessionState;

/// A request, or the end: an aborted connection is "in error" and not readable.
const READY: Interest = Interest::READABLE.add(Interest::ERROR);
/// How often an interrupted request looks whether its server is still there.
const INTERRUPT_RECHECK: Duration = Duration::from_millis(200);

/// How the connection is set up.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionSettings {
    /// The kernel checks access control lists too (meta keeps them).
    pub posix_acl: bool,
}

/// A connection that serves until it is unmounted.
#[derive(Debug)]
pub struct Connection {
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fs: Arc<FileSystem>,
    device: Arc<Device>,
    running: Running,
}

impl Connection {
    /// Answers the kernel's first request and starts to serve. Blocks; the
    /// runtime is the one the requests are worked on in.
    ///
    /// # Errors
    /// `MOUNT_INVALID` when the kernel's protocol is too old, or the file
    /// system was unmounted at once.
    pub fn start(
        device: std::os::fd::OwnedFd,
        fs: Arc<FileSystem>,
        settings: ConnectionSettings,
        runtime: Handle,
    ) -> Result<Connection> {
        let device = Arc::new(Device::new(device));
        let mut buffer = Vec::with_capacity(abi::BUFFER);
        if !device.receive(&mut buffer) {
            return Err(Error::new(Code::MountInvalid, "unmounted while mounting"));
        }
        let minor = handshake(&device, &buffer, settings)?;
        fs.set_kernel(Arc::new(Notifier::new(Arc::clone(&device), minor)));
        let internal = |e: std::io::Error| Error::bare(Code::Internal).caused_by(e);
        device.set_nonblocking().map_err(internal)?;
        let ready = {
            let _runtime = runtime.enter();
            watch(Arc::clone(&device)).map_err(internal)?
        };
        let shared = Arc::new(Shared { fs, device, running: Running::default() });
        let reader = runtime.spawn(async move { shared.read_requests(&ready).await });
        Ok(Connection { reader })
    }

    /// Returns when the file system is unmounted.
    pub async fn ended(self) {
        // A reader that panicked has said so.
        let _ = self.reader.await;
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that may be closed meanwhile; this one \
              lives as long as what watches it"
)]
fn watch(device: Arc<Device>) -> std::io::Result<AsyncFd<Arc<Device>>> {
    AsyncFd::with_interest(device, READY)
}

/// `fuse_init_in` → `fuse_init_out`. Gives the minor version in use.
fn handshake(device: &Device, request: &[u8], settings: ConnectionSettings) -> Result<u32> {
    let too_old = || Error::new(Code::MountInvalid, "the kernel's FUSE protocol is not understood");
    let (header, mut fields) = parse::header(request).map_err(|_: Malformed| too_old())?;
    let mut take = || -> Result<u32> { fields.u32().map_err(|_: Malformed| too_old()) };
    if header.opcode != abi::op::INIT {
        return Err(too_old());
    }
    let (major, minor, read_ahead, low) = (take()?, take()?, take()?, take()?);
    if major != abi::MAJOR || minor < abi::MINOR_MIN {
        device.reply(header.unique, errno::PROTOCOL, &[]);
        return Err(too_old());
    }
    let extended = u64::from(low) & abi::init::INIT_EXT != 0;
    let high = if extended { take()? } else { 0 };
    let mut wanted = abi::init::WANTED;
    if settings.posix_acl {
        wanted |= abi::init::POSIX_ACL;
    }
    let flags = (u64::from(low) | u64::from(high) << 32) & wanted;
    let halves = [flags & u64::from(u32::MAX), flags >> 32].map(|half| {
        // Both are below 2^32.
        u32::try_from(half).unwrap_or(0)
    });
    let mut body = Body::default();
    body.u32(abi::MAJOR).u32(abi::MINOR.min(minor)).u32(read_ahead).u32(halves[0]);
    body.u16(abi::MAX_BACKGROUND).u16(abi::CONGESTION).u32(abi::MAX_WRITE);
    // Times to the nanosecond.
    body.u32(1).u16(abi::MAX_PAGES).u16(0).u32(halves[1]).zeros(7 * 4);
    device.reply(header.unique, 0, &body.finish());
    tracing::debug!(minor, flags = format!("{flags:x}"), "FUSE connection initialised");
    Ok(abi::MINOR.min(minor))
}

impl Shared {
    /// Reads requests and hands each on within microseconds. On the runtime's
    /// own threads, whichever is free: a thread that only reads would have to
    /// wake another one for each request, which costs more than the reading.
    async fn read_requests(self: &Arc<Shared>, ready: &AsyncFd<Arc<Device>>) {
        let mut buffer = Vec::with_capacity(abi::BUFFER);
        loop {
            let mut guard = match ready.ready(READY).await {
                Ok(guard) => guard,
                Err(error) => {
                    tracing::error!("waiting for /dev/fuse failed: {error}");
                    return;
                }
            };
            loop {
                match self.device.try_receive(&mut buffer) {
                    Received::Request => self.serve(&buffer),
                    Received::Nothing => break,
                    Received::End => return,
                }
            }
            guard.clear_ready();
        }
    }

    /// Hands a request on.
    fn serve(self: &Arc<Shared>, request: &[u8]) {
        let Ok((header, fields)) = parse::header(request) else {
            // Without a header there is nobody to answer.
            tracing::error!("a message of the kernel is not understood");
            return;
        };
        let Header { opcode, unique, node, who } = header;
        tracing::trace!(opcode, unique, node, pid = who.pid, "request");
        match self.parse(header, fields) {
            Ok(operation) => self.dispatch(header, operation),
            Err(Malformed) => {
                tracing::error!(
                    opcode = header.opcode,
                    "a request of the kernel is not understood"
                );
                Debt::new(Arc::clone(&self.device), header.unique).refuse(errno::INVALID);
            }
        }
    }

    fn parse(&self, header: Header, fields: Fields<'_>) -> Result<Operation, Malformed> {
        match header.opcode {
            abi::op::FORGET => operation::forget(header.node, fields),
            opcode => operation::parse(opcode, fields),
        }
    }

    fn dispatch(self: &Arc<Shared>, header: Header, operation: Operation) {
        match operation {
            Operation::Forget(nodes) => {
                for (ino, count) in nodes {
                    self.fs.forget(ino, count);
                }
                return;
            }
            Operation::Interrupt(unique) => {
                if !self.running.interrupt(unique) {
                    // Another reader has the request in its hands: once more.
                    self.device.reply(header.unique, errno::AGAIN, &[]);
                }
                return;
            }
            _ => {}
        }
        let debt = Debt::new(Arc::clone(&self.device), header.unique);
        match operation {
            Operation::Ioctl => debt.refuse(errno::NO_IOCTL),
            Operation::Unknown => debt.refuse(errno::NOT_SERVED),
            Operation::Destroy => drop(debt.pay(&mut Ok(Answer::empty()), self.fs.freshness())),
            Operation::Xattr(_) if !self.fs.serves_xattrs() => debt.refuse(errno::NOT_SERVED),
            operation => {
                let interrupted = self.running.enter(header.unique);
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    let mut answer = shared.work(header, operation, &interrupted).await;
                    shared.running.leave(header.unique);
                    if debt.pay(&mut answer, shared.fs.freshness()) == Delivery::Gone {
                        shared.undo(answer).await;
                    }
                });
            }
        }
    }

    /// Runs the operation, or gives it up when its caller got a signal and
    /// it waits: for a lock, or for a server that is away.
    async fn work(
        &self,
        header: Header,
        operation: Operation,
        interrupted: &tokio::sync::Notify,
    ) -> Result<Answer> {
        let lock_wait = match &operation {
            Operation::Lock(LockOp::Set { fh, lock, wait: true }) => Some((*fh, *lock)),
            _ => None,
        };
        let outcome = tokio::select! {
            biased;
            outcome = run::run(&self.fs, header, operation) => Some(outcome),
            () = self.given_up(interrupted, lock_wait.is_some()) => None,
        };
        match outcome {
            Some(outcome) => outcome,
            None => {
                if let Some((fh, lock)) = lock_wait
                    && let Some(unlocked) = self.fs.lock_given_up(fh, lock)
                {
                    tokio::select! {
                        // It says itself when it fails.
                        _ = unlocked => {}
                        () = self.meta_is_away() => {}
                    }
                }
                Err(Code::OperationInterrupted.into())
            }
        }
    }

    async fn given_up(&self, interrupted: &tokio::sync::Notify, lock_wait: bool) {
        interrupted.notified().await;
        if !lock_wait {
            // Else it will end soon by itself, with its true result.
            self.meta_is_away().await;
        }
    }

    async fn meta_is_away(&self) {
        while self.fs.session().state() != SessionState::Reconnecting {
            tokio::time::sleep(INTERRUPT_RECHECK).await;
        }
    }

    /// The kernel did not take the answer: gives back what it handed out.
    async fn undo(&self, answer: Result<Answer>) {
        let Ok(answer) = answer else { return };
        for ino in answer.told {
            self.fs.forget(ino, 1);
        }
        if let Some(fh) = answer.opened {
            self.fs.release(fh, 0).await;
        }
        if let Some(fh) = answer.opened_dir {
            // It was just made, so it is there.
            let _ = self.fs.releasedir(fh);
        }
    }
}
