//! Programs that trust a file system with their lives: SQLite, PostgreSQL,
//! rsync, tar. (git, cargo and trees of sources: files.rs.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexfs_tests::files::{make_tree, sh};
use flexfs_tests::tools::{big, tool};
use flexfs_tests::{Cluster, Run};

/// No program here takes longer.
const LIMIT: Duration = Duration::from_secs(300);

fn sqlite(database: &Path, script: &str) -> Run {
    let mut command = Command::new(tool("sqlite3"));
    command.args(["-batch", "-bail"]).arg(database);
    Run::with_input(&mut command, script.as_bytes(), LIMIT)
}

/// Several processes write at once, each waiting for the others' locks.
fn sqlite_writers(databases: &[&Path], journal: &str) {
    let rows = if big() { 1000 } else { 40 };
    let create = format!("PRAGMA journal_mode={journal}; CREATE TABLE t (who, n, filler);");
    assert_eq!(sqlite(databases[0], &create).ok().trim(), journal);
    let insert: String = (0..rows)
        .map(|n| format!("INSERT INTO t VALUES (:who, {n}, randomblob({}));\n", n * 37 % 3000))
        .collect();
    std::thread::scope(|scope| {
        for (who, database) in databases.iter().enumerate() {
            let script = format!(".timeout 240000\n.param set :who {who}\n{insert}");
            scope.spawn(move || sqlite(database, &script).ok().to_owned());
        }
    });
    let expected = format!("{}|{}\nok\n", databases.len() * rows, databases.len());
    let ask = "SELECT count(*), count(DISTINCT who) FROM t; PRAGMA integrity_check;";
    for database in databases {
        assert_eq!(sqlite(database, ask).ok(), expected);
    }
}

#[test]
fn sqlite_keeps_what_several_writers_commit_through_one_mount() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    for journal in ["delete", "truncate", "persist", "wal"] {
        let database = mount.path(journal);
        sqlite_writers(&[&database, &database, &database], journal);
    }
    mount.stop();
    let again = cluster.mount("work", &token);
    for journal in ["delete", "truncate", "persist", "wal"] {
        assert_eq!(sqlite(&again.path(journal), "PRAGMA integrity_check;").ok(), "ok\n");
    }
    cluster.verify_clean();
}

/// Rollback journals: locks and contents are of one piece across mounts. (WAL
/// needs memory that is shared, which two machines have not.)
#[test]
fn sqlite_keeps_what_writers_commit_through_two_mounts() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let (a, b) = (cluster.mount("work", &token), cluster.mount("work", &token));
    for journal in ["delete", "truncate", "persist"] {
        let (on_a, on_b) = (a.path(journal), b.path(journal));
        sqlite_writers(&[&on_a, &on_b, &on_a, &on_b], journal);
    }
    cluster.verify_clean();
}

#[test]
fn rsync_copies_everything_there_and_back() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let (source, target, back) =
        (cluster.root().join("source"), mount.path("target"), cluster.root().join("back"));
    make_tree(&source, 250);
    odd_files(&source);
    let copy = "rsync -aHAX --modify-window=-1 --sparse \"$1/\" \"$2/\"";
    // Times to the nanosecond: it takes equal seconds for equal else.
    let differ = "rsync -aHAX --modify-window=-1 --checksum --delete --dry-run \
                  --itemize-changes \"$1/\" \"$2/\"";
    for (from, to) in [(&source, &target), (&target, &back)] {
        sh(copy, &[from, to]);
        assert_eq!(sh(differ, &[from, to]), "");
    }
    // A change of one file is all that is found and sent.
    fs::write(source.join("alone"), "changed\n").unwrap();
    let changed = sh(differ, &[&source, &target]);
    assert_eq!(changed.lines().count(), 1, "{changed}");
    sh(copy, &[&source, &target]);
    assert_eq!(sh(differ, &[&source, &target]), "");
    same(&source, &target);
    cluster.verify_clean();
}

#[test]
fn tar_keeps_sparse_files_links_and_fifos() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let (source, target, back) =
        (cluster.root().join("source"), mount.path("target"), cluster.root().join("back"));
    make_tree(&source, 300);
    odd_files(&source);
    let copy = "mkdir \"$2\"; tar -C \"$1\" --sparse --xattrs -cf - . | \
                tar -C \"$2\" --xattrs -xpf -";
    sh(copy, &[&source, &target]);
    let other = cluster.mount("work", &token);
    sh(copy, &[&other.path("target"), &back]);
    same(&source, &other.path("target"));
    same(&source, &back);
    for tree in [&target, &back] {
        let sparse = fs::metadata(tree.join("sparse")).unwrap();
        assert_eq!(sparse.len(), 3 << 30);
        assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    }
    cluster.verify_clean();
}

/// What archives tend to lose.
fn odd_files(directory: &Path) {
    let script = "cd \"$1\"; echo plain >plain; chmod 6751 plain; mkfifo -m 640 fifo; \
                  ln plain hard; ln -s 'no where' soft; truncate -s 3G sparse; \
                  printf middle | dd of=sparse bs=1 seek=1073741824 conv=notrunc status=none; \
                  mkdir -m 3775 sticky; \
                  touch -d '1969-12-31 23:59:58.123456789Z' plain; \
                  touch -d '2200-01-01 00:00:00.5Z' sticky";
    sh(script, &[directory]);
    fs::write(directory.join("alone"), "").unwrap();
    fs::write(directory.join("tab\tand\nnewline"), "").unwrap();
    let name = directory.join("plain");
    rustix::fs::setxattr(&name, "user.colour", b"a\0b", rustix::fs::XattrFlags::empty()).unwrap();
}

/// Two trees do not differ.
#[track_caller]
fn same(one: &Path, other: &Path) {
    let (one, other) = (listing(one), listing(other));
    let differ: Vec<_> = one.lines().zip(other.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(one == other, "{differ:#?}");
}

/// Types, modes, owners, links, sizes, times to the nanosecond, attributes,
/// and sums of contents (of the sparse file: its size is enough).
fn listing(directory: &Path) -> String {
    let script = "cd \"$1\"; find . -mindepth 1 -printf '%P|%y|%m|%l|%U:%G|%T@|' \
                  \\( -type f -printf '%n|%s\\n' -o -printf '\\n' \\) | sort; \
                  find . -type f ! -name sparse -print0 | sort -z | xargs -0 sha256sum; \
                  find . -type f -links +1 | sort";
    let xattr = {
        let mut value = [0; 8];
        let name = directory.join("plain");
        let len = rustix::fs::getxattr(&name, "user.colour", &mut value).unwrap();
        format!("{:?}", &value[..len])
    };
    sh(script, &[directory]) + &xattr
}
