//! `gc`: through the running server, or on its data when none runs.

use flexfs_common::{Code, Result, status};
use flexfs_proto::v1;

use super::local::Local;
use super::verify::open_volumes;
use crate::cli::Gc;
use crate::output;
use crate::rpc::control::confirm_all;

/// Lets collection go on in restored volumes.
///
/// # Errors
/// `VOLUME_NOT_FOUND`, `ENGINE_FAILED`, those of the call.
pub fn confirm_restore(arguments: &Gc) -> Result<()> {
    let local = Local::new(&arguments.show)?;
    let volume_id = &arguments.volume_id;
    let confirmed = match local.running()? {
        None => confirm_all(&open_volumes(&local, volume_id)?)?,
        Some(info) => super::run_async(async {
            let failed = |e| status::from_status(&e, Code::MetaUnreachable);
            let mut client = tokio::task::block_in_place(|| local.client(&info))?;
            let request = v1::ConfirmRestoreRequest { volume_id: volume_id.clone() };
            let reply = client.confirm_restore(request).await.map_err(failed)?;
            Ok(reply.into_inner().volume_ids)
        })?,
    };
    output::confirmed(&confirmed, arguments.show.output);
    Ok(())
}
