//! admin.flexfs: the control plane. One way through: `grpc/` (decode, call,
//! encode) → `service/` (rules, authorisation first) → `store/` (SQL).

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        clippy::type_complexity,
        reason = "a test tells its whole story in one place; tables of cases are long and flat"
    )
)]

pub mod audit;
pub mod bootstrap;
pub mod ca;
pub mod cidr;
pub mod cli;
pub mod config;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod model;
mod output;
pub mod page;
pub mod peppers;
pub mod server;
pub mod service;
pub mod store;
pub mod verify;

#[cfg(test)]
mod tests;
