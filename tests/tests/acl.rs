//! Access control lists on real mounts, with the programs that people use, and
//! against what the machine's own file system makes of the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use flexfs_tests::files::Noise;
use flexfs_tests::wait::pass;
use flexfs_tests::{Cluster, Mount, wait_until, within};
use rustix::process::Signal;

/// Rounds of the litmus tests: some seconds in a debug build.
const ROUNDS: usize = 40;
/// Longer than anything is kept without asking (a lease).
const LEASE: Duration = Duration::from_secs(11);

const ACCESS: &str = "system.posix_acl_access";

/// Only root can act as other users.
fn may_act() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can act as other users");
    }
    root
}

/// A script in a directory as a user whose first group has the same number.
fn run_as(uid: u32, groups: &str, dir: &Path, script: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.args(["sh", "-c", script]).current_dir(dir).env("LC_ALL", "C");
    command.output().expect("setpriv (util-linux) runs")
}

fn can(uid: u32, dir: &Path, script: &str) -> bool {
    run_as(uid, "", dir, script).status.success()
}

#[track_caller]
fn root(dir: &Path, script: &str) -> String {
    let output = run_as(0, "", dir, script);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn pair(cluster: &Cluster) -> (Mount, Mount) {
    let token = cluster.volume("shared");
    (cluster.mount("shared", &token), cluster.mount("shared", &token))
}

/// Everything below a directory: owners, modes, lists.
fn picture(dir: &Path) -> String {
    let lists = "find . ! -type l -print0 | sort -z | xargs -0 getfacl -n";
    root(dir, &format!("{lists} && find . -printf '%p %m %u %g\\n' | sort"))
}

#[test]
fn setfacl_grants_and_refuses_and_getfacl_shows_it() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, _b) = pair(&cluster);
    let dir = a.dir();
    root(dir, "umask 077; echo secret >f; mkdir d; echo secret >d/f; chmod 644 d/f");
    assert!(!can(1001, dir, "cat f") && !can(1001, dir, "cat d/f"));
    root(dir, "setfacl -m u:1001:rw,g:2000:r f && setfacl -m u:1001:x d");
    assert_eq!(
        root(dir, "getfacl -nc f"),
        "user::rw-\nuser:1001:rw-\ngroup::---\ngroup:2000:r--\nmask::rw-\nother::---\n\n"
    );
    assert_eq!(root(dir, "stat -c %A f"), "-rw-rw----\n", "the group's bits are the mask");
    assert!(can(1001, dir, "cat f && echo more >>f && cat d/f"));
    assert!(!can(1001, dir, "ls d") && !can(1001, dir, "touch d/new"));
    assert!(!can(1002, dir, "cat f") && !can(1002, dir, "cat d/f"));
    assert!(run_as(1002, "2000", dir, "cat f").status.success());
    assert!(!run_as(1002, "2000", dir, "echo >>f").status.success());
    root(dir, "chmod g=r f");
    assert!(can(1001, dir, "cat f") && !can(1001, dir, "echo >>f"), "the mask bounds");
    root(dir, "setfacl -m u:1001:- f && chmod o=r f");
    assert!(!can(1001, dir, "cat f") && can(1002, dir, "cat f"), "refused by name");
    assert!(!can(1001, dir, "setfacl -m u:1001:rw f"), "only the owner changes a list");
    root(dir, "chown 1001 f && chmod u=r f");
    assert!(can(1001, dir, "cat f && setfacl -b f && setfacl -m u:1002:r f"));
    root(dir, "setfacl -b f d");
    assert_eq!(
        root(dir, "getfattr -m - f d/f d; getfacl -nc d"),
        "user::rwx\ngroup::---\nother::---\n\n"
    );
    let error = run_as(0, "", dir, "setfacl -d -m u:1:r f");
    assert!(!error.status.success());
    cluster.verify_clean();
}

