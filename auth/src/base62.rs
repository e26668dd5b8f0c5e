//! Fixed-width base62 over `0-9A-Za-z`, big-endian: one canonical spelling
//! per value. No allocation on the way in.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The value of one digit.
fn value_of(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'Z' => Some(digit - b'A' + 10),
        b'a'..=b'z' => Some(digit - b'a' + 36),
        _ => None,
    }
}

/// Appends exactly `width` digits of the number in `bytes` (big-endian),
/// padded with `0`. `width` must be enough for every value of that many bytes.
pub(crate) fn encode<const N: usize>(mut bytes: [u8; N], width: usize, out: &mut String) {
    let mut digits = zeroize::Zeroizing::new(vec![b'0'; width]);
    for digit in digits.iter_mut().rev() {
        let mut rest: u32 = 0;
        for byte in &mut bytes {
            let part = (rest << 8) | u32::from(*byte);
            // Both fit: part < 62 * 256.
            *byte = u8::try_from(part / 62).unwrap_or(u8::MAX);
            rest = part % 62;
        }
        *digit = usize::try_from(rest).ok().and_then(|i| ALPHABET.get(i)).copied().unwrap_or(b'0');
    }
    debug_assert!(bytes.iter().all(|byte| *byte == 0), "the width is too small");
    out.extend(digits.iter().map(|digit| char::from(*digit)));
    zeroize::Zeroize::zeroize(&mut bytes);
}

/// Digits taken in one step: 62^5 < 2^32.
const GROUP: usize = 5;

/// The number that the digits spell, in `N` big-endian bytes, a multiple of
/// four; `None` for a foreign character or a value that does not fit.
///
/// In limbs of 32 bits: every call that shows a token pays for this.
pub(crate) fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    const { assert!(N.is_multiple_of(4)) };
    let mut bytes = [0_u8; N];
    for group in digits.chunks(GROUP) {
        let (mut carry, mut scale) = (0_u64, 1_u64);
        for digit in group {
            carry = carry * 62 + u64::from(value_of(*digit)?);
            scale *= 62;
        }
        for limb in bytes.rchunks_exact_mut(4) {
            let (value, _) = limb.split_first_chunk::<4>()?;
            // Both fit: (2^32 - 1) * 62^5 + 2^32 < 2^64.
            let part = u64::from(u32::from_be_bytes(*value)) * scale + carry;
            limb.copy_from_slice(part.to_be_bytes().split_at(4).1);
            carry = part >> 32;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let text = |bytes: [u8; 4]| {
            let mut out = String::new();
            encode(bytes, 6, &mut out);
            out
        };
        assert_eq!(text([0; 4]), "000000");
        assert_eq!(text([0, 0, 0, 61]), "00000z");
        assert_eq!(text([0, 0, 0, 62]), "000010");
        assert_eq!(text([255; 4]), "4gfFC3");
        assert_eq!(decode::<4>(text([255; 4]).as_bytes()), Some([255; 4]));
        assert_eq!(decode::<4>(b"zzzzzz"), None);
        // One more than the largest.
        assert_eq!(decode::<4>(b"4gfFC4"), None);
        let all = [255; 32];
        let mut digits = String::new();
        encode(all, 43, &mut digits);
        assert_eq!(decode::<32>(digits.as_bytes()), Some(all));
        assert_eq!(decode::<4>(b"00000-"), None);
    }
}
