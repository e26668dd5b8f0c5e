//! The Linux kernel's FUSE interface (`include/uapi/linux/fuse.h`), over
//! `/dev/fuse` with safe system calls only: reads requests, hands each to a
//! task of the runtime, writes the reply from there. No file-system logic.
//!
//! Own code instead of a library because three promises need what the
//! available ones hide: FUSE_INTERRUPT (a program that waits for a lock or a
//! lost server can be killed), the flag that tells flock(2) from fcntl(2)
//! locks, and the set-id flags of writes (docs/adr/0011-own-fuse-layer.md).

mod abi;
mod answer;
mod connection;
mod device;
mod encode;
mod mounting;
mod notify;
mod operation;
mod parse;
mod run;
mod running;

pub use connection::{Connection, ConnectionSettings};
pub use mounting::{MountSettings, Mounted, Remounted, detach_dead, is_busy, unmount_now};
