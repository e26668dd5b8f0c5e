//! Files without a name (open(2) with O_TMPFILE) and the name that linkat(2)
//! gives them, through one mount and two, and through deaths in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flexfs_tests::files::Noise;
use flexfs_tests::user::as_user;
use flexfs_tests::{Cluster, Mount, Token, wait_until, within};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

const MIB: usize = 1024 * 1024;
/// What nobody needs is collected in the background.
const COLLECTED: Duration = Duration::from_secs(30);
/// A call that meets a restart.
const BACK: Duration = Duration::from_secs(60);
/// Somebody without rights.
const NOBODY: u32 = 65_534;

fn nameless_with(dir: &Path, flags: OFlags, mode: u32) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | OFlags::CLOEXEC | flags;
    open(dir, flags, Mode::from_raw_mode(mode)).map(File::from)
}

fn nameless(dir: &Path) -> File {
    nameless_with(dir, OFlags::RDWR, 0o644).unwrap()
}

/// As open(2) shows it, for callers without CAP_DAC_READ_SEARCH.
fn name(file: &File, path: &Path) -> Result<(), Errno> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

fn written(dir: &Path, bytes: &[u8]) -> File {
    let mut file = nameless(dir);
    file.write_all(bytes).unwrap();
    file
}

fn contents(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn work(more: &[&str]) -> (Cluster, Token, Mount) {
    let cluster = Cluster::start();
    let token = cluster.volume_with("work", more);
    let mount = cluster.mount("work", &token);
    (cluster, token, mount)
}

#[test]
fn it_is_a_file_in_all_but_its_name() {
    let (cluster, token, mount) = work(&[]);
    let other = cluster.mount("work", &token);
    let bytes = Noise::new(1).bytes(3 * MIB);
    let file = written(mount.dir(), &bytes);
    let found = file.metadata().unwrap();
    assert_eq!((found.nlink(), found.len(), found.mode()), (0, 3 * MIB as u64, 0o100_644));
    assert!(contents(&file) == bytes);
    file.sync_all().unwrap();
    file.set_len(10).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    rustix::fs::fsetxattr(&file, "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(contents(&file), bytes[..10]);
    for mount in [&mount, &other] {
        assert_eq!(names(mount.dir()), [""; 0]);
    }
    // Its descriptor opens it once more.
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    drop(file);
    assert_eq!(contents(&again), bytes[..10]);
    drop(again);
    cluster.verify_clean();
}

#[test]
fn closed_without_a_name_it_is_gone_with_its_blocks() {
    // Two blocks of 4 MiB, the root and two more.
    let (cluster, _token, mount) = work(&["--maxBlocks", "2", "--maxInodes", "3"]);
    let full = written(mount.dir(), &Noise::new(2).bytes(6 * MIB));
    full.sync_all().unwrap();
    let second = nameless(mount.dir());
    assert_eq!(nameless_with(mount.dir(), OFlags::RDWR, 0o600).err(), Some(Errno::DQUOT));
    let put = |mut file: &File| {
        file.rewind()?;
        file.write_all(&Noise::new(3).bytes(6 * MIB))?;
        file.sync_all()
    };
    let refused = put(&second).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
    drop((full, second));
    wait_until("it is gone", COLLECTED, || {
        nameless_with(mount.dir(), OFlags::RDWR, 0o600).is_ok_and(|file| put(&file).is_ok())
    });
    cluster.verify_clean();
}

#[test]
fn linkat_gives_it_a_name_that_everybody_sees_at_once() {
    let (cluster, token, mount) = work(&[]);
    let other = cluster.mount("work", &token);
    for round in 0..10_u64 {
        let len = [0, 5_000, 20_000, MIB][(round % 4) as usize];
        let bytes = Noise::new(round).bytes(len);
        let label = format!("f{round}");
        // The other one knows that there is none; nothing is flushed here.
        assert!(fs::metadata(other.path(&label)).is_err());
        let mut file = written(mount.dir(), &bytes);
        name(&file, &mount.path(&label)).unwrap();
        assert!(fs::read(other.path(&label)).unwrap() == bytes, "{label}: what was buffered");
        assert_eq!(fs::metadata(other.path(&label)).unwrap().nlink(), 1);
        file.write_all(b"later").unwrap();
        assert_eq!(fs::metadata(other.path(&label)).unwrap().len(), len as u64 + 5);
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        assert_eq!(name(&file, &mount.path(&label)), Err(Errno::EXIST));
        fs::hard_link(other.path(&label), other.path("second")).unwrap();
        drop(file);
        fs::remove_file(mount.path(&label)).unwrap();
        assert_eq!(fs::metadata(mount.path("second")).unwrap().len(), len as u64 + 5);
        fs::remove_file(other.path("second")).unwrap();
    }
    cluster.verify_clean();
}

#[test]
fn only_what_never_had_a_name_and_may_have_one_gets_one() {
    let (cluster, _token, mount) = work(&[]);
    let path = mount.path("f");
    let exclusive = nameless_with(mount.dir(), OFlags::RDWR | OFlags::EXCL, 0o644).unwrap();
    assert_eq!(name(&exclusive, &path), Err(Errno::NOENT));
    let file = nameless(mount.dir());
    name(&file, &path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(name(&file, &path), Err(Errno::NOENT));
    let unlinked = File::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(name(&unlinked, &path), Err(Errno::NOENT));
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(name(&nameless(mount.dir()), &elsewhere.path().join("f")), Err(Errno::XDEV));
    // Wrong from the start.
    let refused = |flags: OFlags, dir: &Path| nameless_with(dir, flags, 0o600).unwrap_err();
    assert_eq!(refused(OFlags::RDONLY, mount.dir()), Errno::INVAL);
    fs::write(&path, "").unwrap();
    assert_eq!(refused(OFlags::RDWR, &path), Errno::NOTDIR);
    assert_eq!(refused(OFlags::RDWR, &mount.path("none")), Errno::NOENT);
    // Its directory may go; another one is as good.
    let (gone, kept) = (mount.path("gone"), mount.path("kept"));
    fs::create_dir(&gone).unwrap();
    fs::create_dir(&kept).unwrap();
    let directory = File::open(&gone).unwrap();
    let mut file = nameless(&gone);
    fs::remove_dir(&gone).unwrap();
    file.write_all(b"there").unwrap();
    let removed = format!("/proc/self/fd/{}", directory.as_raw_fd());
    // As every call on a directory that is gone.
    assert_eq!(refused(OFlags::RDWR, Path::new(&removed)), Errno::STALE);
    name(&file, &kept.join("f")).unwrap();
    assert_eq!(fs::read(kept.join("f")).unwrap(), b"there");
    cluster.verify_clean();
}

#[test]
fn in_a_directory_that_its_mount_has_just_made() {
    let (cluster, token, mount) = work(&[]);
    let other = cluster.mount("work", &token);
    for round in 0..20 {
        let dir = mount.path(&format!("d{round}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("held"), "held").unwrap();
        let file = written(&dir, b"nameless");
        fs::write(dir.join("held too"), "held").unwrap();
        name(&file, &dir.join("named")).unwrap();
        let there = other.path(&format!("d{round}"));
        assert_eq!(names(&there), ["held", "held too", "named"]);
        assert_eq!(fs::read(there.join("named")).unwrap(), b"nameless");
    }
    cluster.verify_clean();
}

#[test]
fn other_users_need_write_and_search_and_own_what_they_make() {
    let (cluster, _token, mount) = work(&[]);
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o711)).unwrap();
    let dir = mount.path("d");
    fs::create_dir(&dir).unwrap();
    let make = || nameless_with(&dir, OFlags::RDWR, 0o666);
    for mode in [0o755, 0o754, 0o752] {
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        assert_eq!(as_user(NOBODY, NOBODY, make).err(), Some(Errno::ACCESS), "{mode:o}");
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o773)).unwrap();
    chown(&dir, None, Some(77)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o2773)).unwrap();
    let closed = mount.path("closed");
    fs::create_dir(&closed).unwrap();
    as_user(NOBODY, NOBODY, || {
        let mut file = make().unwrap();
        file.write_all(b"mine").unwrap();
        assert_eq!(name(&file, &closed.join("f")), Err(Errno::ACCESS), "not where it is to be");
        name(&file, &dir.join("f")).unwrap();
        // Made with a name and with the same mode.
        File::create(dir.join("like")).unwrap();
    });
    let told = |found: fs::Metadata| (found.uid(), found.gid(), found.mode());
    let made = told(fs::metadata(dir.join("f")).unwrap());
    assert_eq!(made, told(fs::metadata(dir.join("like")).unwrap()));
    assert_eq!((made.0, made.1), (NOBODY, 77));
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"mine");
    assert_eq!(names(&closed), [""; 0]);
    cluster.verify_clean();
}

