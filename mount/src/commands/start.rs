//! `mount.flexfs start`, and what mount(8) asks for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flexfs_common::exit::{self, ErrorFormat};
use flexfs_common::home::Home;
use flexfs_common::size::Size;
use flexfs_common::{Code, Error, Result, daemon, limits, process, telemetry};

use crate::cli::{OnRevoke, StartArgs};
use crate::helper_form::HelperCall;
use crate::{mount_point, places};

/// Threads that work on requests, at least: compression and whatever waits for
/// the kernel have threads of their own, and each idle one more costs wake-ups.
const WORKERS_MIN: usize = 2;

/// Starts the daemon and waits until the mount answers, or is the daemon.
pub(super) fn run(arguments: StartArgs) -> ExitCode {
    if !arguments.foreground {
        return super::end(background(&arguments), ErrorFormat::Text);
    }
    daemon::detach();
    telemetry::init(arguments.verbose);
    process::raise_descriptors();
    match foreground(arguments) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            tracing::error!(code = %error.code(), "{}", error.with_causes());
            if daemon::report_failure(&error) {
                return ExitCode::from(exit::exit_code(error.code()));
            }
            exit::report(&error, ErrorFormat::Text)
        }
    }
}

/// The mount(8) helper: says nothing when it succeeds.
pub(super) fn helper(call: &HelperCall) -> Result<()> {
    if call.fake {
        let arguments = absolutised(call.start.clone())?;
        return mount_point::prepare(&arguments.dir, true);
    }
    background(&call.start)
}

fn background(arguments: &StartArgs) -> Result<()> {
    let arguments = absolutised(arguments.clone())?;
    let home = home_of(&arguments)?;
    let log = places::log(&home);
    daemon::spawn(&to_words(&arguments), &log, limits::DAEMON_START).map(|_pid| ())
}

fn foreground(arguments: StartArgs) -> Result<()> {
    let arguments = absolutised(arguments)?;
    let home = home_of(&arguments)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.max(WORKERS_MIN))
        .enable_all()
        .build()
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    let outcome = runtime.block_on(crate::daemon::run(&home, &arguments));
    // What still runs serves a mount that nobody sees any more.
    runtime.shutdown_background();
    outcome
}

fn home_of(arguments: &StartArgs) -> Result<Home> {
    match &arguments.home {
        Some(path) => Ok(Home::at(path)),
        None => Home::from_env(),
    }
}

/// The daemon leaves the caller's directory.
fn absolutised(mut arguments: StartArgs) -> Result<StartArgs> {
    arguments.dir = places::absolute(&arguments.dir)?;
    arguments.creds_file = arguments.creds_file.map(|path| absolute_file(&path)).transpose()?;
    arguments.home = arguments.home.map(|path| absolute_file(&path)).transpose()?;
    Ok(arguments)
}

fn absolute_file(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| {
        Error::new(Code::ArgumentInvalid, format!("{}: not a path", path.display())).caused_by(e)
    })
}

/// The command line of the daemon, to which `--foreground` is added. The
/// directory is absolute, so it is no flag.
fn to_words(arguments: &StartArgs) -> Vec<OsString> {
    let restrict = &arguments.restrict;
    let mut words: Vec<OsString> =
        vec!["start".into(), arguments.volume.as_str().into(), arguments.dir.clone().into()];
    let switches = [
        (restrict.ro, "--ro"),
        (restrict.no_exec, "--noExec"),
        (restrict.no_suid, "--noSUID"),
        (restrict.no_dev, "--noDev"),
        (restrict.no_atime, "--noATime"),
        (restrict.acl, "--acl"),
        (restrict.xattr, "--xAttr"),
        (restrict.root_squash, "--rootSquash"),
        (arguments.non_empty, "--nonEmpty"),
        (arguments.owner_only, "--ownerOnly"),
        (arguments.verbose, "--verbose"),
    ];
    words.extend(switches.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.into()));
    let mut value = |flag: &str, value: Option<OsString>| {
        if let Some(value) = value {
            words.extend([OsString::from(flag), value]);
        }
    };
    value("--credsFile", arguments.creds_file.clone().map(Into::into));
    value("--home", arguments.home.clone().map(Into::into));
    value("--rootSquashUID", restrict.root_squash_uid.map(|id| id.to_string().into()));
    value("--rootSquashGID", restrict.root_squash_gid.map(|id| id.to_string().into()));
    value("--umask", restrict.umask.map(|bits| format!("{bits:o}").into()));
    let capacity = arguments.mem_capacity.map(|size| match size {
        Size::Bytes(bytes) => bytes.to_string(),
        Size::Percent(percent) => format!("{percent}%"),
    });
    value("--memCapacity", capacity.map(Into::into));
    let unmount = arguments.on_revoke == OnRevoke::Unmount;
    value("--onRevoke", unmount.then(|| "unmount".into()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(words: &[OsString]) -> StartArgs {
        let all = std::iter::once(OsString::from("mount.flexfs")).chain(words.iter().cloned());
        let cli: Cli = flexfs_common::cli::parse(all).unwrap();
        let Command::Start(start) = cli.command else { panic!("{cli:?}") };
        start
    }

    #[test]
    fn the_daemon_gets_what_the_user_said() {
        let said = [
            "start",
            "vol",
            "/mnt",
            "--ro",
            "--noExec",
            "--noSUID",
            "--noDev",
            "--noATime",
            "--acl",
            "--xAttr",
            "--rootSquash",
            "--rootSquashUID",
            "7",
            "--rootSquashGID",
            "8",
            "--umask",
            "0027",
            "--nonEmpty",
            "--memCapacity",
            "5%",
            "--onRevoke",
            "unmount",
            "--ownerOnly",
            "--verbose",
            "--credsFile",
            "/c",
            "--home",
            "/h",
        ]
        .map(OsString::from);
        let asked = parse(&said);
        let daemon =
            |asked: &StartArgs| parse(&[to_words(asked), vec!["--foreground".into()]].concat());
        assert_eq!(daemon(&asked), StartArgs { foreground: true, ..asked.clone() });
        let plain = parse(&["start", "vol", "/-dir"].map(OsString::from));
        assert_eq!(daemon(&plain), StartArgs { foreground: true, ..plain.clone() });
    }
}
