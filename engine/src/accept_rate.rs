//! How many connections one address may open: a token bucket per address, or per /64 of IPv6.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::time::Time;

/// Addresses remembered at most. Beyond it, those whose bucket is full again are forgotten; if
/// none is, unknown addresses share one bucket.
const ADDRESSES_MAX: usize = 64 * 1024;

struct Bucket {
    /// Tokens × 1e9, so that a nanosecond's worth of any rate is a whole number.
    tokens: u64,
    at: Time,
}

pub(crate) struct AcceptRate {
    per_second: u64,
    full: u64,
    // std's hash: the peer picks the key.
    buckets: HashMap<IpAddr, Bucket>,
    shared: Bucket,
}

/// What a peer cannot change at will: an IPv4 address, also one that is written as IPv6 (a socket
/// for both has those), or the network of an IPv6 address, of which a host has 2^64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

const TOKEN: u64 = 1_000_000_000;

impl AcceptRate {
    /// `per_second` = 0: no limit.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let full = u64::from(burst.max(1)) * TOKEN;
        let shared = Bucket {
            tokens: full,
            at: Time::ZERO,
        };
        Self {
            per_second: u64::from(per_second),
            full,
            buckets: HashMap::new(),
            shared,
        }
    }

    /// Whether a connection from `address` may be kept.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Time) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let address = source(address);
        let (rate, full) = (self.per_second, self.full);
        if self.buckets.len() >= ADDRESSES_MAX && !self.buckets.contains_key(&address) {
            self.buckets
                .retain(|_, bucket| bucket.refilled(now, rate, full) < full);
        }
        let bucket = if self.buckets.len() < ADDRESSES_MAX || self.buckets.contains_key(&address) {
            self.buckets.entry(address).or_insert(Bucket {
                tokens: full,
                at: now,
            })
        } else {
            &mut self.shared
        };
        bucket.tokens = bucket.refilled(now, rate, full);
        bucket.at = now;
        let admitted = bucket.tokens >= TOKEN;
        if admitted {
            bucket.tokens -= TOKEN;
        }
        admitted
    }
}

impl Bucket {
    fn refilled(&self, now: Time, per_second: u64, full: u64) -> u64 {
        let nanos = now.as_nanos().saturating_sub(self.at.as_nanos());
        self.tokens
            .saturating_add(nanos.saturating_mul(per_second))
            .min(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_then_the_rate_holds_for_each_address_alone() {
        let mut rate = AcceptRate::new(10, 3);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Time::from_nanos(5);
        let admitted = |rate: &mut AcceptRate, address, now| {
            (0..100).filter(|_| rate.admit(address, now)).count()
        };
        assert_eq!(admitted(&mut rate, a, start), 3);
        assert_eq!(admitted(&mut rate, b, start), 3);
        let later = start + Duration::from_millis(200);
        assert_eq!(admitted(&mut rate, a, later), 2);
        assert_eq!(admitted(&mut rate, a, later + Duration::from_secs(60)), 3);
        assert!((0..1000).all(|_| AcceptRate::new(0, 0).admit(a, start)));
    }

    #[test]
    fn a_network_of_ipv6_has_one_bucket_and_an_ipv4_address_its_own_however_written() {
        let mut rate = AcceptRate::new(1, 2);
        let now = Time::from_nanos(1);
        let mut admitted = |address: &str| rate.admit(address.parse().unwrap(), now);
        assert!(admitted("2001:db8:0:1::1") && admitted("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert!(!admitted("2001:db8:0:1::2"));
        assert!(admitted("2001:db8:0:2::1"));
        assert!(admitted("::ffff:10.0.0.1") && admitted("10.0.0.1"));
        assert!(!admitted("10.0.0.1") && !admitted("::ffff:10.0.0.1"));
        assert!(admitted("::ffff:10.0.0.2"));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_without_end() {
        let mut rate = AcceptRate::new(1, 1);
        let now = Time::from_nanos(1);
        for n in 0..(ADDRESSES_MAX as u32 + 1000) {
            rate.admit(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(rate.buckets.len(), ADDRESSES_MAX);
        let later = now + Duration::from_secs(2);
        assert!(rate.admit(IpAddr::from([255, 255, 255, 255]), later));
        assert!(rate.buckets.len() < ADDRESSES_MAX);
    }
}
