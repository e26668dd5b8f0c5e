//! The operations. Each gets what it touches already decided
//! ([`super::confine`]) and answers inside its transaction.

pub(super) mod access;
pub(super) mod acl;
pub(super) mod attributes;
pub(super) mod commit;
pub(super) mod create;
pub(super) mod directory;
pub(super) mod extents;
pub(super) mod fallocate;
pub(super) mod link;
pub(super) mod lock;
pub(super) mod nameless;
pub(super) mod open;
pub(super) mod rename;
pub(super) mod xattr;
