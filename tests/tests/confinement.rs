//! A scoped token sees its subtree and nothing else, whatever the client; a
//! read-only one changes nothing (P2, P3).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::Path;

use flexfs_common::Code;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{
    Access, CommitData, Fallocate, FileKind, GetAttr, GetXattr, Link, ListXattr, Lookup, Make,
    MakeNameless, MintObjects, Open, ReadDir, ReadExtents, ReadLink, Release, RemoveXattr, Rename,
    SetAttr, SetXattr, StatFs, Unlink,
};
use flexfs_tests::raw::{RawConnection, RawSession, block_on};
use flexfs_tests::{Cluster, Mount, Token};

/// A volume with /team-a (inside) and /team-b, /team-ab (outside), a mount of
/// all of it, and a token for /team-a.
struct Stage {
    all: Mount,
    scoped: Token,
    full: Token,
}

fn stage(cluster: &Cluster) -> Stage {
    let full = cluster.volume("shared");
    let all = cluster.mount("shared", &full);
    for name in ["team-a/inner", "team-ab", "team-b/deep"] {
        fs::create_dir_all(all.path(name)).unwrap();
    }
    fs::write(all.path("team-a/mine"), "mine").unwrap();
    fs::write(all.path("team-a/big"), vec![7; 100_000]).unwrap();
    fs::write(all.path("team-b/secret"), "secret").unwrap();
    fs::write(all.path("team-b/big"), vec![9; 100_000]).unwrap();
    fs::write(all.path("team-ab/secret"), "secret").unwrap();
    fs::write(all.path("top"), "secret").unwrap();
    let scoped = cluster.volume_token("shared", &["--mountPath", "/team-a"]);
    Stage { all, scoped, full }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_scoped_mount_has_its_subtree_as_root() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let mount = cluster.mount("shared", &stage.scoped);
    assert_eq!(mount.status()["mountPath"], "/team-a");
    assert_eq!(names(mount.dir()), ["big", "inner", "mine"]);
    assert_eq!(fs::read(mount.path("mine")).unwrap(), b"mine");
    for outside in ["team-b/secret", "../team-b/secret", "inner/../../team-b/secret", "top"] {
        let error = fs::read(mount.path(outside)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{outside}");
    }
    // Links resolve in the caller's name space, never in the volume's.
    for target in ["/team-b/secret", "../team-b/secret", "../../team-b/secret", "/top"] {
        let _ = fs::remove_file(stage.all.path("team-a/link"));
        symlink(target, stage.all.path("team-a/link")).unwrap();
        assert_eq!(fs::read_link(mount.path("link")).unwrap(), Path::new(target));
        assert_eq!(fs::read(mount.path("link")).unwrap_err().kind(), ErrorKind::NotFound);
    }
    // Both directions see each other's changes inside.
    fs::write(mount.path("inner/new"), "new").unwrap();
    assert_eq!(fs::read(stage.all.path("team-a/inner/new")).unwrap(), b"new");
    fs::write(stage.all.path("team-a/inner/new2"), "new2").unwrap();
    assert_eq!(fs::read(mount.path("inner/new2")).unwrap(), b"new2");
}

#[test]
fn what_moves_out_of_the_scope_is_stale_open_or_not() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let mount = cluster.mount("shared", &stage.scoped);
    fs::write(mount.path("inner/f"), vec![1; 50_000]).unwrap();
    let mut open = File::open(mount.path("inner/f")).unwrap();
    let directory = File::open(mount.path("inner")).unwrap();
    let mut first = [0; 10];
    open.read_exact(&mut first).unwrap();
    fs::rename(stage.all.path("team-a/inner"), stage.all.path("team-b/moved")).unwrap();
    let stale = Some(rustix::io::Errno::STALE.raw_os_error());
    assert_eq!(open.metadata().unwrap_err().raw_os_error(), stale);
    assert_eq!(open.read(&mut first).unwrap_err().raw_os_error(), stale);
    assert_eq!(directory.metadata().unwrap_err().raw_os_error(), stale);
    assert_eq!(names(mount.dir()), ["big", "mine"]);
    // And in again: a new look finds it.
    fs::rename(stage.all.path("team-b/moved"), stage.all.path("team-a/back")).unwrap();
    assert_eq!(fs::read(mount.path("back/f")).unwrap(), vec![1; 50_000]);
}

