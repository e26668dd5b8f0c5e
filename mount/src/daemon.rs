//! One mount, from the credentials file to its clean end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::creds::Credentials;
use flexfs_auth::token::Token;
use flexfs_common::daemon::{self, RunFile, RunInfo, Termination};
use flexfs_common::home::Home;
use flexfs_common::size::Size;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

use crate::caller::Requester;
use crate::cli::{OnRevoke, StartArgs};
use crate::control::{self, Answer, Call, ControlSocket};
use crate::creds_file::{CredsFile, Fingerprint};
use crate::data::{DataPlane, DataSettings};
use crate::events::{self, Notice};
use crate::fs::{FileSystem, forget_lists, watch_pages};
use crate::fuse::{Connection, ConnectionSettings, MountSettings, Mounted};
use crate::inode_table::ROOT;
use crate::places::{self, RunPlaces};
use crate::session::{MetaSession, SessionConfig, SessionEvent, SessionState};
use crate::status::MountStatus;
use crate::{creds_watch, locate, mount_point, remount};

/// How long an operation waits for a lost meta: long enough for a restart,
/// short enough that no program hangs for good (P4).
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Memory of the read cache without `--memCapacity`: a share that no machine
/// misses.
const MEM_CAPACITY: u64 = 256 * 1024 * 1024;
/// The smallest read cache that works: a few blocks.
const MEM_CAPACITY_MIN: u64 = 16 * 1024 * 1024;
/// How long the fresh mount may take to answer its first question.
const PROBE: Duration = Duration::from_secs(15);
/// How long the last requests may take after unmounting.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a mount ends.
enum End {
    /// SIGTERM, SIGINT.
    Signal,
    /// `stop`, which waits for the outcome.
    Asked(oneshot::Sender<Answer>),
    /// umount(8) by somebody.
    Unmounted,
    /// Cut, and `--onRevoke unmount`.
    Revoked,
}

/// A mount that serves.
struct Live {
    volume: String,
    dir: PathBuf,
    on_revoke: OnRevoke,
    fs: Arc<FileSystem>,
    mounted: Arc<Mounted>,
    /// To the kernel.
    flags: watch::Sender<v1::Flags>,
    calls: mpsc::Receiver<Call>,
    notices: mpsc::Receiver<Notice>,
    /// Ends when the kernel's connection has.
    gone: oneshot::Receiver<()>,
    termination: Termination,
}

/// Mounts and serves until the end. `arguments.dir` is absolute.
///
/// # Errors
/// What keeps it from mounting; what was lost at the end.
pub async fn run(home: &Home, arguments: &StartArgs) -> Result<()> {
    let run = RunPlaces::of(home, &arguments.dir);
    let run_file = RunFile::acquire(&run.file).map_err(|error| match error.code() {
        Code::DaemonRunning => Error::new(
            Code::MountInvalid,
            format!("{}: is a flexfs mount already", arguments.dir.display()),
        ),
        _ => error,
    })?;
    let (dir, non_empty) = (arguments.dir.clone(), arguments.non_empty);
    blocking(move || mount_point::prepare(&dir, non_empty)).await?;
    let (fs, events) = open(home, arguments).await?;
    let (mut live, calls) = mount(arguments, fs, events).await?;
    let ready = announce(&run_file, &run, &live, calls).await;
    let (socket, end) = match ready {
        Ok(socket) => {
            tracing::info!(dir = %live.dir.display(), volume = live.volume, "mounted");
            let end = live.serve().await;
            (Some(socket), end)
        }
        Err(error) => {
            live.finish(End::Signal).await?;
            return Err(error);
        }
    };
    let outcome = live.finish(end).await;
    drop(socket);
    drop(run_file);
    outcome
}

/// Session and data plane.
async fn open(
    home: &Home,
    arguments: &StartArgs,
) -> Result<(Arc<FileSystem>, mpsc::Receiver<SessionEvent>)> {
    let volume = arguments.volume.as_str();
    let creds_file = arguments.creds_file.clone().unwrap_or_else(|| places::creds(home, volume));
    let (session, events) = open_session(arguments, &creds_file).await?;
    let settings = DataSettings {
        mem_capacity: mem_capacity(arguments.mem_capacity),
        write_back_max: limits::WRITE_BACK_MAX_LEN,
    };
    let data = DataPlane::new(Arc::clone(&session), settings)?;
    Ok((Arc::new(FileSystem::new(session, data)?), events))
}

