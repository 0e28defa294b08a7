//! Socket addresses between Rust and the kernel. Invariant: IPv4 stays IPv4 (no mapped addresses).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an address of either family, as the kernel reads and writes it.
#[derive(Clone, Copy)]
pub(super) struct RawAddress {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) length: libc::socklen_t,
}

impl RawAddress {
    pub(super) fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain old data; all-zero is a valid value (AF_UNSPEC).
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, length: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    pub(super) fn of(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let value = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                raw.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                // SAFETY: sockaddr_storage is larger than and aligned for every address type.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in>().write(value) };
            }
            SocketAddr::V6(v6) => {
                let value = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                // SAFETY: as above.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in6>().write(value) };
            }
        }
        raw
    }

    /// The address the kernel wrote, if it is IPv4 or IPv6.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: the pointer comes from a live sockaddr_storage.
        unsafe { address_at((&raw const self.storage).cast::<libc::sockaddr>()) }
    }
}

/// Reads an address behind a kernel pointer.
///
/// # Safety
/// `pointer` must point to a complete address of the family it names.
pub(super) unsafe fn address_at(pointer: *const libc::sockaddr) -> Option<SocketAddr> {
    // SAFETY: every address type starts with its family.
    let family = i32::from(unsafe { (*pointer).sa_family });
    if family == libc::AF_INET {
        // SAFETY: the family says that this is a sockaddr_in; it may be unaligned in a list.
        let v4 = unsafe { pointer.cast::<libc::sockaddr_in>().read_unaligned() };
        let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
        return Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))));
    }
    if family == libc::AF_INET6 {
        // SAFETY: the family says that this is a sockaddr_in6.
        let v6 = unsafe { pointer.cast::<libc::sockaddr_in6>().read_unaligned() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        let port = u16::from_be(v6.sin6_port);
        return Some(SocketAddr::V6(SocketAddrV6::new(
            ip,
            port,
            v6.sin6_flowinfo,
            v6.sin6_scope_id,
        )));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        for text in ["192.0.2.7:50000", "[2001:db8::7]:50001"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::of(address).get(), Some(address));
        }
        assert_eq!(RawAddress::empty().get(), None);
    }
}
