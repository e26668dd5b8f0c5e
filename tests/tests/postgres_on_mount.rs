//! PostgreSQL with its files on a mount: what it acknowledged is there after
//! it was killed, and its own checks find nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flexfs_tests::postgres::{bin_dir, postgres_ids};
use flexfs_tests::process::Daemon;
use flexfs_tests::tools::big;
use flexfs_tests::wait::wait_for;
use flexfs_tests::{Cluster, Run, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// No command here takes longer.
const LIMIT: Duration = Duration::from_secs(200);

/// A server's directories.
struct Place {
    data: PathBuf,
    /// Sockets lie outside: they are no data.
    sockets: PathBuf,
    log: PathBuf,
}

impl Place {
    /// One of PostgreSQL's programs, as the user it insists on.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let (uid, gid) = postgres_ids();
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
        command.args(["--clear-groups", "--"]).arg(bin_dir().join(program));
        command.current_dir("/").env("PGHOST", &self.sockets).env("PGDATABASE", "postgres");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Run {
        Run::of(self.command(program).args(arguments), LIMIT)
    }

    fn start(&self) -> Daemon {
        let mut command = self.command("postgres");
        command.args(["-h", ""]).arg("-k").arg(&self.sockets).arg("-D").arg(&self.data);
        let mut server = Daemon::start(&mut command, &self.log);
        server.wait_ready("postgres", || self.run("pg_isready", &[]).succeeded());
        server
    }

    /// A query's result, as one line per row.
    #[track_caller]
    fn ask(&self, query: &str) -> String {
        self.run("psql", &["-X", "-At", "-c", query]).ok().trim_end().to_owned()
    }

    /// kill -9 of all its processes at once.
    fn kill9(&self, server: Daemon) {
        for pid in self.processes() {
            // It may have ended since we looked.
            let _ = kill_process(pid, Signal::KILL);
        }
        server.kill9();
        wait_until("all of its processes are gone", LIMIT, || self.processes().is_empty());
    }

    /// They all work in the directory of their data.
    fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data)
        })
        .filter_map(Pid::from_raw)
        .collect()
    }

    /// Its own check of tables and indexes.
    fn check(&self) {
        let arguments = [
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--parent-check",
            "--no-strict-names",
        ];
        let run = self.run("pg_amcheck", &arguments);
        run.ok();
        assert_eq!(run.stdout, "", "pg_amcheck finds nothing");
        // pgbench moves money between accounts, tellers and branches.
        let sums = self.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
             (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), \
             (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        );
        let mut sums = sums.split('|');
        let first = sums.next().unwrap();
        assert!(sums.all(|sum| sum == first), "sums differ");
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

/// Inserts numbers one by one, and prints each once it is committed.
struct Writer {
    child: Child,
    printed: PathBuf,
}

impl Writer {
    fn start(place: &Place, directory: &Path, from: u64) -> Writer {
        let (script, printed) = (directory.join("inserts.sql"), directory.join("printed"));
        let inserts: String = (from..from + 50_000)
            .map(|n| format!("INSERT INTO acknowledged VALUES ({n}) RETURNING n;\n"))
            .collect();
        fs::write(&script, inserts).unwrap();
        // Its output is ours: it has nothing open on the mount.
        let child = place
            .command("psql")
            .args(["-X", "-At", "-q", "-f", "-"])
            .stdin(File::open(&script).unwrap())
            .stdout(File::create(&printed).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Writer { child, printed }
    }

    /// The last number that was printed whole.
    fn last(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.printed).unwrap();
        let whole = &text[..text.rfind('\n')?];
        Some(number(whole.rsplit('\n').next().unwrap()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It has lost its server, or the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_postgres_acknowledged_survives_its_death_under_load() {
    assert!(rustix::process::geteuid().is_root(), "only root can act as user postgres");
    let (rounds, seconds) = if big() { (4, 30) } else { (1, 1) };
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o711)).unwrap();
    let place = Place {
        data: mount.path("data"),
        sockets: cluster.root().join("sockets"),
        log: cluster.log("postgres"),
    };
    let (uid, gid) = postgres_ids();
    for directory in [&place.data, &place.sockets] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(uid), Some(gid)).unwrap();
    }
    let data = place.data.display().to_string();
    place.run("initdb", &["--auth=trust", "--data-checksums", "-D", &data]).ok();
    let mut server = place.start();
    place.run("pgbench", &["-i", "-q", "-s", "2"]).ok();
    place.ask("CREATE TABLE acknowledged (n bigint PRIMARY KEY)");
    let load = ["-c", "4", "-j", "2", "-n", "-T"];
    place.run("pgbench", &[&load[..], &[&format!("{seconds}")]].concat()).ok();
    for round in 0..rounds {
        let before: u64 = number(&place.ask("SELECT coalesce(max(n), 0) FROM acknowledged"));
        let writer = Writer::start(&place, cluster.root(), before + 1);
        let mut bench = place.command("pgbench");
        let bench = bench.args(load).arg("1000").stderr(Stdio::null()).stdout(Stdio::null());
        let mut bench = bench.spawn().unwrap();
        let enough = before + 100;
        wait_for("some are acknowledged", LIMIT, || writer.last().filter(|n| *n > enough));
        place.kill9(server);
        let acknowledged = writer.last().unwrap();
        drop(writer);
        let _ = (bench.kill(), bench.wait());
        server = place.start();
        let kept = place.ask("SELECT count(*), max(n) FROM acknowledged");
        let (count, last) = kept.split_once('|').unwrap();
        assert_eq!(number(count), number(last), "round {round}: none is missing");
        assert!(number(last) >= acknowledged, "round {round}: {last} of {acknowledged}");
        place.check();
    }
    server.terminate();
    mount.stop();
    cluster.verify_clean();
}
