//! `backup`: from the running server, or from its data when none runs.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;

use flexfs_common::daemon::RunInfo;
use flexfs_common::{Code, Error, Result, home, status};
use flexfs_proto::v1;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::local::{Local, is_private};
use super::verify::open_engine;
use crate::backup::{Summary, dump, load};
use crate::cli::BackupFile;
use crate::identity::DataDir;
use crate::output;
use crate::settings::absolute;

/// Writes a backup into a new file. It has its name only when all of it is on
/// the disk and was read back.
///
/// # Errors
/// `BACKUP_EXISTS`, `BACKUP_FAILED`, `CONFIG_INVALID` (through the network in
/// plain), those of the call.
pub fn backup(arguments: &BackupFile) -> Result<()> {
    let local = Local::new(&arguments.show)?;
    let path = absolute(&arguments.file)?;
    if path.symlink_metadata().is_ok() {
        return Err(exists(&path));
    }
    let failed = |e| cannot_write(&path, e);
    home::remove_left(&path);
    let (temporary, file) = home::temporary_beside(&path).map_err(failed)?;
    let done = fill(&local, &file, &temporary).and_then(|summary| {
        give_name(&temporary, &path)?;
        Ok(summary)
    });
    match done {
        Ok(summary) => {
            output::backup("saved", &summary, &path, arguments.show.output);
            Ok(())
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::new(Code::BackupExists, format!("{} exists", path.display()))
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::BackupFailed, format!("cannot write {}", path.display())).caused_by(error)
}

/// A backup is like a key.
fn in_plain(info: &RunInfo) -> Error {
    let address = &info.address;
    let why = format!(
        "the server listens at {address} without TLS: a backup through it could be read on the \
         network; start it with TLS or on 127.0.0.1, or stop it for the backup"
    );
    Error::new(Code::ConfigInvalid, why)
}

fn fill(local: &Local, file: &File, temporary: &Path) -> Result<Summary> {
    let mut out = BufWriter::new(file);
    match local.running()? {
        Some(info) if !is_private(&info) => return Err(in_plain(&info)),
        Some(info) => through_server(local, &info, &mut out)?,
        None => {
            let data = DataDir::open(&local.data)?;
            let engine = open_engine(&data, local)?;
            dump::dump(engine.as_ref(), &mut out)?;
        }
    }
    out.flush().and_then(|()| file.sync_all()).map_err(|e| cannot_write(temporary, e))?;
    drop(out);
    let written = File::open(temporary).map_err(|e| cannot_write(temporary, e))?;
    load::check(&mut BufReader::new(written))
}

/// Gives the file its name, unless something has it.
fn give_name(temporary: &Path, path: &Path) -> Result<()> {
    let renamed = renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE);
    let renamed = match renamed.map_err(std::io::Error::from) {
        // Not every file system has it (NFS, 9p): a second name, then, and the
        // first one away.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            std::fs::hard_link(temporary, path).and_then(|()| std::fs::remove_file(temporary))
        }
        other => other,
    };
    match renamed {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(exists(path)),
        Err(e) => return Err(cannot_write(path, e)),
    }
    let dir = path.parent().unwrap_or(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| cannot_write(path, e))
}

fn through_server(local: &Local, info: &RunInfo, out: &mut dyn Write) -> Result<()> {
    super::run_async(async {
        let failed = |e| status::from_status(&e, Code::MetaUnreachable);
        let mut client = tokio::task::block_in_place(|| local.client(info))?;
        let call = client.backup(v1::BackupRequest {}).await;
        let mut stream = call.map_err(failed)?.into_inner();
        while let Some(part) = stream.message().await.map_err(failed)? {
            let written = tokio::task::block_in_place(|| out.write_all(&part.data));
            written.map_err(|e| {
                Error::new(Code::BackupFailed, "writing the backup failed").caused_by(e)
            })?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use flexfs_common::daemon::RunFile;

    use super::*;

    #[test]
    fn nothing_is_asked_of_a_server_over_a_network_in_plain() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let local = Local { creds: at("creds"), data: at("data"), run: at("run") };
        let run = RunFile::acquire(&local.run).unwrap();
        let file = File::create(at("backup")).unwrap();
        let code = |address: &str, no_ssl| {
            let pid = std::process::id();
            run.publish(&RunInfo { pid, address: address.to_owned(), no_ssl }).unwrap();
            fill(&local, &file, &at("backup")).unwrap_err().code()
        };
        // There are no credentials: who comes to them was not refused before.
        assert_eq!(code("192.0.2.1:7410", true), Code::ConfigInvalid);
        assert_eq!(code("192.0.2.1:7410", false), Code::CredsMissing);
        assert_eq!(code("0.0.0.0:7410", true), Code::CredsMissing);
        assert!(!at("data").exists(), "no server was looked for");
    }
}
