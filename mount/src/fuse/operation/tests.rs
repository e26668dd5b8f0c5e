//! Requests as the kernel lays them out.

use super::*;
use crate::fuse::parse;

/// A request with this opcode on node 9, and its parsed form.
fn parsed(opcode: u32, parts: &[&[u8]]) -> Result<Operation, Malformed> {
    let body = parts.concat();
    let len = u32::try_from(abi::IN_HEADER + body.len()).unwrap();
    let mut request = Vec::new();
    request.extend(len.to_ne_bytes());
    request.extend(opcode.to_ne_bytes());
    request.extend(1_u64.to_ne_bytes());
    request.extend(9_u64.to_ne_bytes());
    request.extend([0; 16]);
    request.extend(body);
    let (header, fields) = parse::header(&request).unwrap();
    assert_eq!(header.node, 9);
    super::parse(opcode, fields)
}

fn w(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

fn q(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[test]
fn creating_carries_mode_and_umask() {
    let request = parsed(op::CREATE, &[&w(0o102), &w(0o100_644), &w(0o22), &w(0), b"f\0"]);
    let Ok(Operation::Name(NameOp::Create(name, make, flags))) = request else {
        panic!("{request:?}")
    };
    assert_eq!(
        (name.as_slice(), make.mode, make.umask, flags),
        (&b"f"[..], 0o100_644, 0o22, 0o102)
    );
    let request = parsed(op::TMPFILE, &[&w(0o20_200_002), &w(0o100_600), &w(0o77), &w(0), b"/\0"]);
    let Ok(Operation::Name(NameOp::CreateNameless(make, flags))) = request else {
        panic!("{request:?}")
    };
    assert_eq!((make.mode, make.umask, flags), (0o100_600, 0o77, 0o20_200_002));
    let request = parsed(op::MKNOD, &[&w(0o020_600), &w(0x501), &w(0o77), &w(0), b"tty\0"]);
    let Ok(Operation::Name(NameOp::Make(_, make))) = request else { panic!("{request:?}") };
    assert_eq!((make.kind, make.rdev, make.umask), (FileKind::CharDevice, 0x501, 0o77));
    let request = parsed(op::SYMLINK, &[b"name\0target\0"]);
    let Ok(Operation::Name(NameOp::Make(name, make))) = request else { panic!("{request:?}") };
    assert_eq!((name, make.target), (b"name".to_vec(), b"target".to_vec()));
}

#[test]
fn both_renames_are_understood() {
    for (opcode, parts) in [
        (op::RENAME, vec![&q(5)[..], b"a\0b\0"]),
        (op::RENAME2, vec![&q(5)[..], &w(0), &w(0), b"a\0b\0"]),
    ] {
        let request = parsed(opcode, &parts);
        let Ok(Operation::Name(NameOp::Rename { name, new_parent, new_name, flags })) = request
        else {
            panic!("{request:?}")
        };
        assert_eq!((name, new_parent, new_name, flags), (b"a".to_vec(), 5, b"b".to_vec(), 0));
    }
}

#[test]
fn setattr_takes_what_is_valid() {
    let valid = fattr::SIZE | fattr::MTIME | fattr::ATIME | fattr::ATIME_NOW | fattr::FH;
    let request = parsed(
        op::SETATTR,
        &[
            &w(valid),
            &w(0),
            &q(3),
            &q(100),
            &q(0),
            &q(1),
            &q((-2_i64).cast_unsigned()),
            &q(0),
            &w(5),
            &w(6),
            &w(0),
            &w(0o777),
            &w(0),
            &w(1),
            &w(2),
            &w(0),
        ],
    );
    let Ok(Operation::Attr(AttrOp::Set(set))) = request else { panic!("{request:?}") };
    assert_eq!((set.mode, set.uid, set.gid), (None, None, None));
    assert_eq!((set.size, set.fh), (Some(100), Some(3)));
    assert_eq!(set.atime, Some(TimeRequest::Now));
    assert_eq!(set.mtime, Some(TimeRequest::At(-2, 6)));
}

#[test]
fn writes_carry_their_data_and_flags() {
    let head = [&q(7)[..], &q(4096), &w(3)].concat();
    let tail = [&q(0)[..], &w(0o2001), &w(0), b"abc"].concat();
    let flags = abi::WRITE_KILL_SUIDGID;
    let request = parsed(op::WRITE, &[&head, &w(flags), &tail]);
    let Ok(Operation::File(FileOp::Write(write))) = request else { panic!("{request:?}") };
    assert_eq!((write.fh, write.offset, write.flags), (7, 4096, 0o2001));
    assert_eq!(write.data, "abc");
    assert!(write.kill_set_id && !write.from_mapping);
    let short = parsed(op::WRITE, &[&q(7), &q(0), &w(9), &w(0), &tail]);
    assert_eq!(short.err(), Some(Malformed));
}

#[test]
fn locks_say_what_kind_they_are() {
    let lock = |opcode, kind: i32, flags: u32| {
        parsed(
            opcode,
            &[
                &q(7),
                &q(99),
                &q(0),
                &q(i64::MAX.cast_unsigned()),
                &w(kind.cast_unsigned()),
                &w(44),
                &w(flags),
                &w(0),
            ],
        )
    };
    let request = lock(op::SETLKW, libc::F_WRLCK, abi::LK_FLOCK);
    let Ok(Operation::Lock(LockOp::Set { fh: 7, lock: set, wait: true })) = request else {
        panic!("{request:?}")
    };
    assert!(set.flock);
    assert_eq!((set.owner, set.end, set.kind, set.pid), (99, u64::MAX, LockKind::Write, 44));
    let request = lock(op::GETLK, libc::F_RDLCK, 0);
    let Ok(Operation::Lock(LockOp::Get { lock: get, .. })) = request else { panic!("{request:?}") };
    assert!(!get.flock);
    assert_eq!(lock(op::SETLK, 77, 0).err(), Some(Malformed));
}

#[test]
fn forgets_come_in_batches() {
    let request = parsed(op::BATCH_FORGET, &[&w(2), &w(0), &q(5), &q(1), &q(6), &q(3)]);
    let Ok(Operation::Forget(all)) = request else { panic!("{request:?}") };
    assert_eq!(all, [(5, 1), (6, 3)]);
    let lying = parsed(op::BATCH_FORGET, &[&w(u32::MAX), &w(0), &q(5), &q(1)]);
    assert_eq!(lying.err(), Some(Malformed));
}

#[test]
fn release_names_an_owner_only_for_flock() {
    for (flags, owner) in [(0, 0), (abi::RELEASE_FLOCK_UNLOCK, 55), (1, 0)] {
        let request = parsed(op::RELEASE, &[&q(7), &w(0), &w(flags), &q(55)]);
        let Ok(Operation::File(FileOp::Release { fh: 7, flock_owner })) = request else {
            panic!("{request:?}")
        };
        assert_eq!(flock_owner, owner);
    }
}

#[test]
fn what_is_not_served_is_said_so() {
    for opcode in [3000, 37, 40, 47, 50] {
        assert!(matches!(parsed(opcode, &[&[0; 64]]), Ok(Operation::Unknown)));
    }
    assert!(parsed(op::LOOKUP, &[b"no end"]).is_err());
    assert!(parsed(op::READ, &[&[0; 4]]).is_err());
}
