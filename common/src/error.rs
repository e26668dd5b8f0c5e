//! The one list of errors. Each code has a fixed kind, a sentence, and what
//! to check first; status, errno and exit code follow from the code, each in
//! one file (`status.rs`, `http.rs`, `exit.rs`, and errno in the mount).

use std::fmt;

/// What the caller can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong; the same request fails again.
    Invalid,
    /// Who are you? A credential is missing, wrong, or has ended.
    Unauthenticated,
    /// Known, but not allowed.
    Denied,
    /// Not there, or not yours (the two are never told apart).
    NotFound,
    /// What was to be made exists.
    Exists,
    /// The state of things forbids it; something else must happen first.
    Conflict,
    /// Try again later, slower.
    Limited,
    /// A server cannot be reached or cannot answer now.
    Unavailable,
    /// A time limit passed.
    DeadlineExceeded,
    /// Given up by the caller.
    Cancelled,
    /// Stored data is not what was written.
    Corrupt,
    /// Not built, or not understood by this version.
    Unsupported,
    /// A file-system answer; errno is chosen by the code.
    Posix,
    /// A defect or an unexpected failure of the environment.
    Internal,
}

macro_rules! codes {
    ($($variant:ident $text:literal $kind:ident $sentence:literal $hint:literal;)*) => {
        /// The name of an error: stable, the same in gRPC, REST, frames and CLI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $sentence] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable name, as printed and sent.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// What the caller can do next.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)* }
            }

            /// What happened, as one sentence without names of things.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Code::$variant => $sentence,)* }
            }

            /// What to check first.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Code::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    // Tokens: who are you?
    TokenMissing "TOKEN_MISSING" Unauthenticated "No token was sent." "Run `init creds`, or set FLEXFS_TOKEN; over HTTP send `Authorization: Bearer <token>`.";
    TokenMalformed "TOKEN_MALFORMED" Unauthenticated "This is not a flexfs token: its form or checksum is wrong." "Compare with the token as it was printed: 77 characters, flxa_/flxv_/flxm_/flxw_. `configure.flexfs inspect token -` checks it offline.";
    TokenWrongKind "TOKEN_WRONG_KIND" Unauthenticated "This kind of token is not accepted here." "flxa_ is for configure.flexfs and csi.flexfs, flxv_ for mount.flexfs, flxm_ for meta.flexfs, flxw_ for --claimFile.";
    TokenUnknown "TOKEN_UNKNOWN" Unauthenticated "The token is not known here." "Is it a token of this installation, and complete? It may have been purged. Make a new one with `configure.flexfs create`.";
    TokenRevoked "TOKEN_REVOKED" Unauthenticated "The token was revoked." "Ask the owner of the volume for a new token; `configure.flexfs show` tells when it was revoked.";
    TokenDisabled "TOKEN_DISABLED" Unauthenticated "The token is disabled." "`configure.flexfs enable` puts it back to use; then mount again.";
    TokenExpired "TOKEN_EXPIRED" Unauthenticated "The token has expired." "Ask for a new token, or have its expiry extended.";
    TokenRotated "TOKEN_ROTATED" Unauthenticated "This secret of the token was replaced by a rotation and has ended." "Get the token's new text and run `init creds --force`; `configure.flexfs rotation status ID` shows who still uses an old one.";
    TokenNotYetValid "TOKEN_NOT_YET_VALID" Unauthenticated "The token is not valid yet." "Check its --notBefore time and the clocks of both machines.";
    TokenSourceDenied "TOKEN_SOURCE_DENIED" Unauthenticated "The token may not be used from this address." "Check the token's --cidr list and the address this machine is seen with.";
    TokenExists "TOKEN_EXISTS" Exists "A token with this id exists or existed." "Generate another one: an id is never used twice.";
    AlreadyEnded "ALREADY_ENDED" Conflict "The token has ended and cannot be changed." "A revoked token stays revoked: make a new one. An expired one can be given a later end with `configure.flexfs update`.";
    RotationFull "ROTATION_FULL" Conflict "The token has as many live secrets as it can have." "Finish its rotation first: `configure.flexfs rotation finish ID`.";
    RotationInUse "ROTATION_IN_USE" Conflict "Old secrets of the token are still in use." "Give the named hosts the new token, or end them with --force.";
    ClaimUsed "CLAIM_USED" Unauthenticated "The claim code was redeemed before." "If that was not you, revoke the token at once; the audit log names the address that redeemed it.";
    RequestReused "REQUEST_ID_REUSED" Conflict "This request id was used for another request." "Give each request an id of its own.";
    TokenNotFound "TOKEN_NOT_FOUND" NotFound "No such token." "`configure.flexfs list` shows the ids; a prefix must be unique. A system token names another account with --accountID.";
    SessionUnknown "SESSION_UNKNOWN" Unauthenticated "The session is not known or has ended." "Mount again.";
    SessionProof "SESSION_PROOF" Unauthenticated "The proof of the session's key is wrong." "Mount again.";
    // Allowed?
    RoleForbidden "ROLE_FORBIDDEN" Denied "The role of this token does not allow this." "`configure.flexfs whoami` shows the role; ask an owner of the account.";
    ScopeMissing "SCOPE_MISSING" Denied "The token's scope or limits do not cover this." "`configure.flexfs whoami` shows what the token covers.";
    AccountSuspended "ACCOUNT_SUSPENDED" Denied "The account is suspended." "Ask the operator of the installation.";
    VolumeRetired "VOLUME_RETIRED" Denied "The volume is retired." "Its data is kept for the retention time; ask the operator.";
    FlagUnsupported "FLAG_UNSUPPORTED" Denied "This client cannot honour a restriction that the volume or token demands." "Update mount.flexfs.";
    FlagConflict "FLAG_CONFLICT" Denied "Volume, token and client pin different identities." "Compare --uid/--gid and squash settings of volume and token.";
    PeerUntrusted "PEER_UNTRUSTED" Unavailable "The server did not prove who it is." "Give --caFingerprint as printed by `admin.flexfs status`, and check the address.";
    // Things
    AccountNotFound "ACCOUNT_NOT_FOUND" NotFound "No such account." "`configure.flexfs list accounts`";
    AccountExists "ACCOUNT_EXISTS" Exists "An account of this name exists." "Choose another name.";
    AccountNotEmpty "ACCOUNT_NOT_EMPTY" Conflict "The account still has volumes or live tokens." "Delete its volumes and revoke its tokens first.";
    LastOwner "LAST_OWNER" Conflict "It is the last live owner token of the account, or the last system token." "Make another owner (or system) token first; `admin.flexfs recover` makes a new system token.";
    NotEnded "NOT_ENDED" Conflict "The token still lives." "Revoke it first; only revoked and expired tokens can be deleted.";
    VolumeNotFound "VOLUME_NOT_FOUND" NotFound "No such volume." "`configure.flexfs list volumes`; check the spelling and the account.";
    VolumeExists "VOLUME_EXISTS" Exists "A volume of this name exists in the account." "Choose another name.";
    MetaStoreNotFound "META_STORE_NOT_FOUND" NotFound "No such meta store." "`configure.flexfs list meta-stores`";
    MetaStoreExists "META_STORE_EXISTS" Exists "A meta store of this id exists." "Choose another id.";
    MetaStoreInUse "META_STORE_IN_USE" Conflict "Volumes still lie in this meta store." "Delete its volumes first.";
    BlockStoreNotFound "BLOCK_STORE_NOT_FOUND" NotFound "No such block store." "`configure.flexfs list block-stores`";
    BlockStoreExists "BLOCK_STORE_EXISTS" Exists "A block store of this id exists." "Choose another id.";
    BlockStoreInUse "BLOCK_STORE_IN_USE" Conflict "Volumes still lie in this block store." "Delete its volumes first.";
    BlockStoreRefused "BLOCK_STORE_REFUSED" Unavailable "The block store cannot be used by this metadata server." "A dir store must belong to meta's user and be empty or already marked as this store; for others check the credentials in meta's configuration.";
    // Input
    ArgumentInvalid "ARGUMENT_INVALID" Invalid "An argument is wrong." "See --help of the command.";
    NameInvalid "NAME_INVALID" Invalid "The name is not allowed." "Volume names: [a-z0-9][a-z0-9._-]{0,62}, not a subcommand word.";
    PathInvalid "PATH_INVALID" Invalid "The path is not allowed." "An absolute path without `.`, `..` or empty components.";
    ReferenceInvalid "REFERENCE_INVALID" Invalid "A secret reference resolves to nothing." "Check the variable, file or command that the reference names.";
    ConfigInvalid "CONFIG_INVALID" Invalid "The configuration is wrong." "`configure.flexfs config show` shows every setting and where it came from.";
    ProtocolInvalid "PROTOCOL_INVALID" Invalid "A message of the other side is not understood." "Are both sides flexfs, of compatible versions?";
    ProtocolVersion "PROTOCOL_VERSION" Unsupported "The two sides share no protocol version." "Update the older one.";
    // Credentials files
    CredsMissing "CREDS_MISSING" Unauthenticated "There is no credentials file." "Run `init creds`.";
    CredsInsecure "CREDS_INSECURE" Unauthenticated "The credentials file can be read or changed by others." "Run the command named in the message.";
    CredsInvalid "CREDS_INVALID" Unauthenticated "The credentials file is not understood." "Run `init creds --force` to write it anew.";
    CredsExist "CREDS_EXIST" Exists "The file exists and is not replaced." "Give --force to replace it.";
    CredsMismatch "CREDS_MISMATCH" Unauthenticated "The credentials are for something else." "Use the credentials file of this volume or server.";
    SecretWrong "SECRET_WRONG" Unauthenticated "The volume's encryption secret is wrong." "Check --secretFile.";
    // Reachability and pace
    RateLimited "RATE_LIMITED" Limited "Too many failed or cold requests from here." "Wait a few seconds; look for a client that repeats a bad token.";
    AdminUnreachable "ADMIN_UNREACHABLE" Unavailable "admin.flexfs cannot be reached." "Is it running (`admin.flexfs status`), and is the address right?";
    MetaUnreachable "META_UNREACHABLE" Unavailable "meta.flexfs cannot be reached." "Is it running (`meta.flexfs status`), and is its address right in `configure.flexfs show meta-store`?";
    MetaUnregistered "META_UNREGISTERED" Unavailable "No metadata server has registered for this meta store yet." "Start meta.flexfs there with its meta token.";
    MetaMoved "META_MOVED" Unavailable "The volume is served by another metadata server." "Connect there.";
    RevokeLaggards "REVOKE_LAGGARDS" Unavailable "The revocation stands, but not every metadata server has acknowledged it." "The named servers cut off by themselves within 6 s, or when their grace ends if they cannot reach admin.";
    DeadlineExceeded "DEADLINE_EXCEEDED" DeadlineExceeded "It took too long." "Look at the load and the logs of the servers.";
    DaemonNotRunning "DAEMON_NOT_RUNNING" Unavailable "No daemon of this FLEXFS_HOME is running." "Start it, or set FLEXFS_HOME.";
    DaemonRunning "DAEMON_RUNNING" Exists "It is already running." "Stop it first.";
    DaemonFailed "DAEMON_FAILED" Internal "The daemon did not start." "See its log.";
    PepperMismatch "PEPPER_MISMATCH" Conflict "The pepper is not the one that this database was used with." "Put the right `admin/pepper` and `admin/pepper.d` back; if they are lost: `admin.flexfs recover --newPepper`.";
    PepperInUse "PEPPER_IN_USE" Conflict "The pepper is still needed." "`admin.flexfs status` counts the live secrets under it: each leaves it at its next use.";
    AddressInUse "ADDRESS_IN_USE" Exists "The address is in use." "Choose another --bindAddr, or stop what listens there.";
    MountInvalid "MOUNT_INVALID" Invalid "The mount point cannot be used." "An existing, empty directory (or --nonEmpty) that is not a flexfs mount.";
    MountNotFound "MOUNT_NOT_FOUND" NotFound "There is no flexfs mount here." "`mount.flexfs status` lists the mounts.";
    // Data
    DatabaseFailed "DATABASE_FAILED" Unavailable "The database did not answer as it should." "Look at the database's log, its disk and its connections.";
    EngineFailed "ENGINE_FAILED" Internal "The metadata engine failed." "Look at meta's log and its disk; restart meta.flexfs and run `meta.flexfs verify`.";
    BlockUnavailable "BLOCK_UNAVAILABLE" Unavailable "The block store did not answer as it should." "Is the block store reachable from this machine?";
    BlockCorrupt "BLOCK_CORRUPT" Corrupt "A block is not what was written." "`meta.flexfs missing-objects` names what is damaged.";
    LockLost "LOCK_LOST" Conflict "A lock on the file was lost: the mount was silent for longer than its lease." "Was the machine, the mount or its connection stopped for longer than a lease (10 s)? Unlock or close the file, lock it again and look at what others have changed.";
    WriteLost "WRITE_LOST" Conflict "The lease of the mount ended before this was written back, and the file has passed on." "Was the machine, the mount or its connection stopped for longer than a lease (10 s)? Write it again.";
    BlockRefused "BLOCK_REFUSED" Denied "The signed URL is not valid (any more) for this." "Ask meta for another.";
    BackupInvalid "BACKUP_INVALID" Corrupt "The file is no backup, or it is damaged or cut short." "Use another backup; nothing was restored.";
    BackupFailed "BACKUP_FAILED" Internal "The backup file could not be read or written." "Look at the room on its disk and at its permissions.";
    BackupExists "BACKUP_EXISTS" Exists "The file exists and is not replaced." "Give the backup another name.";
    BackupNotFound "BACKUP_NOT_FOUND" NotFound "There is no such backup file." "Check the path.";
    StoreNotEmpty "STORE_NOT_EMPTY" Conflict "The data directory holds a metadata database already." "Restore into an empty --dataDir, or move the directory `engine` in it away.";
    RestoreUnfinished "RESTORE_UNFINISHED" Conflict "A restore into this data directory was broken off." "Run `meta.flexfs restore FILE` again.";
    FormatUnsupported "FORMAT_UNSUPPORTED" Unsupported "The stored format is of another version." "Use the version that wrote it, or a newer one.";
    // File-system answers (errno is chosen in the mount)
    FsNotFound "FS_NOT_FOUND" Posix "No such file or directory." "";
    FsExists "FS_EXISTS" Posix "The name exists." "";
    FsNotDirectory "FS_NOT_DIRECTORY" Posix "Not a directory." "";
    FsIsDirectory "FS_IS_DIRECTORY" Posix "It is a directory." "";
    FsNotEmpty "FS_NOT_EMPTY" Posix "The directory is not empty." "";
    FsAccess "FS_ACCESS" Posix "Permission denied." "";
    FsNotPermitted "FS_NOT_PERMITTED" Posix "Operation not permitted." "";
    FsReadOnly "FS_READ_ONLY" Posix "The mount is read-only." "";
    FsInvalid "FS_INVALID" Posix "Invalid argument." "";
    FsNameTooLong "FS_NAME_TOO_LONG" Posix "The name is too long." "";
    FsTooManyLinks "FS_TOO_MANY_LINKS" Posix "Too many links." "";
    FsSymlinkLoop "FS_SYMLINK_LOOP" Posix "Too many symbolic links." "";
    FsTooBig "FS_TOO_BIG" Posix "The file would be too big." "";
    FsNoSpace "FS_NO_SPACE" Posix "No space left." "";
    FsQuota "FS_QUOTA" Posix "The quota is exhausted." "";
    FsNoAttribute "FS_NO_ATTRIBUTE" Posix "No such attribute." "";
    FsRange "FS_RANGE" Posix "The result does not fit." "";
    FsBadHandle "FS_BAD_HANDLE" Posix "The file is not open like that." "";
    FsStale "FS_STALE" Posix "It is no longer within reach of this mount." "";
    FsCrossDevice "FS_CROSS_DEVICE" Posix "It lies on another file system." "";
    FsBusy "FS_BUSY" Posix "It is in use." "";
    FsWouldBlock "FS_WOULD_BLOCK" Posix "A lock is held by another." "";
    FsDeadlock "FS_DEADLOCK" Posix "Waiting would be a deadlock." "";
    FsNoLocks "FS_NO_LOCKS" Posix "No more locks." "";
    FsUnsupported "FS_UNSUPPORTED" Posix "The file system does not do this." "";
    FsNoSuchDevice "FS_NO_SUCH_DEVICE" Posix "No such device or address." "";
    FsIo "FS_IO" Posix "Input/output error." "";
    OperationInterrupted "OPERATION_INTERRUPTED" Cancelled "Interrupted." "";
    Unsupported "UNSUPPORTED" Unsupported "This is not built yet." "See CHANGELOG.md.";
    Internal "INTERNAL" Internal "Something unexpected went wrong." "Look at the log of the program that answered.";
}

