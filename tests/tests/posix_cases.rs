//! What POSIX and Linux promise of names, kinds of files, times, rights: cases
//! that suites leave out. (Data: posix_data.rs; docs/posix.md says what holds.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexfs_tests::user::as_user;
use flexfs_tests::{Cluster, Mount, within};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, XattrFlags, makedev, mknodat, renameat_with, statx, utimensat,
};
use rustix::io::Errno;

/// Somebody without rights.
const NOBODY: u32 = 65_534;

fn one_mount() -> (Cluster, Mount) {
    let cluster = Cluster::start();
    let token = cluster.volume("posix");
    let mount = cluster.mount("posix", &token);
    // Other users shall reach it.
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o711)).unwrap();
    (cluster, mount)
}

/// Runs a script with `$1` as another user. True when it succeeds.
fn as_nobody(script: &str, path: &Path) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(path).uid(NOBODY).gid(NOBODY).current_dir("/");
    command.output().unwrap().status.success()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn renameat2_replaces_exchanges_or_refuses() {
    let (cluster, mount) = one_mount();
    let (a, b, dir) = (mount.path("a"), mount.path("b"), mount.path("dir"));
    let rename = |from: &Path, to: &Path, flags| renameat_with(CWD, from, CWD, to, flags);
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("inner"), "inner").unwrap();
    assert_eq!(rename(&a, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(&a, &dir.join("a"), RenameFlags::NOREPLACE).unwrap();
    rename(&dir.join("a"), &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"a");
    assert_eq!(fs::read(dir.join("a")).unwrap(), b"b");
    // A file and a directory that is not empty change places.
    rename(&b, &dir, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(b.join("inner")).unwrap(), b"inner");
    assert_eq!(fs::read(&dir).unwrap(), b"a");
    assert_eq!(fs::metadata(mount.dir()).unwrap().nlink(), 3);
    assert_eq!(rename(&b, &mount.path("none"), RenameFlags::EXCHANGE), Err(Errno::NOENT));
    for other in [RenameFlags::NOREPLACE, RenameFlags::WHITEOUT] {
        let both = other | RenameFlags::EXCHANGE;
        assert_eq!(rename(&dir, &mount.path("none"), both), Err(Errno::INVAL));
    }
    cluster.verify_clean();
}

fn is_whiteout(path: &Path) -> bool {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mode(), found.rdev(), found.nlink()) == (0o020_000, 0, 1)
}

#[test]
fn a_rename_may_leave_a_whiteout() {
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let rename = |from: &str, to: &str, flags| {
        renameat_with(CWD, mount.path(from), CWD, mount.path(to), flags)
    };
    let (whiteout, no_replace) = (RenameFlags::WHITEOUT, RenameFlags::NOREPLACE);
    fs::write(mount.path("a"), "a").unwrap();
    fs::write(mount.path("b"), "b").unwrap();
    // Both know the old name.
    fs::metadata(other.path("a")).unwrap();
    assert_eq!(rename("a", "b", whiteout | no_replace), Err(Errno::EXIST));
    rename("a", "b", whiteout).unwrap();
    for mount in [&mount, &other] {
        assert!(is_whiteout(&mount.path("a")));
        assert_eq!(fs::read(mount.path("b")).unwrap(), b"a");
    }
    // In a directory that this mount has just made, where it knows all names.
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/held"), "held").unwrap();
    rename("dir/held", "dir/moved", whiteout | no_replace).unwrap();
    rename("dir", "moved", whiteout).unwrap();
    for mount in [&mount, &other] {
        assert!(is_whiteout(&mount.path("dir")) && is_whiteout(&mount.path("moved/held")));
        assert_eq!(fs::read(mount.path("moved/moved")).unwrap(), b"held");
    }
    // Anybody may who may rename; the whiteout is theirs.
    let theirs = mount.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    as_user(NOBODY, NOBODY, || {
        File::create(theirs.join("f")).unwrap();
        renameat_with(CWD, theirs.join("f"), CWD, theirs.join("g"), whiteout).unwrap();
    });
    assert!(is_whiteout(&other.path("theirs/f")));
    assert_eq!(fs::symlink_metadata(other.path("theirs/f")).unwrap().uid(), NOBODY);
    assert!(as_nobody("mknod \"$1/w\" c 0 0", &theirs), "a whiteout is no device");
    assert!(!as_nobody("mknod \"$1/n\" c 1 3", &theirs));
    cluster.verify_clean();
}

