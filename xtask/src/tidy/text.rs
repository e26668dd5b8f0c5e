//! What may stand in one file only, and words that say nothing.

use super::{Source, exceptions};
use crate::Result;

/// A piece of code that belongs to one place.
struct Confined {
    needle: &'static str,
    home: &'static str,
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        needle: "tonic::Code",
        home: "common/src/status.rs",
        why: "gRPC codes follow from ours in one file",
    },
    Confined {
        needle: "libc::E",
        home: "mount/src/errno.rs",
        why: "errno follows from our codes in one file",
    },
    Confined {
        needle: "Errno::",
        home: "mount/src/errno.rs",
        why: "errno follows from our codes in one file",
    },
];

/// Words that say nothing in the name of a type.
const EMPTY_WORDS: &[&str] = &["Manager", "Helper", "Util"];
const PRINTING: &[&str] = &["println!", "print!(", "io::stdout("];

/// Findings over the code of all programs (tests and xtask may do as they
/// like).
pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let allowed = exceptions("confined.txt")?;
    let is_allowed =
        |path: &str, word: &str| allowed.iter().any(|(p, r)| p == path && r.starts_with(word));
    for (path, _) in &allowed {
        if !sources.iter().any(|source| source.path == *path) {
            findings.push(format!("xtask/tidy/confined.txt: {path} is gone; remove it"));
        }
    }
    let programs = sources.iter().filter(|s| s.is_rust() && !s.is_test());
    for source in
        programs.filter(|s| !s.path.starts_with("xtask/") && !s.path.ends_with("build.rs"))
    {
        let path = &source.path;
        for (number, line) in source.code_lines() {
            for Confined { needle, home, why } in CONFINED {
                if line.contains(needle) && path != home && !is_allowed(path, needle) {
                    findings.push(format!("{path}:{number}: `{needle}` belongs in {home}: {why}"));
                }
            }
            let prints = PRINTING.iter().any(|needle| line.contains(needle));
            if prints && !path.ends_with("/output.rs") && !is_allowed(path, "printing") {
                findings.push(format!("{path}:{number}: printing belongs in the output.rs"));
            }
            if let Some(name) = type_name(line)
                && EMPTY_WORDS.iter().any(|word| name.contains(word))
                && !is_allowed(path, name)
            {
                findings.push(format!("{path}:{number}: `{name}`: a word that says nothing"));
            }
        }
    }
    Ok(findings)
}

/// The name of the type that a line declares.
fn type_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
    if !matches!(words.next()?, "struct" | "enum" | "trait" | "type") {
        return None;
    }
    words.next()?.split(|c: char| !c.is_alphanumeric()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_are_recognised() {
        assert_eq!(type_name("pub(crate) struct LockManager<T> {"), Some("LockManager"));
        assert_eq!(type_name("    enum X {"), Some("X"));
        assert_eq!(type_name("let structure = 1;"), None);
    }

    #[test]
    fn an_errno_outside_its_file_is_found() {
        let source = |path: &str| Source {
            path: path.to_owned(),
            text: "fn f() -> i32 { libc::EIO }\n".to_owned(),
        };
        let findings = check(&[source("meta/src/x.rs"), source("mount/src/errno.rs")]).unwrap();
        let about: Vec<_> = findings.iter().filter(|f| !f.contains("is gone")).collect();
        assert_eq!(about.len(), 1, "{findings:?}");
    }
}
