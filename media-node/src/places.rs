//! Places for connections, counted in all and for each address, and streams that hold one.
//!
//! Decides whether one more connection may be held. Invariant: a place is taken until the stream
//! that holds it is dropped, whoever reads and writes it then: TLS, HTTP or a WebSocket; memory is
//! bounded by the places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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

impl Places {
    /// `max` places, of which one address may have `per_address_max`.
    pub fn new(max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_address_max, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `address`, if there is one for it.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network_of(address);
        let mut taken = self.taken();
        let own = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.max || own >= self.per_address_max {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        Some(Place { places: Arc::clone(self), address })
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
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// A stream that holds a place as long as it lives.
pub struct Held<S> {
    pub stream: S,
    pub place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
        assert!(places.take(greedy).is_none(), "it has two");
        let third = places.take(other).expect("free");
        assert!(places.take(other).is_none(), "all are taken");
        drop(third);
        assert!(places.take(greedy).is_none(), "it has two");
        drop(first);
        drop(places.take(greedy).expect("given back"));
        drop(second);
        assert!(places.taken().by_address.is_empty(), "an address without a place is forgotten");
        assert_eq!(places.taken().all, 0);
    }
}
