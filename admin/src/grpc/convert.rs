//! Things → messages.

use flexfs_common::flags;
use flexfs_common::{clock, wire};
use flexfs_proto::v1;
use jiff::Timestamp;

use crate::model::{Account, BlockStore, Grant, MetaServer, MetaStore, TokenRecord, Volume};
use crate::service::authority::{Checked, Placed, Registered, Validated, reachable};
use crate::service::describe::{MountPlace, Status};
use crate::service::revoke::Revoked;

fn at(time: Timestamp) -> Option<v1::Timestamp> {
    Some(wire::timestamp_to_wire(time))
}

fn maybe(time: Option<Timestamp>) -> Option<v1::Timestamp> {
    time.map(wire::timestamp_to_wire)
}

pub(super) fn account(account: Account) -> v1::Account {
    v1::Account {
        id: account.id.to_string(),
        name: account.name,
        email: account.email,
        state: account.state.to_string(),
        created_at: at(account.created_at),
        max_token_age_seconds: 0,
    }
}

pub(super) fn token(token: &TokenRecord, volume_name: &str) -> v1::Token {
    let mut out = v1::Token {
        id: token.id.to_string(),
        kind: token.grant.kind().name().to_owned(),
        account_id: token.account_id.to_string(),
        last4: token.last4.clone(),
        state: token.state(clock::wall_now()).to_string(),
        created_at: at(token.created_at),
        expires_at: maybe(token.expires_at),
        not_before: maybe(token.not_before),
        last_used_at: maybe(token.last_used_at),
        revoked_at: maybe(token.revoked_at),
        notes: token.notes.clone(),
        cidrs: token.cidrs.iter().map(ToString::to_string).collect(),
        ..v1::Token::default()
    };
    match &token.grant {
        Grant::Account { role, volumes } => {
            out.role = role.name().to_owned();
            out.volumes = volumes.iter().map(ToString::to_string).collect();
        }
        Grant::Volume { volume_id, mount_path, rights, flags: own } => {
            out.volume_id = volume_id.to_string();
            out.volume_name = volume_name.to_owned();
            out.mount_path = mount_path.to_string();
            out.rights = rights.to_string();
            out.flags = Some(token.effective_flags());
            out.flag_names = flags::names(own).into_iter().map(str::to_owned).collect();
        }
        Grant::Meta { meta_store } => out.meta_store_id = meta_store.to_string(),
    }
    out
}

pub(super) fn meta_store(store: MetaStore, token: Option<String>) -> v1::MetaStore {
    v1::MetaStore {
        id: store.id.to_string(),
        address: store.address,
        state: store.state.to_string(),
        created_at: at(store.created_at),
        meta_token_id: token.unwrap_or_default(),
    }
}

pub(super) fn block_store(store: BlockStore) -> v1::BlockStore {
    v1::BlockStore {
        id: store.id.to_string(),
        kind: store.kind.to_string(),
        location: store.location,
        prefix: store.prefix,
        region: store.region,
        address: store.address,
        credentials_name: store.credentials_name,
        state: store.state.to_string(),
        created_at: at(store.created_at),
    }
}

pub(super) fn volume(volume: Volume) -> v1::Volume {
    v1::Volume {
        id: volume.id.to_string(),
        name: volume.name.to_string(),
        account_id: volume.account_id.to_string(),
        meta_store_id: volume.meta_store.to_string(),
        block_store_id: volume.block_store.to_string(),
        block_size: volume.block_size,
        compression: volume.compression.to_string(),
        encryption: volume.encryption,
        retention_seconds: volume.retention_seconds,
        max_blocks: volume.max_blocks,
        max_inodes: volume.max_inodes,
        flags: flags::names(&volume.flags).into_iter().map(str::to_owned).collect(),
        notes: volume.notes,
        state: volume.state.to_string(),
        created_at: at(volume.created_at),
    }
}

