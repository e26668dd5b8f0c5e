//! `docs/cve-classes.md` names the test that shows each class: it exists.

use super::Source;

const DOCUMENT: &str = "docs/cve-classes.md";

/// Findings: a file or a function named there that is not there, and a row
/// that names neither a test nor why there is none.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let Some(document) = sources.iter().find(|source| source.path == DOCUMENT) else {
        return vec![format!("{DOCUMENT} is gone")];
    };
    let mut findings = Vec::new();
    for (index, line) in document.text.lines().enumerate().filter(|(_, line)| is_row(line)) {
        let place = format!("{DOCUMENT}:{}", index + 1);
        let mut named = 0;
        for (path, function) in tests_of(line) {
            named += 1;
            match sources.iter().find(|source| source.path == path) {
                None => findings.push(format!("{place}: there is no {path}")),
                Some(source) if !has_test(&source.text, function) => {
                    findings.push(format!("{place}: {path} has no test `{function}`"));
                }
                Some(_) => {}
            }
        }
        let excused = ["not applicable:", "not built:"].iter().any(|word| line.contains(word));
        if named == 0 && !excused {
            findings.push(format!("{place}: neither a test nor why there is none"));
        }
    }
    findings
}

/// A row of the table that is about a number.
fn is_row(line: &str) -> bool {
    let cell = line.strip_prefix('|').and_then(|rest| rest.split('|').next());
    cell.is_some_and(|cell| cell.trim().parse::<u32>().is_ok())
}

/// What stands as `path.rs::function` in backquotes.
fn tests_of(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|word| {
        let (path, function) = word.split_once("::")?;
        path.ends_with(".rs").then_some((path, function))
    })
}

/// Is there a function of this name below an attribute of a test?
fn has_test(text: &str, function: &str) -> bool {
    text.match_indices(&format!("fn {function}(")).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let above = before.rsplit("\n\n").next().unwrap_or_default();
        ["#[test]", "#[tokio::test", "proptest! {"].iter().any(|mark| above.contains(mark))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(row: &str) -> usize {
        let source =
            |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let code = "fn helper() {}\n\n#[test]\nfn it_holds() {}\n\n#[tokio::test]\nasync fn so_does_it() {}\n";
        check(&[source(DOCUMENT, row), source("a/b.rs", code)]).len()
    }

    #[test]
    fn a_named_test_that_is_gone_is_found() {
        assert_eq!(findings("| 1 | x | `a/b.rs::it_holds`, `a/b.rs::so_does_it` |\n"), 0);
        assert_eq!(findings("| 1 | x | `a/b.rs::it_hold` |\n"), 1);
        assert_eq!(findings("| 1 | x | `a/b.rs::helper` |\n"), 1, "not a test");
        assert_eq!(findings("| 1 | x | `a/c.rs::it_holds` |\n"), 1);
        assert_eq!(findings("| 1 | x | nothing |\n"), 1);
        assert_eq!(findings("| 1 | x | not applicable: no such thing |\n"), 0);
        assert_eq!(findings("| number | class |\n|---|---|\n"), 0);
    }
}
