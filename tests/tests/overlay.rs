//! flexfs below overlayfs: what is written over a tree of the machine lies on a
//! volume, whiteouts and all, and another mount goes on with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too, and say what they leave out"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flexfs_tests::files::sh;
use flexfs_tests::{Cluster, Mount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

/// A tree of the machine's own with changes of it on a volume.
struct Overlay {
    dir: PathBuf,
}

impl Overlay {
    fn mount(cluster: &Cluster, lower: &Path, changes: &Mount) -> Overlay {
        let dir = cluster.root().join("merged");
        fs::create_dir_all(&dir).unwrap();
        for name in ["upper", "work"] {
            fs::create_dir_all(changes.path(name)).unwrap();
        }
        // Renamed directories are followed, not copied.
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,index=off",
            lower.display(),
            changes.path("upper").display(),
            changes.path("work").display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&dir);
        let output = mount.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Overlay { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn unmount(self) {
        let status = Command::new("umount").arg(&self.dir).status().unwrap();
        assert!(status.success());
        std::mem::forget(self);
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // A test that fails.
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}

/// Names, kinds, modes and contents of everything below.
fn picture(dir: &Path) -> String {
    sh("cd \"$1\" && find . -printf '%P %y %m %l\\n' -type f -exec cksum {} + | sort", &[dir])
}

fn has_overlay() -> bool {
    let has = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        known.split_whitespace().any(|word| word == "overlay")
    };
    // It may be a module; where it cannot be loaded, there is none.
    has() || (Command::new("modprobe").arg("overlay").status().is_ok() && has())
}

#[test]
fn changes_of_an_overlay_lie_on_a_volume_and_move_to_another_mount() {
    if !rustix::process::geteuid().is_root() || !has_overlay() {
        eprintln!("skipped: only root can mount overlayfs, and only where the kernel has it");
        return;
    }
    let cluster = Cluster::start();
    let token = cluster.volume("changes");
    let (one, two) = (cluster.mount("changes", &token), cluster.mount("changes", &token));
    let lower = cluster.root().join("lower");
    fs::create_dir_all(lower.join("dir/inner")).unwrap();
    fs::create_dir_all(lower.join("again")).unwrap();
    for name in ["kept", "changed", "removed", "moved", "dir/f", "dir/inner/f", "again/old"] {
        fs::write(lower.join(name), format!("{name} of the machine")).unwrap();
    }
    let before = picture(&lower);
    let merged = Overlay::mount(&cluster, &lower, &one);
    assert_eq!(picture(&merged.dir), before);
    let mut changed = File::options().append(true).open(merged.path("changed")).unwrap();
    changed.write_all(b", and of the volume").unwrap();
    changed.sync_all().unwrap();
    drop(changed);
    fs::remove_file(merged.path("removed")).unwrap();
    fs::rename(merged.path("moved"), merged.path("dir/moved")).unwrap();
    fs::rename(merged.path("dir"), merged.path("renamed")).unwrap();
    fs::remove_dir_all(merged.path("again")).unwrap();
    fs::create_dir(merged.path("again")).unwrap();
    fs::write(merged.path("again/new"), vec![7; 300_000]).unwrap();
    // A file without a name passes through.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(open(&merged.dir, flags, Mode::from_raw_mode(0o640)).unwrap());
    file.write_all(b"named late").unwrap();
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, merged.path("late"), AtFlags::SYMLINK_FOLLOW).unwrap();
    drop(file);
    assert!(fs::metadata(merged.path("removed")).is_err());
    assert_eq!(fs::read(merged.path("renamed/inner/f")).unwrap(), b"dir/inner/f of the machine");
    let names = fs::read_dir(merged.path("again")).unwrap().count();
    assert_eq!(names, 1, "what lies below a new directory does not shine through");
    let after = picture(&merged.dir);
    merged.unmount();
    assert_eq!(picture(&lower), before, "the machine's own tree is as it was");
    // Overlayfs has renamed things, and left whiteouts where they were.
    for name in ["removed", "moved", "dir"] {
        let found = fs::symlink_metadata(two.path("upper").join(name)).unwrap();
        assert_eq!((found.mode() & 0o170_000, found.rdev()), (0o020_000, 0), "{name}");
    }
    let merged = Overlay::mount(&cluster, &lower, &two);
    assert_eq!(picture(&merged.dir), after);
    fs::write(merged.path("removed"), "made again").unwrap();
    assert_eq!(fs::read(merged.path("removed")).unwrap(), b"made again");
    merged.unmount();
    one.stop();
    two.stop();
    cluster.verify_clean();
}