#[test]
fn a_token_of_a_sibling_with_a_common_prefix_is_no_key() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let mount = cluster.mount("shared", &stage.scoped);
    let other = cluster.volume_token("shared", &["--mountPath", "/team-ab"]);
    let sibling = cluster.mount("shared", &other);
    assert_eq!(names(sibling.dir()), ["secret"]);
    assert!(!mount.path("secret").exists());
    // A scope that is not there opens nothing.
    let none = cluster.volume_token("shared", &["--mountPath", "/team-c"]);
    let (init, creds) = cluster.init_mount("shared", &none);
    let run = if init.succeeded() {
        cluster.start_mount("shared", &cluster.new_mount_point(), &creds, &[])
    } else {
        init
    };
    assert!(!run.succeeded() && run.stderr.contains("error["), "{run:?}");
    // A link on the way is not followed.
    symlink("/team-b", stage.all.path("via")).unwrap();
    let via = cluster.volume_token("shared", &["--mountPath", "/via"]);
    let result = block_on(RawSession::open(&cluster, "shared", &via));
    assert!(result.is_err(), "a scope through a symbolic link was opened");
}

/// Every operation that takes a handle, on this one.
fn with_handle(handle: &[u8]) -> Vec<(&'static str, Body)> {
    let h = || handle.to_vec();
    let name = || b"secret".to_vec();
    vec![
        ("lookup", Body::Lookup(Lookup { parent: h(), name: name() })),
        ("getattr", Body::GetAttr(GetAttr { handle: h() })),
        ("readdir", Body::ReadDir(ReadDir { handle: h(), max_bytes: 4096, ..ReadDir::default() })),
        ("readlink", Body::ReadLink(ReadLink { handle: h() })),
        ("getxattr", Body::GetXattr(GetXattr { handle: h(), name: b"user.x".to_vec() })),
        ("listxattr", Body::ListXattr(ListXattr { handle: h() })),
        ("access", Body::Access(Access { handle: h(), mask: 4 })),
        ("statfs", Body::StatFs(StatFs { handle: h() })),
        (
            "extents",
            Body::ReadExtents(ReadExtents {
                handle: h(),
                offset: 0,
                length: 1 << 20,
                ..Default::default()
            }),
        ),
    ]
}

const ACCESS_ACL: &str = "system.posix_acl_access";

/// `u::rw-,u:10:rw-,g::r--,m::rw-,o::---` as Linux passes it.
fn set_acl(handle: Vec<u8>) -> SetXattr {
    let mut value = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, id, perm) in
        [(1_u16, nobody, 6_u16), (2, 10, 6), (4, nobody, 4), (0x10, nobody, 6), (0x20, nobody, 0)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    SetXattr { handle, name: ACCESS_ACL.into(), value, flags: 0 }
}

fn make_nameless(parent: Vec<u8>) -> MakeNameless {
    MakeNameless { parent, mode: 0o644, open_flags: libc::O_RDWR as u32, linkable: true }
}

