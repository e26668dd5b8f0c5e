//! meta.flexfs: the metadata daemon.
//!
//! The core ([`engine`], [`volume`]) knows no network; everything else here
//! carries requests to it: [`server`] the port, [`ops`] the operations of
//! mounts, [`rpc`] the control calls, [`blocks`] the block store, and
//! [`authority`] what admin says.

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        clippy::type_complexity,
        reason = "a test tells its whole story in one place; tables of cases are long and flat"
    )
)]

pub mod authority;
pub mod backup;
pub mod blocks;
pub mod cli;
pub mod commands;
pub mod engine;
pub mod grants;
pub mod identity;
pub mod ops;
pub mod output;
pub mod rpc;
pub mod server;
pub mod service;
pub mod settings;
#[cfg(test)]
pub(crate) mod testbench;
pub mod volume;
