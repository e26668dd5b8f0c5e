//! The settings of a server that starts, resolved and checked.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

/// Where everything of this tier lies by default.
#[derive(Clone, Debug)]
pub struct Places {
    /// `$FLEXFS_HOME`.
    pub home: Home,
}

impl Places {
    /// From the environment.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn from_env() -> Result<Places> {
        Ok(Places { home: Home::from_env()? })
    }

    /// The credentials file.
    #[must_use]
    pub fn creds(&self) -> PathBuf {
        self.home.path("meta/creds")
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path("meta/data")
    }

    /// The log of the daemon.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.path("meta/log")
    }

    /// Where the daemon says that it runs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.home.path("meta/run")
    }
}

/// What `start` was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub bind: SocketAddr,
    /// The credentials file.
    pub creds: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Every commit is put on stable storage before it is answered.
    pub sync: bool,
    /// Bytes of the data directory's disk that are kept free; 0 = none,
    /// `None` = as much as suits the disk.
    pub disk_reserve: Option<u64>,
    /// How long to go on without admin; zero = not at all.
    pub grace: Duration,
    /// Without TLS.
    pub no_ssl: bool,
    /// Certificate and key (PEM files) instead of those from admin.
    pub ssl: Option<(PathBuf, PathBuf)>,
}

/// `host:port` to listen on.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse_bind(text: &str) -> Result<SocketAddr> {
    let bad = || {
        Error::new(
            Code::ArgumentInvalid,
            format!("`{}` is not an address to listen on: IP:port", text.escape_debug()),
        )
    };
    text.to_socket_addrs().map_err(|e| bad().caused_by(e))?.next().ok_or_else(bad)
}

/// A path that holds after the daemon has left its directory.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| {
        Error::new(Code::ArgumentInvalid, format!("`{}` is not a path", path.display()))
            .caused_by(e)
    })
}
