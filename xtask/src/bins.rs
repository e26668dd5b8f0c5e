//! The programs under their own names. Cargo refuses a dot in the name of a
//! binary, so the crates build `admin-flexfs` and this places `admin.flexfs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, shell};

/// Package and binary of each program.
const PROGRAMS: &[(&str, &str)] = &[
    ("flexfs-admin", "admin-flexfs"),
    ("flexfs-meta", "meta-flexfs"),
    ("flexfs-mount", "mount-flexfs"),
    ("flexfs-configure", "configure-flexfs"),
];

/// How to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    /// Debug, together with every test: cargo settles the features of
    /// dependencies per build, so building the programs alone first would
    /// compile half of them twice.
    WithTests,
    Release,
}

/// Builds all programs and gives the absolute directory with their dotted
/// names: `target/<profile>/bin`.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    match profile {
        Profile::WithTests => {
            command.args(["--workspace", "--bins", "--tests"]);
        }
        Profile::Debug => only_programs(&mut command),
        Profile::Release => {
            only_programs(&mut command);
            command.arg("--release");
        }
    }
    let messages = shell::capture(&mut command)?;
    let built: Vec<PathBuf> = messages.lines().filter_map(executable).collect();
    let mut directory = None;
    for (_, binary) in PROGRAMS {
        let source = built
            .iter()
            .find(|path| path.file_name().is_some_and(|name| name == *binary))
            .ok_or_else(|| format!("cargo built no {binary}"))?;
        directory = Some(place(source, binary)?);
    }
    let directory = directory.ok_or("no programs")?;
    link_umount_helper(&directory)?;
    Ok(directory)
}

/// The name under which umount(8) calls `mount.flexfs`.
fn link_umount_helper(directory: &Path) -> Result<()> {
    let temporary = directory.join(format!(".umount.{}", std::process::id()));
    std::os::unix::fs::symlink("mount.flexfs", &temporary)?;
    Ok(fs::rename(&temporary, directory.join("umount.fuse.flexfs"))?)
}

fn only_programs(command: &mut Command) {
    for (package, binary) in PROGRAMS {
        command.args(["--package", package, "--bin", binary]);
    }
}

/// The executable that a line of cargo's messages tells of.
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

/// Puts `…/admin-flexfs` to `…/bin/admin.flexfs`, atomically, because the old
/// one may be running.
fn place(source: &Path, binary: &str) -> Result<PathBuf> {
    let profile_dir = source.parent().ok_or("an executable without a directory")?;
    let directory = profile_dir.join("bin");
    fs::create_dir_all(&directory)?;
    let dotted = binary.replace('-', ".");
    let temporary = directory.join(format!(".{dotted}.{}", std::process::id()));
    if fs::hard_link(source, &temporary).is_err() {
        fs::copy(source, &temporary)?;
    }
    fs::rename(&temporary, directory.join(&dotted))?;
    // rename(2) of two links to one file does nothing and leaves both.
    if temporary.exists() {
        fs::remove_file(&temporary)?;
    }
    Ok(fs::canonicalize(&directory)?)
}
