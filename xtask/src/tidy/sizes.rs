//! How long a file may be.

use super::{Source, exceptions};
use crate::Result;

/// Non-blank lines of code outside tests, per file.
const CODE_MAX: usize = 600;
/// Non-blank lines of a test file.
const TEST_MAX: usize = 1000;

/// Files over their limit. The list of exceptions names a size each, which
/// may only go down.
pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let allowed = exceptions("sizes.txt")?;
    for (path, size) in &allowed {
        let Ok(size) = size.parse::<usize>() else {
            findings.push(format!("xtask/tidy/sizes.txt: {path}: `{size}` is not a number"));
            continue;
        };
        match sources.iter().find(|source| source.path == *path).map(lines) {
            None => findings.push(format!("xtask/tidy/sizes.txt: {path} is gone; remove it")),
            Some(now) if now > size => {
                findings.push(format!("{path}: {now} lines, grown beyond its exception of {size}"));
            }
            Some(now) if now < size => findings.push(format!(
                "xtask/tidy/sizes.txt: {path} has shrunk to {now}; lower its number or remove it"
            )),
            Some(_) => {}
        }
    }
    for source in sources.iter().filter(|source| source.is_rust()) {
        let limit = if source.is_test() { TEST_MAX } else { CODE_MAX };
        let now = lines(source);
        if now > limit && !allowed.iter().any(|(path, _)| *path == source.path) {
            findings.push(format!("{}: {now} lines of code, more than {limit}", source.path));
        }
    }
    Ok(findings)
}

fn lines(source: &Source) -> usize {
    source.code().lines().filter(|line| !line.trim().is_empty()).count()
}
