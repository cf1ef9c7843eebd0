//! [`AllowList`]: from which addresses peers may come.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that may connect to a node's listeners. With the mechanism NULL whoever reaches
/// the port can take any name over, so the default is loopback and nothing else. Unix sockets are
/// let in: their files have permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList {
    ranges: Vec<AddressRange>,
}

impl Default for AllowList {
    fn default() -> Self {
        Self {
            ranges: vec![
                AddressRange::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
                AddressRange::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
            ],
        }
    }
}

impl AllowList {
    /// These ranges; loopback only if it is among them.
    pub fn new(ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        Self {
            ranges: ranges.into_iter().collect(),
        }
    }

    /// Whether a peer with this address may connect. An IPv4 address in IPv6 clothes counts as
    /// what it is.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// True if only loopback addresses are on the list: the default.
    pub fn is_loopback(&self) -> bool {
        let loopback = Self::default();
        self.ranges.iter().all(|range| {
            let within = |one: &AddressRange| one.contains(range.address) && one.bits <= range.bits;
            loopback.ranges.iter().any(within)
        })
    }
}

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single one, `192.168.0.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// The addresses whose first `bits` bits are those of `address`; more bits than it has count
    /// as all.
    pub fn new(address: IpAddr, bits: u8) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        Self {
            address,
            bits: bits.min(most),
        }
    }

    /// Whether `address` is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        differs >= u32::from(self.bits)
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let error = || AddressRangeError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most),
            None => Some(most),
        };
        Ok(Self::new(address, bits.ok_or_else(error)?))
    }
}

/// A text is no [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRangeError(String);

impl fmt::Display for AddressRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected ADDRESS or ADDRESS/BITS", self.0)
    }
}

impl std::error::Error for AddressRangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[&str]) -> AllowList {
        AllowList::new(ranges.iter().map(|range| range.parse().unwrap()))
    }

    #[test]
    fn loopback_is_the_default_and_nothing_else() {
        let default = AllowList::default();
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::2", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(
                default.allows(address.parse().unwrap()),
                allowed,
                "{address}"
            );
        }
        assert!(default.is_loopback() && list(&["127.0.0.1", "::1"]).is_loopback());
        assert!(!list(&["127.0.0.1", "10.0.0.0/8"]).is_loopback());
        assert!(!list(&["0.0.0.0/0"]).is_loopback());
    }

    #[test]
    fn ranges_hold_what_their_bits_say() {
        let ranges = list(&["10.1.0.0/16", "fd00::/8", "192.168.0.7"]);
        for (address, allowed) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("fdff::1", true),
            ("fe00::1", false),
            ("192.168.0.7", true),
            ("192.168.0.6", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(
                ranges.allows(address.parse().unwrap()),
                allowed,
                "{address}"
            );
        }
        assert!(list(&["0.0.0.0/0"]).allows("8.8.8.8".parse().unwrap()));
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/x", "host", "::1/129", "1.2.3"] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
    }
}