/// The session, from the token that the file holds; and what becomes of the
/// file from then on is watched.
async fn open_session(
    arguments: &StartArgs,
    creds_file: &Path,
) -> Result<(Arc<MetaSession>, mpsc::Receiver<SessionEvent>)> {
    let (creds, token) = locate::read(creds_file).await?;
    let mut in_use = Fingerprint::of(&token);
    let opened = match connect(arguments, creds_file, creds, &token).await {
        Err(error) if has_ended(error.code()) => {
            // It may have been replaced in this moment.
            let (creds, token) = locate::read(creds_file).await?;
            if Fingerprint::of(&token) == in_use {
                return Err(error);
            }
            in_use = Fingerprint::of(&token);
            connect(arguments, creds_file, creds, &token).await?
        }
        other => other?,
    };
    let file = CredsFile::new(creds_file.to_owned());
    tokio::spawn(creds_watch::watch(Arc::clone(&opened.0), file, in_use));
    Ok(opened)
}

async fn connect(
    arguments: &StartArgs,
    creds_file: &Path,
    creds: Credentials,
    token: &Token,
) -> Result<(Arc<MetaSession>, mpsc::Receiver<SessionEvent>)> {
    let volume = arguments.volume.as_str();
    let config = SessionConfig {
        meta: locate::meta(creds_file, volume, creds, token).await?,
        volume: volume.to_owned(),
        token: token.to_wire(),
        requested: v1::Flags::from(&arguments.restrict),
        dir: arguments.dir.display().to_string(),
        wait_limit: WAIT_LIMIT,
    };
    MetaSession::open(config).await
}

/// Is it the token that is refused, so that another one may be accepted?
fn has_ended(code: Code) -> bool {
    matches!(
        code,
        Code::TokenRotated
            | Code::TokenRevoked
            | Code::TokenExpired
            | Code::TokenUnknown
            | Code::TokenDisabled
    )
}

fn mem_capacity(asked: Option<Size>) -> u64 {
    let bytes = match asked {
        None => MEM_CAPACITY,
        Some(Size::Bytes(bytes)) => bytes,
        Some(Size::Percent(percent)) => {
            let system = rustix::system::sysinfo();
            let unit = u64::from(system.mem_unit.max(1));
            let total = system.totalram.saturating_mul(unit);
            total / 100 * u64::from(percent)
        }
    };
    bytes.max(MEM_CAPACITY_MIN)
}

/// Mounts, and waits until the kernel's first question is answered.
async fn mount(
    arguments: &StartArgs,
    fs: Arc<FileSystem>,
    events: mpsc::Receiver<SessionEvent>,
) -> Result<(Live, mpsc::Sender<Call>)> {
    let in_force = fs.session().flags();
    let settings = MountSettings {
        volume: arguments.volume.to_string(),
        dir: arguments.dir.clone(),
        flags: in_force,
        owner_only: arguments.owner_only,
    };
    // From here on a signal ends the mount as it should.
    let termination = Termination::install()?;
    let connection = ConnectionSettings { posix_acl: fs.kernel_checks_lists() };
    let (served, runtime) = (Arc::clone(&fs), tokio::runtime::Handle::current());
    let (mounted, connection) = blocking(move || {
        let (mounted, device) = Mounted::mount(&settings)?;
        match Connection::start(device, served, connection, runtime) {
            Ok(connection) => Ok((mounted, connection)),
            Err(error) => {
                // The first error is the one to tell.
                let _ = mounted.unmount();
                Err(error)
            }
        }
    })
    .await?;
    let (ended, gone) = oneshot::channel();
    tokio::spawn(async move {
        connection.ended().await;
        // Nobody waits when the daemon ends first.
        let _ = ended.send(());
    });
    if fs.kernel_checks_lists() {
        tokio::spawn(forget_lists(Arc::clone(&fs)));
    }
    let (notify, notices) = mpsc::channel(4);
    tokio::spawn(events::serve(Arc::clone(&fs), events, notify));
    tokio::spawn(watch_pages(Arc::clone(&fs)));
    let (call, calls) = mpsc::channel(4);
    let mounted = Arc::new(mounted);
    let (flags, wanted) = watch::channel(in_force);
    tokio::spawn(remount::run(Arc::clone(&mounted), in_force, wanted));
    let live = Live {
        volume: arguments.volume.to_string(),
        dir: arguments.dir.clone(),
        on_revoke: arguments.on_revoke,
        fs,
        mounted,
        flags,
        calls,
        notices,
        gone,
        termination,
    };
    Ok((live, call))
}

/// Does it answer, and is it what lies at the directory? Asked of what the
/// kernel would ask, never of the kernel: a thread of ours that waits for the
/// mount cannot end before it is answered, not even by SIGKILL, and keeps the
/// connection open on which nobody answers any more.
async fn probe(live: &Live) -> Result<()> {
    let invalid =
        |why: &str| Error::new(Code::MountInvalid, format!("{}: {why}", live.dir.display()));
    let who = Requester {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    };
    tokio::time::timeout(PROBE, live.fs.statfs(who, ROOT))
        .await
        .map_err(|_| invalid("does not answer in time"))?
        .map_err(|e| invalid("does not answer").caused_by(e))?;
    let mounted = Arc::clone(&live.mounted);
    match blocking(move || Ok(mounted.is_mounted())).await? {
        true => Ok(()),
        false => Err(invalid("is not mounted any more")),
    }
}

