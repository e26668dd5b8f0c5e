//! What the three kinds of tokens have in common: how one is shown, fetched,
//! listed, deleted, and made.

use flexfs_auth::reference;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::output::{Changed, Column, View, column, wide};
use crate::run::Session;
use crate::view::{cell, short, text, time};

/// A token without its secret. What does not apply is left out.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenView {
    id: String,
    kind: String,
    #[serde(rename = "accountID", skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(rename = "volumeID", skip_serializing_if = "Option::is_none")]
    volume_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_name: Option<String>,
    #[serde(rename = "metaStoreID", skip_serializing_if = "Option::is_none")]
    meta_store_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rights: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidrs: Vec<String>,
    last4: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<String>,
}

impl From<v1::Token> for TokenView {
    fn from(token: v1::Token) -> TokenView {
        let is_volume = token.kind == TokenKind::Volume.name();
        let pins = token.flags.unwrap_or_default();
        TokenView {
            id: token.id,
            account_id: text(token.account_id),
            volume_id: text(token.volume_id),
            volume_name: text(token.volume_name),
            meta_store_id: text(token.meta_store_id),
            mount_path: text(token.mount_path),
            flags: is_volume.then_some(token.flag_names),
            rights: text(token.rights),
            uid: pins.uid,
            gid: pins.gid,
            role: text(token.role),
            volumes: token.volumes,
            cidrs: token.cidrs,
            last4: token.last4,
            state: token.state,
            created_at: time(token.created_at.as_ref()),
            not_before: time(token.not_before.as_ref()),
            expires_at: time(token.expires_at.as_ref()),
            last_used_at: time(token.last_used_at.as_ref()),
            revoked_at: time(token.revoked_at.as_ref()),
            notes: text(token.notes),
            kind: token.kind,
        }
    }
}

impl TokenView {
    /// What the token is for, in one word: volume and path, role, or store.
    fn target(&self) -> String {
        match (&self.volume_name, &self.mount_path, &self.role, &self.meta_store_id) {
            (Some(volume), Some(path), _, _) => format!("{volume}:{path}"),
            (Some(volume), None, _, _) => volume.clone(),
            (None, _, Some(role), _) => role.clone(),
            (None, _, None, Some(store)) => store.clone(),
            (None, Some(path), None, None) => format!("{}:{path}", cell(self.volume_id.as_ref())),
            (None, None, None, None) => String::new(),
        }
    }

    /// Flags with what else narrows the token.
    fn restrictions(&self) -> String {
        let mut all = self.flags.clone().unwrap_or_default();
        all.extend(self.uid.map(|uid| format!("uid={uid}")));
        all.extend(self.gid.map(|gid| format!("gid={gid}")));
        all.join(",")
    }
}

impl View for TokenView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        wide("KIND"),
        column("FOR"),
        column("RIGHTS"),
        column("FLAGS"),
        column("LAST4"),
        column("STATE"),
        column("CREATED"),
        column("EXPIRES"),
        column("LASTUSED"),
        wide("NOTBEFORE"),
        wide("REVOKED"),
        wide("ACCOUNT"),
        wide("VOLUMES"),
        wide("CIDRS"),
        wide("NOTES"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            self.target(),
            cell(self.rights.as_ref()),
            self.restrictions(),
            self.last4.clone(),
            self.state.clone(),
            short(self.created_at.as_deref()),
            short(self.expires_at.as_deref()),
            short(self.last_used_at.as_deref()),
            short(self.not_before.as_deref()),
            short(self.revoked_at.as_deref()),
            cell(self.account_id.as_ref()),
            self.volumes.join(","),
            self.cidrs.join(","),
            cell(self.notes.as_ref()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// A token where it is handed out: `{"id", "token"}` and nothing else.
#[derive(Serialize)]
pub(crate) struct HandedOut<'a> {
    id: &'a str,
    token: &'a str,
}

impl<'a> HandedOut<'a> {
    /// The id as admin confirmed it.
    pub(crate) fn new(view: &'a TokenView, token: &'a Token) -> HandedOut<'a> {
        HandedOut { id: &view.id, token: token.reveal() }
    }
}

/// The token to be created: imported from `--tokenFile`, or a new one.
///
/// # Errors
/// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`, `INTERNAL`.
pub(crate) fn import_or_generate(import: Option<&str>, kind: TokenKind) -> Result<Token> {
    match import {
        Some(argument) => {
            let text = reference::read_secret_argument(argument)?;
            Token::parse_kind(&text, kind).map_err(|e| match e.code() {
                Code::TokenWrongKind => Error::new(
                    e.code(),
                    format!("{}; --tokenFile is the token to import here", e.message()),
                ),
                _ => e,
            })
        }
        None => Token::generate(kind),
    }
}