#[test]
fn a_changed_list_holds_at_once_on_the_other_mount() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    root(a.dir(), "umask 022; mkdir d d/e; echo secret >d/e/f");
    let open = |mount: &Mount| can(1001, mount.dir(), "cat d/e/f && ls d/e");
    let stat = |mount: &Mount| can(1001, mount.dir(), "stat d/e/f");
    assert!(open(&a) && open(&b));
    for round in 0..ROUNDS {
        let (x, y) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        // On the file: who reads it; the kernels of both are warm.
        root(x.dir(), "setfacl -m u:1001:- d/e/f");
        assert!(!open(y) && stat(y), "round {round}: refused by the file");
        root(y.dir(), "setfacl -b d/e/f");
        assert!(open(x) && open(y), "round {round}: granted by the file");
        // On a directory: what is below is kept by name.
        root(x.dir(), "setfacl -m u:1001:- d");
        assert!(!stat(y) && !stat(x), "round {round}: refused by the directory");
        root(x.dir(), "setfacl -m u:1001:x d");
        assert!(stat(y) && open(y), "round {round}: granted by the directory");
        // By a mode, which is the mask.
        root(y.dir(), "setfacl -m u:1001:rx,o:- d/e && chmod g=x d/e");
        assert!(stat(x) && !open(x), "round {round}: masked");
        root(x.dir(), "chmod g=rx d/e");
        assert!(open(y), "round {round}: unmasked");
        // All of it: nobody is what others are because a mask is empty.
        root(x.dir(), "setfacl -m u:1001:rx,o:rx d/e && chmod g=rx d/e");
        assert!(stat(x) && stat(y), "round {round}: warm");
        root(x.dir(), "chmod g= d/e");
        assert!(!stat(y) && !stat(x), "round {round}: an empty mask");
        root(y.dir(), "setfacl -b d d/e && chmod 755 d d/e");
    }
    cluster.verify_clean();
}

/// A process that asks without a pause, until dropped.
struct Hammer(Child);

impl Hammer {
    fn new(dir: &Path, script: &str) -> Hammer {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1001", "--regid", "1001", "--clear-groups", "sh", "-c"]);
        command.arg(format!("while :; do {script}; done >/dev/null 2>&1")).current_dir(dir);
        Hammer(command.spawn().expect("setpriv (util-linux) runs"))
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        // It runs for ever, so it is there.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_changed_list_holds_at_once_where_it_is_being_asked_for() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    root(a.dir(), "umask 022; mkdir d; echo secret >d/f");
    let asking = "read x <d/f; test -r d/f; cd d && cd ..; getfacl d d/f";
    let _hammers = [Hammer::new(a.dir(), asking), Hammer::new(b.dir(), asking)];
    let open = File::open(b.path("d/f")).unwrap();
    let size = || {
        let mut bytes = [0_u8; 4096];
        rustix::fs::fgetxattr(&open, ACCESS, &mut bytes[..]).ok()
    };
    for round in 0..ROUNDS {
        let (x, y) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        root(x.dir(), "setfacl -m u:1001:- d/f");
        assert_eq!(size(), Some(4 + 5 * 8), "round {round}");
        assert!(!can(1001, y.dir(), "read x <d/f"), "round {round}: refused by the file");
        root(x.dir(), "setfacl -b d/f && setfacl -m u:1001:- d");
        assert_eq!(size(), None, "round {round}");
        assert!(!can(1001, y.dir(), "test -e d/f"), "round {round}: refused by the directory");
        root(y.dir(), "setfacl -b d");
        assert!(can(1001, x.dir(), "read x <d/f"), "round {round}: granted");
    }
}

#[test]
fn a_list_is_not_kept_longer_than_it_may_be() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    root(a.dir(), "echo secret >f; chmod 644 f; ln f g; setfacl -m u:1001:rw f");
    let size = |file: &File| {
        let mut bytes = [0_u8; 4096];
        rustix::fs::fgetxattr(file, ACCESS, &mut bytes[..]).unwrap()
    };
    // Through an open descriptor nothing but the kernel's copy is asked.
    let open = File::open(b.path("f")).unwrap();
    assert_eq!(size(&open), 4 + 5 * 8);
    assert!(can(1001, b.dir(), "cat f"));
    // Its right to keep that ends by time, so that nobody recalls it.
    pass(LEASE);
    root(a.dir(), "setfacl -m u:1001:-,u:1002:r f");
    assert_eq!(size(&open), 4 + 6 * 8);
    assert!(!can(1001, b.dir(), "cat g"), "by another name, which brings new attributes");
    assert!(can(1002, b.dir(), "cat g"));
    // Somebody who changes it often leaves nobody a right to keep it.
    for round in 0..20_u32 {
        let named = (0..=round).map(|id| format!(",u:{}:r", 3000 + id)).collect::<String>();
        root(a.dir(), &format!("setfacl -m u:1002:r{named} f"));
        let expected = usize::try_from(7 + round).unwrap();
        assert_eq!(size(&open), 4 + expected * 8, "round {round}");
    }
}

