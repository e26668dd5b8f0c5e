//! One installation: admin, meta, block store, volumes, mounts.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flexfs_common::daemon::RunFile;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::clock::FakeClock;
use crate::mount::{Mount, mount_points};
use crate::ports::free_address;
use crate::postgres::Postgres;
use crate::process::{COMMAND, Daemon, Run, bin_dir, processes_of, tail};
use crate::scan::Secrets;
use crate::tools::big;
use crate::wait::wait_until;

/// After this long everything of a test is killed, so that a system call that
/// hangs on a mount ends and the test fails.
fn test_limit() -> Duration {
    Duration::from_secs(if big() { 7200 } else { 400 })
}

/// Where a program of a debug build kills itself (`flexfs_common::failpoint`).
const FAILPOINT: &str = "FLEXFS_FAILPOINT";

/// A token as its owner has it.
#[derive(Clone, Debug)]
pub struct Token {
    /// Public id.
    pub id: String,
    /// A file with the text, mode 0600.
    pub file: PathBuf,
}

impl Token {
    /// The text.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("a token file").trim_end().to_owned()
    }
}

/// The installation. Dropping it ends everything it started; declare mounts
/// after it, so that they go first.
#[derive(Debug)]
pub struct Cluster {
    directory: Option<tempfile::TempDir>,
    root: PathBuf,
    home: PathBuf,
    admin_address: String,
    meta_address: String,
    admin: Option<Daemon>,
    meta: Option<Daemon>,
    postgres: Option<Postgres>,
    meta_arguments: Vec<String>,
    /// What makes admin's wall clock another one.
    admin_clock: Vec<(String, String)>,
    /// Say everything in the logs; costs time.
    verbose: bool,
    secrets: Secrets,
    counter: AtomicU32,
    over: Arc<AtomicBool>,
}

impl Cluster {
    /// admin on SQLite, meta with the embedded engine, a directory as block
    /// store; all running.
    #[must_use]
    pub fn start() -> Cluster {
        Cluster::launch(None, &[], Vec::new(), false)
    }

    /// As [`Cluster::start`], admin with this wall clock.
    #[must_use]
    pub fn start_under(clock: &FakeClock) -> Cluster {
        Cluster::launch(None, &[], clock.environment(), false)
    }

    /// As [`Cluster::start`], with logs at their most verbose.
    #[must_use]
    pub fn start_verbose() -> Cluster {
        Cluster::launch(None, &[], Vec::new(), true)
    }

    /// As [`Cluster::start_verbose`], admin on a PostgreSQL of its own.
    #[must_use]
    pub fn start_on_postgres() -> Cluster {
        Cluster::launch(Some(Postgres::start()), &[], Vec::new(), true)
    }

    /// As [`Cluster::start`], with more arguments for `meta.flexfs start`.
    #[must_use]
    pub fn start_with_meta(arguments: &[&str]) -> Cluster {
        Cluster::launch(None, arguments, Vec::new(), false)
    }

    fn launch(
        postgres: Option<Postgres>,
        meta_arguments: &[&str],
        admin_clock: Vec<(String, String)>,
        verbose: bool,
    ) -> Cluster {
        let directory = tempfile::Builder::new().prefix("flexfs-test-").tempdir().expect("a dir");
        let root = directory.path().to_owned();
        let home = root.join("home");
        for name in ["home", "tokens", "logs", "mnt", "blocks"] {
            fs::create_dir(root.join(name)).expect("a directory");
        }
        let mut cluster = Cluster {
            directory: Some(directory),
            secrets: Secrets::default(),
            admin_address: free_address(),
            meta_address: free_address(),
            admin: None,
            meta: None,
            postgres,
            meta_arguments: meta_arguments.iter().map(ToString::to_string).collect(),
            admin_clock,
            verbose,
            counter: AtomicU32::new(0),
            over: Arc::new(AtomicBool::new(false)),
            root,
            home,
        };
        cluster.watch();
        cluster.start_admin();
        let root_token = cluster.home.join("admin/root.token");
        let text = fs::read_to_string(&root_token).expect("root.token");
        cluster.secrets.add(text.trim_end());
        let admin = cluster.admin_address.clone();
        let token = root_token.display().to_string();
        cluster.configure(&["init", "creds", "--adminAddr", &admin, "--tokenFile", &token]).ok();
        let blocks = cluster.root.join("blocks").display().to_string();
        cluster
            .configure(&["create", "block-store", "disk", "--kind", "dir", "--path", &blocks])
            .ok();
        let meta = cluster.meta_address.clone();
        let made = cluster.json(&["create", "meta-store", "here", "--address", &meta]);
        let token = cluster.keep(&made["metaToken"]);
        cluster.init_meta(&token).ok();
        cluster.start_meta();
        cluster
    }

