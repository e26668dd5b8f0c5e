//! Databases for tests: a file, or a throw-away Postgres cluster that the
//! tests of one process share and the last one removes.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{DbUrl, Kind, Store};

/// A database of its own, removed when dropped.
pub(crate) struct TestDatabase {
    pub(crate) url: DbUrl,
    _dir: Option<TempDir>,
    _cluster: Option<Arc<Cluster>>,
}

impl TestDatabase {
    pub(crate) fn new(kind: Kind) -> TestDatabase {
        match kind {
            Kind::Sqlite => {
                let dir = tempfile::tempdir().unwrap();
                let url = DbUrl::Sqlite(dir.path().join("db/flexfs.db"));
                TestDatabase { url, _dir: Some(dir), _cluster: None }
            }
            Kind::Postgres => {
                let cluster = Cluster::shared();
                let url = cluster.new_database();
                TestDatabase { url, _dir: None, _cluster: Some(cluster) }
            }
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// A running Postgres of ours, reached through a socket in its directory.
pub(crate) struct Cluster {
    server: Mutex<Child>,
    dir: TempDir,
    user: Option<(u32, u32)>,
    bin: PathBuf,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    fn shared() -> Arc<Cluster> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Cluster::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    fn start() -> Cluster {
        let bin = binaries();
        let user = unprivileged_user();
        let dir = tempfile::Builder::new().prefix("flexfs-pg-").tempdir().unwrap();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = dir.path().join("data");
        let made = command(&bin, "initdb", user)
            .args(["-U", "flexfs", "-A", "trust", "--no-locale", "-E", "UTF8", "-N", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        let server = command(&bin, "postgres", user)
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let cluster = Cluster { server: Mutex::new(server), dir, user, bin };
        let deadline = Instant::now() + Duration::from_secs(60);
        // Asks the server itself whether it answers.
        while !cluster.ready() {
            assert!(Instant::now() < deadline, "Postgres did not start: {}", cluster.log());
            std::thread::yield_now();
        }
        cluster
    }

    fn ready(&self) -> bool {
        let asked = command(&self.bin, "pg_isready", self.user)
            .arg("-q")
            .args(["-t", "5", "-U", "flexfs", "-h"])
            .arg(self.dir.path())
            .status();
        asked.is_ok_and(|status| status.success())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn new_database(&self) -> DbUrl {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let made = command(&self.bin, "createdb", self.user)
            .args(["-U", "flexfs", "-h"])
            .arg(self.dir.path())
            .arg(&name)
            .status()
            .unwrap();
        assert!(made.success(), "createdb failed: {}", self.log());
        let host = self.dir.path().display();
        DbUrl::Postgres(Zeroizing::new(format!("postgres://flexfs@localhost/{name}?host={host}")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        // Immediate shutdown (SIGQUIT) also ends the workers; the directory
        // goes with the TempDir.
        let stopped = command(&self.bin, "pg_ctl", self.user)
            .args(["stop", "-s", "-m", "immediate", "-D"])
            .arg(self.dir.path().join("data"))
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = server.kill();
        }
        let _ = server.wait();
    }
}

fn command(bin: &Path, name: &str, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(bin.join(name));
    command.current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Postgres refuses to run as root: then it runs as `postgres` or `nobody`.
fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| {
            let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
            let mut fields = line.split(':').skip(2);
            Some(Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)))
        })
        .expect("these tests run Postgres as the user `postgres` or `nobody`: make one of them")
}

/// Where the programs of the newest installed version are.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    found.sort();
    let newest = found.pop().map(|(_, bin)| bin);
    newest.expect(
        "these tests need the Postgres server: apt-get install postgresql (initdb and postgres \
         below /usr/lib/postgresql/VERSION/bin)",
    )
}
