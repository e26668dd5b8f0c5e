//! mount.flexfs: the FUSE client.

pub mod codec;
pub mod data;
pub mod session;