    /// A thread that ends everything when the test takes too long.
    fn watch(&self) {
        let (over, home) = (Arc::clone(&self.over), self.home.clone());
        std::thread::spawn(move || {
            let (begun, limit) = (Instant::now(), test_limit());
            while !over.load(Ordering::Relaxed) {
                if begun.elapsed() > limit {
                    eprintln!("the test takes longer than {limit:?}: killing its programs");
                    kill_all(&home);
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    /// `FLEXFS_HOME` of everything.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The directory of everything, the home among it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// admin's `host:port`.
    #[must_use]
    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// meta's `host:port`.
    #[must_use]
    pub fn meta_address(&self) -> &str {
        &self.meta_address
    }

    /// PostgreSQL's directory, when admin uses it.
    #[must_use]
    pub fn postgres_dir(&self) -> Option<&Path> {
        self.postgres.as_ref().map(Postgres::directory)
    }

    /// The file with the URL of admin's database, when it is a PostgreSQL.
    #[must_use]
    pub fn postgres_url(&self) -> Option<PathBuf> {
        self.postgres.as_ref().map(Postgres::url_file)
    }

    /// Every secret that this cluster handed out.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// One of the programs, e.g. `mount.flexfs`, with this cluster's home.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(bin_dir().join(name));
        command
            .env("FLEXFS_HOME", &self.home)
            .env_remove("FLEXFS_TOKEN")
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.root);
        command
    }

    /// Runs one of the programs.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Run {
        Run::of(self.program(program).args(arguments), COMMAND)
    }

    /// `configure.flexfs`, as `system`.
    #[must_use]
    pub fn configure(&self, arguments: &[&str]) -> Run {
        self.run("configure.flexfs", arguments)
    }

    /// `configure.flexfs` with another account token.
    #[must_use]
    pub fn configure_as(&self, token: &Token, arguments: &[&str]) -> Run {
        let reference = format!("file:{}", token.file.display());
        let mut command = self.program("configure.flexfs");
        Run::of(command.env("FLEXFS_TOKEN", reference).args(arguments), COMMAND)
    }

    /// `configure.flexfs … -o json`, which must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.configure(&[arguments, &["-o", "json"]].concat()).json()
    }

    /// Keeps what `create … -o json` handed out: `{"id", "token"}`.
    ///
    /// # Panics
    /// When that is not what it is.
    #[track_caller]
    pub fn keep(&self, made: &Value) -> Token {
        let field = |name: &str| {
            made[name].as_str().unwrap_or_else(|| panic!("no {name} in {made}")).to_owned()
        };
        let (id, text) = (field("id"), field("token"));
        self.secrets.add(&text);
        Token { file: self.token_file(&text), id }
    }

    /// Writes a text into a private file.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn token_file(&self, text: &str) -> PathBuf {
        use std::io::Write;
        let path = self.root.join("tokens").join(self.unique().to_string());
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("new");
        writeln!(file, "{text}").expect("a token file");
        path
    }

