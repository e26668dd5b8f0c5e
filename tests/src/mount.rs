//! One mount, and how it goes away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Run, bin_dir};
use crate::wait::wait_until;

/// How long a clean unmount may take.
const STOP: Duration = Duration::from_secs(60);

/// A daemon that was killed is given so long to end by itself.
const STUCK: Duration = Duration::from_secs(3);

/// A mounted volume. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    creds: PathBuf,
    home: PathBuf,
}

/// A daemon that is stopped.
#[derive(Debug)]
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Mount {
    pub(crate) fn new(dir: PathBuf, creds: PathBuf, home: PathBuf) -> Mount {
        Mount { dir, creds, home }
    }

    /// The mount point.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Its credentials file.
    #[must_use]
    pub fn creds(&self) -> &Path {
        &self.creds
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(bin_dir().join("mount.flexfs"));
        command.env("FLEXFS_HOME", &self.home).env_remove("FLEXFS_TOKEN").args(arguments);
        Run::of(&mut command, STOP)
    }

    /// `mount.flexfs status DIR -o json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.run(&["status", &self.dir.display().to_string(), "-o", "json"]).json()
    }

    /// Its daemon.
    ///
    /// # Panics
    /// When the status tells none.
    #[track_caller]
    #[must_use]
    pub fn pid(&self) -> Pid {
        let status = self.status();
        let number = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        number.and_then(Pid::from_raw).unwrap_or_else(|| panic!("no pid in {status}"))
    }

    /// Stops the daemon (SIGSTOP) until this is dropped: declared after what is
    /// open on the mount, so that closing it does not hang when a test fails.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn paused(&self) -> Paused {
        let daemon = self.pid();
        kill_process(daemon, Signal::STOP).expect("the daemon runs");
        Paused(daemon)
    }

    /// `mount.flexfs stop DIR`.
    #[must_use]
    pub fn try_stop(&self) -> Run {
        self.run(&["stop", &self.dir.display().to_string()])
    }

    /// Stops it; it must succeed.
    #[track_caller]
    pub fn stop(self) {
        self.try_stop().ok();
        assert!(!self.is_mounted(), "still mounted after stop");
    }

    /// kill -9 of its daemon; the dead mount stays, and answers nothing.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn kill9(&self) {
        let pid = self.pid();
        kill_process(pid, Signal::KILL).expect("the mount's daemon");
        let begun = Instant::now();
        let mut forced = false;
        wait_until("the mount's daemon is gone", Duration::from_secs(20), || {
            // It cannot end while its kernel waits for itself (docs/failures.md).
            if !forced && begun.elapsed() > STUCK {
                forced = true;
                let _ = Command::new("umount").arg("--force").arg(&self.dir).output();
            }
            !Path::new(&format!("/proc/{}/fd", pid.as_raw_nonzero())).exists()
                || fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
                    .is_ok_and(|line| line.is_empty())
        });
    }

    /// Takes a dead mount away, as its administrator would.
    pub fn clear(self) {
        self.unmount_lazily();
    }

    fn unmount_lazily(&self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).output();
    }

    /// Is it in the table of mounts?
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        mount_points(&self.dir).contains(&self.dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        // In a failing test the mount may be broken: do not ask it.
        if !std::thread::panicking() && self.try_stop().succeeded() {
            return;
        }
        self.unmount_lazily();
    }
}

/// Mount points at or below a directory, innermost first.
///
/// # Panics
/// When the table cannot be read.
#[must_use]
pub fn mount_points(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    below
}
