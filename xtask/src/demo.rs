//! The whole idea on real files with real processes, as a user would do it.
//!
//! Everything lies in one temporary directory, and every process it starts
//! has that directory's `FLEXFS_HOME` in its environment. A guard, a process
//! of its own, waits on a pipe: when the pipe closes (the demo ended, failed,
//! or was killed), it ends those processes, unmounts and removes the
//! directory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Result, bins, setup};

mod guard;
mod reader;
mod stage;
mod story;

/// What to do at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    CleanUp,
    Keep,
}

/// Runs the demo.
pub(crate) fn run(profile: bins::Profile, after: After) -> Result {
    setup::run(setup::Purpose::Demo)?;
    eprintln!("building the programs (the first time takes some minutes)");
    let bins = bins::build(profile)?;
    let begun = Instant::now();
    let directory = tempfile::Builder::new().prefix("flexfs-demo-").tempdir()?.keep();
    let guard = guard::Guard::spawn(&directory)?;
    let told = stage::Stage::new(&directory, bins).and_then(|mut stage| story::tell(&mut stage));
    if told.is_ok() && after == After::Keep {
        guard.release()?;
        print_kept(&directory);
        return Ok(());
    }
    if told.is_err() {
        guard::show_logs(&directory);
    }
    let swept = guard.finish();
    told?;
    swept?;
    guard::assert_nothing_left(&directory)?;
    println!(
        "\nCleaned up: no process, mount or file of the demo is left. It took {:.1} s.",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Ends a kept demo, or one that was killed.
pub(crate) fn stop(directory: &Path) -> Result {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    if !name.starts_with("flexfs-demo-") {
        return Err(format!("{} is not the directory of a demo", directory.display()).into());
    }
    guard::sweep(directory)?;
    guard::assert_nothing_left(directory)
}

/// The guard's own program: waits until the pipe on stdin closes.
pub(crate) fn guard(directory: &Path) -> Result {
    guard::watch(directory)
}

fn print_kept(directory: &Path) {
    let shown = directory.display();
    println!(
        "\nIt keeps running, everything below {shown}:\n\
         \n  export FLEXFS_HOME={shown}/home PATH={shown}/bin:$PATH\
         \n  ls {shown}/all                      the whole volume\
         \n  configure.flexfs list volume-tokens --accountID demo\
         \n  mount.flexfs status\
         \n\nStop it and remove everything:  cargo xtask demo --stop {shown}"
    );
}

/// Polls until `done`, for at most `limit`.
fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
