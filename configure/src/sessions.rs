//! `list sessions`: live mounts, as the metadata servers reported them.

use clap::Args;
use flexfs_common::Result;
use flexfs_proto::v1;
use serde::Serialize;

use crate::output::{Column, View, column, wide};
use crate::run::Session;
use crate::view::{cell, short, text, time};

/// `list sessions`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs list sessions --volumeID projects -o wide")]
pub(crate) struct List {
    /// Only those of this volume, by name or id
    #[arg(long = "volumeID", value_name = "NAME|ID")]
    volume: Option<String>,
    /// At most so many
    #[arg(long = "limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// The page after an earlier listing (its nextPage)
    #[arg(long = "page", value_name = "P")]
    page: Option<String>,
}

/// One live mount.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct SessionView {
    id: String,
    #[serde(rename = "volumeID")]
    volume_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_name: Option<String>,
    #[serde(rename = "tokenID")]
    token_id: String,
    #[serde(rename = "secretID", skip_serializing_if = "Option::is_none")]
    secret_id: Option<String>,
    mount_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(rename = "serverID")]
    server_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_at: Option<String>,
}

impl From<v1::Session> for SessionView {
    fn from(session: v1::Session) -> SessionView {
        SessionView {
            id: session.id,
            volume_id: session.volume_id,
            volume_name: text(session.volume_name),
            token_id: session.token_id,
            secret_id: text(session.secret_id),
            mount_path: session.mount_path,
            host_name: text(session.host_name),
            dir: text(session.dir),
            address: text(session.address),
            server_id: session.server_id,
            opened_at: time(session.opened_at.as_ref()),
        }
    }
}

impl View for SessionView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("VOLUME"),
        column("TOKEN"),
        column("HOST"),
        column("DIR"),
        column("ADDRESS"),
        column("OPENED"),
        wide("SECRET"),
        wide("SERVER"),
    ];

    fn cells(&self) -> Vec<String> {
        let volume = self.volume_name.as_ref().unwrap_or(&self.volume_id);
        vec![
            self.id.clone(),
            format!("{volume}:{}", self.mount_path),
            self.token_id.clone(),
            cell(self.host_name.as_ref()),
            cell(self.dir.as_ref()),
            cell(self.address.as_ref()),
            short(self.opened_at.as_deref()),
            cell(self.secret_id.as_ref()),
            self.server_id.clone(),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// `list sessions`
pub(crate) fn list(session: &Session, arguments: &List) -> Result<()> {
    let request = v1::ListSessionsRequest {
        account_id: session.globals.account(),
        volume: arguments.volume.clone().unwrap_or_default(),
        limit: arguments.limit.unwrap_or_default(),
        page: arguments.page.clone().unwrap_or_default(),
    };
    let reply = session.ask(|mut admin| async move { admin.list_sessions(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(SessionView::from).collect();
    session.output.list(&items, &reply.next_page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_its_host_and_directory() {
        let view = SessionView::from(v1::Session {
            id: "s".into(),
            volume_id: "v".into(),
            volume_name: "projects".into(),
            token_id: "t".into(),
            mount_path: "/a".into(),
            host_name: "node1".into(),
            dir: "/mnt/x".into(),
            ..v1::Session::default()
        });
        assert_eq!(view.cells().len(), SessionView::COLUMNS.len());
        assert_eq!(view.cells()[1], "projects:/a");
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!((&json["tokenID"], &json["hostName"]), (&"t".into(), &"node1".into()));
        assert!(json.get("secretID").is_none());
    }
}