#[test]
fn that_there_is_no_list_is_known_without_asking() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, _b) = pair(&cluster);
    let script = "umask 022; mkdir -p d/e && stat . d d/e";
    root(a.dir(), script);
    // Owners need no list: the kernel has not asked for any so far.
    cluster.signal_meta(Signal::STOP);
    let dir = a.dir().to_owned();
    let seen = within("stat by another user", Duration::from_secs(4), move || {
        run_as(1001, "", &dir, "stat -c %a d/e d")
    });
    cluster.signal_meta(Signal::CONT);
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "755\n755\n");
    root(a.dir(), "setfacl -m u:1001:- d");
    assert!(!can(1001, a.dir(), "stat d/e"));
}

#[test]
fn copies_keep_lists() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let script = "mkdir from && cd from && mkdir d && setfacl -d -m u:1001:rwx,g:2000:rx d && \
                  mkdir d/e && echo 1 >d/f && echo 2 >d/e/g && setfacl -m u:1002:- d/f && \
                  ln -s d/f l && chmod 2770 d/e && setfacl -m m::r d/e/g && setfattr -n user.a -v 1 d/f";
    let local = tempfile::tempdir().unwrap();
    for dir in [local.path(), a.dir()] {
        root(dir, script);
    }
    let original = picture(&local.path().join("from"));
    assert_eq!(picture(&a.path("from")), original, "made the same");
    root(b.dir(), "cp -a from copied");
    assert_eq!(picture(&a.path("copied")), original, "cp -a on the mount");
    root(a.dir(), &format!("cp -a '{}/from' arrived", local.path().display()));
    assert_eq!(picture(&b.path("arrived")), original, "cp -a onto the mount");
    root(b.dir(), &format!("cp -a from '{}/back'", local.path().display()));
    assert_eq!(picture(&local.path().join("back")), original, "cp -a from the mount");
    root(a.dir(), "getfacl -R from >list && mkdir bare && cp -r from/. bare");
    root(
        b.dir(),
        "setfacl -R -b -k bare && cd bare && sed 's|^# file: from/*|# file: ./|' ../list | setfacl --restore=-",
    );
    assert_eq!(picture(&a.path("bare")), original, "setfacl --restore");
    root(
        a.dir(),
        "tar --acls --xattrs -cf list.tar from && mkdir out && tar --acls --xattrs -xpf list.tar -C out",
    );
    assert_eq!(picture(&b.path("out/from")), original, "tar --acls");
    if Command::new("rsync").arg("--version").output().is_ok() {
        root(a.dir(), &format!("rsync -aAX from/ '{}/synced/'", local.path().display()));
        assert_eq!(picture(&local.path().join("synced")), original, "rsync -A from the mount");
        root(b.dir(), &format!("rsync -aAX '{}/from/' synced/", local.path().display()));
        assert_eq!(picture(&a.path("synced")), original, "rsync -A onto the mount");
    } else {
        eprintln!("not tried: there is no rsync");
    }
    cluster.verify_clean();
}

