//! Which operations change something: those carry a slot and a sequence, so
//! that a repeat after a reconnect is not carried out twice.

use flexfs_proto::v1::op::Body;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;
const O_RDONLY: u32 = libc::O_RDONLY as u32;
const O_TRUNC: u32 = libc::O_TRUNC as u32;

/// Does it change something at meta? A new operation does not compile
/// without its decision. `Open` makes a row, so it counts.
pub(super) fn is_mutation(body: &Body) -> bool {
    match body {
        Body::SetAttr(_)
        | Body::Make(_)
        | Body::MakeNameless(_)
        | Body::Link(_)
        | Body::Unlink(_)
        | Body::Rename(_)
        | Body::Open(_)
        | Body::Release(_)
        | Body::NoteAccess(_)
        | Body::SetXattr(_)
        | Body::RemoveXattr(_)
        | Body::MintObjects(_)
        | Body::MintInodes(_)
        | Body::CommitData(_)
        | Body::Fallocate(_)
        | Body::SetLock(_) => true,
        Body::Lookup(_)
        | Body::GetAttr(_)
        | Body::ReadDir(_)
        | Body::ReadLink(_)
        | Body::GetXattr(_)
        | Body::ListXattr(_)
        | Body::StatFs(_)
        | Body::ReadExtents(_)
        | Body::GetLock(_)
        | Body::Sync(_)
        | Body::AcquireWrite(_)
        | Body::Access(_) => false,
    }
}

/// Is it refused on a read-only mount, whoever asks? A new operation does not
/// compile without its decision. O_CREAT may find a file to be read: meta
/// knows.
pub(super) fn needs_writable(body: &Body) -> bool {
    match body {
        Body::Open(open) => opens_for_writing(open.flags),
        Body::Make(make) => make.exclusive || !make.open || opens_for_writing(make.open_flags),
        Body::SetAttr(_)
        | Body::MakeNameless(_)
        | Body::Link(_)
        | Body::Unlink(_)
        | Body::Rename(_)
        | Body::SetXattr(_)
        | Body::RemoveXattr(_)
        | Body::MintObjects(_)
        | Body::MintInodes(_)
        | Body::CommitData(_)
        | Body::AcquireWrite(_)
        | Body::NoteAccess(_)
        | Body::Fallocate(_) => true,
        Body::Release(_)
        | Body::SetLock(_)
        | Body::Lookup(_)
        | Body::GetAttr(_)
        | Body::ReadDir(_)
        | Body::ReadLink(_)
        | Body::GetXattr(_)
        | Body::ListXattr(_)
        | Body::StatFs(_)
        | Body::ReadExtents(_)
        | Body::GetLock(_)
        | Body::Sync(_)
        | Body::Access(_) => false,
    }
}

fn opens_for_writing(flags: u32) -> bool {
    flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0
}

/// Does it carry contents, or what was made here? Meta lets none of these wait
/// for what other mounts have written: other mounts wait for them.
pub(super) fn carries_contents(body: &Body) -> bool {
    match body {
        Body::Make(make) => make.held.is_some(),
        Body::MintObjects(_)
        | Body::MintInodes(_)
        | Body::CommitData(_)
        | Body::ReadExtents(_)
        | Body::Sync(_) => true,
        _ => false,
    }
}

/// Is it a lock that meta answers only when it is free?
pub(super) fn is_waiting_lock(body: &Body) -> bool {
    matches!(body, Body::SetLock(lock) if lock.wait)
}
