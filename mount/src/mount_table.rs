//! What is mounted where: `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use flexfs_common::{Code, Error, Result};

/// The type that /proc/mounts shows.
pub const FS_TYPE: &str = "fuse.flexfs";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// `major:minor` of the file system.
    pub device: String,
    /// Where.
    pub dir: PathBuf,
    /// Its type, e.g. `fuse.flexfs`.
    pub kind: String,
    /// What was mounted (the volume).
    pub source: OsString,
}

/// What lies on top at this directory, as this process sees it.
///
/// # Errors
/// `INTERNAL` when /proc is not there.
pub fn mounted_at(dir: &Path) -> Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|entry| entry.dir == dir))
}

/// All mounts, in the order they were made.
///
/// # Errors
/// `INTERNAL` when /proc is not there.
pub fn read() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")
        .map_err(|e| Error::new(Code::Internal, "cannot read /proc/self/mountinfo").caused_by(e))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// `36 35 98:0 /root /dir options optional… - type source options`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let dir = PathBuf::from(unescape(fields.nth(1)?));
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8(after.next()?.to_vec()).ok()?;
    let source = unescape(after.next()?);
    Some(MountEntry { device, dir, kind, source })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal
/// digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let code = (*byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = b"97 28 0:55 / /mnt/a\\040b\\134 rw,nosuid shared:5 master:1 - fuse.flexfs \
                     vol\\011x rw,user_id=0";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.device, "0:55");
        assert_eq!(entry.dir, Path::new("/mnt/a b\\"));
        assert_eq!(entry.kind, FS_TYPE);
        assert_eq!(entry.source, "vol\tx");
        let plain = parse_line(b"22 28 0:20 / /sys rw - sysfs sysfs rw").unwrap();
        assert_eq!((plain.dir.to_str(), plain.kind.as_str()), (Some("/sys"), "sysfs"));
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 2 3"), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert_eq!(mounted_at(Path::new("/no/such")).unwrap(), None);
    }
}
