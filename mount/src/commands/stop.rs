//! `mount.flexfs stop`: returns 0 only when everything written is safe and
//! the mount is gone.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use flexfs_common::daemon::{RunFile, RunInfo};
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::control::{self, Answer, Command};
use crate::fuse;
use crate::places::{self, RunPlaces};

/// How long writing out may take: the buffer over a slow line, and the time
/// that operations wait for a lost server.
const PATIENCE: Duration = Duration::from_secs(600);

/// Stops the daemon, or takes its dead mount away.
pub(super) fn run(home: &Home, dir: &Path) -> Result<()> {
    let dir = places::absolute(dir)?;
    let run = RunPlaces::of(home, &dir);
    let Some(info) = RunFile::find(&run.file)? else {
        return if fuse::detach_dead(&dir)? { Ok(()) } else { Err(not_mounted(&dir)) };
    };
    let outcome = match control::ask(&run.socket, Command::Stop, PATIENCE) {
        Ok(Answer::Stopped) => Ok(()),
        Ok(Answer::Status(_) | Answer::Failed(..)) => Err(Error::bare(Code::ProtocolInvalid)),
        Err(error) if error.code() == Code::DaemonNotRunning => end_by_signal(&run, &info),
        Err(error) => Err(error),
    };
    if outcome.is_ok() {
        // It may have been killed before it could unmount.
        fuse::detach_dead(&dir)?;
    }
    outcome
}

fn not_mounted(dir: &Path) -> Error {
    Error::new(Code::MountNotFound, format!("{}: there is no flexfs mount here", dir.display()))
}

/// A daemon without its socket understands SIGTERM as well. Its lock is free
/// when it has ended.
fn end_by_signal(run: &RunPlaces, info: &RunInfo) -> Result<()> {
    if RunFile::find(&run.file)?.as_ref() != Some(info) {
        return Ok(());
    }
    let Some(pid) = i32::try_from(info.pid).ok().and_then(Pid::from_raw) else {
        return Err(Error::bare(Code::Internal));
    };
    // It may have ended by now.
    let _ = kill_process(pid, Signal::TERM);
    let lock = File::open(run.lock()).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver is gone after the limit; nobody needs it then.
        let _ = sender.send(flock(&lock, FlockOperation::LockShared));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Error::bare(Code::Internal).caused_by(e)),
        Err(_) => Err(Error::new(Code::DeadlineExceeded, "the mount's daemon does not end")),
    }
}
