//! Live mounts: what metadata servers report, and who may see it.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_common::ids::{SecretId, SessionId, TokenId, VolumeId};
use flexfs_common::name::{StoreId, SubtreePath};
use flexfs_common::{Code, Error, Result, wire};
use flexfs_proto::v1;

use super::authority::peer_address;
use super::{Caller, Service, hidden};
use crate::model::{LiveSession, MetaServer};
use crate::page::Page;
use crate::store::sessions;
use crate::verify::host_name;

/// Sessions of one report.
const REPORT_MAX: usize = 1000;
/// Sessions of one server: what a metadata server itself allows, and as many
/// that it has not yet reported as ended.
const SESSIONS_PER_SERVER: u64 = 2 * 65_536;

impl Service {
    /// The mounts of an account's volumes, as far as the caller may see them.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn list_sessions(
        &self,
        caller: &Caller,
        request: v1::ListSessionsRequest,
    ) -> Result<(Vec<(LiveSession, String)>, String)> {
        let account = self.account_of(caller, &request.account_id).await?;
        authorize(&caller.principal, Action::SessionRead, Resource::Account(account))
            .map_err(|e| hidden(e, Code::AccountNotFound))?;
        let page = Page::parse(request.limit, &request.page)?;
        let mut reader = self.store.reader();
        let volume = if request.volume.is_empty() {
            String::new()
        } else {
            let (volume, _permit) = self
                .find_volume(reader.as_mut(), caller, Action::SessionRead, account, &request.volume)
                .await?;
            volume.id.to_string()
        };
        let visible = caller.visible(account);
        let mut items = sessions::list(reader.as_mut(), &visible, &volume, &page).await?;
        let next =
            page.finish(&mut items, |(s, _)| (s.opened_at.as_microsecond(), s.id.to_string()));
        Ok((items, next))
    }

    /// Notes what a server reports of its sessions.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID`, `DATABASE_FAILED`.
    pub async fn note_sessions(
        &self,
        store: &StoreId,
        server: &MetaServer,
        report: v1::SessionReport,
    ) -> Result<()> {
        if report.opened.len() > REPORT_MAX || report.closed.len() > REPORT_MAX {
            return Err(Error::new(Code::ProtocolInvalid, "a report of too many sessions"));
        }
        let opened: Vec<LiveSession> =
            report.opened.iter().map(|s| parse(server, s)).collect::<Result<_>>()?;
        let closed: Vec<SessionId> =
            report.closed.iter().map(|id| session_id(id)).collect::<Result<_>>()?;
        let mut tx = self.store.begin().await?;
        if report.all {
            sessions::mark_stale(tx.sql(), server.id).await?;
        }
        let known = sessions::count_of(tx.sql(), server.id).await?;
        if known + opened.len() as u64 > SESSIONS_PER_SERVER {
            return Err(Error::new(Code::ProtocolInvalid, "a server with too many sessions"));
        }
        for session in &opened {
            sessions::put(tx.sql(), store, session).await?;
        }
        for id in closed {
            sessions::remove(tx.sql(), server.id, id).await?;
        }
        if !report.more {
            // The report is complete: what it did not name is over.
            sessions::remove_stale(tx.sql(), server.id).await?;
        }
        tx.commit_quietly().await
    }
}

fn session_id(bytes: &[u8]) -> Result<SessionId> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| Error::new(Code::ProtocolInvalid, "a session id is 16 bytes"))?;
    Ok(SessionId::from_bytes(bytes))
}

fn parse(server: &MetaServer, session: &v1::LiveSession) -> Result<LiveSession> {
    let bad = |e: Error| Error::new(Code::ProtocolInvalid, "a session's id").caused_by(e);
    let short = |text: &str| host_name(text).to_string();
    Ok(LiveSession {
        id: session_id(&session.session_id)?,
        server: server.id,
        token_id: session.token_id.parse::<TokenId>().map_err(bad)?,
        secret_id: session.secret_id.parse::<SecretId>().map_err(bad)?,
        volume_id: session.volume_id.parse::<VolumeId>().map_err(bad)?,
        mount_path: session.mount_path.parse::<SubtreePath>().map_err(bad)?.to_string(),
        host: short(&session.host_name),
        dir: short(&session.dir),
        // As uses have it: without the port, or one host looks like many.
        address: peer_address(&session.peer_address).map_or_else(String::new, |ip| ip.to_string()),
        opened_at: match &session.opened_at {
            Some(at) => wire::timestamp_from_wire(at)?,
            None => super::mint::now(),
        },
    })
}
