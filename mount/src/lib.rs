//! mount.flexfs: the FUSE client.

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        clippy::type_complexity,
        reason = "a test tells its whole story in one place; tables of cases are long and flat"
    )
)]

pub mod access_times;
pub mod caller;
pub mod cli;
pub mod codec;
pub mod commands;
pub mod control;
pub mod creds_file;
pub mod creds_watch;
pub mod daemon;
pub mod data;
pub mod errno;
pub mod events;
pub mod freshness;
pub mod fs;
pub mod fuse;
pub mod handle_table;
pub mod helper_form;
pub mod inode_table;
pub mod locate;
pub mod mount_point;
pub mod mount_table;
pub mod output;
pub mod places;
pub mod remount;
pub mod session;
pub mod status;
pub mod whole_directories;
