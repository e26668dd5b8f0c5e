//! Real work on a mount: git, cargo, tar, a big file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::path::Path;

use flexfs_tests::Cluster;
use flexfs_tests::files::{make_tree, sh, sha256};
use flexfs_tests::process::repository;
use flexfs_tests::tools::big;

#[test]
fn git_clones_this_repository_and_fsck_is_clean() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let clone = mount.path("clone");
    sh("git clone -q --no-local \"$1\" \"$2\"", &[&repository(), &clone]);
    sh("cd \"$1\" && git fsck --full --strict && test -z \"$(git status --porcelain)\"", &[&clone]);
    // A working tree is worked in.
    sh("cd \"$1\" && echo more >> README.md && git commit -qam more && git gc -q", &[&clone]);
    mount.stop();
    let again = cluster.mount("work", &token);
    let clone = again.path("clone");
    sh("cd \"$1\" && git fsck --full && test -z \"$(git status --porcelain)\"", &[&clone]);
    cluster.verify_clean();
}

#[test]
fn cargo_builds_and_tests_a_crate() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let krate = mount.path("small");
    std::fs::create_dir_all(krate.join("src")).unwrap();
    let manifest =
        "[package]\nname = \"small\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[workspace]\n";
    std::fs::write(krate.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(krate.join("src/lib.rs"), "pub fn add(a: u32, b: u32) -> u32 { a + b }\n        #[test]\nfn adds() { assert_eq!(add(2, 3), 5); }\n").unwrap();
    std::fs::write(
        krate.join("src/main.rs"),
        "fn main() { println!(\"{}\", small::add(40, 2)) }\n",
    )
    .unwrap();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let build = "unset CARGO_TARGET_DIR RUSTFLAGS; cd \"$1\"; \"$2\" build -q --offline;                  \"$2\" test -q --offline >/dev/null; ./target/debug/small";
    assert_eq!(sh(build, &[&krate, Path::new(&cargo)]), "42\n");
    // Nothing to do the second time: the times of files are as cargo left them.
    let again = "unset CARGO_TARGET_DIR RUSTFLAGS; cd \"$1\"; \"$2\" build --offline 2>&1";
    let said = sh(again, &[&krate, Path::new(&cargo)]);
    assert!(!said.contains("Compiling"), "{said}");
    cluster.verify_clean();
}

#[test]
fn a_file_of_one_gibibyte_is_equal_after_a_remount() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let file = mount.path("big");
    let write = "head -c 1073741824 /dev/urandom | tee \"$1\" | sha256sum";
    let sum = sh(write, &[&file]).split(' ').next().unwrap().to_owned();
    mount.stop();
    let mount = cluster.mount("work", &token);
    let file = mount.path("big");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 30);
    assert_eq!(sha256(&file), sum);
    cluster.verify_clean();
}

#[test]
fn a_tree_of_thousands_of_files_from_tar_is_equal() {
    let cluster = Cluster::start();
    let token = cluster.volume("work");
    let mount = cluster.mount("work", &token);
    let source = cluster.root().join("tree");
    make_tree(&source, if big() { 8000 } else { 3000 });
    let target = mount.path("tree");
    std::fs::create_dir(&target).unwrap();
    sh("tar -C \"$1\" -cf - . | tar -C \"$2\" -xpf -", &[&source, &target]);
    sh("diff -r --no-dereference \"$1\" \"$2\"", &[&source, &target]);
    // Modes, times and sizes too, as another mount sees them.
    let other = cluster.mount("work", &token);
    let list = "cd \"$1\" && find . -mindepth 1 -printf '%P|%y|%m|%l|%U:%G|%Ts|' \
                \\( -type f -printf '%n|%s\\n' -o -printf '\\n' \\) | sort | sha256sum";
    assert_eq!(sh(list, &[&source]), sh(list, &[&other.path("tree")]));
    sh("rm -r \"$1\"", &[&target]);
    assert_eq!(std::fs::read_dir(other.dir()).unwrap().count(), 0);
    cluster.verify_clean();
}
