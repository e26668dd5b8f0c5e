//! Lists against tables from acl(5) and against a reference written entry by
//! entry from the draft's text.

use std::collections::HashSet;

use flexfs_proto::v1;
use proptest::prelude::*;

use super::*;

/// Owner and group of the files here.
const OWNER: (u32, u32) = (1, 2);

fn who(uid: u32, gid: u32, groups: &[u32]) -> Who {
    let caller = v1::Caller { uid, gid, groups: groups.to_vec(), umask: 0 };
    Who::of(Some(&caller), &v1::Flags::default()).unwrap()
}

/// An entry as the tests write it: tag, id, permissions.
type Raw = (u16, u32, u32);

fn value(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, id, perm) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(u16::try_from(*perm).unwrap().to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl(entries: &[Raw]) -> Acl {
    Acl::parse(&value(entries)).unwrap().unwrap()
}

/// u::rwx, u:10:rw-, u:11:---, g::r-x, g:20:rw-, g:21:-w-, m::rw-, o::r--
fn sample() -> Vec<Raw> {
    vec![
        (USER_OBJ, NO_ID, 7),
        (USER, 10, 6),
        (USER, 11, 0),
        (GROUP_OBJ, NO_ID, 5),
        (GROUP, 20, 6),
        (GROUP, 21, 2),
        (MASK, NO_ID, 6),
        (OTHER, NO_ID, 4),
    ]
}

#[test]
fn the_first_class_that_fits_decides_and_the_mask_bounds_all_but_owner_and_others() {
    let acl = acl(&sample());
    let table: [(Who, &[u32]); 12] = [
        // All eight wants in the order of their bits: which are granted?
        (who(1, 99, &[]), &[0, 1, 2, 3, 4, 5, 6, 7]),
        (who(10, 99, &[]), &[0, 2, 4, 6]),
        (who(11, 99, &[]), &[0]),
        (who(11, 2, &[20]), &[0]),
        (who(50, 2, &[]), &[0, 4]),
        (who(50, 99, &[2]), &[0, 4]),
        (who(50, 20, &[]), &[0, 2, 4, 6]),
        (who(50, 99, &[21]), &[0, 2]),
        // No entry of the groups has both read and write: they do not add up.
        (who(50, 2, &[21]), &[0, 2, 4]),
        (who(50, 2, &[21, 20]), &[0, 2, 4, 6]),
        (who(50, 99, &[]), &[0, 4]),
        (who(50, 99, &[98]), &[0, 4]),
    ];
    for (who, granted) in table {
        let found: Vec<u32> = (0..8).filter(|want| acl.permits(OWNER, &who, *want)).collect();
        assert_eq!(found, granted, "{who:?}");
    }
}

#[test]
fn an_empty_mask_shuts_everybody_out_but_owner_and_others() {
    let mut entries = sample();
    entries[6].2 = 0;
    let acl = acl(&entries);
    assert!(acl.permits(OWNER, &who(1, 9, &[]), R | W | X));
    assert!(!acl.permits(OWNER, &who(10, 9, &[]), R), "others have it, the named user has not");
    assert!(!acl.permits(OWNER, &who(50, 20, &[]), R));
    assert!(acl.permits(OWNER, &who(50, 9, &[]), R));
}

#[test]
fn modes_and_lists_say_the_same() {
    let full = acl(&sample());
    assert_eq!(full.mode_bits(), 0o764, "the group's bits are the mask");
    assert!(!full.is_mode());
    let small = acl(&[(USER_OBJ, NO_ID, 6), (GROUP_OBJ, NO_ID, 4), (OTHER, NO_ID, 0)]);
    assert_eq!((small.mode_bits(), small.is_mode()), (0o640, true));
    // A mask alone is more than a mode: chmod changes it and not the group.
    let masked =
        acl(&[(USER_OBJ, NO_ID, 6), (GROUP_OBJ, NO_ID, 4), (MASK, NO_ID, 7), (OTHER, NO_ID, 0)]);
    assert_eq!((masked.mode_bits(), masked.is_mode()), (0o670, false));
    assert_eq!(masked.clone().with_mode(0o4512).group, 4);
    assert_eq!(masked.with_mode(0o4512).mode_bits(), 0o512);
    assert_eq!(small.with_mode(0o777).mode_bits(), 0o777);
    let changed = full.with_mode(0o606);
    assert_eq!((changed.mode_bits(), changed.group), (0o606, 5));
    assert!(!changed.permits(OWNER, &who(10, 9, &[]), R));
}

#[test]
fn what_is_inherited_is_no_more_than_list_and_mode() {
    let full = acl(&sample());
    assert_eq!(full.clone().inherited(0o666).mode_bits(), 0o664);
    assert_eq!(full.clone().inherited(0o640).mode_bits(), 0o640);
    let inherited = full.inherited(0o600);
    assert_eq!((inherited.mode_bits(), inherited.group), (0o600, 5));
    assert_eq!(inherited.users, [(10, 6), (11, 0)], "the mask bounds them");
    let small = acl(&[(USER_OBJ, NO_ID, 7), (GROUP_OBJ, NO_ID, 5), (OTHER, NO_ID, 0)]);
    assert_eq!(small.inherited(0o666).mode_bits(), 0o640);
}

#[test]
fn forms_that_are_no_list_are_refused() {
    let code = |bytes: &[u8]| Acl::parse(bytes).unwrap_err().code();
    assert_eq!(Acl::parse(b"").unwrap(), None);
    assert_eq!(Acl::parse(&value(&[])).unwrap(), None);
    let good = value(&sample());
    assert_eq!(code(&good[..3]), Code::FsInvalid);
    assert_eq!(code(&good[..good.len() - 1]), Code::FsInvalid);
    assert_eq!(code(&[&[1, 0, 0, 0], &good[4..]].concat()), Code::FsUnsupported);
    let with = |change: fn(&mut Vec<Raw>)| {
        let mut entries = sample();
        change(&mut entries);
        code(&value(&entries))
    };
    let changes: [fn(&mut Vec<Raw>); 13] = [
        |entries| entries.retain(|entry| entry.0 != USER_OBJ),
        |entries| entries.retain(|entry| entry.0 != GROUP_OBJ),
        |entries| entries.retain(|entry| entry.0 != MASK),
        |entries| entries.retain(|entry| entry.0 != OTHER),
        |entries| entries.swap(0, 1),
        |entries| entries.swap(2, 3),
        |entries| entries.swap(6, 7),
        |entries| entries.push((OTHER, NO_ID, 0)),
        |entries| entries.insert(0, (USER_OBJ, NO_ID, 0)),
        |entries| entries.insert(2, (USER, 10, 0)),
        |entries| entries[4].1 = NO_ID,
        |entries| entries[1].2 = 8,
        |entries| entries[1].0 = 0x40,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(with(change), Code::FsInvalid, "change {number}");
    }
    let stored = Acl::stored(&good[..20]).unwrap_err();
    assert_eq!(stored.code(), Code::EngineFailed);
    assert_eq!(Acl::stored(b"").unwrap_err().code(), Code::EngineFailed);
}

#[test]
fn as_many_entries_as_linux_passes_are_taken() {
    let of = |count: u32| {
        let named = (0..count - 4).map(|id| (USER, id, 1));
        let mut entries = vec![(USER_OBJ, NO_ID, 7)];
        entries.extend(named);
        entries.extend([(GROUP_OBJ, NO_ID, 0), (MASK, NO_ID, 7), (OTHER, NO_ID, 0)]);
        value(&entries)
    };
    let most = of(u32::try_from(limits::ACL_ENTRIES_MAX).unwrap());
    assert!(most.len() <= 4096);
    assert_eq!(Acl::parse(&most).unwrap().unwrap().encode(), most);
    let more = of(u32::try_from(limits::ACL_ENTRIES_MAX).unwrap() + 1);
    assert_eq!(Acl::parse(&more).unwrap_err().code(), Code::FsRange);
}

/// Section 23.1.5 of the draft, on the entries as they are.
fn reference(entries: &[Raw], who: &Who, want: u32) -> bool {
    let of = |tag: u16| entries.iter().filter(move |entry| entry.0 == tag);
    let mask = of(MASK).next().map_or(7, |entry| entry.2);
    if who.uid == OWNER.0 {
        return of(USER_OBJ).all(|entry| entry.2 & want == want);
    }
    for (_, id, perm) in of(USER) {
        if *id == who.uid {
            return perm & want == want && mask & want == want;
        }
    }
    let mut matched = false;
    for (tag, id, perm) in of(GROUP_OBJ).chain(of(GROUP)) {
        let group = if *tag == GROUP_OBJ { OWNER.1 } else { *id };
        if who.in_group(group) {
            matched = true;
            if perm & want == want && mask & want == want {
                return true;
            }
        }
    }
    !matched && of(OTHER).all(|entry| entry.2 & want == want)
}

/// Linux's posix_acl_valid, and no id twice.
fn is_valid(entries: &[Raw]) -> bool {
    let (mut state, mut needs_mask) = (USER_OBJ, false);
    let mut ids = HashSet::new();
    for (tag, id, perm) in entries {
        let named = matches!(*tag, USER | GROUP);
        if *perm > 7 || (named && (*id == NO_ID || !ids.insert((*tag, *id)))) {
            return false;
        }
        needs_mask |= named;
        state = match (*tag, state) {
            (USER_OBJ, USER_OBJ) | (USER, USER) => USER,
            (GROUP_OBJ, USER) | (GROUP, GROUP) => GROUP,
            (MASK, GROUP) => OTHER,
            (OTHER, OTHER) => 0,
            (OTHER, GROUP) if !needs_mask => 0,
            _ => return false,
        };
    }
    state == 0
}

fn valid() -> impl Strategy<Value = Vec<Raw>> {
    let ids = || prop::collection::btree_map(0..6_u32, 0..8_u32, 0..5);
    (0..8_u32, ids(), 0..8_u32, ids(), prop::option::of(0..8_u32), 0..8_u32).prop_map(
        |(owner, users, group, groups, mask, other)| {
            let needs_mask = !users.is_empty() || !groups.is_empty();
            let mask = mask.or_else(|| needs_mask.then_some(5));
            let mut entries = vec![(USER_OBJ, NO_ID, owner)];
            entries.extend(users.into_iter().map(|(id, perm)| (USER, id, perm)));
            entries.push((GROUP_OBJ, NO_ID, group));
            entries.extend(groups.into_iter().map(|(id, perm)| (GROUP, id, perm)));
            entries.extend(mask.map(|mask| (MASK, NO_ID, mask)));
            entries.push((OTHER, NO_ID, other));
            entries
        },
    )
}

fn perhaps_valid() -> impl Strategy<Value = Vec<Raw>> {
    let tag = prop_oneof![
        Just(USER_OBJ),
        Just(USER),
        Just(GROUP_OBJ),
        Just(GROUP),
        Just(MASK),
        Just(OTHER),
        Just(0_u16),
    ];
    let id = prop_oneof![6 => 0..4_u32, 1 => Just(NO_ID)];
    prop_oneof![
        prop::collection::vec((tag.clone(), id.clone(), 0..9_u32), 0..8),
        // Good ones, with one entry changed, taken out or twice.
        (valid(), any::<prop::sample::Index>(), 0..3_u8, (tag, id, 0..9_u32)).prop_map(
            |(mut entries, at, what, new)| {
                let at = at.index(entries.len());
                match what {
                    0 => entries[at] = new,
                    1 => entries = [&entries[..at], &entries[at + 1..]].concat(),
                    _ => entries.insert(at, new),
                }
                entries
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decisions_are_those_of_the_draft(
        entries in valid(),
        uid in 0..7_u32,
        gid in 0..7_u32,
        groups in prop::collection::vec(0..7_u32, 0..4),
        want in 0..8_u32,
    ) {
        let who = who(uid, gid, &groups);
        prop_assert_eq!(acl(&entries).permits(OWNER, &who, want), reference(&entries, &who, want));
    }

    #[test]
    fn lists_come_back_as_they_were(entries in valid()) {
        let bytes = value(&entries);
        let parsed = Acl::parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(&parsed.encode()[..], &bytes[..]);
        prop_assert_eq!(Acl::stored(&parsed.encode()).unwrap(), parsed);
    }

    #[test]
    fn what_linux_takes_is_taken_and_nothing_else(entries in perhaps_valid()) {
        if entries.is_empty() {
            return Ok(());
        }
        prop_assert_eq!(Acl::parse(&value(&entries)).is_ok(), is_valid(&entries));
    }

    /// What a mode takes away, nobody has after it; what it is, the list shows.
    #[test]
    fn chmod_and_inheritance_bound_everybody(
        entries in valid(),
        mode in 0..0o1000_u32,
        uid in 0..7_u32,
        gid in 0..7_u32,
    ) {
        let (acl, who) = (acl(&entries), who(uid, gid, &[]));
        let changed = acl.clone().with_mode(mode);
        prop_assert_eq!(changed.mode_bits(), mode);
        let inherited = acl.clone().inherited(mode);
        prop_assert_eq!(inherited.mode_bits(), acl.mode_bits() & mode);
        prop_assert_eq!(inherited.is_mode(), acl.is_mode());
        for want in [R, W, X] {
            let had = acl.permits(OWNER, &who, want);
            prop_assert!(had || !inherited.permits(OWNER, &who, want));
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut with_header = 2_u32.to_le_bytes().to_vec();
        with_header.extend(&bytes);
        for bytes in [bytes, with_header] {
            if let Ok(Some(acl)) = Acl::parse(&bytes) {
                prop_assert_eq!(acl.encode().len(), bytes.len());
            }
        }
    }
}
