//! `status`.

use flexfs_common::{Code, Error, Result, limits, status as grpc};
use flexfs_proto::v1;

use super::local::Local;
use crate::cli::Show;
use crate::output;

/// Asks the running server how it is.
///
/// # Errors
/// `DAEMON_NOT_RUNNING`, and those of the call.
pub fn status(arguments: &Show) -> Result<()> {
    let local = Local::new(arguments)?;
    let info = local.running()?.ok_or_else(|| Error::bare(Code::DaemonNotRunning))?;
    let reply = super::run_async(async {
        let mut client = tokio::task::block_in_place(|| local.client(&info))?;
        let call = client.status(v1::MetaStatusRequest {});
        tokio::time::timeout(limits::CALL, call)
            .await
            .map_err(|_| Error::bare(Code::MetaUnreachable))?
            .map_err(|e| grpc::from_status(&e, Code::MetaUnreachable))
    })?;
    output::status(info.pid, reply.get_ref(), arguments.output);
    Ok(())
}
