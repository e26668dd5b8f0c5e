//! Where the demo plays: its directory, and the commands of its user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::Result;

/// The demo's directory with what lies in it, and the user's shell.
pub(super) struct Stage {
    directory: PathBuf,
    step: u32,
}

impl Stage {
    /// Lays out `home`, `bin` and the mount points.
    pub(super) fn new(directory: &Path, bins: PathBuf) -> Result<Stage> {
        let stage = Stage { directory: directory.to_owned(), step: 0 };
        for name in ["home", "all", "second", "team", "late"] {
            fs::DirBuilder::new().mode(0o700).create(stage.path(name))?;
        }
        symlink(bins, stage.path("bin"))?;
        Ok(stage)
    }

    /// A path in the demo's directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A loopback port that is free now.
    pub(super) fn free_address(&self) -> Result<String> {
        Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
    }

    /// Begins a step of the story.
    pub(super) fn step(&mut self, what: &str) {
        self.step += 1;
        println!("\n{}. {what}", self.step);
    }

    /// Something the user sees or learns.
    pub(super) fn note(&self, what: &str) {
        println!("   {what}");
    }

    /// A command line of the user's shell; its stdout, shown and returned.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        let output = self.attempt(line)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("`{line}`: {}\n{text}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A command that must fail with this exit code; shows its complaint.
    pub(super) fn refused(&self, line: &str, code: i32) -> Result<String> {
        let output = self.attempt(line)?;
        if output.status.code() != Some(code) {
            let got = output.status;
            return Err(format!("`{line}` should have ended with {code}, not {got}").into());
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn attempt(&self, line: &str) -> Result<Output> {
        println!("   $ {line}");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", &format!("umask 077; {line}")])
            .current_dir(&self.directory)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("FLEXFS_HOME", self.path("home"))
            .env_remove("FLEXFS_TOKEN")
            .stdin(Stdio::null())
            .output()?;
        for text in [&output.stdout, &output.stderr] {
            for line in String::from_utf8_lossy(text).lines().take(12) {
                println!("     {line}");
            }
        }
        Ok(output)
    }
}
