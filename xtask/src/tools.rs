//! Suites for file systems that no distribution packages, from crates.io into
//! `target/tools`, where the tests look for them. Built like the programs of
//! the workspace in debug: they wait for the file system, not for themselves.

use std::fs;

use crate::{Result, shell};

/// A crate and the one version of it that the tests are written for.
struct Tool {
    name: &'static str,
    version: &'static str,
}

const TOOLS: &[Tool] =
    &[Tool { name: "pjdfstest", version: "0.2.2" }, Tool { name: "fsx", version: "0.3.2" }];

/// Installs what is missing.
pub(crate) fn install() -> Result {
    let root = shell::root().join("target/tools");
    // Cargo's own record of what it installed there.
    let installed = fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    for Tool { name, version } in TOOLS {
        let recorded = installed.contains(&format!("\"{name} {version} "));
        if recorded && root.join("bin").join(name).is_file() {
            continue;
        }
        eprintln!("installing {name} {version}");
        let mut command = shell::cargo();
        command.args(["install", "--locked", "--debug", "--version", version, "--root"]);
        shell::run(command.arg(&root).arg(name))?;
    }
    Ok(())
}
