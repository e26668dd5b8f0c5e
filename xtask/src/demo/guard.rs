//! Cleans up after the demo, however the demo ended.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;
use crate::Result;

/// How long a daemon may take to end cleanly.
const END: Duration = Duration::from_secs(10);
/// What the demo writes to the guard to keep everything.
const KEEP: &[u8] = b"keep";

/// The guard as the demo sees it.
pub(super) struct Guard(Child);

impl Guard {
    /// Starts it in a process group of its own: a Ctrl-C is not for it.
    pub(super) fn spawn(directory: &Path) -> Result<Guard> {
        let child = Command::new(std::env::current_exe()?)
            .arg("demo-guard")
            .arg(directory)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        Ok(Guard(child))
    }

    /// Everything stays.
    pub(super) fn release(mut self) -> Result {
        if let Some(mut pipe) = self.0.stdin.take() {
            pipe.write_all(KEEP)?;
        }
        self.wait()
    }

    /// Everything goes; waits until it is gone.
    pub(super) fn finish(mut self) -> Result {
        drop(self.0.stdin.take());
        self.wait()
    }

    fn wait(&mut self) -> Result {
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("cleaning up: {status}").into()) }
    }
}

/// The guard's life.
pub(super) fn watch(directory: &Path) -> Result {
    let mut order = Vec::new();
    std::io::stdin().read_to_end(&mut order)?;
    if order == KEEP { Ok(()) } else { sweep(directory) }
}

/// Ends every process of the demo, in the order in which they depend on each
/// other so that mounts can flush; unmounts what is left; removes the
/// directory.
pub(super) fn sweep(directory: &Path) -> Result {
    let users = |command: &str| !command.contains("flexfs start ");
    let mounts_of = |command: &str| command.contains("mount.flexfs start ");
    let metas = |command: &str| command.contains("meta.flexfs start ");
    end(directory, &users);
    end(directory, &mounts_of);
    end(directory, &metas);
    end(directory, &|_| true);
    for mount in mounts(directory)? {
        // What a killed mount left; its outcome shows in the check at the end.
        let _ = Command::new("umount").arg("--lazy").arg(&mount).status();
    }
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", directory.display()).into())
        }
        _ => Ok(()),
    }
}

/// SIGTERM, then SIGKILL, to those whose command line is `concerned`.
fn end(directory: &Path, concerned: &dyn Fn(&str) -> bool) {
    for signal in [Signal::TERM, Signal::KILL] {
        let left = || {
            let all = processes(directory);
            all.into_iter().filter(|(_, command)| concerned(command))
        };
        for (pid, _) in left() {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
        if wait_until(END, || left().next().is_none()) {
            return;
        }
    }
}

/// Processes whose environment has the demo's `FLEXFS_HOME`, with their
/// command lines.
fn processes(directory: &Path) -> Vec<(Pid, String)> {
    let mark = format!("FLEXFS_HOME={}/home", directory.display());
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|number| {
        let environment = fs::read(format!("/proc/{number}/environ")).ok()?;
        let ours = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
        let command = fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let zombie = command.is_empty();
        let text = String::from_utf8_lossy(&command).replace('\0', " ");
        (ours && !zombie).then_some((Pid::from_raw(number)?, text))
    })
    .collect()
}

/// Mount points below the directory, innermost first.
fn mounts(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    Ok(below)
}

/// The promise of the demo.
pub(super) fn assert_nothing_left(directory: &Path) -> Result {
    let processes = processes(directory);
    let mounts = mounts(directory)?;
    if processes.is_empty() && mounts.is_empty() && !directory.exists() {
        return Ok(());
    }
    Err(format!("left over: {processes:?} {mounts:?} {}", directory.display()).into())
}

/// The ends of the daemons' logs, when the demo failed.
pub(super) fn show_logs(directory: &Path) {
    for tier in ["admin", "meta", "mount"] {
        let path = directory.join("home").join(tier).join("log");
        if let Ok(text) = fs::read_to_string(&path) {
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(15);
            eprintln!("--- {}", path.display());
            lines.iter().skip(from).for_each(|line| eprintln!("{line}"));
        }
    }
}