#[test]
fn fifos_sockets_and_devices_are_what_they_are() {
    let (cluster, mount) = one_mount();
    let fifo = mount.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let writing = fifo.clone();
    let writer = std::thread::spawn(move || fs::write(writing, "through the fifo"));
    let read = within("the fifo", Duration::from_secs(30), move || fs::read(fifo).unwrap());
    assert_eq!(read, b"through the fifo");
    writer.join().unwrap().unwrap();

    let socket = mount.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");

    // As large as Linux has them.
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("disk", FileType::BlockDevice, 4095, 1_048_575),
    ] {
        let device = makedev(major, minor);
        let path = mount.path(name);
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), device).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.rdev(), device, "{name}");
        assert_eq!(FileType::from_raw_mode(found.mode()), kind);
    }
    let mut null = OpenOptions::new().read(true).write(true).open(mount.path("null")).unwrap();
    null.write_all(b"gone").unwrap();
    assert_eq!(null.read(&mut [0; 10]).unwrap(), 0);
    assert!(!as_nobody("mknod \"$1/mine\" c 1 3", mount.dir()));
    cluster.verify_clean();
}

#[test]
fn birth_is_remembered_and_nothing_changes_it() {
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let birth = |mount: &Mount| {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = statx(CWD, mount.path("f"), AtFlags::empty(), flags).unwrap();
        assert!(found.stx_mask & StatxFlags::BTIME.bits() != 0, "told");
        (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
    };
    fs::write(mount.path("f"), "1").unwrap();
    let born = birth(&mount);
    let made = fs::metadata(mount.path("f")).unwrap();
    assert!(born <= (made.ctime(), u32::try_from(made.ctime_nsec()).unwrap()));
    assert!(born.0 > 1_700_000_000);
    fs::write(mount.path("f"), "22").unwrap();
    fs::set_permissions(mount.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(mount.path("f"), mount.path("g")).unwrap();
    fs::rename(mount.path("g"), mount.path("f")).unwrap();
    assert_eq!((birth(&mount), birth(&other)), (born, born));
}

#[test]
fn times_are_kept_to_the_nanosecond_before_and_after_any_epoch() {
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let file = mount.path("f");
    fs::write(&file, "x").unwrap();
    let set = |access: Timespec, modified: Timespec| {
        let times = Timestamps { last_access: access, last_modification: modified };
        utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
    };
    let at = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    for seconds in [-9_000_000_000, -1, 0, 1, i64::from(i32::MAX) + 1, 1 << 33, 250_000_000_000] {
        set(at(seconds, 123_456_789), at(seconds, 999_999_999));
        for mount in [&mount, &other] {
            let found = fs::metadata(mount.path("f")).unwrap();
            assert_eq!((found.atime(), found.atime_nsec()), (seconds, 123_456_789));
            assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, 999_999_999));
        }
    }
    // The year 20,000 is more than is kept.
    set(at(570_000_000_000, 0), at(570_000_000_000, 0));
    assert_eq!(fs::metadata(other.path("f")).unwrap().mtime(), 253_402_207_200);
    let before = fs::metadata(&file).unwrap();
    set(at(0, UTIME_OMIT), at(5, 7));
    let found = fs::metadata(&file).unwrap();
    assert_eq!((found.atime(), found.mtime(), found.mtime_nsec()), (before.atime(), 5, 7));
    assert!(found.ctime() > 1_700_000_000, "nobody sets ctime");
    set(at(0, UTIME_NOW), at(0, UTIME_OMIT));
    let found = fs::metadata(&file).unwrap();
    assert!(found.atime() > 1_700_000_000 && found.mtime() == 5);
    // Times of the moment differ from one change to the next.
    let stamps: Vec<_> = (0..50)
        .map(|_| {
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            let found = fs::metadata(&file).unwrap();
            (found.ctime(), found.ctime_nsec())
        })
        .collect();
    assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
}

#[test]
fn sticky_directories_protect_and_setgid_directories_hand_down() {
    let (cluster, mount) = one_mount();
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
    fs::write(dir.join("roots"), "").unwrap();
    assert!(!as_nobody("rm -f \"$1/roots\"", &dir));
    assert!(!as_nobody("mv \"$1/roots\" \"$1/mine\"", &dir));
    assert!(as_nobody("echo >\"$1/own\" && mv \"$1/own\" \"$1/other\" && rm \"$1/other\"", &dir));
    assert!(!as_nobody("echo >\"$1/own\" && mv \"$1/own\" \"$1/roots\"", &dir), "replaces");

    let group = 4242;
    chown(&dir, None, Some(group)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o2777)).unwrap();
    assert!(as_nobody(
        "umask 22; mkdir \"$1/sub\"; echo >\"$1/file\"; chmod 2770 \"$1/file\"",
        &dir
    ));
    let found = |name: &str| fs::metadata(dir.join(name)).unwrap();
    assert_eq!((found("sub").gid(), mode(&dir.join("sub"))), (group, 0o2755));
    assert_eq!(found("file").gid(), group);
    assert_eq!(mode(&dir.join("file")), 0o770, "no program with a group that is not theirs");
    cluster.verify_clean();
}

