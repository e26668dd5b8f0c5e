//! Running programs with a limit, and daemons as children.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

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
    /// Its exit code; 128 + the signal when one ended it.
    pub code: i32,
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
        let process = Process::start(command, input, None);
        let begun = Instant::now();
        let code = loop {
            if let Some(code) = process.ended() {
                break code;
            }
            if begun.elapsed() > limit {
                let (stdout, stderr) = (process.text("out"), process.text("err"));
                process.signal(Signal::KILL);
                panic!("`{line}` hangs, not done within {limit:?}\n{stdout}{stderr}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Run { line, code, stdout: process.text("out"), stderr: process.text("err") }
    }

    /// Did it end with 0?
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// It ended with 0; its stdout.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(
            self.succeeded(),
            "`{}` ended with {}\n{}{}",
            self.line,
            self.code,
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
            self.code == exit && told,
            "`{}` should end with {exit} and {code}, not with {}\n{}{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        &self.stderr
    }
}

/// A daemon (`--foreground`), with its log in a file.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says is appended to `log`.
    ///
    /// # Panics
    /// When it cannot start.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Daemon {
        Daemon { process: Process::start(command, b"", Some(log)), log: log.to_owned() }
    }

    /// Waits until `ready`, and fails early when it ends instead.
    ///
    /// # Panics
    /// When it ends, or is not ready in time.
    pub fn wait_ready(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        wait_until(&format!("{what} is ready"), Duration::from_secs(60), || {
            if let Some(code) = self.process.ended() {
                panic!("{what} ended with {code}\n{}", tail(&self.log));
            }
            ready()
        });
    }

    /// kill -9; returns when it is gone.
    pub fn kill9(self) {
        self.process.signal(Signal::KILL);
        self.wait_end();
    }

    /// SIGTERM; it must end with 0 by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn terminate(self) {
        self.process.signal(Signal::TERM);
        let code = self.wait_end();
        assert_eq!(code, 0, "after SIGTERM\n{}", tail(&self.log));
    }

    /// Has it died of SIGKILL?
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        let code = self.process.ended();
        let killed = code == Some(128 + Signal::KILL.as_raw());
        assert!(code.is_none() || killed, "it ended with {code:?}\n{}", tail(&self.log));
        killed
    }

    fn wait_end(&self) -> i32 {
        wait_for("the daemon ends", Duration::from_secs(30), || self.process.ended())
    }

    /// Sends a signal, such as STOP and CONT.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.signal(Signal::KILL);
            self.wait_end();
        }
    }
}

/// A program started by the [`launcher`].
#[derive(Debug)]
struct Process {
    /// Its files in the launcher's directory: `pid`, `in`, `out`, `err`,
    /// `code`.
    files: PathBuf,
}

impl Process {
    fn start(command: &Command, input: &[u8], log: Option<&Path>) -> Process {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let launcher = launcher();
        let files = launcher.directory.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&files).expect("a directory");
        fs::write(files.join("in"), input).expect("its input");
        let mut line = format!("( cd {} && exec 9>&- && ", quote(files.as_os_str()));
        let mut words = String::from("sh -c 'echo $$ >pid.new && mv pid.new pid");
        if let Some(directory) = command.get_current_dir() {
            // Quoted once more, because it stands in a quoted script.
            let directory = quote(directory.as_os_str()).replace('\'', "'\\''");
            words.push_str(&format!(" && cd {directory}"));
        }
        words.push_str(" && exec \"$@\"' sh");
        for (name, value) in command.get_envs() {
            let name = name.to_str().expect("a name in ASCII");
            match value {
                Some(value) => line.push_str(&format!("export {name}={} && ", quote(value))),
                None => line.push_str(&format!("unset {name} && ")),
            }
        }
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            words.push(' ');
            words.push_str(&quote(word));
        }
        let (out, err) = match log {
            Some(log) => (format!(">>{}", quote(log.as_os_str())), "2>&1".to_owned()),
            None => (">out".to_owned(), "2>err".to_owned()),
        };
        line.push_str(&format!(
            "{{ {words} <in {out} {err}; echo $? >code.new; mv code.new code; }} ) &\n"
        ));
        let mut pipe = launcher.pipe.lock().expect("no panic while sending");
        pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()).expect("the launcher lives");
        drop(pipe);
        let process = Process { files };
        wait_until("the launcher starts a program", Duration::from_secs(60), || {
            process.files.join("pid").exists() || process.ended().is_some()
        });
        process
    }

    /// Its exit code, once it has ended.
    fn ended(&self) -> Option<i32> {
        fs::read_to_string(self.files.join("code")).ok()?.trim().parse().ok()
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.files.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.text("pid").trim().parse().ok().and_then(Pid::from_raw);
        // It may have ended since we looked.
        let _ = kill_process(pid.expect("the launcher told its pid"), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only tidiness: the launcher removes all of it at the end.
        let _ = fs::remove_dir_all(&self.files);
    }
}

/// A shell that starts every program for us. A child of this very process
/// would have copies of our descriptors until it executes its program, and
/// closing a file on a mount asks the mount: with files open on a mount whose
/// server is dead, we could never start that server again.
struct Launcher {
    pipe: Mutex<ChildStdin>,
    directory: PathBuf,
    /// Ends when we do, because its pipe closes.
    _shell: Child,
}

fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("flexfs-launcher-").tempdir();
        let directory = directory.expect("a directory").keep();
        // Nothing that it starts may hold the pipe's other end open: 9 is closed above.
        let script = "exec 9<&0 </dev/null; while IFS= read -r line <&9; do eval \"$line\"; done; \
                      rm -rf \"$1\"";
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        let pipe = Mutex::new(shell.stdin.take().expect("piped"));
        Launcher { pipe, directory, _shell: shell }
    })
}

/// For a shell, as one word.
fn quote(word: &OsStr) -> String {
    let word = word.to_str().expect("words in UTF-8");
    assert!(!word.contains('\n'), "a line break in {word:?}");
    format!("'{}'", word.replace('\'', "'\\''"))
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