#[test]
fn flags_of_the_token_hold() {
    let (cluster, _token, mount) = work(&[]);
    fs::create_dir(mount.path("in")).unwrap();
    let token =
        |flags: &[&str]| cluster.volume_token("work", &[&["--mountPath", "/in"], flags].concat());
    let reader = cluster.mount("work", &token(&["--flags", "ro"]));
    assert_eq!(nameless_with(reader.dir(), OFlags::RDWR, 0o600).err(), Some(Errno::ROFS));
    fs::set_permissions(mount.path("in"), Permissions::from_mode(0o777)).unwrap();
    let pinned = token(&["--uid", "70", "--gid", "71"]);
    let pinned = cluster.mount_with("work", &pinned, &["--umask", "0077"]);
    name(&written(pinned.dir(), b"pinned"), &pinned.path("pinned")).unwrap();
    let found = fs::metadata(mount.path("in/pinned")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode()), (70, 71, 0o100_600));
    let adder = cluster.mount("work", &token(&["--rights", "append"]));
    let mut added = written(adder.dir(), b"added");
    name(&added, &adder.path("added")).unwrap();
    added.write_all(b" to").unwrap();
    added.sync_all().unwrap();
    assert!(added.set_len(0).is_err() && fs::remove_file(adder.path("added")).is_err());
    assert_eq!(fs::read(mount.path("in/added")).unwrap(), b"added to");
    cluster.verify_clean();
}

