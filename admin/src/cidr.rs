//! A range of addresses (RFC 4632, RFC 4291 section 2.3): where a token may
//! be used from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use flexfs_common::{Code, Error, Result};

/// `10.0.0.0/8`, `2001:db8::/32`, or one address. Bits beyond the prefix are
/// zero, so that one range has one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Does the address lie in it? IPv4 addresses in IPv6 clothes
    /// (`::ffff:a.b.c.d`) count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.prefix) == self.network
    }

    /// Is every address of `other` in it?
    #[must_use]
    pub fn covers(&self, other: &Cidr) -> bool {
        other.prefix >= self.prefix && self.contains(other.network)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & bits))
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & bits))
        }
    }
}

impl FromStr for Cidr {
    type Err = Error;
    fn from_str(text: &str) -> Result<Cidr> {
        let bad = |why: &str| {
            Error::new(
                Code::ArgumentInvalid,
                format!("`{}` is not an address range: {why}", text.escape_debug()),
            )
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad("like 10.0.0.0/8"))?;
        let network = address.to_canonical();
        if network != address {
            return Err(bad("write IPv4 ranges as IPv4"));
        }
        let prefix = match prefix {
            None => width(network),
            // Digits only: `+8` and ` 8` would parse as numbers, too.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= width(network))
                .ok_or_else(|| bad("the prefix is too long"))?,
            Some(_) => return Err(bad("the prefix is a number")),
        };
        if mask(network, prefix) != network {
            return Err(bad("bits are set beyond the prefix"));
        }
        Ok(Cidr { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_contain_by_prefix() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(cidr("10.0.0.0/8").contains(address("10.255.0.1")));
        assert!(!cidr("10.0.0.0/8").contains(address("11.0.0.1")));
        assert!(cidr("10.0.0.0/8").contains(address("::ffff:10.1.2.3")));
        assert!(cidr("0.0.0.0/0").contains(address("192.0.2.1")));
        assert!(!cidr("0.0.0.0/0").contains(address("2001:db8::1")));
        assert!(cidr("2001:db8::/32").contains(address("2001:db8:1::1")));
        assert!(cidr("192.0.2.7").contains(address("192.0.2.7")));
        assert!(cidr("10.0.0.0/8").covers(&cidr("10.1.0.0/16")));
        assert!(!cidr("10.1.0.0/16").covers(&cidr("10.0.0.0/8")));
        assert!(!cidr("::/0").covers(&cidr("10.0.0.0/8")));
    }

    #[test]
    fn one_range_has_one_spelling() {
        assert_eq!(cidr("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(cidr("::1").to_string(), "::1/128");
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "a/8",
            "10.0/8",
            "::/129",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
