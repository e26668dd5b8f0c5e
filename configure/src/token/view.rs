//! How a token is shown.

use flexfs_auth::token::TokenKind;
use flexfs_proto::v1;
use serde::Serialize;

use crate::output::{Column, View, column, wide};
use crate::view::{self, cell, number, short, text, time};

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
    revoke_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_secrets: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    overdue: bool,
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
            revoke_reason: text(token.revoke_reason),
            disabled_at: time(token.disabled_at.as_ref()),
            claim_expires_at: time(token.claim_expires_at.as_ref()),
            idle_seconds: number(token.idle_seconds),
            created_by: text(token.created_by),
            live_secrets: (token.live_secrets != 0).then_some(token.live_secrets),
            rotated_at: time(token.rotated_at.as_ref()),
            last_used_from: text(token.last_used_from),
            last_used_host: text(token.last_used_host),
            uses: number(token.uses),
            overdue: token.overdue,
            notes: text(token.notes),
            kind: token.kind,
        }
    }
}

impl TokenView {
    /// When the code it was made with ends, while that is not redeemed.
    pub(crate) fn claim_expires_at(&self) -> Option<&str> {
        self.claim_expires_at.as_deref()
    }

    /// What the token is for, in one word: volume and path, role, or store.
    pub(crate) fn target(&self) -> String {
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
        wide("DISABLED"),
        wide("CLAIMUNTIL"),
        wide("IDLE"),
        wide("ROTATED"),
        wide("SECRETS"),
        wide("OVERDUE"),
        wide("USES"),
        wide("LASTUSEDHOST"),
        wide("LASTUSEDFROM"),
        wide("CREATEDBY"),
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
            short(self.disabled_at.as_deref()),
            short(self.claim_expires_at.as_deref()),
            self.idle_seconds.map(view::span).unwrap_or_default(),
            short(self.rotated_at.as_deref()),
            self.live_secrets.map(|n| n.to_string()).unwrap_or_default(),
            if self.overdue { "yes".to_owned() } else { String::new() },
            self.uses.map(|n| n.to_string()).unwrap_or_default(),
            cell(self.last_used_host.as_ref()),
            cell(self.last_used_from.as_ref()),
            cell(self.created_by.as_ref()),
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
    fn the_life_of_a_token_is_shown_as_far_as_there_is_one() {
        let at = |seconds| Some(v1::Timestamp { seconds, nanos: 0 });
        let token = v1::Token {
            idle_seconds: 7 * 86_400,
            live_secrets: 2,
            rotated_at: at(60),
            last_used_host: "node1".into(),
            uses: 7,
            overdue: true,
            claim_expires_at: at(120),
            ..volume_token()
        };
        let view = TokenView::from(token);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["idleSeconds"], 7 * 86_400);
        assert_eq!(json["liveSecrets"], 2);
        assert_eq!(json["rotatedAt"], "1970-01-01T00:01:00Z");
        assert_eq!((&json["lastUsedHost"], &json["uses"]), (&"node1".into(), &7.into()));
        assert_eq!(json["overdue"], true);
        let cell = |heading: &str| {
            let at = TokenView::COLUMNS.iter().position(|c| c.heading == heading).unwrap();
            view.cells().swap_remove(at)
        };
        assert_eq!((cell("IDLE").as_str(), cell("OVERDUE").as_str()), ("7d", "yes"));
        assert_eq!(cell("LASTUSEDHOST"), "node1");
    }

    #[test]
    fn a_cell_per_column() {
        let view = TokenView::from(volume_token());
        assert_eq!(view.cells().len(), TokenView::COLUMNS.len());
        assert_eq!(view.target(), "projects:/a");
        assert_eq!(view.restrictions(), "ro,uid=7");
    }
}