pub(super) fn revoked(revoked: Revoked) -> v1::RevokeReply {
    let metas = revoked.metas.into_iter().map(|answer| v1::RevokeMeta {
        id: answer.id.to_string(),
        acknowledged: answer.after.is_some(),
        millis: answer
            .after
            .map_or(0, |after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
    });
    v1::RevokeReply {
        id: revoked.id.to_string(),
        revision: revoked.revision,
        sessions_cut: revoked.sessions_cut,
        metas: metas.collect(),
    }
}

pub(super) fn who((token, account): (TokenRecord, Option<Account>)) -> v1::WhoAmIReply {
    let mut out = v1::WhoAmIReply {
        kind: token.grant.kind().name().to_owned(),
        token_id: token.id.to_string(),
        expires_at: maybe(token.expires_at),
        ..v1::WhoAmIReply::default()
    };
    if let Some(account) = account {
        out.account_id = account.id.to_string();
        out.account_name = account.name;
    }
    match &token.grant {
        Grant::Account { role, .. } => out.role = role.name().to_owned(),
        Grant::Volume { volume_id, .. } => out.volume_id = volume_id.to_string(),
        Grant::Meta { meta_store } => out.meta_store_id = meta_store.to_string(),
    }
    out
}

fn meta_server((server, connected): (MetaServer, bool)) -> v1::MetaServer {
    v1::MetaServer {
        id: server.id.to_string(),
        meta_store_id: server.meta_store.to_string(),
        address: server.address,
        version: server.version,
        connected,
        acknowledged_revision: server.acknowledged,
        last_seen_at: at(server.last_seen_at),
    }
}

pub(super) fn status(status: Status) -> v1::GetStatusReply {
    v1::GetStatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: status.database.to_owned(),
        feed_id: status.head.feed_id,
        feed_revision: status.head.revision,
        servers: status.servers.into_iter().map(meta_server).collect(),
    }
}

pub(super) fn mount_place(place: MountPlace) -> v1::DescribeMountReply {
    let mount_path = match &place.token.grant {
        Grant::Volume { mount_path, .. } => mount_path.to_string(),
        Grant::Account { .. } | Grant::Meta { .. } => String::new(),
    };
    let (address, server_id) = match &place.server {
        Some(server) => (
            reachable(&server.address, &place.meta_store.address).to_owned(),
            server.id.to_string(),
        ),
        None => (place.meta_store.address.clone(), String::new()),
    };
    v1::DescribeMountReply {
        volume_id: place.volume.id.to_string(),
        volume_name: place.volume.name.to_string(),
        token_id: place.token.id.to_string(),
        mount_path,
        meta_address: address,
        meta_server_id: server_id,
        encryption: place.volume.encryption,
    }
}

pub(super) fn registered(registered: Registered) -> v1::RegisterServerReply {
    v1::RegisterServerReply {
        certificate_chain: registered.certificate_chain,
        meta_store_id: registered.meta_store.id.to_string(),
        address: registered.address,
        feed_id: registered.head.feed_id,
        revision: registered.head.revision,
    }
}

pub(super) fn placed((volume, store): Placed) -> v1::PlacedVolume {
    v1::PlacedVolume {
        id: volume.id.to_string(),
        name: volume.name.to_string(),
        account_id: volume.account_id.to_string(),
        state: volume.state.to_string(),
        flags: Some(volume.flags),
        block_size: volume.block_size,
        compression: volume.compression.to_string(),
        encryption: volume.encryption,
        max_blocks: volume.max_blocks,
        max_inodes: volume.max_inodes,
        retention_seconds: volume.retention_seconds,
        block_store: Some(v1::BlockStoreSpec {
            id: store.id.to_string(),
            kind: store.kind.to_string(),
            location: store.location,
            prefix: store.prefix,
            region: store.region,
            address: store.address,
            credentials_name: store.credentials_name,
        }),
    }
}

pub(super) fn validated(validated: Validated) -> v1::ValidateVolumeTokenReply {
    let mount_path = match &validated.token.grant {
        Grant::Volume { mount_path, .. } => mount_path.to_string(),
        Grant::Account { .. } | Grant::Meta { .. } => String::new(),
    };
    v1::ValidateVolumeTokenReply {
        token_id: validated.token.id.to_string(),
        secret_id: validated.secret_id.to_string(),
        account_id: validated.token.account_id.to_string(),
        flags: Some(validated.token.effective_flags()),
        volume: Some(placed(validated.volume)),
        mount_path,
        valid_millis: validated.valid_millis,
        revision: validated.revision,
        idle_millis: 0,
    }
}

pub(super) fn checked(checked: Checked) -> v1::TokenState {
    let mut out = v1::TokenState {
        token_id: checked.token_id,
        secret_id: checked.secret_id,
        ..v1::TokenState::default()
    };
    match checked.outcome {
        Ok((token, left)) => {
            out.flags = Some(token.effective_flags());
            out.valid_millis = left;
        }
        Err(error) => out.refused = Some(wire::error_to_detail(&error)),
    }
    out
}
