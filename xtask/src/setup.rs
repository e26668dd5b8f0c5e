//! What tests and demo need of the machine, beyond Rust and a C compiler.

use std::path::Path;
use std::process::Command;

use crate::{Result, shell, tools};

/// What the machine is set up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Test,
    Demo,
}

/// A Debian package, and how to see that what it brings is there.
struct Need {
    package: &'static str,
    found: fn() -> bool,
    purposes: &'static [Purpose],
}

const NEEDS: &[Need] = &[
    Need {
        package: "fuse3",
        found: || shell::find_program("fusermount3").is_some(),
        purposes: &[Purpose::Test, Purpose::Demo],
    },
    Need { package: "postgresql", found: || postgres_bin().is_some(), purposes: &[Purpose::Test] },
    // Clocks that jump, for tests.
    Need { package: "libfaketime", found: has_faketime, purposes: &[Purpose::Test] },
    Need {
        package: "git",
        found: || shell::find_program("git").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "acl",
        found: || shell::find_program("setfacl").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "attr",
        found: || shell::find_program("setfattr").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "tar",
        found: || shell::find_program("tar").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "diffutils",
        found: || shell::find_program("diff").is_some(),
        purposes: &[Purpose::Test],
    },
    // Suites for file systems (tests/tests/data_suites.rs, applications.rs).
    Need {
        package: "stress-ng",
        found: || shell::find_program("stress-ng").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "fio",
        found: || shell::find_program("fio").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "dbench",
        found: || shell::find_program("dbench").is_some(),
        purposes: &[Purpose::Test],
    },
    // ping_pong is Samba's test of byte-range locks.
    Need {
        package: "ctdb",
        found: || shell::find_program("ping_pong").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "rsync",
        found: || shell::find_program("rsync").is_some(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "sqlite3",
        found: || shell::find_program("sqlite3").is_some(),
        purposes: &[Purpose::Test],
    },
    // pjdfstest links to it.
    Need {
        package: "libacl1-dev",
        found: || Path::new("/usr/include/sys/acl.h").exists(),
        purposes: &[Purpose::Test],
    },
    Need {
        package: "ca-certificates",
        found: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        purposes: &[Purpose::Test, Purpose::Demo],
    },
];

/// Installs what is missing as root on Debian and Ubuntu, else names the
/// command.
pub(crate) fn run(purpose: Purpose) -> Result {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| need.purposes.contains(&purpose) && !(need.found)())
        .map(|need| need.package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if purpose == Purpose::Test {
        tools::install()?;
    }
    check_fuse()?;
    check_allow_other()
}

/// Mounts are for every user of the machine, as a daemon's would be; for
/// others than root that is allowed by a line in this file (fusermount3(1)).
fn check_allow_other() -> Result {
    const LINE: &str = "user_allow_other";
    let allowed = std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == LINE));
    if allowed || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(format!("please run: echo {LINE} | sudo tee -a /etc/fuse.conf").into())
}

fn install(packages: &[&str]) -> Result {
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    let has_apt = shell::find_program("apt-get").is_some();
    if !has_apt {
        return Err(format!(
            "this machine lacks {}; on Debian and Ubuntu: {line}; elsewhere install the same \
             with your package tool",
            packages.join(", ")
        )
        .into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("please run: sudo {line}").into());
    }
    eprintln!("installing {}", packages.join(", "));
    if apt_install(packages).is_ok() {
        return Ok(());
    }
    // The package lists are missing or old.
    shell::run(Command::new("apt-get").args(["update", "-q"]))?;
    apt_install(packages)
}

fn apt_install(packages: &[&str]) -> Result {
    shell::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages),
    )
}

fn check_fuse() -> Result {
    if Path::new("/dev/fuse").exists() {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() && shell::find_program("modprobe").is_some() {
        // Its outcome shows in /dev/fuse.
        let _ = Command::new("modprobe").arg("fuse").status();
    }
    if Path::new("/dev/fuse").exists() {
        return Ok(());
    }
    Err("there is no /dev/fuse. Load the kernel module (`modprobe fuse`); a container needs \
         `--device /dev/fuse --cap-add SYS_ADMIN`"
        .into())
}

/// Where Debian keeps PostgreSQL's server programs (they are not in PATH), or
/// the directory of the `initdb` in PATH.
fn postgres_bin() -> Option<std::path::PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|entry| entry.path().join("bin")).find(|d| d.join("initdb").exists());
    debian.or_else(|| shell::find_program("initdb")?.parent().map(Path::to_owned))
}

/// Below /usr/lib/ARCHITECTURE, where the tests look for it, too.
fn has_faketime() -> bool {
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places.into_iter().any(|place| place.path().join("faketime/libfaketimeMT.so.1").exists())
}
