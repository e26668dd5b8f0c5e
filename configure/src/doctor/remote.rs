//! What admin says: whether it is there, about the token in use, and about
//! the metadata servers.

use std::time::Duration;

use flexfs_common::{Error, Kind, Result, clock, wire};
use flexfs_proto::v1;
use jiff::{SignedDuration, Timestamp};

use super::{Check, tokens};
use crate::bulk::few;
use crate::client;
use crate::cut::count;
use crate::inventory::Inventory;
use crate::run::Session;
use crate::view::short;

/// The header says whole seconds, and an answer takes its time; beyond this,
/// spans like `--expires 8s` are not what they seem.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
/// A token that ends within this time is to be seen to.
pub(super) const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Revisions that a connected server may be behind: what a busy moment makes.
const LAG_MAX: u64 = 100;

/// admin's answer to `whoami`, and when.
struct Answer {
    who: v1::WhoAmIReply,
    admin_clock: Option<Timestamp>,
    /// Half-way between question and answer.
    here: Timestamp,
}

/// All checks that need admin, as far as they can be made.
pub(super) fn examine(session: &Session, checks: &mut Vec<Check>) {
    let answer = ask(session);
    let away = |error: &&Error| {
        matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::Unsupported)
    };
    if let Some(error) = answer.as_ref().err().filter(away) {
        checks.push(Check::failed("admin", error));
        return;
    }
    let status = answer.as_ref().ok().map(|_| {
        session.ask(|mut admin| async move { admin.get_status(v1::GetStatusRequest {}).await })
    });
    checks.push(admin(status.as_ref()));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            checks.push(Check::good("clock", "not told to a token that is refused"));
            checks.push(Check::failed("token", &error));
            return;
        }
    };
    checks.push(clocks(answer.admin_clock, answer.here));
    checks.push(token(&answer.who, answer.here));
    let inventory = Inventory::take(session, "active");
    tokens::examine(&inventory, answer.here, checks);
    if let Some(status) = status {
        checks.push(Check::of("metas", &status, metas));
    }
    checks.push(tokens::examine_rotations(session, &inventory, answer.here));
}

fn ask(session: &Session) -> Result<Answer> {
    let access = session.access()?;
    let sent = clock::wall_now();
    let call = client::whole_answer(
        &access.peer,
        &access.token.value,
        client::LIMIT,
        |mut admin| async move { admin.who_am_i(v1::WhoAmIRequest {}).await },
    );
    let response = client::runtime()?.block_on(call)?;
    let half = clock::wall_now().duration_since(sent) / 2;
    let date = response.metadata().get("date").and_then(|date| date.to_str().ok());
    let admin_clock = date.and_then(http_date);
    Ok(Answer {
        admin_clock,
        here: sent.saturating_add(half).unwrap_or(sent),
        who: response.into_inner(),
    })
}

/// RFC 9110 section 5.6.7.
fn http_date(text: &str) -> Option<Timestamp> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    // It was somewhere within that second.
    parsed.checked_add(SignedDuration::from_millis(500)).ok()
}

fn admin(status: Option<&Result<v1::GetStatusReply>>) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    match status {
        Some(Ok(reply)) if reply.version == own => {
            Check::good("admin", format!("reachable, version {own}, {}", reply.database))
        }
        Some(Ok(reply)) => Check::good(
            "admin",
            format!("reachable, version {}, {}; this is {own}", reply.version, reply.database),
        ),
        // Why it did not say more is told by the next checks.
        Some(Err(_)) | None => Check::good("admin", "reachable; its version is not shown"),
    }
}

fn clocks(admin: Option<Timestamp>, here: Timestamp) -> Check {
    let Some(admin) = admin else { return Check::good("clock", "admin does not tell its clock") };
    let ahead = here.duration_since(admin);
    let seconds = ahead.abs().as_secs();
    let detail = match ahead.abs() <= CLOCK_TOLERANCE {
        true => return Check::good("clock", format!("within {seconds} s of admin's")),
        false if ahead.is_positive() => format!("{seconds} s ahead of admin's"),
        false => format!("{seconds} s behind admin's"),
    };
    Check::bad("clock", detail, "Ends of tokens given as spans are off by that: set the clocks.")
}