    /// A number used once.
    fn unique(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A new volume and its token for all of it.
    #[track_caller]
    pub fn volume(&self, name: &str) -> Token {
        self.volume_with(name, &[])
    }

    /// A new volume, with more arguments.
    #[track_caller]
    pub fn volume_with(&self, name: &str, more: &[&str]) -> Token {
        self.volume_at("here", name, more)
    }

    /// A new volume of this meta store, with more arguments.
    #[track_caller]
    pub fn volume_at(&self, store: &str, name: &str, more: &[&str]) -> Token {
        let blocks = if store == "here" { "disk" } else { store };
        let create = ["create", "volume", name, "--metaStoreID", store, "--blockStoreID", blocks];
        let made = self.json(&[&create[..], more].concat());
        self.keep(&made["volumeToken"])
    }

    /// A further token of a volume, e.g. `--mountPath /a --flags ro`.
    #[track_caller]
    pub fn volume_token(&self, volume: &str, more: &[&str]) -> Token {
        let create = ["create", "volume-token", "--volumeID", volume];
        self.keep(&self.json(&[&create[..], more].concat()))
    }

    /// `revoke volume-token ID --wait`.
    #[must_use]
    pub fn revoke(&self, token: &Token) -> Run {
        self.configure(&["revoke", "volume-token", &token.id, "--wait", "-o", "json"])
    }

    /// `mount.flexfs init creds` into a file of its own.
    #[must_use]
    pub fn init_mount(&self, volume: &str, token: &Token) -> (Run, PathBuf) {
        let creds = self.root.join("tokens").join(format!("creds-{}", self.unique()));
        let run = self.run(
            "mount.flexfs",
            &[
                "init",
                "creds",
                volume,
                "--adminAddr",
                &self.admin_address,
                "--tokenFile",
                &token.file.display().to_string(),
                "--credsFile",
                &creds.display().to_string(),
            ],
        );
        (run, creds)
    }

    /// Mounts with this token.
    #[track_caller]
    pub fn mount(&self, volume: &str, token: &Token) -> Mount {
        self.mount_with(volume, token, &[])
    }

    /// Mounts with this token and more arguments.
    #[track_caller]
    pub fn mount_with(&self, volume: &str, token: &Token, more: &[&str]) -> Mount {
        let (init, creds) = self.init_mount(volume, token);
        init.ok();
        let dir = self.new_mount_point();
        self.start_mount(volume, &dir, &creds, more).ok();
        self.mounted(dir, creds)
    }

    /// Mounts with this token, the mount with this wall clock.
    #[track_caller]
    pub fn mount_under(&self, clock: &FakeClock, volume: &str, token: &Token) -> Mount {
        let (init, creds) = self.init_mount(volume, token);
        init.ok();
        let dir = self.new_mount_point();
        let mut command = self.program("mount.flexfs");
        command.envs(clock.environment()).args(["start", volume]).arg(&dir);
        Run::of(command.arg("--credsFile").arg(&creds), COMMAND).ok();
        self.mounted(dir, creds)
    }

    /// A new, empty directory to mount on.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new_mount_point(&self) -> PathBuf {
        let dir = self.root.join("mnt").join(self.unique().to_string());
        fs::create_dir(&dir).expect("a mount point");
        dir
    }

    /// `mount.flexfs start VOLUME DIR --credsFile F …`.
    #[must_use]
    pub fn start_mount(&self, volume: &str, dir: &Path, creds: &Path, more: &[&str]) -> Run {
        let (dir, creds) = (dir.display().to_string(), creds.display().to_string());
        let start = ["start", volume, &dir, "--credsFile", &creds];
        let verbose: &[&str] = if self.verbose { &["--verbose"] } else { &[] };
        self.run("mount.flexfs", &[&start[..], verbose, more].concat())
    }

    /// The mount that a successful start made.
    #[must_use]
    pub fn mounted(&self, dir: PathBuf, creds: PathBuf) -> Mount {
        Mount::new(dir, creds, self.home.clone())
    }

    fn start_admin(&mut self) {
        let mut command = self.program("admin.flexfs");
        command.envs(self.admin_clock.iter().map(|(name, value)| (name, value)));
        command.args(["start", "--foreground", "--bindAddr", &self.admin_address]);
        command.args(self.verbose.then_some("--verbose"));
        if let Some(postgres) = &self.postgres {
            command.arg("--db").arg(format!("file:{}", postgres.url_file().display()));
        }
        let mut daemon = Daemon::start(&mut command, &self.log("admin"));
        let (run, address) = (self.home.join("admin/run"), self.admin_address.clone());
        daemon.wait_ready("admin", || serves(&run, &address));
        self.admin = Some(daemon);
    }

    /// `meta.flexfs init creds` with this token.
    #[must_use]
    pub fn init_meta(&self, token: &Token) -> Run {
        let file = token.file.display().to_string();
        let admin = &self.admin_address;
        self.run("meta.flexfs", &["init", "creds", "--adminAddr", admin, "--tokenFile", &file])
    }

    fn start_meta(&mut self) {
        self.launch_meta(None);
    }

