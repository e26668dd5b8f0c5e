//! How a daemon starts, says that it is ready, and is found again.
//!
//! `start` runs the same program once more with `--foreground`, from a
//! session of its own, and waits on a pipe until the child says "ready" or
//! fails; no fork without exec, so no unsafe code. The run file beside a held
//! lock tells `status` and `stop` where the daemon of this `FLEXFS_HOME` is:
//! the lock dies with the process, so a stale file deceives nobody.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Code, Error, Result, home, wire};

/// Set in the environment of a child that was started by [`spawn`].
const CHILD_VARIABLE: &str = "FLEXFS_DAEMON_CHILD";

/// Starts this program again as a daemon and waits until it is ready.
/// `arguments` are those of the present command (without the program name);
/// `--foreground` is added. Returns the child's pid.
///
/// # Errors
/// What the child reported, or `DAEMON_FAILED` naming the log file.
pub fn spawn(arguments: &[OsString], log: &Path, limit: Duration) -> Result<u32> {
    let failed =
        |why: &str| Error::new(Code::DaemonFailed, format!("{why}; see {}", log.display()));
    if let Some(dir) = log.parent() {
        home::make_dir(dir)?;
    }
    let log_file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(|e| failed("the log cannot be opened").caused_by(e))?;
    let program = std::env::current_exe()
        .map_err(|e| failed("this program cannot find itself").caused_by(e))?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg("--foreground")
        .env(CHILD_VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(|e| failed("the daemon cannot be started").caused_by(e))?;
    let pid = child.id();
    let Some(mut pipe) = child.stdout.take() else {
        return Err(failed("the daemon has no pipe"));
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let outcome = pipe.read_to_string(&mut text).map(|_| text);
        // The receiver is gone after the limit; nobody needs it then.
        let _ = sender.send(outcome);
    });
    match receiver.recv_timeout(limit) {
        Ok(Ok(text)) if text.trim_end() == "ready" => Ok(pid),
        Ok(Ok(text)) => Err(parse_failure(text.trim_end())
            .unwrap_or_else(|| failed("the daemon ended before it was ready"))),
        Ok(Err(e)) => Err(failed("the daemon's pipe broke").caused_by(e)),
        Err(_) => {
            // It must not come up later, behind the caller's back.
            let _ = child.kill();
            let _ = child.wait();
            Err(failed(&format!("the daemon was not ready within {} s", limit.as_secs())))
        }
    }
}

fn parse_failure(text: &str) -> Option<Error> {
    let (code, message) = text.split_once('\n')?;
    let detail = flexfs_proto::v1::ErrorDetail {
        code: code.to_owned(),
        message: message.to_owned(),
        hint: String::new(),
    };
    wire::error_from_detail(&detail).ok()
}

/// Was this process started by [`spawn`]?
#[must_use]
pub fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some()
}

/// First act of a child: leaves the caller's session and terminal. Does
/// nothing in the foreground.
pub fn detach() {
    if is_child() {
        // Fails only for a process group leader, which a child is not.
        let _ = rustix::process::setsid();
    }
}

/// Says "ready": the caller's `start` returns 0. Lets go of stdout and of the
/// working directory. Does nothing in the foreground except for systemd,
/// which the caller notifies itself.
///
/// # Errors
/// `DAEMON_FAILED` when the caller has gone.
pub fn ready() -> Result<()> {
    if !is_child() {
        return Ok(());
    }
    let failed = |e: std::io::Error| {
        Error::new(Code::DaemonFailed, "the caller of `start` has gone").caused_by(e)
    };
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n").and_then(|()| stdout.flush()).map_err(failed)?;
    let null = fs::OpenOptions::new().write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| failed(e.into()))?;
    std::env::set_current_dir("/").map_err(failed)
}

