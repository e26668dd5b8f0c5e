//! `verify`: through the running server, or on its data when none runs.

use std::sync::Arc;

use flexfs_common::daemon::RunInfo;
use flexfs_common::{Code, Error, Result, status};
use flexfs_proto::v1;

use super::local::Local;
use crate::blocks::StoreAccess;
use crate::blocks::signed::Signer;
use crate::cli::Verify;
use crate::engine::Engine;
use crate::engine::fjall::FjallEngine;
use crate::identity::DataDir;
use crate::output::{self, Format};
use crate::rpc::control::verify_all;
use crate::service::placed::{self, settings_of};
use crate::volume::{SessionSeal, Volume};

/// Checks; prints what is found, and returns how many findings there are.
///
/// # Errors
/// When it could not be checked.
pub fn verify(arguments: &Verify) -> Result<u64> {
    let local = Local::new(&arguments.show)?;
    let format = arguments.show.output;
    let mut findings = Vec::new();
    let mut report = |finding: v1::VerifyFinding| {
        output::finding(&finding, format);
        // Kept only for the one object at the end.
        if matches!(format, Format::Json | Format::Yaml) {
            findings.push(finding);
        }
    };
    let summary = match local.running()? {
        Some(info) => through_server(&local, &info, &arguments.volume_id, &mut report)?,
        None => on_data(&local, &arguments.volume_id, &mut report)?,
    };
    output::verified(&summary, &findings, format);
    Ok(summary.findings)
}

fn through_server(
    local: &Local,
    info: &RunInfo,
    volume_id: &str,
    report: &mut dyn FnMut(v1::VerifyFinding),
) -> Result<v1::VerifySummary> {
    super::run_async(async {
        let failed = |e| status::from_status(&e, Code::MetaUnreachable);
        let mut client = tokio::task::block_in_place(|| local.client(info))?;
        let request = v1::VerifyRequest { volume_id: volume_id.to_owned() };
        let mut stream = client.verify(request).await.map_err(failed)?.into_inner();
        let mut summary = None;
        while let Some(finding) = stream.message().await.map_err(failed)? {
            match finding.summary {
                Some(last) => summary = Some(last),
                None => report(finding),
            }
        }
        summary.ok_or_else(|| Error::new(Code::MetaUnreachable, "the check broke off"))
    })
}

fn on_data(
    local: &Local,
    volume_id: &str,
    report: &mut dyn FnMut(v1::VerifyFinding),
) -> Result<v1::VerifySummary> {
    verify_all(&open_volumes(local, volume_id)?, report)
}

/// The engine of a data directory that no server uses.
///
/// # Errors
/// `CONFIG_INVALID`, `RESTORE_UNFINISHED`, `ENGINE_FAILED`.
pub fn open_engine(data: &DataDir, local: &Local) -> Result<Arc<dyn Engine>> {
    data.need_whole()?;
    if !data.engine().exists() {
        return Err(Error::new(
            Code::ConfigInvalid,
            format!("{} holds no database", local.data.display()),
        ));
    }
    Ok(Arc::new(FjallEngine::open(&data.engine())?))
}

/// The volumes of a data directory that no server uses; all of them when
/// `volume_id` is empty.
///
/// # Errors
/// As [`open_engine`]; `VOLUME_NOT_FOUND`, those of [`Volume::open`].
pub fn open_volumes(local: &Local, volume_id: &str) -> Result<Vec<Arc<Volume>>> {
    let data = DataDir::open(&local.data)?;
    let engine = open_engine(&data, local)?;
    // It signs nothing for anybody here; the store is asked which objects it has.
    let signer = Arc::new(Signer::new(&*data.key("urlKey")?));
    let seal = Arc::new(SessionSeal::new(&*data.key("sessionKey")?)?);
    let mut volumes = Vec::new();
    for placed in placed::kept(engine.as_ref())? {
        if volume_id.is_empty() || placed.id == volume_id {
            let settings = settings_of(&placed)?;
            let spec = placed.block_store.unwrap_or_default();
            let blocks = StoreAccess::new(settings.id, spec, Arc::clone(&signer));
            let (engine, seal) = (Arc::clone(&engine), Arc::clone(&seal));
            volumes.push(Volume::open(engine, settings, blocks, seal)?);
        }
    }
    if volumes.is_empty() && !volume_id.is_empty() {
        return Err(Error::bare(Code::VolumeNotFound));
    }
    Ok(volumes)
}
