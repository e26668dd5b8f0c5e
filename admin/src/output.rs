//! The one file that prints.

#![allow(clippy::print_stdout, reason = "this file is where the program prints")]

use flexfs_proto::v1;
use serde::Serialize;

/// Prints a line.
pub(crate) fn line(text: &str) {
    println!("{text}");
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
        Details {
            version: reply.version,
            database: reply.database,
            feed_id: reply.feed_id,
            feed_revision: reply.feed_revision,
            servers: servers.collect(),
        }
    }
}

/// Prints the status as JSON, on one line.
pub(crate) fn status_json(view: &StatusView) {
    // Strings and numbers only: this cannot fail.
    println!("{}", serde_json::to_string(view).unwrap_or_default());
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
    println!("feed         {} at revision {}", details.feed_id, details.feed_revision);
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
