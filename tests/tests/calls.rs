//! Calls that ordinary programs seldom make, through the kernel, seen from a
//! second mount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::time::{Duration, SystemTime};

use flexfs_tests::{Cluster, Mount, within};
use rustix::fs::{
    CWD, FallocateFlags, FileType, Mode, RenameFlags, SeekFrom, XattrFlags, fallocate, mknodat,
    renameat_with, seek,
};
use rustix::io::Errno;

fn pair(cluster: &Cluster) -> (Mount, Mount) {
    let token = cluster.volume("shared");
    (cluster.mount("shared", &token), cluster.mount("shared", &token))
}

#[test]
fn rename_without_replacing_and_exchange() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::write(a.path("one"), "1").unwrap();
    fs::create_dir(a.path("two")).unwrap();
    let rename = |flags| renameat_with(CWD, a.path("one"), CWD, a.path("two"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE).unwrap_err(), Errno::EXIST);
    rename(RenameFlags::EXCHANGE).unwrap();
    assert!(b.path("one").is_dir());
    assert_eq!(fs::read(b.path("two")).unwrap(), b"1");
    fs::remove_dir(b.path("one")).unwrap();
    renameat_with(CWD, a.path("two"), CWD, a.path("one"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(b.path("one")).unwrap(), b"1");
    cluster.verify_clean();
}

#[test]
fn a_fifo_joins_two_programs_of_one_machine_and_is_there_for_the_other() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let fifo = a.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(fs::metadata(b.path("fifo")).unwrap().file_type().is_fifo());
    let writing = fifo.clone();
    let writer = std::thread::spawn(move || fs::write(writing, "through").unwrap());
    let text = within("a FIFO", Duration::from_secs(30), move || fs::read(fifo).unwrap());
    writer.join().unwrap();
    assert_eq!(text, b"through");
}

#[test]
fn extended_attributes_are_set_listed_changed_and_removed() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::write(a.path("f"), "").unwrap();
    let (here, there) = (a.path("f"), b.path("f"));
    let set = |value: &[u8], flags| rustix::fs::setxattr(&here, "user.note", value, flags);
    let get = || {
        let mut buffer = vec![0; 100];
        let len = rustix::fs::getxattr(&there, "user.note", &mut buffer[..])?;
        buffer.truncate(len);
        Ok::<_, Errno>(buffer)
    };
    assert_eq!(get().unwrap_err(), Errno::NODATA);
    assert_eq!(set(b"x", XattrFlags::REPLACE).unwrap_err(), Errno::NODATA);
    set(b"first", XattrFlags::CREATE).unwrap();
    assert_eq!(set(b"x", XattrFlags::CREATE).unwrap_err(), Errno::EXIST);
    assert_eq!(get().unwrap(), b"first");
    set(b"second", XattrFlags::empty()).unwrap();
    assert_eq!(get().unwrap(), b"second");
    let mut names = [0; 100];
    let len = rustix::fs::listxattr(&there, &mut names[..]).unwrap();
    assert_eq!(&names[..len], b"user.note\0");
    rustix::fs::removexattr(&here, "user.note").unwrap();
    assert_eq!(get().unwrap_err(), Errno::NODATA);
}

#[test]
fn holes_are_punched_found_and_read_as_zeros() {
    const MIB: u64 = 1024 * 1024;
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(a.path("sparse")).unwrap();
    file.write_all_at(&vec![7; 3 * 1024 * 1024], 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, MIB, MIB).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 5 * MIB).unwrap();
    let other = File::open(b.path("sparse")).unwrap();
    assert_eq!(other.metadata().unwrap().len(), 5 * MIB);
    assert_eq!(seek(&other, SeekFrom::Hole(0)).unwrap(), MIB);
    assert_eq!(seek(&other, SeekFrom::Data(MIB)).unwrap(), 2 * MIB);
    let mut bytes = vec![1; 4 * 1024 * 1024];
    other.read_exact_at(&mut bytes, 0).unwrap();
    let expected = |at: usize| if (1..2).contains(&(at >> 20)) || at >> 20 >= 3 { 0 } else { 7 };
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    cluster.verify_clean();
}

#[test]
fn times_owners_links_and_space_are_what_was_set() {
    let cluster = Cluster::start();
    let (a, b) = pair(&cluster);
    fs::write(a.path("f"), "12345").unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_accessed(at).set_modified(at);
    OpenOptions::new().write(true).open(a.path("f")).unwrap().set_times(times).unwrap();
    let seen = fs::metadata(b.path("f")).unwrap();
    assert_eq!((seen.modified().unwrap(), seen.accessed().unwrap()), (at, at));
    fs::hard_link(b.path("f"), b.path("g")).unwrap();
    std::os::unix::fs::symlink("f", b.path("s")).unwrap();
    assert_eq!(fs::metadata(a.path("f")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(a.path("f")).unwrap().ino(), fs::metadata(a.path("g")).unwrap().ino());
    assert_eq!(fs::read_to_string(a.path("s")).unwrap(), "12345");
    let space = rustix::fs::statvfs(a.dir()).unwrap();
    assert!(space.f_bavail > 0 && space.f_bavail <= space.f_blocks && space.f_namemax == 255);
}
