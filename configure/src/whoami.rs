//! `whoami`: what admin says about the token in use.

use flexfs_common::Result;
use flexfs_proto::v1;
use serde::Serialize;

use crate::output::{Column, View, column};
use crate::run::Session;
use crate::view::{cell, short, text, time};

/// The token in use.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct WhoAmIView {
    #[serde(rename = "tokenID")]
    token_id: String,
    kind: String,
    #[serde(rename = "accountID", skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl View for WhoAmIView {
    const COLUMNS: &'static [Column] = &[
        column("TOKEN"),
        column("KIND"),
        column("ACCOUNT"),
        column("NAME"),
        column("ROLE"),
        column("EXPIRES"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.token_id.clone(),
            self.kind.clone(),
            cell(self.account_id.as_ref()),
            cell(self.account_name.as_ref()),
            cell(self.role.as_ref()),
            short(self.expires_at.as_deref()),
        ]
    }

    fn id(&self) -> &str {
        &self.token_id
    }
}

/// `whoami`
pub(crate) fn show(session: &Session) -> Result<()> {
    let who = session.ask(|mut admin| async move { admin.who_am_i(v1::WhoAmIRequest {}).await })?;
    session.output.one(&WhoAmIView {
        token_id: who.token_id,
        kind: who.kind,
        account_id: text(who.account_id),
        account_name: text(who.account_name),
        role: text(who.role),
        expires_at: time(who.expires_at.as_ref()),
    })
}
