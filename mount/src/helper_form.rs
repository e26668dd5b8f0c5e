//! The mount(8) helper form: `mount.flexfs SPEC DIR [-sfnv] [-o opts]
//! [-t type]`, as mount(8) calls helpers. An option that is not known is
//! refused by name, so that a misspelt `ro` never mounts writable.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use flexfs_common::size;
use flexfs_common::{Code, Error, Result};

use crate::cli::{OnRevoke, RestrictArgs, StartArgs, umask};

/// Words that make the first argument a command.
const COMMANDS: [&str; 8] =
    ["start", "stop", "status", "init", "deinit", "version", "help", "maintain"];
/// Options that mount(8) passes on and that mean nothing to us.
const IGNORED: [&str; 27] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "suid",
    "dev",
    "exec",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "async",
    "sync",
    "dirsync",
    "silent",
    "loud",
    "acl",
    "xAttr",
];

/// What mount(8) wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperCall {
    /// As if `start` had been given.
    pub start: StartArgs,
    /// `-f`: check only.
    pub fake: bool,
}

/// Is this command line (without the program's name) mount(8)'s?
#[must_use]
pub fn is_helper_form(arguments: &[OsString]) -> bool {
    let Some(first) = arguments.first().map(|word| word.to_string_lossy()) else { return false };
    !first.starts_with('-') && !COMMANDS.contains(&first.as_ref())
}

/// Parses it.
///
/// # Errors
/// `ARGUMENT_INVALID`, naming what is wrong; `NAME_INVALID`.
pub fn parse(arguments: &[OsString]) -> Result<HelperCall> {
    let mut words = arguments.iter();
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let (mut fake, mut sloppy) = (false, false);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match text.strip_prefix('-') {
            Some("o") => options.push(text_of(words.next(), "-o")?),
            // The type is ours, or mount(8) would not have called.
            Some("t") => drop(text_of(words.next(), "-t")?),
            Some(letters) if !letters.is_empty() => {
                for letter in letters.chars() {
                    match letter {
                        's' => sloppy = true,
                        'f' => fake = true,
                        'n' | 'v' => {}
                        _ => return Err(invalid(&format!("-{letter} is not a mount option"))),
                    }
                }
            }
            _ => places.push(word),
        }
    }
    let [spec, dir] = places.as_slice() else {
        return Err(invalid("a volume and a directory are expected"));
    };
    let mut start = StartArgs {
        volume: spec.to_string_lossy().parse()?,
        dir: PathBuf::from(dir),
        creds_file: None,
        restrict: RestrictArgs::default(),
        // fstab and mount(8) mount over whatever is there.
        non_empty: true,
        mem_capacity: None,
        foreground: false,
        on_revoke: OnRevoke::Fail,
        owner_only: false,
        verbose: false,
        home: None,
    };
    for option in options.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
        if !apply(&mut start, option)? && !sloppy {
            return Err(invalid(&format!("the mount option `{option}` is not known")));
        }
    }
    Ok(HelperCall { start, fake })
}

fn text_of<'a>(word: Option<&'a OsString>, flag: &str) -> Result<&'a str> {
    word.map(OsString::as_os_str)
        .and_then(OsStr::to_str)
        .ok_or_else(|| invalid(&format!("{flag} needs a value")))
}

fn invalid(why: &str) -> Error {
    Error::new(Code::ArgumentInvalid, why)
}