#[test]
fn lists_survive_a_restart_of_meta_and_a_new_mount() {
    if !may_act() {
        return;
    }
    let mut cluster = Cluster::start();
    let token = cluster.volume("shared");
    let mount = cluster.mount("shared", &token);
    root(
        mount.dir(),
        "umask 077; mkdir d && setfacl -d -m u:1001:rwx d && setfacl -m u:1001:rwx d && echo 1 >d/f",
    );
    let before = picture(&mount.path("d"));
    assert!(can(1001, mount.dir(), "cat d/f") && !can(1002, mount.dir(), "cat d/f"));
    cluster.kill9_meta();
    cluster.restart_meta();
    assert_eq!(picture(&mount.path("d")), before);
    assert!(can(1001, mount.dir(), "cat d/f && echo 2 >d/g"));
    assert!(!can(1002, mount.dir(), "cat d/f") && !can(1002, mount.dir(), "ls d"));
    root(mount.dir(), "rm d/g && setfacl -m u:1002:r d/f && setfacl -m u:1002:x d");
    let before = picture(&mount.path("d"));
    mount.stop();
    let again = cluster.mount("shared", &token);
    assert_eq!(picture(&again.path("d")), before);
    assert!(can(1002, again.dir(), "cat d/f") && !can(1002, again.dir(), "ls d"));
    again.stop();
    cluster.verify_clean();
}

#[test]
fn squashed_pinned_and_scoped_sessions_heed_lists() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let token = cluster.volume("shared");
    let all = cluster.mount("shared", &token);
    root(all.dir(), "mkdir -p a/b && echo secret >a/b/f && chmod 700 a/b && chmod 600 a/b/f");
    let squash = cluster.volume_token("shared", &["--flags", "rootSquash", "--mountPath", "/a"]);
    let pinned = cluster.volume_token("shared", &["--uid", "1001", "--gid", "1001"]);
    let squashed = cluster.mount("shared", &squash);
    let pinned = cluster.mount("shared", &pinned);
    let read = |mount: &Mount, uid, path: &str| can(uid, mount.dir(), &format!("cat {path}"));
    for _ in 0..10 {
        assert!(!read(&squashed, 0, "b/f") && !read(&pinned, 0, "a/b/f"));
        root(all.dir(), "setfacl -m u:65534:x,u:1001:x a/b && setfacl -m u:65534:r a/b/f");
        assert!(read(&squashed, 0, "b/f"), "nobody may, and root is nobody here");
        assert!(!read(&squashed, 1001, "b/f") && !read(&pinned, 0, "a/b/f"));
        root(all.dir(), "setfacl -m u:1001:r a/b/f");
        assert!(read(&squashed, 1001, "b/f") && read(&pinned, 0, "a/b/f"));
        assert!(read(&pinned, 1002, "a/b/f") && !read(&squashed, 1002, "b/f"));
        let mode = fs::metadata(squashed.path("b/f")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o640, "the mask is seen there too");
        assert!(!can(0, squashed.dir(), "setfacl -m u:0:rwx b/f"), "not the owner");
        root(all.dir(), "setfacl -b a/b a/b/f && chmod 700 a/b && chmod 600 a/b/f");
    }
    // What an owner sets there, its own kernel shows at once.
    root(all.dir(), "mkdir a/own && chown 1002:1002 a/own");
    let open = File::open(squashed.path("own")).unwrap();
    for (perm, bits) in [("rwx", 0o775), ("r-x", 0o755), ("rwx", 0o775)] {
        // Asked for before, so that it may be kept.
        open.metadata().unwrap();
        assert!(can(1002, squashed.dir(), &format!("setfacl -m u:1001:{perm} own")));
        assert_eq!(open.metadata().unwrap().mode() & 0o777, bits);
        let output = run_as(1002, "", squashed.dir(), "stat -c %A own; getfacl -nc own");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("user:1001:{perm}\n")), "{text}");
        assert!(text.starts_with("drwx"), "{text}");
        let mask = text.lines().find_map(|line| line.strip_prefix("mask::")).unwrap();
        assert_eq!(&text[4..7], mask, "{text}");
    }
    cluster.verify_clean();
}

