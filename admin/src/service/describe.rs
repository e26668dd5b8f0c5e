//! What a token may learn about itself and its surroundings.

use flexfs_auth::policy::Resource;
use flexfs_auth::principal::{Principal, Role};
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use super::{Caller, Service};
use crate::model::{Account, Grant, MetaServer, MetaStore, TokenRecord, Volume};
use crate::peppers::Used;
use crate::store::{Replica, accounts, feed, metas, volumes};

/// Where a volume is mounted from.
#[derive(Clone, Debug)]
pub struct MountPlace {
    /// The token that asked.
    pub token: TokenRecord,
    /// Its volume.
    pub volume: Volume,
    /// The volume's meta store.
    pub meta_store: MetaStore,
    /// The server to go to; `None` = none has registered.
    pub server: Option<MetaServer>,
}

/// State of the installation, as far as the caller may see it.
#[derive(Clone, Debug)]
pub struct Status {
    /// `sqlite` or `postgres`.
    pub database: &'static str,
    /// The feed.
    pub head: feed::Head,
    /// Servers, and whether each is connected here.
    pub servers: Vec<(MetaServer, bool)>,
    /// The pepper of new tags, and others; `None` for tenants.
    pub peppers: Option<(String, Vec<Used>)>,
    /// The admins over this database, this one first; none for tenants.
    pub replicas: Vec<Replica>,
    /// For a tenant: when a server was last heard of tells of others.
    pub for_tenant: bool,
}

impl Service {
    /// Who calls.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn who_am_i(&self, caller: &Caller) -> Result<(TokenRecord, Option<Account>)> {
        caller.permit(Resource::Installation)?;
        let account = match caller.principal {
            Principal::Account { account_id, .. } | Principal::Volume { account_id, .. } => {
                accounts::by_id(self.store.reader().as_mut(), account_id).await?
            }
            Principal::Meta { .. } | Principal::Claim { .. } => None,
        };
        Ok((caller.verified.standing.token.clone(), account))
    }

    /// State of the installation. Who is not `system` sees the servers of the
    /// meta stores where its volumes lie.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`.
    pub async fn status(&self, caller: &Caller) -> Result<Status> {
        caller.permit(Resource::Installation)?;
        let only: Option<AccountId> = match &caller.principal {
            Principal::Account { role: Role::System, .. } => None,
            Principal::Account { account_id, .. } | Principal::Volume { account_id, .. } => {
                Some(*account_id)
            }
            Principal::Meta { .. } | Principal::Claim { .. } => {
                return Err(Code::RoleForbidden.into());
            }
        };
        let mut reader = self.store.reader();
        let head = feed::head(reader.as_mut()).await?;
        let servers = metas::servers_for(reader.as_mut(), only).await?;
        let servers = servers
            .into_iter()
            .map(|server| {
                let connected = self.registry.refresh(server);
                (connected.server, connected.connected)
            })
            .collect();
        if let Some(account) = only {
            let own = accounts::own_changes(reader.as_mut(), account).await?;
            return Ok(as_tenants_see(self.store.kind().name(), head, servers, own));
        }
        let peppers = self.verify.peppers();
        let used = peppers.uses(reader.as_mut()).await?;
        let peppers = Some((peppers.current().id().to_owned(), used));
        let database = self.store.kind().name();
        let replicas = self.store.replicas().await?;
        Ok(Status { database, head, servers, peppers, replicas, for_tenant: false })
    }

    /// Where the volume of the calling volume token is served. `volume` is
    /// what the user typed: a token of another volume is refused.
    ///
    /// # Errors
    /// `CREDS_MISMATCH`.
    pub async fn describe_mount(
        &self,
        caller: &Caller,
        request: v1::DescribeMountRequest,
    ) -> Result<MountPlace> {
        let Principal::Volume { account_id, volume_id, .. } = caller.principal else {
            return Err(Code::TokenWrongKind.into());
        };
        caller.permit(Resource::Volume(account_id, volume_id))?;
        let mut reader = self.store.reader();
        let volume =
            volumes::by_id(reader.as_mut(), volume_id).await?.ok_or(Code::VolumeNotFound)?;
        check_volume(&volume, &request.volume)?;
        let meta_store = metas::by_id(reader.as_mut(), &volume.meta_store)
            .await?
            .ok_or(Code::MetaStoreNotFound)?;
        let servers = metas::servers_of(reader.as_mut(), &meta_store.id).await?;
        let server = self.registry.choose(servers);
        let token = caller.verified.standing.token.clone();
        Ok(MountPlace { token, volume, meta_store, server })
    }

    /// The meta store of the calling meta token.
    ///
    /// # Errors
    /// `TOKEN_WRONG_KIND`, `META_STORE_NOT_FOUND`.
    pub async fn describe_server(&self, caller: &Caller) -> Result<(TokenRecord, MetaStore)> {
        caller.permit(Resource::Installation)?;
        let token = caller.verified.standing.token.clone();
        let Grant::Meta { meta_store } = &token.grant else {
            return Err(Code::TokenWrongKind.into());
        };
        let store = metas::by_id(self.store.reader().as_mut(), meta_store)
            .await?
            .ok_or(Code::MetaStoreNotFound)?;
        Ok((token, store))
    }
}

/// The status without what tells of other tenants: instead of revisions, the
/// tenant's own changes, and whether each server has applied them.
fn as_tenants_see(
    database: &'static str,
    head: feed::Head,
    servers: Vec<(MetaServer, bool)>,
    own: accounts::OwnChanges,
) -> Status {
    let servers = servers
        .into_iter()
        .map(|(server, connected)| {
            let behind = server.acknowledged < own.last;
            let acknowledged = own.count - u64::from(behind && own.count > 0);
            (MetaServer { acknowledged, ..server }, connected)
        })
        .collect();
    let head = feed::Head { revision: own.count, floor: 0, ..head };
    Status { database, head, servers, peppers: None, replicas: Vec::new(), for_tenant: true }
}

/// Is this what the user calls the volume? A token of another volume is
/// refused, and nothing is said about whether that one exists.
pub(super) fn check_volume(volume: &Volume, text: &str) -> Result<()> {
    if text == volume.name.as_str() || text.eq_ignore_ascii_case(&volume.id.to_string()) {
        return Ok(());
    }
    Err(Error::new(
        Code::CredsMismatch,
        format!("the token is for the volume `{}`, not for `{}`", volume.name, text.escape_debug()),
    ))
}
