//! Places for what lasts: connections and WebSockets, counted in all and for each address.
//!
//! Decides whether one more may be held; accepts and closes nothing. For every listener that
//! strangers reach. Invariant: a place is taken until its [`Place`] is dropped, whatever became of
//! the connection meanwhile; memory is bounded by the places.

mod held;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use held::Held;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// This address has as many as one may have.
    AddressFull,
}

/// So many in all, and so many for each address.
#[derive(Debug)]
pub struct Places {
    max: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Addresses with at least one place, as [`network_of`] counts them.
    by_address: HashMap<IpAddr, usize>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl NoPlace {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::AddressFull => "address_full",
        }
    }
}

impl Places {
    /// `max` places, of which one address may have `per_address_max`.
    #[must_use]
    pub fn new(max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_address_max, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for `address`.
    ///
    /// # Errors
    /// When there is none for it.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, NoPlace> {
        let address = network_of(address);
        let mut taken = self.taken();
        let own = taken.by_address.get(&address).copied().unwrap_or_default();
        if own >= self.per_address_max {
            return Err(NoPlace::AddressFull);
        }
        if taken.all >= self.max {
            return Err(NoPlace::Full);
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        Ok(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Entry::Occupied(mut own) = taken.by_address.entry(self.address) {
            if *own.get() > 1 {
                *own.get_mut() -= 1;
            } else {
                own.remove();
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the /64 that one IPv6 subscriber is given.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_cannot_take_all_and_all_cannot_take_more() {
        let places = Places::new(3, 2);
        let (greedy, other) = (ip("2001:db8::1"), ip("198.18.0.1"));
        let first = places.take(greedy).expect("free");
        let second = places.take(ip("2001:db8::2")).expect("free");
        assert_eq!(places.take(greedy).map(drop), Err(NoPlace::AddressFull));
        let third = places.take(other).expect("free");
        assert_eq!(places.take(other).map(drop), Err(NoPlace::Full));
        drop(third);
        assert_eq!(places.take(greedy).map(drop), Err(NoPlace::AddressFull));
        drop(first);
        places.take(greedy).expect("given back");
        drop(second);
        assert!(places.taken().by_address.is_empty(), "an address without a place is forgotten");
        assert_eq!(places.taken().all, 0);
    }
}