fn token(who: &v1::WhoAmIReply, now: Timestamp) -> Check {
    let role = format!("accepted: account {}, role {}", who.account_name, who.role);
    let end = who.expires_at.and_then(|at| wire::timestamp_from_wire(&at).ok());
    let Some(end) = end else { return Check::good("token", format!("{role}, no end")) };
    let detail = format!("{role}, ends {}", short(Some(&end.to_string())));
    if end.duration_since(now) > SOON {
        return Check::good("token", detail);
    }
    let id = &who.token_id;
    let hint =
        format!("`configure.flexfs update account-token {id} --expires T` gives a later end");
    Check::bad("token", detail, hint)
}

fn metas(status: &v1::GetStatusReply) -> Check {
    let lag =
        |server: &v1::MetaServer| status.feed_revision.saturating_sub(server.acknowledged_revision);
    let named = |server: &v1::MetaServer| format!("{} ({})", server.meta_store_id, server.id);
    let away: Vec<_> = status.servers.iter().filter(|s| !s.connected).map(named).collect();
    let behind = status.servers.iter().filter(|s| s.connected && lag(s) > LAG_MAX);
    let behind: Vec<_> = behind.map(|s| format!("{}, {} revisions", named(s), lag(s))).collect();
    if status.servers.is_empty() {
        return Check::good("metas", "no server has registered");
    }
    if away.is_empty() && behind.is_empty() {
        let most = status.servers.iter().map(lag).max().unwrap_or(0);
        let servers = count(status.servers.len(), "server");
        return Check::good("metas", format!("{servers}, all connected, at most {most} behind"));
    }
    let mut found = Vec::new();
    for (names, what) in [(&away, "not connected"), (&behind, "behind the feed")] {
        if !names.is_empty() {
            found.push(format!("{what}: {}", few(names)));
        }
    }
    let hint = "`meta.flexfs status` on that host; revocations reach it only when it follows.";
    Check::bad("metas", found.join("; "), hint)
}

/// A span for people.
pub(super) fn days(span: SignedDuration) -> u64 {
    Duration::try_from(span).unwrap_or_default().as_secs() / 86_400
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        let expected = at("1994-11-06T08:49:37.5Z");
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(expected));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn clocks_that_differ_are_named_with_their_direction() {
        let here = at("2026-01-01T00:01:00Z");
        assert!(clocks(None, here).ok);
        assert!(clocks(Some(at("2026-01-01T00:00:57Z")), here).ok);
        let ahead = clocks(Some(at("2026-01-01T00:00:00Z")), here);
        assert!(!ahead.ok && ahead.detail == "60 s ahead of admin's", "{ahead:?}");
        let behind = clocks(Some(at("2026-01-01T00:02:30Z")), here);
        assert!(!behind.ok && behind.detail == "90 s behind admin's", "{behind:?}");
    }

    #[test]
    fn a_token_that_ends_soon_is_a_finding() {
        let now = at("2026-01-01T00:00:00Z");
        let who = |end: Option<&str>| v1::WhoAmIReply {
            token_id: "i".into(),
            expires_at: end.map(|end| wire::timestamp_to_wire(at(end))),
            ..v1::WhoAmIReply::default()
        };
        assert!(token(&who(None), now).ok);
        assert!(token(&who(Some("2026-02-01T00:00:00Z")), now).ok);
        let soon = token(&who(Some("2026-01-10T00:00:00Z")), now);
        assert!(!soon.ok && soon.hint.contains("update account-token i"), "{soon:?}");
    }

    #[test]
    fn servers_that_are_away_or_behind_are_named() {
        let server = |id: &str, connected, acknowledged_revision| v1::MetaServer {
            id: id.into(),
            meta_store_id: "here".into(),
            connected,
            acknowledged_revision,
            ..v1::MetaServer::default()
        };
        let status = |servers| v1::GetStatusReply {
            feed_revision: 500,
            servers,
            ..v1::GetStatusReply::default()
        };
        assert!(metas(&status(vec![])).ok);
        assert!(metas(&status(vec![server("a", true, 499)])).ok);
        let bad = metas(&status(vec![server("a", false, 500), server("b", true, 9)]));
        assert!(!bad.ok && bad.detail.contains("not connected: here (a)"), "{bad:?}");
        assert!(bad.detail.contains("here (b), 491 revisions"), "{bad:?}");
    }

    #[test]
    fn versions_that_differ_are_told() {
        let reply = |version: &str| {
            Ok(v1::GetStatusReply { version: version.into(), ..v1::GetStatusReply::default() })
        };
        assert!(!admin(Some(&reply(env!("CARGO_PKG_VERSION")))).detail.contains("this is"));
        assert!(admin(Some(&reply("9.9.9"))).detail.contains("this is"));
        assert!(admin(None).ok);
    }
}