#[test]
fn a_volume_without_lists_has_none_and_one_without_attributes_has_them() {
    if !may_act() {
        return;
    }
    let cluster = Cluster::start();
    let none = cluster.mount("none", &cluster.volume_with("none", &["--flags", "noACL"]));
    root(none.dir(), "echo 1 >f; chmod 640 f; setfattr -n user.a -v 1 f");
    let refused = run_as(0, "", none.dir(), "setfacl -m u:1001:r f");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("Operation not supported"), "{why}");
    assert_eq!(root(none.dir(), "getfacl -nc f"), "user::rw-\ngroup::r--\nother::---\n\n");
    assert!(!can(1001, none.dir(), "cat f"));
    let bare = cluster.mount("bare", &cluster.volume_with("bare", &["--flags", "noXAttr"]));
    root(bare.dir(), "echo 1 >f; chmod 640 f; setfacl -m u:1001:r f");
    assert!(can(1001, bare.dir(), "cat f") && !can(1002, bare.dir(), "cat f"));
    assert!(!can(0, bare.dir(), "setfattr -n user.a -v 1 f"));
    assert_eq!(root(bare.dir(), "getfattr -m - f"), format!("# file: f\n{ACCESS}\n\n"));
    // Lists are taken from a volume that has some: its live mounts go by modes.
    let token = cluster.volume("later");
    let later = cluster.mount("later", &token);
    root(later.dir(), "mkdir d; echo 1 >d/f; setfacl -m u:1001:- d/f d");
    assert!(!can(1001, later.dir(), "cat d/f") && can(1002, later.dir(), "cat d/f"));
    cluster.configure(&["update", "volume", "later", "--flags", "noACL"]).ok();
    wait_until("modes decide", Duration::from_secs(30), || can(1001, later.dir(), "cat d/f"));
    assert!(!can(0, later.dir(), "setfacl -m u:1001:rwx d/f"));
    // And the reverse: this mount's kernel goes by modes, which lists change.
    root(none.dir(), "mkdir d; echo 1 >d/f; touch probe");
    cluster.configure(&["update", "volume", "none", "--flags", "none"]).ok();
    wait_until("lists can be set", Duration::from_secs(30), || {
        can(0, none.dir(), "setfacl -m u:1:r probe")
    });
    assert!(can(1001, none.dir(), "stat d/f"));
    root(none.dir(), "setfacl -m o::- d");
    assert!(!can(1001, none.dir(), "stat d/f"));
    root(none.dir(), "setfacl -m u:1001:-,o:rx d");
    assert!(!can(1001, none.dir(), "stat d/f") && can(1002, none.dir(), "stat d/f"));
    cluster.configure(&["update", "volume", "later", "--flags", "none"]).ok();
    wait_until("lists decide", Duration::from_secs(30), || !can(1001, later.dir(), "cat d/f"));
    cluster.verify_clean();
}

