//! Sizes as people type them: bytes, or `64M`, `4MiB`, `10G`, or `5%`.

use crate::{Code, Error, Result};

/// A size on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A share of something the program knows (a disk, memory), 1..=100.
    Percent(u8),
}

/// `K`, `M`, `G`, `T` are powers of 1024, with or without `iB` or `B`.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse(text: &str) -> Result<Size> {
    let bad = || {
        Error::new(
            Code::ArgumentInvalid,
            format!("`{}` is not a size: bytes, 64M, 4MiB, 10G or 5%", text.escape_debug()),
        )
    };
    if let Some(number) = text.strip_suffix('%') {
        let percent: u8 = number.parse().map_err(|_| bad())?;
        return if (1..=100).contains(&percent) { Ok(Size::Percent(percent)) } else { Err(bad()) };
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let shift = match unit {
        "" | "B" => 0,
        "K" | "k" | "KB" | "KiB" => 10,
        "M" | "MB" | "MiB" => 20,
        "G" | "GB" | "GiB" => 30,
        "T" | "TB" | "TiB" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).map(Size::Bytes).ok_or_else(bad)
}

/// Like [`parse`], but bytes only.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse_bytes(text: &str) -> Result<u64> {
    match parse(text)? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Percent(_) => {
            Err(Error::new(Code::ArgumentInvalid, "a share in percent makes no sense here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_good_and_bad() {
        assert_eq!(parse("0").unwrap(), Size::Bytes(0));
        assert_eq!(parse("4MiB").unwrap(), Size::Bytes(4 << 20));
        assert_eq!(parse("10G").unwrap(), Size::Bytes(10 << 30));
        assert_eq!(parse("5%").unwrap(), Size::Percent(5));
        for bad in ["", "M", "-1", "1.5G", "0%", "101%", "99999999999T", "1 M", "1X"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_bytes("5%").is_err());
    }
}