/// Every operation that changes something, on these handles: a directory and
/// a file in it.
fn mutations(directory: &[u8], file: &[u8]) -> Vec<(&'static str, Body)> {
    let (d, f) = (|| directory.to_vec(), || file.to_vec());
    let regular = i32::from(FileKind::Regular);
    let make = |kind: FileKind| Make {
        parent: d(),
        name: b"made".to_vec(),
        kind: kind.into(),
        mode: 0o644,
        symlink_target: if kind == FileKind::Symlink { b"x".to_vec() } else { Vec::new() },
        exclusive: true,
        ..Make::default()
    };
    assert_eq!(make(FileKind::Regular).kind, regular);
    let rename = |exchange: bool| Rename {
        parent: d(),
        name: b"mine".to_vec(),
        new_parent: d(),
        new_name: b"big".to_vec(),
        exchange,
        ..Rename::default()
    };
    let xattr = || b"user.x".to_vec();
    vec![
        ("create", Body::Make(make(FileKind::Regular))),
        ("mkdir", Body::Make(make(FileKind::Directory))),
        ("symlink", Body::Make(make(FileKind::Symlink))),
        ("mkfifo", Body::Make(make(FileKind::Fifo))),
        ("chmod", Body::SetAttr(SetAttr { handle: f(), mode: Some(0o777), ..SetAttr::default() })),
        ("chown", Body::SetAttr(SetAttr { handle: f(), uid: Some(1), ..SetAttr::default() })),
        ("truncate", Body::SetAttr(SetAttr { handle: f(), size: Some(0), ..SetAttr::default() })),
        ("link", Body::Link(Link { handle: f(), new_parent: d(), new_name: b"l".to_vec() })),
        ("unlink", Body::Unlink(Unlink { parent: d(), name: b"mine".to_vec(), directory: false })),
        ("rmdir", Body::Unlink(Unlink { parent: d(), name: b"inner".to_vec(), directory: true })),
        ("rename", Body::Rename(rename(false))),
        ("exchange", Body::Rename(rename(true))),
        ("whiteout", Body::Rename(Rename { whiteout: true, ..rename(false) })),
        ("make without a name", Body::MakeNameless(make_nameless(d()))),
        (
            "setxattr",
            Body::SetXattr(SetXattr { handle: f(), name: xattr(), ..SetXattr::default() }),
        ),
        ("removexattr", Body::RemoveXattr(RemoveXattr { handle: f(), name: xattr() })),
        ("setfacl", Body::SetXattr(set_acl(f()))),
        ("setfacl -b", Body::RemoveXattr(RemoveXattr { handle: f(), name: ACCESS_ACL.into() })),
        ("open to write", Body::Open(Open { handle: f(), flags: libc::O_RDWR as u32 })),
        (
            "open to truncate",
            Body::Open(Open { handle: f(), flags: (libc::O_WRONLY | libc::O_TRUNC) as u32 }),
        ),
        (
            "fallocate",
            Body::Fallocate(Fallocate { handle: f(), length: 1 << 20, ..Fallocate::default() }),
        ),
        (
            "commit inline",
            Body::CommitData(CommitData {
                handle: f(),
                inline_data: Some(b"overwritten".to_vec().into()),
                ..CommitData::default()
            }),
        ),
        (
            "commit size",
            Body::CommitData(CommitData {
                handle: f(),
                min_size: 1 << 30,
                ..CommitData::default()
            }),
        ),
    ]
}

async fn refused(connection: &mut RawConnection, what: &str, body: Body) -> (Code, String) {
    let mutates = !matches!(
        body,
        Body::Lookup(_)
            | Body::GetAttr(_)
            | Body::ReadDir(_)
            | Body::ReadLink(_)
            | Body::GetXattr(_)
            | Body::ListXattr(_)
            | Body::Access(_)
            | Body::StatFs(_)
            | Body::ReadExtents(_)
    );
    let answer = if mutates { connection.change(body).await } else { connection.ask(body).await };
    match answer {
        Ok(answer) => panic!("{what} succeeded: {answer:?}"),
        Err(error) => (error.code(), error.message().to_owned()),
    }
}

