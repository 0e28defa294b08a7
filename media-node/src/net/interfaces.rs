//! The addresses of this machine, for the dev server's candidates. Reads only.

use std::io;
use std::net::IpAddr;
use std::ptr;

use super::addr::address_at;

/// Every usable address of an interface that is up: no link-local, unspecified or multicast ones.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: getifaddrs writes a list that freeifaddrs below releases.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut at = head;
    while !at.is_null() {
        // SAFETY: `at` walks the list getifaddrs built, which is released only after the loop.
        let entry = unsafe { &*at };
        let up = entry.ifa_flags & (libc::IFF_UP as libc::c_uint) != 0;
        if up && !entry.ifa_addr.is_null() {
            // SAFETY: ifa_addr points to a complete address of its family.
            if let Some(address) = unsafe { address_at(entry.ifa_addr) } {
                found.push(address.ip());
            }
        }
        at = entry.ifa_next;
    }
    // SAFETY: `head` came from getifaddrs and is released once.
    unsafe { libc::freeifaddrs(head) };
    found.retain(|ip| usable(*ip));
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_link_local_is_not_usable() {
        let found = local_addresses().unwrap();
        assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
        assert!(!usable("169.254.1.1".parse().unwrap()));
        assert!(!usable("fe80::1".parse().unwrap()));
    }
}
