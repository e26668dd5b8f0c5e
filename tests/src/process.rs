//! Running programs with a limit, and daemons as children.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::{wait_for, wait_until};

/// No command of the tests takes this long.
pub const COMMAND: Duration = Duration::from_secs(120);

/// The directory with the programs under their dotted names: `FLEXFS_BIN_DIR`,
/// or built now.
///
/// # Panics
/// When they cannot be built.
pub fn bin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("FLEXFS_BIN_DIR") {
            return PathBuf::from(dir);
        }
        let root = repository();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["xtask", "bins"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo xtask bins: {}", output.status);
        let text = String::from_utf8(output.stdout).expect("a path in UTF-8");
        PathBuf::from(text.lines().last().expect("cargo xtask bins prints a directory"))
    })
}

/// The root of this repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in the repository").to_owned()
}

/// What a command did.
#[derive(Debug)]
pub struct Run {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Run {
    /// Runs to the end.
    ///
    /// # Panics
    /// When it cannot start, or takes longer than `limit`.
    #[must_use]
    pub fn of(command: &mut Command, limit: Duration) -> Run {
        Run::with_input(command, b"", limit)
    }

    /// Runs to the end, with this on stdin.
    ///
    /// # Panics
    /// When it cannot start, or takes longer than `limit`.
    #[must_use]
    pub fn with_input(command: &mut Command, input: &[u8], limit: Duration) -> Run {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        // A command that does not read its input closes the pipe.
        let _ = child.stdin.take().expect("piped").write_all(input);
        let stdout = drain(child.stdout.take().expect("piped"));
        let stderr = drain(child.stderr.take().expect("piped"));
        let status = wait_for(&line, limit, || child.try_wait().expect("our child"));
        // A daemon that kept our pipes would hold us here: it must not.
        wait_until(&format!("{line}: its pipes close"), Duration::from_secs(10), || {
            stdout.is_finished() && stderr.is_finished()
        });
        let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().expect("no panic")).into_owned()
        };
        Run { line, status, stdout: text(stdout), stderr: text(stderr) }
    }

    /// It ended with 0; its stdout.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(
            self.status.success(),
            "`{}`: {}\n{}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// It ended with 0 and printed one JSON value.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.ok();
        serde_json::from_str(text).unwrap_or_else(|e| panic!("`{}`: {e}: {text}", self.line))
    }

    /// It failed with this exit code and this error code on stderr.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn fails(&self, exit: i32, code: &str) -> &str {
        let told = self.stderr.contains(&format!("error[{code}]"))
            || self.stderr.contains(&format!("\"code\":\"{code}\""));
        assert!(
            self.status.code() == Some(exit) && told,
            "`{}` should end with {exit} and {code}: {}\n{}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stderr
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

/// A daemon that runs as our child (`--foreground`), with its log in a file.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says is appended to `log`.
    ///
    /// # Panics
    /// When it cannot start.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Daemon {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let copy: File = file.try_clone().expect("a second descriptor");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Daemon { child, log: log.to_owned() }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`, and fails early when it ends instead.
    ///
    /// # Panics
    /// When it ends, or is not ready in time.
    pub fn wait_ready(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        wait_until(&format!("{what} is ready"), Duration::from_secs(60), || {
            if let Some(status) = self.child.try_wait().expect("our child") {
                panic!("{what} ended: {status}\n{}", tail(&self.log));
            }
            ready()
        });
    }

    /// kill -9, and the corpse is gone.
    ///
    /// # Panics
    /// When it is not our child any more.
    pub fn kill9(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// SIGTERM; it must end with 0 by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = wait_for("the daemon ends", Duration::from_secs(30), || {
            self.child.try_wait().expect("our child")
        });
        assert!(status.success(), "after SIGTERM: {status}\n{}", tail(&self.log));
    }

    /// Sends a signal, such as STOP and CONT.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("--- {}\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"))
}

/// Processes that have this `FLEXFS_HOME` in their environment.
#[must_use]
pub fn processes_of(home: &Path) -> Vec<Pid> {
    let mark = format!("FLEXFS_HOME={}", home.display());
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .filter_map(Pid::from_raw)
    .collect()
}
