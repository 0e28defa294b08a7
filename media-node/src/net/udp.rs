//! A media socket: bound once, non-blocking, with the address that clients are told.
//!
//! Invariant: `advertised` is what stands in the candidates; the bound address never leaves here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Kernel buffer asked for each way, in bytes. 4 MiB hold 30 ms of 1 Gbit/s, longer than a shard
/// may be away; the kernel cuts it to `net.core.{r,w}mem_max`.
const KERNEL_BUFFER_BYTES: usize = 4 << 20;

/// One UDP socket of a shard.
pub struct UdpSocket {
    socket: Socket,
    advertised: SocketAddr,
    pub(super) gro: bool,
    pub(super) gso: bool,
}

impl UdpSocket {
    /// Binds `bound` and advertises `advertised`, whose port 0 stands for the port that was bound.
    pub fn bind(bound: SocketAddr, advertised: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(bound), Type::DGRAM, Some(Protocol::UDP))?;
        if bound.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // Best effort: a small buffer loses packets under load but does not stop service.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER_BYTES);
        socket.bind(&bound.into())?;
        let local = socket.local_addr()?.as_socket().unwrap_or(bound);
        let mut advertised = advertised;
        if advertised.port() == 0 {
            advertised.set_port(local.port());
        }
        let gro = set_option(socket.as_raw_fd(), libc::UDP_GRO, 1).is_ok();
        // Setting the default segment size to 0 changes nothing but tells whether GSO is known.
        let gso = set_option(socket.as_raw_fd(), libc::UDP_SEGMENT, 0).is_ok();
        Ok(Self { socket, advertised, gro, gso })
    }

    /// The address clients send to.
    pub fn advertised(&self) -> SocketAddr {
        self.advertised
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn set_option(fd: RawFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open; the value is an int, as every UDP option is.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_UDP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
