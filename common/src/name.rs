//! Names and paths, built only by parsing. Paths are compared by component,
//! never as strings: `/a` does not contain `/ab`.

use std::fmt;
use std::str::FromStr;

use crate::{Code, Error, Result, limits};

/// Words that `mount.flexfs` would take for a command.
const SUBCOMMANDS: [&str; 8] =
    ["start", "stop", "status", "init", "deinit", "version", "help", "maintain"];

/// The name of a volume: `[a-z0-9][a-z0-9._-]{0,62}`, not a subcommand word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(String);

impl VolumeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a meta store or block store, chosen by the operator; same form
/// as a volume's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(String);

impl StoreId {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(what: &str, text: &str) -> Result<()> {
    let first_ok =
        text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if !first_ok || !rest_ok || text.len() > limits::STORE_NAME_MAX_LEN {
        return Err(Error::new(
            Code::NameInvalid,
            format!("`{}` is not a {what}: [a-z0-9][a-z0-9._-]{{0,62}}", text.escape_debug()),
        ));
    }
    Ok(())
}

impl FromStr for VolumeName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        check_name("volume name", text)?;
        if SUBCOMMANDS.contains(&text) {
            return Err(Error::new(
                Code::NameInvalid,
                format!("`{text}` is a command word and cannot name a volume"),
            ));
        }
        Ok(VolumeName(text.to_owned()))
    }
}

impl FromStr for StoreId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        check_name("store id", text)?;
        Ok(StoreId(text.to_owned()))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scope of a token: an absolute path in its volume. Never contains `.`,
/// `..`, empty components or NUL; `/` is the whole volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubtreePath(Vec<String>);

impl SubtreePath {
    /// The whole volume.
    #[must_use]
    pub const fn root() -> SubtreePath {
        SubtreePath(Vec::new())
    }

    /// The components from the volume's root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Is it the whole volume?
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Is `other` the same or below? By component.
    #[must_use]
    pub fn contains(&self, other: &SubtreePath) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl FromStr for SubtreePath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::new(Code::PathInvalid, format!("`{}`: {why}", text.escape_debug()));
        let rest = text.strip_prefix('/').ok_or_else(|| bad("must begin with /"))?;
        if text.len() > limits::PATH_MAX_LEN {
            return Err(bad("longer than 4096 bytes"));
        }
        if rest.is_empty() {
            return Ok(SubtreePath::root());
        }
        // One trailing slash is what shells complete.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let components: Vec<String> = rest.split('/').map(str::to_owned).collect();
        for component in &components {
            if component.is_empty() {
                return Err(bad("has an empty component"));
            }
            if component == "." || component == ".." {
                return Err(bad("`.` and `..` are not allowed"));
            }
            if component.contains('\0') {
                return Err(bad("contains a NUL byte"));
            }
            if component.len() > limits::NAME_MAX_LEN {
                return Err(bad("has a component longer than 255 bytes"));
            }
        }
        if components.len() > limits::SCOPE_MAX_DEPTH {
            return Err(bad("is deeper than 64 components"));
        }
        Ok(SubtreePath(components))
    }
}

impl fmt::Display for SubtreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|component| write!(f, "/{component}"))
    }
}

/// A name in a directory: 1 to 255 bytes, any but `/` and NUL, not `.` or
/// `..` (POSIX.1-2017, 3.170).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DentryName(Vec<u8>);

impl DentryName {
    /// # Errors
    /// `FS_NAME_TOO_LONG`, or `FS_INVALID` for the other rules.
    pub fn parse(bytes: &[u8]) -> Result<DentryName> {
        if bytes.len() > limits::NAME_MAX_LEN {
            return Err(Code::FsNameTooLong.into());
        }
        let forbidden = bytes.is_empty()
            || bytes == b"."
            || bytes == b".."
            || bytes.iter().any(|b| matches!(b, b'/' | 0));
        if forbidden {
            return Err(Code::FsInvalid.into());
        }
        Ok(DentryName(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_names_good_and_bad() {
        for good in ["a", "0", "team-a", "a.b_c-9", &"x".repeat(63)] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", ".a", "a/b", "a b", "start", "help", &"x".repeat(64), "ä"] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn subtrees_compare_by_component() {
        let path = |text: &str| text.parse::<SubtreePath>().unwrap();
        assert!(path("/a").contains(&path("/a/b")));
        assert!(path("/a").contains(&path("/a")));
        assert!(!path("/a").contains(&path("/ab")));
        assert!(!path("/a/b").contains(&path("/a")));
        assert!(path("/").contains(&path("/a")));
        assert_eq!(path("/a/b/").to_string(), "/a/b");
        for bad in ["", "a", "/a//b", "/a/../b", "/a/.", "//", "/a\0b"] {
            assert!(bad.parse::<SubtreePath>().is_err(), "{bad:?}");
        }
        let deep = "/d".repeat(limits::SCOPE_MAX_DEPTH);
        assert!(deep.parse::<SubtreePath>().is_ok());
        assert!(format!("{deep}/d").parse::<SubtreePath>().is_err());
    }

    #[test]
    fn dentry_names_are_bytes() {
        assert!(DentryName::parse(b"\xff\xfe").is_ok());
        assert!(DentryName::parse(&[b'x'; 255]).is_ok());
        assert_eq!(DentryName::parse(&[b'x'; 256]).unwrap_err().code(), Code::FsNameTooLong);
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(DentryName::parse(bad).is_err());
        }
    }
}
