//! Things → messages.

use flexfs_common::flags;
use flexfs_common::{clock, wire};
use flexfs_proto::v1;
use jiff::Timestamp;

use crate::model::{
    Account, BlockStore, Grant, LiveSession, MetaServer, MetaStore, SecretRecord, SecretUse,
    TokenRecord, Volume,
};
use crate::service::authority::{Checked, Placed, Registered, Validated, reachable};
use crate::service::bulk::BulkRevoked;
use crate::service::describe::{MountPlace, Status};
use crate::service::revoke::{MetaAnswer, Revoked, Settled};
use crate::service::rotate::{Rotated, Rotation};
use crate::store::tokens::Listed;

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
        max_token_age_seconds: account.max_token_age,
    }
}

pub(super) fn listed(listed: Listed) -> v1::Token {
    let overdue = listed.is_overdue(clock::wall_now());
    v1::Token {
        live_secrets: listed.live_secrets,
        // Before its claim code is redeemed it has no secret of any age.
        rotated_at: at(listed.token.rotated_at).filter(|_| listed.claim_expires_at.is_none()),
        overdue,
        claim_expires_at: maybe(listed.claim_expires_at),
        ..token(&listed.token, &listed.volume_name)
    }
}

/// One that was just made with its first secret.
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
        last_used_at: maybe(token.used.last_at),
        last_used_from: token.used.last_from.clone(),
        last_used_host: token.used.last_host.clone(),
        uses: token.used.count,
        idle_seconds: token.idle_seconds,
        disabled_at: maybe(token.disabled_at),
        created_by: token.created_by.map(|id| id.to_string()).unwrap_or_default(),
        rotated_at: at(token.rotated_at),
        revoke_reason: token.revoke_reason.clone(),
        live_secrets: 1,
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

fn metas(settled: Settled) -> Vec<v1::RevokeMeta> {
    let meta = |answer: MetaAnswer| v1::RevokeMeta {
        id: answer.id.to_string(),
        acknowledged: answer.after.is_some(),
        millis: answer
            .after
            .map_or(0, |after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
    };
    settled.metas.into_iter().map(meta).collect()
}

pub(super) fn revoked(revoked: Revoked) -> v1::RevokeReply {
    v1::RevokeReply {
        id: revoked.id,
        revision: revoked.revision,
        sessions_cut: revoked.settled.sessions_cut,
        metas: metas(revoked.settled),
    }
}

pub(super) fn bulk_revoked(revoked: BulkRevoked) -> v1::RevokeTokensReply {
    v1::RevokeTokensReply {
        items: revoked.items.into_iter().map(listed).collect(),
        kept: revoked.kept.iter().map(ToString::to_string).collect(),
        revision: revoked.revision,
        sessions_cut: revoked.settled.sessions_cut,
        metas: metas(revoked.settled),
        next_page: revoked.next_page,
    }
}

pub(super) fn rotation(rotation: Rotation) -> v1::Rotation {
    let now = rotation.now;
    v1::Rotation {
        token: Some(listed(rotation.shown)),
        secrets: rotation.secrets.into_iter().map(|(s, hosts)| secret(s, hosts, now)).collect(),
    }
}

pub(super) fn rotated(rotated: Rotated) -> v1::RotateReply {
    v1::RotateReply {
        rotation: Some(rotation(rotated.rotation)),
        ended: Some(revoked(rotated.ended)),
    }
}

fn secret(secret: SecretRecord, hosts: Vec<SecretUse>, now: Timestamp) -> v1::Secret {
    let state = if !secret.live(now) {
        "ended"
    } else if secret.expires_at.is_some() {
        "ending"
    } else {
        "live"
    };
    v1::Secret {
        id: secret.id.to_string(),
        last4: secret.last4,
        state: state.to_owned(),
        created_at: at(secret.created_at),
        expires_at: maybe(secret.expires_at),
        retired_at: maybe(secret.retired_at),
        last_used_at: maybe(secret.last_used_at),
        uses: secret.uses,
        hosts: hosts.into_iter().map(secret_use).collect(),
    }
}

fn secret_use(host: SecretUse) -> v1::SecretUse {
    v1::SecretUse {
        host_name: host.host,
        address: host.address,
        last_used_at: at(host.last_used_at),
        uses: host.uses,
        sessions: host.sessions,
    }
}

pub(super) fn sessions(
    (items, next_page): (Vec<(LiveSession, String)>, String),
) -> v1::ListSessionsReply {
    let items = items.into_iter().map(|(session, volume_name)| v1::Session {
        id: session.id.to_string(),
        volume_id: session.volume_id.to_string(),
        volume_name,
        token_id: session.token_id.to_string(),
        secret_id: session.secret_id.to_string(),
        mount_path: session.mount_path,
        host_name: session.host,
        dir: session.dir,
        address: session.address,
        server_id: session.server.to_string(),
        opened_at: at(session.opened_at),
    });
    v1::ListSessionsReply { items: items.collect(), next_page }
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
    let (pepper_id, other_peppers) = status.peppers.unwrap_or_default();
    v1::GetStatusReply {
        replicas: status
            .replicas
            .into_iter()
            .map(|replica| v1::Replica {
                id: replica.id.to_string(),
                version: replica.version,
                seen_revision: replica.seen,
            })
            .collect(),
        pepper_id,
        other_peppers: other_peppers
            .into_iter()
            .map(|used| v1::PepperUse {
                id: used.id,
                state: used.have.name().to_owned(),
                live_secrets: used.live,
            })
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: status.database.to_owned(),
        feed_id: status.head.feed_id,
        feed_revision: status.head.revision,
        servers: status
            .servers
            .into_iter()
            .map(|server| v1::MetaServer {
                last_seen_at: at(server.0.last_seen_at).filter(|_| !status.for_tenant),
                ..meta_server(server)
            })
            .collect(),
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

pub(super) fn placed((volume, store): &Placed) -> v1::PlacedVolume {
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
            location: store.location.clone(),
            prefix: store.prefix.clone(),
            region: store.region.clone(),
            address: store.address.clone(),
            credentials_name: store.credentials_name.clone(),
        }),
    }
}

pub(super) fn validated(validated: &Validated) -> v1::ValidateVolumeTokenReply {
    let token = &validated.standing.token;
    let mount_path = match &token.grant {
        Grant::Volume { mount_path, .. } => mount_path.to_string(),
        Grant::Account { .. } | Grant::Meta { .. } => String::new(),
    };
    v1::ValidateVolumeTokenReply {
        token_id: token.id.to_string(),
        secret_id: validated.secret_id.to_string(),
        account_id: token.account_id.to_string(),
        flags: Some(token.effective_flags()),
        volume: Some(placed(&validated.volume)),
        mount_path,
        valid_millis: validated.valid_millis,
        revision: validated.revision,
        idle_millis: token.idle_seconds.saturating_mul(1000),
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