/// One random step: who does what.
fn step(noise: &mut Noise) -> (u32, &'static str, String) {
    fn any<'c>(noise: &mut Noise, choices: &[&'c str]) -> &'c str {
        choices[usize::try_from(noise.next_number() >> 33).unwrap() % choices.len()]
    }
    let users = [(0, ""), (1001, ""), (1002, "2000"), (1003, "2001,2000")];
    let (uid, groups) = users[usize::try_from(noise.next_number() >> 33).unwrap() % users.len()];
    let dirs = ["d", "d/e", "d/e/i"];
    let path = any(noise, &["d", "d/e", "d/e/i", "d/f", "d/e/g", "d/e/i/h", "d/e/g", "d/f"]);
    let file = any(noise, &["d/f", "d/e/g", "d/e/i/h"]);
    let dir = any(noise, &dirs);
    let umask = any(noise, &["022", "027", "007", "002"]);
    // Nobody's mask is empty: Linux goes by the mode then, and flexfs by the list.
    let perm = any(noise, &["r--", "rw-", "r-x", "rwx"]);
    let named = any(noise, &["r--", "rw-", "r-x", "rwx", "---"]);
    let who = any(noise, &["u:1001", "u:1002", "u:1003", "g:2000", "g:2001", "g:1001"]);
    let bits = any(noise, &["0644", "0750", "0770", "0745", "0674", "0755", "0477", "0057"]);
    let script = match noise.next_number() >> 33 {
        n if n % 20 < 3 => format!("umask {umask}; mkdir {dir}"),
        n if n % 20 < 6 => format!("umask {umask}; echo {n} >{file}"),
        n if n % 20 < 8 => format!("cat {file}; ls {dir}"),
        n if n % 20 < 9 => format!(
            "for p in {path} {file}; do test -r $p; echo $?; test -w $p; echo $?; test -x $p; echo $?; done"
        ),
        n if n % 20 < 11 => format!("chmod {bits} {path}"),
        n if n % 20 < 14 => format!("setfacl -m {who}:{named} {path}"),
        n if n % 20 < 15 => {
            format!("setfacl -m {}::{perm} {path}", any(noise, &["u", "g", "o", "m"]))
        }
        n if n % 20 < 16 => format!("setfacl -d -m {who}:{named},g::{perm} {dir}"),
        n if n % 20 < 17 => {
            format!(
                "setfacl {} {path}",
                any(noise, &["-b", "-k", "-x u:1001", "-x g:2000", "-b -k"])
            )
        }
        n if n % 20 < 18 => {
            format!("chown {} {path}", any(noise, &["1001:2000", "1002", "0:0", ":2001"]))
        }
        n if n % 20 < 19 => format!("rm -f {file}; mv d/f d/e/g"),
        // Whose files others may link is a setting of the machine
        // (fs.protected_hardlinks), and a matter of its kernel.
        _ if uid == 0 => format!("ln {file} {dir}/h && touch {file}"),
        _ => format!("touch {file}"),
    };
    (uid, groups, script)
}

/// The same random life on two mounts whose kernels check too, on one where
/// meta decides alone, and on this machine's own file system.
#[test]
fn a_random_life_is_that_of_the_machines_own_file_system() {
    if !may_act() {
        return;
    }
    let local = tempfile::tempdir().unwrap();
    fs::set_permissions(local.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(local.path().join("probe"), "").unwrap();
    if !run_as(0, "", local.path(), "setfacl -m u:1:r probe && rm probe").status.success() {
        eprintln!("skipped: the machine's own file system has no access control lists");
        return;
    }
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let squash = cluster.volume_token("shared", &["--flags", "rootSquash"]);
    let alone = cluster.mount("shared", &squash);
    let seed = std::env::var("FLEXFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) >> 1
    });
    eprintln!("FLEXFS_TEST_SEED={seed}");
    let mut noise = Noise::new(seed);
    for dir in [local.path(), a.dir()] {
        root(dir, "umask 022; mkdir d && chmod 777 d && echo 1 >d/f && mkdir d/e && chmod 777 d/e");
    }
    let mut history = Vec::new();
    for number in 0..400_u32 {
        let (uid, groups, script) = step(&mut noise);
        let mounts = [&a, &b, &alone];
        let which = usize::try_from(noise.next_number() >> 33).unwrap() % 3;
        // Root is nobody on the third.
        let mount = if uid == 0 { mounts[which % 2] } else { mounts[which] };
        history.push(format!("{uid} ({groups}) on {which}: {script}"));
        let told = |dir: &Path| {
            let output = run_as(uid, groups, dir, &script);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (own, theirs) = (told(local.path()), told(mount.dir()));
        let recent = history[history.len().saturating_sub(15)..].join("\n");
        assert_eq!(theirs, own, "step {number}, seed {seed}\n{recent}\n{}", picture(local.path()));
        let other = mounts[usize::try_from(number).unwrap() % 2];
        assert_eq!(
            picture(other.dir()),
            picture(local.path()),
            "after {number}, seed {seed}\n{recent}"
        );
    }
    cluster.verify_clean();
}
