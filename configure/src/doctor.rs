//! `doctor`: looks at everything that makes commands fail, or soon will, in
//! the order in which things build on each other.

use std::fmt::Write;

use flexfs_common::{Error, Kind, Result};
use serde::Serialize;

use crate::cut::count;
use crate::output::clean;
use crate::run::{Ending, Session};
use crate::settings::{Place, Settings};

mod remote;
mod tokens;

/// One finding.
#[derive(Serialize, Debug)]
pub(crate) struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    hint: String,
}

/// All of them, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checks<'a> {
    items: &'a [Check],
    next_page: Option<&'a str>,
}

impl Check {
    fn good(check: &'static str, detail: impl Into<String>) -> Check {
        Check { check, ok: true, detail: detail.into(), hint: String::new() }
    }

    fn bad(check: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { check, ok: false, detail: detail.into(), hint: hint.into() }
    }

    fn failed(check: &'static str, error: &Error) -> Check {
        let detail = format!("error[{}]: {}", error.code(), error.with_causes());
        Check::bad(check, detail, error.hint())
    }

    /// What an outcome says; what the role may not see is no failure.
    fn of<T>(check: &'static str, outcome: &Result<T>, look: impl FnOnce(&T) -> Check) -> Check {
        match outcome {
            Ok(found) => look(found),
            Err(error) if error.kind() == Kind::Denied => {
                Check::good(check, "not shown to the role of the token in use")
            }
            Err(error) => Check::failed(check, error),
        }
    }
}

/// Those that need admin.
const REMOTE: [&str; 7] = ["admin", "clock", "token", "agePolicy", "expiry", "metas", "rotations"];

/// `doctor`
pub(crate) fn examine(session: &Session) -> Result<Ending> {
    let mut checks = Vec::new();
    if local(session, &mut checks) {
        remote::examine(session, &mut checks);
    }
    for name in REMOTE {
        if !checks.iter().any(|check| check.check == name) {
            checks.push(Check::bad(name, "not checked: what comes before it fails", ""));
        }
    }
    let failed = checks.iter().filter(|check| !check.ok).count();
    session.output.text(text(&checks).trim_end(), &Checks { items: &checks, next_page: None })?;
    if failed == 0 {
        return Ok(Ending::Done);
    }
    let verb = if failed == 1 { "fails" } else { "fail" };
    session.output.remark(&format!("{} of {} {verb}", failed, count(checks.len(), "check")));
    Ok(Ending::Findings)
}

/// What can be known without asking anybody. False = nobody can be asked.
fn local(session: &Session, checks: &mut Vec<Check>) -> bool {
    let place = Settings::new(&session.globals).and_then(|settings| settings.place());
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            checks.push(Check::failed("configuration", &error));
            let unread = "not read: the configuration comes first";
            checks.push(Check::bad("credentials", unread, ""));
            return false;
        }
    };
    match session.access() {
        Ok(access) => {
            checks.push(Check::good("configuration", configuration(&place, &access.token.source)));
            // Whoever could be read was safe to read: others are refused.
            checks.push(Check::good(
                "credentials",
                match &access.keeper {
                    Some(keeper) => format!("{} is private", keeper.place()),
                    None => format!("the token comes from {}", access.token.source),
                },
            ));
            true
        }
        Err(error) => {
            checks.push(Check::good("configuration", configuration(&place, "see below")));
            checks.push(Check::failed("credentials", &error));
            false
        }
    }
}

fn configuration(place: &Place, token_source: &str) -> String {
    let admin = &place.admin_addr;
    format!("admin {} from {}; token from {token_source}", admin.value, admin.source)
}

/// A line per check, and its hint below.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { check, ok, detail, hint } in checks {
        let mark = if *ok { '✓' } else { '✗' };
        // Writing to a String does not fail.
        let _ = writeln!(out, "{mark} {check:width$}  {}", clean(detail));
        if !hint.is_empty() {
            let _ = writeln!(out, "  {:width$}  hint: {}", "", clean(hint));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use flexfs_common::Code;

    use super::*;

    #[test]
    fn a_line_per_check_with_its_hint() {
        let checks = [
            Check::good("admin", "reachable"),
            Check::bad("clock", "9 s ahead\x1b[2J", "set the clock"),
        ];
        assert_eq!(
            text(&checks),
            "✓ admin  reachable\n✗ clock  9 s ahead\\u{1b}[2J\n         hint: set the clock\n"
        );
        let json = serde_json::to_value(Checks { items: &checks, next_page: None }).unwrap();
        assert_eq!(json["items"][1]["check"], "clock");
        assert_eq!(json["items"][1]["ok"], false);
        assert_eq!(json["items"][1]["hint"], "set the clock");
        assert!(json["nextPage"].is_null());
    }

    #[test]
    fn what_a_role_may_not_see_is_no_failure_and_an_error_is_one() {
        let of = |outcome: Result<()>| Check::of("metas", &outcome, |()| Check::good("metas", ""));
        assert!(of(Ok(())).ok);
        assert!(of(Err(Error::bare(Code::RoleForbidden))).ok);
        let failed = of(Err(Error::bare(Code::AdminUnreachable)));
        assert!(!failed.ok && failed.detail.contains("ADMIN_UNREACHABLE"));
        assert!(!failed.hint.is_empty());
    }
}
