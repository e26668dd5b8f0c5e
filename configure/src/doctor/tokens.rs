//! What is to be seen to among the tokens: too old, ending soon, a rotation
//! that nobody finished.

use flexfs_common::{Result, wire};
use flexfs_proto::v1;
use jiff::Timestamp;

use super::Check;
use super::remote::{SOON, days};
use crate::bulk::few;
use crate::cut::count;
use crate::inventory::Inventory;
use crate::run::Session;
use crate::view::short;

/// Rotations that are looked at, each by a call.
const ROTATIONS_MAX: usize = 100;

/// The age policy and coming ends.
pub(super) fn examine(inventory: &Result<Inventory>, now: Timestamp, checks: &mut Vec<Check>) {
    checks.push(Check::of("agePolicy", inventory, |found| overdue(&found.tokens)));
    checks.push(Check::of("expiry", inventory, |found| ending(&found.tokens, now)));
}

fn overdue(tokens: &[v1::Token]) -> Check {
    let names: Vec<_> = tokens.iter().filter(|token| token.overdue).map(named).collect();
    if names.is_empty() {
        let seen = count(tokens.len(), "active token");
        return Check::good("agePolicy", format!("none of {seen} is past its account's policy"));
    }
    let found = count(names.len(), "token");
    let detail = format!("{found} past the account's policy: {}", few(&names));
    Check::bad("agePolicy", detail, "`configure.flexfs rotate` gives each a new secret.")
}

fn ending(tokens: &[v1::Token], now: Timestamp) -> Check {
    let soon = |token: &&v1::Token| {
        let end = token.expires_at.and_then(|at| wire::timestamp_from_wire(&at).ok());
        end.is_some_and(|end| end.duration_since(now) <= SOON)
    };
    let names: Vec<_> = tokens.iter().filter(soon).map(named).collect();
    let within = format!("within {} days", days(SOON));
    if names.is_empty() {
        return Check::good("expiry", format!("no active token ends {within}"));
    }
    let found = count(names.len(), "active token");
    let verb = if names.len() == 1 { "ends" } else { "end" };
    let detail = format!("{found} {verb} {within}: {}", few(&names));
    Check::bad("expiry", detail, "`configure.flexfs update …-token ID --expires T` extends one.")
}

fn named(token: &v1::Token) -> String {
    format!("{} {}", token.kind, token.id)
}

/// Rotations that should be over.
pub(super) fn examine_rotations(
    session: &Session,
    inventory: &Result<Inventory>,
    now: Timestamp,
) -> Check {
    Check::of("rotations", inventory, |found| {
        let open = found.tokens.iter().filter(|token| token.live_secrets > 1).take(ROTATIONS_MAX);
        let open = open.map(|token| rotation(session, token)).collect::<Result<Vec<_>>>();
        Check::of("rotations", &open, |open| rotations(open, now))
    })
}

fn rotation(session: &Session, token: &v1::Token) -> Result<v1::Rotation> {
    let request = v1::GetTokenRequest {
        kind: token.kind.clone(),
        id: token.id.clone(),
        account_id: match token.kind.as_str() {
            // Those of metadata servers are the installation's.
            "meta" => String::new(),
            _ => token.account_id.clone(),
        },
    };
    let mut rotation = session.ask(|mut admin| async move { admin.get_rotation(request).await })?;
    rotation.token.get_or_insert_with(|| token.clone());
    Ok(rotation)
}

/// An earlier secret that still lives and has no end, or one that has passed.
fn is_left_open(rotation: &v1::Rotation, now: Timestamp) -> bool {
    let earlier = rotation.secrets.split_last().map_or(&[][..], |(_newest, earlier)| earlier);
    earlier.iter().filter(|secret| secret.state != "ended").any(|secret| {
        let end = secret.expires_at.and_then(|at| wire::timestamp_from_wire(&at).ok());
        end.is_none_or(|end| end < now)
    })
}

fn rotations(open: &[v1::Rotation], now: Timestamp) -> Check {
    let names = |rotations: &mut dyn Iterator<Item = &v1::Rotation>| -> Vec<String> {
        rotations.filter_map(|rotation| rotation.token.as_ref()).map(named).collect()
    };
    let left = names(&mut open.iter().filter(|rotation| is_left_open(rotation, now)));
    if left.is_empty() {
        return Check::good(
            "rotations",
            match open {
                [] => "none is open".to_owned(),
                [one] => format!("one is open{}", until(one)),
                several => format!("{} are open, each within its overlap", several.len()),
            },
        );
    }
    let detail = format!("left open beyond their overlap: {}", few(&left));
    let hint = "`configure.flexfs rotation status ID` shows who uses what, `rotation finish ID` \
                ends it.";
    Check::bad("rotations", detail, hint)
}

/// When the last earlier secret of a rotation ends.
fn until(rotation: &v1::Rotation) -> String {
    let earlier = rotation.secrets.split_last().map_or(&[][..], |(_newest, earlier)| earlier);
    let ends = earlier.iter().filter(|secret| secret.state != "ended");
    let last = ends
        .filter_map(|secret| secret.expires_at)
        .filter_map(|at| wire::timestamp_from_wire(&at).ok())
        .max();
    last.map(|at| format!(" until {}", short(Some(&at.to_string())))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn token(id: &str, ends_in_days: Option<i64>) -> v1::Token {
        let at = |days: i64| v1::Timestamp { seconds: 1_000_000 + days * 86_400, nanos: 0 };
        v1::Token {
            id: id.into(),
            kind: "volume".into(),
            expires_at: ends_in_days.map(at),
            ..v1::Token::default()
        }
    }

    #[test]
    fn tokens_that_end_soon_are_listed() {
        assert!(ending(&[token("a", None), token("b", Some(15))], now()).ok);
        let bad = ending(&[token("a", Some(3)), token("b", Some(90))], now());
        assert!(!bad.ok);
        assert_eq!(bad.detail, "1 active token ends within 14 days: volume a");
    }

    #[test]
    fn tokens_past_the_policy_are_listed() {
        assert!(overdue(&[token("a", None)]).ok);
        let old = v1::Token { overdue: true, ..token("b", None) };
        let bad = overdue(&[token("a", None), old]);
        assert!(!bad.ok && bad.detail.ends_with("policy: volume b"), "{bad:?}");
    }

    fn open(state: &str, ends_in_days: Option<i64>) -> v1::Rotation {
        let secret = |state: &str, end: Option<i64>| v1::Secret {
            state: state.into(),
            expires_at: token("", end).expires_at,
            ..v1::Secret::default()
        };
        v1::Rotation {
            token: Some(token("t", None)),
            secrets: vec![secret(state, ends_in_days), secret("live", None)],
        }
    }

    #[test]
    fn a_rotation_beyond_its_overlap_is_a_finding() {
        assert!(rotations(&[], now()).ok);
        let within = rotations(&[open("ending", Some(1))], now());
        assert!(within.ok && within.detail.contains("until 1970-01-13T"), "{within:?}");
        assert!(rotations(&[open("ended", None)], now()).ok);
        for left in [open("live", None), open("ending", Some(-1))] {
            let bad = rotations(&[left], now());
            assert!(!bad.ok && bad.detail.ends_with("volume t"), "{bad:?}");
        }
    }
}
