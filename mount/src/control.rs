//! How `status` and `stop` talk to the daemon of a mount: a Unix socket of
//! mode 0600 in a directory of mode 0700; one JSON line each way.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::status::MountStatus;

/// Bytes of one line.
const LINE_MAX: u64 = 64 * 1024;
/// Callers served at once.
const CALLERS_MAX: usize = 16;
/// A caller that says nothing for this long is let go.
const SILENCE: Duration = Duration::from_secs(5);

/// What a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// How is it?
    Status,
    /// Write everything out, unmount, end.
    Stop,
}

/// The daemon's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To `status`.
    Status(Box<MountStatus>),
    /// To `stop`: unmounted, nothing was lost. The process ends now.
    Stopped,
    /// It did not work: code and message.
    Failed(String, String),
}

/// A request with its way back.
pub type Call = (Command, oneshot::Sender<Answer>);

/// A failure to send.
#[must_use]
pub fn failed(error: &Error) -> Answer {
    Answer::Failed(error.code().name().to_owned(), error.with_causes())
}

/// The daemon's side. The socket vanishes when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl ControlSocket {
    /// Listens at `path` and hands calls to `calls`. The caller holds the run
    /// file, so an old socket there is a dead one. Needs a tokio runtime.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when the socket cannot be made.
    pub fn serve(path: &Path, calls: mpsc::Sender<Call>) -> Result<ControlSocket> {
        let cannot = |e: std::io::Error| {
            Error::new(Code::ConfigInvalid, format!("cannot listen at {}", path.display()))
                .caused_by(e)
        };
        // There is none after a clean end.
        let _ = std::fs::remove_file(path);
        let listener = in_short(path, |short| UnixListener::bind(short)).map_err(cannot)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(cannot)?;
        let task = tokio::spawn(accept(listener, calls));
        Ok(ControlSocket { path: path.to_owned(), task })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Only tidiness: nobody listens any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: tokio::net::UnixListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer_one(stream, &calls).await {
                        tracing::debug!("a control caller went away: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("the control socket failed: {error}");
                tokio::time::sleep(SILENCE).await;
            }
        }
    }
}

async fn answer_one(
    mut stream: tokio::net::UnixStream,
    calls: &mpsc::Sender<Call>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LINE_MAX));
    tokio::time::timeout(SILENCE, reader.read_line(&mut line)).await??;
    let (sender, receiver) = oneshot::channel();
    let command = serde_json::from_str(&line).map_err(std::io::Error::other)?;
    let gone = || failed(&Error::bare(Code::DaemonNotRunning));
    let answer = match calls.send((command, sender)).await {
        Ok(()) => receiver.await.unwrap_or_else(|_| gone()),
        Err(_) => gone(),
    };
    let mut text = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    // Open until the caller leaves or this process ends: who asked to stop
    // waits for that.
    reader.read_line(&mut String::new()).await.map(|_| ())
}

/// The caller's side: asks the daemon and waits at most `limit`; after `Stop`
/// also until its process has ended. Blocks.
///
/// # Errors
/// `DAEMON_NOT_RUNNING` when nobody listens, `DEADLINE_EXCEEDED`, what the
/// daemon said.
pub fn ask(path: &Path, command: Command, limit: Duration) -> Result<Answer> {
    let gone = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            Error::new(Code::DeadlineExceeded, "the mount's daemon did not answer in time")
        }
        _ => Error::new(Code::DaemonNotRunning, "the mount's daemon does not answer").caused_by(e),
    };
    let mut stream = in_short(path, |short| UnixStream::connect(short)).map_err(gone)?;
    stream.set_read_timeout(Some(limit)).map_err(gone)?;
    let mut text =
        serde_json::to_vec(&command).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(gone)?;
    let mut reader = BufReader::new(std::io::Read::take(stream, LINE_MAX));
    let mut line = String::new();
    reader.read_line(&mut line).map_err(gone)?;
    if command == Command::Stop {
        // Its end; a failure to read is one, too.
        let _ = reader.read_line(&mut String::new());
    }
    let answer = serde_json::from_str(&line)
        .map_err(|e| Error::new(Code::DaemonNotRunning, "the mount's daemon ended").caused_by(e))?;
    match answer {
        Answer::Failed(code, message) => {
            let code = Code::from_name(&code).unwrap_or(Code::Internal);
            Err(Error::new(code, message))
        }
        answer => Ok(answer),
    }
}

/// A socket's address has room for 107 bytes (unix(7)), a home may be deeper:
/// names the socket through its directory's descriptor.
fn in_short<T>(path: &Path, act: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    act(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_is_answered_however_deep_the_home_lies() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("m.sock");
        let (sender, mut calls) = mpsc::channel::<Call>(1);
        let socket = ControlSocket::serve(&path, sender).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asked = path.clone();
        let caller = tokio::task::spawn_blocking(move || ask(&asked, Command::Status, SILENCE));
        let (command, back) = calls.recv().await.unwrap();
        assert_eq!(command, Command::Status);
        back.send(failed(&Error::new(Code::FsIo, "lost"))).unwrap();
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::FsIo, "lost"));
        drop(socket);
        let error = ask(&path, Command::Status, SILENCE).unwrap_err();
        assert_eq!(error.code(), Code::DaemonNotRunning);
    }
}
