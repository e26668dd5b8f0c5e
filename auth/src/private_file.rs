//! Files that hold secrets: read only when nobody else can have read or
//! changed them. Everything is checked on the open descriptor, so what was
//! checked is what is read (no race with a rename).

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use flexfs_common::{Code, Error, Result};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads a file of at most `limit` bytes of UTF-8.
///
/// # Errors
/// `CREDS_MISSING`; `CREDS_INSECURE` when group or others can read or write
/// it, another user owns it, it is a symbolic link or no regular file, or its
/// directory can be written by others: the message has the command that mends
/// it; `CREDS_INVALID` when it is too long or not text.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<String>> {
    let mut file = open(path)?;
    let failed = |e: std::io::Error| {
        Error::new(Code::CredsInvalid, format!("cannot read {}", path.display())).caused_by(e)
    };
    let metadata = file.metadata().map_err(failed)?;
    check(path, &metadata)?;
    check_directory(path)?;
    let mut text = Zeroizing::new(String::with_capacity(limit.min(64 * 1024) + 1));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    // The buffer is never quoted: it may hold a secret.
    (&mut file).take(bound).read_to_string(&mut text).map_err(failed)?;
    if text.len() > limit {
        return Err(Error::new(
            Code::CredsInvalid,
            format!("{} is longer than {limit} bytes", path.display()),
        ));
    }
    Ok(text)
}

fn open(path: &Path) -> Result<File> {
    // NONBLOCK: a FIFO in its place must not hold us.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let shown = path.display();
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| {
        // The open refused it; this only chooses the words.
        if path.is_symlink() {
            let quoted = quote(path);
            insecure(format!(
                "{shown} is a symbolic link; put the file itself there: \
                 `cp --remove-destination \"$(readlink -f {quoted})\" {quoted} && chmod 600 {quoted}`"
            ))
        } else if e.kind() == std::io::ErrorKind::NotFound {
            Error::new(Code::CredsMissing, format!("there is no {shown}"))
        } else if e.kind() == std::io::ErrorKind::PermissionDenied {
            insecure(format!("{shown} belongs to another user: `chown {} {}`", user(), quote(path)))
                .caused_by(e)
        } else {
            Error::new(Code::CredsInvalid, format!("cannot open {shown}")).caused_by(e)
        }
    })
}

fn check(path: &Path, metadata: &Metadata) -> Result<()> {
    let (shown, quoted) = (path.display(), quote(path));
    if !metadata.is_file() {
        return Err(insecure(format!("{shown} is not a regular file")));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(insecure(format!(
            "{shown} belongs to another user ({}): `chown {} {quoted}`",
            metadata.uid(),
            user(),
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(insecure(format!(
            "{shown} can be read or changed by others (mode {:04o}): `chmod 600 {quoted}`",
            metadata.mode() & 0o7777
        )));
    }
    Ok(())
}

/// A directory that others can read shows them a name, no more; one that they
/// can write lets them put another file there (unless sticky, as /tmp).
fn check_directory(path: &Path) -> Result<()> {
    const STICKY: u32 = 0o1000;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let metadata = std::fs::metadata(dir).map_err(|e| {
        Error::new(Code::CredsInvalid, format!("cannot look at {}", dir.display())).caused_by(e)
    })?;
    if metadata.mode() & 0o022 != 0 && metadata.mode() & STICKY == 0 {
        return Err(insecure(format!(
            "the directory {} can be changed by others (mode {:04o}): `chmod 700 {}`",
            dir.display(),
            metadata.mode() & 0o7777,
            quote(dir)
        )));
    }
    Ok(())
}

fn insecure(message: String) -> Error {
    Error::new(Code::CredsInsecure, message)
}

/// The name of the user this process acts as; the number when it has none.
fn user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, id) = (fields.next()?, fields.next()?, fields.next()?);
            (id == uid).then(|| name.to_owned())
        })
        .unwrap_or(uid)
}

/// A path as one word of a POSIX shell.
fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
