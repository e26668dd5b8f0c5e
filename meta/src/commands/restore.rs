//! `restore`: an empty data directory from a backup.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use flexfs_common::daemon::RunFile;
use flexfs_common::{Code, Error, Result};
use rustix::fs::{Mode, OFlags};

use super::local::Local;
use crate::backup::{Summary, load};
use crate::cli::BackupFile;
use crate::engine::fjall::FjallEngine;
use crate::identity::DataDir;
use crate::output;
use crate::settings::absolute;

/// Fills the data directory. The engine's directory has its name only when
/// all of it is on the disk; until then no server starts on it.
///
/// # Errors
/// `DAEMON_RUNNING`, `STORE_NOT_EMPTY`, `BACKUP_NOT_FOUND`, those of
/// [`load::restore`].
pub fn restore(arguments: &BackupFile) -> Result<()> {
    let local = Local::new(&arguments.show)?;
    let path = absolute(&arguments.file)?;
    // Held to the end: neither a server nor another restore comes in between.
    let _run = RunFile::acquire(&local.run)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    // What is no file is not waited for: a FIFO may have no writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::empty()).map(File::from);
    let file = opened.map_err(std::io::Error::from).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Error::new(Code::BackupNotFound, format!("{} is not there", path.display()))
        }
        _ => cannot_read(&path, e),
    })?;
    if !file.metadata().map_err(|e| cannot_read(&path, e))?.is_file() {
        return Err(Error::new(Code::BackupInvalid, format!("{} is no file", path.display())));
    }
    let data = DataDir::open(&local.data)?;
    if data.engine().exists() {
        let why = format!("{} holds a metadata database", local.data.display());
        return Err(Error::new(Code::StoreNotEmpty, why));
    }
    let summary = build(&data, file)?;
    output::backup("restored", &summary, &path, arguments.show.output);
    Ok(())
}

fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::BackupFailed, format!("cannot read {}", path.display())).caused_by(error)
}

fn build(data: &DataDir, file: File) -> Result<Summary> {
    clear(data)?;
    let filled = fill(data, file);
    match &filled {
        Ok(_) => data.finish_restore()?,
        Err(_) => clear(data)?,
    }
    filled
}

/// Fills and closes the engine.
fn fill(data: &DataDir, file: File) -> Result<Summary> {
    let engine = FjallEngine::open(&data.restoring())?;
    load::restore(&engine, &mut BufReader::new(file))
}

/// Removes what a restore that was broken off left.
fn clear(data: &DataDir) -> Result<()> {
    let at = data.restoring();
    match std::fs::remove_dir_all(&at) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::new(Code::ConfigInvalid, format!("cannot remove {}", at.display()))
                .caused_by(e))
        }
        _ => Ok(()),
    }
}
