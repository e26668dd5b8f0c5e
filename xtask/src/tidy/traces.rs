//! What must never be committed: tokens, and paths of somebody's machine.

use super::{Source, exceptions};
use crate::Result;

/// Prefixes of real tokens and the length of what follows.
const PREFIXES: &[&str] = &["flxa_", "flxv_", "flxm_", "flxw_"];
/// 22 digits of the id, an underscore, 49 of secret and checksum.
const REST_LEN: usize = 72;
/// Beginnings of paths that exist on one developer's machine only.
const MACHINE_PATHS: &[&str] = &["/home/", "/Users/", concat!("/wo", "rk/")];

/// Every file of text is looked at, not only code.
pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let allowed = exceptions("traces.txt")?;
    for source in sources.iter().filter(|s| !s.path.starts_with("xtask/src/tidy/")) {
        if allowed.iter().any(|(path, _)| *path == source.path) {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, index + 1);
            if has_token(line) {
                findings.push(format!("{place}: looks like a real token"));
            }
            if let Some(path) = MACHINE_PATHS.iter().find(|path| has_path(line, path)) {
                findings.push(format!("{place}: `{path}…` is a path of one machine"));
            }
        }
    }
    Ok(findings)
}

/// Does a path in the line begin so? (`$X/home/` begins elsewhere.)
fn has_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default().chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '}' | '.' | '_' | '-' | '~'))
    })
}

/// Does the line hold something of a token's form, whose secret is not one
/// repeated character (as in documents)?
fn has_token(line: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        line.match_indices(prefix).any(|(at, _)| {
            let rest = line.get(at + prefix.len()..).unwrap_or_default();
            let Some(rest) = rest.get(..REST_LEN) else { return false };
            let Some((id, secret)) = rest.split_once('_') else { return false };
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
            let first = secret.chars().next();
            let repeated = secret.chars().take(40).all(|c| Some(c) == first);
            id.len() == 22 && digits(id) && digits(secret) && !repeated
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_where_it_begins() {
        assert!(has_path("see `/home/me/x`", "/home/"));
        assert!(!has_path("cat $PWD/home/x", "/home/"));
    }

    #[test]
    fn a_token_is_found_and_a_placeholder_is_not() {
        let id = "0123456789abcdefghijkl";
        let secret = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklm";
        assert!(has_token(&format!("token = \"flxv_{id}_{secret}\"")));
        assert!(!has_token(&format!("flxv_{id}_{}", "x".repeat(49))));
        assert!(!has_token("flxv_short"));
    }
}
