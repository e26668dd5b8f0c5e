//! MetaControlService: this server's own operator.

use std::io::{BufWriter, Write};
use std::pin::Pin;
use std::sync::Arc;

use flexfs_auth::bearer;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result, status, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::meta_control_service_server::MetaControlService;
use futures::Stream;
use subtle::ConstantTimeEq;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::backup::dump::dump;
use crate::service::{Service, block};
use crate::volume::Volume;

/// Findings on their way to a slow reader.
const FINDINGS_QUEUE: usize = 64;
/// Parts of a backup on their way to a slow reader.
const PARTS_QUEUE: usize = 8;
/// Bytes of a part.
const PART_LEN: usize = 256 * 1024;
/// Sessions that a status lists.
const VIEWS_MAX: usize = 10_000;

/// The control service of the operator.
#[derive(Clone, Debug)]
pub struct ControlService {
    /// The server.
    pub service: Arc<Service>,
    /// Where it listens.
    pub address: String,
}

impl ControlService {
    /// The caller must hold this server's own token.
    fn authenticate<T>(&self, request: &Request<T>) -> Result<()> {
        let token = bearer::token_of(request.metadata())?;
        if token.kind() != TokenKind::Meta {
            return Err(Error::bare(Code::TokenWrongKind));
        }
        let is_own = || {
            let own = self.service.own.token();
            bool::from(token.reveal().as_bytes().ct_eq(own.reveal().as_bytes()))
        };
        // The caller may have read a new credentials file before we did.
        if is_own() || (block(|| self.service.renew_own(false)) && is_own()) {
            return Ok(());
        }
        Err(Error::bare(Code::TokenUnknown))
    }

    /// The volume of this id; all when it is empty.
    fn volumes(&self, wanted: &str) -> Result<Vec<Arc<Volume>>> {
        let mut volumes: Vec<_> =
            self.service.volumes.all().iter().map(|served| Arc::clone(&served.volume)).collect();
        volumes.retain(|v| wanted.is_empty() || v.settings().id.to_string() == wanted);
        if volumes.is_empty() && !wanted.is_empty() {
            return Err(Error::bare(Code::VolumeNotFound));
        }
        Ok(volumes)
    }
}

fn timestamp_of(nanos: i64) -> v1::Timestamp {
    let seconds = nanos.div_euclid(1_000_000_000);
    let rest = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    v1::Timestamp { seconds, nanos: rest }
}

/// A backup on its way to its reader.
struct Parts(mpsc::Sender<Result<v1::BackupPart, Status>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let part = v1::BackupPart { data: bytes.to_vec() };
        self.0.blocking_send(Ok(part)).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tonic::async_trait]
impl MetaControlService for ControlService {
    async fn status(
        &self,
        request: Request<v1::MetaStatusRequest>,
    ) -> Result<Response<v1::MetaStatusReply>, Status> {
        self.authenticate(&request)?;
        let service = &self.service;
        let mut views = Vec::new();
        let mut held_volumes = Vec::new();
        for served in service.volumes.all() {
            let volume_id = served.volume.settings().id.to_string();
            if let Some(since) = block(|| served.volume.held_since())? {
                let since = Some(timestamp_of(since));
                held_volumes.push(v1::HeldVolume { volume_id: volume_id.clone(), since });
            }
            for session in served.volume.sessions() {
                if views.len() >= VIEWS_MAX {
                    break;
                }
                views.push(v1::SessionView {
                    session_id: session.id.to_string(),
                    token_id: session.token_id.to_string(),
                    volume_id: volume_id.clone(),
                    mount_path: session.scope.to_string(),
                    host_name: session.host_name,
                    dir: session.dir,
                    peer: session.peer,
                    opened_at: Some(wire::timestamp_to_wire(session.opened_at)),
                });
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Response::new(v1::MetaStatusReply {
            server_id: service.server_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.address.clone(),
            admin_addr: service.authority.address().to_owned(),
            feed_state: match service.feed.own_refused() {
                Some(code) => format!("refused ({code})"),
                None => service.feed.state().name().to_owned(),
            },
            feed_revision: service.feed.revision(),
            sessions: count(service.sessions.len()),
            volumes: count(service.volumes.all().len()),
            session_views: views,
            held_volumes,
            disk: service.volumes.engine().space().map(|space| v1::DiskSpace {
                state: space.room.name().to_owned(),
                free_bytes: space.free,
                reserve_bytes: space.reserve,
            }),
        }))
    }

    type VerifyStream = Pin<Box<dyn Stream<Item = Result<v1::VerifyFinding, Status>> + Send>>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        self.authenticate(&request)?;
        let volumes = self.volumes(&request.into_inner().volume_id)?;
        let (sender, receiver) = mpsc::channel(FINDINGS_QUEUE);
        tokio::task::spawn_blocking(move || {
            let last = verify_all(&volumes, &mut |finding| {
                // A reader that has gone needs no findings.
                let _ = sender.blocking_send(Ok(finding));
            });
            let last = last.map_err(|error| status::to_status(&error));
            let _ = sender.blocking_send(last.map(|summary| v1::VerifyFinding {
                summary: Some(summary),
                ..v1::VerifyFinding::default()
            }));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPart, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.authenticate(&request)?;
        let engine = self.service.volumes.engine();
        let (sender, receiver) = mpsc::channel(PARTS_QUEUE);
        tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(PART_LEN, Parts(sender.clone()));
            let last = dump(engine.as_ref(), &mut out);
            if let Err(error) = last {
                tracing::warn!(error = error.with_causes(), "a backup was broken off");
                let _ = sender.blocking_send(Err(status::to_status(&error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn confirm_restore(
        &self,
        request: Request<v1::ConfirmRestoreRequest>,
    ) -> Result<Response<v1::ConfirmRestoreReply>, Status> {
        self.authenticate(&request)?;
        let volumes = self.volumes(&request.into_inner().volume_id)?;
        let volume_ids = block(|| confirm_all(&volumes))?;
        Ok(Response::new(v1::ConfirmRestoreReply { volume_ids }))
    }
}

/// Lets collection go on; returns the volumes in which it was held. Blocks.
///
/// # Errors
/// `ENGINE_FAILED`.
pub fn confirm_all(volumes: &[Arc<Volume>]) -> Result<Vec<String>> {
    let mut confirmed = Vec::new();
    for volume in volumes {
        if volume.confirm_restore()? {
            confirmed.push(volume.settings().id.to_string());
        }
    }
    Ok(confirmed)
}

/// Checks volumes one by one; returns the sum of what was looked at. Blocks.
///
/// # Errors
/// `ENGINE_FAILED`.
pub fn verify_all(
    volumes: &[Arc<Volume>],
    report: &mut dyn FnMut(v1::VerifyFinding),
) -> Result<v1::VerifySummary> {
    let mut sum = v1::VerifySummary::default();
    for volume in volumes {
        let volume_id = volume.settings().id.to_string();
        let mut findings = 0;
        let counted = volume.verify(&mut |invariant, message| {
            findings += 1;
            report(v1::VerifyFinding {
                volume_id: volume_id.clone(),
                invariant: invariant.to_owned(),
                message,
                summary: None,
            });
        })?;
        sum.volumes += 1;
        sum.inodes += counted.inodes;
        sum.dentries += counted.dentries;
        sum.extents += counted.extents;
        sum.findings += findings;
    }
    Ok(sum)
}
