use bytes::Bytes;
use flexfs_common::Code;
use flexfs_common::ids::ObjectId;
use proptest::prelude::*;

use super::*;

const OBJECT: ObjectId = ObjectId([7; 16]);

fn decode(stored: &[u8], plain_len: u32) -> flexfs_common::Result<Bytes> {
    ObjectHead::decode_object(OBJECT, Bytes::copy_from_slice(stored), plain_len)
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

/// Runs of one byte and stretches of noise, over up to four frames.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        (any::<u8>(), 0..FRAME_LEN).prop_map(|(byte, len)| vec![byte; len]),
        prop::collection::vec(any::<u8>(), 0..3000),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_in_comes_out(plain in contents(), codec in codecs()) {
        let len = u32::try_from(plain.len()).unwrap();
        let stored = encode(&plain, codec).unwrap();
        prop_assert!(stored.len() <= stored_max(len));
        prop_assert_eq!(decode(&stored, len).unwrap(), &plain);
        prop_assert_eq!(decode(&stored, len + 1).unwrap_err().code(), Code::BlockCorrupt);
    }

    #[test]
    fn any_range_of_frames_decodes_alone(
        plain in contents(), codec in codecs(), a in any::<prop::sample::Index>(),
        b in any::<prop::sample::Index>(),
    ) {
        prop_assume!(!plain.is_empty());
        let stored = encode(&plain, codec).unwrap();
        let len = u32::try_from(plain.len()).unwrap();
        let head = ObjectHead::parse(OBJECT, &stored[..head_len(len)], len).unwrap();
        let count = head.frames().len();
        let (first, end) = (a.index(count), b.index(count) + 1);
        prop_assume!(first < end);
        let range = head.stored_range(first..end).unwrap();
        let part = stored.slice(range.start as usize..range.end as usize);
        let frames = head.decode_frames(first..end, part.clone()).unwrap().concat();
        prop_assert_eq!(&frames[..], &plain[first * FRAME_LEN..(end * FRAME_LEN).min(plain.len())]);
        let short = part.slice(..part.len() - 1);
        prop_assert!(head.decode_frames(first..end, short).is_err());
    }

    #[test]
    fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..300), len in any::<u32>()) {
        prop_assert!(decode(&junk, len).is_err());
    }

    #[test]
    fn junk_behind_a_good_beginning_never_panics(
        mut junk in prop::collection::vec(any::<u8>(), HEADER_LEN..300), len in 0_u32..200_000,
    ) {
        junk[..4].copy_from_slice(&MAGIC);
        junk[4..12].copy_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
        junk[12..16].copy_from_slice(&limits::FRAME_SIZE.to_le_bytes());
        junk[16..20].copy_from_slice(&len.to_le_bytes());
        prop_assert!(decode(&junk, len).is_err());
    }
}

fn sample(codec: Codec) -> (Vec<u8>, Bytes) {
    let mut plain = vec![b'a'; FRAME_LEN];
    plain.extend((0..700_u32).flat_map(u32::to_le_bytes));
    let stored = encode(&plain, codec).unwrap();
    (plain, stored)
}

#[test]
fn every_flipped_bit_is_detected() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        let (plain, stored) = sample(codec);
        let len = u32::try_from(plain.len()).unwrap();
        for at in 0..stored.len() {
            let mut damaged = stored.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let error = decode(&damaged, len).unwrap_err();
            assert_eq!(error.code(), Code::BlockCorrupt, "byte {at}");
            assert!(error.message().contains(&OBJECT.to_string()));
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_detected() {
    let (plain, stored) = sample(Codec::Lz4);
    let len = u32::try_from(plain.len()).unwrap();
    for keep in 0..stored.len() {
        assert!(decode(&stored[..keep], len).is_err(), "cut at {keep}");
    }
    let mut longer = stored.to_vec();
    longer.push(0);
    assert_eq!(decode(&longer, len).unwrap_err().code(), Code::BlockCorrupt);
}

#[test]
fn data_that_does_not_shrink_costs_only_the_table() {
    let mut noise = vec![0; 3 * FRAME_LEN + 5];
    getrandom::fill(&mut noise).unwrap();
    let len = u32::try_from(noise.len()).unwrap();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        assert_eq!(encode(&noise, codec).unwrap().len(), stored_max(len));
    }
    assert!(encode(&vec![1; 4 * FRAME_LEN], Codec::Lz4).unwrap().len() < FRAME_LEN / 8);
}

#[test]
fn another_version_is_told_from_damage() {
    let (plain, stored) = sample(Codec::Lz4);
    let len = u32::try_from(plain.len()).unwrap();
    let mut newer = stored.to_vec();
    newer[4] = 2;
    newer[CRC_AT].fill(0);
    let crc = crc32c::crc32c(&newer[..head_len(len)]);
    newer[CRC_AT].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&newer, len).unwrap_err().code(), Code::FormatUnsupported);
}

#[test]
fn an_object_longer_than_a_block_is_refused() {
    assert!(encode(&vec![0; PLAIN_MAX as usize + 1], Codec::None).is_err());
    assert!(decode(&[], PLAIN_MAX + 1).is_err());
}