impl Code {
    /// The code of this name, as sent by the other side.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error of any tier: a code, a public message, and a private source that
/// is logged here and never sent.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// A result with the one error type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message that names the thing concerned. The message is
    /// public: it must hold no secret and nothing of other tenants.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), source: None }
    }

    /// An error whose sentence says it all.
    #[must_use]
    pub fn bare(code: Code) -> Error {
        Error::new(code, code.sentence())
    }

    /// Keeps what caused it, for the log of this process only.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The stable name.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the caller can do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.code.kind()
    }

    /// The public message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to check first.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.code.hint()
    }

    /// The message with the chain of its causes, for logs and local commands.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Error {
        Error::bare(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_unique_name_and_a_sentence() {
        let mut names = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(names.insert(code.name()), "{code} twice");
            assert!(code.sentence().ends_with('.'), "{code}: {}", code.sentence());
            assert_eq!(Code::from_name(code.name()), Some(*code));
            if code.kind() != Kind::Posix && code.kind() != Kind::Cancelled {
                assert!(!code.hint().is_empty(), "{code} has no hint");
            }
        }
    }

    #[test]
    fn causes_are_listed_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = Error::new(Code::EngineFailed, "commit failed").caused_by(inner);
        assert_eq!(error.with_causes(), "commit failed: disk on fire");
        assert_eq!(error.to_string(), "commit failed");
    }
}
