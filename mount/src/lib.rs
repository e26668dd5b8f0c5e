//! mount.flexfs: the FUSE client.

pub mod caller;
pub mod codec;
pub mod data;
pub mod errno;
pub mod fs;
pub mod fuse;
pub mod handle_table;
pub mod inode_table;
pub mod mount_table;
pub mod session;