#[test]
fn handles_of_another_session_open_nothing_and_tell_nothing() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    block_on(async {
        let full = RawSession::open(&cluster, "shared", &stage.full).await.unwrap();
        let mut all = full.connect().await.unwrap();
        let outside = all.lookup(&full.root(), b"team-b").await.unwrap().handle;
        let secret = all.lookup(&outside, b"secret").await.unwrap().handle;
        let big = all.lookup(&outside, b"big").await.unwrap().handle;
        let inside = all.lookup(&full.root(), b"team-a").await.unwrap().handle;
        let mine = all.lookup(&inside, b"mine").await.unwrap().handle;

        let scoped = RawSession::open(&cluster, "shared", &stage.scoped).await.unwrap();
        let mut connection = scoped.connect().await.unwrap();
        let own = connection.lookup(&scoped.root(), b"mine").await.unwrap().handle;
        // What a handle that never was one is answered with.
        let mut never = own.clone();
        never.iter_mut().for_each(|byte| *byte ^= 0xa5);
        for (index, (what, body)) in with_handle(&never).into_iter().enumerate() {
            let nothing = refused(&mut connection, what, body).await;
            let foreign = [&full.root(), &outside, &secret, &big, &inside, &mine].map(Clone::clone);
            for handle in foreign {
                let (what, body) = with_handle(&handle).swap_remove(index);
                let answer = refused(&mut connection, what, body).await;
                assert_eq!(answer, nothing, "{what}: a foreign handle is told from junk");
            }
        }
        for (what, body) in mutations(&outside, &secret) {
            refused(&mut connection, what, body).await;
        }
        // One bit, anywhere: no handle.
        for bit in 0..own.len() * 8 {
            let mut forged = own.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let body = Body::GetAttr(GetAttr { handle: forged });
            refused(&mut connection, "a forged handle", body).await;
        }
        for junk in [Vec::new(), vec![0; own.len()], vec![0xff; 300], own[..own.len() - 1].to_vec()]
        {
            let body = Body::GetAttr(GetAttr { handle: junk });
            refused(&mut connection, "junk", body).await;
        }
    });
    assert_eq!(fs::read(stage.all.path("team-b/secret")).unwrap(), b"secret");
    assert_eq!(names(&stage.all.path("team-b")), ["big", "deep", "secret"]);
    cluster.verify_clean();
}

#[test]
fn names_and_renames_do_not_lead_out() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    block_on(async {
        let full = RawSession::open(&cluster, "shared", &stage.full).await.unwrap();
        let mut all = full.connect().await.unwrap();
        let outside = all.lookup(&full.root(), b"team-b").await.unwrap().handle;
        let scoped = RawSession::open(&cluster, "shared", &stage.scoped).await.unwrap();
        let mut connection = scoped.connect().await.unwrap();
        let root = scoped.root();
        for name in [&b".."[..], b".", b"", b"/", b"../team-b", b"inner/../../team-b", b"a\0b"] {
            let answer = connection.lookup(&root, name).await;
            assert!(answer.is_err(), "{:?}: {answer:?}", String::from_utf8_lossy(name));
            let made = connection.make(&root, name, FileKind::Regular).await;
            assert!(made.is_err(), "made {:?}", String::from_utf8_lossy(name));
        }
        for (parent, new_parent) in [(&root, &outside), (&outside, &root)] {
            for exchange in [false, true] {
                let rename = Rename {
                    parent: parent.clone(),
                    name: b"big".to_vec(),
                    new_parent: new_parent.clone(),
                    new_name: b"secret".to_vec(),
                    exchange,
                    ..Rename::default()
                };
                refused(&mut connection, "rename", Body::Rename(rename)).await;
            }
        }
        let mine = connection.lookup(&root, b"mine").await.unwrap().handle;
        let link = Link { handle: mine, new_parent: outside.clone(), new_name: b"linked".to_vec() };
        refused(&mut connection, "link out", Body::Link(link)).await;
    });
    assert_eq!(names(&stage.all.path("team-b")), ["big", "deep", "secret"]);
    assert_eq!(names(&stage.all.path("team-a")), ["big", "inner", "mine"]);
}

#[test]
fn numbers_inside_a_scope_do_not_count_the_outside() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let mount = cluster.mount("shared", &stage.scoped);
    let before = rustix::fs::statvfs(mount.dir()).unwrap();
    fs::write(stage.all.path("team-b/more"), vec![3; 9_000_000]).unwrap();
    for number in 0..20 {
        fs::write(stage.all.path(&format!("team-b/n{number}")), "x").unwrap();
    }
    let after = rustix::fs::statvfs(mount.dir()).unwrap();
    let told = |s: &rustix::fs::StatVfs| (s.f_blocks, s.f_bfree, s.f_files, s.f_ffree);
    assert_eq!(told(&before), told(&after));
}

