//! The command line (docs/cli.md, section mount.flexfs).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flexfs_common::name::VolumeName;
use flexfs_common::size::{self, Size};
use flexfs_common::{Code, Error, Result, tls};

/// Mounts flexfs volumes.
#[derive(Debug, Parser)]
#[command(
    name = "mount.flexfs",
    about = "Mounts flexfs volumes",
    disable_help_subcommand = true,
    after_help = "Also the mount(8) helper: mount -t flexfs VOLUME DIR -o ro,credsFile=FILE\n\n\
                  Example:\n  mount.flexfs init creds projects --adminAddr admin.example:7400 \
                  --tokenFile token\n  mount.flexfs start projects /mnt/projects"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up this machine for a volume
    Init {
        /// What.
        #[command(subcommand)]
        what: Init,
    },
    /// Mount a volume
    Start(StartArgs),
    /// Write everything out and unmount
    Stop(StopArgs),
    /// Show one mount, or all of this FLEXFS_HOME
    Status(StatusArgs),
    /// Show the version
    Version,
}

/// What can be set up.
#[derive(Debug, Subcommand)]
pub enum Init {
    /// Store the token for a volume, after admin has confirmed it
    Creds(InitCredsArgs),
}

/// `init creds`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mount.flexfs init creds projects --adminAddr \
                        admin.example:7400 --tokenFile - < token\n  mount.flexfs init creds \
                        projects --adminAddr admin.example:7400 --claimFile code")]
pub struct InitCredsArgs {
    /// Name or id of the volume
    #[arg(value_name = "VOLUME", value_parser = volume)]
    pub volume: VolumeName,
    /// Where admin is
    #[arg(long = "adminAddr", value_name = "HOST:PORT")]
    pub admin_addr: String,
    /// The volume token: a file, `-` for standard input, or a reference
    #[arg(long = "tokenFile", value_name = "FILE|-")]
    pub token_file: Option<String>,
    /// A claim code, likewise: traded for the token, once
    #[arg(long = "claimFile", value_name = "FILE|-", conflicts_with = "token_file")]
    pub claim_file: Option<String>,
    /// The secret of an encrypted volume, likewise
    #[arg(long = "secretFile", value_name = "FILE|-")]
    pub secret_file: Option<String>,
    /// Trust only the installation with this CA, as printed by `admin.flexfs status`
    #[arg(long = "caFingerprint", value_name = "sha256:HEX")]
    pub ca_fingerprint: Option<String>,
    /// Write here instead of $FLEXFS_HOME/mount/creds/VOLUME
    #[arg(long = "credsFile", value_name = "FILE")]
    pub creds_file: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
}

/// `start`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "Example: mount.flexfs start projects /mnt/projects --ro")]
pub struct StartArgs {
    /// Name or id of the volume
    #[arg(value_name = "VOLUME", value_parser = volume)]
    pub volume: VolumeName,
    /// Where to mount it
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Read the token from here instead of $FLEXFS_HOME/mount/creds/VOLUME
    #[arg(long = "credsFile", value_name = "FILE")]
    pub creds_file: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub restrict: RestrictArgs,
    /// Mount over a directory that is not empty
    #[arg(long = "nonEmpty")]
    pub non_empty: bool,
    /// Memory for what was read: bytes, 64M, 4G, or 5% of the machine's
    #[arg(long = "memCapacity", value_name = "SIZE", value_parser = size::parse)]
    pub mem_capacity: Option<Size>,
    /// Stay in the foreground, log to standard error
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// What becomes of the mount when its token is revoked
    #[arg(long = "onRevoke", value_name = "ACTION", default_value = "fail")]
    pub on_revoke: OnRevoke,
    /// Only the user who mounts may use it
    #[arg(long = "ownerOnly")]
    pub owner_only: bool,
    /// Log everything
    #[arg(long)]
    pub verbose: bool,
    /// FLEXFS_HOME, where no environment can be given (fstab)
    #[arg(long, value_name = "DIR", hide = true)]
    pub home: Option<PathBuf>,
}

