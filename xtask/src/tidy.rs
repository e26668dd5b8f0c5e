//! House rules that no compiler checks (STYLE.md). A rule nobody checks is a
//! wish. Exceptions lie in `xtask/tidy/`, each with its reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, errors, shell};

mod classes;
mod layers;
mod sizes;
mod text;
mod traces;

/// One source file of the repository.
pub(crate) struct Source {
    /// From the workspace's root.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Tests, benches and examples: not part of a program.
    fn is_test(&self) -> bool {
        let in_test_dir = self.path.split('/').any(|part| matches!(part, "tests" | "examples"));
        in_test_dir || self.path.ends_with("/tests.rs") || self.path.starts_with("bench/")
    }

    /// The text before its inline tests.
    fn code(&self) -> &str {
        let end = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        self.text.get(..end).unwrap_or_default()
    }

    /// Lines of code with their numbers, comments left out.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.code().lines().enumerate().map(|(index, line)| (index + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Checks everything and lists every finding.
pub(crate) fn run() -> Result {
    let sources = sources()?;
    let mut findings = layers::check()?;
    findings.extend(sizes::check(&sources)?);
    findings.extend(text::check(&sources)?);
    findings.extend(traces::check(&sources)?);
    findings.extend(classes::check(&sources));
    let written = fs::read_to_string(shell::root().join(errors::DOCUMENT)).unwrap_or_default();
    if written != errors::generated()? {
        findings.push(format!("{}: outdated; run `cargo xtask errors`", errors::DOCUMENT));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        eprintln!("tidy: {} files in order", sources.len());
        return Ok(());
    }
    Err(format!("tidy: {} findings", findings.len()).into())
}

/// Every file that git would commit, as far as it is text; all files outside
/// `target` where there is no git (a source archive).
fn sources() -> Result<Vec<Source>> {
    let root = shell::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let paths = match shell::capture(&mut git) {
        Ok(list) => list.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
        Err(_) => walk(&root)?,
    };
    let read = |path: String| {
        let text = String::from_utf8(fs::read(root.join(&path)).ok()?).ok()?;
        Some(Source { path, text })
    };
    Ok(paths.into_iter().filter_map(read).collect())
}

fn walk(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
                directories.push(path);
            } else if kind.is_file() {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A list of exceptions: `<first word> <rest>` per line, `#` for comments.
fn exceptions(name: &str) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(shell::root().join("xtask/tidy").join(name))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| match line.split_once(' ') {
        Some((path, reason)) if !reason.trim().is_empty() => {
            Ok((path.to_owned(), reason.trim().to_owned()))
        }
        _ => Err(format!("xtask/tidy/{name}: `{line}` has no reason").into()),
    };
    lines.map(split).collect()
}
