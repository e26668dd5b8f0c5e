//! mount.flexfs: the FUSE client.

pub mod data;
pub mod session;