/// Reports why the daemon did not start: to the waiting `start` when there is
/// one (true), else the caller prints it.
#[must_use]
pub fn report_failure(error: &Error) -> bool {
    if !is_child() {
        return false;
    }
    let mut stdout = std::io::stdout();
    let text = format!("{}\n{}", error.code().name(), error.with_causes());
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// What a running daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunInfo {
    /// Process id.
    pub pid: u32,
    /// Where it can be reached: `host:port`, or the mount point.
    pub address: String,
    /// True when it listens without TLS.
    #[serde(default)]
    pub no_ssl: bool,
}

/// A process that was killed lets go of its lock some time after kill(2) has
/// returned: whoever starts another at once waits so long for it.
const DYING: Duration = Duration::from_secs(1);

/// The run file and its lock, held while the daemon lives.
#[derive(Debug)]
pub struct RunFile {
    _lock: fs::File,
    path: PathBuf,
}

impl RunFile {
    /// Takes the lock beside `path` (`path` + `.lock`).
    ///
    /// # Errors
    /// `DAEMON_RUNNING` when another process holds it.
    pub fn acquire(path: &Path) -> Result<RunFile> {
        if let Some(dir) = path.parent() {
            home::make_dir(dir)?;
        }
        let lock = open_lock(path)?;
        let until = Instant::now() + DYING;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(RunFile { _lock: lock, path: path.to_owned() }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(DYING / 50);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Code::DaemonRunning.into()),
                Err(e) => return Err(lock_failed(path).caused_by(e)),
            }
        }
    }

    /// Publishes where the daemon is.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when the file cannot be written.
    pub fn publish(&self, info: &RunInfo) -> Result<()> {
        let text =
            serde_json::to_vec(info).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
        home::write_file(&self.path, &text)
    }

    /// The daemon behind the run file; `None` when none runs.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when the lock cannot be looked at.
    pub fn find(path: &Path) -> Result<Option<RunInfo>> {
        if !lock_path(path).exists() {
            return Ok(None);
        }
        let lock = open_lock(path)?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Ok(fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()))
            }
            Err(e) => Err(lock_failed(path).caused_by(e)),
        }
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // Only tidiness: the lock decides.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn lock_failed(path: &Path) -> Error {
    Error::new(Code::ConfigInvalid, format!("cannot lock {}", lock_path(path).display()))
}

fn open_lock(path: &Path) -> Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(lock_path(path))
        .map_err(|e| lock_failed(path).caused_by(e))
}

/// SIGTERM and SIGINT, from when this is made: before anybody is told that the
/// daemon is ready, or one that comes right then ends it unclean.
#[derive(Debug)]
pub struct Termination {
    term: Signal,
    int: Signal,
}

impl Termination {
    /// Installs the handlers.
    ///
    /// # Errors
    /// `INTERNAL` when they cannot be installed.
    pub fn install() -> Result<Termination> {
        let install = |kind| signal(kind).map_err(|e| Error::bare(Code::Internal).caused_by(e));
        let (term, int) = (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
        Ok(Termination { term, int })
    }

    /// Ends when one has arrived.
    pub async fn arrived(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_file_is_found_only_while_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin/run");
        assert_eq!(RunFile::find(&path).unwrap(), None);
        let info = RunInfo { pid: 7, address: "127.0.0.1:1".into(), no_ssl: false };
        {
            let held = RunFile::acquire(&path).unwrap();
            held.publish(&info).unwrap();
            assert_eq!(RunFile::find(&path).unwrap(), Some(info));
            assert_eq!(RunFile::acquire(&path).unwrap_err().code(), Code::DaemonRunning);
        }
        assert_eq!(RunFile::find(&path).unwrap(), None);
        RunFile::acquire(&path).unwrap();
    }

    #[test]
    fn the_lock_of_a_daemon_that_is_just_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin/run");
        let held = RunFile::acquire(&path).unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(DYING / 10);
            drop(held);
        });
        RunFile::acquire(&path).unwrap();
        ending.join().unwrap();
    }
}
