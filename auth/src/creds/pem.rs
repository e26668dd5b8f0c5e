//! A certificate as PEM text (RFC 7468).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters of one line (RFC 7468 section 2).
const LINE_LEN: usize = 64;

/// The certificate in its text form, ending with a newline.
pub(super) fn encode_certificate(der: &[u8]) -> String {
    let digits = base64(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && i % LINE_LEN == 0 {
            out.push('\n');
        }
        out.push(digit);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = (group >> (18 - 6 * i)) & 63;
            let digit = usize::try_from(digit).ok().and_then(|d| ALPHABET.get(d)).copied();
            let used = i <= u32::try_from(chunk.len()).unwrap_or(3);
            out.push(if used { char::from(digit.unwrap_or(b'=')) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4648_vectors() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(der in proptest::collection::vec(0_u8.., 1..500)) {
            let back = flexfs_common::tls::certificate_from_pem(&encode_certificate(&der)).unwrap();
            proptest::prop_assert_eq!(back.as_ref(), der);
        }
    }

    #[test]
    fn lines_are_64_long() {
        let text = encode_certificate(&[0xff; 96]);
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [27, 64, 64, 25]);
    }
}
