//! Large and changing directories, and many links.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_tests::raw::RawSession;
use flexfs_tests::tools::big;
use flexfs_tests::{Cluster, Mount, Token};
use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;

fn one_mount() -> (Cluster, Mount) {
    let cluster = Cluster::start();
    let token = cluster.volume("posix");
    let mount = cluster.mount("posix", &token);
    (cluster, mount)
}

/// Entries of one getdents64(2): cookie and name of each.
fn some(dir: &File) -> Vec<(u64, String)> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    let mut entries = Vec::new();
    let mut raw = RawDir::new(dir, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        entries.push((entry.next_entry_cookie(), entry.file_name().to_str().unwrap().to_owned()));
        if raw.is_buffer_empty() {
            break;
        }
    }
    entries
}

/// Whatever comes and goes meanwhile, what is there all the time is listed
/// exactly once, and a cookie leads to where it was.
#[test]
fn a_listing_is_stable_while_entries_come_and_go() {
    let (cluster, mount) = one_mount();
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    for number in 0..600 {
        File::create_new(dir.join(format!("stays{number}"))).unwrap();
        File::create_new(dir.join(format!("goes{number}"))).unwrap();
    }
    let token = cluster.volume_token("posix", &[]);
    let other = cluster.mount("posix", &token);
    let open = File::open(&dir).unwrap();
    let (mut seen, mut cookies) = (BTreeMap::<String, u32>::new(), Vec::new());
    let mut number = 0;
    loop {
        let entries = some(&open);
        if entries.is_empty() {
            break;
        }
        for (cookie, name) in entries {
            *seen.entry(name.clone()).or_default() += 1;
            cookies.push((cookie, name));
        }
        // From both mounts.
        for mount in [&mount, &other] {
            let dir = mount.path("dir");
            fs::remove_file(dir.join(format!("goes{number}"))).unwrap();
            File::create_new(dir.join(format!("comes{number}"))).unwrap();
            number += 1;
        }
    }
    assert!(number > 50, "it took several reads: {number}");
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    for number in 0..600 {
        assert!(seen.contains_key(&format!("stays{number}")), "stays{number}");
    }
    // seekdir(3) to after each of some entries, in any order.
    for index in (0..cookies.len()).step_by(67).rev() {
        let (cookie, _) = cookies[index];
        seek(&open, SeekFrom::Start(cookie)).unwrap();
        let next = cookies[index + 1..].iter().find(|(_, name)| dir.join(name).exists());
        let found = some(&open);
        // What is gone may still be listed until rewinddir(3).
        let found = found.iter().find(|(_, name)| dir.join(name).exists());
        let found = found.filter(|(_, name)| !name.starts_with("comes"));
        let next = next.filter(|(_, name)| !name.starts_with("comes"));
        if let (Some(next), Some(found)) = (next, found) {
            assert_eq!(found.1, next.1, "after {}", cookies[index].1);
        }
    }
    drop(open);
    // rm -r reads while it removes.
    flexfs_tests::files::sh("rm -r \"$1\"", &[&dir]);
    cluster.verify_clean();
}

/// Makes `dir/l1`, … links to `dir/l0`, and files up to so many entries, over
/// the raw protocol: many in one frame, which a kernel asks for one by one.
async fn fill(cluster: &Cluster, token: &Token, links: u64, total: u64) {
    let session = RawSession::open(cluster, "posix", token).await.unwrap();
    let mut connection = session.connect().await.unwrap();
    let dir = connection.lookup(&session.root(), b"dir").await.unwrap().handle;
    let file = connection.lookup(&dir, b"l0").await.unwrap().handle;
    let link = |number| {
        Body::Link(v1::Link {
            handle: file.clone(),
            new_parent: dir.clone(),
            new_name: format!("l{number}").into_bytes(),
        })
    };
    let make = |number| {
        Body::Make(v1::Make {
            parent: dir.clone(),
            name: format!("f{number}").into_bytes(),
            kind: v1::FileKind::Regular.into(),
            mode: 0o644,
            exclusive: true,
            ..v1::Make::default()
        })
    };
    let all = (1..links).map(link).chain((links..total).map(make));
    connection.change_all(all).await.unwrap();
}

/// A directory of very many entries, most of them links to one file: as many
/// as a file may have, and not one more.
#[test]
fn many_entries_and_as_many_links_as_there_may_be() {
    const LINKS: u64 = 65_000;
    let total: u64 = if big() { 1_000_000 } else { 100_000 };
    let (cluster, mount) = one_mount();
    let token = cluster.volume_token("posix", &[]);
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    let begun = Instant::now();
    File::create_new(dir.join("l0")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&cluster, &token, LINKS, total));
    eprintln!("{total} entries made in {:?}", begun.elapsed());
    let refused = fs::hard_link(dir.join("l0"), dir.join("more")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::MLINK.raw_os_error()));
    assert_eq!(fs::metadata(dir.join("l77")).unwrap().nlink(), LINKS);
    let begun = Instant::now();
    let names: BTreeSet<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len() as u64, total);
    eprintln!("read in {:?}", begun.elapsed());
    let begun = Instant::now();
    for number in (0..LINKS).step_by(997) {
        assert!(fs::metadata(dir.join(format!("l{number}"))).is_ok());
        assert!(!dir.join(format!("none{number}")).exists());
    }
    eprintln!("looked into in {:?}", begun.elapsed());
    fs::remove_file(dir.join("l500")).unwrap();
    fs::hard_link(dir.join("l0"), dir.join("more")).unwrap();
    cluster.verify_clean();
}