#[test]
fn a_read_only_token_changes_nothing_by_the_raw_protocol() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let ro = cluster.volume_token("shared", &["--mountPath", "/team-a", "--flags", "ro"]);
    let also = cluster.volume_token("shared", &["--mountPath", "/team-a", "--rights", "ro"]);
    block_on(async {
        for token in [&ro, &also] {
            // Asking for nothing takes no restriction away.
            let session = RawSession::open(&cluster, "shared", token).await.unwrap();
            assert!(session.reply.flags.unwrap().ro);
            let mut connection = session.connect().await.unwrap();
            let file = connection.lookup(&session.root(), b"mine").await.unwrap().handle;
            for (what, body) in mutations(&session.root(), &file) {
                let (code, message) = refused(&mut connection, what, body).await;
                assert_eq!(code, Code::FsReadOnly, "{what}: {message}");
            }
            let mint = MintObjects { count: 1, size_limit: 1 << 20 };
            refused(&mut connection, "write URLs", Body::MintObjects(mint)).await;
            // It still reads.
            let open = connection.open(&file, libc::O_RDONLY as u32).await.unwrap();
            let release = Release { open_id: open, handle: file, ..Release::default() };
            connection.change(Body::Release(release)).await.unwrap();
        }
    });
    assert_eq!(fs::read(stage.all.path("team-a/mine")).unwrap(), b"mine");
    assert_eq!(names(&stage.all.path("team-a")), ["big", "inner", "mine"]);
    cluster.verify_clean();
}

#[test]
fn a_read_only_mount_says_erofs() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    let ro = cluster.volume_token("shared", &["--mountPath", "/team-a", "--flags", "ro"]);
    let mount = cluster.mount("shared", &ro);
    let read_only = |e: std::io::Error| assert_eq!(e.kind(), ErrorKind::ReadOnlyFilesystem);
    read_only(fs::write(mount.path("new"), "x").unwrap_err());
    read_only(fs::write(mount.path("mine"), "x").unwrap_err());
    read_only(fs::remove_file(mount.path("mine")).unwrap_err());
    read_only(fs::rename(mount.path("mine"), mount.path("big")).unwrap_err());
    read_only(fs::create_dir(mount.path("d")).unwrap_err());
    let line = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = line.lines().find(|l| l.contains(mount.dir().to_str().unwrap())).unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("shared", "fuse.flexfs"), "{line}");
    assert!(fields[3].split(',').any(|option| option == "ro"), "{line}");
    assert_eq!(fs::read(mount.path("mine")).unwrap(), b"mine");
    // The client's own flag restricts as well.
    let own = cluster.mount_with("shared", &stage.full, &["--ro"]);
    read_only(fs::write(own.path("top"), "x").unwrap_err());
}

#[test]
fn a_session_needs_its_own_key() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    block_on(async {
        let victim = RawSession::open(&cluster, "shared", &stage.full).await.unwrap();
        let attacker = RawSession::open(&cluster, "shared", &stage.scoped).await.unwrap();
        // The victim's session with the attacker's key.
        let (mut connection, challenge) = attacker.challenge().await.unwrap();
        let proof = attacker.proof(&connection, &challenge.nonce);
        let result = connection.resume(&victim.reply.session_id, proof).await;
        assert!(result.is_err(), "resumed with another session's key");
        // A proof replayed on another connection.
        let (first, challenge) = victim.challenge().await.unwrap();
        let proof = victim.proof(&first, &challenge.nonce);
        let (mut second, _) = victim.challenge().await.unwrap();
        let result = second.resume(&victim.reply.session_id, proof).await;
        assert!(result.is_err(), "a replayed proof was accepted");
        // Operations before any proof.
        let (mut unproven, _) = victim.challenge().await.unwrap();
        let body = Body::GetAttr(GetAttr { handle: victim.root() });
        assert!(unproven.ask(body).await.is_err(), "an answer without a proof");
        // And properly.
        let mut own = victim.connect().await.unwrap();
        own.lookup(&victim.root(), b"top").await.unwrap();
    });
}

