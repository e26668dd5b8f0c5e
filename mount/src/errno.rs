//! Error code → errno: the one place of the mount that names an errno.
//!
//! Numbers are Linux's (errno(3)). The match is exhaustive, so a new code
//! does not compile without its decision.

use flexfs_common::Code;

/// The kernel shall stop asking for this kind of operation.
pub(crate) const NOT_SERVED: i32 = libc::ENOSYS;
/// No device, no ioctl(2).
pub(crate) const NO_IOCTL: i32 = libc::ENOTTY;
/// An interrupt came before its request: to be sent again.
pub(crate) const AGAIN: i32 = libc::EAGAIN;
/// A request that is not understood.
pub(crate) const INVALID: i32 = libc::EINVAL;
/// A protocol that is not understood.
pub(crate) const PROTOCOL: i32 = libc::EPROTO;

/// What the calling program sees.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one flat match over all codes")]
pub fn errno(code: Code) -> i32 {
    use Code as C;
    match code {
        // P1: the right to use the mount has ended.
        C::TokenRevoked
        | C::TokenRotated
        | C::TokenDisabled
        | C::TokenUnknown
        | C::TokenMissing
        | C::ClaimUsed
        | C::TokenMalformed
        | C::TokenWrongKind
        | C::TokenSourceDenied
        | C::TokenNotYetValid
        | C::AccountSuspended
        | C::VolumeRetired => libc::EKEYREVOKED,
        C::TokenExpired => libc::EKEYEXPIRED,
        // The session ended for another reason than its token (silent for
        // longer than it lives, or a restored database): handles of it mean
        // nothing any more, which is what NFS programs know as ESTALE.
        C::SessionUnknown | C::SessionProof | C::FsStale => libc::ESTALE,
        C::FsNotFound => libc::ENOENT,
        C::FsExists => libc::EEXIST,
        C::FsNotDirectory => libc::ENOTDIR,
        C::FsIsDirectory => libc::EISDIR,
        C::FsNotEmpty => libc::ENOTEMPTY,
        C::FsAccess | C::RoleForbidden | C::ScopeMissing | C::BlockRefused => libc::EACCES,
        C::FsNotPermitted | C::FlagUnsupported | C::FlagConflict => libc::EPERM,
        C::FsReadOnly => libc::EROFS,
        C::FsInvalid | C::ArgumentInvalid | C::NameInvalid | C::PathInvalid => libc::EINVAL,
        C::FsNameTooLong => libc::ENAMETOOLONG,
        C::FsTooManyLinks => libc::EMLINK,
        C::FsSymlinkLoop => libc::ELOOP,
        C::FsTooBig => libc::EFBIG,
        C::FsNoSpace => libc::ENOSPC,
        C::FsQuota => libc::EDQUOT,
        C::FsNoAttribute => libc::ENODATA,
        C::FsRange => libc::ERANGE,
        C::FsBadHandle => libc::EBADF,
        C::FsCrossDevice => libc::EXDEV,
        C::FsBusy => libc::EBUSY,
        C::FsWouldBlock => libc::EAGAIN,
        C::FsDeadlock => libc::EDEADLK,
        C::FsNoLocks => libc::ENOLCK,
        C::FsUnsupported | C::Unsupported => libc::EOPNOTSUPP,
        C::FsNoSuchDevice => libc::ENXIO,
        C::OperationInterrupted => libc::EINTR,
        // Servers out of reach, damaged data, and what no program can act on.
        C::FsIo
        | C::WriteLost
        | C::LockLost
        | C::MetaUnreachable
        | C::MetaMoved
        | C::MetaUnregistered
        | C::AdminUnreachable
        | C::BlockUnavailable
        | C::BlockCorrupt
        | C::BlockStoreRefused
        | C::EngineFailed
        | C::DatabaseFailed
        | C::DeadlineExceeded
        | C::RateLimited
        | C::PeerUntrusted
        | C::ProtocolInvalid
        | C::ProtocolVersion
        | C::BackupInvalid
        | C::BackupFailed
        | C::BackupExists
        | C::BackupNotFound
        | C::StoreNotEmpty
        | C::RestoreUnfinished
        | C::FormatUnsupported
        | C::SecretWrong
        | C::RevokeLaggards
        | C::ReferenceInvalid
        | C::ConfigInvalid
        | C::Internal
        | C::TokenExists
        | C::AlreadyEnded
        | C::RotationFull
        | C::RotationInUse
        | C::RequestReused
        | C::TokenNotFound
        | C::AccountNotFound
        | C::AccountExists
        | C::AccountNotEmpty
        | C::LastOwner
        | C::NotEnded
        | C::VolumeNotFound
        | C::VolumeExists
        | C::MetaStoreNotFound
        | C::MetaStoreExists
        | C::MetaStoreInUse
        | C::BlockStoreNotFound
        | C::BlockStoreExists
        | C::BlockStoreInUse
        | C::CredsMissing
        | C::CredsInsecure
        | C::CredsInvalid
        | C::CredsExist
        | C::CredsMismatch
        | C::DaemonNotRunning
        | C::DaemonRunning
        | C::DaemonFailed
        | C::PepperMismatch
        | C::PepperInUse
        | C::AddressInUse
        | C::MountInvalid
        | C::MountNotFound => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use flexfs_common::Kind;

    use super::*;

    #[test]
    fn every_code_has_an_errno_that_programs_can_tell_apart() {
        for code in Code::ALL {
            let number = errno(*code);
            assert!((1..=133).contains(&number), "{code}: {number}");
            if code.kind() == Kind::Posix && *code != Code::FsIo {
                assert_ne!(number, libc::EIO, "{code} has a meaning of its own");
            }
        }
    }

    #[test]
    fn a_cut_is_told_by_its_reason() {
        for code in [Code::TokenRevoked, Code::TokenDisabled, Code::AccountSuspended] {
            assert_eq!(errno(code), libc::EKEYREVOKED);
        }
        assert_eq!(errno(Code::VolumeRetired), libc::EKEYREVOKED);
        assert_eq!(errno(Code::TokenUnknown), libc::EKEYREVOKED);
        assert_eq!(errno(Code::TokenExpired), libc::EKEYEXPIRED);
        assert_eq!(errno(Code::MetaUnreachable), libc::EIO);
    }
}