/// Restrictions the user adds. They never lift one of token or volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RestrictArgs {
    /// Refuse every change
    #[arg(long)]
    pub ro: bool,
    /// Execute nothing from it
    #[arg(long = "noExec")]
    pub no_exec: bool,
    /// Ignore set-user-id and set-group-id bits
    #[arg(long = "noSUID")]
    pub no_suid: bool,
    /// Ignore device files
    #[arg(long = "noDev")]
    pub no_dev: bool,
    /// Keep no access times
    #[arg(long = "noATime")]
    pub no_atime: bool,
    /// Accepted; access control lists are the volume's choice and on by default
    #[arg(long)]
    pub acl: bool,
    /// Accepted; extended attributes are the volume's choice and on by default
    #[arg(long = "xAttr")]
    pub xattr: bool,
    /// Root is nobody here
    #[arg(long = "rootSquash")]
    pub root_squash: bool,
    /// Who root becomes
    #[arg(long = "rootSquashUID", value_name = "N", requires = "root_squash")]
    pub root_squash_uid: Option<u32>,
    /// Which group root becomes
    #[arg(long = "rootSquashGID", value_name = "N", requires = "root_squash")]
    pub root_squash_gid: Option<u32>,
    /// Permission bits that new files never get, in octal
    #[arg(long, value_name = "OCTAL", value_parser = umask)]
    pub umask: Option<u32>,
}

/// After a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnRevoke {
    /// Every call fails until `stop`
    Fail,
    /// Unmount at once
    Unmount,
}

/// `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mount.flexfs stop /mnt/projects")]
pub struct StopArgs {
    /// The mount point
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `status`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mount.flexfs status /mnt/projects -o json")]
pub struct StatusArgs {
    /// The mount point; all mounts without it
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns
    Table,
    /// More columns
    Wide,
    /// One object
    Json,
    /// The same in YAML
    Yaml,
    /// The session's id
    Id,
}

/// What meta is asked for.
impl From<&RestrictArgs> for flexfs_proto::v1::Flags {
    fn from(asked: &RestrictArgs) -> Self {
        flexfs_proto::v1::Flags {
            ro: asked.ro,
            no_exec: asked.no_exec,
            no_suid: asked.no_suid,
            no_dev: asked.no_dev,
            no_atime: asked.no_atime,
            root_squash: asked.root_squash,
            squash_uid: asked.root_squash_uid,
            squash_gid: asked.root_squash_gid,
            umask: asked.umask.unwrap_or(0),
            ..Default::default()
        }
    }
}

fn volume(text: &str) -> Result<VolumeName> {
    text.parse()
}

/// An octal umask, 0 to 0777.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn umask(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777).ok_or_else(|| {
        Error::new(
            Code::ArgumentInvalid,
            format!("`{}` is not an umask: 0027", text.escape_debug()),
        )
    })
}

impl InitCredsArgs {
    /// # Errors
    /// `ARGUMENT_INVALID` for the address.
    pub fn check(&self) -> Result<()> {
        tls::parse_address(&self.admin_addr).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn both_spellings_of_flags_are_understood() {
        let parse = |words: &[&str]| {
            let all = ["mount.flexfs", "start", "vol", "/mnt"].iter().chain(words);
            let cli: Cli = flexfs_common::cli::parse(all).unwrap();
            let Command::Start(start) = cli.command else { panic!("{cli:?}") };
            start
        };
        let camel = parse(&["--noSUID", "--rootSquash", "--rootSquashUID", "7", "--umask", "0027"]);
        let kebab =
            parse(&["--no-suid", "--root-squash", "--root-squash-uid", "7", "--umask", "27"]);
        assert_eq!(camel, kebab);
        let flags = flexfs_proto::v1::Flags::from(&camel.restrict);
        assert!(flags.no_suid && flags.root_squash && !flags.ro);
        assert_eq!((flags.squash_uid, flags.squash_gid, flags.umask), (Some(7), None, 0o027));
        assert_eq!(parse(&["-f", "--on-revoke", "unmount"]).on_revoke, OnRevoke::Unmount);
        assert_eq!(parse(&["--mem-capacity", "64M"]).mem_capacity, Some(Size::Bytes(64 << 20)));
    }

    #[test]
    fn wrong_values_are_refused() {
        for words in [
            &["start", "vol"][..],
            &["start", "VOL", "/mnt"],
            &["start", "vol", "/mnt", "--umask", "0999"],
            &["start", "vol", "/mnt", "--rootSquashUID", "5"],
            &["start", "vol", "/mnt", "--onRevoke", "perhaps"],
            &["status", "-o", "xml"],
            &["init", "creds", "vol"],
            &["init", "creds", "vol", "--adminAddr", "a:1", "--tokenFile", "t", "--claimFile", "c"],
        ] {
            let all = ["mount.flexfs"].iter().chain(words);
            assert!(flexfs_common::cli::parse::<Cli, _>(all).is_err(), "{words:?}");
        }
    }
}
