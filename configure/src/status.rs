//! `status`: can admin be reached, and do the metadata servers follow it?

use flexfs_common::Result;
use flexfs_proto::v1;
use serde::Serialize;

use crate::output::{Column, View, column, wide};
use crate::run::Session;
use crate::settings::Settings;
use crate::view::{short, time};

/// admin and its metadata servers.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    address: String,
    version: String,
    database: String,
    #[serde(rename = "feedID")]
    feed_id: String,
    feed_revision: u64,
    servers: Vec<ServerView>,
}

/// One metadata server.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    id: String,
    #[serde(rename = "metaStoreID")]
    meta_store_id: String,
    address: String,
    version: String,
    connected: bool,
    acknowledged_revision: u64,
    /// Revisions of the feed that it has not acknowledged.
    feed_lag: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<String>,
}

impl View for StatusView {
    const COLUMNS: &'static [Column] = &[
        column("ADMIN"),
        column("VERSION"),
        column("DATABASE"),
        column("FEED"),
        column("REVISION"),
        column("SERVERS"),
    ];

    fn cells(&self) -> Vec<String> {
        let connected = self.servers.iter().filter(|server| server.connected).count();
        vec![
            self.address.clone(),
            self.version.clone(),
            self.database.clone(),
            self.feed_id.clone(),
            self.feed_revision.to_string(),
            format!("{} of {} connected", connected, self.servers.len()),
        ]
    }

    fn id(&self) -> &str {
        &self.feed_id
    }
}

impl View for ServerView {
    const COLUMNS: &'static [Column] = &[
        column("SERVER"),
        column("METASTORE"),
        column("ADDRESS"),
        column("CONNECTED"),
        column("LAG"),
        column("LASTSEEN"),
        wide("VERSION"),
        wide("ACKNOWLEDGED"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.meta_store_id.clone(),
            self.address.clone(),
            if self.connected { "yes".to_owned() } else { "no".to_owned() },
            self.feed_lag.to_string(),
            short(self.last_seen_at.as_deref()),
            self.version.clone(),
            self.acknowledged_revision.to_string(),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

fn server(server: v1::MetaServer, head: u64) -> ServerView {
    ServerView {
        id: server.id,
        meta_store_id: server.meta_store_id,
        address: server.address,
        version: server.version,
        connected: server.connected,
        acknowledged_revision: server.acknowledged_revision,
        feed_lag: head.saturating_sub(server.acknowledged_revision),
        last_seen_at: time(server.last_seen_at.as_ref()),
    }
}

/// `status`
pub(crate) fn show(session: &Session) -> Result<()> {
    let address = Settings::new(&session.globals)?.place()?.admin_addr.value;
    let reply =
        session.ask(|mut admin| async move { admin.get_status(v1::GetStatusRequest {}).await })?;
    let head = reply.feed_revision;
    let view = StatusView {
        address,
        version: reply.version,
        database: reply.database,
        feed_id: reply.feed_id,
        feed_revision: head,
        servers: reply.servers.into_iter().map(|each| server(each, head)).collect(),
    };
    session.output.with_table(&view, "metadata servers", &view.servers)
}
