//! How a rotation is shown: a token's secrets, and who uses which.

use std::collections::BTreeSet;

use flexfs_common::Result;
use flexfs_proto::v1;
use serde::Serialize;

use crate::client::present;
use crate::output::{Column, View, clean, column, wide};
use crate::token::TokenView;
use crate::view::{cell, short, text, time};

/// A token's rotation.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct RotationView {
    /// The token's.
    pub(super) id: String,
    kind: String,
    #[serde(skip)]
    target: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<String>,
    /// Oldest first.
    pub(super) secrets: Vec<SecretView>,
}

/// One of its secrets.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretView {
    id: String,
    last4: String,
    /// live, ending or ended.
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    uses: u64,
    hosts: Vec<HostView>,
}

/// A host that uses it.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostView {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    uses: u64,
    sessions: u32,
}

impl HostView {
    /// As it calls itself, else its address.
    fn name(&self) -> &str {
        self.host_name.as_deref().unwrap_or(&self.address)
    }
}

/// A line of the table: a secret, with one of its hosts if it has any.
#[derive(Serialize, Debug)]
pub(super) struct Row<'a> {
    secret: &'a SecretView,
    host: Option<&'a HostView>,
}

impl From<v1::Secret> for SecretView {
    fn from(secret: v1::Secret) -> SecretView {
        let host = |host: v1::SecretUse| HostView {
            host_name: text(host.host_name),
            address: host.address,
            last_used_at: time(host.last_used_at.as_ref()),
            uses: host.uses,
            sessions: host.sessions,
        };
        SecretView {
            id: secret.id,
            last4: secret.last4,
            state: secret.state,
            created_at: time(secret.created_at.as_ref()),
            expires_at: time(secret.expires_at.as_ref()),
            retired_at: time(secret.retired_at.as_ref()),
            last_used_at: time(secret.last_used_at.as_ref()),
            uses: secret.uses,
            hosts: secret.hosts.into_iter().map(host).collect(),
        }
    }
}

impl RotationView {
    /// As admin tells it.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID`.
    pub(super) fn of(rotation: v1::Rotation) -> Result<RotationView> {
        let token = present(rotation.token)?;
        let rotated_at = time(token.rotated_at.as_ref());
        let (id, kind, state) = (token.id.clone(), token.kind.clone(), token.state.clone());
        let target = TokenView::from(token).target();
        let secrets = rotation.secrets.into_iter().map(SecretView::from).collect();
        Ok(RotationView { id, kind, target, state, rotated_at, secrets })
    }

    /// The earlier secrets that are still accepted.
    pub(super) fn earlier(&self) -> impl Iterator<Item = &SecretView> {
        let earlier = self.secrets.split_last().map_or(&[][..], |(_newest, earlier)| earlier);
        earlier.iter().filter(|secret| secret.state != "ended")
    }

    /// Hosts that have used one of them.
    pub(super) fn users(&self) -> Vec<String> {
        let hosts = self.earlier().flat_map(|secret| &secret.hosts);
        let names: BTreeSet<_> = hosts.map(|host| clean(host.name())).collect();
        names.into_iter().collect()
    }

    /// The lines of the table.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for secret in &self.secrets {
            if secret.hosts.is_empty() {
                rows.push(Row { secret, host: None });
            }
            rows.extend(secret.hosts.iter().map(|host| Row { secret, host: Some(host) }));
        }
        rows
    }

    /// What is to be done next.
    pub(super) fn remark(&self) -> String {
        let (earlier, users) = (self.earlier().count(), self.users());
        if earlier == 0 {
            return "only the newest secret is accepted".to_owned();
        }
        let finish = format!("`configure.flexfs rotation finish {}`", self.id);
        match users.as_slice() {
            [] => format!("no host has used an earlier secret: {finish} ends them"),
            users => format!(
                "earlier secrets were used by {}: give them the new token, then {finish}",
                users.join(", ")
            ),
        }
    }
}

impl View for RotationView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("KIND"),
        column("FOR"),
        column("STATE"),
        column("ROTATED"),
        column("EARLIER"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            self.target.clone(),
            self.state.clone(),
            short(self.rotated_at.as_deref()),
            format!("{} still accepted", self.earlier().count()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl View for Row<'_> {
    const COLUMNS: &'static [Column] = &[
        column("LAST4"),
        column("STATE"),
        column("CREATED"),
        column("ENDS"),
        column("LASTUSED"),
        column("USES"),
        column("HOST"),
        column("ADDRESS"),
        column("HOSTLASTUSED"),
        column("HOSTUSES"),
        column("SESSIONS"),
        wide("SECRET"),
        wide("ENDED"),
    ];

    fn cells(&self) -> Vec<String> {
        let (secret, host) = (self.secret, self.host);
        let of_host = |value: fn(&HostView) -> String| host.map(value).unwrap_or_default();
        vec![
            secret.last4.clone(),
            secret.state.clone(),
            short(secret.created_at.as_deref()),
            short(secret.expires_at.as_deref()),
            short(secret.last_used_at.as_deref()),
            secret.uses.to_string(),
            of_host(|host| cell(host.host_name.as_ref())),
            of_host(|host| host.address.clone()),
            of_host(|host| short(host.last_used_at.as_deref())),
            of_host(|host| host.uses.to_string()),
            of_host(|host| host.sessions.to_string()),
            secret.id.clone(),
            short(secret.retired_at.as_deref()),
        ]
    }

    fn id(&self) -> &str {
        &self.secret.id
    }
}
