//! `revoke`: the revocation stands when admin answers; `--wait` also waits
//! until every metadata server has cut the token's sessions.

use std::time::Duration;

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result, duration, limits};
use flexfs_proto::v1;
use serde::Serialize;

use crate::client;
use crate::run::Session;

/// `revoke …-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs revoke volume-token 0b6f8a52 --wait \
                  --reason \"laptop stolen\"")]
pub(crate) struct Arguments {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    /// Wait until every metadata server has acknowledged it, at most so long (30s, up to 60s)
    #[arg(
        long = "wait",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_name = "SPAN",
        value_parser = wait_of
    )]
    wait: Option<Duration>,
    /// Why, for the audit log
    #[arg(long = "reason", default_value = "", value_name = "S")]
    reason: String,
}

/// What became of a revocation.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Revoked {
    id: String,
    revision: u64,
    sessions_cut: u32,
    metas: Vec<Meta>,
}

/// One metadata server's part in it.
#[derive(Serialize, Debug)]
struct Meta {
    id: String,
    acknowledged: bool,
    millis: u32,
}

impl From<v1::RevokeReply> for Revoked {
    fn from(reply: v1::RevokeReply) -> Revoked {
        let meta = |meta: v1::RevokeMeta| Meta {
            id: meta.id,
            acknowledged: meta.acknowledged,
            millis: meta.millis,
        };
        Revoked {
            id: reply.id,
            revision: reply.revision,
            sessions_cut: reply.sessions_cut,
            metas: reply.metas.into_iter().map(meta).collect(),
        }
    }
}

impl Revoked {
    /// For people.
    fn sentence(&self, waited: bool) -> String {
        if !waited {
            return format!("token {} revoked (revision {})", self.id, self.revision);
        }
        let servers = self.metas.iter().filter(|meta| meta.acknowledged).count();
        format!(
            "{} on {} disconnected",
            count(usize::try_from(self.sessions_cut).unwrap_or(usize::MAX), "mount"),
            count(servers, "server")
        )
    }

    /// The servers that have not answered, as an error.
    fn laggards(&self) -> Result<()> {
        let names: Vec<_> = self
            .metas
            .iter()
            .filter(|meta| !meta.acknowledged)
            .map(|meta| crate::output::clean(&meta.id))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Code::RevokeLaggards,
            format!("the revocation stands; not acknowledged by {}", names.join(", ")),
        ))
    }
}

/// `1 mount`, `2 mounts`.
fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("{number} {noun}") } else { format!("{number} {noun}s") }
}

/// `--wait=SPAN`
fn wait_of(text: &str) -> Result<Duration> {
    let wait = duration::parse_span(text)?;
    if wait.is_zero() || wait > limits::REVOKE_WAIT_MAX {
        let most = limits::REVOKE_WAIT_MAX.as_secs();
        return Err(Error::new(Code::ArgumentInvalid, format!("from 1ms to {most}s")));
    }
    Ok(wait)
}

/// `revoke …-token`
pub(crate) fn token(session: &Session, kind: TokenKind, arguments: &Arguments) -> Result<()> {
    let wait = arguments.wait.unwrap_or_default();
    let request = v1::RevokeTokenRequest {
        kind: kind.name().to_owned(),
        id: arguments.id.clone(),
        account_id: session.globals.account(),
        reason: arguments.reason.clone(),
        wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
    };
    let limit = client::LIMIT + wait;
    let reply =
        session.ask_within(limit, |mut admin| async move { admin.revoke_token(request).await })?;
    let revoked = Revoked::from(reply);
    session.output.done(&revoked.sentence(!wait.is_zero()), &revoked.id, &revoked)?;
    if wait.is_zero() { Ok(()) } else { revoked.laggards() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(acknowledged: &[bool]) -> Revoked {
        let metas = acknowledged
            .iter()
            .enumerate()
            .map(|(i, acknowledged)| v1::RevokeMeta {
                id: format!("m{i}"),
                acknowledged: *acknowledged,
                millis: 5,
            })
            .collect();
        Revoked::from(v1::RevokeReply { id: "t".into(), revision: 9, sessions_cut: 3, metas })
    }

    #[test]
    fn the_sentence_and_the_object_are_those_of_the_contract() {
        let two = revoked(&[true, true]);
        assert_eq!(two.sentence(true), "3 mounts on 2 servers disconnected");
        assert_eq!(
            serde_json::to_string(&revoked(&[true])).unwrap(),
            r#"{"id":"t","revision":9,"sessionsCut":3,"metas":[{"id":"m0","acknowledged":true,"millis":5}]}"#
        );
        let one = Revoked { sessions_cut: 1, ..revoked(&[true]) };
        assert_eq!(one.sentence(true), "1 mount on 1 server disconnected");
        assert_eq!(one.sentence(false), "token t revoked (revision 9)");
    }

    #[test]
    fn laggards_are_named() {
        assert!(revoked(&[true]).laggards().is_ok());
        assert!(revoked(&[]).laggards().is_ok());
        let error = revoked(&[true, false, false]).laggards().unwrap_err();
        assert_eq!(error.code(), Code::RevokeLaggards);
        assert!(error.message().ends_with("m1, m2"), "{}", error.message());
    }
}
