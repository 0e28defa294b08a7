//! Limits on what strangers may cost us: a token bucket per client address.
//!
//! Decides whether one more unauthenticated request from an address is served. Requests with a
//! genuine token are never charged: a ministry behind one address must be able to join, whoever
//! else sits behind it. Pure: time is an argument.
//! Invariant: memory is bounded by [`ADDRESSES_MAX`], whatever addresses come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use places::network_of;

/// Addresses remembered at once, about 6 MiB. Forgetting one gives it a full bucket again, which
/// is all that a flood from many addresses gains.
pub const ADDRESSES_MAX: usize = 65_536;

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

/// Token buckets by address, least recently seen forgotten first (in two generations, so that
/// each step is constant work).
pub struct AddressLimits {
    rate_per_s: f64,
    burst: f64,
    generation_max: usize,
    young: HashMap<IpAddr, Bucket>,
    old: HashMap<IpAddr, Bucket>,
}

impl AddressLimits {
    /// Buckets of `burst` requests that fill at `rate_per_s`.
    #[must_use]
    pub fn new(rate_per_s: u32, burst: u32) -> Self {
        Self::bounded(rate_per_s, burst, ADDRESSES_MAX)
    }

    fn bounded(rate_per_s: u32, burst: u32, addresses_max: usize) -> Self {
        Self {
            rate_per_s: f64::from(rate_per_s),
            burst: f64::from(burst),
            generation_max: (addresses_max / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Takes one request from the address's bucket; false when it is empty.
    pub fn charge(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = network_of(address);
        let known = self.young.get(&address).or_else(|| self.old.get(&address)).copied();
        let mut bucket = known.unwrap_or(Bucket { tokens: self.burst, filled_at: now });
        let waited = now.saturating_duration_since(bucket.filled_at).min(Duration::from_secs(3600));
        bucket.tokens = (bucket.tokens + waited.as_secs_f64() * self.rate_per_s).min(self.burst);
        bucket.filled_at = now;
        let served = bucket.tokens >= 1.0;
        if served {
            bucket.tokens -= 1.0;
        }
        if self.young.len() >= self.generation_max && !self.young.contains_key(&address) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(address, bucket);
        served
    }

    /// Addresses remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

/// The client's address: the connection's, or, behind `trusted_hops` proxies that each append the
/// address they saw, the entry that the outermost of them wrote.
#[must_use]
pub fn client_address(peer: IpAddr, forwarded_for: Option<&str>, trusted_hops: u8) -> IpAddr {
    let entry = match (trusted_hops.checked_sub(1), forwarded_for) {
        (Some(from_right), Some(list)) => list.rsplit(',').nth(usize::from(from_right)),
        _ => None,
    };
    entry.and_then(|entry| entry.trim().parse().ok()).unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_burst_is_served_then_the_rate() {
        let mut limits = AddressLimits::new(10, 5);
        let start = Instant::now();
        let served = (0..8).filter(|_| limits.charge(ip("198.18.0.1"), start)).count();
        assert_eq!(served, 5);
        assert!(limits.charge(ip("198.18.0.2"), start), "another address has its own bucket");
        let later = start + Duration::from_millis(200);
        let served = (0..8).filter(|_| limits.charge(ip("198.18.0.1"), later)).count();
        assert_eq!(served, 2);
    }

    #[test]
    fn one_ipv6_subscriber_is_one() {
        let mut limits = AddressLimits::new(1, 1);
        let now = Instant::now();
        assert!(limits.charge(ip("2001:db8::1"), now));
        assert!(!limits.charge(ip("2001:db8::2"), now));
        assert!(limits.charge(ip("2001:db8:0:1::1"), now));
        assert!(limits.charge(ip("::ffff:198.18.0.1"), now));
        assert!(!limits.charge(ip("198.18.0.1"), now));
    }

    #[test]
    fn memory_is_bounded_and_the_recent_are_remembered() {
        let mut limits = AddressLimits::bounded(1, 1, 64);
        let now = Instant::now();
        let busy = ip("198.18.255.1");
        assert!(limits.charge(busy, now));
        for index in 0..10_000_u32 {
            limits.charge(IpAddr::V4((0xC612_0000 + index).into()), now);
            if index % 16 == 0 {
                assert!(!limits.charge(busy, now), "forgotten after {index}");
            }
            assert!(limits.len() <= 64);
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_as_far_as_configured() {
        let (peer, list) = (ip("198.18.0.9"), Some("203.0.113.7, 198.18.0.1, 198.18.0.2"));
        assert_eq!(client_address(peer, list, 0), peer);
        assert_eq!(client_address(peer, list, 1), ip("198.18.0.2"));
        assert_eq!(client_address(peer, list, 2), ip("198.18.0.1"));
        assert_eq!(client_address(peer, list, 9), peer);
        assert_eq!(client_address(peer, Some("unknown"), 1), peer);
    }
}
