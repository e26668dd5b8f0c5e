//! Harness of the whole-system tests: real programs, real mounts, real
//! databases, in temporary homes on free loopback ports. Authentication is
//! never off. A test fails by panicking, so the harness may panic too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test harness fails by panicking and tells why on stderr"
)]

pub mod clock;
pub mod cluster;
pub mod files;
pub mod live;
pub mod mapping;
pub mod meta;
pub mod model;
pub mod mount;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod rpc;
pub mod scan;
pub mod tools;
pub mod user;
pub mod wait;

pub use cluster::{Cluster, Token};
pub use mount::Mount;
pub use process::Run;
pub use wait::{wait_until, within};
