//! Programs of others that tests run: suites for file systems, databases.

use std::path::{Path, PathBuf};

use crate::process::repository;

/// Where a program is: among what `cargo xtask setup` built, in PATH, or in
/// the administrator's directories.
///
/// # Panics
/// When it is nowhere: a suite that did not run shows nothing.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::iter::once(repository().join("target/tools/bin"))
        .chain(std::env::split_paths(&path))
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `cargo xtask setup`"))
}

/// Does the caller want the long form of a suite (`FLEXFS_TEST_BIG=1`)?
#[must_use]
pub fn big() -> bool {
    std::env::var_os("FLEXFS_TEST_BIG").is_some()
}

/// What a random test starts from: `FLEXFS_TEST_SEED`, or a new one. It says
/// which when it fails.
///
/// # Panics
/// When the variable holds no number.
#[must_use]
pub fn seed() -> u64 {
    match std::env::var("FLEXFS_TEST_SEED") {
        Ok(text) => text.parse().expect("FLEXFS_TEST_SEED is a number"),
        Err(_) => u64::from(getrandom::u32().expect("randomness")),
    }
}

/// Compiles a program of one C file: what building flexfs needs has a
/// compiler, and tests in Rust cannot map files without `unsafe`.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn compile(directory: &Path, name: &str, source: &str) -> PathBuf {
    let program = directory.join(name);
    let text = program.with_extension("c");
    std::fs::write(&text, source).expect("the source");
    let mut cc = std::process::Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-D_GNU_SOURCE"]).arg(&text).arg("-o").arg(&program);
    crate::process::Run::of(&mut cc, crate::process::COMMAND).ok();
    program
}