    /// Starts meta; one that is to die at a failpoint may do so before it is
    /// seen to serve.
    fn launch_meta(&mut self, failpoint: Option<&str>) {
        let mut command = self.program("meta.flexfs");
        command
            .args(["start", "--foreground", "--bindAddr", &self.meta_address])
            .args(self.verbose.then_some("--verbose"))
            .args(&self.meta_arguments)
            .envs(failpoint.map(|point| (FAILPOINT, point)));
        let mut daemon = Daemon::start(&mut command, &self.log("meta"));
        let (run, address) = (self.home.join("meta/run"), self.meta_address.clone());
        match failpoint {
            None => daemon.wait_ready("meta", || serves(&run, &address)),
            Some(_) => wait_until("meta is ready", Duration::from_secs(60), || {
                serves(&run, &address) || daemon.was_killed()
            }),
        }
        self.meta = Some(daemon);
    }

    /// The log of `admin` or `meta`.
    #[must_use]
    pub fn log(&self, tier: &str) -> PathBuf {
        self.root.join("logs").join(tier)
    }

    /// kill -9 of admin.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9_admin(&mut self) {
        self.admin.take().expect("admin runs").kill9();
    }

    /// Starts admin again, on the same address.
    pub fn restart_admin(&mut self) {
        self.start_admin();
    }

    /// kill -9 of meta.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9_meta(&mut self) {
        self.meta.take().expect("meta runs").kill9();
    }

    /// Sends meta a signal, such as STOP and CONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal_meta(&self, signal: Signal) {
        self.meta.as_ref().expect("meta runs").signal(signal);
    }

    /// Sends admin a signal, such as STOP and CONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal_admin(&self, signal: Signal) {
        self.admin.as_ref().expect("admin runs").signal(signal);
    }

    /// Ends meta with SIGTERM.
    ///
    /// # Panics
    /// When it does not run or end.
    pub fn stop_meta(&mut self) {
        self.meta.take().expect("meta runs").terminate();
    }

    /// Ends admin with SIGTERM.
    ///
    /// # Panics
    /// When it does not run or end.
    pub fn stop_admin(&mut self) {
        self.admin.take().expect("admin runs").terminate();
    }

    /// Starts meta again, on the same address.
    pub fn restart_meta(&mut self) {
        self.start_meta();
    }

    /// Starts meta again, to kill itself at this failpoint: `name` or
    /// `name:nth`.
    pub fn restart_meta_to_die_at(&mut self, failpoint: &str) {
        self.launch_meta(Some(failpoint));
    }

    /// Has meta died of SIGKILL by itself?
    ///
    /// # Panics
    /// When it was not started, or ended otherwise.
    #[must_use]
    pub fn meta_was_killed(&self) -> bool {
        self.meta.as_ref().expect("meta was started").was_killed()
    }

    /// Mounts in the foreground, with a daemon that kills itself at this
    /// failpoint.
    #[track_caller]
    pub fn mount_to_die_at(&self, failpoint: &str, volume: &str, token: &Token) -> (Daemon, Mount) {
        let (init, creds) = self.init_mount(volume, token);
        init.ok();
        let mount = self.mounted(self.new_mount_point(), creds);
        let mut command = self.program("mount.flexfs");
        command.env(FAILPOINT, failpoint).args(["start", "--foreground", volume]).arg(mount.dir());
        command.arg("--credsFile").arg(mount.creds());
        let mut daemon = Daemon::start(&mut command, &self.log("failing-mount"));
        daemon.wait_ready("the mount", || mount.is_mounted());
        (daemon, mount)
    }

    /// `meta.flexfs verify` finds nothing.
    #[track_caller]
    pub fn verify_clean(&self) {
        Run::of(self.program("meta.flexfs").arg("verify"), test_limit()).ok();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            for log in ["logs/admin", "logs/meta", "home/mount/log"] {
                eprintln!("{}", tail(&self.root.join(log)));
            }
        }
        // Mounts that the test did not take down, then everything else.
        for point in mount_points(&self.root) {
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
        self.meta = None;
        self.admin = None;
        kill_all(&self.home);
        if std::env::var_os("FLEXFS_TEST_KEEP").is_some()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept: {}", directory.keep().display());
        }
    }
}

fn kill_all(home: &Path) {
    for pid in processes_of(home) {
        // It may have ended since we looked.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Does the daemon behind this run file serve on its address?
pub(crate) fn serves(run: &Path, address: &str) -> bool {
    RunFile::find(run).is_ok_and(|found| found.is_some()) && TcpStream::connect(address).is_ok()
}

/// Gives a file these permission bits.
///
/// # Panics
/// When it cannot.
pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}
