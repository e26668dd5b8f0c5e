//! The one file that prints.

#![allow(clippy::print_stdout, reason = "this file is where the program prints")]

use flexfs_proto::v1;
use serde::Serialize;

use crate::peppers::Switched;

/// Prints a line.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints what became of the peppers.
pub(crate) fn switched(switched: &Switched) {
    println!("new pepper {}", switched.new);
    if let Some(kept) = &switched.kept {
        println!("{kept} is kept: what lies under it moves to the new one at its next use");
    }
    for id in &switched.lost {
        println!("{id} is lost: what lies under it is checked by argon2id alone at its next use");
    }
    println!("other servers need admin/pepper and admin/pepper.d of this one before they start");
}

/// What `status` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusView {
    pub(crate) running: bool,
    pub(crate) pid: u32,
    pub(crate) address: String,
    #[serde(rename = "noSSL")]
    pub(crate) no_ssl: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_fingerprint: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Details>,
}

/// What only a caller with a system token learns.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Details {
    version: String,
    database: String,
    #[serde(rename = "feedID")]
    feed_id: String,
    feed_revision: u64,
    servers: Vec<ServerView>,
    #[serde(rename = "pepperID")]
    pepper_id: String,
    other_peppers: Vec<PepperView>,
    replicas: Vec<ReplicaView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaView {
    id: String,
    version: String,
    seen_revision: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PepperView {
    id: String,
    state: String,
    live_secrets: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    id: String,
    #[serde(rename = "metaStoreID")]
    meta_store_id: String,
    address: String,
    version: String,
    connected: bool,
    acknowledged_revision: u64,
    last_seen_at: Option<String>,
}

impl From<v1::GetStatusReply> for Details {
    fn from(reply: v1::GetStatusReply) -> Details {
        let servers = reply.servers.into_iter().map(|server| ServerView {
            id: server.id,
            meta_store_id: server.meta_store_id,
            address: server.address,
            version: server.version,
            connected: server.connected,
            acknowledged_revision: server.acknowledged_revision,
            last_seen_at: server
                .last_seen_at
                .and_then(|at| flexfs_common::wire::timestamp_from_wire(&at).ok())
                .map(|at| at.to_string()),
        });
        let replicas = reply.replicas.into_iter().map(|replica| ReplicaView {
            id: replica.id,
            version: replica.version,
            seen_revision: replica.seen_revision,
        });
        Details {
            replicas: replicas.collect(),
            version: reply.version,
            database: reply.database,
            feed_id: reply.feed_id,
            feed_revision: reply.feed_revision,
            servers: servers.collect(),
            pepper_id: reply.pepper_id,
            other_peppers: reply
                .other_peppers
                .into_iter()
                .map(|pepper| PepperView {
                    id: pepper.id,
                    state: pepper.state,
                    live_secrets: pepper.live_secrets,
                })
                .collect(),
        }
    }
}

/// Prints the status as JSON, on one line.
pub(crate) fn status_json(view: &StatusView) {
    // Strings and numbers only: this cannot fail.
    println!("{}", serde_json::to_string(view).unwrap_or_default());
}

/// Prints what tells this installation from another: the id of its feed.
pub(crate) fn status_id(view: &StatusView) {
    if let Some(details) = &view.details {
        println!("{}", details.feed_id);
    }
}

/// Prints the status as YAML.
pub(crate) fn status_yaml(view: &StatusView) {
    print!("{}", serde_yaml_ng::to_string(view).unwrap_or_default());
}

/// Prints the status for people.
pub(crate) fn status_table(view: &StatusView) {
    println!("running      yes (pid {})", view.pid);
    println!("address      {}{}", view.address, if view.no_ssl { " (no TLS)" } else { "" });
    if let Some(fingerprint) = &view.ca_fingerprint {
        println!("fingerprint  {fingerprint}");
    }
    let Some(details) = &view.details else {
        println!("details      not shown: root.token is absent or no longer accepted");
        return;
    };
    println!("version      {}", details.version);
    println!("database     {}", details.database);
    println!("replicas     {}", details.replicas.len());
    // One is this one itself.
    for replica in details.replicas.iter().filter(|_| details.replicas.len() > 1) {
        let ReplicaView { id, version, seen_revision } = replica;
        println!("  {id}  {version}  revision {seen_revision}");
    }
    println!("feed         {} at revision {}", details.feed_id, details.feed_revision);
    println!("pepper       {}", details.pepper_id);
    for pepper in &details.other_peppers {
        let PepperView { id, state, live_secrets } = pepper;
        match live_secrets {
            0 => println!("  {id}  {state}  unused: `admin.flexfs recover --dropPepper {id}`"),
            _ => println!("  {id}  {state}  {live_secrets} live secrets, not used since"),
        }
    }
    println!("servers      {}", details.servers.len());
    for server in &details.servers {
        println!(
            "  {}  {}  {}  revision {}  {}",
            server.id,
            server.meta_store_id,
            if server.connected { "connected" } else { "away" },
            server.acknowledged_revision,
            server.address
        );
    }
}