#[test]
fn meta_dies_before_it_has_a_name() {
    let (mut cluster, token, mount) = work(&[]);
    let bytes = Noise::new(4).bytes(2 * MIB);
    let (named, closed) = (written(mount.dir(), &bytes), written(mount.dir(), b"closed"));
    let buffered = written(mount.dir(), b"not flushed");
    named.sync_all().unwrap();
    closed.sync_all().unwrap();
    cluster.kill9_meta();
    cluster.restart_meta();
    for (file, label) in [(&named, "named"), (&buffered, "buffered")] {
        let (file, path) = (file.try_clone().unwrap(), mount.path(label));
        within("linkat", BACK, move || name(&file, &path)).unwrap();
    }
    drop(closed);
    let other = cluster.mount("work", &token);
    assert!(fs::read(other.path("named")).unwrap() == bytes);
    assert_eq!(fs::read(other.path("buffered")).unwrap(), b"not flushed");
    assert_eq!(names(other.dir()), ["buffered", "named"]);
    mount.stop();
    cluster.verify_clean();
}

/// At each commit while files are made and named; whether the answer or the
/// request was lost, each is named once.
#[cfg(debug_assertions)]
#[test]
fn meta_dies_while_it_gets_its_name() {
    let (mut cluster, token, mount) = work(&[]);
    let mut round = 0;
    for point in ["meta-commit-before", "meta-commit-after"] {
        for nth in 1..=6 {
            cluster.kill9_meta();
            cluster.restart_meta_to_die_at(&format!("{point}:{nth}"));
            let (dir, first) = (mount.dir().to_owned(), round);
            let died = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let mut made = first;
                    while !died.load(Ordering::Acquire) || made < first + 3 {
                        let file = written(&dir, format!("{made}").as_bytes());
                        name(&file, &dir.join(format!("f{made}"))).unwrap();
                        assert_eq!(file.metadata().unwrap().nlink(), 1);
                        made += 1;
                    }
                    made
                });
                wait_until("meta dies", BACK, || cluster.meta_was_killed());
                cluster.restart_meta();
                died.store(true, Ordering::Release);
                round = writer.join().unwrap();
            });
        }
    }
    mount.stop();
    let mount = cluster.mount("work", &token);
    assert_eq!(names(mount.dir()).len(), round);
    for number in 0..round {
        let found = fs::read(mount.path(&format!("f{number}"))).unwrap();
        assert_eq!(found, format!("{number}").as_bytes());
    }
    cluster.verify_clean();
}

#[test]
fn a_mount_that_dies_leaves_nothing_without_a_name() {
    let (cluster, _token, mount) = work(&["--maxInodes", "3"]);
    let mortal = cluster.volume_token("work", &[]);
    let dying = cluster.mount("work", &mortal);
    let (lost, kept) = (written(dying.dir(), b"lost"), written(dying.dir(), b"kept"));
    lost.sync_all().unwrap();
    kept.sync_all().unwrap();
    name(&kept, &dying.path("kept")).unwrap();
    assert_eq!(nameless_with(mount.dir(), OFlags::RDWR, 0o600).err(), Some(Errno::DQUOT));
    dying.kill9();
    assert_eq!(fs::read(mount.path("kept")).unwrap(), b"kept");
    drop((lost, kept));
    dying.clear();
    // It may come back for an hour; not after this.
    cluster.revoke(&mortal).ok();
    wait_until("it is gone", COLLECTED, || nameless_with(mount.dir(), OFlags::RDWR, 0o600).is_ok());
    assert_eq!(names(mount.dir()), ["kept"]);
    cluster.verify_clean();
}
