//! A PostgreSQL of the test's own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::ports::free_address;
use crate::process::{Daemon, Run};

/// A server with an empty database, gone with this value.
#[derive(Debug)]
pub struct Postgres {
    // Before the directory, so that it ends first.
    _daemon: Daemon,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// Makes and starts it, as user `postgres` when we are root (it refuses
    /// root).
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    #[must_use]
    pub fn start() -> Postgres {
        let bin = bin_dir();
        let directory = tempfile::Builder::new().prefix("flexfs-pg-").tempdir().expect("a dir");
        let data = directory.path().join("data");
        let own = rustix::process::geteuid().is_root().then(postgres_ids);
        if let Some((uid, gid)) = own {
            chown(directory.path(), Some(uid), Some(gid)).expect("chown");
        }
        let as_owner = |program: &str| {
            let program = bin.join(program);
            match own {
                None => Command::new(program),
                Some(_) => {
                    let mut command = Command::new("runuser");
                    command.args(["-u", "postgres", "--"]).arg(program);
                    command
                }
            }
        };
        let mut init = as_owner("initdb");
        init.current_dir("/").args(["--no-sync", "--auth=trust", "--username=flexfs", "-D"]);
        Run::of(init.arg(&data), Duration::from_secs(120)).ok();
        let address = free_address();
        let port = address.rsplit(':').next().expect("host:port");
        let mut server = as_owner("postgres");
        server
            .current_dir("/")
            .args(["-h", "127.0.0.1", "-p", port, "-c", "fsync=off", "-D"])
            .arg(&data)
            .arg("-k")
            .arg(directory.path());
        let mut daemon = Daemon::start(&mut server, &directory.path().join("log"));
        daemon.wait_ready("postgres", || {
            let mut ask = as_owner("pg_isready");
            ask.current_dir("/").args(["-h", "127.0.0.1", "-p", port]);
            Run::of(&mut ask, Duration::from_secs(30)).succeeded()
        });
        let url = directory.path().join("url");
        fs::write(&url, format!("postgres://flexfs@{address}/postgres\n")).expect("the URL's file");
        fs::set_permissions(&url, fs::Permissions::from_mode(0o600)).expect("chmod");
        Postgres { _daemon: daemon, directory }
    }

    /// A file with the URL, for `--db file:…`.
    #[must_use]
    pub fn url_file(&self) -> PathBuf {
        self.directory.path().join("url")
    }

    /// Everything it keeps.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Where the server's programs are: Debian keeps them out of PATH.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin")).find(|d| d.join("initdb").exists());
    found.unwrap_or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .find(|dir| dir.join("initdb").exists())
            .expect("PostgreSQL is installed (cargo xtask setup)")
    })
}

/// uid and gid of the system user that Debian's package makes.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn postgres_ids() -> (u32, u32) {
    let table = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = table.lines().find(|line| line.starts_with("postgres:")).expect("user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().expect("a uid"), fields[3].parse().expect("a gid"))
}