#[test]
fn a_repeated_mutation_is_answered_and_not_applied_twice() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    block_on(async {
        let session = RawSession::open(&cluster, "shared", &stage.full).await.unwrap();
        let mut connection = session.connect().await.unwrap();
        let make = Make {
            parent: session.root(),
            name: b"once".to_vec(),
            kind: FileKind::Directory.into(),
            mode: 0o755,
            exclusive: true,
            ..Make::default()
        };
        let first = connection.perform(Body::Make(make.clone()), 1).await.unwrap();
        // The reply was lost; a new connection asks again.
        let mut connection = session.connect().await.unwrap();
        let again = connection.perform(Body::Make(make.clone()), 1).await.unwrap();
        assert_eq!(first, again);
        let fresh = connection.perform(Body::Make(make.clone()), 2).await;
        assert_eq!(fresh.unwrap_err().code(), Code::FsExists);
        connection.perform(Body::Make(Make { name: b"next".to_vec(), ..make }), 3).await.unwrap();
        let unlink = Unlink { parent: session.root(), name: b"once".to_vec(), directory: true };
        let old = connection.perform(Body::Unlink(unlink), 1).await;
        assert!(old.is_err(), "a lower sequence was applied: {old:?}");
    });
    assert!(stage.all.path("once").is_dir());
}

/// The part of a signed URL that names the object.
fn object_of(url: &str) -> &str {
    url.split('?').next().unwrap().rsplit('/').next().unwrap()
}

#[test]
fn a_signed_url_opens_one_object_for_one_method_and_one_session() {
    let cluster = Cluster::start();
    let stage = stage(&cluster);
    block_on(async {
        let full = RawSession::open(&cluster, "shared", &stage.full).await.unwrap();
        let mut all = full.connect().await.unwrap();
        let outside = all.lookup(&full.root(), b"team-b").await.unwrap().handle;
        let big = all.lookup(&outside, b"big").await.unwrap().handle;
        let foreign = all.extents(&big).await.unwrap().extents[0].url.clone();

        let scoped = RawSession::open(&cluster, "shared", &stage.scoped).await.unwrap();
        let mut connection = scoped.connect().await.unwrap();
        let own = connection.lookup(&scoped.root(), b"big").await.unwrap().handle;
        let url = connection.extents(&own).await.unwrap().extents[0].url.clone();
        let (status, body) = scoped.fetch("GET", &url, b"").await.unwrap();
        assert!(status == 200 && body.len() > 100, "{status}, {} bytes", body.len());
        // Another object, another method, anything changed: nothing.
        let swapped = url.replace(object_of(&url), object_of(&foreign));
        assert_ne!(swapped, url);
        let mut refused = vec![("GET", swapped), ("PUT", url.clone()), ("DELETE", url.clone())];
        let start = url.find("/blocks/").unwrap() + 8;
        let bytes = url.bytes().enumerate().skip(start);
        for (at, byte) in bytes.filter(|(_, byte)| byte.is_ascii_alphanumeric()) {
            let mut changed = url.clone().into_bytes();
            changed[at] = if byte == b'0' { b'1' } else { b'0' };
            refused.push(("GET", String::from_utf8(changed).unwrap()));
        }
        refused.push(("GET", url.split('?').next().unwrap().to_owned()));
        for (method, changed) in refused {
            let (status, body) = scoped.fetch(method, &changed, b"").await.unwrap();
            assert!(
                (400..500).contains(&status) && body.len() < 500,
                "{method} {changed}: {status}"
            );
        }
        // Written once, and not above the size that was asked for.
        let minted = connection.mint(1000).await.unwrap();
        let (status, _) = scoped.fetch("PUT", &minted.url, &[1; 1001]).await.unwrap();
        assert!((400..500).contains(&status), "too much was taken: {status}");
        let minted = connection.mint(1000).await.unwrap();
        let (status, _) = scoped.fetch("PUT", &minted.url, &[1; 1000]).await.unwrap();
        assert!((200..300).contains(&status), "{status}");
        let (status, _) = scoped.fetch("PUT", &minted.url, &[2; 1000]).await.unwrap();
        assert!((400..500).contains(&status), "an object was written twice: {status}");
        // With the session, its URLs end.
        cluster.revoke(&stage.scoped).ok();
        let (status, _) = scoped.fetch("GET", &url, b"").await.unwrap();
        assert!((400..500).contains(&status), "a URL outlived its session: {status}");
    });
    cluster.verify_clean();
}