/// Proves that the mount answers, and says so.
async fn announce(
    run_file: &RunFile,
    run: &RunPlaces,
    live: &Live,
    calls: mpsc::Sender<Call>,
) -> Result<ControlSocket> {
    probe(live).await?;
    let socket = ControlSocket::serve(&run.socket, calls)?;
    let address = live.dir.display().to_string();
    run_file.publish(&RunInfo { pid: std::process::id(), address, no_ssl: false })?;
    daemon::ready()?;
    // Not under systemd: nothing to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(socket)
}

impl Live {
    /// Serves until something ends the mount.
    async fn serve(&mut self) -> End {
        let (mut listening, mut callable) = (true, true);
        loop {
            tokio::select! {
                () = self.termination.arrived() => return End::Signal,
                _ = &mut self.gone => return End::Unmounted,
                call = self.calls.recv(), if callable => match call {
                    Some((control::Command::Stop, back)) => return End::Asked(back),
                    Some((control::Command::Status, back)) => self.tell(back),
                    // The control socket ended; signals still work.
                    None => callable = false,
                },
                notice = self.notices.recv(), if listening => match notice {
                    Some(Notice::Cut(_)) if self.on_revoke == OnRevoke::Unmount => {
                        return End::Revoked;
                    }
                    Some(Notice::Cut(_)) => {}
                    Some(Notice::Flags(flags)) => drop(self.flags.send_replace(flags)),
                    None => listening = false,
                },
            }
        }
    }

    fn tell(&self, back: oneshot::Sender<Answer>) {
        let status = MountStatus::of(&self.fs, &self.volume, &self.dir);
        // The caller may have gone.
        let _ = back.send(Answer::Status(Box::new(status)));
    }

    /// Writes everything out, unmounts, says goodbye.
    async fn finish(self, end: End) -> Result<()> {
        let Live { fs, mounted, gone, flags, .. } = self;
        drop(flags);
        let cut = || matches!(fs.session().state(), SessionState::Cut(_));
        let mut outcome = Ok(());
        if !matches!(end, End::Unmounted) {
            if !cut() {
                outcome = flush(&fs).await;
            }
            let unmounting = Arc::clone(&mounted);
            let unmounted = blocking(move || unmounting.unmount()).await;
            if let Err(error) = &unmounted {
                tracing::error!("{}", error.with_causes());
            }
            outcome = outcome.and(unmounted);
            // The kernel releases what was open before it lets go.
            let _ = tokio::time::timeout(DRAIN, gone).await;
        }
        if !cut() && outcome.is_ok() {
            // What came between the first flush and the unmounting.
            outcome = flush(&fs).await;
        }
        // Nobody waits for servers that are away a second time; the session
        // then ends by its own time.
        if tokio::time::timeout(DRAIN, fs.session().close()).await.is_err() {
            tracing::warn!("no goodbye: meta does not answer");
        }
        match &outcome {
            Ok(()) => tracing::info!("unmounted"),
            Err(error) => tracing::error!(code = %error.code(), "{}", error.with_causes()),
        }
        if let End::Asked(back) = end {
            let answer = match &outcome {
                Ok(()) => Answer::Stopped,
                Err(error) => control::failed(error),
            };
            // The caller may have gone.
            let _ = back.send(answer);
        }
        outcome
    }
}

/// Returns when everything is on the servers' stable storage.
async fn flush(fs: &FileSystem) -> Result<()> {
    fs.data().flush_all(true).await.map_err(|error| {
        let dirty = fs.data().usage().dirty_bytes;
        let lost = match dirty {
            0 => "what was written last may not be on stable storage".to_owned(),
            _ => format!("{dirty} bytes are lost"),
        };
        let away = fs.session().state() == SessionState::Reconnecting;
        let code = if away { Code::MetaUnreachable } else { error.code() };
        Error::new(code, format!("unmounted, but {lost}")).caused_by(error)
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_read_cache_has_a_useful_size() {
        assert_eq!(mem_capacity(None), MEM_CAPACITY);
        assert_eq!(mem_capacity(Some(Size::Bytes(1))), MEM_CAPACITY_MIN);
        assert_eq!(mem_capacity(Some(Size::Bytes(1 << 40))), 1 << 40);
        let (five, ten) = (Size::Percent(5), Size::Percent(10));
        assert!(mem_capacity(Some(five)) <= mem_capacity(Some(ten)));
    }
}
