//! meta.flexfs: the metadata daemon.

pub mod engine;
pub mod volume;
