//! A further metadata server of a cluster, with a home, a meta store and a
//! block store of its own, and links that a test can break.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::cluster::{Cluster, serves};
use crate::ports::free_address;
use crate::process::{COMMAND, Daemon, Run, bin_dir, tail};
use crate::proxy::Proxy;

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// More arguments for `meta.flexfs start`.
    pub arguments: &'a [&'a str],
    /// More of its environment.
    pub environment: &'a [(&'a str, &'a str)],
}

/// The server. Dropping it ends it: declare it after its cluster.
#[derive(Debug)]
pub struct Meta {
    /// Between it and admin.
    pub to_admin: Proxy,
    /// Between mounts and it.
    pub from_mounts: Arc<Proxy>,
    home: PathBuf,
    log: PathBuf,
    address: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    daemon: Option<Daemon>,
}

impl Meta {
    /// Adds and starts a server with the store `store`; volumes are made by
    /// [`Cluster::volume_at`].
    ///
    /// # Panics
    /// When anything fails.
    #[must_use]
    pub fn start(cluster: &Cluster, store: &str, options: &Options<'_>) -> Meta {
        let home = cluster.root().join(format!("home-{store}"));
        let blocks = cluster.root().join(format!("blocks-{store}"));
        fs::create_dir(&blocks).expect("a directory");
        flexfs_common::home::make_dir(&home.join("ssl")).expect("a directory");
        // As the operator of another host brings it.
        let ca = fs::read(cluster.home().join("ssl/ca")).expect("the CA's certificate");
        flexfs_common::home::write_file(&home.join("ssl/ca"), &ca).expect("its copy");
        let address = free_address();
        let mut meta = Meta {
            to_admin: Proxy::start(cluster.admin_address()),
            from_mounts: Arc::new(Proxy::start(&address)),
            home,
            log: cluster.log(&format!("meta-{store}")),
            address,
            arguments: options.arguments.iter().map(ToString::to_string).collect(),
            environment: options
                .environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            daemon: None,
        };
        let path = blocks.display().to_string();
        cluster.configure(&["create", "block-store", store, "--kind", "dir", "--path", &path]).ok();
        let shown = meta.from_mounts.address();
        let made = cluster.json(&["create", "meta-store", store, "--address", shown]);
        let token = cluster.keep(&made["metaToken"]).file.display().to_string();
        let admin = meta.to_admin.address();
        meta.run(&["init", "creds", "--adminAddr", admin, "--tokenFile", &token]).ok();
        meta.restart();
        meta
    }

    fn program(&self) -> Command {
        let mut command = Command::new(bin_dir().join("meta.flexfs"));
        command.env("FLEXFS_HOME", &self.home).env_remove("FLEXFS_TOKEN");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.program().args(arguments), COMMAND)
    }

    /// Starts it again, on the same address.
    pub fn restart(&mut self) {
        let command = self.program();
        self.launch(command);
    }

    /// Starts it again as after a reboot of its host: the id of the boot is
    /// another one, in a mount namespace of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart_in_another_boot(&mut self) {
        const SCRIPT: &str =
            "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && shift && exec \"$@\"";
        let id = self.home.join("boot_id");
        fs::write(&id, format!("{}\n", uuid::Uuid::new_v4())).expect("the boot's id");
        let mut command = Command::new("unshare");
        // Root may; somebody else is it in a user namespace.
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(id);
        let program = self.program();
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg(program.get_program());
        self.launch(command);
    }

    fn launch(&mut self, mut command: Command) {
        command.env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["start", "--foreground", "--bindAddr", &self.address]).args(&self.arguments);
        let mut daemon = Daemon::start(&mut command, &self.log);
        let (run, address) = (self.home.join("meta/run"), self.address.clone());
        daemon.wait_ready("meta", || serves(&run, &address));
        self.daemon = Some(daemon);
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// When it does not run or end.
    pub fn stop(&mut self) {
        self.daemon.take().expect("meta runs").terminate();
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.daemon.take().expect("meta runs").kill9();
    }

    /// `meta.flexfs verify` finds nothing.
    #[track_caller]
    pub fn verify_clean(&self) {
        self.run(&["verify"]).ok();
    }

    /// Sends it a signal, such as STOP and CONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        self.daemon.as_ref().expect("meta runs").signal(signal);
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Its `FLEXFS_HOME`.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.log));
        }
    }
}
