//! `mount.flexfs status`.

use std::path::Path;
use std::time::Duration;

use flexfs_common::daemon::RunFile;
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

use crate::cli::StatusArgs;
use crate::control::{self, Answer, Command};
use crate::output;
use crate::places::{self, RunPlaces};
use crate::status::MountStatus;

/// How long a daemon may take to tell how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// One mount, or all of this home.
pub(super) fn run(home: &Home, arguments: &StatusArgs) -> Result<()> {
    match &arguments.dir {
        Some(dir) => output::status_of_one(&one(home, dir)?, arguments.output),
        None => {
            let all: Vec<_> = RunPlaces::all(home).iter().filter_map(of_running).collect();
            if all.is_empty() {
                return Err(Error::bare(Code::DaemonNotRunning));
            }
            output::status_of_all(&all, arguments.output)
        }
    }
}

fn one(home: &Home, dir: &Path) -> Result<MountStatus> {
    let dir = places::absolute(dir)?;
    let run = RunPlaces::of(home, &dir);
    let not_running =
        || Error::new(Code::DaemonNotRunning, format!("no daemon serves {}", dir.display()));
    RunFile::find(&run.file)?.ok_or_else(not_running)?;
    ask(&run)
}

/// A mount that ended between two looks is not listed.
fn of_running(run: &RunPlaces) -> Option<MountStatus> {
    RunFile::find(&run.file).ok().flatten()?;
    ask(run).ok()
}

fn ask(run: &RunPlaces) -> Result<MountStatus> {
    match control::ask(&run.socket, Command::Status, PATIENCE)? {
        Answer::Status(status) => Ok(*status),
        Answer::Stopped | Answer::Failed(..) => Err(Error::bare(Code::ProtocolInvalid)),
    }
}
