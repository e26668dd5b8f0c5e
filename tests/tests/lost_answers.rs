//! A change whose answer is lost on the way: `configure.flexfs` asks once
//! more, and what is changed is changed once. admin is reached through a relay
//! that breaks a connection when the answer comes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flexfs_tests::ports::free_address;
use flexfs_tests::process::{COMMAND, Run, bin_dir, processes_of};
use rustix::process::{Signal, kill_process};

/// HTTP/2 (RFC 9113): a frame's header, and the type with which an answer
/// begins.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;

/// An admin without TLS, a relay before it, and an operator behind the relay.
struct Office {
    directory: tempfile::TempDir,
    /// Connections from now on until the one whose answer is lost; 0 = none.
    until_lost: Arc<AtomicUsize>,
}

impl Office {
    fn open() -> Office {
        let directory = tempfile::Builder::new().prefix("flexfs-test-").tempdir().unwrap();
        let until_lost = Arc::new(AtomicUsize::new(0));
        let office = Office { directory, until_lost: Arc::clone(&until_lost) };
        let admin = free_address();
        office.sh("home", &format!("admin.flexfs start --noSSL --bindAddr {admin}")).ok();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let server = TcpStream::connect(&admin).unwrap();
                let step = |left: usize| left.checked_sub(1);
                let left = until_lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
                relay_both(client.unwrap(), server, left == Ok(1));
            }
        });
        let token = office.path("home/admin/root.token").display().to_string();
        office
            .configure(&format!("init creds --adminAddr http://{relay} --tokenFile {token}"))
            .ok();
        office
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sh(&self, home: &str, line: &str) -> Run {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-euc", &format!("umask 077; {line}")])
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{path}", bin_dir().display()))
            .env("FLEXFS_HOME", self.path(home))
            .env_remove("FLEXFS_TOKEN")
            .env_remove("FLEXFS_PROFILE");
        Run::of(&mut command, COMMAND)
    }

    fn configure(&self, words: &str) -> Run {
        self.sh("elsewhere", &format!("configure.flexfs {words}"))
    }

    /// The answer to the call with this number, from now on, is lost.
    fn lose(&self, call: usize) {
        self.until_lost.store(call, Ordering::SeqCst);
    }

    /// It was.
    fn was_lost(&self) -> bool {
        self.until_lost.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        for pid in processes_of(&self.path("home")) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Both directions of a connection, until one side ends it.
fn relay_both(client: TcpStream, server: TcpStream, lose: bool) {
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = relay_frames(&server, &client, lose);
        let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
    });
}

/// The server's frames; up to its answer only, when that is to be lost.
fn relay_frames(mut server: &TcpStream, mut client: &TcpStream, lose: bool) -> std::io::Result<()> {
    loop {
        let mut header = [0; FRAME_HEADER];
        server.read_exact(&mut header)?;
        if lose && header[3] == HEADERS {
            return Ok(());
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        server.read_exact(&mut payload)?;
        client.write_all(&[&header[..], &payload].concat())?;
    }
}

#[test]
fn a_token_is_made_once_and_handed_out() {
    let office = Office::open();
    let ids = || office.configure("list account-tokens -o id").ok().lines().count();
    let before = ids();
    office.lose(1);
    let made = office.configure("create account-token --role viewer -o json").json();
    assert!(office.was_lost());
    assert_eq!(ids(), before + 1);
    fs::write(office.path("token"), made["token"].as_str().unwrap()).unwrap();
    let who = office.configure("whoami --tokenFile token -o id");
    assert_eq!(who.ok().trim_end(), made["id"].as_str().unwrap());
}

#[test]
fn the_token_in_use_is_rotated_once_and_never_lost() {
    let office = Office::open();
    let id = office.configure("whoami -o id").ok().trim_end().to_owned();
    let secrets = || {
        let status = office.configure(&format!("rotation status {id} --kind account -o json"));
        let status = status.json();
        let live = |secret: &&serde_json::Value| secret["state"] != "ended";
        status["secrets"].as_array().unwrap().iter().filter(live).count()
    };
    // The first call finds the token, the second rotates it. With an overlap
    // the old secret asks again.
    office.lose(2);
    let run = office.configure(&format!("rotate account-token {id}"));
    assert!(run.ok().starts_with("flxa_") && office.was_lost(), "{}", run.stderr);
    let creds = || fs::read_to_string(office.path("elsewhere/configure/creds")).unwrap();
    assert!(creds().contains(run.stdout.trim_end()));
    assert_eq!(secrets(), 2);
    // Without one it is refused, and the new secret finds out.
    office.lose(2);
    let run = office.configure(&format!("rotate account-token {id} --emergency"));
    assert!(run.ok().starts_with("flxa_") && office.was_lost(), "{}", run.stderr);
    assert!(creds().contains(run.stdout.trim_end()));
    assert_eq!(secrets(), 1);
    // Also where no file keeps it: it is handed out.
    fs::write(office.path("token"), run.stdout.as_bytes()).unwrap();
    office.lose(2);
    let run = office.sh(
        "elsewhere",
        &format!(
            "FLEXFS_TOKEN=file:$PWD/token configure.flexfs rotate account-token {id} --emergency"
        ),
    );
    assert!(run.ok().starts_with("flxa_") && office.was_lost(), "{}", run.stderr);
    fs::write(office.path("token"), run.stdout.as_bytes()).unwrap();
    assert_eq!(office.configure("whoami --tokenFile token -o id").ok().trim_end(), id);
    let left = fs::read_dir(office.path("elsewhere/configure")).unwrap().count();
    assert_eq!(left, 1, "only the credentials are left");
}
