//! Every test of the workspace.

use crate::{Result, bins, setup, shell};

/// Sets the machine up, builds the programs, runs the tests on them.
pub(crate) fn run(filter: Option<&str>) -> Result {
    setup::run(setup::Purpose::Test)?;
    let directory = bins::build(bins::Profile::WithTests)?;
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command.args(filter).env("FLEXFS_BIN_DIR", directory);
    shell::run(&mut command)
}
