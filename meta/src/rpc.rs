//! The control calls: gRPC over the same port.

pub mod control;
pub mod failures;
pub mod lanes;
pub mod open;
pub mod validate;
pub mod verdict;