/// `show …-token`
pub(crate) fn show(session: &Session, kind: TokenKind, by: &ById) -> Result<()> {
    let request = v1::GetTokenRequest {
        kind: kind.name().to_owned(),
        id: by.id.clone(),
        account_id: session.globals.account(),
    };
    let token = session.ask(|mut admin| async move { admin.get_token(request).await })?;
    session.output.one(&TokenView::from(token))
}

/// `list …-tokens`
pub(crate) fn list(
    session: &Session,
    kind: TokenKind,
    volume: Option<&str>,
    page: &Page,
) -> Result<()> {
    let request = v1::ListTokensRequest {
        kind: kind.name().to_owned(),
        account_id: session.globals.account(),
        volume: volume.unwrap_or_default().to_owned(),
        state: page.state.clone().unwrap_or_default(),
        limit: page.limit.unwrap_or_default(),
        page: page.page.clone().unwrap_or_default(),
        ..v1::ListTokensRequest::default()
    };
    let reply = session.ask(|mut admin| async move { admin.list_tokens(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(TokenView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete …-token`
pub(crate) fn delete(session: &Session, kind: TokenKind, by: &ById) -> Result<()> {
    let request = v1::DeleteTokenRequest {
        kind: kind.name().to_owned(),
        id: by.id.clone(),
        account_id: session.globals.account(),
    };
    let reply = session.ask(|mut admin| async move { admin.delete_token(request).await })?;
    deleted(session, &format!("{} token", kind.name()), reply)
}

/// What every `delete` prints.
pub(crate) fn deleted(session: &Session, what: &str, reply: v1::DeleteReply) -> Result<()> {
    let changed = Changed { id: reply.id, revision: reply.revision };
    session.output.done(&format!("{what} {} deleted", changed.id), &changed.id, &changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume_token() -> v1::Token {
        v1::Token {
            id: "i".into(),
            kind: "volume".into(),
            account_id: "a".into(),
            volume_id: "v".into(),
            volume_name: "projects".into(),
            mount_path: "/a".into(),
            rights: "rw".into(),
            last4: "wxyz".into(),
            state: "active".into(),
            created_at: Some(v1::Timestamp { seconds: 0, nanos: 0 }),
            flag_names: vec!["ro".into()],
            flags: Some(v1::Flags { ro: true, uid: Some(7), ..v1::Flags::default() }),
            ..v1::Token::default()
        }
    }

    #[test]
    fn the_keys_are_those_of_the_contract_and_what_does_not_apply_is_left_out() {
        let text = serde_json::to_string(&TokenView::from(volume_token())).unwrap();
        assert_eq!(
            text,
            r#"{"id":"i","kind":"volume","accountID":"a","volumeID":"v","volumeName":"projects","mountPath":"/a","flags":["ro"],"rights":"rw","uid":7,"last4":"wxyz","state":"active","createdAt":"1970-01-01T00:00:00Z"}"#
        );
        let account = v1::Token {
            id: "i".into(),
            kind: "account".into(),
            role: "owner".into(),
            ..v1::Token::default()
        };
        let text = serde_json::to_string(&TokenView::from(account)).unwrap();
        assert_eq!(text, r#"{"id":"i","kind":"account","role":"owner","last4":"","state":""}"#);
    }

    #[test]
    fn a_volume_token_without_flags_has_an_empty_list() {
        let token = v1::Token { flag_names: Vec::new(), ..volume_token() };
        assert!(serde_json::to_string(&TokenView::from(token)).unwrap().contains(r#""flags":[]"#));
    }

    #[test]
    fn a_cell_per_column() {
        let view = TokenView::from(volume_token());
        assert_eq!(view.cells().len(), TokenView::COLUMNS.len());
        assert_eq!(view.target(), "projects:/a");
        assert_eq!(view.restrictions(), "ro,uid=7");
    }

    #[test]
    fn what_is_handed_out_has_two_keys() {
        let token = Token::generate(TokenKind::Volume).unwrap();
        let view = TokenView::from(v1::Token { id: token.id().to_string(), ..volume_token() });
        let json = serde_json::to_value(HandedOut::new(&view, &token)).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 2);
        assert_eq!(json["token"], token.reveal());
    }
}
