//! What the commands do.

use std::future::Future;

use flexfs_common::{Code, Error, Result};

pub mod backup;
pub mod gc;
pub mod init;
pub mod local;
pub mod restore;
pub mod start;
pub mod status;
pub mod verify;

/// Runs a command's async part.
///
/// # Errors
/// What it returns; `INTERNAL` when there are no threads.
pub fn run_async<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Internal, "no runtime").caused_by(e))?
        .block_on(work)
}