/// False when the option is not known.
fn apply(start: &mut StartArgs, option: &str) -> Result<bool> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let restrict = &mut start.restrict;
    match (name, value) {
        ("ro", None) => restrict.ro = true,
        ("noexec" | "noExec", None) => restrict.no_exec = true,
        ("nosuid" | "noSUID", None) => restrict.no_suid = true,
        ("nodev" | "noDev", None) => restrict.no_dev = true,
        ("noatime" | "noATime", None) => restrict.no_atime = true,
        ("rootSquash", None) => restrict.root_squash = true,
        ("rootSquashUID", Some(id)) => restrict.root_squash_uid = Some(number(option, id)?),
        ("rootSquashGID", Some(id)) => restrict.root_squash_gid = Some(number(option, id)?),
        ("umask", Some(bits)) => restrict.umask = Some(umask(bits)?),
        ("credsFile", Some(path)) => start.creds_file = Some(absolute(option, path)?),
        ("flexfsHome", Some(path)) => start.home = Some(absolute(option, path)?),
        ("memCapacity", Some(size)) => start.mem_capacity = Some(size::parse(size)?),
        ("ownerOnly", None) => start.owner_only = true,
        ("verbose", None) => start.verbose = true,
        ("onRevoke", Some("fail")) => start.on_revoke = OnRevoke::Fail,
        ("onRevoke", Some("unmount")) => start.on_revoke = OnRevoke::Unmount,
        // Comments and hints for others (mount(8), systemd).
        ("user" | "comment", Some(_)) => {}
        (name, None) if IGNORED.contains(&name) => {}
        (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
        _ => return Ok(false),
    }
    Ok(true)
}

fn number(option: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|_| invalid(&format!("`{option}`: a number is expected")))
}

/// mount(8) runs helpers in any directory.
fn absolute(option: &str, text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_relative() {
        return Err(invalid(&format!("`{option}`: an absolute path is expected")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Result<HelperCall> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_are_told_from_volumes() {
        let is =
            |words: &[&str]| is_helper_form(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(is(&["vol", "/mnt"]));
        assert!(is(&["vol", "/mnt", "-o", "ro"]));
        for other in [&[][..], &["start", "vol", "/mnt"], &["--help"], &["-h"], &["version"]] {
            assert!(!is(other), "{other:?}");
        }
    }

    #[test]
    fn options_become_arguments_of_start() {
        let HelperCall { start, fake } = call(&[
            "vol",
            "/mnt",
            "-n",
            "-o",
            "rw,ro,noexec,nosuid,credsFile=/c,umask=027,_netdev,x-systemd.automount",
            "-o",
            "memCapacity=5%,ownerOnly,onRevoke=unmount,verbose,flexfsHome=/h,nofail",
            "-t",
            "flexfs",
        ])
        .unwrap();
        assert!(!fake);
        assert_eq!((start.volume.as_str(), start.dir.to_str()), ("vol", Some("/mnt")));
        assert!(start.restrict.ro && start.restrict.no_exec && start.restrict.no_suid);
        assert!(!start.restrict.no_dev);
        assert_eq!(start.restrict.umask, Some(0o027));
        assert_eq!(start.creds_file, Some("/c".into()));
        assert_eq!(start.home, Some("/h".into()));
        assert_eq!(start.mem_capacity, Some(size::Size::Percent(5)));
        assert!(start.owner_only && start.verbose && start.non_empty);
        assert_eq!(start.on_revoke, OnRevoke::Unmount);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let message = |words: &[&str]| call(words).unwrap_err().message().to_owned();
        assert!(message(&["vol", "/mnt", "-o", "ro,readonly"]).contains("`readonly`"));
        assert!(message(&["vol", "/mnt", "-o", "ro=1"]).contains("`ro=1`"));
        assert!(message(&["vol", "/mnt", "-x"]).contains("-x"));
        assert!(message(&["vol", "/mnt", "-o"]).contains("-o"));
        assert!(message(&["vol"]).contains("directory"));
        assert!(message(&["vol", "/a", "/b"]).contains("directory"));
        assert!(message(&["vol", "/mnt", "-o", "credsFile=c"]).contains("absolute"));
        assert_eq!(call(&["VOL", "/mnt"]).unwrap_err().code(), Code::NameInvalid);
        assert!(call(&["vol", "/mnt", "-sv", "-o", "whatever"]).is_ok(), "-s tolerates");
    }

    #[test]
    fn fake_mounts_only_check() {
        assert!(call(&["vol", "/mnt", "-f", "-v"]).unwrap().fake);
        assert!(call(&["vol", "/mnt", "-fnv", "-o", "ro"]).unwrap().fake);
    }
}