/// setuid, setgid.
#[test]
fn privilege_falls_when_somebody_writes_truncates_or_chowns() {
    let (cluster, mount) = one_mount();
    let file = mount.path("program");
    let again = |owner: u32| {
        fs::write(&file, "#!/bin/true\n").unwrap();
        chown(&file, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(mode(&file), 0o6777);
    };
    for change in [
        "echo x >>\"$1\"",
        "echo x | dd of=\"$1\" conv=notrunc status=none",
        ": >\"$1\"",
        "truncate -s 5 \"$1\"",
    ] {
        again(0);
        assert!(as_nobody(change, &file), "{change}");
        assert_eq!(mode(&file), 0o777, "{change}");
    }
    again(NOBODY);
    assert!(as_nobody("chgrp 65534 \"$1\"", &file));
    assert_eq!(mode(&file), 0o777, "chgrp by its owner");
    again(0);
    chown(&file, Some(1), None).unwrap();
    assert_eq!(mode(&file), 0o777, "chown by root");
    // Root's writes leave them, and a setgid without x is no privilege.
    again(0);
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&file), 0o6777);
    fs::set_permissions(&file, Permissions::from_mode(0o2767)).unwrap();
    assert!(as_nobody("echo x >>\"$1\"", &file));
    assert_eq!(mode(&file), 0o2767);
    cluster.verify_clean();
}

const CAPABILITY: &str = "security.capability";
/// vfs_cap_data of revision 2: cap_net_raw, effective and permitted.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// capabilities(7): they fall with every write, root's too, and before
/// anybody could run what was written.
#[test]
fn capabilities_of_a_file_fall_when_it_is_written_or_chowned() {
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let file = mount.path("program");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o777)).unwrap();
    let has = |mount: &Mount| {
        let mut value = [0; 64];
        match rustix::fs::getxattr(mount.path("program"), CAPABILITY, &mut value) {
            Ok(len) => len == NET_RAW.len(),
            Err(error) => {
                assert_eq!(error, Errno::NODATA);
                false
            }
        }
    };
    let give = || {
        rustix::fs::setxattr(&file, CAPABILITY, &NET_RAW, XattrFlags::empty()).unwrap();
        assert!(has(&mount) && has(&other));
    };
    let append = |mount: &Mount| {
        let mut file = OpenOptions::new().append(true).open(mount.path("program")).unwrap();
        file.write_all(b"y").unwrap();
        file
    };
    give();
    // Not yet closed: what is in the buffer counts.
    let open = append(&mount);
    assert!(!has(&mount));
    drop(open);
    assert!(!has(&mount) && !has(&other));
    give();
    drop(append(&other));
    assert!(!has(&mount) && !has(&other));
    for change in
        ["echo x >>\"$1\"", ": >\"$1\"", "truncate -s 3 \"$1\"", "fallocate -l 9999 \"$1\""]
    {
        give();
        assert!(as_nobody(change, &file), "{change}");
        assert!(!has(&mount) && !has(&other), "{change}");
    }
    give();
    chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    assert!(!has(&mount) && !has(&other));
    give();
    assert!(as_nobody("chgrp 65534 \"$1\"", &file));
    assert!(!has(&mount));
    give();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    fs::read(&file).unwrap();
    assert!(has(&mount), "neither chmod nor reading takes it");
    assert!(!as_nobody("setfattr -x security.capability \"$1\"", &file));
    assert!(has(&mount));
    cluster.verify_clean();
}

#[test]
fn names_are_any_bytes_up_to_255() {
    let (cluster, mount) = one_mount();
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let mut names: Vec<OsString> = vec![
        OsString::from_vec(bytes.iter().copied().chain([b'x']).collect()),
        OsString::from_vec(vec![0xff; 255]),
        OsString::from_vec("é".repeat(127).into_bytes()),
        OsString::from("..."),
    ];
    names.extend(bytes.iter().filter(|b| **b != b'.').map(|b| OsString::from_vec(vec![*b])));
    for name in &names {
        fs::write(dir.join(name), name.as_bytes()).unwrap();
    }
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let mut found: Vec<OsString> =
        fs::read_dir(other.path("dir")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names);
    for name in &names {
        assert_eq!(fs::read(other.path("dir").join(name)).unwrap(), name.as_bytes());
        fs::remove_file(dir.join(name)).unwrap();
    }
    let long = dir.join(OsStr::from_bytes(&[b'n'; 256]));
    let refused = File::create(&long).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::NAMETOOLONG.raw_os_error()));
    // PATH_MAX is 4096 with its NUL.
    let target = PathBuf::from("t".repeat(4095));
    std::os::unix::fs::symlink(&target, mount.path("longest")).unwrap();
    assert_eq!(fs::read_link(other.path("longest")).unwrap(), target);
    assert_eq!(fs::symlink_metadata(other.path("longest")).unwrap().len(), 4095);
    cluster.verify_clean();
}
