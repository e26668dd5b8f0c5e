//! docs/errors.md, made from the list of error codes.

use std::fs;

use crate::{Result, shell};

/// Where the document lies, from the workspace's root.
pub(crate) const DOCUMENT: &str = "docs/errors.md";

/// Writes the document.
pub(crate) fn write() -> Result {
    Ok(fs::write(shell::root().join(DOCUMENT), generated()?)?)
}

/// What the document must be. An example of flexfs-common prints it, so that
/// this crate needs no other crate of the workspace to build.
pub(crate) fn generated() -> Result<String> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--package", "flexfs-common", "--example", "error_list"]);
    shell::capture(&mut command)
}
